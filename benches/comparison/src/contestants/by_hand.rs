//! What a careful person writes by hand: a pool, prepared statements, and a middleware. The cookie
//! is read and hashed by this crate's functions, and the tables are its own, so that what differs
//! is how PostgreSQL is asked.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use deadpool_postgres::{Manager, Pool};
use http::{Request, Response, StatusCode};
use tokio_postgres::{NoTls, Row};
use tower::{Service, service_fn};
use tower_user_session::{Presented, SessionCookie, SessionToken};

use super::{Ground, InProcess, POOL_SIZE, Started, User, user::answer};
use crate::{BoxError, request::Cookie};

pub(crate) const JOINED: &str = "\
    SELECT u.id, u.email, u.name, u.created_at \
    FROM sessions s JOIN users u ON u.id = s.user_id \
    WHERE s.token_digest = $1 AND s.expires_at > now() \
    AND s.last_seen_at > now() - interval '14 days'";
const SESSION: &str = "\
    SELECT user_id FROM sessions \
    WHERE token_digest = $1 AND expires_at > now() \
    AND last_seen_at > now() - interval '14 days'";
const USER: &str = "SELECT id, email, name, created_at FROM users WHERE id = $1";

#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Joined,
    Two,
}

pub(super) fn start(ground: &Ground, way: Way) -> Started {
    let pool = Pool::builder(Manager::new(ground.config.clone(), NoTls))
        .max_size(POOL_SIZE as usize)
        .build()?;
    let inner = service_fn(|request: Request<Body>| {
        let user = request.extensions().get::<User>();
        ready(Ok::<_, Infallible>(answer(user.map(|user| user.id))))
    });
    let service = ByHand { inner, pool, way };
    Ok(InProcess::boxed(service, ground.requests(Cookie::Ours)?))
}

#[derive(Clone)]
struct ByHand<S> {
    inner: S,
    pool: Pool,
    way: Way,
}

impl<S> Service<Request<Body>> for ByHand<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let not_ready_inner = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, not_ready_inner);
        let Presented::Token(token) = SessionCookie::default().read(request.headers()) else {
            return Box::pin(inner.call(request));
        };
        let (pool, way) = (self.pool.clone(), self.way);
        Box::pin(async move {
            let found = match way {
                Way::Joined => joined(&pool, &token).await,
                Way::Two => two(&pool, &token).await,
            };
            match found {
                Ok(Some(user)) => drop(request.extensions_mut().insert(user)),
                Ok(None) => {}
                Err(_) => {
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    return Ok(response);
                }
            }
            inner.call(request).await
        })
    }
}

async fn joined(pool: &Pool, token: &SessionToken) -> Result<Option<User>, BoxError> {
    let digest = token.digest();
    let client = pool.get().await?;
    let statement = client.prepare_cached(JOINED).await?;
    let row = client
        .query_opt(&statement, &[&&digest.as_bytes()[..]])
        .await?;
    row.as_ref().map(user).transpose()
}

async fn two(pool: &Pool, token: &SessionToken) -> Result<Option<User>, BoxError> {
    let digest = token.digest();
    let client = pool.get().await?;
    let statement = client.prepare_cached(SESSION).await?;
    let Some(row) = client
        .query_opt(&statement, &[&&digest.as_bytes()[..]])
        .await?
    else {
        return Ok(None);
    };
    let id: i64 = row.try_get(0)?;
    let statement = client.prepare_cached(USER).await?;
    let row = client.query_opt(&statement, &[&id]).await?;
    row.as_ref().map(user).transpose()
}

fn user(row: &Row) -> Result<User, BoxError> {
    Ok(User {
        id: row.try_get(0)?,
        email: row.try_get(1)?,
        name: row.try_get(2)?,
        created_at: row.try_get(3)?,
    })
}
