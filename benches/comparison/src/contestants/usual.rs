//! axum-login over tower-sessions, as their documentation sets them up.

use std::{collections::HashMap, convert::Infallible, future::ready, sync::Arc};

use axum::body::Body;
use axum_login::{AuthManagerLayerBuilder, AuthSession, AuthUser, AuthnBackend};
use http::Request;
use sqlx::{PgPool, Row as _, postgres::PgPoolOptions};
use time::OffsetDateTime;
use tower::{Layer as _, service_fn};
use tower_sessions::{MemoryStore, SessionManagerLayer, SessionStore};
use tower_sessions_sqlx_store::PostgresStore;

use super::{
    Started,
    ground::{Ground, POOL_SIZE},
    in_process::InProcess,
    user::{User, answer},
};
use crate::{data, request::Cookie};

impl AuthUser for User {
    type Id = i64;

    fn id(&self) -> i64 {
        self.id
    }

    fn session_auth_hash(&self) -> &[u8] {
        self.email.as_bytes()
    }
}

pub(super) async fn start(ground: &Ground, ping: bool) -> Started {
    let pool = PgPoolOptions::new()
        .max_connections(POOL_SIZE)
        .test_before_acquire(ping)
        .connect_with(ground.options()?)
        .await?;
    stack(ground, PostgresStore::new(pool.clone()), InPostgres(pool))
}

pub(super) async fn start_in_memory(ground: &Ground) -> Started {
    let store = MemoryStore::default();
    let mut users = HashMap::new();
    for n in 0..ground.numbers.known() {
        let session = ground.numbers.session(n);
        store
            .save(&data::tower_sessions_record(ground.numbers, session))
            .await?;
        let id = ground.numbers.user_of(session);
        let user = User {
            id,
            email: data::email(id),
            name: format!("Person number {id}"),
            created_at: OffsetDateTime::now_utc(),
        };
        users.insert(id, user);
    }
    stack(ground, store, InMemory(Arc::new(users)))
}

fn stack<S, B>(ground: &Ground, store: S, backend: B) -> Started
where
    S: SessionStore + Clone,
    B: AuthnBackend<User = User> + Clone + Sync + 'static,
{
    let layer = AuthManagerLayerBuilder::new(backend, SessionManagerLayer::new(store)).build();
    let inner = service_fn(|request: Request<Body>| {
        let session = request.extensions().get::<AuthSession<B>>();
        let user = session.and_then(|session| session.user.as_ref());
        ready(Ok::<_, Infallible>(answer(user.map(|user| user.id))))
    });
    let service = layer.layer(inner);
    Ok(InProcess::boxed(
        service,
        ground.requests(Cookie::TowerSessions)?,
    ))
}

#[derive(Clone, Debug)]
struct InPostgres(PgPool);

impl AuthnBackend for InPostgres {
    type User = User;
    type Credentials = i64;
    type Error = sqlx::Error;

    async fn authenticate(&self, id: i64) -> Result<Option<User>, sqlx::Error> {
        self.get_user(&id).await
    }

    async fn get_user(&self, id: &i64) -> Result<Option<User>, sqlx::Error> {
        let row = sqlx::query("SELECT id, email, name, created_at FROM users WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.0)
            .await?;
        row.map(|row| {
            Ok(User {
                id: row.try_get(0)?,
                email: row.try_get(1)?,
                name: row.try_get(2)?,
                created_at: row.try_get(3)?,
            })
        })
        .transpose()
    }
}

#[derive(Clone, Debug)]
struct InMemory(Arc<HashMap<i64, User>>);

impl AuthnBackend for InMemory {
    type User = User;
    type Credentials = i64;
    type Error = Infallible;

    async fn authenticate(&self, id: i64) -> Result<Option<User>, Infallible> {
        self.get_user(&id).await
    }

    async fn get_user(&self, id: &i64) -> Result<Option<User>, Infallible> {
        Ok(self.0.get(id).cloned())
    }
}
