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
        queue::{Batch, BatchOutcome},
        waiting::{Digests, Waiters, WaitersOfEach, place},
    },
    metrics::{Counter, Counters},
    session::TokenDigest,
    store::{LookupResult, SessionLookup, lookup::FoundSession},
};

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
    /// Sends one batch and delivers its results. Returns the digests of the query, its outcome, and
    /// its duration if it succeeded.
    pub(crate) async fn run_batch(
        &self,
        batch: Batch<Waiter<L::User>>,
    ) -> (Digests, BatchOutcome, Option<Duration>) {
        let mut waiting = batch.waiting;
        // A digest whose waiters were all cancelled needs no query.
        waiting.retain(|waiters| waiters.iter().any(|waiter| !waiter.result.is_closed()));
        let (digests, waiters) = waiting.into_parts();
        if digests.is_empty() {
            return (digests, BatchOutcome::NotSent, None);
        }
        let opened = Instant::from_std(batch.opened);
        // The server may execute a statement for up to one deadline after it received the
        // statement. While queries time out, a late batch is not sent. A connection and its
        // replacement therefore execute at most two statements at the same time.
        if batch.skip_if_late && opened.elapsed() > self.deadline / 2 {
            send_error(waiters, &Error::from_kind(ErrorKind::Deadline));
            return (digests, BatchOutcome::NotSent, None);
        }
        let deadline = opened + self.deadline;
        let snapshot = self.feed.subscription().and_then(|feed| feed.snapshot());
        let mut outcome = BatchOutcome::Completed;
        let sent = Instant::now();
        // A binding, so that the future is dropped before the next one is created.
        let found = self.find(&digests, deadline).await;
        let time = found.is_ok().then(|| sent.elapsed());
        match found {
            Ok(results) => self.complete(&digests, waiters, results, snapshot),
            // One undecodable row fails the whole query. Each digest is then queried alone, once.
            Err(error) if error.kind() == ErrorKind::Decode && digests.len() > 1 => {
                for (digest, waiters) in digests.iter().zip(waiters) {
                    let alone = SmallVec::from_buf([waiters]);
                    let snapshot = self.feed.subscription().and_then(|feed| feed.snapshot());
                    let found = self.find(&[*digest], deadline).await;
                    match found {
                        Ok(results) => self.complete(&[*digest], alone, results, snapshot),
                        Err(error) => send_error(alone, &error),
                    }
                }
            }
            Err(error) => {
                if error.kind() == ErrorKind::Deadline {
                    outcome = BatchOutcome::TimedOut;
                }
                send_error(waiters, &error);
            }
        }
        (digests, outcome, time)
    }

    /// Delivers each result to the waiters for its digest, and fails waiters without a result.
    fn complete(
        &self,
        digests: &[TokenDigest],
        waiters: WaitersOfEach<Waiter<L::User>>,
        results: Vec<LookupResult<L::User>>,
        snapshot: Option<Snapshot>,
    ) {
        // Most stores return the results in the order of the digests.
        let returned = results.iter().map(LookupResult::digest);
        if digests.iter().copied().eq(returned) {
            for (waiters, result) in waiters.into_iter().zip(results) {
                self.deliver(waiters, result, snapshot);
            }
            return;
        }
        let violation = |context| Error::from_kind(ErrorKind::Protocol).with_message(context);
        let mut matched: SmallVec<[Option<LookupResult<L::User>>; 1]> = SmallVec::new();
        matched.resize_with(digests.len(), || None);
        for result in results {
            let digest = result.digest();
            let Some(place) = place(digests, &digest) else {
                // A result for a digest that was not in the batch may belong to another query. All
                // other results may belong to that query, too. Therefore the whole batch fails.
                let error =
                    violation("the store returned a result for a digest that was not in the batch");
                return send_error(waiters, &error);
            };
            matched[place] = Some(match matched[place] {
                None => result,
                Some(_) => LookupResult::failed(
                    digest,
                    violation("the store returned two results for one digest"),
                ),
            });
        }
        for (waiters, result) in waiters.into_iter().zip(matched) {
            match result {
                Some(result) => self.deliver(waiters, result, snapshot),
                None => send(
                    waiters,
                    Err(violation("the store returned no result for a digest")),
                ),
            }
        }
    }

    /// Delivers one result. A live session counts as used, and may be cached.
    fn deliver(
        &self,
        waiters: Waiters<Waiter<L::User>>,
        result: LookupResult<L::User>,
        snapshot: Option<Snapshot>,
    ) {
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

fn send_error<U>(of_each: WaitersOfEach<Waiter<U>>, error: &Error) {
    for waiters in of_each {
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
