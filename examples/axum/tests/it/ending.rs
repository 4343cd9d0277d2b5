//! Streams end with their session, even if another process over the same database ended it.

use std::time::Duration;

use axum::http::{StatusCode, header};
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode,
    },
};
use tower_user_session::{ErrorKind, feed::DEFAULT_LEASE, tokio_postgres::NoTls};

use crate::support::{ADA, Browser, Site};

/// The documented bound, and a tolerance for a busy machine.
const SOON: Duration = DEFAULT_LEASE.saturating_add(Duration::from_secs(1));
/// Longer than the polling interval of the list of sessions.
const LOOKED: Duration = Duration::from_secs(5);

const SIGNED_OUT: &str = "event: signed-out\n\
                          data: You were signed out on another device or in another window.\n\n";

/// Returns the next event as text, or `None` at the end.
async fn event(events: &mut Incoming, patience: Duration) -> Option<String> {
    let frame = timeout(patience, events.frame()).await.unwrap()?;
    let event = frame.unwrap().into_data().unwrap();
    Some(String::from_utf8(event.into()).unwrap())
}

async fn nothing_comes(events: &mut Incoming) {
    assert!(timeout(DEFAULT_LEASE, events.frame()).await.is_err());
}

/// H14, H17: server-sent events end with the session, and the last event names the reason.
#[tokio::test]
async fn a_stream_of_events_ends_with_its_session() {
    let site = Site::open().await;
    let elsewhere = site.beside().await;
    site.adas_browser().await;
    let database = site.database.as_ref().unwrap().client().await;
    for way in ["signed out", "revoked", "deleted", "disabled"] {
        let mut browser = site.browser();
        browser.post("/sign-in", ADA).await;
        let events = browser.open("/events").await;
        assert_eq!(events.headers()[header::CONTENT_TYPE], "text/event-stream");
        assert_eq!(events.headers()[header::CACHE_CONTROL], "no-store");
        let mut events = events.into_body();
        nothing_comes(&mut events).await;

        match way {
            "signed out" => {
                let mut copy = elsewhere.browser();
                copy.cookie.clone_from(&browser.cookie);
                copy.post("/sign-out", "").await;
            }
            "revoked" => drop(elsewhere.sessions.revoke_all(&1).await.unwrap()),
            "deleted" => drop(database.execute("DELETE FROM sessions", &[]).await.unwrap()),
            _ => {
                let disable = "UPDATE users SET disabled_at = now()";
                database.execute(disable, &[]).await.unwrap();
            }
        }
        assert_eq!(event(&mut events, SOON).await.unwrap(), SIGNED_OUT, "{way}");
        assert_eq!(event(&mut events, SOON).await, None, "{way}");
        // The browser reconnects.
        let again = browser.open("/events").await;
        assert_eq!(again.status(), StatusCode::UNAUTHORIZED, "{way}");
    }
}

/// The application has a feed and a cache. Without them these tests would take longer.
#[tokio::test]
async fn the_application_follows_the_feed() {
    let site = Site::open().await;
    let config = site.database.as_ref().unwrap().config();
    let feed = site.sessions.store().feed(config, NoTls);
    let again = site.sessions.subscribe(feed).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Configuration);
}

/// A process that shuts down ends no session: the browser reconnects to the next process.
#[tokio::test]
async fn a_process_that_ends_ends_its_streams_without_a_word() {
    let site = Site::open().await;
    let browser = site.adas_browser().await;
    let mut events = browser.open("/events").await.into_body();
    nothing_comes(&mut events).await;
    site.sessions.close().await;
    assert_eq!(event(&mut events, SOON).await, None);
}

/// The ids on the page and in the event are the same until a session begins or ends.
#[tokio::test]
async fn the_page_of_sessions_is_told_when_they_change() {
    let site = Site::open().await;
    let elsewhere = site.beside().await;
    let mut browser = site.adas_browser().await;
    let mut events = browser.open("/events?sessions=yes").await.into_body();
    let mut said = Vec::new();
    for change in ["nothing", "begins", "ends"] {
        match change {
            "begins" => drop(elsewhere.browser().post("/sign-in", ADA).await),
            "ends" => drop(browser.post("/sessions/end-others", "").await),
            _ => {}
        }
        let event = event(&mut events, LOOKED).await.unwrap();
        let names = event
            .strip_prefix("event: sessions\ndata: ")
            .unwrap()
            .trim();
        let page = browser.get("/sessions").await.body;
        assert!(page.contains(&format!(r#"data-names="{names}""#)), "{page}");
        said.push(names.to_owned());
    }
    assert_eq!(said[0], said[2]);
    assert!(said[1].len() > said[0].len());
    // A use is not a change.
    assert!(timeout(LOOKED, events.frame()).await.is_err());
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Performs the handshake like a browser with this page.
async fn socket(
    site: &Site,
    browser: &Browser,
    origin: Option<&str>,
) -> Result<Socket, StatusCode> {
    let mut request = format!("ws://{}/socket", site.address)
        .into_client_request()
        .unwrap();
    let headers = request.headers_mut();
    if let Some(cookie) = &browser.cookie {
        headers.insert(header::COOKIE, cookie.parse().unwrap());
    }
    if let Some(origin) = origin {
        headers.insert(header::ORIGIN, origin.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, response)) => {
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            Ok(socket)
        }
        Err(Error::Http(response)) => Err(response.status()),
        Err(error) => panic!("{error}"),
    }
}

/// K10: a page of another site cannot open a WebSocket with the cookie. H18: a page of this site
/// can.
#[tokio::test]
async fn only_this_sites_pages_open_a_websocket() {
    let site = Site::open().await;
    let browser = site.adas_browser().await;
    let own = format!("http://{}", site.address);
    let neighbour = "http://127.0.0.1:1";
    for foreign in ["https://evil.example", neighbour, "null"] {
        let refused = socket(&site, &browser, Some(foreign)).await;
        assert_eq!(refused.unwrap_err(), StatusCode::FORBIDDEN, "{foreign}");
    }
    let stranger = socket(&site, &site.browser(), Some(&own)).await;
    assert_eq!(stranger.unwrap_err(), StatusCode::UNAUTHORIZED);
    for origin in [Some(own.as_str()), None] {
        let mut socket = socket(&site, &browser, origin).await.unwrap();
        let hello = socket.next().await.unwrap().unwrap();
        assert_eq!(hello, Message::text("You are ada@example.com."));
        for message in [Message::text("hello"), Message::binary(vec![1, 2, 3])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), message);
        }
    }
}

/// H17: a WebSocket closes with 1008 when its session ends elsewhere, and with 1001 when the
/// process shuts down.
#[tokio::test]
async fn a_websocket_closes_with_its_session() {
    let site = Site::open().await;
    let elsewhere = site.beside().await;
    let mut browser = site.adas_browser().await;
    for (last, code) in [(false, CloseCode::Policy), (true, CloseCode::Away)] {
        browser.post("/sign-in", ADA).await;
        let mut socket = socket(&site, &browser, None).await.unwrap();
        socket.next().await.unwrap().unwrap();
        assert!(timeout(DEFAULT_LEASE, socket.next()).await.is_err());
        if last {
            site.sessions.close().await;
        } else {
            elsewhere.sessions.revoke_all(&1).await.unwrap();
        }
        let closed = timeout(SOON, socket.next()).await.unwrap().unwrap();
        let Message::Close(Some(frame)) = closed.unwrap() else {
            panic!("it does not say why it closes");
        };
        assert_eq!(frame.code, code);
        assert!(timeout(SOON, socket.next()).await.unwrap().is_none());
    }
}
