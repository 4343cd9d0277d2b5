//! Lookups that return scripted results, or none at all.

use std::{
    fmt::Debug,
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use http::StatusCode;
use tower::{Layer, ServiceExt, service_fn};
use tower_user_session::{
    Error, ErrorKind, LoadUserLayer, SessionService,
    rejection::Rejection,
    session::{Session, SessionId, SessionTimestamps, SessionToken, TokenDigest},
    store::{LookupResult, SessionLookup},
};

use super::{
    requests::{request, who},
    users::User,
};

pub type Answers = Result<Vec<LookupResult<User>>, Error>;

pub type Answering = Pin<Box<dyn Future<Output = Answers> + Send>>;

type Script = dyn Fn(usize, Vec<TokenDigest>) -> Answering + Send + Sync;

/// A lookup that runs the test's script, which gets the number of earlier calls.
pub struct ScriptedStore {
    script: Box<Script>,
    asked: AtomicUsize,
    pub closed: AtomicUsize,
}

impl SessionLookup for ScriptedStore {
    type User = User;

    fn find(&self, digests: &[TokenDigest]) -> impl Future<Output = Answers> + Send {
        (self.script)(self.asked.fetch_add(1, SeqCst), digests.to_vec())
    }

    async fn close(&self) {
        self.closed.fetch_add(1, SeqCst);
    }
}

pub fn scripted(
    script: impl Fn(usize, Vec<TokenDigest>) -> Answering + Send + Sync + 'static,
) -> SessionService<ScriptedStore> {
    SessionService::new(ScriptedStore {
        script: Box::new(script),
        asked: AtomicUsize::new(0),
        closed: AtomicUsize::new(0),
    })
}

/// A live session of the user whose e-mail address contains the digest.
pub fn live(digest: TokenDigest) -> LookupResult<User> {
    let now = std::time::SystemTime::UNIX_EPOCH;
    let mut times = SessionTimestamps::at(now);
    times.expires_at += Duration::from_secs(60);
    let session = Session::new(SessionId::from_bytes([1; 16]), times);
    LookupResult::live(digest, owner(digest), session)
}

pub fn owner(digest: TokenDigest) -> User {
    User {
        id: 0,
        email: format!("{:?}", digest.as_bytes()),
        role: String::new(),
    }
}

pub fn all_live(digests: &[TokenDigest]) -> Vec<LookupResult<User>> {
    digests.iter().map(|digest| live(*digest)).collect()
}

pub async fn status<L: SessionLookup>(
    sessions: &SessionService<L>,
) -> (StatusCode, Option<ErrorKind>)
where
    L::User: Debug,
{
    let service = LoadUserLayer::new(sessions.clone()).layer(service_fn(who::<String>));
    let cookie = format!(
        "__Host-session={}",
        SessionToken::generate().unwrap().expose()
    );
    let response = service.oneshot(request(&cookie)).await.unwrap();
    let rejection = response.extensions().get::<Rejection>();
    let kind = rejection.map(|rejection| rejection.error().unwrap().kind());
    (response.status(), kind)
}

#[derive(Debug)]
pub struct PendingStore;

impl SessionLookup for PendingStore {
    type User = User;

    async fn find(&self, _: &[TokenDigest]) -> Answers {
        std::future::pending().await
    }
}
