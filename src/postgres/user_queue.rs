//! Queues of writes per user: at most one write of a user at a time uses a connection.

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt::Debug,
    hash::BuildHasher as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

type Queue = Arc<tokio::sync::Mutex<()>>;

/// Serializes the writes of one user in the process, so that waiting writes use no connections.
#[derive(Debug, Default)]
pub(super) struct UserQueues {
    queues: Mutex<HashMap<u64, Queue>>,
    hasher: RandomState,
}

/// The permit of one write. Dropping it lets the next write of the same user continue.
pub(super) struct WritePermit<'a> {
    queues: &'a UserQueues,
    user: u64,
    guard: Option<OwnedMutexGuard<()>>,
}

impl UserQueues {
    /// Waits until the earlier writes of this user have ended, in the order of the calls.
    pub(super) async fn acquire(&self, user: &impl Debug) -> WritePermit<'_> {
        // Users whose hashes collide share a queue. The shared queue delays their writes and has no
        // other effect.
        let user = self.hasher.hash_one(format!("{user:?}"));
        let queue = Arc::clone(self.lock().entry(user).or_default());
        // The permit is constructed before the await. A cancelled caller therefore leaves no entry.
        let mut permit = WritePermit {
            queues: self,
            user,
            guard: None,
        };
        permit.guard = Some(queue.lock_owned().await);
        permit
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WritePermit<'_> {
    fn drop(&mut self) {
        // The lock of the map is held, so that no other caller can acquire the entry meanwhile.
        let mut queues = self.queues.lock();
        self.guard = None;
        if queues
            .get(&self.user)
            .is_some_and(|queue| Arc::strong_count(queue) == 1)
        {
            queues.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writes_of_one_user_wait_for_each_other_and_leave_no_entry() {
        let queues = UserQueues::default();
        let first = queues.acquire(&7).await;
        let other = queues.acquire(&8).await;
        let mut second = pin!(queues.acquire(&7));
        let brief = Duration::from_millis(1);
        assert!(timeout(brief, second.as_mut()).await.is_err());
        drop(first);
        let second = second.await;
        assert!(timeout(brief, queues.acquire(&7)).await.is_err());
        assert_eq!(queues.lock().len(), 2);
        drop((second, other));
        assert_eq!(queues.lock().len(), 0);
    }
}
