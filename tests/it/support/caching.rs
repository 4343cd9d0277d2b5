//! Services with a cache and a feed, and sessions that are in the cache.

use std::time::{Duration, Instant};

use ephemeral_postgres::TestDatabase;
use tower_user_session::{
    PgSessionStore, SessionService, SignedIn, session::SessionToken, store::SessionLookup,
    tokio_postgres::NoTls,
};

use super::{
    database::{database, pool, sql},
    users::{PgSessions, User},
    waiting::PATIENCE,
};

pub const LEASE: Duration = Duration::from_millis(400);

/// A database with the triggers for sessions and users.
pub async fn announced_database() -> TestDatabase {
    let database = database().await;
    let store = PgSessionStore::<User>::new(pool(&database, 1));
    store.migrate().notify_on_user_change().await.unwrap();
    database
}

/// A service as in one process.
pub fn process(database: &TestDatabase) -> PgSessions {
    process_with_lease(database, LEASE)
}

pub fn process_with_lease(database: &TestDatabase, lease: Duration) -> PgSessions {
    let store = PgSessionStore::new(pool(database, 4));
    SessionService::builder(store).lease(lease).build().unwrap()
}

/// A service with a cache.
pub async fn caching(database: &TestDatabase) -> PgSessions {
    let sessions = process(database);
    let feed = sessions.store().feed(database.config(), NoTls);
    sessions.enable_cache(feed, 1_000).await.unwrap();
    sessions
}

/// Signs in a session that is old enough to be cached.
pub async fn signed_in(database: &TestDatabase, sessions: &PgSessions) -> SignedIn {
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let older = format!(
        "UPDATE sessions SET created_at = created_at - interval '1 hour' WHERE id = '{}'",
        signed_in.session().id()
    );
    sql(database, &older).await;
    signed_in
}

/// Looks the token up until it is answered from the cache.
pub async fn until_cached<L: SessionLookup>(sessions: &SessionService<L>, token: &SessionToken) {
    let patience = Instant::now() + PATIENCE;
    loop {
        let before = sessions.metrics().from_cache;
        assert!(sessions.user(token).await.unwrap().is_some());
        if sessions.metrics().from_cache > before {
            return;
        }
        assert!(Instant::now() < patience, "the session is never cached");
    }
}
