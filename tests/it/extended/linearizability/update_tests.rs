//! Histories with updates, written by hand: the checker rejects each impossible one and accepts each
//! possible one.

use crate::support::history::{
    by_hand::{by, of_user, read, revoke, rules, rules_within, update},
    checker::Rule,
    record::{Operation, Outcome},
};

#[test]
fn a_replaced_value_is_a_violation() {
    let stale = [Rule::StaleValue];
    let done = |value, from, to| update(value, from, to, Outcome::Done);
    let (one, two) = (done(1, 200, 210), done(2, 300, 310));
    assert_eq!(rules(&[read(0, 120, 130), one, read(1, 211, 212)]), []);
    // While the update runs, either value is possible, also after it was read once.
    for value in [0, 1] {
        assert_eq!(rules(&[one, read(value, 205, 250)]), []);
    }
    assert_eq!(rules(&[one, read(0, 211, 212)]), stale);
    assert_eq!(rules(&[one, two, read(1, 311, 312)]), stale);
    assert_eq!(rules(&[one, two, read(0, 311, 312)]), stale);
    assert_eq!(rules(&[one, two, read(2, 311, 312)]), []);
    // Concurrent updates take effect in either order.
    let concurrent = done(2, 205, 310);
    for value in [1, 2] {
        assert_eq!(rules(&[one, concurrent, read(value, 311, 312)]), []);
    }
    assert_eq!(rules(&[one, concurrent, read(0, 311, 312)]), stale);
    // An update with an unknown outcome may take effect later, or never.
    for result in [Outcome::Unknown, Outcome::Abandoned] {
        let unknown = update(1, 200, 210, result);
        for value in [0, 1] {
            assert_eq!(rules(&[unknown, read(value, 250, 260)]), []);
        }
        assert_eq!(rules(&[unknown, two, read(1, 350, 360)]), []);
        assert_eq!(rules(&[unknown, two, read(0, 350, 360)]), stale);
    }
}

#[test]
fn a_cached_value_is_accepted_within_the_bound_elsewhere() {
    let one = update(1, 200, 210, Outcome::Done);
    let elsewhere = |from| by(2, read(0, from, from + 1));
    assert_eq!(rules_within(100, &[one, elsewhere(300)]), []);
    let stale = [Rule::StaleValue];
    assert_eq!(rules_within(100, &[one, elsewhere(311)]), stale);
    assert_eq!(rules_within(100, &[one, read(0, 211, 212)]), stale);
}

#[test]
fn an_unwritten_value_is_a_violation() {
    let unwritten = [Rule::UnwrittenValue];
    assert_eq!(rules(&[read(1, 120, 121)]), unwritten);
    for result in [Outcome::Unavailable, Outcome::Refused] {
        let update = update(1, 200, 210, result);
        let all = rules(&[
            update,
            revoke(190, 220, Outcome::Unknown),
            read(1, 250, 251),
        ]);
        assert_eq!(all, unwritten);
    }
    let later = update(1, 200, 210, Outcome::Done);
    assert_eq!(rules(&[read(1, 120, 130), later]), unwritten);
    assert_eq!(rules(&[read(1, 120, 200), later]), []);
}

#[test]
fn an_update_after_the_end_is_a_violation() {
    for end in [
        revoke(200, 210, Outcome::Done),
        of_user(Operation::RevokeAll, 200, 210, Outcome::Done),
        of_user(Operation::Suspend, 200, 210, Outcome::Done),
    ] {
        let done = |from| update(1, from, from + 1, Outcome::Done);
        // A process without a cache and a process with a cache have the same bound.
        for bound in [0, 100] {
            assert_eq!(rules_within(bound, &[end, done(205)]), []);
            assert_eq!(
                rules_within(bound, &[end, done(211)]),
                [Rule::UpdatedAfterEnd]
            );
        }
        assert_eq!(rules(&[end, update(1, 205, 206, Outcome::Refused)]), []);
    }
    let refused = update(1, 120, 130, Outcome::Refused);
    assert_eq!(rules(&[refused]), [Rule::FalseRejection]);
}
