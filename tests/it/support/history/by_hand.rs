//! Records and histories that tests write by hand.

use std::time::{Duration, SystemTime};

use super::{
    checker::{Rule, violations},
    record::{Fault, History, Key, Operation, Outcome, Record},
};

pub fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The database's clock at time zero of the run.
pub fn clock(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

pub fn record(operation: Operation, key: Key, from: u64, to: u64, result: Outcome) -> Record {
    Record {
        process: Some(1),
        operation,
        key,
        invoked: at(from),
        returned: at(to),
        result,
        value: 0,
    }
}

/// Session 1 of user 7, from 100 ms on, valid for an hour.
pub fn began() -> Record {
    let result = Outcome::Began {
        user: 7,
        expires: clock(3600),
    };
    record(Operation::SignIn, Key::Session(1), 100, 110, result)
}

pub fn lookup(from: u64, to: u64, result: Outcome) -> Record {
    record(Operation::Lookup, Key::Session(1), from, to, result)
}

pub fn found(from: u64, to: u64) -> Record {
    lookup(from, to, Outcome::Found(7))
}

pub fn absent(from: u64, to: u64) -> Record {
    lookup(from, to, Outcome::Absent)
}

pub fn revoke(from: u64, to: u64, result: Outcome) -> Record {
    record(Operation::Revoke, Key::Session(1), from, to, result)
}

pub fn of_user(operation: Operation, from: u64, to: u64, result: Outcome) -> Record {
    record(operation, Key::User(7), from, to, result)
}

/// The database's clock, read at the very end, long before the session expires.
pub fn late_reading() -> Record {
    let now = Outcome::Time(clock(60));
    record(Operation::Clock, Key::Nothing, 60_000, 60_001, now)
}

pub fn rules(records: &[Record]) -> Vec<Rule> {
    rules_within(0, records)
}

/// Checks records of processes whose cached results may be this old, in milliseconds.
pub fn rules_within(bound: u64, records: &[Record]) -> Vec<Rule> {
    let mut history = History {
        bound: at(bound),
        ..History::default()
    };
    history.records.extend([began(), late_reading()]);
    history.records.extend(records);
    // Errors are not the subject of these tests.
    history.faults.push(fault(0, 60_000));
    let violations = violations(&history);
    violations.iter().map(|violation| violation.rule).collect()
}

/// The record, made by this process.
pub fn by(process: usize, record: Record) -> Record {
    Record {
        process: Some(process),
        ..record
    }
}

pub fn with_value(value: i64, record: Record) -> Record {
    Record { value, ..record }
}

pub fn update(value: i64, from: u64, to: u64, result: Outcome) -> Record {
    let update = record(Operation::Update, Key::Session(1), from, to, result);
    with_value(value, update)
}

/// A lookup that found this value.
pub fn read(value: i64, from: u64, to: u64) -> Record {
    with_value(value, found(from, to))
}

pub fn fault(from: u64, to: u64) -> Fault {
    Fault {
        name: "fault",
        from: at(from),
        to: at(to),
    }
}
