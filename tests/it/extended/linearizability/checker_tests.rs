//! Histories made by hand: the checker objects to each that cannot have happened, and to no other.

use std::time::{Duration, SystemTime};

use crate::support::history::{
    checker::{Rule, recoveries, stale, violations},
    record::{Fault, History, Key, Operation, Outcome, Record},
};

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The database's clock when the run's stands at zero.
fn clock(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn record(operation: Operation, key: Key, from: u64, to: u64, result: Outcome) -> Record {
    Record {
        process: Some(1),
        operation,
        key,
        invoked: at(from),
        returned: at(to),
        result,
    }
}

/// Session 1 of user 7, from 100 ms on, good for an hour.
fn began() -> Record {
    let result = Outcome::Began {
        user: 7,
        expires: clock(3600),
    };
    record(Operation::SignIn, Key::Session(1), 100, 110, result)
}

fn lookup(from: u64, to: u64, result: Outcome) -> Record {
    record(Operation::Lookup, Key::Session(1), from, to, result)
}

fn found(from: u64, to: u64) -> Record {
    lookup(from, to, Outcome::Found(7))
}

fn nobody(from: u64, to: u64) -> Record {
    lookup(from, to, Outcome::Nobody)
}

fn revoke(from: u64, to: u64, result: Outcome) -> Record {
    record(Operation::Revoke, Key::Session(1), from, to, result)
}

fn of_user(operation: Operation, from: u64, to: u64, result: Outcome) -> Record {
    record(operation, Key::User(7), from, to, result)
}

/// The database's clock, read at the very end, long before the session's hour is over.
fn late_reading() -> Record {
    let now = Outcome::Time(clock(60));
    record(Operation::Clock, Key::Nothing, 60_000, 60_001, now)
}

fn rules(records: &[Record]) -> Vec<Rule> {
    rules_within(0, records)
}

/// Where answers may be so old, in milliseconds.
fn rules_within(bound: u64, records: &[Record]) -> Vec<Rule> {
    let mut history = History {
        bound: at(bound),
        ..History::default()
    };
    history.records.extend([began(), late_reading()]);
    history.records.extend(records);
    // Errors are not the subject.
    history.faults.push(fault(0, 60_000));
    let violations = violations(&history);
    violations.iter().map(|violation| violation.rule).collect()
}

#[test]
fn a_plain_life_is_possible() {
    assert_eq!(rules(&[]), []);
    assert_eq!(
        rules(&[
            found(120, 121),
            found(130, 220),
            revoke(200, 210, Outcome::Done),
            nobody(205, 206),
            nobody(211, 212),
            revoke(300, 310, Outcome::Done),
            nobody(320, 330),
        ]),
        []
    );
    // Before the sign-in had returned, nobody could know the token.
    assert_eq!(rules(&[nobody(105, 120)]), []);
}

#[test]
fn another_user_is_impossible() {
    assert_eq!(
        rules(&[lookup(120, 121, Outcome::Found(8))]),
        [Rule::WrongUser]
    );
}

#[test]
fn a_success_after_a_revocation_is_impossible() {
    for end in [
        revoke(200, 210, Outcome::Done),
        of_user(Operation::RevokeAll, 200, 210, Outcome::Done),
        of_user(Operation::Disable, 200, 210, Outcome::Done),
        of_user(Operation::DisableSlowly, 200, 210, Outcome::Done),
        of_user(Operation::Suspend, 200, 210, Outcome::Done),
    ] {
        assert_eq!(rules(&[end, found(211, 212)]), [Rule::StaleSuccess]);
        // While it runs, either is possible, also after the other process has been told.
        assert_eq!(rules(&[end, found(201, 202), found(209, 250)]), []);
        assert_eq!(rules(&[end, nobody(201, 202), nobody(209, 250)]), []);
    }
    // The order in which records were written down says nothing.
    let end = revoke(200, 210, Outcome::Done);
    assert_eq!(rules(&[found(211, 212), end]), [Rule::StaleSuccess]);
}

#[test]
fn revoking_all_spares_what_begins_beside_or_after_it() {
    let all = |from, to| of_user(Operation::RevokeAll, from, to, Outcome::Done);
    assert_eq!(rules(&[all(90, 105), found(120, 121)]), []);
    assert_eq!(rules(&[all(90, 105), nobody(120, 121)]), []);
    assert_eq!(rules(&[all(50, 60), found(120, 121)]), []);
    assert_eq!(
        rules(&[all(50, 60), nobody(120, 121)]),
        [Rule::FalseRejection]
    );
    // One that may still be on its way spares nothing.
    let lost = of_user(Operation::RevokeAll, 50, 60, Outcome::Unknown);
    assert_eq!(rules(&[lost, nobody(120, 121)]), []);
}

#[test]
fn a_disabled_user_does_not_sign_in() {
    let disable = |from, to| of_user(Operation::Disable, from, to, Outcome::Done);
    assert_eq!(rules(&[disable(50, 60)]), [Rule::DisabledSignIn]);
    assert_eq!(rules(&[disable(90, 105), nobody(120, 121)]), []);
}

#[test]
fn a_rejection_without_a_cause_is_impossible() {
    assert_eq!(rules(&[nobody(120, 121)]), [Rule::FalseRejection]);
    let revocation = revoke(200, 210, Outcome::Done);
    assert_eq!(
        rules(&[revocation, nobody(120, 199)]),
        [Rule::FalseRejection]
    );
    // An error that says that nothing happened is no cause.
    let refused = revoke(200, 210, Outcome::Unavailable);
    assert_eq!(rules(&[refused, nobody(220, 221)]), [Rule::FalseRejection]);
    // Nor is what happened to somebody else.
    let other = record(Operation::RevokeAll, Key::User(8), 200, 210, Outcome::Done);
    assert_eq!(rules(&[other, nobody(220, 221)]), [Rule::FalseRejection]);
}

#[test]
fn what_is_unknown_may_have_happened_or_not_until_it_is_seen() {
    for result in [Outcome::Unknown, Outcome::Abandoned] {
        let lost = revoke(200, 210, result);
        assert_eq!(rules(&[lost, found(220, 221)]), []);
        assert_eq!(rules(&[lost, nobody(220, 221)]), []);
        // Late, but once.
        assert_eq!(rules(&[lost, found(220, 221), nobody(900, 901)]), []);
        assert_eq!(
            rules(&[lost, nobody(220, 221), found(900, 901)]),
            [Rule::Resurrection]
        );
        assert_eq!(rules(&[lost, nobody(190, 199)]), [Rule::FalseRejection]);
    }
    // An unavailable answer says nothing at all.
    let unavailable = lookup(220, 221, Outcome::Unavailable);
    let revocation = revoke(200, 210, Outcome::Done);
    let mut history = History::default();
    history.records.extend([began(), revocation, unavailable]);
    history.faults.push(fault(215, 230));
    assert_eq!(violations(&history), []);
}

#[test]
fn the_dead_do_not_come_back() {
    let revocation = revoke(200, 210, Outcome::Done);
    assert_eq!(
        rules(&[revocation, nobody(211, 212), found(213, 214)]),
        [Rule::StaleSuccess, Rule::Resurrection]
    );
    // Two at once may see different things.
    assert_eq!(rules(&[revocation, nobody(201, 204), found(203, 205)]), []);
}

/// The record, by this process.
fn by(process: usize, record: Record) -> Record {
    Record {
        process: Some(process),
        ..record
    }
}

#[test]
fn elsewhere_a_kept_answer_may_be_as_old_as_the_bound() {
    for end in [
        revoke(200, 210, Outcome::Done),
        of_user(Operation::RevokeAll, 200, 210, Outcome::Done),
    ] {
        let rules = |lookup| rules_within(450, &[end, lookup]);
        assert_eq!(rules(by(2, found(211, 212))), []);
        assert_eq!(rules(by(2, found(660, 900))), []);
        assert_eq!(rules(by(2, found(661, 662))), [Rule::StaleSuccess]);
        // Where it was ended it is over at once.
        assert_eq!(rules(by(1, found(209, 212))), []);
        assert_eq!(rules(by(1, found(211, 212))), [Rule::StaleSuccess]);
    }
    // What happens past the library happens elsewhere for everybody.
    let disable = of_user(Operation::Disable, 200, 210, Outcome::Done);
    let disable = Record {
        process: None,
        ..disable
    };
    for process in [None, Some(1)] {
        let rules = |from| {
            let lookup = Record {
                process,
                ..found(from, from + 1)
            };
            rules_within(450, &[disable, lookup])
        };
        assert_eq!(rules(660), []);
        assert_eq!(rules(661), [Rule::StaleSuccess]);
    }
}

/// What nothing announces has a bound of its own, which does not hold for what is announced.
#[test]
fn an_unannounced_change_has_its_own_bound() {
    let rules = |operation, from| {
        let change = Record {
            process: None,
            ..of_user(operation, 200, 210, Outcome::Done)
        };
        let history = History {
            bound: at(450),
            unannounced: at(1_050),
            records: vec![began(), late_reading(), change, found(from, from + 1)],
            faults: vec![fault(0, 60_000)],
        };
        let violations = violations(&history);
        violations.iter().map(|v| v.rule).collect::<Vec<_>>()
    };
    for operation in [Operation::Disable, Operation::DisableSlowly] {
        assert_eq!(rules(operation, 660), []);
        assert_eq!(rules(operation, 661), [Rule::StaleSuccess]);
    }
    assert_eq!(rules(Operation::Suspend, 1_260), []);
    assert_eq!(rules(Operation::Suspend, 1_261), [Rule::StaleSuccess]);
}

#[test]
fn the_first_who_ended_it_sets_the_bound_and_each_who_did_has_none() {
    let first = by(1, revoke(200, 210, Outcome::Done));
    let second = by(2, revoke(300, 310, Outcome::Done));
    let rules = |lookup| rules_within(450, &[second, first, lookup]);
    assert_eq!(rules(by(2, found(305, 306))), []);
    assert_eq!(rules(by(2, found(311, 312))), [Rule::StaleSuccess]);
    assert_eq!(rules(by(3, found(659, 660))), []);
    assert_eq!(rules(by(3, found(661, 662))), [Rule::StaleSuccess]);
    // A second end does not prolong anything where the first one happened.
    assert_eq!(rules(by(1, found(250, 251))), [Rule::StaleSuccess]);

    let mut history = History::default();
    let lookups = [
        by(2, found(250, 251)),
        by(3, found(659, 660)),
        found(190, 205),
    ];
    history.records.extend([began(), second, first]);
    history.records.extend(lookups);
    let mut stale = stale(&history);
    stale.sort_by_key(|(_, since)| *since);
    assert_eq!(stale, [(lookups[0], at(40)), (lookups[1], at(449))]);
}

#[test]
fn with_kept_answers_the_dead_stay_dead_after_the_bound() {
    let revocation = by(1, revoke(200, 210, Outcome::Done));
    let lost = by(1, revoke(200, 210, Outcome::Unknown));
    let rules = |end, lookup| rules_within(450, &[end, by(3, nobody(203, 205)), by(2, lookup)]);
    assert_eq!(rules(revocation, found(211, 212)), []);
    assert_eq!(rules(lost, found(655, 656)), []);
    assert_eq!(rules(lost, found(656, 657)), [Rule::Resurrection]);
    assert_eq!(
        rules(revocation, found(661, 662)),
        [Rule::StaleSuccess, Rule::Resurrection]
    );
    // No answer is kept longer than the limit, which nobody has to be told of.
    let later = by(1, revoke(300, 310, Outcome::Done));
    assert_eq!(
        rules(later, found(211, 212)),
        [Rule::FalseRejection, Rule::Resurrection]
    );
    // Nor is it ever kept that there is no session.
    assert_eq!(
        rules_within(450, &[nobody(120, 121)]),
        [Rule::FalseRejection]
    );
}

#[test]
fn the_databases_clock_decides_about_the_limit() {
    let reading = |from, to, seconds| {
        let time = Outcome::Time(clock(seconds));
        record(Operation::Clock, Key::Nothing, from, to, time)
    };
    let rules = |records: &[Record]| {
        let result = Outcome::Began {
            user: 7,
            expires: clock(2),
        };
        let began = record(Operation::SignIn, Key::Session(1), 100, 110, result);
        let mut history = History::default();
        history.records.push(began);
        history.records.extend(records);
        let violations = violations(&history);
        violations
            .iter()
            .map(|violation| violation.rule)
            .collect::<Vec<_>>()
    };
    // It went through two seconds somewhere between 1500 and 2500.
    let clock = [reading(1400, 1500, 1), reading(2490, 2500, 2)];
    let with = |lookup| [clock[0], clock[1], lookup];
    assert_eq!(rules(&with(found(1450, 1460))), []);
    assert_eq!(rules(&with(found(2495, 2600))), []);
    assert_eq!(rules(&with(found(2501, 2502))), [Rule::Expired]);
    assert_eq!(rules(&with(nobody(1450, 1460))), []);
    assert_eq!(rules(&with(nobody(1300, 1390))), [Rule::FalseRejection]);
    assert_eq!(rules(&with(nobody(2501, 2502))), []);
}

fn fault(from: u64, to: u64) -> Fault {
    Fault {
        name: "fault",
        from: at(from),
        to: at(to),
    }
}

#[test]
fn errors_end_soon_after_the_fault() {
    let error = |from| lookup(from, from + 1, Outcome::Unavailable);
    let rules = |errors: &[Record], faults: &[Fault]| {
        let history = History {
            records: [&[began()], errors].concat(),
            faults: faults.to_vec(),
            ..History::default()
        };
        let violations = violations(&history);
        violations
            .iter()
            .map(|violation| violation.rule)
            .collect::<Vec<_>>()
    };
    let one = [fault(1000, 2000)];
    assert_eq!(rules(&[error(1500), error(6999)], &one), []);
    assert_eq!(rules(&[error(7001)], &one), [Rule::SlowRecovery]);
    assert_eq!(rules(&[error(500)], &one), [Rule::SlowRecovery]);
    assert_eq!(rules(&[error(500)], &[]), [Rule::SlowRecovery]);
    let abandoned = lookup(8000, 8001, Outcome::Abandoned);
    assert_eq!(rules(&[abandoned], &one), []);
    // In the next fault, and while two overlap, errors are to be expected.
    let two = [fault(1000, 2000), fault(7000, 9000)];
    assert_eq!(rules(&[error(7500)], &two), []);
    let overlapping = [fault(1000, 9000), fault(1500, 2000)];
    assert_eq!(rules(&[error(8000)], &overlapping), []);

    let history = History {
        // The next fault hits what was under way.
        records: vec![
            error(1500),
            error(2300),
            lookup(6990, 7010, Outcome::Unavailable),
            error(8000),
            error(9100),
        ],
        faults: two.to_vec(),
        ..History::default()
    };
    assert_eq!(
        recoveries(&history),
        [("fault", at(300)), ("fault", at(100))]
    );
}
