//! Each fault that one process can have with its database is visible in the events and metrics that
//! `SECURITY.md` names, and so is its end.

use std::{cell::RefCell, future::Future, pin::Pin, time::Duration};

use deadpool_postgres::{Object, Pool, Timeouts};
use ephemeral_postgres::TestDatabase;
use http::StatusCode;
use tokio::time::sleep;
use tower_user_session::{
    PgSessionStore, SessionService, SignedIn, feed::Ended, postgres::PgConnector,
    session::Lifetime, tokio_postgres::NoTls,
};

use crate::support::{
    Logs, PgSessions,
    caching::{LEASE, announced_database},
    current,
    fault::{ObservedFault, send},
    kill_lookups,
    proxy::{Line, Proxy},
    sign_out, sql, until_number,
};

/// Long enough for a slow machine.
const DEADLINE: Duration = Duration::from_secs(1);

/// The outages that are tested at the same time.
const AT_ONCE: usize = 4;

type Step<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A service over a proxy, with a feed, an open stream and two signed-in users.
struct Site {
    database: TestDatabase,
    proxy: Proxy,
    pool: Pool,
    /// The connections that the application uses.
    in_use: RefCell<Vec<Object>>,
    sessions: PgSessions,
    ada: SignedIn,
    eve: SignedIn,
    _stream: Ended,
}

/// An outage: the first cell of its row, how it begins and ends, and the operation that notices
/// both.
#[derive(Clone, Copy)]
struct Outage {
    fault: &'static str,
    begin: fn(&Site) -> Step<'_>,
    end: fn(&Site) -> Step<'_>,
    operation: fn(&Site) -> Step<'_>,
}

const OUTAGES: [Outage; 15] = [
    Outage {
        fault: "the database is down",
        begin: cut,
        end: reconnect,
        operation: request,
    },
    Outage {
        fault: "the database does not respond",
        begin: silence,
        end: reconnect,
        operation: request,
    },
    Outage {
        fault: "a table is missing or was changed",
        begin: |site| Box::pin(rename(site, "sessions", "hidden")),
        end: |site| Box::pin(rename(site, "hidden", "sessions")),
        operation: request_and_clean_up,
    },
    Outage {
        fault: "a table is missing or was changed",
        begin: |site| Box::pin(rename(site, "users", "hidden")),
        end: |site| Box::pin(rename(site, "hidden", "users")),
        operation: request_and_sign_in,
    },
    Outage {
        fault: "the feed is disconnected, silent or late",
        begin: cut,
        end: reconnect,
        operation: pause,
    },
    Outage {
        fault: "the feed is disconnected, silent or late",
        begin: silence,
        end: reconnect,
        operation: pause,
    },
    Outage {
        fault: "the feed is disconnected, silent or late",
        begin: |site| Box::pin(async { site.proxy.set(Line::Delayed(2 * LEASE)) }),
        end: reconnect,
        operation: pause,
    },
    Outage {
        fault: "announcing triggers are disabled or dropped",
        begin: |site| Box::pin(set_triggers(site, "DISABLE TRIGGER")),
        end: |site| Box::pin(set_triggers(site, "ENABLE ALWAYS TRIGGER")),
        operation: pause,
    },
    Outage {
        fault: "a session's row is locked, or a trigger of the application rejects its deletion",
        begin: |site| Box::pin(forbid(site, "RAISE 'forbidden'")),
        end: allow,
        operation: sign_in_and_out,
    },
    Outage {
        fault: "a trigger or a rule on the sessions table suppresses a change without an error",
        begin: |site| Box::pin(forbid(site, "RETURN NULL")),
        end: allow,
        operation: |site| {
            Box::pin(async {
                sign_in_and_out(site).await;
                let _ = site.sessions.revoke_all(&2).await;
            })
        },
    },
    Outage {
        fault: "a table is locked, or statements are slow",
        begin: |site| Box::pin(hold(site, "LOCK TABLE users IN ACCESS EXCLUSIVE MODE")),
        end: release,
        operation: request,
    },
    Outage {
        fault: "the rows of one user are locked",
        begin: |site| {
            let rows = "PERFORM FROM users WHERE id = 2 FOR UPDATE;
                PERFORM FROM sessions WHERE user_id = 2 FOR UPDATE";
            Box::pin(hold(site, rows))
        },
        end: release,
        operation: |site| {
            Box::pin(async {
                let eve = site.sessions.sign_in_without_request(2).await;
                let eve = eve.as_ref().unwrap_or(&site.eve);
                let _ = sign_out(&site.sessions, eve.token()).await;
            })
        },
    },
    Outage {
        fault: "one row makes lookups slow",
        begin: |site| {
            let slow = "ALTER TABLE users RENAME TO hidden;
                CREATE VIEW users AS SELECT * FROM hidden
                    WHERE id <> 1 OR pg_sleep(600) IS NOT NULL";
            Box::pin(admin(site, slow))
        },
        end: |site| {
            Box::pin(admin(
                site,
                "DROP VIEW users; ALTER TABLE hidden RENAME TO users",
            ))
        },
        operation: request,
    },
    Outage {
        fault: "the pool is exhausted",
        begin: |site| Box::pin(exhaust(site)),
        end: |site| Box::pin(async { site.in_use.borrow_mut().clear() }),
        operation: |site| {
            Box::pin(async {
                kill_lookups(&site.database).await;
                request(site).await;
            })
        },
    },
    Outage {
        fault: "the primary accepts no writes (`default_transaction_read_only`)",
        begin: |site| Box::pin(set_read_only(site, "on")),
        end: |site| Box::pin(set_read_only(site, "off")),
        operation: |site| {
            Box::pin(async {
                let earlier = "UPDATE sessions SET last_seen_at = now() - interval '30 minutes'";
                admin(site, earlier).await;
                request(site).await;
            })
        },
    },
];

/// Q03: each outage is visible in the events and metrics of its row in `SECURITY.md`. One event
/// reports its end, with the time that it lasted, and no metric shows it after that.
#[test]
fn each_outage_and_its_end_are_visible() {
    for outages in OUTAGES.chunks(AT_ONCE) {
        std::thread::scope(|threads| {
            for outage in outages {
                // The test harness gives the thread of a test its name.
                let thread = std::thread::Builder::new().name(outage.fault.to_owned());
                let run = || {
                    let runtime = tokio::runtime::Builder::new_current_thread();
                    let runtime = { runtime }.enable_all().build().unwrap();
                    runtime.block_on(outage.is_visible());
                };
                thread.spawn_scoped(threads, run).unwrap();
            }
        });
    }
}

impl Outage {
    async fn is_visible(&self) {
        let site = Site::open().await;
        let fault = ObservedFault::begin(self.fault, &site.sessions);
        (self.begin)(&site).await;
        fault
            .becomes_visible(async || (self.operation)(&site).await)
            .await;
        (self.end)(&site).await;
        fault.ends(async || (self.operation)(&site).await).await;
    }
}

/// Q03: a password provider that fails and returns is reported, at most once in ten seconds.
#[tokio::test]
async fn an_outage_of_the_password_provider_and_its_end_are_visible() {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    };
    let logs = Logs::capture();
    let database = crate::support::database().await;
    let works = Arc::new(AtomicBool::new(false));
    let provider = {
        let works = Arc::clone(&works);
        move || {
            let works = works.load(SeqCst);
            async move { works.then(|| "any".to_owned()).ok_or("made up") }
        }
    };
    let connector = PgConnector::new(database.config(), NoTls).with_password(provider);
    let connect = async || {
        let pool = Pool::builder(connector.manager()).build().unwrap();
        drop(pool.get().await.unwrap());
    };
    for _ in 0..3 {
        connect().await;
    }
    works.store(true, SeqCst);
    for _ in 0..3 {
        connect().await;
    }
    let mut events = logs.events();
    events.retain(|event| event.contains("password provider"));
    let [failed, recovered] = &events[..] else {
        panic!("{events:#?}")
    };
    assert!(failed.contains("event=\"password_failed\""), "{failed}");
    assert!(
        recovered.contains("event=\"password_recovered\""),
        "{recovered}"
    );
    assert!(recovered.contains("failures=3"), "{recovered}");
}

impl Site {
    async fn open() -> Self {
        let database = announced_database().await;
        let proxy = Proxy::before(&database).await;
        let lifetime = Lifetime::absolute(Duration::from_secs(60 * 60 * 10)).unwrap();
        let lifetime = lifetime.with_idle(Duration::from_secs(60 * 60)).unwrap();
        let pool = proxy.pool(8);
        let store = PgSessionStore::new(pool.clone()).with_lifetime(lifetime);
        let builder = SessionService::builder(store).lease(LEASE);
        let sessions = builder.deadline(DEADLINE).build().unwrap();
        let feed = sessions.store().feed(proxy.config(), NoTls);
        sessions.subscribe(feed).await.unwrap();
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        let eve = sessions.sign_in_without_request(2).await.unwrap();
        Self {
            _stream: sessions.ended(&current(&ada)),
            database,
            proxy,
            pool,
            in_use: RefCell::default(),
            sessions,
            ada,
            eve,
        }
    }
}

fn cut(site: &Site) -> Step<'_> {
    Box::pin(async { site.proxy.set(Line::Cut) })
}

fn silence(site: &Site) -> Step<'_> {
    Box::pin(async { site.proxy.set(Line::Silent) })
}

fn reconnect(site: &Site) -> Step<'_> {
    Box::pin(async { site.proxy.set(Line::Open) })
}

fn pause(_: &Site) -> Step<'_> {
    Box::pin(sleep(Duration::from_millis(20)))
}

fn request(site: &Site) -> Step<'_> {
    Box::pin(async {
        let status = send(&site.sessions, site.ada.token()).await;
        assert_ne!(status, StatusCode::UNAUTHORIZED);
    })
}

fn request_and_sign_in(site: &Site) -> Step<'_> {
    Box::pin(async {
        request(site).await;
        let _ = site.sessions.sign_in_without_request(2).await;
    })
}

fn request_and_clean_up(site: &Site) -> Step<'_> {
    Box::pin(async {
        request(site).await;
        let rounds = site.sessions.delete_expired_every(Duration::ZERO);
        let _ = tokio::time::timeout(Duration::from_millis(1_600), rounds).await;
    })
}

fn sign_in_and_out(site: &Site) -> Step<'_> {
    Box::pin(async {
        let eve = site.sessions.sign_in_without_request(2).await.unwrap();
        let _ = sign_out(&site.sessions, eve.token()).await;
    })
}

/// Runs statements as the administrator, which no setting of the database forbids.
async fn admin(site: &Site, statements: &str) {
    let client = site.database.client().await;
    let settings =
        "SET default_transaction_read_only = off; SET session_replication_role = replica;";
    client.batch_execute(settings).await.unwrap();
    client.batch_execute(statements).await.unwrap();
}

/// Creates a trigger with this body for the deletion of sessions.
async fn forbid(site: &Site, body: &str) {
    let trigger = format!(
        "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;
         CREATE TRIGGER forbid BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION forbid()"
    );
    admin(site, &trigger).await;
}

fn allow(site: &Site) -> Step<'_> {
    Box::pin(admin(site, "DROP FUNCTION forbid() CASCADE"))
}

async fn rename(site: &Site, from: &str, to: &str) {
    admin(site, &format!("ALTER TABLE {from} RENAME TO {to}")).await;
}

/// Takes locks until [`release`].
async fn hold(site: &Site, lock: &str) {
    let client = site.database.client().await;
    let lock = format!("DO $$ BEGIN {lock}; PERFORM pg_sleep(600); END $$");
    tokio::spawn(async move { client.batch_execute(&lock).await });
    let sleeping = "SELECT count(*) FROM pg_stat_activity
        WHERE wait_event = 'PgSleep' AND datname = current_database()";
    until_number(&site.database, sleeping, 1).await;
}

fn release(site: &Site) -> Step<'_> {
    Box::pin(async {
        let holder = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE wait_event = 'PgSleep' AND datname = current_database()";
        sql(&site.database, holder).await;
    })
}

/// Takes all connections that the pool may open beside those of the store.
async fn exhaust(site: &Site) {
    let timeouts = Timeouts {
        wait: Some(Duration::ZERO),
        ..Timeouts::default()
    };
    while let Ok(object) = site.pool.timeout_get(&timeouts).await {
        site.in_use.borrow_mut().push(object);
    }
    assert!(!site.in_use.borrow().is_empty());
}

/// Makes the transactions of new connections read-only or not, and closes the connections.
async fn set_read_only(site: &Site, value: &str) {
    let database = site.database.name();
    let change = format!("ALTER DATABASE {database} SET default_transaction_read_only = {value}");
    admin(site, &change).await;
    let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    admin(site, others).await;
}

async fn set_triggers(site: &Site, change: &str) {
    let each = format!(
        "DO $$ DECLARE name text; BEGIN
             FOR name IN SELECT tgname FROM pg_trigger
                 WHERE tgrelid = 'sessions'::regclass AND NOT tgisinternal
             LOOP
                 EXECUTE format('ALTER TABLE sessions {change} %I', name);
             END LOOP;
         END $$"
    );
    admin(site, &each).await;
}
