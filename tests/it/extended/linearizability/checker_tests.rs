//! Histories written by hand: the checker rejects each impossible one and accepts each possible
//! one.

use crate::support::history::{
    by_hand::{
        absent, at, began, by, clock, fault, found, late_reading, lookup, of_user, record, revoke,
        rules, rules_within,
    },
    checker::{Rule, recoveries, stale, violations},
    record::{Fault, History, Key, Operation, Outcome, Record},
};

#[test]
fn a_plain_history_is_accepted() {
    assert_eq!(rules(&[]), []);
    assert_eq!(
        rules(&[
            found(120, 121),
            found(130, 220),
            revoke(200, 210, Outcome::Done),
            absent(205, 206),
            absent(211, 212),
            revoke(300, 310, Outcome::Done),
            absent(320, 330),
        ]),
        []
    );
    // Before the sign-in returned, no client could know the token.
    assert_eq!(rules(&[absent(105, 120)]), []);
}

#[test]
fn a_wrong_user_is_a_violation() {
    assert_eq!(
        rules(&[lookup(120, 121, Outcome::Found(8))]),
        [Rule::WrongUser]
    );
}

#[test]
fn a_success_after_a_revocation_is_a_violation() {
    for end in [
        revoke(200, 210, Outcome::Done),
        of_user(Operation::RevokeAll, 200, 210, Outcome::Done),
        of_user(Operation::Disable, 200, 210, Outcome::Done),
        of_user(Operation::DisableSlowly, 200, 210, Outcome::Done),
        of_user(Operation::Suspend, 200, 210, Outcome::Done),
    ] {
        assert_eq!(rules(&[end, found(211, 212)]), [Rule::StaleSuccess]);
        // While the revocation runs, either result is possible, also after the other process was
        // notified.
        assert_eq!(rules(&[end, found(201, 202), found(209, 250)]), []);
        assert_eq!(rules(&[end, absent(201, 202), absent(209, 250)]), []);
    }
    // The order of the records does not matter.
    let end = revoke(200, 210, Outcome::Done);
    assert_eq!(rules(&[found(211, 212), end]), [Rule::StaleSuccess]);
}

#[test]
fn revoke_all_spares_concurrent_and_later_sign_ins() {
    let all = |from, to| of_user(Operation::RevokeAll, from, to, Outcome::Done);
    assert_eq!(rules(&[all(90, 105), found(120, 121)]), []);
    assert_eq!(rules(&[all(90, 105), absent(120, 121)]), []);
    assert_eq!(rules(&[all(50, 60), found(120, 121)]), []);
    assert_eq!(
        rules(&[all(50, 60), absent(120, 121)]),
        [Rule::FalseRejection]
    );
    // A revocation that may still be in flight protects no session.
    let lost = of_user(Operation::RevokeAll, 50, 60, Outcome::Unknown);
    assert_eq!(rules(&[lost, absent(120, 121)]), []);
}

#[test]
fn a_disabled_user_does_not_sign_in() {
    let disable = |from, to| of_user(Operation::Disable, from, to, Outcome::Done);
    assert_eq!(rules(&[disable(50, 60)]), [Rule::DisabledSignIn]);
    assert_eq!(rules(&[disable(90, 105), absent(120, 121)]), []);
}

#[test]
fn a_rejection_without_a_cause_is_a_violation() {
    assert_eq!(rules(&[absent(120, 121)]), [Rule::FalseRejection]);
    let revocation = revoke(200, 210, Outcome::Done);
    assert_eq!(
        rules(&[revocation, absent(120, 199)]),
        [Rule::FalseRejection]
    );
    // An error that reports that nothing happened is no cause.
    let refused = revoke(200, 210, Outcome::Unavailable);
    assert_eq!(rules(&[refused, absent(220, 221)]), [Rule::FalseRejection]);
    // Neither is a change of another user.
    let other = record(Operation::RevokeAll, Key::User(8), 200, 210, Outcome::Done);
    assert_eq!(rules(&[other, absent(220, 221)]), [Rule::FalseRejection]);
}

#[test]
fn an_unknown_outcome_may_be_either_until_it_is_observed() {
    for result in [Outcome::Unknown, Outcome::Abandoned] {
        let lost = revoke(200, 210, result);
        assert_eq!(rules(&[lost, found(220, 221)]), []);
        assert_eq!(rules(&[lost, absent(220, 221)]), []);
        // Late, but once.
        assert_eq!(rules(&[lost, found(220, 221), absent(900, 901)]), []);
        assert_eq!(
            rules(&[lost, absent(220, 221), found(900, 901)]),
            [Rule::Resurrection]
        );
        assert_eq!(rules(&[lost, absent(190, 199)]), [Rule::FalseRejection]);
    }
    // An unavailable result proves nothing.
    let unavailable = lookup(220, 221, Outcome::Unavailable);
    let revocation = revoke(200, 210, Outcome::Done);
    let mut history = History::default();
    history.records.extend([began(), revocation, unavailable]);
    history.faults.push(fault(215, 230));
    assert_eq!(violations(&history), []);
}

#[test]
fn an_ended_session_never_becomes_valid_again() {
    let revocation = revoke(200, 210, Outcome::Done);
    assert_eq!(
        rules(&[revocation, absent(211, 212), found(213, 214)]),
        [Rule::StaleSuccess, Rule::Resurrection]
    );
    // Two concurrent lookups may see different results.
    assert_eq!(rules(&[revocation, absent(201, 204), found(203, 205)]), []);
}

#[test]
fn a_cached_result_of_another_process_may_be_as_old_as_the_bound() {
    for end in [
        revoke(200, 210, Outcome::Done),
        of_user(Operation::RevokeAll, 200, 210, Outcome::Done),
    ] {
        let rules = |lookup| rules_within(450, &[end, lookup]);
        assert_eq!(rules(by(2, found(211, 212))), []);
        assert_eq!(rules(by(2, found(660, 900))), []);
        assert_eq!(rules(by(2, found(661, 662))), [Rule::StaleSuccess]);
        // In the process that revoked it, the session is invalid at once.
        assert_eq!(rules(by(1, found(209, 212))), []);
        assert_eq!(rules(by(1, found(211, 212))), [Rule::StaleSuccess]);
    }
    // A change outside the library counts as another process for all.
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

/// A change without a notification has its own bound, which does not apply to changes with one.
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
fn the_first_revocation_sets_the_bound_and_each_revoking_process_has_none() {
    let first = by(1, revoke(200, 210, Outcome::Done));
    let second = by(2, revoke(300, 310, Outcome::Done));
    let rules = |lookup| rules_within(450, &[second, first, lookup]);
    assert_eq!(rules(by(2, found(305, 306))), []);
    assert_eq!(rules(by(2, found(311, 312))), [Rule::StaleSuccess]);
    assert_eq!(rules(by(3, found(659, 660))), []);
    assert_eq!(rules(by(3, found(661, 662))), [Rule::StaleSuccess]);
    // A second revocation does not extend the bound in the process of the first.
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
fn with_a_cache_an_ended_session_stays_invalid_after_the_bound() {
    let revocation = by(1, revoke(200, 210, Outcome::Done));
    let lost = by(1, revoke(200, 210, Outcome::Unknown));
    let rules = |end, lookup| rules_within(450, &[end, by(3, absent(203, 205)), by(2, lookup)]);
    assert_eq!(rules(revocation, found(211, 212)), []);
    assert_eq!(rules(lost, found(655, 656)), []);
    assert_eq!(rules(lost, found(656, 657)), [Rule::Resurrection]);
    assert_eq!(
        rules(revocation, found(661, 662)),
        [Rule::StaleSuccess, Rule::Resurrection]
    );
    // No result is cached beyond the session's limit, which needs no notification.
    let later = by(1, revoke(300, 310, Outcome::Done));
    assert_eq!(
        rules(later, found(211, 212)),
        [Rule::FalseRejection, Rule::Resurrection]
    );
    // A missing session is never cached.
    assert_eq!(
        rules_within(450, &[absent(120, 121)]),
        [Rule::FalseRejection]
    );
}

#[test]
fn the_database_clock_decides_expiry() {
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
    // The clock passed two seconds somewhere between 1500 and 2500.
    let clock = [reading(1400, 1500, 1), reading(2490, 2500, 2)];
    let with = |lookup| [clock[0], clock[1], lookup];
    assert_eq!(rules(&with(found(1450, 1460))), []);
    assert_eq!(rules(&with(found(2495, 2600))), []);
    assert_eq!(rules(&with(found(2501, 2502))), [Rule::Expired]);
    assert_eq!(rules(&with(absent(1450, 1460))), []);
    assert_eq!(rules(&with(absent(1300, 1390))), [Rule::FalseRejection]);
    assert_eq!(rules(&with(absent(2501, 2502))), []);
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
    // Errors are expected during the next fault and while two faults overlap.
    let two = [fault(1000, 2000), fault(7000, 9000)];
    assert_eq!(rules(&[error(7500)], &two), []);
    let overlapping = [fault(1000, 9000), fault(1500, 2000)];
    assert_eq!(rules(&[error(8000)], &overlapping), []);

    let history = History {
        // The next fault hits the operations in flight.
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
