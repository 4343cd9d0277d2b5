//! Asks the store about one batch of lookups, and hands the answers to those who wait.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use crate::{
    error::{Error, ErrorKind},
    feed::{cache::Snapshot, slot::FeedSlot},
    lookup::{
        last_seen::LastSeenWriter,
        pending::{Outcome, Waiter},
        queue::{Batch, DigestMap, Fate, Waiters},
    },
    metrics::{Counter, Counters},
    session::TokenDigest,
    store::{LookupResult, SessionLookup, lookup::FoundSession},
};

/// The digests of one batch.
pub(crate) type Digests = SmallVec<[TokenDigest; 4]>;

type Waiting<U> = DigestMap<Waiters<Waiter<U>>>;

/// What a batch needs: the store, the cache that its answers may go to, and the writer of last uses.
pub(crate) struct BatchRunner<L: SessionLookup> {
    pub(crate) store: Arc<L>,
    pub(crate) feed: Arc<FeedSlot<L::User>>,
    pub(crate) last_seen: Arc<LastSeenWriter<L>>,
    pub(crate) metrics: Arc<Counters>,
    pub(crate) deadline: Duration,
}

impl<L: SessionLookup> BatchRunner<L> {
    /// Sends one batch and delivers its answers. Returns the digests that were to be asked, and what became of them.
    pub(crate) async fn run_batch(&self, batch: Batch<Waiter<L::User>>) -> (Digests, Fate) {
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
        let asked = self.feed.subscription().and_then(|feed| feed.ask());
        let mut fate = Fate::Answered;
        match self.find(&digests, deadline).await {
            Ok(answers) => self.complete(waiting, answers, asked),
            // One row made the statement fail for all. Each is asked alone, once.
            Err(error) if error.kind() == ErrorKind::Decode && digests.len() > 1 => {
                for (digest, callers) in waiting {
                    let alone = Waiting::from_iter([(digest, callers)]);
                    let asked = self.feed.subscription().and_then(|feed| feed.ask());
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
        &self,
        mut waiting: Waiting<L::User>,
        answers: Vec<LookupResult<L::User>>,
        asked: Option<Snapshot>,
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
                self.last_seen.used(&found.session);
                if let (Some(feed), Some(asked)) = (self.feed.subscription(), asked)
                    && may_be_cached
                {
                    outcome = outcome.map(|found| {
                        let shared = found?.into_shared();
                        feed.keep(asked, digest, &shared);
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
        self.metrics.add(Counter::Statements, 1);
        timeout_at(deadline, self.store.find(digests))
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
