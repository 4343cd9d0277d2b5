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
        span::BatchInfo,
        waiting::{Digests, Waiters, WaitersOfEach, place},
    },
    metrics::counters::{Counter, Counters},
    outage::Outage,
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
    pub(crate) outage: Arc<Outage>,
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
        let sent = Instant::now();
        let mut info = BatchInfo {
            wait: sent.saturating_duration_since(opened),
            ..BatchInfo::default()
        };
        self.metrics.waited(info.wait);
        // The server may execute a statement for up to one deadline after it received the
        // statement. While queries time out, a late batch is not sent. A connection and its
        // replacement therefore execute at most two statements at the same time.
        if batch.skip_if_late && info.wait > self.deadline / 2 {
            let error = Error::from_kind(ErrorKind::Deadline);
            self.send_error(waiters, &error, info);
            return (digests, BatchOutcome::NotSent, None);
        }
        let deadline = opened + self.deadline;
        let snapshot = self.feed.subscription().and_then(|feed| feed.snapshot());
        let mut outcome = BatchOutcome::Completed;
        // A binding, so that the future is dropped before the next one is created.
        let found = self.find(&digests, sent, deadline, &mut info).await;
        let time = found.is_ok().then_some(info.query);
        match found {
            Ok(results) => self.complete(&digests, waiters, results, snapshot, info),
            // One undecodable row fails the whole query. Each digest is then queried alone, once.
            Err(error) if error.kind() == ErrorKind::Decode && digests.len() > 1 => {
                for (digest, waiters) in digests.iter().zip(waiters) {
                    let alone = SmallVec::from_buf([waiters]);
                    let snapshot = self.feed.subscription().and_then(|feed| feed.snapshot());
                    let sent = Instant::now();
                    let found = self.find(&[*digest], sent, deadline, &mut info).await;
                    match found {
                        Ok(results) => self.complete(&[*digest], alone, results, snapshot, info),
                        Err(error) => self.send_error(alone, &error, info),
                    }
                }
            }
            Err(error) => {
                if error.kind() == ErrorKind::Deadline {
                    outcome = BatchOutcome::TimedOut;
                }
                self.send_error(waiters, &error, info);
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
        info: BatchInfo,
    ) {
        // Most stores return the results in the order of the digests.
        let returned = results.iter().map(LookupResult::digest);
        if digests.iter().copied().eq(returned) {
            for (waiters, result) in waiters.into_iter().zip(results) {
                self.deliver(waiters, result, snapshot, info);
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
                return self.send_error(waiters, &error, info);
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
            if let Some(result) = result {
                self.deliver(waiters, result, snapshot, info);
            } else {
                let error = violation("the store returned no result for a digest");
                self.send(waiters, Err(error), info);
            }
        }
    }

    /// Delivers one result. A live session counts as used, and may be cached.
    fn deliver(
        &self,
        waiters: Waiters<Waiter<L::User>>,
        result: LookupResult<L::User>,
        snapshot: Option<Snapshot>,
        info: BatchInfo,
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
        self.send(waiters, outcome, info);
    }

    /// Queries the store. Records the duration of the query since `sent`.
    async fn find(
        &self,
        digests: &[TokenDigest],
        sent: Instant,
        deadline: Instant,
        info: &mut BatchInfo,
    ) -> Result<Vec<LookupResult<L::User>>, Error> {
        self.metrics.count(Counter::Statements);
        let found = timeout_at(deadline, self.store.find(digests))
            .await
            .unwrap_or_else(|_| Err(Error::from_kind(ErrorKind::Deadline)));
        info.digests = digests.len();
        info.query = sent.elapsed();
        info.retried = match &found {
            Ok(results) => results.first().is_some_and(LookupResult::is_retried),
            Err(error) => error.is_retried(),
        };
        self.metrics.queried(info.query, found.is_err());
        if found.is_ok() {
            self.outage.succeeded();
        }
        found
    }

    fn send_error(&self, of_each: WaitersOfEach<Waiter<L::User>>, error: &Error, info: BatchInfo) {
        for waiters in of_each {
            self.send(waiters, Err(error.clone()), info);
        }
    }

    fn send(&self, waiters: Waiters<Waiter<L::User>>, outcome: Outcome<L::User>, info: BatchInfo) {
        let counter = match &outcome {
            Ok(Some(_)) => Counter::LookupsLive,
            Ok(None) => Counter::LookupsAbsent,
            Err(_) => Counter::LookupsFailed,
        };
        self.metrics.add(counter, waiters.len() as u64);
        let mut waiters = waiters.into_iter();
        let Some(last) = waiters.next_back() else {
            return;
        };
        if waiters.len() == 0 {
            last.deliver(outcome, info);
            return;
        }
        let outcome = outcome.map(|found| found.map(FoundSession::into_shared));
        for waiter in waiters.chain([last]) {
            let outcome = outcome.clone().map(|found| found.map(FoundSession::from));
            waiter.deliver(outcome, info);
        }
    }
}
