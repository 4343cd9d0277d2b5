//! Ends sessions that are signed out of at the same time, in one statement.

use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{
    SessionId, SessionStore, TokenDigest,
    batch::Batch,
    flight::{Batches, Carrier, Joined},
    resolver::Resolver,
};
use crate::{Error, ErrorKind};

/// Who waits for the end of a session. `None`: it is to be ended alone.
pub(super) type Ending = oneshot::Sender<Result<Option<SessionId>, Error>>;

/// Ends the session together with those that others want ended at the same time. `None` where there
/// is none, and where it is to be ended alone: it would keep the others waiting, or they it.
pub(super) async fn end_together<S: SessionStore>(
    resolver: &Arc<Resolver<S>>,
    digest: TokenDigest,
) -> Result<Option<SessionId>, Error> {
    let (caller, ended) = oneshot::channel();
    let carrier = SignOuts(Arc::clone(resolver));
    let here = (Instant::now(), &Handle::current());
    match resolver.sign_outs.join(&carrier, digest, caller, here) {
        Joined::Here => ended.await.unwrap_or_else(|_| {
            let context = "the sign-out ended without an answer";
            let error = Error::bare(ErrorKind::Store).saying(context);
            Err(error.with_outcome_unknown())
        }),
        // Nobody need drive the other runtime.
        Joined::Elsewhere | Joined::Overloaded | Joined::Closed => Ok(None),
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
    type Waiter = Ending;

    fn batches(&self) -> &Batches<Ending> {
        &self.0.sign_outs
    }

    async fn carry(&self, batch: Batch<Ending>) {
        let deadline = Instant::from_std(batch.opened + self.0.deadline);
        let digests: SmallVec<[TokenDigest; 4]> = batch.waiting.keys().copied().collect();
        let deletion = self.0.lookup.delete_without_waiting(&digests);
        let deleted = timeout_at(deadline, deletion)
            .await
            .unwrap_or_else(|_| Err(Error::bare(ErrorKind::Deadline).with_outcome_unknown()));
        let ended = match deleted {
            // One of them may have been at fault.
            Err(error) if digests.len() > 1 && is_refusal(&error) => Ok(HashMap::new()),
            other => other.map(HashMap::from_iter),
        };
        for (digest, callers) in batch.waiting {
            for caller in callers {
                let session = ended.as_ref().map(|ended| ended.get(&digest).copied());
                // Whoever does not wait any more has no use for it.
                let _ = caller.send(session.map_err(Error::clone));
            }
        }
    }
}

/// Whether the store said that it did not do what was asked, and could have.
fn is_refusal(error: &Error) -> bool {
    let kinds = [ErrorKind::Statement, ErrorKind::Row, ErrorKind::Deadline];
    kinds.contains(&error.kind()) && !error.is_outcome_unknown()
}
