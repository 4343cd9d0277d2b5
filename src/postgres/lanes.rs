//! Lanes: which connection runs the next lookup statement, and which connections are closed.
//!
//! It is a state machine without a clock, a runtime or a lock, so that it can be model-checked.
//!
//! A *lane* is a connection with statements in flight. The server runs these statements in order. A
//! new statement is sent on the lane with the fewest statements. The number of statements in a lane
//! is limited.
//!
//! A slow first statement delays the statements behind it. `statement_timeout` starts when the
//! server reads a statement, and the server runs a statement that it has read even if the client
//! has disconnected. Therefore a lane is *stalled* if its first statement is much slower than usual.
//! A stalled lane accepts no further statement. The statements behind the first one are sent on
//! another lane, once.
//!
//! If the response to a statement is not read, the lane accepts no further statement, and its
//! connection is closed when its last statement has ended.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::store::lookup::STATEMENTS_PER_CONNECTION;

/// A first statement stalls its lane if it takes longer than this and than `STALLED_FACTOR` times
/// the usual time.
const STALLED_AFTER: Duration = Duration::from_millis(50);
const STALLED_FACTOR: u32 = 10;
/// The part of the latest time in the usual one, as a divisor.
const SMOOTHING: u32 = 8;

/// A statement in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// The lanes of a store.
#[derive(Debug)]
pub(super) struct Lanes<C> {
    depth: usize,
    in_use: Vec<Lane<C>>,
    next: u64,
    /// The moving average of the time of a statement.
    usual: Option<Duration>,
}

#[derive(Debug)]
struct Lane<C> {
    connection: C,
    /// In the order in which they were sent.
    statements: SmallVec<[Ticket; STATEMENTS_PER_CONNECTION]>,
    /// When the first statement became the first.
    first_since: Instant,
    /// Whether the connection is closed when the last statement ends.
    retired: bool,
}

/// A connection without statements in flight.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Free<C> {
    /// It can be used again.
    Idle(C),
    /// It must be closed.
    Retired(C),
}

impl<C> Lanes<C> {
    pub(super) const fn new(depth: usize) -> Self {
        Self {
            depth,
            in_use: Vec::new(),
            next: 0,
            usual: None,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.in_use.len()
    }

    /// Returns the number of statements in the lane that is next.
    pub(super) fn fewest(&self, now: Instant) -> Option<usize> {
        Some(self.in_use[self.best(now)?].statements.len())
    }

    /// Adds a statement to the lane with the fewest, if one has room.
    pub(super) fn place(&mut self, now: Instant) -> Option<(Ticket, &C)> {
        let best = self.best(now)?;
        let ticket = self.ticket();
        let lane = &mut self.in_use[best];
        lane.statements.push(ticket);
        Some((ticket, &lane.connection))
    }

    /// Adds a lane with its first statement.
    pub(super) fn open(&mut self, connection: C, now: Instant) -> Ticket {
        let ticket = self.ticket();
        self.in_use.push(Lane {
            connection,
            statements: SmallVec::from_iter([ticket]),
            first_since: now,
            retired: false,
        });
        ticket
    }

    /// Records that the response to a statement was read in full, and how long that took. Returns
    /// the connection if no other statement is in flight on it.
    pub(super) fn finished(
        &mut self,
        ticket: Ticket,
        took: Duration,
        now: Instant,
    ) -> Option<Free<C>> {
        let usual = self.usual.unwrap_or(took);
        // A slow statement must not become the usual one.
        let took = took.min(2 * usual);
        self.usual = Some((usual * (SMOOTHING - 1) + took) / SMOOTHING);
        self.ended(ticket, now, false)
    }

    /// Records that the response to a statement will not be read. Returns the connection as
    /// [`finished`](Self::finished) does.
    pub(super) fn abandoned(&mut self, ticket: Ticket, now: Instant) -> Option<Free<C>> {
        self.ended(ticket, now, true)
    }

    /// Retires the lanes whose connection fulfills the condition.
    pub(super) fn retire_if(&mut self, outdated: impl Fn(&C) -> bool) {
        for lane in &mut self.in_use {
            lane.retired |= outdated(&lane.connection);
        }
    }

    /// Returns when the lane of this statement stalls, if another statement is the first.
    pub(super) fn stalls_at(&self, ticket: Ticket) -> Option<Instant> {
        let lane = self
            .in_use
            .iter()
            .find(|lane| lane.statements.contains(&ticket))?;
        (lane.statements.first() != Some(&ticket)).then(|| self.stall(lane))
    }

    fn ended(&mut self, ticket: Ticket, now: Instant, retire: bool) -> Option<Free<C>> {
        let mut lanes = self.in_use.iter_mut().enumerate();
        let (place, at, lane) = lanes.find_map(|(place, lane)| {
            let at = lane.statements.iter().position(|other| *other == ticket)?;
            Some((place, at, lane))
        })?;
        lane.statements.remove(at);
        lane.retired |= retire;
        if at == 0 {
            lane.first_since = now;
        }
        if !lane.statements.is_empty() {
            return None;
        }
        let lane = self.in_use.swap_remove(place);
        Some(if lane.retired {
            Free::Retired(lane.connection)
        } else {
            Free::Idle(lane.connection)
        })
    }

    fn best(&self, now: Instant) -> Option<usize> {
        let accepts = |lane: &Lane<C>| {
            !lane.retired && lane.statements.len() < self.depth && now < self.stall(lane)
        };
        let lanes = self.in_use.iter().enumerate();
        let best = lanes
            .filter(|(_, lane)| accepts(lane))
            .min_by_key(|(_, lane)| lane.statements.len())?;
        Some(best.0)
    }

    fn stall(&self, lane: &Lane<C>) -> Instant {
        let usual = self.usual.unwrap_or_default();
        lane.first_since + STALLED_AFTER.max(usual * STALLED_FACTOR)
    }

    const fn ticket(&mut self) -> Ticket {
        self.next += 1;
        Ticket(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn lanes(connections: usize, now: Instant) -> (Lanes<usize>, Vec<Ticket>) {
        let mut lanes = Lanes::new(STATEMENTS_PER_CONNECTION);
        let tickets = (0..connections).map(|n| lanes.open(n, now)).collect();
        (lanes, tickets)
    }

    fn placed(lanes: &mut Lanes<usize>, now: Instant) -> Option<(Ticket, usize)> {
        let (ticket, connection) = lanes.place(now)?;
        Some((ticket, *connection))
    }

    /// J05: a statement goes to the lane with the fewest, and a lane has four at most.
    #[test]
    fn lanes_fill_evenly_up_to_their_depth() {
        let now = Instant::now();
        let (mut lanes, _) = lanes(2, now);
        let used: Vec<_> = std::iter::from_fn(|| placed(&mut lanes, now)).collect();
        let used: Vec<_> = used.into_iter().map(|(_, connection)| connection).collect();
        assert_eq!(used, [0, 1, 0, 1, 0, 1]);
        assert_eq!(lanes.fewest(now), None);
    }

    /// A connection is free when its last statement ends, in any order of the statements.
    #[test]
    fn a_connection_is_free_when_its_last_statement_ends() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let now = Instant::now();
            let (mut lanes, mut tickets) = lanes(1, now);
            tickets.extend((0..2).map(|_| placed(&mut lanes, now).unwrap().0));
            for n in &order[..2] {
                assert_eq!(lanes.finished(tickets[*n], MS, now), None);
            }
            let last = lanes.finished(tickets[order[2]], MS, now);
            assert_eq!(last, Some(Free::Idle(0)));
            assert_eq!(lanes.len(), 0);
        }
    }

    /// J09: after a statement was abandoned, no other one is sent on its connection, and the
    /// connection is closed after the last.
    #[test]
    fn an_abandoned_statement_retires_its_lane() {
        let now = Instant::now();
        let (mut lanes, tickets) = lanes(1, now);
        let (second, _) = placed(&mut lanes, now).unwrap();
        assert_eq!(lanes.abandoned(tickets[0], now), None);
        assert_eq!(placed(&mut lanes, now), None);
        assert_eq!(lanes.finished(second, MS, now), Some(Free::Retired(0)));
    }

    #[test]
    fn retired_lanes_accept_no_statement() {
        let now = Instant::now();
        let (mut lanes, tickets) = lanes(2, now);
        lanes.retire_if(|connection| *connection == 1);
        let used: Vec<_> = std::iter::from_fn(|| placed(&mut lanes, now)).collect();
        assert!(used.iter().all(|(_, connection)| *connection == 0));
        assert_eq!(used.len(), STATEMENTS_PER_CONNECTION - 1);
        let free = lanes.finished(tickets[1], MS, now);
        assert_eq!(free, Some(Free::Retired(1)));
    }

    /// M06: behind a slow first statement, nothing more is sent. One line for each usual time: the
    /// usual time, and when a lane stalls.
    #[test]
    fn a_lane_stalls_behind_a_slow_statement() {
        for (usual, stalls_after) in [(MS, 50 * MS), (5 * MS, 50 * MS), (20 * MS, 200 * MS)] {
            let start = Instant::now();
            let (mut lanes, tickets) = lanes(1, start);
            let (second, _) = placed(&mut lanes, start).unwrap();
            lanes.finished(tickets[0], usual, start);
            let (third, _) = placed(&mut lanes, start).unwrap();
            assert_eq!(lanes.stalls_at(second), None, "it is the first");
            assert_eq!(lanes.stalls_at(third), Some(start + stalls_after));
            let just_before = start + stalls_after.saturating_sub(MS);
            assert!(lanes.fewest(just_before).is_some(), "{usual:?}");
            assert_eq!(lanes.fewest(start + stalls_after), None, "{usual:?}");
            // Once the slow statement has ended, the next one has its own time.
            let later = start + 10 * stalls_after;
            lanes.finished(second, usual, later);
            assert_eq!(lanes.fewest(later), Some(1));
            assert_eq!(lanes.stalls_at(third), None);
        }
    }
}
