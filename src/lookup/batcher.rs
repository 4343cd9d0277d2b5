//! Takes lookups in, asks the store about a batch of them, and hands the answers to those who wait.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::{OnceCell, oneshot},
    time::{Instant, Sleep, timeout_at},
};

use crate::{
    deadline::{timer, within},
    error::{Error, ErrorKind},
    feed::{
        self,
        subscription::{Settings, Subscription},
        watchers::Watchers,
    },
    lookup::{
        last_seen::LastSeenWriter,
        pending::{Outcome, PendingLookup, Several},
        queue::{Batch, DigestMap, Fate, Limits, Together, Waiters},
        worker::{BatchQueue, Enqueued, Waiter},
    },
    metrics::{Counter, Counters},
    session::{SessionId, TokenDigest},
    store::{LookupResult, SessionLookup, lookup::FoundSession},
};

/// The digests of one batch.
pub(crate) type Digests = SmallVec<[TokenDigest; 4]>;

type Waiting<U> = DigestMap<Waiters<Waiter<U>>>;

/// Two connections keep two processors busy, and more of them only share the same work.
pub(crate) const BATCHES_IN_FLIGHT: usize = 2;
/// Below this a statement costs more than it saves: measured with 2 to 24.
const MIN_FOR_EXTRA_BATCH: usize = 4;
/// Beyond this the planner takes the statement for one over many rows.
const MAX_DIGESTS_PER_BATCH: usize = 128;
/// Some tenths of a second of work: whoever comes after that waits in vain.
const MAX_WAITERS: usize = 16_384;

pub(crate) struct LookupBatcher<L: SessionLookup> {
    pub(crate) lookup: L,
    pub(crate) counters: Counters,
    pub(crate) deadline: Duration,
    pub(crate) lease: Duration,
    recheck_interval: Option<Duration>,
    pub(crate) last_seen: LastSeenWriter,
    pub(crate) watchers: Arc<Watchers>,
    following: OnceLock<Subscription<L::User>>,
    pub(crate) lookups: BatchQueue<L::User>,
    closed_store: OnceCell<()>,
}

impl<L: SessionLookup> LookupBatcher<L> {
    pub(crate) fn new(
        lookup: L,
        deadline: Duration,
        lease: Duration,
        recheck_interval: Option<Duration>,
    ) -> Self {
        let limits = Limits {
            in_flight: BATCHES_IN_FLIGHT,
            digests: MAX_DIGESTS_PER_BATCH,
            min_for_extra_batch: MIN_FOR_EXTRA_BATCH,
            waiting: MAX_WAITERS,
            max_batch_age: deadline / 4,
        };
        lookup.set_deadline(deadline);
        Self {
            lookup,
            counters: Counters::default(),
            deadline,
            lease,
            recheck_interval,
            last_seen: LastSeenWriter::default(),
            watchers: Arc::default(),
            following: OnceLock::new(),
            lookups: BatchQueue::new(limits),
            closed_store: OnceCell::new(),
        }
    }

    /// Asks whose session this is. The question counts as asked when this returns.
    pub(crate) fn submit(self: &Arc<Self>, digest: TokenDigest) -> PendingLookup<L::User> {
        self.counters.add(Counter::Lookups, 1);
        if let Some(hit) = self
            .following()
            .and_then(|following| following.hit(&digest))
        {
            self.counters.add(Counter::FromCache, 1);
            if hit.touch {
                LastSeenWriter::used(self, &hit.live.session);
            }
            return PendingLookup::of(hit.live);
        }
        let (sender, answer) = oneshot::channel();
        let waiter = Waiter {
            answer: sender,
            only: true,
        };
        match self.join(SmallVec::from_buf([(digest, waiter)])) {
            Ok(deadline) => PendingLookup::waiting(answer, deadline),
            Err(error) => PendingLookup::failed(error),
        }
    }

    /// Asks about the digests of one request in one batch, past the cache. None of their sessions counts as
    /// used: the caller decides which of them is the request's.
    pub(crate) fn submit_together(
        self: &Arc<Self>,
        digests: &[TokenDigest],
    ) -> Result<Several<L::User>, Error> {
        self.counters.add(Counter::Lookups, digests.len() as u64);
        let mut answers = Vec::with_capacity(digests.len());
        let waiters = digests.iter().map(|digest| {
            let (sender, answer) = oneshot::channel();
            answers.push(answer);
            let waiter = Waiter {
                answer: sender,
                only: false,
            };
            (*digest, waiter)
        });
        let deadline = self.join(waiters.collect())?;
        Ok(Several { answers, deadline })
    }

    /// Adds lookups to a batch, and returns a timer for their deadline.
    fn join(self: &Arc<Self>, waiters: Together<Waiter<L::User>>) -> Result<Sleep, Error> {
        let now = Instant::now();
        let deadline = timer(now + self.deadline)?;
        match self.lookups.join(self, waiters, now, &Handle::current()) {
            Enqueued::Queued => Ok(deadline),
            Enqueued::Overloaded => Err(Error::from_kind(ErrorKind::Overloaded)),
            Enqueued::Closed => Err(Error::from_kind(ErrorKind::Closed)),
        }
    }

    /// Subscribes to a feed. `false` if there is a subscription already.
    pub(crate) fn subscribe(&self, subscription: Subscription<L::User>) -> bool {
        self.following.set(subscription).is_ok()
    }

    pub(crate) fn following(&self) -> Option<&Subscription<L::User>> {
        self.following.get()
    }

    pub(crate) fn feed_settings(&self) -> Settings {
        Settings {
            lease: self.lease,
            recheck_interval: self.recheck_interval,
            deadline: self.deadline,
        }
    }

    /// Whether the end of a session anywhere is announced here.
    pub(crate) fn is_fresh(&self) -> bool {
        self.following()
            .is_some_and(|following| following.is_fresh())
    }

    /// After this time a session must be checked again while the feed is connected.
    pub(crate) fn recheck_interval(&self) -> Duration {
        let default = feed::DEFAULT_RECHECK_INTERVAL;
        self.following()
            .map_or(default, |following| following.recheck_interval())
    }

    /// Ends these here too, which the store has just ended.
    pub(crate) fn invalidate_local(&self, sessions: Vec<SessionId>) {
        if sessions.is_empty() {
            return;
        }
        match self.following() {
            Some(following) => following.end(sessions),
            None => self.watchers.mark_suspect(&sessions),
        }
    }

    /// Ends every session here, because the store has just ended them all.
    pub(crate) fn invalidate_all_local(&self) {
        match self.following() {
            Some(following) => following.end_everything(),
            None => self.watchers.mark_all_suspect(),
        }
    }

    /// Returns once what has just been ended is ended here too.
    pub(crate) async fn sync(&self) {
        match self.following().filter(|following| following.is_fresh()) {
            Some(following) => following.sync().await,
            None => self.watchers.mark_all_suspect(),
        }
    }

    /// Rejects lookups from now on, waits for those in flight, and writes the uses that were collected. Each of
    /// the two waits ends at the deadline.
    pub(crate) async fn close(&self) {
        // Nothing is answered from memory any more.
        if let Some(following) = self.following() {
            following.stop();
        }
        self.bounded(self.lookups.close()).await;
        self.bounded(self.last_seen.flush()).await;
        self.watchers.close();
        self.closed_store.get_or_init(|| self.lookup.close()).await;
    }

    async fn bounded(&self, wait: impl Future<Output = ()>) {
        let ended = within(self.deadline, async {
            wait.await;
            Ok(())
        });
        if let Err(error) = ended.await {
            tracing::warn!(%error, "closing did not wait any longer for work in flight");
        }
    }

    /// Sends one batch and delivers its answers. Returns the digests that were to be asked, and what became of them.
    pub(crate) async fn run_batch(
        self: &Arc<Self>,
        batch: Batch<Waiter<L::User>>,
    ) -> (Digests, Fate) {
        let mut waiting = batch.waiting;
        // A caller that has gone away needs no answer.
        waiting.retain(|_, callers| callers.iter().any(|caller| !caller.answer.is_closed()));
        let digests: Digests = waiting.keys().copied().collect();
        if waiting.is_empty() {
            return (digests, Fate::NotSent);
        }
        let opened = Instant::from_std(batch.opened);
        // The server may be at work until a deadline after it received the statement. While statements time out, a
        // batch that has lost half of its time is not sent, so that a connection and the one that it replaces have
        // at most two statements at work there.
        if batch.in_time && opened.elapsed() > self.deadline / 2 {
            send_error(
                waiting.into_values(),
                &Error::from_kind(ErrorKind::Deadline),
            );
            return (digests, Fate::NotSent);
        }
        let deadline = opened + self.deadline;
        let asked = self.following().and_then(|following| following.ask());
        let mut fate = Fate::Answered;
        match self.find(&digests, deadline).await {
            Ok(answers) => self.complete(waiting, answers, asked),
            // One row made the statement fail for all. Each is asked alone, once.
            Err(error) if error.kind() == ErrorKind::Decode && digests.len() > 1 => {
                for (digest, callers) in waiting {
                    let alone = Waiting::from_iter([(digest, callers)]);
                    let asked = self.following().and_then(|following| following.ask());
                    match self.find(&[digest], deadline).await {
                        Ok(answers) => self.complete(alone, answers, asked),
                        Err(error) => send_error(alone.into_values(), &error),
                    }
                }
            }
            Err(error) => {
                if error.kind() == ErrorKind::Deadline {
                    fate = Fate::TimedOut;
                }
                send_error(waiting.into_values(), &error);
            }
        }
        (digests, fate)
    }

    /// Hands each answer to those who asked for exactly its digest.
    fn complete(
        self: &Arc<Self>,
        mut waiting: Waiting<L::User>,
        answers: Vec<LookupResult<L::User>>,
        asked: Option<feed::cache::Snapshot>,
    ) {
        let violated = |context| Error::from_kind(ErrorKind::Protocol).with_message(context);
        let mut answered = Vec::with_capacity(answers.len());
        for answer in answers {
            let digest = answer.digest();
            if let Some(callers) = waiting.remove(&digest) {
                answered.push((callers, answer));
                continue;
            }
            let first = answered
                .iter_mut()
                .find(|(_, first)| first.digest() == digest);
            let Some((_, first)) = first else {
                // It may be the answer to another query, and so may all the others.
                let error = violated("the store answered for a token that was not in the query");
                send_error(answered.into_iter().map(|(callers, _)| callers), &error);
                return send_error(waiting.into_values(), &error);
            };
            let error = violated("the store answered twice for one token");
            *first = LookupResult::failed(digest, error);
        }
        for (callers, answer) in answered {
            let (digest, may_be_cached) = (answer.digest(), answer.may_be_cached());
            let mut outcome = answer.into_found();
            if let Ok(Some(found)) = &outcome
                && callers.iter().any(|caller| caller.only)
            {
                LastSeenWriter::used(self, &found.session);
                if let (Some(following), Some(asked)) = (self.following(), asked)
                    && may_be_cached
                {
                    outcome = outcome.map(|found| {
                        let shared = found?.into_shared();
                        following.keep(asked, digest, &shared);
                        Some(shared.into())
                    });
                }
            }
            send(callers, outcome);
        }
        let error = violated("the store did not answer for a token");
        send_error(waiting.into_values(), &error);
    }

    async fn find(
        &self,
        digests: &[TokenDigest],
        deadline: Instant,
    ) -> Result<Vec<LookupResult<L::User>>, Error> {
        self.counters.add(Counter::Statements, 1);
        timeout_at(deadline, self.lookup.find(digests))
            .await
            .unwrap_or_else(|_| Err(Error::from_kind(ErrorKind::Deadline)))
    }
}

fn send_error<U>(waiting: impl Iterator<Item = Waiters<Waiter<U>>>, error: &Error) {
    for callers in waiting {
        send(callers, Err(error.clone()));
    }
}

fn send<U>(callers: Waiters<Waiter<U>>, outcome: Outcome<U>) {
    let mut callers = callers.into_iter();
    let Some(last) = callers.next_back() else {
        return;
    };
    if callers.len() == 0 {
        // The send fails if the caller has been dropped.
        let _ = last.answer.send(outcome);
        return;
    }
    let outcome = outcome.map(|found| found.map(FoundSession::into_shared));
    for caller in callers.chain([last]) {
        let outcome = outcome.clone().map(|found| found.map(FoundSession::from));
        let _ = caller.answer.send(outcome);
    }
}
