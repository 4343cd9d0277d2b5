//! A model check of [what is kept](super::announced): every schedule that shuttle tries of lookups, of a
//! session that ends, and of a feed that is lost and connected again meanwhile.

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

/// A guard that is left out, to see the model object.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Without {
    Nothing,
    /// A lookup that was overtaken by an announcement is kept all the same.
    Overtaking,
    /// A lookup that began before the feed was lost is kept when it is back.
    Voiding,
    /// The moment is taken down when the answer is there, and not before the question.
    AskingFirst,
    /// What was kept before the feed was lost is still there when it is back.
    Clearing,
    /// The feed counts as hearing before it listens.
    ListeningFirst,
}

/// What PostgreSQL does: a session lives or not, and whoever listens is told when that changes.
#[derive(Default)]
struct Server {
    ended: bool,
    listening: bool,
    announced: usize,
}

#[derive(Default)]
struct Kept {
    announced: InvalidationLog,
    kept: bool,
}

#[derive(Clone)]
struct Model {
    server: Arc<Mutex<Server>>,
    cache: Arc<Mutex<Kept>>,
    hears: Arc<AtomicBool>,
    /// By what the end of the session is announced.
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
            hears: Arc::new(AtomicBool::new(true)),
            subject,
            without,
        }
    }

    /// A lookup, as the resolver makes it.
    fn look_up(&self) {
        let ask = || self.cache.lock().unwrap().announced.ask();
        let mut asked = self.hears.load(SeqCst).then(ask);
        let live = !self.server.lock().unwrap().ended;
        thread::yield_now();
        if self.without == Without::AskingFirst {
            asked = self.hears.load(SeqCst).then(ask);
        }
        let Some(asked) = asked.filter(|_| live && self.hears.load(SeqCst)) else {
            return;
        };
        let mut cache = self.cache.lock().unwrap();
        if self.without == Without::Overtaking
            || cache.announced.may_cache(asked, SESSION, Some(USER))
        {
            cache.kept = true;
        }
    }

    fn end(&self) {
        let mut server = self.server.lock().unwrap();
        server.ended = true;
        server.announced += usize::from(server.listening);
    }

    /// Takes in what was announced.
    fn listen(&self) {
        let announced = std::mem::take(&mut self.server.lock().unwrap().announced);
        for _ in 0..announced {
            let mut cache = self.cache.lock().unwrap();
            cache.announced.announce(self.subject);
            cache.kept = false;
        }
    }

    /// As `Following::connected`: anything may have been missed.
    fn missed(&self) {
        self.hears.store(false, SeqCst);
        let mut cache = self.cache.lock().unwrap();
        if self.without != Without::Voiding {
            cache.announced.announce_everything();
        }
        if self.without != Without::Clearing {
            cache.kept = false;
        }
    }

    fn lose_and_connect(&self) {
        {
            let mut server = self.server.lock().unwrap();
            server.listening = false;
            server.announced = 0;
        }
        self.missed();
        if self.without == Without::ListeningFirst {
            self.hears.store(true, SeqCst);
            thread::yield_now();
        }
        self.server.lock().unwrap().listening = true;
        if self.without != Without::ListeningFirst {
            self.missed();
            self.hears.store(true, SeqCst);
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
                    model.listen();
                    model.lose_and_connect();
                    model.listen();
                }),
            ];
            for thread in threads {
                thread.join().unwrap();
            }
            model.listen();
            // It hears, and has heard everything: what is kept is what a lookup would find.
            let ended = model.server.lock().unwrap().ended;
            assert!(model.hears.load(SeqCst));
            assert!(
                !(ended && model.cache.lock().unwrap().kept),
                "an ended session is kept"
            );
            // And it still keeps what lives.
            let lives = Model::new(subject, without);
            lives.look_up();
            assert!(lives.cache.lock().unwrap().kept);
        },
        // Some of what is left out shows in one schedule of thousands; the first one ends the check.
        if without == Without::Nothing {
            5_000
        } else {
            500_000
        },
    );
}

/// E05, E07
#[test]
fn what_is_kept_is_what_a_lookup_would_find() {
    check(Without::Nothing);
}

/// N02
#[test]
fn what_is_kept_of_a_user_is_what_a_lookup_would_find() {
    check_subject(Subject::User(USER), Without::Nothing);
}

#[test]
#[should_panic = "an ended session is kept"]
fn the_model_objects_to_keeping_what_was_overtaken() {
    check(Without::Overtaking);
}

#[test]
#[should_panic = "an ended session is kept"]
fn the_model_objects_to_keeping_across_a_loss() {
    check(Without::Voiding);
}

#[test]
#[should_panic = "an ended session is kept"]
fn the_model_objects_to_asking_late() {
    check(Without::AskingFirst);
}

#[test]
#[should_panic = "an ended session is kept"]
fn the_model_objects_to_a_cache_that_outlives_its_feed() {
    check(Without::Clearing);
}

#[test]
#[should_panic = "an ended session is kept"]
fn the_model_objects_to_hearing_before_listening() {
    check(Without::ListeningFirst);
}
