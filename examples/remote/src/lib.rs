//! A service without a database. It sends its lookups to a service that has one.
//!
//! The layer, the cookie, the batching and the deadline are the library's. Only the lookup is
//! different. Sign-in and sign-out stay with the service that has the database.
//!
//! # Why digests and never tokens
//!
//! A client with a token is signed in, so a token must not be intercepted. A digest is a one-way
//! hash of the token, and no service accepts a digest in a cookie. Therefore a log, a trace or a
//! dump of the traffic between the two services contains no usable credential. For the same reason
//! the library never passes a token to a [`SessionLookup`].

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
    CurrentUser, Error, ErrorKind, LoadUserLayer, SessionService,
    session::TokenDigest,
    store::{LookupResult, SessionLookup},
};

use self::answer::Answer;
pub use self::answer::User;

/// In bytes: enough for the users of one batch of the library.
const LONGEST_ANSWER: usize = 1024 * 1024;

/// Returns the service.
pub fn router(sessions: SessionService<RemoteLookup>) -> Router {
    Router::new()
        .route("/api/me", get(me))
        .layer(LoadUserLayer::new(sessions))
}

async fn me(CurrentUser(user): CurrentUser<User>) -> Json<User> {
    Json(user)
}

/// Looks sessions up with the resolver of another service.
#[derive(Debug)]
pub struct RemoteLookup {
    client: Client<HttpConnector, Full<Bytes>>,
    resolver: Uri,
}

impl RemoteLookup {
    /// Uses the resolver at this address. On a shared network the connection needs TLS and client
    /// authentication.
    pub fn new(resolver: Uri) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, resolver }
    }
}

impl SessionLookup for RemoteLookup {
    type User = User;

    async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<User>>, Error> {
        let names: Vec<_> = digests.iter().map(name).collect();
        let question = serde_json::to_vec(&names).map_err(protocol)?;
        let request = Request::post(&self.resolver)
            .header(header::CONTENT_TYPE, "application/json")
            .body(question.into())
            .map_err(protocol)?;

        let unreachable = |error| Error::new(ErrorKind::Connection, error);
        let response = self.client.request(request).await.map_err(unreachable)?;
        if response.status() != StatusCode::OK {
            let cause = format!("the resolver responded with {}", response.status());
            return Err(Error::new(ErrorKind::Store, cause));
        }
        let body = Limited::new(response.into_body(), LONGEST_ANSWER);
        let body = body.collect().await.map_err(protocol)?.to_bytes();
        let mut answers: HashMap<String, Option<Answer>> =
            serde_json::from_slice(&body).map_err(protocol)?;

        // Matches by name, never by position. A digest without a result is left out: the library
        // then responds with 503 and does not treat the request as anonymous.
        let mut found = Vec::with_capacity(digests.len());
        for (digest, name) in digests.iter().zip(&names) {
            match answers.remove(name) {
                Some(Some(answer)) => found.push(answer.live(*digest)?),
                Some(None) => found.push(LookupResult::absent(*digest)),
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
