//! The application on a real PostgreSQL. The helper starts the server, so that no variable is needed.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

use axum::{
    Router,
    body::Body,
    http::{
        HeaderValue, Request, Response, StatusCode,
        header::{CONTENT_TYPE, COOKIE, SET_COOKIE},
    },
};
use ephemeral_postgres::TestDatabase;
use example_axum_sqlx::{Application, MIGRATIONS, User, passwords, router, user};
use http_body_util::BodyExt as _;
use sqlx::PgPool;
use tower::ServiceExt as _;
use tower_user_session::{BoxError, ErrorKind, PgSessionStore};
use url::Url;
use uuid::Uuid;

/// The application on a database of its own, with one user.
async fn application() -> (TestDatabase, Application, i64) {
    let database = TestDatabase::create("").await;
    let application = Application::start(&database.url()).await.unwrap();
    let hash = passwords::hash("old".to_owned()).await.unwrap();
    let ada = user::insert(&application.database, "ada@example.com", &hash).await;
    (database, application, ada.unwrap().unwrap())
}

async fn send(router: &Router, request: Request<Body>) -> Response<Body> {
    router.clone().oneshot(request).await.unwrap()
}

fn get(path: &str, cookie: &HeaderValue) -> Request<Body> {
    let request = Request::get(path).header(COOKIE, cookie);
    request.body(Body::empty()).unwrap()
}

fn post(path: &str, cookie: Option<&HeaderValue>, form: &'static str) -> Request<Body> {
    let mut request = Request::post(path).body(Body::from(form)).unwrap();
    let headers = request.headers_mut();
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, form);
    if let Some(cookie) = cookie {
        headers.insert(COOKIE, cookie.clone());
    }
    request
}

/// The cookie that a response sets, for the next request.
fn cookie(response: &Response<Body>) -> HeaderValue {
    let set = response.headers()[SET_COOKIE].to_str().unwrap();
    HeaderValue::from_str(set.split(';').next().unwrap()).unwrap()
}

#[tokio::test]
async fn a_signed_in_request_sees_its_user() {
    let (_database, application, ada) = application().await;
    let cookie = application.sessions.cookie_for(ada).await.unwrap();
    let response = send(&router(application), get("/account", &cookie)).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "Hello, ada@example.com");
}

#[tokio::test]
async fn a_user_signs_up_signs_in_and_signs_out() {
    let (_database, application, _) = application().await;
    let router = router(application);
    let form = "email=eve@example.com&password=secret";
    let signed_up = send(&router, post("/sign-up", None, form)).await;
    assert_eq!(signed_up.status(), StatusCode::SEE_OTHER);
    let again = send(&router, post("/sign-up", None, form)).await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    let wrong = "email=eve@example.com&password=wrong";
    let rejected = send(&router, post("/sign-in", None, wrong)).await;
    assert_eq!(rejected.status(), StatusCode::UNAUTHORIZED);
    let unknown = "email=nobody@example.com&password=secret";
    let rejected = send(&router, post("/sign-in", None, unknown)).await;
    assert_eq!(rejected.status(), StatusCode::UNAUTHORIZED);

    let signed_in = send(&router, post("/sign-in", None, form)).await;
    let cookie = cookie(&signed_in);
    let account = send(&router, get("/account", &cookie)).await;
    assert_eq!(account.status(), StatusCode::OK);
    send(&router, post("/sign-out", Some(&cookie), "")).await;
    let account = send(&router, get("/account", &cookie)).await;
    assert_eq!(account.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn changing_the_password_ends_the_other_sessions() {
    let (_database, application, ada) = application().await;
    let this = application.sessions.cookie_for(ada).await.unwrap();
    let other = application.sessions.cookie_for(ada).await.unwrap();
    let router = router(application);
    let rejected = send(&router, post("/password", Some(&this), "current=x&new=new")).await;
    assert_eq!(rejected.status(), StatusCode::UNAUTHORIZED);
    let account = send(&router, get("/account", &other)).await;
    assert_eq!(account.status(), StatusCode::OK);

    let changed = send(
        &router,
        post("/password", Some(&this), "current=old&new=new"),
    )
    .await;
    assert_eq!(changed.status(), StatusCode::SEE_OTHER);
    for (cookie, status) in [
        (&cookie(&changed), StatusCode::OK),
        (&this, StatusCode::UNAUTHORIZED),
        (&other, StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(
            send(&router, get("/account", cookie)).await.status(),
            status
        );
    }
    for (form, status) in [
        (
            "email=ada@example.com&password=old",
            StatusCode::UNAUTHORIZED,
        ),
        ("email=ada@example.com&password=new", StatusCode::SEE_OTHER),
    ] {
        let response = send(&router, post("/sign-in", None, form)).await;
        assert_eq!(response.status(), status);
    }
}

/// Waits until a connection of the database waits for a lock.
async fn until_waiting(application: &Application) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting = async || {
        sqlx::query_scalar::<_, i64>(waiting)
            .fetch_one(&application.database)
            .await
    };
    while waiting().await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
}

async fn sessions(application: &Application) -> i64 {
    let count = "SELECT count(*) FROM sessions";
    let count = sqlx::query_scalar(count).fetch_one(&application.database);
    count.await.unwrap()
}

const CHANGE: &str = "UPDATE users SET password_hash = 'new'";
const REVOKE: &str = "SELECT sessions_revoke_others($1, $2)";

#[tokio::test]
async fn a_revocation_is_part_of_the_transaction() {
    let (_database, application, ada) = application().await;
    let kept = application
        .sessions
        .sign_in_without_request(ada)
        .await
        .unwrap();
    let _other = application
        .sessions
        .sign_in_without_request(ada)
        .await
        .unwrap();
    for (commit, left) in [(false, 2), (true, 1)] {
        let mut transaction = application.database.begin().await.unwrap();
        let revoke = sqlx::query(REVOKE)
            .bind(ada)
            .bind(Uuid::from(kept.session().id()));
        revoke.execute(&mut *transaction).await.unwrap();
        if commit {
            transaction.commit().await.unwrap();
        } else {
            transaction.rollback().await.unwrap();
        }
        assert_eq!(sessions(&application).await, left);
    }
}

#[tokio::test]
async fn a_revocation_waits_for_a_sign_in_in_progress() {
    let (_database, application, ada) = application().await;
    let kept = application
        .sessions
        .sign_in_without_request(ada)
        .await
        .unwrap();
    let mut client = application.sessions.store().pool().get().await.unwrap();
    let signing_in = client.transaction().await.unwrap();
    let sign_in = application.sessions.sign_in_without_request(ada);
    let other = sign_in.in_transaction(&signing_in).await.unwrap();
    let mut transaction = application.database.begin().await.unwrap();
    let revoke = async {
        let revoke = sqlx::query(REVOKE)
            .bind(ada)
            .bind(Uuid::from(kept.session().id()));
        revoke.execute(&mut *transaction).await.unwrap();
    };
    let commit = async {
        until_waiting(&application).await;
        signing_in.commit().await.unwrap();
    };
    tokio::join!(revoke, commit);
    transaction.commit().await.unwrap();
    assert!(
        application
            .sessions
            .user(other.token())
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        application
            .sessions
            .user(kept.token())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_sign_in_with_the_old_password_fails_after_the_change() {
    let (_database, application, ada) = application().await;
    let (_, hash) = user::credentials(&application.database, "ada@example.com")
        .await
        .unwrap()
        .unwrap();
    let mut transaction = application.database.begin().await.unwrap();
    sqlx::query(CHANGE)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let revoke = sqlx::query(REVOKE).bind(ada).bind(Uuid::nil());
    revoke.execute(&mut *transaction).await.unwrap();
    let sign_in = application.sessions.sign_in_without_request(ada);
    let sign_in = async { sign_in.if_unchanged("u.password_hash", hash).await };
    let commit = async {
        until_waiting(&application).await;
        transaction.commit().await.unwrap();
    };
    let (signed_in, ()) = tokio::join!(sign_in, commit);
    assert_eq!(signed_in.unwrap_err().kind(), ErrorKind::UserNotAllowed);
    assert_eq!(sessions(&application).await, 0);
}

#[tokio::test]
async fn a_serializable_transaction_is_rejected() {
    let (_database, application, ada) = application().await;
    let mut transaction = application.database.begin().await.unwrap();
    let level = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE";
    sqlx::query(level).execute(&mut *transaction).await.unwrap();
    let revoke = sqlx::query(REVOKE).bind(ada).bind(Uuid::nil());
    let error = revoke.execute(&mut *transaction).await.unwrap_err();
    assert!(error.to_string().contains("READ COMMITTED"), "{error}");
}

/// The sessions need five connections beside sqlx's pool.
#[tokio::test]
async fn the_sessions_need_five_connections() {
    let (_database, application, ada) = application().await;
    let cookie = application.sessions.cookie_for(ada).await.unwrap();
    send(&router(application.clone()), get("/account", &cookie)).await;
    application.sessions.delete_expired().await.unwrap();
    let count = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'tower-user-session'";
    let count: i64 = sqlx::query_scalar(count)
        .fetch_one(&application.database)
        .await
        .unwrap();
    assert!((1..=5).contains(&count), "{count}");
}

/// The migrations are copies of the crate's files, and may run again.
#[tokio::test]
async fn the_migrations_are_those_of_the_crate() {
    for (copy, original) in [
        (
            include_str!("../migrations/0002_create_sessions.sql"),
            include_str!("../../../migrations/0001_create_sessions.sql"),
        ),
        (
            include_str!("../migrations/0003_revoke_sessions.sql"),
            include_str!("../../../migrations/0003_revoke_sessions.sql"),
        ),
    ] {
        let statements = |file: &str| -> Vec<String> {
            let lines = file
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"));
            lines.map(str::to_owned).collect()
        };
        assert!(
            statements(copy) == statements(original),
            "copy the files of ../../migrations again"
        );
    }
    let (_database, application, _) = application().await;
    MIGRATIONS.run(&application.database).await.unwrap();
    application.sessions.store().migrate().await.unwrap();
}

/// A store on the database of this pool, as `#[sqlx::test]` passes one.
async fn store_beside(pool: &PgPool, database_url: &str) -> Result<PgSessionStore<User>, BoxError> {
    let mut url = Url::parse(database_url)?;
    url.set_path(pool.connect_options().get_database().unwrap_or_default());
    let store = PgSessionStore::<User>::connect(url.as_str()).await?;
    Ok(store)
}

#[tokio::test]
async fn a_store_connects_to_the_database_of_a_pool() {
    let (database, application, ada) = application().await;
    // The URL of the server, which names no database of the test.
    let name = format!("dbname={}", database.name());
    let server = database.url().replace(&name, "application_name=test");
    let store = store_beside(&application.database, &server).await;
    let store = store.unwrap();
    let sessions = example_axum_sqlx::Sessions::new(store);
    let signed_in = sessions.sign_in_without_request(ada).await.unwrap();
    let user = application.sessions.user(signed_in.token()).await.unwrap();
    assert_eq!(user.unwrap().id, ada);
}

/// The fragments of the crate's guide are parts of this example.
#[test]
fn the_guide_shows_this_example() {
    let guide = include_str!("../../../src/guide/sqlx.rs").replace("//!", "");
    let sources = [
        include_str!("../src/lib.rs"),
        include_str!("../src/routes.rs"),
        include_str!("it.rs"),
    ]
    .concat();
    let blocks = guide.split("```text\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    let mut shown = 0;
    for line in lines.map(str::trim).filter(|line| !line.is_empty()) {
        assert!(sources.contains(line), "{line}");
        shown += 1;
    }
    assert!(shown > 20);
}
