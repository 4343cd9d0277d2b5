//! The observer of session events: what it receives, and that it affects no request.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Request, Response, header::USER_AGENT};
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use tower_user_session::{
    CurrentSession, ErrorKind, LoadUserLayer, SessionService, SignedIn,
    service::{EndCause, RefusalCause, SessionEvent, SessionEventKind, TokenRejection},
    session::{SessionId, SessionLimit},
    store::{SessionStore, SetSessionColumn},
};

use crate::support::{
    Logs, cookie, cookie_lines, current,
    organizations::{Member, member_store, memory_member_store, organizations},
    patiently, recorded_logs, sql, until,
};

type Event = SessionEvent<i64>;
type Received = Arc<Mutex<Vec<Event>>>;

const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// A service over this store, and what its observer has received.
fn observed<S: SessionStore<UserId = i64>>(store: S) -> (SessionService<S>, Received) {
    recorded_logs::begin();
    let received = Received::default();
    let to = Arc::clone(&received);
    let builder = SessionService::builder(store).on_event(move |event| {
        to.lock().unwrap().push(event);
    });
    (builder.build().unwrap(), received)
}

/// The headers of a request of a browser, with the cookie of this session.
fn browser<S: SessionStore>(
    sessions: &SessionService<S>,
    signed_in: Option<&SignedIn>,
) -> HeaderMap {
    let mut headers = signed_in.map_or_else(HeaderMap::new, |signed_in| {
        cookie(sessions, signed_in.token())
    });
    headers.insert(USER_AGENT, HeaderValue::from_static("browser"));
    headers
}

/// Sends a request with these headers through the layer.
async fn request<S: SessionStore>(sessions: &SessionService<S>, headers: HeaderMap) {
    let service = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service(service_fn(async |_: Request<String>| {
            Ok::<_, Infallible>(Response::new(String::new()))
        }));
    let mut request = Request::new(String::new());
    *request.headers_mut() = headers;
    service.oneshot(request).await.unwrap();
}

/// One line of the expected events: kind, user, session, address, and whether there is a user agent.
type Line = (
    SessionEventKind,
    Option<i64>,
    Option<SessionId>,
    Option<IpAddr>,
    bool,
);

/// Does each operation, and returns the events that must have been reported.
async fn each_operation<S>(sessions: &SessionService<S>) -> Vec<Line>
where
    S: SessionStore<User = Member, UserId = i64> + SetSessionColumn<i64>,
{
    use SessionEventKind::{
        Ended, Reauthenticated, SignInRefused, SignedIn, TokenRejected, Updated,
    };
    let id = |signed_in: &tower_user_session::SignedIn| Some(signed_in.session().id());
    let browser = |signed_in| browser(sessions, signed_in);

    let one = sessions.sign_in(1, &browser(None)).ip(IP).await.unwrap();
    let two = sessions.sign_in(2, &browser(Some(&one))).await.unwrap();
    let mut expected = vec![
        (SignedIn, Some(1), id(&one), Some(IP), true),
        (SignedIn, Some(2), id(&two), None, true),
        (Ended(EndCause::Replaced), None, id(&one), None, true),
    ];
    let rotated = sessions
        .reauthenticate(2, &browser(Some(&two)))
        .await
        .unwrap();
    sessions
        .update(&current(&rotated))
        .set("active_org_id", 7_i64)
        .await
        .unwrap();
    expected.extend([
        (Reauthenticated, Some(2), id(&two), None, true),
        (Updated, None, id(&two), None, false),
    ]);
    // The limit is one session.
    let three = sessions.sign_in_without_request(2).await.unwrap();
    assert!(
        sessions
            .sign_out(&browser(Some(&three)))
            .await
            .ended()
            .unwrap()
    );
    expected.extend([
        (SignedIn, Some(2), id(&three), None, false),
        (Ended(EndCause::Limit), Some(2), id(&two), None, false),
        (Ended(EndCause::SignedOut), None, id(&three), None, true),
    ]);
    expected.extend(each_revocation(sessions).await);
    // Nothing happens, and no event is reported.
    assert_eq!(sessions.revoke_everyone().await.unwrap(), 0);
    assert_eq!(sessions.revoke_all(&1).await.unwrap(), 0);
    let update = sessions.update(&CurrentSession::<Member>::new(three.session()));
    let update = update.set("active_org_id", 7_i64);
    assert_eq!(update.await.unwrap_err().kind(), ErrorKind::SessionNotFound);
    sessions
        .reauthenticate(2, &browser(Some(&three)))
        .await
        .unwrap_err();
    request(sessions, browser(None)).await;

    let refused = sessions.sign_in(9, &browser(None)).ip(IP).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::UserNotAllowed);
    let cause = RefusalCause::UserNotAllowed;
    expected.push((SignInRefused(cause), Some(9), None, Some(IP), true));
    let last = sessions.sign_in_without_request(1).await.unwrap();
    expected.push((SignedIn, Some(1), id(&last), None, false));
    request(sessions, browser(Some(&last))).await;
    let name = sessions.cookie().name();
    let ambiguous = [format!("{name}=a"), format!("{name}=b")];
    for (headers, reason) in [
        (browser(Some(&three)), TokenRejection::NotLive),
        (
            cookie_lines([format!("{name}=a")]),
            TokenRejection::Malformed,
        ),
        (cookie_lines(ambiguous), TokenRejection::Ambiguous),
    ] {
        let has_agent = headers.contains_key(USER_AGENT);
        request(sessions, headers).await;
        expected.push((TokenRejected(reason), None, None, None, has_agent));
    }
    expected
}

/// Revokes a session in each way.
async fn each_revocation<S>(sessions: &SessionService<S>) -> Vec<Line>
where
    S: SessionStore<UserId = i64> + SetSessionColumn<i64>,
{
    let id = |signed_in: &SignedIn| Some(signed_in.session().id());
    let kind = SessionEventKind::Ended(EndCause::Revoked);
    let mut expected = Vec::new();
    for way in 0..5 {
        let sign_in = sessions
            .sign_in_without_request(1)
            .set("active_org_id", 7_i64);
        let signed_in = sign_in.await.unwrap();
        expected.push((
            SessionEventKind::SignedIn,
            Some(1),
            id(&signed_in),
            None,
            false,
        ));
        let (user, session) = match way {
            0 => {
                assert!(sessions.revoke(&1, signed_in.session().id()).await.unwrap());
                (Some(1), id(&signed_in))
            }
            1 => {
                assert_eq!(sessions.revoke_all(&1).await.unwrap(), 1);
                (Some(1), id(&signed_in))
            }
            2 => {
                assert_eq!(
                    sessions.revoke_where(&1, "active_org_id", 7).await.unwrap(),
                    1
                );
                (Some(1), id(&signed_in))
            }
            3 => {
                let ended = sessions
                    .revoke_everyone_where("active_org_id", 7)
                    .await
                    .unwrap();
                assert_eq!(ended, 1);
                (None, id(&signed_in))
            }
            _ => {
                assert_eq!(sessions.revoke_everyone().await.unwrap(), 1);
                (None, None)
            }
        };
        expected.push((kind, user, session, None, false));
    }
    expected
}

fn assert_received(received: &Received, expected: &[Line]) {
    let received = received.lock().unwrap();
    let lines: Vec<Line> = received
        .iter()
        .map(|event| {
            assert!(
                event
                    .user_agent
                    .as_deref()
                    .is_none_or(|agent| agent == "browser")
            );
            let has_agent = event.user_agent.is_some();
            (
                event.kind,
                event.user_id,
                event.session,
                event.ip,
                has_agent,
            )
        })
        .collect();
    assert_eq!(lines, expected);
}

/// Each operation reports its events, in order, with what it knows, over both stores. Operations
/// that change nothing report none.
#[tokio::test]
async fn each_operation_reports_its_events() {
    let limit = SessionLimit::end_oldest(1).unwrap();
    let (sessions, received) = observed(memory_member_store().with_session_limit(limit));
    let expected = each_operation(&sessions).await;
    sessions.close().await;
    assert_received(&received, &expected);

    let database = organizations().await;
    let (sessions, received) = observed(member_store(&database).with_session_limit(limit));
    let expected = each_operation(&sessions).await;
    // The application knows whether its transaction commits.
    let mut client = database.client().await;
    let transaction = client.transaction().await.unwrap();
    let sign_in = sessions.sign_in_without_request(2);
    let _ = sign_in.in_transaction(&transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    // Another client.
    sql(&database, "DELETE FROM sessions").await;
    sessions.close().await;
    assert_received(&received, &expected);
}

/// A sign-in that the session limit refuses is reported.
#[tokio::test]
async fn a_sign_in_over_the_limit_is_reported() {
    let limit = SessionLimit::refuse_new(1).unwrap();
    let (sessions, received) = observed(memory_member_store().with_session_limit(limit));
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    sessions.sign_in_without_request(1).await.unwrap_err();
    sessions.close().await;
    let kind = SessionEventKind::SignInRefused(RefusalCause::TooManySessions);
    assert_eq!(received.lock().unwrap()[1].kind, kind);
}

/// An observer that blocks delays no request. A full queue drops events, counts them and logs once.
/// Rejected tokens leave half of the queue to other events.
#[tokio::test]
async fn an_observer_that_blocks_delays_no_request() {
    let logs = Logs::capture();
    let received = Received::default();
    let (release, wait) = mpsc::channel::<()>();
    let (to, wait) = (Arc::clone(&received), Mutex::new(wait));
    let builder = SessionService::builder(memory_member_store()).on_event(move |event| {
        let _ = wait.lock().unwrap().recv();
        to.lock().unwrap().push(event);
    });
    let deadline = Duration::from_millis(200);
    let sessions = builder.deadline(deadline).build().unwrap();
    let name = sessions.cookie().name().to_owned();
    for _ in 0..2_000 {
        request(&sessions, cookie_lines([format!("{name}=x")])).await;
    }
    let dropped = sessions.metrics().events_dropped;
    assert!((2_000 - 513..=2_000 - 512).contains(&dropped), "{dropped}");
    for _ in 0..512 {
        let _ = patiently(sessions.sign_in_without_request(1).into_future())
            .await
            .unwrap();
    }
    assert_eq!(sessions.metrics().events_dropped, dropped);
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    assert!(sessions.metrics().events_dropped > dropped);
    // Closing waits for the deadline.
    let start = Instant::now();
    patiently(sessions.close()).await;
    assert!(start.elapsed() >= deadline);
    drop(release);
    until(|| received.lock().unwrap().len() >= 1_024).await;
    let signed_in = |event: &&Event| event.kind == SessionEventKind::SignedIn;
    let all_signed_in = || received.lock().unwrap().iter().filter(signed_in).count() == 512;
    until(all_signed_in).await;
    let of_kind = |text| {
        logs.events()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    assert_eq!(of_kind("session events dropped"), 1);
    assert_eq!(of_kind("close did not finish"), 1);
}

/// Closing the service returns when the observer has received every event.
#[tokio::test]
async fn closing_waits_for_the_observer() {
    let received = Received::default();
    let to = Arc::clone(&received);
    let builder = SessionService::builder(memory_member_store()).on_event(move |event: Event| {
        std::thread::sleep(Duration::from_millis(50));
        to.lock().unwrap().push(event);
    });
    let sessions = builder.build().unwrap();
    for _ in 0..4 {
        let _ = sessions.sign_in_without_request(1).await.unwrap();
    }
    assert!(received.lock().unwrap().len() < 4);
    sessions.close().await;
    assert_eq!(received.lock().unwrap().len(), 4);
}

/// A panic in the observer loses that event only, and is logged without its text.
#[tokio::test]
async fn a_panic_in_the_observer_is_contained() {
    let received = Received::default();
    let to = Arc::clone(&received);
    let builder = SessionService::builder(memory_member_store()).on_event(move |event: Event| {
        assert!(event.user_id != Some(1), "user 1 of the application");
        to.lock().unwrap().push(event);
    });
    let sessions = builder.build().unwrap();
    for user in [1, 2, 1, 2] {
        let _ = sessions.sign_in_without_request(user).await.unwrap();
    }
    sessions.close().await;
    let users: Vec<_> = received
        .lock()
        .unwrap()
        .iter()
        .map(|event| event.user_id)
        .collect();
    assert_eq!(users, [Some(2), Some(2)]);
    assert_eq!(sessions.metrics().events_dropped, 0);
}

/// The observer is dropped with the service, and receives the queued events before.
#[tokio::test]
async fn the_observer_is_dropped_with_the_service() {
    let (sessions, received) = observed(memory_member_store());
    let weak = Arc::downgrade(&received);
    let clone = sessions.clone();
    let _ = sessions.sign_in_without_request(1).await.unwrap();
    drop(sessions);
    let _ = clone.sign_in_without_request(2).await.unwrap();
    drop(clone);
    until(|| weak.strong_count() == 1).await;
    assert_eq!(received.lock().unwrap().len(), 2);
}

/// The `Debug` output of an event contains neither the user nor the client.
#[tokio::test]
async fn an_event_prints_no_personal_data() {
    let (sessions, received) = observed(memory_member_store());
    let sign_in = sessions.sign_in(1, &browser(&sessions, None)).ip(IP);
    let signed_in = sign_in.await.unwrap();
    sessions.close().await;
    let text = format!("{:?}", received.lock().unwrap()[0]);
    let id = signed_in.session().id();
    assert_eq!(
        text,
        format!("SessionEvent {{ kind: SignedIn, session: Some({id:?}), .. }}")
    );
}
