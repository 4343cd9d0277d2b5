//! Each outage is an event and visible in the metrics, and so is its end.

use std::{
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use deadpool_postgres::Pool;
use ephemeral_postgres::TestDatabase;
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt as _};
use tower_user_session::{
    LoadUserLayer, PgSessionStore, SessionService, SignedIn, feed::Ended, metrics::SessionMetrics,
    postgres::PgConnector, session::Lifetime, tokio_postgres::NoTls,
};

use crate::support::{
    Logs, PATIENCE, PgSessions,
    caching::{LEASE, announced_database},
    cookie, current, number,
    proxy::{Line, Proxy},
    sql, who,
};

/// Long enough for a slow machine.
const DEADLINE: Duration = Duration::from_secs(1);

type Step<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A service over a proxy, with a feed, an open stream and a signed-in user.
struct Site {
    database: TestDatabase,
    proxy: Proxy,
    sessions: PgSessions,
    ada: SignedIn,
    _stream: Ended,
}

/// An outage: how it begins and ends, and the operation that notices both.
struct Outage {
    /// The start of both events' names.
    subject: &'static str,
    broken: &'static str,
    begin: fn(&Site) -> Step<'_>,
    end: fn(&Site) -> Step<'_>,
    operation: fn(&Site) -> Step<'_>,
    /// A counter of failures, or a gauge that is above zero during the outage.
    symptom: fn(&SessionMetrics) -> u64,
    /// Whether the symptom is a gauge, which must return to zero.
    gauge: bool,
}

const OUTAGES: [Outage; 11] = [
    Outage {
        subject: "lookup",
        broken: "failed",
        begin: |site| Box::pin(async { site.proxy.set(Line::Silent) }),
        end: reconnect,
        operation: request,
        symptom: |metrics| metrics.lookups_failed,
        gauge: false,
    },
    Outage {
        subject: "lookup",
        broken: "failed",
        begin: cut,
        end: reconnect,
        operation: request,
        symptom: |metrics| metrics.unavailable,
        gauge: false,
    },
    Outage {
        subject: "feed",
        broken: "disconnected",
        begin: cut,
        end: reconnect,
        operation: pause,
        symptom: |metrics| u64::from(metrics.feed_connected == Some(false)),
        gauge: true,
    },
    Outage {
        subject: "recheck",
        broken: "failed",
        begin: cut,
        end: reconnect,
        operation: pause,
        symptom: |metrics| metrics.store.connections_failed,
        gauge: false,
    },
    Outage {
        subject: "last_use",
        broken: "failed",
        begin: |site| Box::pin(forbid(site, "UPDATE")),
        end: allow,
        operation: |site| {
            Box::pin(async {
                let back = "UPDATE sessions SET last_seen_at = now() - interval '30 minutes'";
                let admin = format!("SET session_replication_role = replica; {back}");
                site.database
                    .client()
                    .await
                    .batch_execute(&admin)
                    .await
                    .unwrap();
                request(site).await;
            })
        },
        symptom: |metrics| metrics.uses_failed,
        gauge: false,
    },
    Outage {
        subject: "sign_out",
        broken: "failed",
        begin: |site| Box::pin(forbid(site, "DELETE")),
        end: allow,
        operation: |site| {
            Box::pin(async {
                let sessions = &site.sessions;
                let eve = sessions.sign_in_without_request(2).await.unwrap();
                let _ = sessions.sign_out(&cookie(sessions, eve.token())).await;
            })
        },
        symptom: |metrics| metrics.sign_outs_failed,
        gauge: false,
    },
    Outage {
        subject: "deletion",
        broken: "failed",
        begin: |site| Box::pin(rename(site, "sessions", "hidden")),
        end: |site| Box::pin(rename(site, "hidden", "sessions")),
        operation: |site| {
            Box::pin(async {
                let rounds = site.sessions.delete_expired_every(Duration::ZERO);
                let _ = tokio::time::timeout(Duration::from_millis(1_600), rounds).await;
            })
        },
        symptom: |metrics| metrics.deletions_failed,
        gauge: false,
    },
    Outage {
        subject: "lookup",
        broken: "failed",
        begin: |site| Box::pin(rename(site, "users", "hidden")),
        end: |site| Box::pin(rename(site, "hidden", "users")),
        operation: request,
        symptom: |metrics| metrics.statements_failed,
        gauge: false,
    },
    Outage {
        subject: "lookup",
        broken: "failed",
        begin: |site| Box::pin(lock_users(site)),
        end: |site| Box::pin(unlock_users(site)),
        operation: request,
        symptom: |metrics| metrics.lookups_failed,
        gauge: false,
    },
    Outage {
        subject: "feed",
        broken: "disconnected",
        begin: |site| Box::pin(async { site.proxy.set(Line::Silent) }),
        end: reconnect,
        operation: pause,
        symptom: |metrics| u64::from(metrics.feed_connected == Some(false)),
        gauge: true,
    },
    Outage {
        subject: "feed",
        broken: "disconnected",
        begin: |site| Box::pin(set_triggers(site, "DISABLE TRIGGER")),
        end: |site| Box::pin(set_triggers(site, "ENABLE ALWAYS TRIGGER")),
        operation: pause,
        symptom: |metrics| u64::from(metrics.feed_connected == Some(false)),
        gauge: true,
    },
];

/// Q03: each outage writes one event about its begin and one about its end, with the time that it
/// lasted, and a metric shows it.
#[tokio::test]
async fn each_outage_and_its_end_are_visible() {
    for outage in OUTAGES {
        let Outage {
            subject, broken, ..
        } = outage;
        let logs = Logs::capture();
        let site = Site::open().await;
        let before = (outage.symptom)(&site.sessions.metrics());
        (outage.begin)(&site).await;
        let failed = seen(
            &site,
            &outage,
            &logs,
            &format!("event=\"{subject}_{broken}\""),
        )
        .await;
        assert!(
            failed.contains(" error=") && failed.contains(" kind="),
            "{failed}"
        );
        // A waiter times out before its batch does, and a lost connection before the next attempt.
        let shows = || (outage.symptom)(&site.sessions.metrics()) > before;
        let patience = Instant::now() + PATIENCE;
        while !shows() {
            assert!(Instant::now() < patience, "{subject}: no metric shows it");
            (outage.operation)(&site).await;
            sleep(Duration::from_millis(5)).await;
        }

        (outage.end)(&site).await;
        let name = format!("event=\"{subject}_recovered\"");
        let recovered = seen(&site, &outage, &logs, &name).await;
        assert!(recovered.contains(" INFO "), "{recovered}");
        assert!(
            recovered.contains(" after=") && recovered.contains(" failures="),
            "{recovered}"
        );
        let after = || (outage.symptom)(&site.sessions.metrics());
        if outage.gauge {
            assert_eq!(after(), 0, "{subject}");
        } else {
            let settled = after();
            (outage.operation)(&site).await;
            assert_eq!(after(), settled, "{subject} still fails");
        }
        let events = logs.events();
        let written = events.iter().filter(|event| event.contains(&name)).count();
        assert_eq!(written, 1, "{subject}: {events:#?}");
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
        let store = PgSessionStore::new(proxy.pool(8)).with_lifetime(lifetime);
        let builder = SessionService::builder(store).lease(LEASE);
        let sessions = builder.deadline(DEADLINE).build().unwrap();
        let feed = sessions.store().feed(proxy.config(), NoTls);
        sessions.subscribe(feed).await.unwrap();
        let ada = sessions.sign_in_without_request(1).await.unwrap();
        Self {
            _stream: sessions.ended(&current(&ada)),
            database,
            proxy,
            sessions,
            ada,
        }
    }
}

/// Repeats the operation until the log contains this event, and returns the event.
async fn seen(site: &Site, outage: &Outage, logs: &Logs, event: &str) -> String {
    let patience = Instant::now() + PATIENCE;
    loop {
        (outage.operation)(site).await;
        if let Some(found) = logs.events().into_iter().find(|line| line.contains(event)) {
            return found;
        }
        assert!(
            Instant::now() < patience,
            "no {event} in {:#?}",
            logs.events()
        );
        sleep(Duration::from_millis(5)).await;
    }
}

fn cut(site: &Site) -> Step<'_> {
    Box::pin(async { site.proxy.set(Line::Cut) })
}

fn reconnect(site: &Site) -> Step<'_> {
    Box::pin(async { site.proxy.set(Line::Open) })
}

fn pause(_: &Site) -> Step<'_> {
    Box::pin(sleep(Duration::from_millis(20)))
}

fn request(site: &Site) -> Step<'_> {
    Box::pin(async {
        let app = ServiceBuilder::new()
            .layer(LoadUserLayer::new(site.sessions.clone()))
            .service_fn(who::<String>);
        let mut request = http::Request::new(String::new());
        *request.headers_mut() = cookie(&site.sessions, site.ada.token());
        let response = app.oneshot(request).await.unwrap();
        assert_ne!(response.body(), "anonymous");
    })
}

/// Makes this statement on the sessions fail.
async fn forbid(site: &Site, statement: &str) {
    let trigger = format!(
        "CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql
             AS $$ BEGIN RAISE 'forbidden'; END $$;
         CREATE TRIGGER forbid BEFORE {statement} ON sessions FOR EACH ROW EXECUTE FUNCTION forbid()"
    );
    site.database
        .client()
        .await
        .batch_execute(&trigger)
        .await
        .unwrap();
}

fn allow(site: &Site) -> Step<'_> {
    Box::pin(async {
        sql(&site.database, "DROP FUNCTION forbid() CASCADE").await;
    })
}

async fn rename(site: &Site, from: &str, to: &str) {
    sql(
        &site.database,
        &format!("ALTER TABLE {from} RENAME TO {to}"),
    )
    .await;
}

/// Locks the users table until [`unlock_users`].
async fn lock_users(site: &Site) {
    let client = site.database.client().await;
    tokio::spawn(async move {
        let lock = "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(600)";
        let _ = client.batch_execute(lock).await;
    });
    until_held(site, true).await;
}

async fn unlock_users(site: &Site) {
    let holder = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE query LIKE '%pg_sleep(600)' AND datname = current_database()";
    sql(&site.database, holder).await;
    until_held(site, false).await;
}

async fn until_held(site: &Site, held: bool) {
    let locks = "SELECT count(*) FROM pg_locks
        WHERE relation = 'users'::regclass AND mode = 'AccessExclusiveLock' AND granted";
    let patience = Instant::now() + PATIENCE;
    while (number(&site.database, locks).await == 1) != held {
        assert!(Instant::now() < patience, "the lock is not {held}");
        sleep(Duration::from_millis(5)).await;
    }
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
    sql(&site.database, &each).await;
}
