//! Model check of the [invalidation log](super::invalidation_log) and the cache. Shuttle tries
//! schedules of lookups, of a session that ends, and of a feed that disconnects and reconnects.

use shuttle::{
    check_random,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

use crate::{
    feed::invalidation_log::{InvalidationLog, Subject},
    session::{SessionId, UserKey},
};

const SESSION: SessionId = SessionId::from_bytes([7; 16]);
const USER: UserKey = UserKey::from_hash(7);

/// A guard that the model leaves out, to show that the check needs it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Without {
    Nothing,
    /// The cache inserts the result of a lookup although an invalidation was recorded during the
    /// lookup.
    MayCache,
    /// The cache inserts the result of a lookup from before the feed disconnected.
    RecordAll,
    /// A lookup takes its log position after the result instead of before the query.
    EarlyPosition,
    /// The cache keeps its entries while the feed reconnects.
    Clear,
    /// The feed counts as connected before it listens.
    ListenFirst,
}

/// A PostgreSQL server. It has one session, and notifies a listener when the session ends.
#[derive(Default)]
struct Server {
    ended: bool,
    listening: bool,
    pending: usize,
}

#[derive(Default)]
struct Cached {
    log: InvalidationLog,
    cached: bool,
}

#[derive(Clone)]
struct Model {
    server: Arc<Mutex<Server>>,
    cache: Arc<Mutex<Cached>>,
    fresh: Arc<AtomicBool>,
    /// The subject of the notification about the end of the session.
    subject: Subject,
    without: Without,
}

impl Model {
    fn new(subject: Subject, without: Without) -> Self {
        let server = Server {
            listening: true,
            ..Server::default()
        };
        Self {
            server: Arc::new(Mutex::new(server)),
            cache: Arc::default(),
            fresh: Arc::new(AtomicBool::new(true)),
            subject,
            without,
        }
    }

    /// Looks up the session, as a batch does.
    fn look_up(&self) {
        let position_of_log = || self.cache.lock().unwrap().log.position();
        let mut position = self.fresh.load(SeqCst).then(position_of_log);
        let live = !self.server.lock().unwrap().ended;
        thread::yield_now();
        if self.without == Without::EarlyPosition {
            position = self.fresh.load(SeqCst).then(position_of_log);
        }
        let Some(position) = position.filter(|_| live && self.fresh.load(SeqCst)) else {
            return;
        };
        let mut cache = self.cache.lock().unwrap();
        if self.without == Without::MayCache || cache.log.may_cache(position, SESSION, Some(USER)) {
            cache.cached = true;
        }
    }

    fn end(&self) {
        let mut server = self.server.lock().unwrap();
        server.ended = true;
        server.pending += usize::from(server.listening);
    }

    /// Applies the pending notifications.
    fn receive(&self) {
        let pending = std::mem::take(&mut self.server.lock().unwrap().pending);
        for _ in 0..pending {
            let mut cache = self.cache.lock().unwrap();
            cache.log.record(self.subject);
            cache.cached = false;
        }
    }

    /// Invalidates all sessions, because notifications may have been missed.
    /// `SubscriptionState::disconnect` does the same.
    fn invalidate_all(&self) {
        self.fresh.store(false, SeqCst);
        let mut cache = self.cache.lock().unwrap();
        if self.without != Without::RecordAll {
            cache.log.record_all();
        }
        if self.without != Without::Clear {
            cache.cached = false;
        }
    }

    fn reconnect(&self) {
        {
            let mut server = self.server.lock().unwrap();
            server.listening = false;
            server.pending = 0;
        }
        self.invalidate_all();
        if self.without == Without::ListenFirst {
            self.fresh.store(true, SeqCst);
            thread::yield_now();
        }
        self.server.lock().unwrap().listening = true;
        if self.without != Without::ListenFirst {
            self.invalidate_all();
            self.fresh.store(true, SeqCst);
        }
    }
}

fn check(without: Without) {
    check_subject(Subject::Session(SESSION), without);
}

fn check_subject(subject: Subject, without: Without) {
    check_random(
        move || {
            let model = Model::new(subject, without);
            let run = |act: fn(&Model)| {
                let model = model.clone();
                thread::spawn(move || act(&model))
            };
            let threads = [
                run(Model::look_up),
                run(Model::look_up),
                run(Model::end),
                run(|model| {
                    model.receive();
                    model.reconnect();
                    model.receive();
                }),
            ];
            for thread in threads {
                thread.join().unwrap();
            }
            model.receive();
            // The feed is connected, and all notifications are applied. The cache must agree with a
            // lookup.
            let ended = model.server.lock().unwrap().ended;
            assert!(model.fresh.load(SeqCst));
            assert!(
                !(ended && model.cache.lock().unwrap().cached),
                "an ended session is cached"
            );
            // A live session is still cached.
            let lives = Model::new(subject, without);
            lives.look_up();
            assert!(lives.cache.lock().unwrap().cached);
        },
        // If a guard is missing, perhaps only one schedule in thousands fails. The check ends at
        // the first failure.
        if without == Without::Nothing {
            5_000
        } else {
            500_000
        },
    );
}

/// E05, E07
#[test]
fn a_cached_session_is_what_a_lookup_would_find() {
    check(Without::Nothing);
}

/// N02
#[test]
fn a_cached_session_of_a_user_is_what_a_lookup_would_find() {
    check_subject(Subject::User(USER), Without::Nothing);
}

#[test]
#[should_panic = "an ended session is cached"]
fn the_model_rejects_caching_an_overtaken_lookup() {
    check(Without::MayCache);
}

#[test]
#[should_panic = "an ended session is cached"]
fn the_model_rejects_caching_across_a_reconnect() {
    check(Without::RecordAll);
}

#[test]
#[should_panic = "an ended session is cached"]
fn the_model_rejects_a_late_log_position() {
    check(Without::EarlyPosition);
}

#[test]
#[should_panic = "an ended session is cached"]
fn the_model_rejects_a_cache_that_outlives_its_feed() {
    check(Without::Clear);
}

#[test]
#[should_panic = "an ended session is cached"]
fn the_model_rejects_freshness_before_listening() {
    check(Without::ListenFirst);
}
