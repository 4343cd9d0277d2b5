//! The types that applications serialize as JSON.

use std::time::{Duration, SystemTime};

use axum::{Router, body::Body, extract::Path, routing::get};
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tower_user_session::{
    extract::OrNotFound,
    require_user::ReturnTo,
    session::{ParseSessionIdError, Session, SessionId, SessionInfo, SessionTimestamps},
};

const ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

fn session() -> Session {
    let mut times =
        SessionTimestamps::at(SystemTime::UNIX_EPOCH + Duration::from_secs(25 * 60 + 1));
    times.expires_at += Duration::from_secs(60);
    Session::new(ID.parse().unwrap(), times)
}

/// Ids and times are text, and are read back to the microsecond.
#[test]
fn sessions_round_trip_through_json() {
    let text = serde_json::to_string(&session()).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["id"], ID);
    assert_eq!(json["created_at"], "1970-01-01T00:25:01Z");
    assert_eq!(json["expires_at"], "1970-01-01T00:26:01Z");
    assert_eq!(serde_json::from_str::<Session>(&text).unwrap(), session());

    let mut device = SessionInfo::new(&session());
    device.ip = Some("192.0.2.1".parse().unwrap());
    device.last_seen_at += Duration::from_micros(123_456);
    let text = serde_json::to_string(&device).unwrap();
    assert!(text.contains("1970-01-01T00:25:01.123456Z"), "{text}");
    assert_eq!(serde_json::from_str::<SessionInfo>(&text).unwrap(), device);
}

/// O08: a malformed id has its own error, for each way to read it.
#[test]
fn a_malformed_id_is_refused() {
    let upper = ID.to_uppercase();
    let braced = format!("{{{ID}}}");
    let simple = ID.replace('-', "");
    for text in [
        "",
        "nonsense",
        &simple,
        &braced,
        &ID[1..],
        "67e55044-10b1-426f-9247-bb680e5fe0cg",
    ] {
        let error: ParseSessionIdError = text.parse::<SessionId>().unwrap_err();
        assert_eq!(error.to_string(), "invalid session id");
        assert!(
            serde_json::from_value::<SessionId>(json!(text)).is_err(),
            "{text}"
        );
    }
    for text in [ID, &upper] {
        let id: SessionId = serde_json::from_value(json!(text)).unwrap();
        assert_eq!(json!(id), ID);
        assert_eq!(SessionId::from(uuid::Uuid::from(id)), id);
    }
}

/// O08: in a path it is a client error.
#[tokio::test]
async fn a_malformed_id_in_a_path_is_not_found() {
    async fn by_parsing(Path(id): Path<String>) -> Result<String, ParseSessionIdError> {
        Ok(id.parse::<SessionId>()?.to_string())
    }
    async fn by_extracting(Path(id): Path<SessionId>) -> String {
        id.to_string()
    }
    async fn or_not_found(OrNotFound(Path(id)): OrNotFound<Path<SessionId>>) -> String {
        id.to_string()
    }
    async fn two(OrNotFound(Path((user, id))): OrNotFound<Path<(i64, SessionId)>>) -> String {
        format!("{user} {id}")
    }
    let app = Router::new()
        .route("/parsed/{id}", get(by_parsing))
        .route("/sessions/{id}", get(or_not_found))
        .route("/users/{user}/sessions/{id}", get(two))
        // The handler reads a parameter that the route does not have: a defect of the application.
        .route("/defect", get(or_not_found))
        .route("/extracted/{id}", get(by_extracting));
    for (path, status) in [
        (format!("/parsed/{ID}"), 200),
        (format!("/extracted/{ID}"), 200),
        ("/parsed/nonsense".to_owned(), 404),
        ("/parsed/%00".to_owned(), 404),
        (format!("/sessions/{ID}"), 200),
        ("/sessions/nonsense".to_owned(), 404),
        ("/sessions/%00".to_owned(), 404),
        ("/sessions/%ff".to_owned(), 404),
        (format!("/sessions/{ID}0"), 404),
        (format!("/users/7/sessions/{ID}"), 200),
        ("/users/7/sessions/nonsense".to_owned(), 404),
        (format!("/users/nonsense/sessions/{ID}"), 404),
        ("/defect".to_owned(), 500),
        // axum's response to a parameter that does not deserialize.
        ("/extracted/nonsense".to_owned(), 400),
    ] {
        let request = Request::get(&path).body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
    }
}

/// An unsafe return path deserializes to `None` if the field is an option, and fails otherwise.
#[test]
fn an_unsafe_return_path_deserializes_to_none() {
    #[derive(serde::Deserialize)]
    struct Query {
        #[serde(default, deserialize_with = "ReturnTo::deserialize_or_none")]
        next: Option<ReturnTo>,
    }
    for (query, next) in [
        (json!({"next": "/account?tab=2"}), Some("/account?tab=2")),
        (json!({"next": "//evil.example"}), None),
        (json!({"next": "https://evil.example"}), None),
        (json!({"next": ""}), None),
        (json!({"next": null}), None),
        (json!({}), None),
    ] {
        let read: Query = serde_json::from_value(query.clone()).unwrap();
        assert_eq!(read.next.as_ref().map(ReturnTo::as_str), next, "{query}");
    }
    assert!(serde_json::from_value::<ReturnTo>(json!("//evil.example")).is_err());
    let place: ReturnTo = serde_json::from_value(json!("/a")).unwrap();
    assert_eq!(json!(place), "/a");
}
