//! Round trips of each operation, counted on the wire.

use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::time::sleep;
use tower_user_session::{
    CurrentSession, ErrorKind, PgSessionStore, SessionService, SignedIn,
    session::{SessionLimit, SessionToken},
    store::{SessionLookup as _, SessionStore as _, SessionUse},
    tokio_postgres::NoTls,
};

use crate::support::{
    PgSessions, User,
    caching::announced_database,
    cookie, database,
    organizations::{Member, PgMembers, members, organizations},
    pool,
    proxy::{Line, Proxy},
    sessions,
};

/// Long enough that what is sent together has passed before a response arrives.
const DELAY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug)]
enum Call {
    SignIn,
    SignInThatReplaces,
    SignInThatIsRefused,
    SignInBeyondTheLimit,
    Reauthenticate,
    ReauthenticateUnknown,
    Revoke,
    RevokeUnknown,
    RevokeOthers,
    RevokeAll,
    SignOut,
    SignOutUnknown,
    List,
    Recheck,
    RecordUses,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    None,
    Refuse,
    EndOldest,
}

/// The most round trips of each operation, one line each.
const MOST: &[(Call, Limit, u64)] = &[
    (Call::SignIn, Limit::None, 2),
    (Call::SignIn, Limit::Refuse, 2),
    (Call::SignIn, Limit::EndOldest, 2),
    (Call::SignInThatReplaces, Limit::None, 2),
    (Call::SignInThatReplaces, Limit::Refuse, 2),
    (Call::SignInThatReplaces, Limit::EndOldest, 2),
    (Call::SignInThatIsRefused, Limit::None, 2),
    (Call::SignInThatIsRefused, Limit::EndOldest, 2),
    // The second one is the rollback.
    (Call::SignInBeyondTheLimit, Limit::Refuse, 2),
    (Call::Reauthenticate, Limit::None, 1),
    (Call::ReauthenticateUnknown, Limit::None, 1),
    (Call::Revoke, Limit::None, 2),
    (Call::RevokeUnknown, Limit::None, 2),
    (Call::RevokeOthers, Limit::None, 2),
    (Call::RevokeAll, Limit::None, 2),
    (Call::SignOut, Limit::None, 1),
    (Call::SignOutUnknown, Limit::None, 1),
    (Call::List, Limit::None, 1),
    (Call::Recheck, Limit::None, 1),
    (Call::RecordUses, Limit::None, 1),
];

/// F28: the number of round trips of each operation has a maximum, with prepared statements and
/// behind a transaction pooler. The first use of a statement on a connection may add one.
#[tokio::test]
async fn each_operation_takes_few_round_trips() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let other = sessions(&database);
    for pooling in [false, true] {
        for &(call, limit, most) in MOST {
            let case = format!("{call:?}, limit {limit:?}, transaction pooling {pooling}");
            let sessions = service(&proxy, pooling, limit);
            proxy.set(Line::Open);
            // Opens the connections.
            sessions.store().check().await.unwrap();
            proxy.set(Line::Delayed(DELAY));
            for (run, extra) in [("first", 1), ("second", 0)] {
                other.revoke_all(&1).await.unwrap();
                let trips = run_counted(&sessions, &other, &proxy, call).await;
                assert!(
                    (1..=most + extra).contains(&trips),
                    "{case}: {trips} round trips in the {run} run"
                );
            }
            sessions.close().await;
        }
    }
}

fn service(proxy: &Proxy, pooling: bool, limit: Limit) -> PgSessions {
    let mut store = PgSessionStore::new(proxy.pool(4));
    if pooling {
        store = store.with_transaction_pooling();
    }
    store = match limit {
        Limit::None => store,
        Limit::Refuse => store.with_session_limit(SessionLimit::refuse_new(1).unwrap()),
        Limit::EndOldest => store.with_session_limit(SessionLimit::end_oldest(1).unwrap()),
    };
    SessionService::new(store)
}

/// Runs the call for a user with one session, and returns its round trips.
async fn run_counted(sessions: &PgSessions, other: &PgSessions, proxy: &Proxy, call: Call) -> u64 {
    // Most calls need a session. It is begun through another connection.
    let ada = match call {
        Call::SignIn => None,
        _ => Some(other.sign_in_without_request(1).await.unwrap()),
    };
    let unknown = cookie(sessions, &SessionToken::generate().unwrap());
    let known = ada
        .as_ref()
        .map_or_else(HeaderMap::new, |ada| cookie(sessions, ada.token()));
    let session = ada.as_ref().map(SignedIn::session);
    proxy.round_trips();
    match call {
        Call::SignIn => drop(sessions.sign_in_without_request(1).await.unwrap()),
        Call::SignInThatReplaces => drop(sessions.sign_in(1, &known).await.unwrap()),
        Call::SignInThatIsRefused => {
            let refused = sessions
                .sign_in_without_request(1)
                .if_unchanged("u.email", "old@example.com");
            assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::UserNotAllowed);
        }
        Call::SignInBeyondTheLimit => {
            let error = sessions.sign_in_without_request(1).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooManySessions);
        }
        Call::Reauthenticate => drop(sessions.reauthenticate(1, &known).await.unwrap()),
        Call::ReauthenticateUnknown => {
            let error = sessions.reauthenticate(1, &unknown).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SessionNotFound);
        }
        Call::Revoke => assert!(sessions.revoke(&1, session.unwrap().id()).await.unwrap()),
        Call::RevokeUnknown => {
            assert!(!sessions.revoke(&2, session.unwrap().id()).await.unwrap());
        }
        Call::RevokeOthers => {
            let current = CurrentSession::new(session.unwrap());
            assert_eq!(sessions.revoke_others(&1, &current).await.unwrap(), 0);
        }
        Call::RevokeAll => assert_eq!(sessions.revoke_all(&1).await.unwrap(), 1),
        Call::SignOut => assert!(sessions.sign_out(&known).await.ended().unwrap()),
        Call::SignOutUnknown => assert!(!sessions.sign_out(&unknown).await.ended().unwrap()),
        Call::List => assert_eq!(sessions.sessions_of(&1).await.unwrap().len(), 1),
        Call::Recheck => {
            let ids = [session.unwrap().id()];
            let live = sessions.store().remaining_lifetimes(&ids).await.unwrap();
            assert_eq!(live.len(), 1);
        }
        Call::RecordUses => {
            let session = session.unwrap();
            let used = SessionUse::new(session.id(), session.times().last_seen_at);
            sessions.store().touch(&[used]).await.unwrap();
        }
    }
    proxy.round_trips()
}

#[derive(Clone, Copy, Debug)]
enum ColumnCall {
    SignIn,
    SignInThatIsRefused,
    Reauthenticate,
    Update,
    UpdateEnded,
    RevokeWhere,
}

/// The most round trips of each operation with a session column, one line each: with prepared
/// statements, and behind a transaction pooler, where the type of the column is looked up first.
const MOST_WITH_COLUMN: &[(ColumnCall, u64, u64)] = &[
    // The count of the user's sessions has the column, too.
    (ColumnCall::SignIn, 2, 3),
    (ColumnCall::SignInThatIsRefused, 2, 3),
    (ColumnCall::Reauthenticate, 1, 2),
    (ColumnCall::Update, 1, 2),
    (ColumnCall::UpdateEnded, 1, 2),
    (ColumnCall::RevokeWhere, 2, 2),
];

/// F28: with prepared statements, a session column adds no round trip.
#[tokio::test]
async fn a_session_column_takes_no_round_trip() {
    let database = organizations().await;
    let proxy = Proxy::before(&database).await;
    let other = members(&database);
    let mut wrong = Vec::new();
    for pooling in [false, true] {
        let mut store = PgSessionStore::<Member>::new(proxy.pool(4))
            .with_session_limit(SessionLimit::refuse_new(2).unwrap());
        if pooling {
            store = store.with_transaction_pooling();
        }
        let sessions = SessionService::new(store);
        for &(call, prepared, pooled) in MOST_WITH_COLUMN {
            proxy.set(Line::Open);
            sessions.store().check().await.unwrap();
            proxy.set(Line::Delayed(DELAY));
            let most = if pooling { pooled } else { prepared };
            for (run, extra) in [("first", 1), ("second", 0)] {
                other.revoke_all(&1).await.unwrap();
                let trips = column_call_counted(&sessions, &other, &proxy, call).await;
                if !(1..=most + extra).contains(&trips) {
                    wrong.push((call, pooling, run, trips));
                }
            }
        }
        sessions.close().await;
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Runs the call for a user with one session in organization 7, and returns its round trips.
async fn column_call_counted(
    sessions: &PgMembers,
    other: &PgMembers,
    proxy: &Proxy,
    call: ColumnCall,
) -> u64 {
    let ada = other
        .sign_in_without_request(1)
        .set("active_org_id", 7_i64)
        .await
        .unwrap();
    let presented = cookie(sessions, ada.token());
    let current = CurrentSession::new(ada.session());
    if matches!(call, ColumnCall::UpdateEnded) {
        assert!(other.revoke(&1, ada.session().id()).await.unwrap());
    }
    proxy.round_trips();
    match call {
        ColumnCall::SignIn => {
            let sign_in = sessions.sign_in_without_request(1);
            let _ = sign_in.set("active_org_id", 8_i64).await.unwrap();
        }
        ColumnCall::SignInThatIsRefused => {
            let sign_in = sessions.sign_in_without_request(1);
            let refused = sign_in.set("active_org_id", 8_i64);
            let refused = refused.if_unchanged("u.email", "old@example.com");
            assert_eq!(refused.await.unwrap_err().kind(), ErrorKind::UserNotAllowed);
        }
        ColumnCall::Reauthenticate => {
            let rotated = sessions.reauthenticate(1, &presented);
            let _ = rotated.set("active_org_id", 8_i64).await.unwrap();
        }
        ColumnCall::Update => {
            let update = sessions.update(&current).set("active_org_id", 8_i64);
            update.await.unwrap();
        }
        ColumnCall::UpdateEnded => {
            let update = sessions.update(&current).set("active_org_id", 8_i64);
            assert_eq!(update.await.unwrap_err().kind(), ErrorKind::SessionNotFound);
        }
        ColumnCall::RevokeWhere => {
            let ended = sessions.revoke_where(&1, "active_org_id", 7_i64).await;
            assert_eq!(ended.unwrap(), 1);
        }
    }
    proxy.round_trips()
}

/// The most round trips of an operation of a service with a cache, which waits for the feed after
/// it.
const MOST_WITH_FEED: &[(Call, u32)] = &[
    (Call::SignInThatReplaces, 3),
    (Call::RevokeUnknown, 3),
    (Call::RevokeOthers, 3),
    (Call::RevokeAll, 3),
    (Call::SignOutUnknown, 2),
    // It has found every session, so it does not wait.
    (Call::SignOut, 1),
];

/// F28: an operation that waits for the feed takes one more round trip.
#[tokio::test]
async fn the_wait_for_the_feed_is_one_round_trip() {
    const RUNS: u32 = 4;
    let delay = Duration::from_millis(100);
    let database = announced_database().await;
    let proxy = Proxy::before(&database).await;
    let other = sessions(&database);
    let sessions: PgSessions = SessionService::builder(PgSessionStore::<User>::new(proxy.pool(4)))
        .lease(Duration::from_millis(600))
        .build()
        .unwrap();
    sessions.store().check().await.unwrap();
    let feed = sessions.store().feed(proxy.config(), NoTls);
    sessions.enable_cache(feed, 10).await.unwrap();
    proxy.set(Line::Delayed(delay));
    for &(call, most) in MOST_WITH_FEED {
        let mut slower = Vec::new();
        // The first run prepares the statements.
        for run in 0..=RUNS {
            other.revoke_all(&1).await.unwrap();
            let start = Instant::now();
            run_counted(&sessions, &other, &proxy, call).await;
            let took = start.elapsed();
            if run > 0 && took >= delay * (most + 1) {
                slower.push(took);
            }
        }
        assert!(slower.len() <= 1, "{call:?}: {slower:?}");
    }
}

/// F28: an operation that waits for the feed does not wait for an earlier heartbeat to return.
#[tokio::test]
async fn the_wait_for_the_feed_begins_at_once() {
    let delay = Duration::from_secs(1);
    let database = announced_database().await;
    let proxy = Proxy::before(&database).await;
    // No heartbeat is due during the test.
    let store = PgSessionStore::<User>::new(pool(&database, 4));
    let sessions: PgSessions = SessionService::builder(store)
        .lease(60 * delay)
        .deadline(10 * delay)
        .build()
        .unwrap();
    let feed = sessions.store().feed(proxy.config(), NoTls);
    sessions.enable_cache(feed, 10).await.unwrap();
    let unknown = sessions.sign_in_without_request(1).await.unwrap();
    let unknown = unknown.session().id();
    assert!(sessions.revoke(&1, unknown).await.unwrap());
    proxy.set(Line::Delayed(delay));
    let revoke = async |user| {
        let start = Instant::now();
        assert!(!sessions.revoke(&user, unknown).await.unwrap());
        start.elapsed()
    };
    let (first, second) = tokio::join!(revoke(1), async {
        sleep(delay * 2 / 5).await;
        revoke(2).await
    });
    for took in [first, second] {
        assert!(
            took >= delay && took < delay * 7 / 5,
            "{first:?}, {second:?}"
        );
    }
}
