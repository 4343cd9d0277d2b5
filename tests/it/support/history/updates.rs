//! The rules for a session column that processes update and look up.

use std::time::Duration;

use super::{
    checker::Rule,
    record::{Outcome, Record},
};

/// Returns the lookups of one session that found a value that no update wrote, or a value that an
/// update of another value had certainly replaced. A process that has a cache may return a value
/// that another process replaced less than `bound` ago.
pub fn impossible_values(
    lookups: &[Record],
    updates: &[Record],
    bound: Duration,
) -> Vec<(Rule, Record)> {
    let mut found = Vec::new();
    for lookup in lookups {
        if !matches!(lookup.result, Outcome::Found(_)) {
            continue;
        }
        let Some(written) = written_until(lookup, updates) else {
            found.push((Rule::UnwrittenValue, *lookup));
            continue;
        };
        let replaced = updates.iter().any(|update| {
            let here = update.process == lookup.process;
            let bound = if here { Duration::ZERO } else { bound };
            update.result == Outcome::Done
                && update.invoked > written
                && update.returned + bound < lookup.invoked
        });
        if replaced {
            found.push((Rule::StaleValue, *lookup));
        }
    }
    found
}

/// The time until which the value of this lookup may have been written, or `None` if nothing wrote
/// it. Every session has the value zero from its beginning on.
fn written_until(lookup: &Record, updates: &[Record]) -> Option<Duration> {
    if lookup.value == 0 {
        return Some(Duration::ZERO);
    }
    let write = updates.iter().find(|update| {
        update.value == lookup.value
            && update.invoked <= lookup.returned
            && update.result.may_have_happened()
    })?;
    // If the outcome is unknown, the write may take effect at any later time.
    let done = write.result == Outcome::Done;
    Some(if done { write.returned } else { Duration::MAX })
}
