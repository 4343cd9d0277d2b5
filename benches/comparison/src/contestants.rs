//! Each contestant is a tower service that answers with the id of the user whose cookie it is given.

mod by_hand;
mod ours;
mod redis;
mod usual;

use std::{convert::Infallible, sync::Arc};

use axum::body::Body;
use http::{HeaderValue, Request, Response, header::COOKIE};
use tower::util::BoxCloneSyncService;
use tower_user_session::BoxError;

use crate::{
    database::{Database, KNOWN, token},
    user::User,
};

pub type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

#[derive(Clone)]
pub struct Contestant {
    pub name: &'static str,
    pub app: App,
    /// The `Cookie` header for each known session.
    pub cookies: Arc<[HeaderValue]>,
    /// Whether it finds out who is asking; the empty service does not.
    pub answers: bool,
    pub _server: Option<Arc<redis::Server>>,
}

pub async fn all(
    database: &Database,
    only: Option<&[String]>,
) -> Result<Vec<Contestant>, BoxError> {
    let wanted = |name: &str| only.is_none_or(|only| only.iter().any(|one| one == name));
    let mut all = Vec::new();
    let host = || cookies("__Host-session", token);
    let mut add = |name, app: App, cookies, answers, keep| {
        all.push(Contestant {
            name,
            app,
            cookies,
            answers,
            _server: keep,
        });
    };
    if wanted("empty") {
        add(
            "empty",
            App::new(tower::service_fn(handler)),
            host(),
            false,
            None,
        );
    }
    if wanted("ours") {
        add("ours", ours::app(database)?, host(), true, None);
    }
    if wanted("joined") {
        add("joined", by_hand::joined(database)?, host(), true, None);
    }
    if wanted("two-queries") {
        add(
            "two-queries",
            by_hand::two_queries(database)?,
            host(),
            true,
            None,
        );
    }
    if wanted("usual") || wanted("usual-noping") {
        let ids = usual::fill(database).await?;
        let cookie = || {
            cookies("id", |n| {
                ids[usize::try_from(n).unwrap_or_default()].clone()
            })
        };
        if wanted("usual") {
            add(
                "usual",
                usual::app(database, true).await?,
                cookie(),
                true,
                None,
            );
        }
        if wanted("usual-noping") {
            add(
                "usual-noping",
                usual::app(database, false).await?,
                cookie(),
                true,
                None,
            );
        }
    }
    if wanted("redis") {
        match redis::app().await {
            Ok((app, server)) => add("redis", app, host(), true, Some(Arc::new(server))),
            Err(error) => println!("SKIPPED redis: {error}"),
        }
    }
    Ok(all)
}

/// What stands inside of every contestant.
pub async fn handler(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let id = request.extensions().get::<User>().map(|user| user.id);
    let mut response = Response::new(Body::empty());
    if let Some(id) = id {
        response
            .headers_mut()
            .insert("user-id", HeaderValue::from(id));
    }
    Ok(response)
}

/// A header of some 600 bytes with five cookies, as browsers send them; ours is the fourth.
fn cookies(name: &str, value: impl Fn(u64) -> String) -> Arc<[HeaderValue]> {
    let long = "x".repeat(140);
    (0..KNOWN)
        .map(|n| {
            let cookie = format!(
                "theme=dark; _ga={long}; consent={long}{long}; {name}={}; last=seen",
                value(n)
            );
            HeaderValue::try_from(cookie).expect("a header")
        })
        .collect()
}

/// The value of a cookie, for those who find it themselves.
fn value<'a>(request: &'a Request<Body>, name: &str) -> Option<&'a str> {
    let line = request.headers().get(COOKIE)?.to_str().ok()?;
    line.split("; ")
        .find_map(|cookie| cookie.strip_prefix(name)?.strip_prefix('='))
}
