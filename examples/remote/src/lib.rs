//! A service without a database of its own, which asks another one who somebody is.
//!
//! The layer, the cookie, the batching and the deadline are the library's; only the question is put
//! in another way. Signing in and out stays with the service that has the database.
//!
//! # Why digests and never tokens
//!
//! A token is what a person signs in with: whoever reads one on its way is that person. The digest
//! is a hash of it that cannot be turned back, and no service accepts one in a cookie. So a log, a
//! trace or a dump of what these two services say to each other signs nobody in. For the same reason
//! [`SessionLookup`] is never shown a token.

mod answer;

use std::collections::HashMap;

use axum::{
    Json, Router,
    http::{Request, StatusCode, Uri, header},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower_user_session::{
    CurrentUser, Error, ErrorKind, LoadUserLayer, LookupAnswer, SessionLookup, SessionService,
    TokenDigest,
};

use self::answer::Answer;
pub use self::answer::User;

/// In bytes: room for the users of as many digests as the library asks about at once.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// This service.
pub fn router(sessions: SessionService<RemoteLookup>) -> Router {
    Router::new()
        .route("/api/me", get(me))
        .layer(LoadUserLayer::new(sessions))
}

async fn me(CurrentUser(user): CurrentUser<User>) -> Json<User> {
    Json(user)
}

/// Asks the service that has the sessions.
#[derive(Debug)]
pub struct RemoteLookup {
    client: Client<HttpConnector, Full<Bytes>>,
    resolver: Uri,
}

impl RemoteLookup {
    /// Asks at this address. Over a network that others share it needs TLS, and a proof of who asks.
    pub fn new(resolver: Uri) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, resolver }
    }
}

impl SessionLookup for RemoteLookup {
    type User = User;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupAnswer<User>>, Error> {
        let names: Vec<_> = digests.iter().map(name).collect();
        let question = serde_json::to_vec(&names).map_err(protocol)?;
        let request = Request::post(&self.resolver)
            .header(header::CONTENT_TYPE, "application/json")
            .body(question.into())
            .map_err(protocol)?;

        let unreachable = |error| Error::new(ErrorKind::Connection, error);
        let response = self.client.request(request).await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            let cause = format!("the resolver answered {}", response.status());
            return Err(Error::new(ErrorKind::Store, cause));
        }
        let body = Limited::new(response.into_body(), LONGEST_ANSWER);
        let body = body.collect().await.map_err(protocol)?.to_bytes();
        let mut answers: HashMap<String, Option<Answer>> =
            serde_json::from_slice(&body).map_err(protocol)?;

        // By name, never by position. Of a digest that was not answered, nothing is said here: the
        // library then answers 503, and not "nobody".
        let mut found = Vec::with_capacity(digests.len());
        for (digest, name) in digests.iter().zip(&names) {
            match answers.remove(name) {
                Some(Some(answer)) => found.push(answer.live(*digest)?),
                Some(None) => found.push(LookupAnswer::absent(*digest)),
                None => {}
            }
        }
        Ok(found)
    }
}

fn name(digest: &TokenDigest) -> String {
    URL_SAFE_NO_PAD.encode(digest.as_bytes())
}

fn protocol(error: impl Into<tower_user_session::BoxError>) -> Error {
    Error::new(ErrorKind::Protocol, error)
}
