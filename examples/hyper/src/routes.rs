//! The handlers. A success that changes state responds with 303.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use example_application::{AccountError, Application, Client, Credentials, SIGNED_OUT_HERE, User};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_user_session::RequireUserLayer;

type Answer = Response<Full<Bytes>>;

/// In bytes.
const LONGEST_FORM: usize = 16 * 1024;

pub(crate) async fn answer(
    application: Application,
    request: Request<Incoming>,
) -> Result<Answer, Infallible> {
    match (request.method().as_str(), request.uri().path()) {
        ("GET", "/api/me") => {
            let members_only = RequireUserLayer::<User>::new();
            members_only.layer(service_fn(me)).oneshot(request).await
        }
        ("POST", "/sign-up") => Ok(sign_up(&application, request).await),
        ("POST", "/sign-in") => Ok(sign_in(&application, request).await),
        ("POST", "/sign-out") => Ok(sign_out(&application, &request).await),
        _ => Ok(text(StatusCode::NOT_FOUND, "Not found.")),
    }
}

async fn me(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let user = request.extensions().get::<User>();
    let Ok(json) = serde_json::to_vec(&user) else {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(text(status, "Serializing the user failed."));
    };
    let mut answer = Response::new(json.into());
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(answer)
}

async fn sign_up(application: &Application, request: Request<Incoming>) -> Answer {
    let credentials = match read(request.into_body()).await {
        Ok(credentials) => credentials,
        Err(refusal) => return refusal,
    };
    match application.accounts.sign_up(&credentials).await {
        Ok(_) => see_other("/api/me"),
        Err(error) => refusal(&error),
    }
}

async fn sign_in(application: &Application, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let credentials = match read(body).await {
        Ok(credentials) => credentials,
        Err(refusal) => return refusal,
    };
    let ip = head.extensions.get::<SocketAddr>().map(SocketAddr::ip);
    let client = Client {
        headers: &head.headers,
        ip,
    };
    match application.sign_in(&credentials, client, false).await {
        Ok(signed_in) => {
            let mut answer = see_other("/api/me");
            signed_in.write_to(answer.headers_mut());
            answer
        }
        Err(error) => refusal(&error),
    }
}

async fn sign_out(application: &Application, request: &Request<Incoming>) -> Answer {
    let signed_out = application.sign_out(request.headers()).await;
    let mut answer = if signed_out.ended().is_ok() {
        see_other("/api/me")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, SIGNED_OUT_HERE)
    };
    signed_out.write_to(answer.headers_mut());
    answer
}

async fn read(body: Incoming) -> Result<Credentials, Answer> {
    let body = Limited::new(body, LONGEST_FORM).collect().await;
    let body = body.map_err(|_| text(StatusCode::BAD_REQUEST, "Reading the form failed."))?;
    serde_urlencoded::from_bytes(&body.to_bytes())
        .map_err(|_| text(StatusCode::BAD_REQUEST, "The body is not a form."))
}

fn refusal(error: &AccountError) -> Answer {
    if let AccountError::Unavailable(cause) = error {
        tracing::error!(%cause, "sign-up or sign-in failed");
    }
    let mut answer = text(error.status(), &error.to_string());
    if error.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Cookie");
        answer
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    answer
}

fn see_other(location: &'static str) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = StatusCode::SEE_OTHER;
    let location = HeaderValue::from_static(location);
    answer.headers_mut().insert(header::LOCATION, location);
    answer
}

fn text(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(format!("{text}\n").into());
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}
