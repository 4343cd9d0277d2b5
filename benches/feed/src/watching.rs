//! Looks sessions up continuously, like a busy process, until they are rejected.

use std::{sync::mpsc, thread, time::Duration};

use tokio::runtime::Handle;
use tower_user_session::{BoxError, feed::DEFAULT_LEASE, session::SessionToken};

use crate::{
    clock,
    ground::{Sessions, token},
};

/// Between two rounds of lookups: four processes must leave two processors to the server.
const PAUSE: Duration = Duration::from_micros(100);
/// The same if the lookups query the server.
const LONGER_PAUSE: Duration = Duration::from_millis(2);

struct Watched {
    session: u64,
    token: SessionToken,
    /// When the last lookup began that returned the user.
    last_live: u64,
    /// How many results came from the cache.
    hits: u64,
}

/// A thread that looks up each session it receives until the session is rejected, and reports that.
pub(crate) fn start(sessions: Sessions, runtime: Handle) -> mpsc::Sender<u64> {
    let (sender, additions) = mpsc::channel();
    thread::spawn(move || {
        if let Err(error) = watch(&sessions, &runtime, &additions) {
            eprintln!("error: {error}");
        }
    });
    sender
}

fn watch(
    sessions: &Sessions,
    runtime: &Handle,
    additions: &mpsc::Receiver<u64>,
) -> Result<(), BoxError> {
    let mut all: Vec<Watched> = Vec::new();
    let mut last_answer = clock::now();
    loop {
        let mut missed = false;
        while let Some(session) = next(additions, all.is_empty())? {
            all.push(Watched {
                session,
                token: token(session)?,
                last_live: 0,
                hits: 0,
            });
            last_answer = clock::now();
        }
        all.retain_mut(|watched| {
            let known = sessions.metrics().from_cache;
            let asked = clock::now();
            let slept = u128::from(asked - last_answer) > DEFAULT_LEASE.as_nanos();
            let answer = runtime.block_on(sessions.user(&watched.token));
            last_answer = clock::now();
            let hit = sessions.metrics().from_cache > known;
            missed |= !hit;
            match answer {
                Ok(Some(_)) => {
                    if watched.last_live == 0 {
                        // From now on it may end.
                        println!("watching {}", watched.session);
                    }
                    watched.last_live = asked;
                    watched.hits += u64::from(hit);
                    if hit && slept {
                        println!("stale {}", watched.session);
                    }
                }
                Ok(None) => {
                    let Watched {
                        session,
                        last_live,
                        hits,
                        ..
                    } = watched;
                    println!("refused {session} {last_answer} {last_live} {hits}");
                    return false;
                }
                Err(error) => {
                    eprintln!("error: {error}");
                    println!("failed {}", watched.session);
                }
            }
            true
        });
        thread::sleep(if missed { LONGER_PAUSE } else { PAUSE });
    }
}

fn next(additions: &mpsc::Receiver<u64>, wait: bool) -> Result<Option<u64>, BoxError> {
    if wait {
        return Ok(Some(additions.recv()?));
    }
    match additions.try_recv() {
        Ok(session) => Ok(Some(session)),
        Err(mpsc::TryRecvError::Empty) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
