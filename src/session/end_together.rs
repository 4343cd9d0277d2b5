//! Ends sessions that are signed out of at the same time, in one statement.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    SessionStore, TokenDigest,
    batch::Batch,
    flight::{Batches, Carrier, Joined},
    resolver::Resolver,
};
use crate::{Error, ErrorKind};

/// Ends the session together with those that others want ended at the same time. `false` where there is
/// none, and where it is to be ended alone: it would keep the others waiting, or they it.
pub(super) async fn end_together<S: SessionStore>(
    resolver: &Arc<Resolver<S>>,
    digest: TokenDigest,
) -> Result<bool, Error> {
    let turn = Arc::new(Turn::default());
    let (caller, mut ended) = oneshot::channel();
    let signing_out = SigningOut {
        caller,
        turn: Arc::clone(&turn),
    };
    let carrier = SignOuts(Arc::clone(resolver));
    let (now, runtime) = (Instant::now(), Handle::current());
    match (resolver.sign_outs).join(&carrier, digest, signing_out, now, &runtime) {
        Joined::Here | Joined::Elsewhere => {}
        Joined::Overloaded | Joined::Closed => return Ok(false),
    }
    let told = match timeout(resolver.deadline / 4, &mut ended).await {
        Ok(told) => told,
        Err(_) if turn.take() => return Ok(false),
        Err(_) => ended.await,
    };
    told.unwrap_or_else(|_| {
        let context = "the sign-out ended without an answer";
        let error = Error::bare(ErrorKind::Store).saying(context);
        Err(error.with_outcome_unknown())
    })
}

/// Who waits for the end of a session, to be told whether it has.
pub(super) struct SigningOut {
    caller: oneshot::Sender<Result<bool, Error>>,
    turn: Arc<Turn>,
}

/// Taken once: by the batch that is sent, or by a caller who does not wait for it any longer.
#[derive(Default)]
struct Turn(AtomicBool);

impl Turn {
    fn take(&self) -> bool {
        !self.0.swap(true, SeqCst)
    }
}

/// Carries sign-outs to the store, also those whose callers have gone away.
struct SignOuts<S: SessionStore>(Arc<Resolver<S>>);

impl<S: SessionStore> Clone for SignOuts<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: SessionStore> Carrier for SignOuts<S> {
    type Waiter = SigningOut;

    fn batches(&self) -> &Batches<SigningOut> {
        &self.0.sign_outs
    }

    async fn carry(&self, mut batch: Batch<SigningOut>) {
        let resolver = &self.0;
        batch.waiting.retain(|_, waiting| {
            waiting.retain(|one| one.turn.take());
            !waiting.is_empty()
        });
        if batch.waiting.is_empty() {
            return;
        }
        let digests: SmallVec<[TokenDigest; 4]> = batch.waiting.keys().copied().collect();
        let deletion = resolver.lookup.delete_without_waiting(&digests);
        // It counts from now on. Callers, who may have waited for long, have a limit of their own.
        let deleted = timeout(resolver.deadline, deletion)
            .await
            .unwrap_or_else(|_| Err(Error::bare(ErrorKind::Deadline).with_outcome_unknown()));
        let ended = match deleted {
            // One of them may have been at fault.
            Err(error) if digests.len() > 1 && is_refusal(&error) => Ok(HashMap::new()),
            other => other.map(HashMap::from_iter),
        };
        if let Ok(ended) = &ended {
            resolver.end_here(ended.values().copied().collect());
        }
        for (digest, waiting) in batch.waiting {
            for one in waiting {
                let told = ended.as_ref().map(|ended| ended.contains_key(&digest));
                // Whoever does not wait any more has no use for it.
                let _ = one.caller.send(told.map_err(Error::clone));
            }
        }
    }
}

/// Whether the store could be asked, and said that nothing happened.
fn is_refusal(error: &Error) -> bool {
    use ErrorKind::{Authentication, Configuration, Connection, Pool, Recovery, Tls};
    let unreachable = [
        Authentication,
        Configuration,
        Connection,
        Pool,
        Recovery,
        Tls,
    ];
    !error.is_outcome_unknown() && !unreachable.contains(&error.kind())
}
