//! The fields of the request's span that the layer records.

use std::sync::Arc;

use tracing::{Span, field};

use crate::store::LiveSession;

/// Selects the fields. Without a selection, the layer does not touch the span.
pub(super) struct SpanFields<U> {
    pub(super) session: bool,
    pub(super) user: Option<Arc<UserId<U>>>,
}

type UserId<U> = dyn Fn(&U) -> String + Send + Sync;

impl<U> SpanFields<U> {
    pub(super) const NONE: Self = Self {
        session: false,
        user: None,
    };

    pub(super) fn record(&self, live: &LiveSession<U>) {
        if !self.session && self.user.is_none() {
            return;
        }
        let span = Span::current();
        if span.is_disabled() {
            return;
        }
        if self.session {
            span.record("session.id", field::display(live.session.id()));
        }
        if let Some(user) = &self.user {
            span.record("enduser.pseudo.id", user(&live.user));
        }
    }
}

impl<U> Clone for SpanFields<U> {
    fn clone(&self) -> Self {
        Self {
            session: self.session,
            user: self.user.clone(),
        }
    }
}
