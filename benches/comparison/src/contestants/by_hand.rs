//! Hand-written code: a pool, prepared statements, and a middleware. The tables are this crate's,
//! so that only the queries differ.

use deadpool_postgres::Pool;
use tokio_postgres::Row;
use tower_user_session::session::SessionToken;

use super::{
    Started,
    ground::Ground,
    in_process::InProcess,
    look_up::{self, Find},
    user::User,
};
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

pub(super) fn start(ground: &Ground, way: Way, connections: u32) -> Started {
    let pool = Pool::builder(ground.manager())
        .max_size(connections as usize)
        .build()?;
    let service = look_up::service(ByHand { pool, way });
    Ok(InProcess::boxed(service, ground.requests(Cookie::Ours)?))
}

#[derive(Clone)]
struct ByHand {
    pool: Pool,
    way: Way,
}

impl Find for ByHand {
    async fn find(self, token: SessionToken) -> Result<Option<User>, BoxError> {
        match self.way {
            Way::Joined => joined(&self.pool, &token).await,
            Way::Two => two(&self.pool, &token).await,
        }
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
