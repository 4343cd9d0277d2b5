//! `RequireUserLayer`: what a route requires, and how it rejects a request.

use std::{convert::Infallible, time::Duration};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use tower::{ServiceBuilder, ServiceExt};
use tower_user_session::{
    LoadUserLayer, RequireUserLayer, SessionService,
    rejection::{Rejection, RejectionKind},
};

use crate::support::{Logs, MemorySessions, User, cookie, memory};

async fn respond(
    sessions: &MemorySessions,
    guard: RequireUserLayer<User>,
    request: Request<()>,
) -> Response<String> {
    ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(guard)
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("passed".to_owned())))
        .oneshot(request)
        .await
        .unwrap()
}

fn request(headers: HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = "/account?tab=2".parse().unwrap();
    *request.headers_mut() = headers;
    request
}

fn kind(response: &Response<String>) -> RejectionKind {
    response.extensions().get::<Rejection>().unwrap().kind()
}

/// A request without the user of a guard is logged with the type, so that a missing `LoadUserLayer`
/// can be found.
#[tokio::test]
async fn a_missing_user_is_logged_with_its_type() {
    #[derive(Clone)]
    struct Staff;

    let sessions = memory();
    let logs = Logs::capture();
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .layer(RequireUserLayer::<Staff>::new())
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new())));
    let ada = cookie(
        &sessions,
        sessions.sign_in_without_request(1).await.unwrap().token(),
    );
    let response = app.oneshot(request(ada)).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let events = logs.events();
    let [event] = events
        .iter()
        .filter(|it| it.contains("request rejected"))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{events:?}");
    };
    assert!(
        event.contains("DEBUG") && event.contains("Staff"),
        "{event}"
    );
}

/// Only a navigation of a browser is redirected. A script or another program gets the 401.
#[tokio::test]
async fn browsers_are_redirected_to_the_sign_in_page_and_programs_are_not() {
    let sessions = memory();
    let guard = || RequireUserLayer::<User>::new().sign_in_page("/sign-in");
    let back = Some("/sign-in?next=/account%3Ftab%3D2");
    for (method, fields, redirected) in [
        (Method::GET, &[("sec-fetch-mode", "navigate")][..], back),
        (Method::GET, &[("accept", "text/html,*/*;q=0.8")], back),
        (Method::HEAD, &[("accept", "text/html")], Some("/sign-in")),
        (
            Method::GET,
            &[("sec-fetch-mode", "cors"), ("accept", "text/html")],
            None,
        ),
        (Method::GET, &[("accept", "application/json")], None),
        (Method::GET, &[], None),
        (Method::POST, &[("sec-fetch-mode", "navigate")], None),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        let mut request = request(headers);
        *request.method_mut() = method;
        let response = respond(&sessions, guard(), request).await;
        assert_eq!(kind(&response), RejectionKind::Unauthenticated);
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        if let Some(page) = redirected {
            assert_eq!(response.status(), StatusCode::SEE_OTHER);
            assert_eq!(response.headers()[header::LOCATION], page);
        } else {
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
            assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
        }
    }
}

/// 403, or gRPC status 7, for a user who fails the condition. Other users pass.
#[tokio::test]
async fn a_user_that_fails_the_condition_is_forbidden() {
    let sessions = memory();
    let guard = || RequireUserLayer::<User>::new().allow_if(|user| user.id == 2);
    for (user, grpc, status) in [(2, false, 200), (1, false, 403), (1, true, 200)] {
        let signed_in = sessions.sign_in_without_request(user).await.unwrap();
        let mut headers = cookie(&sessions, signed_in.token());
        if grpc {
            headers.insert(
                header::CONTENT_TYPE,
                "application/grpc+proto".parse().unwrap(),
            );
        }
        let response = respond(&sessions, guard(), request(headers)).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.body() == "passed", user == 2);
        assert_eq!(
            response
                .headers()
                .get("grpc-status")
                .is_some_and(|code| code == "7"),
            grpc
        );
        if user == 1 {
            assert_eq!(kind(&response), RejectionKind::Forbidden);
        }
    }
}

/// An authentication that is too old is rejected, measured by the store's clock.
#[tokio::test]
async fn an_old_authentication_is_rejected_where_a_recent_one_is_required() {
    let sessions = memory();
    let age = Duration::from_secs(300);
    let guard = || {
        RequireUserLayer::<User>::new()
            .max_auth_age(age)
            .sign_in_page("/sign-in")
            .reauthentication_page("/confirm")
    };
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let headers = cookie(&sessions, signed_in.token());
    sessions.store().advance(age);
    assert_eq!(
        respond(&sessions, guard(), request(headers.clone()))
            .await
            .body(),
        "passed"
    );

    sessions.store().advance(Duration::from_micros(1));
    let response = respond(&sessions, guard(), request(headers.clone())).await;
    assert_eq!(kind(&response), RejectionKind::ReauthenticationRequired);
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let challenge = response.headers()[header::WWW_AUTHENTICATE]
        .to_str()
        .unwrap();
    assert!(challenge.contains("insufficient_user_authentication"));
    let mut page = headers.clone();
    page.insert("sec-fetch-mode", "navigate".parse().unwrap());
    let response = respond(&sessions, guard(), request(page)).await;
    assert_eq!(
        response.headers()[header::LOCATION],
        "/confirm?next=/account%3Ftab%3D2"
    );

    let confirmed = sessions.reauthenticate(1, &headers).await.unwrap();
    let headers = cookie(&sessions, confirmed.token());
    assert_eq!(
        respond(&sessions, guard(), request(headers)).await.body(),
        "passed"
    );
}

/// A user whom other code attached to the request counts as not authenticated recently.
#[tokio::test]
async fn a_user_without_a_session_is_not_recently_authenticated() {
    let age = Duration::from_secs(300);
    let guarded = ServiceBuilder::new()
        .layer(RequireUserLayer::<User>::new().max_auth_age(age))
        .service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new("passed".to_owned())));
    let mut request = request(HeaderMap::new());
    request.extensions_mut().insert(User::ada());
    let response = guarded.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(kind(&response), RejectionKind::ReauthenticationRequired);
}

/// Without `LoadUserLayer` outside, every request is rejected, also one with a live session.
#[tokio::test]
async fn every_request_is_rejected_if_no_user_was_loaded() {
    let sessions = memory();
    let signed_in = sessions.sign_in_without_request(1).await.unwrap();
    let headers = cookie(&sessions, signed_in.token());
    let inner = tower::service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new("passed".to_owned()))
    });
    let guard = RequireUserLayer::<User>::new();
    let missing = ServiceBuilder::new().layer(guard.clone()).service(inner);
    let reversed = ServiceBuilder::new()
        .layer(guard)
        .layer(LoadUserLayer::new(sessions))
        .service(inner);
    let responses = [
        missing.oneshot(request(headers.clone())).await.unwrap(),
        reversed.oneshot(request(headers)).await.unwrap(),
    ];
    for response in responses {
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(kind(&response), RejectionKind::Unauthenticated);
    }
}

/// Signs in with bearer tokens, in memory.
fn bearing() -> MemorySessions {
    let store = tower_user_session::store::MemorySessionStore::new();
    store.add_user(1, User::ada());
    let sessions = SessionService::builder(store).bearer_tokens();
    sessions.build().unwrap()
}

fn authorization<I: IntoIterator<Item = String>>(values: I) -> HeaderMap {
    let field = |value: String| (header::AUTHORIZATION, value.parse().unwrap());
    values.into_iter().map(field).collect()
}

/// A JSON Web Token, as a proxy in front of the application adds one.
const FOREIGN: &str = "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJwcm94eSJ9.dGVzdA";

/// A24, O06: the `Authorization` header is read only if the service enables bearer tokens. Two
/// different tokens are ambiguous, and a value that cannot be a token is ignored beside a token.
#[tokio::test]
async fn bearer_tokens_are_opt_in() {
    let (with, without) = (bearing(), memory());
    for (sessions, opted_in) in [(&with, true), (&without, false)] {
        let one = sessions.sign_in_without_request(1).await.unwrap();
        let two = sessions.sign_in_without_request(1).await.unwrap();
        let bearer = |scheme: &str, token: &str| format!("{scheme} {token}");
        let one_text = one.token().expose();
        for (cookie_token, authorization, passes) in [
            (None, vec![bearer("Bearer", &one_text)], opted_in),
            (None, vec![bearer("bEARER", &one_text)], opted_in),
            (None, vec![bearer("Basic", &one_text)], false),
            // As long as a valid token.
            (None, vec![bearer("Digest", &one_text)], false),
            (None, vec![bearer("Bearer", "malformed")], false),
            (None, vec![bearer("Bearer", &one_text); 2], false),
            (Some(&one), vec![bearer("Bearer", &one_text)], true),
            (Some(&two), vec![bearer("Bearer", &one_text)], !opted_in),
            (Some(&one), vec![bearer("Bearer", "malformed")], true),
            (Some(&one), vec![FOREIGN.to_owned()], true),
            (Some(&one), vec![FOREIGN.to_owned(); 2], true),
            (
                Some(&one),
                vec![FOREIGN.to_owned(), bearer("Bearer", &one_text)],
                true,
            ),
            (
                Some(&two),
                vec![FOREIGN.to_owned(), bearer("Bearer", &one_text)],
                !opted_in,
            ),
            (None, vec![FOREIGN.to_owned()], false),
            (
                None,
                vec![FOREIGN.to_owned(), bearer("Bearer", &one_text)],
                opted_in,
            ),
            (
                None,
                vec![bearer("Bearer", &one_text), FOREIGN.to_owned()],
                opted_in,
            ),
            (Some(&one), vec![bearer("Basic", "abc")], true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(signed_in) = cookie_token {
                headers = cookie(sessions, signed_in.token());
            }
            for value in &authorization {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            let response = respond(sessions, RequireUserLayer::new(), request(headers)).await;
            assert_eq!(
                response.status() == 200,
                passes,
                "{authorization:?}, opted in: {opted_in}"
            );
            if passes && opted_in {
                let vary: Vec<_> = response.headers().get_all(header::VARY).iter().collect();
                assert_eq!(vary, ["cookie", "authorization"]);
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            bearer("Bearer", &one_text).parse().unwrap(),
        );
        assert_eq!(sessions.sign_out(&headers).await.ended().unwrap(), opted_in);
    }
}

const BEARER: &str = "Bearer AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// A malformed bearer token, or one of two, is counted and logged as rejected, like a malformed
/// cookie. A token of another system is not.
#[tokio::test]
async fn a_malformed_bearer_token_is_rejected() {
    for (values, rejected) in [
        (vec!["Bearer malformed"], Some("malformed")),
        (vec!["Bearer "], Some("malformed")),
        (vec!["Bearer one", "Bearer two"], Some("malformed")),
        (vec![BEARER; 2], Some("ambiguous")),
        (vec!["Basic abc"], None),
        (vec![], None),
    ] {
        let logs = Logs::capture();
        let sessions = bearing();
        let headers = authorization(values.iter().map(ToString::to_string));
        let response = respond(&sessions, RequireUserLayer::new(), request(headers)).await;
        assert_eq!(kind(&response), RejectionKind::Unauthenticated);
        let counts = sessions.metrics();
        let (of_these, of_others) = match rejected {
            Some(_) => (counts.rejected, counts.anonymous),
            None => (counts.anonymous, counts.rejected),
        };
        assert_eq!((of_these, of_others), (1, 0), "{values:?}");
        let events = logs.events();
        let warned: Vec<_> = events.iter().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warned.len(), usize::from(rejected.is_some()), "{warned:?}");
        assert!(warned.iter().all(|line| line.contains(rejected.unwrap())));
    }
}

/// A16: if several bearer tokens are presented, signing out ends the session of each, as with
/// cookies, but of no more tokens than of cookies.
#[tokio::test]
async fn signing_out_ends_the_session_of_every_bearer_token() {
    for (presented, ended) in [(1, 1..=1), (2, 2..=2), (100, 2..=16)] {
        let sessions = bearing();
        let mut values = Vec::new();
        for _ in 0..presented {
            let signed_in = sessions.sign_in_without_request(1).await.unwrap();
            values.push(format!("Bearer {}", signed_in.token().expose()));
        }
        let signed_out = sessions.sign_out(&authorization(values)).await;
        assert!(signed_out.ended().unwrap());
        let left = sessions.sessions_of(&1).await.unwrap().len();
        assert!(ended.contains(&(presented - left)), "{left} of {presented}");
    }
}
