//! The usual stack: axum-login over tower-sessions and its sqlx store. It does more than this crate: a
//! session there holds whatever the application puts into it.

use std::convert::Infallible;

use axum::body::Body;
use axum_login::{AuthManagerLayerBuilder, AuthSession, AuthUser, AuthnBackend};
use http::{HeaderValue, Request, Response};
use serde_json::json;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use tower_sessions::{
    SessionManagerLayer, SessionStore as _,
    session::{Id, Record},
};
use tower_sessions_sqlx_store::PostgresStore;
use tower_user_session::BoxError;

use super::App;
use crate::database::{Database, KNOWN, USERS};

#[derive(Clone, Debug, sqlx::FromRow)]
struct Person {
    id: i64,
    #[expect(dead_code, reason = "it is read from the database, as by everybody")]
    email: String,
    #[expect(dead_code, reason = "it is read from the database, as by everybody")]
    name: String,
}

impl AuthUser for Person {
    type Id = i64;

    fn id(&self) -> i64 {
        self.id
    }

    fn session_auth_hash(&self) -> &[u8] {
        b"the hash of a password"
    }
}

#[derive(Clone)]
struct Backend(PgPool);

impl AuthnBackend for Backend {
    type User = Person;
    type Credentials = ();
    type Error = sqlx::Error;

    async fn authenticate(&self, (): ()) -> Result<Option<Person>, sqlx::Error> {
        Ok(None)
    }

    async fn get_user(&self, id: &i64) -> Result<Option<Person>, sqlx::Error> {
        let query = sqlx::query_as("SELECT id, email, name FROM users WHERE id = $1");
        query.bind(id).fetch_optional(&self.0).await
    }
}

async fn pool(database: &Database, ping: bool) -> Result<PgPool, BoxError> {
    let config = database.database.config();
    let mut options = PgConnectOptions::new().username("postgres");
    if let Some(deadpool_postgres::tokio_postgres::config::Host::Unix(folder)) =
        config.get_hosts().first()
    {
        options = options.socket(folder);
    }
    options = options.database(database.database.name());
    // Ten connections, and a ping before each use, are its defaults.
    let pool = PgPoolOptions::new()
        .max_connections(10)
        .test_before_acquire(ping);
    Ok(pool.connect_with(options).await?)
}

/// Writes the sessions as the stack itself does, and says what is in their cookies.
pub(super) async fn fill(database: &Database) -> Result<Vec<String>, BoxError> {
    let store = PostgresStore::new(pool(database, false).await?);
    store.migrate().await?;
    let ids: Vec<_> = (0..KNOWN)
        .map(|n| Id(i128::from(n) * 0x9E37_79B9_7F4A_7C15_1234_5678 + 7))
        .collect();
    for chunk in ids.iter().enumerate().collect::<Vec<_>>().chunks(500) {
        let saves = chunk.iter().map(|(n, id)| {
            let user = i64::try_from(*n).unwrap_or_default() % i64::try_from(USERS).unwrap_or(1);
            let data = json!({ "user_id": user, "auth_hash": b"the hash of a password" });
            let record = Record {
                id: **id,
                data: [("axum-login.data".to_owned(), data)].into(),
                expiry_date: time::OffsetDateTime::now_utc() + time::Duration::days(1),
            };
            let store = store.clone();
            tokio::spawn(async move { store.save(&record).await })
        });
        for save in saves.collect::<Vec<_>>() {
            save.await??;
        }
    }
    let client = database.database.client().await;
    client
        .batch_execute("VACUUM ANALYZE tower_sessions.session")
        .await?;
    Ok(ids.iter().map(ToString::to_string).collect())
}

pub(super) async fn app(database: &Database, ping: bool) -> Result<App, BoxError> {
    let pool = pool(database, ping).await?;
    let sessions = SessionManagerLayer::new(PostgresStore::new(pool.clone()));
    let layer = AuthManagerLayerBuilder::new(Backend(pool), sessions).build();
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(service_fn(handler));
    Ok(App::new(
        service.map_response(|response: Response<Body>| response),
    ))
}

async fn handler(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let session = request.extensions().get::<AuthSession<Backend>>();
    let user = match session {
        Some(session) => session.user().await,
        None => None,
    };
    let mut response = Response::new(Body::empty());
    if let Some(user) = user {
        response
            .headers_mut()
            .insert("user-id", HeaderValue::from(user.id));
    }
    Ok(response)
}
