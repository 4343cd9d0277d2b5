//! Tokens and digests are not in `Debug` output, logs, errors or panics.

use std::{
    convert::Infallible,
    fmt::Display,
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Waker},
    time::Duration,
};

use http::{
    HeaderMap, HeaderName, Request, Response,
    header::{COOKIE, SET_COOKIE},
};
use http_body_util::BodyExt as _;
use static_assertions::assert_not_impl_any;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    sensitive_headers::{SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer},
    trace::{DefaultMakeSpan, DefaultOnRequest, DefaultOnResponse, TraceLayer},
};
use tower_user_session::{
    CurrentSession, CurrentUser, Error, ErrorKind, LoadUserLayer, PgSessionStore, RequireUserLayer,
    SessionService, SignedIn,
    cookie::{PresentedToken, SessionCookie},
    extract::OrNotFound,
    feed::{EndReason, Invalidation},
    postgres::{PgConnector, SignInConditions},
    rejection::{EmptyResponseForRejection, Rejection},
    require_user::ReturnTo,
    session::{Lifetime, Session, SessionId, SessionInfo, SessionLimit, SessionToken, TokenDigest},
    store::{
        ColumnConditions as _, EndedSession, ExpiredBatch, InsertOutcome, LiveSession,
        LookupResult, MemoryConditions, MemorySessionStore, MemorySessionValues, NewSession,
        RemainingLifetime, RevokeScope, RotateOutcome, SessionLookup, SessionStore, SessionUse,
    },
    tokio_postgres::{self, NoTls},
};

use crate::support::{
    Logs, MemorySessions, User, cookie_lines, database, memory, pool, secrets::Secrets, sessions,
    sources, sql, who,
};

/// I02: a token cannot be printed, compared, hashed or copied by accident.
const _: () = {
    assert_not_impl_any!(SessionToken: Display, std::fmt::LowerHex, std::fmt::UpperHex);
    assert_not_impl_any!(SessionToken: PartialEq, PartialOrd, Hash, Clone, Default);
    assert_not_impl_any!(SessionToken: AsRef<[u8]>, AsRef<str>, std::ops::Deref, Into<String>);
    assert_not_impl_any!(TokenDigest: Display, std::fmt::LowerHex, AsRef<[u8]>, Into<[u8; 32]>);
    assert_not_impl_any!(SessionToken: tokio_postgres::types::ToSql);
};

async fn signed_in(sessions: &MemorySessions) -> (SignedIn, Secrets, HeaderMap) {
    let signed_in = sessions
        .sign_in_without_request(1)
        .remember(true)
        .await
        .unwrap();
    let secrets = Secrets::of(signed_in.token());
    let cookie = format!("__Host-session={}", signed_in.token().expose());
    (signed_in, secrets, cookie_lines([cookie]))
}

/// The public types whose `Debug` this module checks.
const LOOKED_AT: [&str; 86] = [
    "BodyUntilEnded",
    "BoxError", // a boxed error of the application's
    "CheckReport",
    "ColumnConditions", // a trait
    "CurrentSession",
    "CurrentUser",
    "DefaultResponseForRejection",
    "EmptyResponseForRejection",
    "EndCause",
    "EndReason",
    "Ended",
    "EndedSession",
    "Error",
    "ErrorKind",
    "ExpiredBatch",
    "FeedScope",
    "FeedSink", // prints its name
    "InsertOutcome",
    "Invalidation",
    "LatencyHistogram",
    "Lifetime",
    "LiveSession",
    "LoadUser",
    "LoadUserLayer",
    "LookupResult",
    "LookupRow", // borrows a row, and prints no value of it
    "MemoryConditions",
    "MemorySessionRow", // prints the names of columns
    "MemorySessionStore",
    "MemorySessionValues", // prints the names of columns
    "MetricsExporter",     // prints its name
    "Migrate",
    "NewSession",
    "OrNotFound",
    "ParseSessionIdError",
    "PgConnector",
    "PgPoolBuilder", // see `transport`
    "PgSessionFeed",
    "PgSessionStore",
    "PgUser", // a trait
    "PresentedToken",
    "Reauthenticate",
    "RefusalCause",
    "Rejection",
    "RejectionKind",
    "RemainingLifetime",
    "RequireUser",
    "RequireUserLayer",
    "ResponseForRejection", // a trait
    "ResponseFuture",       // prints its name
    "ReturnTo",
    "RevokeScope",
    "RotateOutcome",
    "Sample",
    "SampleValue",
    "Session",
    "SessionCookie",
    "SessionEvent",
    "SessionEventKind",
    "SessionFeed", // a trait
    "SessionId",
    "SessionInfo",
    "SessionLimit",
    "SessionLookup", // a trait
    "SessionMetrics",
    "SessionRow", // borrows a row, and prints no value of it
    "SessionService",
    "SessionServiceBuilder",
    "SessionStore", // a trait
    "SessionTimestamps",
    "SessionToken",
    "SessionUse",
    "SessionValues",    // prints the names of columns
    "SetSessionColumn", // a trait
    "SignIn",
    "SignInConditions",
    "SignOut",
    "SignedIn",
    "SignedOut",
    "StoreMetrics",
    "StreamUntilEnded",
    "TokenDigest",
    "TokenRejection",
    "UpdateSession",
    "UserKey", // prints its name
    "UserRow", // borrows a row, and prints no value of it
];

/// I01: a new public type must be added to this module.
#[test]
fn every_public_type_is_covered() {
    let declares = |line: &str| {
        let mut words = line.trim_start().strip_prefix("pub ")?.split_whitespace();
        ["struct", "enum", "trait", "type"]
            .contains(&words.next()?)
            .then_some(())?;
        let name = words.next()?.split(|c: char| !c.is_alphanumeric()).next()?;
        Some(name.to_owned())
    };
    let mut names: Vec<_> = sources()
        .iter()
        .flat_map(|(_, source)| source.lines().filter_map(declares).collect::<Vec<_>>())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, LOOKED_AT);
}

/// I01: the same for the types that identify a session.
#[tokio::test]
async fn debug_of_session_identifiers_prints_no_secret() {
    let sessions = memory();
    let (signed_in, secrets, _) = signed_in(&sessions).await;
    let session = signed_in.session();
    let used = SessionUse::new(session.id(), session.times().now);
    secrets.assert_not_in_debug_of("SessionUse", &used);
    secrets.assert_not_in_debug_of("OrNotFound", &OrNotFound(session.id()));
    let current = CurrentSession::<User>::new(session);
    secrets.assert_not_in_debug_of("UpdateSession", &sessions.update(&current));
    secrets.assert_not_in_debug_of("Sample", &sessions.metrics().samples());
}

fn values(secrets: &Secrets, session: Session) {
    secrets.assert_not_in_debug_of(
        "RotateOutcome",
        &RotateOutcome::Rotated {
            session,
            remembered: true,
        },
    );
    secrets.assert_not_in_debug_of("RevokeScope", &RevokeScope::One(session.id()));
    secrets.assert_not_in_debug_of("SessionInfo", &SessionInfo::new(&session));
    secrets.assert_not_in_debug_of("SessionLimit", &SessionLimit::refuse_new(1).unwrap());
    secrets.assert_not_in_debug_of("ReturnTo", &ReturnTo::parse("/account").unwrap());

    secrets.assert_not_in_debug_of("EndReason", &EndReason::Expired);
    secrets.assert_not_in_debug_of("Invalidation", &Invalidation::Sessions(vec![session.id()]));
}

/// I01: no `Debug` prints a token or a digest.
#[tokio::test]
async fn debug_prints_no_secret() {
    let sessions = memory();
    let (signed_in, secrets, headers) = signed_in(&sessions).await;
    let token = signed_in.token();
    let digest = token.digest();
    let session = signed_in.session();
    secrets.assert_not_in_debug_of("SessionToken", token);
    secrets.assert_not_in_debug_of("TokenDigest", &digest);
    secrets.assert_not_in_debug_of("SignedIn", &signed_in);
    secrets.assert_not_in_debug_of("Session", &session);
    let current = CurrentSession::<User>::new(session);
    secrets.assert_not_in_debug_of("CurrentSession", &current);
    secrets.assert_not_in_debug_of("SessionId", &session.id());
    secrets.assert_not_in("SessionId", &session.id().to_string());
    secrets.assert_not_in_debug_of("SessionTimestamps", &session.times());
    secrets.assert_not_in_debug_of("EndedSession", &EndedSession::new(digest, session.id()));
    let remaining = RemainingLifetime::new(session.id(), Duration::MAX);
    secrets.assert_not_in_debug_of("RemainingLifetime", &remaining);
    secrets.assert_not_in_debug_of("ExpiredBatch", &ExpiredBatch::new(1, None));
    let misread = token.expose().parse::<SessionId>().unwrap_err();
    secrets.assert_not_in_debug_of("ParseSessionIdError", &misread);
    secrets.assert_not_in_debug_of("EmptyResponseForRejection", &EmptyResponseForRejection);
    secrets.assert_not_in_debug_of("SessionCookie", sessions.cookie());
    secrets.assert_not_in_debug_of("PresentedToken", &SessionCookie::default().read(&headers));
    secrets.assert_not_in_debug_of("SessionService", &sessions);
    secrets.assert_not_in_debug_of("MemorySessionStore", sessions.store());
    secrets.assert_not_in_debug_of("SessionMetrics", &sessions.metrics());
    secrets.assert_not_in_debug_of("Lifetime", &Lifetime::default());
    let builder = SessionService::builder(MemorySessionStore::<i64, User>::new());
    secrets.assert_not_in_debug_of("SessionServiceBuilder", &builder);
    secrets.assert_not_in_debug_of("SignIn", &sessions.sign_in(1, &headers));
    secrets.assert_not_in_debug_of("SignOut", &sessions.sign_out(&headers));

    let live = sessions.resolve(token).await.unwrap().unwrap();
    secrets.assert_not_in_debug_of("LiveSession", &live);
    secrets.assert_not_in_debug_of("CurrentUser", &CurrentUser(live.user.clone()));
    let LiveSession { user, session, .. } = live;
    secrets.assert_not_in_debug_of("LookupResult", &LookupResult::live(digest, user, session));
    secrets.assert_not_in_debug_of("LookupResult", &LookupResult::<User>::absent(digest));
    let error = Error::new(ErrorKind::Store, "made up");
    secrets.assert_not_in_debug_of("LookupResult", &LookupResult::<User>::failed(digest, error));
    let replaced = [digest];
    let mut conditions = MemoryConditions::default();
    conditions.add("u.hash", token.expose().clone());
    secrets.assert_not_in_debug_of("MemoryConditions", &conditions);
    let conditions = MemoryConditions::default();
    let mut new = NewSession::new(digest, &1, &conditions, Duration::from_secs(1));
    new.replaced = &replaced;
    secrets.assert_not_in_debug_of("NewSession", &new);
    let again = sessions.store().insert(new).await.unwrap();
    secrets.assert_not_in_debug_of("InsertOutcome", &again);
    let ended = vec![session.id()];
    let done = InsertOutcome::Inserted {
        session,
        ended,
        over_limit: Vec::new(),
    };
    secrets.assert_not_in_debug_of("InsertOutcome", &done);

    secrets.assert_not_in_debug_of("Reauthenticate", &sessions.reauthenticate(1, &headers));
    let replaced = sessions
        .store()
        .rotate(&1, &[digest], digest, &MemorySessionValues::default())
        .await
        .unwrap();
    secrets.assert_not_in_debug_of("RotateOutcome", &replaced);
    values(&secrets, session);
    let ended = || sessions.ended(&current);
    secrets.assert_not_in_debug_of("Ended", &ended());
    secrets.assert_not_in_debug_of("BodyUntilEnded", &ended().close_body(String::new()));
    let stream = empty_stream();
    secrets.assert_not_in_debug_of("StreamUntilEnded", &ended().close_stream(stream));

    let load = LoadUserLayer::new(sessions.clone());
    secrets.assert_not_in_debug_of("LoadUserLayer", &load);
    let mut service = load.layer(service_fn(who::<String>));
    secrets.assert_not_in_debug_of("LoadUser", &service);
    let mut call = Box::pin(service.call(request(&headers)));
    secrets.assert_not_in_debug_of("load_user::ResponseFuture", &*call);
    let mut context = Context::from_waker(Waker::noop());
    let _ = call.as_mut().poll(&mut context);
    secrets.assert_not_in_debug_of("load_user::ResponseFuture", &*call);
    let require = RequireUserLayer::<User>::new();
    secrets.assert_not_in_debug_of("RequireUserLayer", &require);
    let mut service = require.layer(service_fn(who::<String>));
    secrets.assert_not_in_debug_of("RequireUser", &service);
    secrets.assert_not_in_debug_of(
        "require_user::ResponseFuture",
        &service.call(request(&headers)),
    );

    sessions.store().set_failing(true);
    let signed_out = sessions.sign_out(&headers).await;
    secrets.assert_not_in_debug_of("SignedOut", &signed_out);
    let service = LoadUserLayer::new(sessions.clone()).layer(service_fn(who::<String>));
    let response = service.oneshot(request(&headers)).await.unwrap();
    let rejection = response.extensions().get::<Rejection>().unwrap();
    secrets.assert_not_in_debug_of("Rejection", rejection);
    secrets.assert_not_in_debug_of("RejectionKind", &rejection.kind());
    secrets.assert_not_in_debug_of("Error", rejection.error().unwrap());
    secrets.assert_not_in("Error", &rejection.error().unwrap().to_string());
}

fn empty_stream() -> http_body_util::BodyDataStream<String> {
    String::new().into_data_stream()
}

fn request(headers: &HeaderMap) -> Request<String> {
    let mut request = Request::new(String::new());
    *request.headers_mut() = headers.clone();
    request
}

/// I01: the same for the PostgreSQL types, before, during and after a failure of the server.
#[tokio::test]
async fn debug_of_the_postgresql_types_prints_no_secret() {
    let database = database().await;
    let sessions = sessions(&database);
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let secrets = Secrets::of(signed_in.token());
    sessions.user(signed_in.token()).await.unwrap();
    secrets.assert_not_in_debug_of("PgSessionStore", sessions.store());
    secrets.assert_not_in_debug_of("SessionService", &sessions);
    let feed = sessions.store().feed(database.config(), NoTls);
    secrets.assert_not_in_debug_of("PgSessionFeed", &feed);
    let mut config = database.config();
    config.password("correct horse");
    let connector = PgConnector::new(config, NoTls);
    assert!(!format!("{connector:#?}").contains("correct"));
    secrets.assert_not_in_debug_of("Migrate", &sessions.store().migrate());
    secrets.assert_not_in_debug_of("CheckReport", &sessions.store().check().await.unwrap());
    let store = PgSessionStore::<User>::new(pool(&database, 1)).with_table("no such table");
    let broken = SessionService::new(store);
    let error = broken.user(signed_in.token()).await.unwrap_err();
    secrets.assert_not_in_debug_of("Error", &error);
    secrets.assert_not_in("Error", &chain(&error));
    let headers = cookie_lines([format!("__Host-session={}", signed_in.token().expose())]);
    let signed_out = broken.sign_out(&headers).await;
    secrets.assert_not_in_debug_of("SignedOut", &signed_out);
    secrets.assert_not_in("Error", &chain(signed_out.ended().unwrap_err()));
    // An insertion that fails because its digest is taken.
    let digest = signed_in.token().digest();
    let mut demands = SignInConditions::default();
    demands.add("u.hash", signed_in.token().expose().clone());
    secrets.assert_not_in_debug_of("SignInConditions", &demands);
    let demands = SignInConditions::default();
    let new = NewSession::new(digest, &1, &demands, Duration::from_secs(60));
    let taken = sessions.store().insert(new).await.unwrap();
    assert!(matches!(taken, InsertOutcome::DuplicateDigest));
    secrets.assert_not_in_debug_of("InsertOutcome", &taken);
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut all = vec![error.to_string()];
    let mut next = error.source();
    while let Some(error) = next {
        all.push(format!("{error}\n{error:?}"));
        next = error.source();
    }
    all.join("\n")
}

/// I01, I03: PostgreSQL reports the row that a constraint rejects, including the digest. The error
/// does not.
#[tokio::test]
async fn a_rejected_row_is_not_printed() {
    let database = database().await;
    let sessions = sessions(&database);
    for (change, name) in [
        (
            "ALTER TABLE sessions ADD COLUMN tenant int NOT NULL",
            "tenant",
        ),
        (
            "ALTER TABLE sessions DROP COLUMN tenant, ADD CONSTRAINT closed CHECK (user_id > 1)",
            "closed",
        ),
    ] {
        sql(&database, change).await;
        let error = sessions.sign_in_without_request(1).await.unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        let message = format!("{error} {error:?} {source} {source:?}");
        assert!(message.contains(name), "{message}");
        assert!(
            !message.contains("\\x") && !message.contains("Failing row"),
            "{message}"
        );
    }
}

/// I06: a panic, such as polling a completed future again, contains nothing of the request. All
/// panic texts in the source are constant.
#[tokio::test]
async fn panics_print_no_secret() {
    let sessions = memory();
    let (_, secrets, headers) = signed_in(&sessions).await;
    let mut service = LoadUserLayer::new(sessions.clone()).layer(service_fn(who::<String>));
    sessions.store().set_failing(true);
    let mut call = Box::pin(service.call(request(&headers)));
    assert_eq!(call.as_mut().await.unwrap().status(), 503);
    let mut context = Context::from_waker(Waker::noop());
    let panic = catch_unwind(AssertUnwindSafe(|| {
        call.as_mut().poll(&mut context).is_ready()
    }));
    let panic = panic.unwrap_err();
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap();
    secrets.assert_not_in("a panic", &text);

    for (path, text) in sources().into_iter().filter(|(path, _)| {
        let only_tests = ["_model.rs", "_simulation.rs", "/tests.rs", "boundaries.rs"];
        // The names of session columns are checked by the compiler.
        let compiled = path.ends_with("sql/session_columns.rs");
        !compiled && !only_tests.iter().any(|end| path.ends_with(end))
    }) {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let code = code.split("#[cfg(all(test,").next().unwrap();
        for line in code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
        {
            for word in [
                "panic!(",
                "unreachable!(",
                "todo!(",
                "assert!(",
                "assert_eq!(",
                ".unwrap()",
                "dbg!(",
                "println!(",
            ] {
                assert!(!line.contains(word), "{path}: {line}");
            }
            // `expect` takes a text, and a formatted one could contain anything.
            assert!(!line.contains("expect(&format!"), "{path}: {line}");
        }
    }
}

/// I03, I12: at the most verbose level, all operations on a session leave neither its token nor its
/// digest in the log.
#[tokio::test]
async fn logs_contain_no_secret() {
    let logs = Logs::capture();
    let sessions = memory();
    let (signed_in, secrets, headers) = signed_in(&sessions).await;
    let again = sessions.sign_in(1, &headers).await.unwrap();
    let others = Secrets::of(again.token());
    let service = LoadUserLayer::new(sessions.clone()).layer(service_fn(who::<String>));
    let response = service.clone().oneshot(request(&headers)).await.unwrap();
    assert_eq!(response.body(), "anonymous");
    let mut twice = headers.clone();
    let second = format!("__Host-session={}", again.token().expose());
    twice.append(COOKIE, second.parse().unwrap());
    service.clone().oneshot(request(&twice)).await.unwrap();
    sessions.store().set_failing(true);
    service.clone().oneshot(request(&headers)).await.unwrap();
    let _ = sessions.sign_out(&twice).await.ended();
    sessions.store().set_failing(false);
    let _ = sessions.sign_out(&twice).await.ended();
    let error = sessions.sign_in_without_request(99).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UserNotAllowed);
    let text = logs.text();
    assert!(logs.events().len() >= 5, "{text}");
    for secrets in [&secrets, &others] {
        secrets.assert_not_in("the log", &text);
    }
    // I10: the log has the public id.
    assert!(
        text.contains(&signed_in.session().id().to_string()),
        "{text}"
    );
}

/// I07, H23: a trace layer that prints headers prints `Sensitive` for both cookies: the response's
/// because this crate marks it, the request's if tower-http's layer is outside.
#[tokio::test]
async fn a_trace_layer_prints_sensitive() {
    let logs = Logs::capture();
    let sessions = memory();
    let (signed_in, secrets, headers) = signed_in(&sessions).await;
    let secret: [HeaderName; 1] = [COOKIE];
    let mut set_cookie = HeaderMap::new();
    signed_in.write_to(&mut set_cookie);
    let service = ServiceBuilder::new()
        .layer(SetSensitiveRequestHeadersLayer::new(secret))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(DefaultMakeSpan::new().include_headers(true))
                .on_request(DefaultOnRequest::new().level(tracing::Level::INFO))
                .on_response(DefaultOnResponse::new().include_headers(true)),
        )
        .layer(LoadUserLayer::new(sessions))
        .service_fn(move |_: Request<String>| {
            let mut response = Response::new(String::new());
            response.headers_mut().extend(set_cookie.clone());
            std::future::ready(Ok::<_, Infallible>(response))
        });
    let response = service.oneshot(request(&headers)).await.unwrap();
    assert!(response.headers()[SET_COOKIE].is_sensitive());
    let text = logs.text();
    assert!(text.contains(r#""cookie": Sensitive"#), "{text}");
    assert!(text.contains(r#""set-cookie": Sensitive"#), "{text}");
    secrets.assert_not_in("the trace", &text);
    // The same layer can mark responses too.
    let _ = SetSensitiveResponseHeadersLayer::new([SET_COOKIE]);
}

/// I02: the arguments that a store binds print nothing either, because drivers log their
/// parameters.
#[tokio::test]
async fn store_arguments_print_no_secret() {
    struct Prints(std::sync::Mutex<String>);
    impl SessionLookup for Prints {
        type User = User;
        async fn find(&self, digests: &[TokenDigest]) -> Result<Vec<LookupResult<User>>, Error> {
            let answers: Vec<_> = digests.iter().map(|d| LookupResult::absent(*d)).collect();
            *self.0.lock().unwrap() = format!("{digests:?} {digests:#?} {answers:?}");
            Ok(answers)
        }
    }
    let token = SessionToken::generate().unwrap();
    let sessions = SessionService::new(Prints(std::sync::Mutex::default()));
    assert_eq!(sessions.user(&token).await.unwrap(), None);
    let text = sessions.store().0.lock().unwrap().clone();
    assert!(text.contains("TokenDigest(..)"));
    Secrets::of(&token).assert_not_in("a parameter", &text);
}

/// I09, I10: a session shows its id to users and in the log, and the id signs no one in.
#[tokio::test]
async fn a_session_id_is_not_a_token() {
    let sessions = memory();
    let (signed_in, ..) = signed_in(&sessions).await;
    let id = signed_in.session().id().to_string();
    let current: Session = signed_in.session();
    for text in [id.clone(), id.replace('-', ""), format!("{current:?}")] {
        let headers = cookie_lines([format!("__Host-session={text}")]);
        let read = SessionCookie::default().read(&headers);
        assert!(matches!(read, PresentedToken::Malformed));
    }
}
