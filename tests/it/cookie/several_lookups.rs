//! The cost of several cookies of one name: the cache and the bound of the queue.

use http::HeaderMap;
use tower::{ServiceBuilder, ServiceExt as _};
use tower_user_session::{
    ErrorKind, LoadUserLayer, SessionService,
    cookie::SessionCookie,
    rejection::Rejection,
    session::SessionToken,
    store::{MemorySessionStore, SessionLookup, SessionStore as _},
};

use crate::support::{
    User, cookie_lines,
    manual_feed::{LONG_LEASE, ManualFeed},
    poll_once,
    scripted_store::PendingStore,
    who,
};

/// A service whose cookie a browser can send several times.
fn service<L: SessionLookup>(store: L) -> SessionService<L> {
    let cookie = SessionCookie::insecure_for_local_development();
    let builder = SessionService::builder(store).cookie(cookie);
    builder.lease(LONG_LEASE).build().unwrap()
}

/// A request's headers with these values of the cookie.
fn headers<'a, L: SessionLookup>(
    sessions: &SessionService<L>,
    tokens: impl IntoIterator<Item = &'a SessionToken>,
) -> HeaderMap {
    let name = sessions.cookie().name();
    let pairs = tokens
        .into_iter()
        .map(|token| format!("{name}={}", token.expose()));
    cookie_lines([pairs.collect::<Vec<_>>().join("; ")])
}

/// O05, E05: a request with several values is never answered from the cache. Here the session ends
/// without a notification, so that only the cache still has it.
#[tokio::test]
async fn several_cookies_are_never_answered_from_the_cache() {
    let store = MemorySessionStore::new();
    store.add_user(1, User::ada());
    let sessions = service(store);
    let feed = ManualFeed::default();
    sessions.enable_cache(feed, 10).await.unwrap();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let other = SessionToken::generate().unwrap();
    let seen = async |tokens: &[&SessionToken]| {
        let app = ServiceBuilder::new()
            .layer(LoadUserLayer::new(sessions.clone()))
            .service_fn(who::<String>);
        let mut request = http::Request::new(String::new());
        *request.headers_mut() = headers(&sessions, tokens.iter().copied());
        app.oneshot(request).await.unwrap().into_body()
    };
    for (tokens, from_cache) in [
        (&[ada.token()][..], 0),
        (&[ada.token()], 1),
        (&[ada.token(), &other], 1),
        (&[&other, ada.token()], 1),
    ] {
        assert_eq!(seen(tokens).await, "ada@example.com");
        assert_eq!(sessions.metrics().from_cache, from_cache);
    }
    assert_eq!(sessions.store().revoke_everyone().await.unwrap(), 1);
    assert_eq!(seen(&[ada.token(), &other]).await, "anonymous");
}

/// O05, J05: each token of a request counts toward the bound of the queue. Beyond it the request is
/// rejected with 503 at once, with one value or several, and is never anonymous.
#[tokio::test(start_paused = true)]
async fn each_token_counts_toward_the_bound_of_the_queue() {
    const TOKENS: usize = 8;
    // Those of two batches in flight do not wait.
    const REQUESTS: usize = 2 + 16_384 / TOKENS;
    let sessions = service(PendingStore);
    let tokens: Vec<_> = (0..TOKENS)
        .map(|_| SessionToken::generate().unwrap())
        .collect();
    let request = |tokens: &[SessionToken]| {
        let app = ServiceBuilder::new()
            .layer(LoadUserLayer::new(sessions.clone()))
            .service_fn(who::<String>);
        let mut request = http::Request::new(String::new());
        *request.headers_mut() = headers(&sessions, tokens);
        Box::pin(app.oneshot(request))
    };
    let mut waiting = Vec::new();
    for _ in 0..REQUESTS {
        let mut call = request(&tokens);
        assert!(poll_once(call.as_mut()).is_pending());
        waiting.push(call);
    }
    for tokens in [&tokens[..], &tokens[..2], &tokens[..1]] {
        let response = request(tokens).await.unwrap();
        assert_eq!(response.status(), 503);
        let rejection = response.extensions().get::<Rejection>().unwrap();
        assert_eq!(rejection.error().unwrap().kind(), ErrorKind::Overloaded);
    }
}
