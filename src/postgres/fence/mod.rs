//! Rejection of a primary that was replaced.
//!
//! A primary that was frozen or cut off may still respond on open connections after a replica was
//! promoted in its place. A promotion increments the timeline. The fence records the highest
//! timeline that any connection of the store has returned, and rejects responses from a lower one.
//! Each process detects this on its own: notifications are local to one server.

mod gate;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use tokio_postgres::types::{FromSql, Type};

pub(super) use self::gate::{Gate, Server, ServerState};
use crate::error::{BoxError, Error, ErrorKind};

/// The identity of a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// `initdb` generates it. Replicas and base backups share it.
    system: i64,
    timeline: Timeline,
}

/// The timeline of a primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timeline(u32);

/// The primary that the connections of one store have reached. Cloning is cheap.
#[derive(Clone, Default)]
pub(super) struct Fence(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    known: Known,
    followers: Vec<Weak<dyn Follower>>,
}

/// A component that must react if another primary responds.
pub(super) trait Follower: Send + Sync {
    /// Reacts to the other primary. No response of that primary is accepted before this method
    /// returns. It must not call the fence.
    fn primary_changed(&self);
}

impl Fence {
    /// Calls this follower at each change, until it is dropped.
    pub(super) fn follow<F: Follower + 'static>(&self, follower: &Arc<F>) {
        let mut inner = self.inner();
        inner
            .followers
            .retain(|follower| follower.strong_count() > 0);
        let follower: Weak<F> = Arc::downgrade(follower);
        inner.followers.push(follower);
    }

    /// Accepts a response of the server at this position, or rejects it because the server was
    /// replaced.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Recovery`]. The connection must be closed.
    fn admit(&self, position: Position) -> Result<(), Error> {
        let mut inner = self.inner();
        match inner.known.observe(position) {
            Observed::First | Observed::Current => return Ok(()),
            Observed::Replaced => {
                return Err(Error::from_kind(ErrorKind::Recovery).with_message(
                    "the server was replaced by another primary: its sessions are out of date",
                ));
            }
            Observed::Promoted => tracing::info!(
                target: "tower_user_session",
                event = "primary_changed",
                timeline = position.timeline.0,
                "another primary has responded: connections to the previous one are closed"
            ),
            Observed::OtherSystem => tracing::warn!(
                target: "tower_user_session",
                event = "cluster_changed",
                system_identifier = position.system,
                "another database cluster has responded: the cache is cleared, and connections to \
                 the previous cluster are closed"
            ),
        }
        // The lock is held: no other response of the new primary is accepted in the meantime.
        for follower in inner.followers.iter().filter_map(Weak::upgrade) {
            follower.primary_changed();
        }
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The current primary and the previous clusters. It has neither clock nor lock.
#[derive(Debug, Default)]
struct Known {
    current: Option<Position>,
    /// The system identifiers of clusters that were replaced. An operator's action adds one.
    former: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Observed {
    First,
    Current,
    /// A higher timeline of the same system.
    Promoted,
    /// A new system: a restored or an upgraded cluster. Its timeline may be lower.
    OtherSystem,
    /// A lower timeline, or a system that was replaced.
    Replaced,
}

impl Known {
    fn observe(&mut self, position: Position) -> Observed {
        let observed = match self.current {
            None => Observed::First,
            Some(current) if current == position => return Observed::Current,
            Some(current) if current.system == position.system => {
                if position.timeline < current.timeline {
                    return Observed::Replaced;
                }
                Observed::Promoted
            }
            Some(_) if self.former.contains(&position.system) => return Observed::Replaced,
            Some(current) => {
                self.former.push(current.system);
                Observed::OtherSystem
            }
        };
        self.current = Some(position);
        observed
    }
}

/// Reads eight hexadecimal digits.
impl FromSql<'_> for Timeline {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, BoxError> {
        Ok(Self(u32::from_str_radix(std::str::from_utf8(raw)?, 16)?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    const fn at(system: i64, timeline: u32) -> Position {
        Position {
            system,
            timeline: Timeline(timeline),
        }
    }

    /// N09, N11: each row is a sequence of responses and the conclusion from each.
    #[test]
    fn highest_timeline_of_the_newest_system_is_the_primary() {
        use Observed::{Current, First, OtherSystem, Promoted, Replaced};
        let table: [&[(i64, u32, Observed)]; 7] = [
            &[(1, 1, First), (1, 1, Current), (1, 1, Current)],
            &[
                (1, 1, First),
                (1, 2, Promoted),
                (1, 1, Replaced),
                (1, 2, Current),
            ],
            // Some timelines were never observed.
            &[
                (1, 3, First),
                (1, 9, Promoted),
                (1, 8, Replaced),
                (1, 10, Promoted),
            ],
            // A restored cluster begins with timeline 1.
            &[
                (1, 7, First),
                (2, 1, OtherSystem),
                (2, 1, Current),
                (2, 2, Promoted),
            ],
            // A cluster that was replaced stays rejected on every timeline.
            &[
                (1, 7, First),
                (2, 1, OtherSystem),
                (1, 7, Replaced),
                (1, 9, Replaced),
                (2, 1, Current),
            ],
            &[
                (1, 1, First),
                (2, 1, OtherSystem),
                (3, 1, OtherSystem),
                (1, 5, Replaced),
                (2, 5, Replaced),
            ],
            &[(1, u32::MAX, First), (1, 1, Replaced)],
        ];
        for steps in table {
            let mut known = Known::default();
            for &(system, timeline, observed) in steps {
                assert_eq!(known.observe(at(system, timeline)), observed, "{steps:?}");
            }
        }
    }

    struct Counter(AtomicUsize);
    impl Follower for Counter {
        fn primary_changed(&self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    /// N09, N11: followers close connections and clear caches.
    #[test]
    fn followers_are_called_for_every_other_primary() {
        let fence = Fence::default();
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        fence.follow(&counter);
        for (position, admitted, changes) in [
            (at(1, 1), true, 0),
            (at(1, 1), true, 0),
            (at(1, 2), true, 1),
            (at(1, 1), false, 1),
            (at(2, 1), true, 2),
            (at(1, 2), false, 2),
        ] {
            let result = fence.admit(position);
            let kind = result.err().map(|error| error.kind());
            assert_eq!(
                kind,
                (!admitted).then_some(ErrorKind::Recovery),
                "{position:?}"
            );
            assert_eq!(counter.0.load(SeqCst), changes, "{position:?}");
        }
        drop(counter);
        assert!(fence.admit(at(2, 2)).is_ok());
    }

    #[test]
    fn timelines_are_read_as_postgresql_writes_them() {
        let read = |text: &str| Timeline::from_sql(&Type::TEXT, text.as_bytes()).ok();
        for (text, timeline) in [
            ("00000001", Some(1)),
            ("0000000A", Some(10)),
            ("FFFFFFFF", Some(u32::MAX)),
            ("", None),
            ("0000000G", None),
            ("100000000", None),
        ] {
            assert_eq!(read(text), timeline.map(Timeline), "{text}");
        }
    }
}
