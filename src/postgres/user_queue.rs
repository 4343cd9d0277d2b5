//! Turns: at most one write of a user at a time holds a connection.

use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt::Debug,
    hash::BuildHasher as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

type Turn = Arc<tokio::sync::Mutex<()>>;

/// Makes the writes of one user wait for each other in the process instead of on connections.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: Mutex<HashMap<u64, Turn>>,
    hasher: RandomState,
}

/// A write's turn. The next write of the same user follows when it is dropped.
pub(super) struct TakenTurn<'a> {
    turns: &'a Turns,
    user: u64,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for the turn of this user's write, in the order of the calls.
    pub(super) async fn take(&self, user: &impl Debug) -> TakenTurn<'_> {
        // Users whose hashes collide take turns too, which delays them and changes nothing else.
        let user = self.hasher.hash_one(format!("{user:?}"));
        let turn = Arc::clone(self.waiting().entry(user).or_default());
        // Before it is awaited, so that a caller who is cancelled leaves no entry.
        let mut taken = TakenTurn {
            turns: self,
            user,
            guard: None,
        };
        taken.guard = Some(turn.lock_owned().await);
        taken
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Turn>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TakenTurn<'_> {
    fn drop(&mut self) {
        // Under the lock of the map, so that no other caller finds the entry meanwhile.
        let mut waiting = self.turns.waiting();
        self.guard = None;
        if waiting
            .get(&self.user)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            waiting.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn writes_of_one_user_take_turns_and_leave_no_entry() {
        let turns = Turns::default();
        let first = turns.take(&7).await;
        let other = turns.take(&8).await;
        let mut second = pin!(turns.take(&7));
        let brief = Duration::from_millis(1);
        assert!(timeout(brief, second.as_mut()).await.is_err());
        drop(first);
        let second = second.await;
        assert!(timeout(brief, turns.take(&7)).await.is_err());
        assert_eq!(turns.waiting().len(), 2);
        drop((second, other));
        assert_eq!(turns.waiting().len(), 0);
    }
}
