//! Execution of one batch: queries the store, and delivers each result to its waiters.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use crate::{
    error::{Error, ErrorKind},
    feed::{cache::Snapshot, slot::FeedSlot},
    lookup::{
        last_seen::LastSeenWriter,
        pending::{Outcome, Waiter},
        queue::{Batch, BatchOutcome, DigestMap, Waiters},
    },
    metrics::{Counter, Counters},
    session::TokenDigest,
    store::{LookupResult, SessionLookup, lookup::FoundSession},
};

/// The digests of one batch.
pub(crate) type Digests = SmallVec<[TokenDigest; 4]>;

type Waiting<U> = DigestMap<Waiters<Waiter<U>>>;

/// The dependencies of a batch: the store, the cache for its results, and the writer of
/// `last_seen_at`.
pub(crate) struct BatchRunner<L: SessionLookup> {
    pub(crate) store: Arc<L>,
    pub(crate) feed: Arc<FeedSlot<L::User>>,
    pub(crate) last_seen: Arc<LastSeenWriter<L>>,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) deadline: Duration,
}

impl<L: SessionLookup> BatchRunner<L> {
    /// Sends one batch and delivers its results. Returns the digests of the query, and its outcome.
    pub(crate) async fn run_batch(&self, batch: Batch<Waiter<L::User>>) -> (Digests, BatchOutcome) {
        let mut waiting = batch.waiting;
        // A digest whose waiters were all cancelled needs no query.
        waiting.retain(|_, waiters| waiters.iter().any(|waiter| !waiter.result.is_closed()));
        let digests: Digests = waiting.keys().copied().collect();
        if waiting.is_empty() {
            return (digests, BatchOutcome::NotSent);
        }
        let opened = Instant::from_std(batch.opened);
        // The server may execute a statement for up to one deadline after it received the
        // statement. While queries time out, a late batch is not sent. A connection and its
        // replacement therefore execute at most two statements at the same time.
        if batch.skip_if_late && opened.elapsed() > self.deadline / 2 {
            send_error(
                waiting.into_values(),
                &Error::from_kind(ErrorKind::Deadline),
            );
            return (digests, BatchOutcome::NotSent);
        }
        let deadline = opened + self.deadline;
        let snapshot = self.feed.subscription().and_then(|feed| feed.snapshot());
        let mut outcome = BatchOutcome::Completed;
        match self.find(&digests, deadline).await {
            Ok(results) => self.complete(waiting, results, snapshot),
            // One undecodable row fails the whole query. Each digest is then queried alone, once.
            Err(error) if error.kind() == ErrorKind::Decode && digests.len() > 1 => {
                for (digest, waiters) in waiting {
                    let alone = Waiting::from_iter([(digest, waiters)]);
                    let snapshot = self.feed.subscription().and_then(|feed| feed.snapshot());
                    match self.find(&[digest], deadline).await {
                        Ok(results) => self.complete(alone, results, snapshot),
                        Err(error) => send_error(alone.into_values(), &error),
                    }
                }
            }
            Err(error) => {
                if error.kind() == ErrorKind::Deadline {
                    outcome = BatchOutcome::TimedOut;
                }
                send_error(waiting.into_values(), &error);
            }
        }
        (digests, outcome)
    }

    /// Delivers each result to the waiters for its digest, and fails waiters without a result.
    fn complete(
        &self,
        mut waiting: Waiting<L::User>,
        results: Vec<LookupResult<L::User>>,
        snapshot: Option<Snapshot>,
    ) {
        let violation = |context| Error::from_kind(ErrorKind::Protocol).with_message(context);
        let mut matched = Vec::with_capacity(results.len());
        for result in results {
            let digest = result.digest();
            if let Some(waiters) = waiting.remove(&digest) {
                matched.push((waiters, result));
                continue;
            }
            let first = matched
                .iter_mut()
                .find(|(_, first)| first.digest() == digest);
            let Some((_, first)) = first else {
                // A result for a digest that was not in the batch may belong to another query. All
                // other results may belong to that query, too. Therefore the whole batch fails.
                let error =
                    violation("the store returned a result for a digest that was not in the batch");
                send_error(matched.into_iter().map(|(waiters, _)| waiters), &error);
                return send_error(waiting.into_values(), &error);
            };
            let error = violation("the store returned two results for one digest");
            *first = LookupResult::failed(digest, error);
        }
        for (waiters, result) in matched {
            let (digest, may_be_cached) = (result.digest(), result.may_be_cached());
            let mut outcome = result.into_found();
            if let Ok(Some(found)) = &outcome
                && waiters.iter().any(|waiter| waiter.only_token)
            {
                self.last_seen.used(&found.session);
                if let (Some(feed), Some(snapshot)) = (self.feed.subscription(), snapshot)
                    && may_be_cached
                {
                    outcome = outcome.map(|found| {
                        let shared = found?.into_shared();
                        feed.insert(snapshot, digest, &shared);
                        Some(shared.into())
                    });
                }
            }
            send(waiters, outcome);
        }
        let error = violation("the store returned no result for a digest");
        send_error(waiting.into_values(), &error);
    }

    async fn find(
        &self,
        digests: &[TokenDigest],
        deadline: Instant,
    ) -> Result<Vec<LookupResult<L::User>>, Error> {
        self.metrics.add(Counter::Statements, 1);
        timeout_at(deadline, self.store.find(digests))
            .await
            .unwrap_or_else(|_| Err(Error::from_kind(ErrorKind::Deadline)))
    }
}

fn send_error<U>(waiting: impl Iterator<Item = Waiters<Waiter<U>>>, error: &Error) {
    for waiters in waiting {
        send(waiters, Err(error.clone()));
    }
}

fn send<U>(waiters: Waiters<Waiter<U>>, outcome: Outcome<U>) {
    let mut waiters = waiters.into_iter();
    let Some(last) = waiters.next_back() else {
        return;
    };
    if waiters.len() == 0 {
        // The send fails if the waiter was cancelled.
        let _ = last.result.send(outcome);
        return;
    }
    let outcome = outcome.map(|found| found.map(FoundSession::into_shared));
    for waiter in waiters.chain([last]) {
        let outcome = outcome.clone().map(|found| found.map(FoundSession::from));
        let _ = waiter.result.send(outcome);
    }
}
