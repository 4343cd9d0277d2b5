//! Statements per request, counted on the wire.

use std::{collections::BTreeMap, convert::Infallible};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header::COOKIE};
use tower::{ServiceBuilder, ServiceExt};
use tower_user_session::{
    LoadUserLayer, PgSessionStore, SessionService, rejection::EmptyResponseForRejection,
    session::SessionToken,
};

use crate::support::{
    User, cookie, database,
    proxy::{Line, Proxy},
};

/// C01, C02, E12, A01, A05, A16, A18, A19: one statement for a request with a token, known or not.
/// None for an anonymous request, a malformed, ambiguous or oversized cookie, and an exempt
/// request. The same if each frame is split at each byte (E02).
#[tokio::test]
async fn a_signed_in_request_is_one_statement_and_a_rejected_one_is_none() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = SessionService::new(PgSessionStore::<User>::new(proxy.pool(2)));
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let other = sessions.sign_in_without_request(2).await.unwrap();
    let app = ServiceBuilder::new()
        .layer(
            LoadUserLayer::new(sessions.clone())
                .rejection_response(EmptyResponseForRejection)
                .exempt(|method: &Method, uri: &Uri| {
                    method == Method::GET && uri.path() == "/style.css"
                }),
        )
        .service_fn(async |request: Request<()>| {
            let user = request.extensions().get::<User>().map(|user| user.id);
            Ok::<_, Infallible>(Response::new(user))
        });
    let ask = async |headers: &HeaderMap, path: &'static str| {
        let mut request = Request::new(());
        *request.headers_mut() = headers.clone();
        *request.uri_mut() = Uri::from_static(path);
        app.clone().oneshot(request).await.unwrap().into_body()
    };
    let raw = |value: &[u8]| {
        let value = [b"__Host-session=", value].concat();
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_bytes(&value).unwrap())])
    };
    let known = cookie(&sessions, signed_in.token());
    let mut ambiguous = known.clone();
    ambiguous.append(COOKIE, cookie(&sessions, other.token())[COOKIE].clone());
    let mut twice = known.clone();
    twice.append(COOKIE, known[COOKIE].clone());
    let unknown = cookie(&sessions, &SessionToken::generate().unwrap());
    // Opens the connection and prepares the statement on it.
    assert_eq!(ask(&known, "/").await, Some(1));

    for line in [Line::Open, Line::Trickling] {
        proxy.set(line);
        for (headers, path, user, statements) in [
            (&known, "/", Some(1), 1),
            (&twice, "/", Some(1), 1),
            (&unknown, "/", None, 1),
            (&HeaderMap::new(), "/", None, 0),
            (&raw(b""), "/", None, 0),
            (&raw(b"malformed"), "/", None, 0),
            (
                &raw(b"%41AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
                "/",
                None,
                0,
            ),
            (&raw(&[b'A'; 8_000]), "/", None, 0),
            (&ambiguous, "/", None, 0),
            (&known, "/style.css", None, 0),
        ] {
            proxy.sent();
            assert_eq!(ask(headers, path).await, user, "{headers:?}");
            let expected = if statements == 1 {
                BTreeMap::from([('B', 1), ('E', 1), ('S', 1)])
            } else {
                BTreeMap::new()
            };
            assert_eq!(proxy.sent(), expected, "{headers:?}");
        }
    }
}

/// A list of fifty sessions is one statement.
#[tokio::test]
async fn a_list_of_devices_is_one_statement() {
    let database = database().await;
    let proxy = Proxy::before(&database).await;
    let sessions = SessionService::new(PgSessionStore::<User>::new(proxy.pool(1)));
    for _ in 0..50 {
        let _ = sessions.sign_in_without_request(1).await.unwrap();
    }
    sessions.sessions_of(&1).await.unwrap();
    proxy.sent();
    assert_eq!(sessions.sessions_of(&1).await.unwrap().len(), 50);
    assert_eq!(proxy.sent(), BTreeMap::from([('B', 1), ('E', 1), ('S', 1)]));
}
