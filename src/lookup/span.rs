//! The tracing span of a lookup that the cache did not answer.

use std::time::Duration;

use tracing::{Span, debug_span, field};

use crate::{error::Error, store::lookup::FoundSession};

/// The span of one lookup, a child of the span in which the lookup began. It is open until the
/// result is delivered.
///
/// A subscriber rarely enables it. It is boxed, so that a disabled span costs one word.
pub(crate) struct LookupSpan(Option<Box<Span>>);

/// What the spans of one batch have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BatchInfo {
    pub(crate) digests: usize,
    pub(crate) wait: Duration,
    pub(crate) query: Duration,
    /// Whether the store has repeated the query, if the store reports it.
    pub(crate) retried: bool,
}

impl LookupSpan {
    pub(crate) fn new() -> Self {
        let span = debug_span!(
            target: "tower_user_session",
            "session.lookup",
            outcome = field::Empty,
            session.id = field::Empty,
            "error.type" = field::Empty,
            batch_size = field::Empty,
            wait = field::Empty,
            query = field::Empty,
            retried = field::Empty,
        );
        Self((!span.is_disabled()).then(|| Box::new(span)))
    }

    /// Records the outcome, and closes the span.
    pub(crate) fn close<U>(
        self,
        outcome: &Result<Option<FoundSession<U>>, Error>,
        batch: BatchInfo,
    ) {
        let Some(span) = self.0 else {
            return;
        };
        match outcome {
            Ok(Some(found)) => {
                span.record("outcome", "live");
                span.record("session.id", field::display(found.session.id()));
            }
            Ok(None) => {
                span.record("outcome", "absent");
            }
            Err(error) => {
                span.record("outcome", "failed");
                span.record("error.type", field::debug(error.kind()));
            }
        }
        span.record("batch_size", batch.digests);
        span.record("wait", field::debug(batch.wait));
        span.record("query", field::debug(batch.query));
        span.record("retried", batch.retried);
    }
}
