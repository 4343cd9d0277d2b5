//! What a service reports: counters, log events, and events for the observer.

use http::HeaderMap;

use crate::{
    error::{Chain, Error},
    metrics::counters::{Counter, Counters},
    outage::Outage,
    service::{EndCause, SessionEventKind, SessionService, TokenRejection, events::EventFields},
    session::{CurrentSession, SessionId, user_agent},
    store::SessionLookup,
};

impl<L: SessionLookup> SessionService<L> {
    /// Returns the request's `User-Agent`, if the application has an observer.
    pub(crate) fn observed_user_agent(&self, headers: &HeaderMap) -> Option<String> {
        self.inner.events.as_ref()?;
        user_agent::of(headers)
    }

    pub(crate) fn observe(&self, kind: SessionEventKind, fields: EventFields<'_>) {
        if let Some(events) = &self.inner.events {
            events.send(kind, fields);
        }
    }

    /// Queues one event for each of these sessions.
    pub(crate) fn observe_ends(
        &self,
        cause: EndCause,
        sessions: &[SessionId],
        fields: &EventFields<'_>,
    ) {
        for session in sessions {
            let fields = EventFields {
                session: Some(*session),
                ..*fields
            };
            self.observe(SessionEventKind::Ended(cause), fields);
        }
    }

    pub(crate) fn observe_rejection(&self, reason: TokenRejection, headers: &HeaderMap) {
        if let Some(events) = &self.inner.events {
            events.rejected(reason, headers);
        }
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.inner.metrics.count(counter);
    }

    pub(super) fn deletion_outage(&self) -> &Outage {
        &self.inner.deletion_outage
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.metrics
    }

    /// Rejects the token of a request before it was looked up.
    pub(super) fn reject(&self, reason: TokenRejection, headers: &HeaderMap) {
        self.count(Counter::Rejected);
        self.report_rejection(reason);
        self.observe_rejection(reason, headers);
    }

    pub(super) fn report_rejection(&self, reason: TokenRejection) {
        let (counter, reason) = match reason {
            TokenRejection::Malformed => (Counter::RejectedMalformed, "malformed"),
            TokenRejection::Ambiguous => (Counter::RejectedAmbiguous, "ambiguous"),
            // A client with an expired session is no security event.
            TokenRejection::NotLive => return,
        };
        self.count(counter);
        if let Some(requests) = self.inner.rejected.count() {
            tracing::warn!(
                target: "tower_user_session",
                event = "token_rejected",
                reason,
                requests,
                "session tokens rejected: the requests are anonymous"
            );
        }
    }

    pub(crate) fn report_failed_sign_out(&self, error: &Error) {
        self.count(Counter::SignOutsFailed);
        if let Some(sign_outs) = self.inner.sign_out_outage.failed() {
            tracing::error!(
                target: "tower_user_session",
                event = "sign_out_failed",
                kind = ?error.kind(),
                outcome = error.outcome(),
                error = %Chain(error),
                sign_outs,
                "sign-out failed: the session may still be valid"
            );
        }
    }

    pub(crate) fn report_sign_out(&self) {
        self.inner.sign_out_outage.succeeded();
    }

    /// Logs that two layers for one user type found different sessions on one request.
    pub(crate) fn report_disagreement(
        &self,
        outer: CurrentSession<L::User>,
        inner: Option<&CurrentSession<L::User>>,
    ) {
        if inner.is_some_and(|inner| inner.id() == outer.id()) {
            return;
        }
        if let Some(requests) = self.inner.disagreeing.count() {
            let user_type = std::any::type_name::<L::User>();
            tracing::error!(
                target: "tower_user_session",
                event = "layers_disagree",
                user_type,
                requests,
                "two LoadUserLayers for one user type found different sessions: \
                 the request keeps that of the inner layer"
            );
        }
    }

    pub(crate) fn report_unavailable(&self, error: &Error) {
        self.count(Counter::Unavailable);
        if let Some(requests) = self.inner.lookup_outage.failed() {
            tracing::error!(
                target: "tower_user_session",
                event = "lookup_failed",
                kind = ?error.kind(),
                error = %Chain(error),
                requests,
                "session lookup failed"
            );
        }
    }
}
