//! Model check of the [lanes](super::lanes). Shuttle tries schedules of statements, some of which
//! are slow or abandoned.

use std::time::{Duration, Instant};

use shuttle::{
    check_random,
    sync::{Arc, Condvar, Mutex},
    thread,
};

use crate::postgres::lanes::{Free, Lanes};

const DEPTH: usize = 2;
const CONNECTIONS: usize = 2;

/// A guard that the model leaves out, to show that the check needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Without {
    Nothing,
    /// A connection is used again after a statement on it was abandoned.
    Retiring,
    /// A lane has more statements than its depth.
    Depth,
    /// Statements are sent behind one that is slow.
    Stall,
}

/// A connection: the statements whose responses were not read, and whether the first one is slow.
#[derive(Debug, Default)]
struct Connection {
    unread: Vec<u8>,
    abandoned: bool,
    slow: bool,
    closed: bool,
}

struct State {
    lanes: Lanes<usize>,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    now: Instant,
}

#[derive(Clone)]
struct Model {
    state: Arc<Mutex<State>>,
    changed: Arc<Condvar>,
    without: Without,
}

impl Model {
    fn new(without: Without) -> Self {
        let depth = if without == Without::Depth {
            usize::MAX
        } else {
            DEPTH
        };
        let mut connections = Vec::new();
        connections.resize_with(CONNECTIONS, Connection::default);
        Self {
            state: Arc::new(Mutex::new(State {
                lanes: Lanes::new(depth),
                connections,
                idle: (0..CONNECTIONS).collect(),
                now: Instant::now(),
            })),
            changed: Arc::default(),
            without,
        }
    }

    /// Runs a statement, as a slot does. An abandoned one leaves its response unread.
    fn run(&self, statement: u8, abandoned: bool, slow: bool) {
        let mut state = self.state.lock().unwrap();
        let (ticket, connection) = loop {
            let now = state.now;
            let State { lanes, idle, .. } = &mut *state;
            if let Some((ticket, connection)) = lanes.place(now) {
                break (ticket, *connection);
            }
            if let Some(connection) = idle.pop() {
                break (lanes.open(connection, now), connection);
            }
            state = self.changed.wait(state).unwrap();
        };
        let place = &mut state.connections[connection];
        assert!(!place.closed, "a statement was sent on a closed connection");
        assert!(
            !place.abandoned,
            "a statement was sent behind an unread response"
        );
        assert!(!place.slow, "a statement was sent behind a slow one");
        place.unread.push(statement);
        assert!(place.unread.len() <= DEPTH, "a lane is deeper than allowed");
        let slow = slow && place.unread.len() == 1;
        if slow {
            // Time passes while the first statement runs.
            place.slow = true;
            if self.without != Without::Stall {
                state.now += Duration::from_secs(1);
            }
        }
        drop(state);
        thread::yield_now();
        let mut state = self.state.lock().unwrap();
        let now = state.now;
        let place = &mut state.connections[connection];
        if slow {
            place.slow = false;
        }
        let free = if abandoned && self.without != Without::Retiring {
            place.abandoned = true;
            state.lanes.abandoned(ticket, now)
        } else {
            if abandoned {
                place.abandoned = true;
            }
            state.lanes.finished(ticket, Duration::ZERO, now)
        };
        let place = &mut state.connections[connection];
        place.unread.retain(|other| *other != statement);
        match free {
            Some(Free::Idle(connection)) => state.idle.push(connection),
            Some(Free::Retired(connection)) => {
                // Another connection is opened in its place.
                state.connections[connection].closed = true;
                state.connections.push(Connection::default());
                let new = state.connections.len() - 1;
                state.idle.push(new);
            }
            None => {}
        }
        drop(state);
        self.changed.notify_all();
    }
}

fn check(without: Without) {
    check_random(
        move || {
            let model = Model::new(without);
            let running: Vec<_> = (0..6_u8)
                .map(|n| {
                    let model = model.clone();
                    thread::spawn(move || model.run(n, n == 1, n == 2))
                })
                .collect();
            for thread in running {
                thread.join().unwrap();
            }
            let state = model.state.lock().unwrap();
            assert_eq!(state.lanes.len(), 0, "a lane was left behind");
            assert_eq!(state.idle.len(), CONNECTIONS, "a connection was lost");
        },
        3_000,
    );
}

/// J05, J09, M06: whatever the order, no statement follows one that was abandoned or is slow, no
/// lane exceeds its depth, every statement is sent, and no connection is lost.
#[test]
fn no_statement_follows_an_abandoned_or_slow_one() {
    check(Without::Nothing);
}

#[test]
#[should_panic = "a statement was sent behind an unread response"]
fn the_model_needs_lanes_to_retire() {
    check(Without::Retiring);
}

#[test]
#[should_panic = "a lane is deeper than allowed"]
fn the_model_needs_the_depth() {
    check(Without::Depth);
}

#[test]
#[should_panic = "a statement was sent behind a slow one"]
fn the_model_needs_lanes_to_stall() {
    check(Without::Stall);
}
