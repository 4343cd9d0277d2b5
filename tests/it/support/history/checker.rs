//! Checks whether a recorded history is possible.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{
    record::{Fault, History, Key, Operation, Outcome, Record},
    updates::impossible_values,
};

/// This long after the end of a fault, no operation may fail.
pub const RECOVERY: Duration = Duration::from_secs(5);

/// Observations that the guarantees rule out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// 1: a lookup found a user to whom the session does not belong.
    WrongUser,
    /// 2: a lookup that was invoked after a revocation had returned found the user. With a cache,
    /// this applies at once in the revoking process, and after the bound elsewhere.
    StaleSuccess,
    /// 2, for the user: a sign-in that was invoked after the user had been disabled succeeded.
    DisabledSignIn,
    /// 3: a lookup found no user although nothing could have ended the session yet.
    FalseRejection,
    /// 4: a lookup found the user after another one had found none. With a cache, this applies
    /// after the bound, but at once if only the limit can be the reason.
    Resurrection,
    /// 5: a lookup that was invoked when the database's clock had passed the limit found the user.
    Expired,
    /// 8: a lookup found a value that no update wrote.
    UnwrittenValue,
    /// 8: a lookup that was invoked after an update had returned found the value before it. With a
    /// cache, this applies at once in the updating process, and after the bound elsewhere.
    StaleValue,
    /// 8: an update that was invoked after the session had ended succeeded.
    UpdatedAfterEnd,
    /// 7: an error long after the last fault.
    SlowRecovery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub record: Record,
}

/// Returns everything in this history that is impossible. Rule 6 is part of all others: an
/// operation with an unknown outcome may have happened or not, at any time from its invocation on.
pub fn violations(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let sessions = sessions(history, &mut found);
    let clock = Clock::new(&history.records);
    for session in sessions.values() {
        session.check(&clock, &mut found);
    }
    found.extend(slow(history));
    found.sort_by_key(|violation| (violation.rule, violation.record.invoked));
    found
}

/// Returns for each fault how long after its end a failed operation was invoked.
pub fn recoveries(history: &History) -> Vec<(&'static str, Duration)> {
    let calm = calm_times(&history.faults);
    let recovery = |&(name, from, to): &(_, Duration, Duration)| {
        let errors = history.records.iter().filter(|record| {
            record.result.is_error() && record.invoked >= from && record.returned < to
        });
        let last = errors.map(|record| record.invoked).max();
        (
            name,
            last.map_or(Duration::ZERO, |last| last.saturating_sub(from)),
        )
    };
    calm.iter().map(recovery).collect()
}

/// Returns the lookups that found an ended session, and how long ago it had ended.
pub fn stale(history: &History) -> Vec<(Record, Duration)> {
    let mut stale = Vec::new();
    for session in sessions(history, &mut Vec::new()).values() {
        let Some(ended) = session.ended.iter().map(|(at, ..)| *at).min() else {
            continue;
        };
        for lookup in &session.lookups {
            if matches!(lookup.result, Outcome::Found(_)) && lookup.invoked > ended {
                stale.push((*lookup, lookup.invoked.saturating_sub(ended)));
            }
        }
    }
    stale
}

struct Session {
    owner: i64,
    began: Record,
    expires: SystemTime,
    /// When the first operation was invoked that may have ended it.
    may_end: Option<Duration>,
    /// When the operations returned that certainly ended it, the process that invoked each, and how
    /// long after that others may use a cached result.
    ended: Vec<(Duration, Option<usize>, Duration)>,
    /// How long after it may have ended others may use a cached result.
    bound: Duration,
    /// The announced part of `bound`: how long others may use a cached value.
    value_bound: Duration,
    lookups: Vec<Record>,
    updates: Vec<Record>,
}

/// Each session with the operations on it.
fn sessions(history: &History, found: &mut Vec<Violation>) -> HashMap<u32, Session> {
    let mut sessions = HashMap::new();
    let mut of_user: HashMap<i64, Vec<u32>> = HashMap::new();
    for record in &history.records {
        if let (Key::Session(number), Outcome::Began { user, expires }) =
            (record.key, record.result)
        {
            of_user.entry(user).or_default().push(number);
            let session = Session {
                owner: user,
                began: *record,
                expires,
                may_end: None,
                ended: Vec::new(),
                bound: history.bound,
                value_bound: history.bound,
                lookups: Vec::new(),
                updates: Vec::new(),
            };
            let before = sessions.insert(number, session);
            assert!(before.is_none(), "two sessions have the number {number}");
        }
    }
    let nobodys = Vec::new();
    for record in &history.records {
        let concerned = match record.key {
            Key::Session(number) => std::slice::from_ref(&number).to_vec(),
            Key::User(user) => of_user.get(&user).unwrap_or(&nobodys).clone(),
            Key::Nothing => continue,
        };
        for number in concerned {
            if let Some(session) = sessions.get_mut(&number) {
                session.note(record, history, found);
            }
        }
    }
    sessions
}

impl Session {
    fn note(&mut self, record: &Record, history: &History, found: &mut Vec<Violation>) {
        let unannounced = record.operation == Operation::Suspend;
        let bound = if unannounced {
            history.bound.max(history.unannounced)
        } else {
            history.bound
        };
        let done = record.result == Outcome::Done;
        let (may, surely) = match record.operation {
            Operation::Lookup => {
                self.lookups.push(*record);
                return;
            }
            Operation::Update => {
                self.updates.push(*record);
                return;
            }
            Operation::Revoke => (record.result.may_have_happened(), done),
            // A revocation that returned before the session began does not affect it, unless the
            // revocation may still be in flight. One that was invoked before the session began may
            // have missed it.
            Operation::RevokeAll => (
                record.result.may_have_happened()
                    && (!done || record.returned > self.began.invoked),
                done && record.invoked > self.began.returned,
            ),
            Operation::Disable | Operation::DisableSlowly | Operation::Suspend => {
                if done && record.returned < self.began.invoked {
                    found.push(Violation {
                        rule: Rule::DisabledSignIn,
                        record: self.began,
                    });
                }
                (record.result.may_have_happened(), done)
            }
            Operation::SignIn | Operation::Clock => return,
        };
        if may {
            self.bound = self.bound.max(bound);
            self.may_end = Some(
                self.may_end
                    .map_or(record.invoked, |at| at.min(record.invoked)),
            );
        }
        if surely {
            self.ended.push((record.returned, record.process, bound));
        }
    }

    /// The time from which no lookup in this process may find the session.
    fn over_in(&self, process: Option<usize>) -> Option<Duration> {
        let over = self.ended.iter().map(|&(returned, by, bound)| {
            let here = by.is_some() && by == process;
            returned + if here { Duration::ZERO } else { bound }
        });
        over.min()
    }

    /// The time from which no lookup may find the session, because another one found none.
    fn rejected(&self) -> Option<Duration> {
        let rejected = self.lookups.iter().filter(|l| l.result == Outcome::Absent);
        let first = rejected.map(|lookup| lookup.returned).min()?;
        let may_be_ended = self.may_end.is_some_and(|at| at <= first);
        Some(
            first
                + if may_be_ended {
                    self.bound
                } else {
                    Duration::ZERO
                },
        )
    }

    fn check(&self, clock: &Clock, found: &mut Vec<Violation>) {
        let mut add = |rule, record: &Record| {
            found.push(Violation {
                rule,
                record: *record,
            });
        };
        let expired = clock.surely_reached(self.expires);
        let rejected = self.rejected();
        let after = |lookup: &Record, time: Option<Duration>| {
            time.is_some_and(|time| lookup.invoked > time)
        };
        for lookup in &self.lookups {
            match lookup.result {
                Outcome::Found(user) => {
                    if user != self.owner {
                        add(Rule::WrongUser, lookup);
                    }
                    if after(lookup, self.over_in(lookup.process)) {
                        add(Rule::StaleSuccess, lookup);
                    }
                    if after(lookup, rejected) {
                        add(Rule::Resurrection, lookup);
                    }
                    if after(lookup, expired) {
                        add(Rule::Expired, lookup);
                    }
                }
                Outcome::Absent if self.must_be_live(lookup, clock) => {
                    add(Rule::FalseRejection, lookup);
                }
                _ => {}
            }
        }
        // An update reads no cache.
        let ended = self.ended.iter().map(|(returned, ..)| *returned).min();
        for update in &self.updates {
            let is_after = after(update, ended) || after(update, expired);
            if update.result == Outcome::Done && is_after {
                add(Rule::UpdatedAfterEnd, update);
            }
            if update.result == Outcome::Refused && self.must_be_live(update, clock) {
                add(Rule::FalseRejection, update);
            }
        }
        for (rule, lookup) in impossible_values(&self.lookups, &self.updates, self.value_bound) {
            add(rule, &lookup);
        }
    }

    /// Whether nothing can have ended the session before this operation returned.
    fn must_be_live(&self, operation: &Record, clock: &Clock) -> bool {
        let may_be_ended = self.may_end.is_some_and(|time| time <= operation.returned);
        let wholly_after = operation.invoked > self.began.returned;
        let may_be_expired = clock.may_have_reached(self.expires, operation.returned);
        wholly_after && !may_be_ended && !may_be_expired
    }
}

/// Readings of the database's clock.
struct Clock {
    /// Each with the time before and the time after it, in order.
    readings: Vec<(Duration, Duration, SystemTime)>,
}

impl Clock {
    fn new(records: &[Record]) -> Self {
        let readings = records.iter().filter_map(|record| match record.result {
            Outcome::Time(time) => Some((record.invoked, record.returned, time)),
            _ => None,
        });
        let mut readings: Vec<_> = readings.collect();
        readings.sort_unstable();
        Self { readings }
    }

    /// The first time at which the clock was seen to have passed this value.
    fn surely_reached(&self, time: SystemTime) -> Option<Duration> {
        let after = self.readings.iter().filter(|(.., read)| *read >= time);
        after.map(|(_, returned, _)| *returned).min()
    }

    /// Whether the clock may have passed this value at `when`: not if a later reading is below it.
    fn may_have_reached(&self, time: SystemTime, when: Duration) -> bool {
        let later = self
            .readings
            .partition_point(|(invoked, ..)| *invoked < when);
        !self.readings[later..].iter().any(|(.., read)| *read < time)
    }
}

/// From the end of each fault, or of the last of several that overlap, to the beginning of the
/// next.
fn calm_times(faults: &[Fault]) -> Vec<(&'static str, Duration, Duration)> {
    let mut faults: Vec<_> = faults.iter().collect();
    faults.sort_by_key(|fault| fault.from);
    let mut calm = Vec::new();
    let mut end = Duration::ZERO;
    for (at, fault) in faults.iter().enumerate() {
        end = end.max(fault.to);
        let next = faults.get(at + 1).map_or(Duration::MAX, |next| next.from);
        if next > end {
            calm.push((fault.name, end, next));
        }
    }
    calm
}

fn slow(history: &History) -> Vec<Violation> {
    let calm = calm_times(&history.faults);
    let first = history.faults.iter().map(|fault| fault.from).min();
    let errors = history.records.iter().filter(|record| {
        let invoked = record.invoked;
        let before_any = first.is_none_or(|first| record.returned < first);
        let recovered = calm
            .iter()
            .any(|&(_, from, to)| invoked > from + RECOVERY && record.returned < to);
        record.result.is_error() && (before_any || recovered)
    });
    errors
        .map(|record| Violation {
            rule: Rule::SlowRecovery,
            record: *record,
        })
        .collect()
}
