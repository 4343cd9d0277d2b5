//! Partitioned cookies (CHIPS) of an application that is embedded in a page of another site.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, header::COOKIE},
    response::Html,
    routing::get,
};
use ephemeral_postgres::skip;
use fantoccini::{Client, Locator};
use tokio::net::TcpListener;
use tower_user_session::{
    CurrentUser, LoadUserLayer, SessionService, SignedIn, SignedOut, cookie::SessionCookie,
    store::MemorySessionStore,
};

use crate::browser::Driver;

#[derive(Clone)]
struct User(&'static str);

type Sessions = SessionService<MemorySessionStore<i64, User>>;

/// Serves on the loopback address, for every host name.
async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
    address
}

/// The embedded application.
async fn application(cookie: SessionCookie) -> SocketAddr {
    async fn home(user: Option<CurrentUser<User>>, headers: HeaderMap) -> Html<String> {
        let cookies = headers.get_all(COOKIE).iter().count();
        let name = user.map_or("stranger", |user| user.0.0);
        Html(format!("<p>{name}, cookies: {cookies}"))
    }
    async fn sign_in(State(sessions): State<Sessions>) -> (SignedIn, Html<&'static str>) {
        let signed_in = sessions.sign_in_without_request(1).await.unwrap();
        (signed_in, Html("<p>signed in"))
    }
    async fn sign_out(
        State(sessions): State<Sessions>,
        headers: HeaderMap,
    ) -> (SignedOut, Html<&'static str>) {
        let signed_out = sessions.sign_out(&headers).await;
        (signed_out, Html("<p>signed out"))
    }
    let store = MemorySessionStore::new();
    store.add_user(1, User("Ada"));
    let sessions = SessionService::builder(store)
        .cookie(cookie)
        .build()
        .unwrap();
    let router = Router::new()
        .route("/", get(home))
        .route("/sign-in", get(sign_in))
        .route("/sign-out", get(sign_out))
        .layer(LoadUserLayer::new(sessions.clone()))
        .with_state(sessions);
    serve(router).await
}

/// Returns the text of a page on `site` that embeds this path of the application at 127.0.0.1. The
/// sites are on `localhost`, which is another site than 127.0.0.1 for the browser, and a secure
/// context.
async fn embedded(
    window: &Client,
    site: SocketAddr,
    application: SocketAddr,
    path: &str,
) -> String {
    let page = format!(
        "http://localhost:{}/{}/{path}",
        site.port(),
        application.port()
    );
    window.goto(&page).await.unwrap();
    let frame = window.find(Locator::Css("iframe")).await.unwrap();
    frame.enter_frame().await.unwrap();
    let text = shown(window).await;
    window.enter_parent_frame().await.unwrap();
    text
}

async fn shown(window: &Client) -> String {
    let text = window.wait().for_element(Locator::Css("p")).await.unwrap();
    text.text().await.unwrap()
}

/// In a browser that blocks the cookies of embedded sites, an embedded application needs a
/// partitioned cookie to keep a user signed in. The session exists only on the embedding site, and
/// a sign-out removes its cookie.
#[tokio::test]
async fn an_embedded_application_keeps_a_user_signed_in() {
    let name = "partitioned::an_embedded_application_keeps_a_user_signed_in";
    let Some(driver) = Driver::start().await else {
        return skip(name, "there is no chromedriver");
    };
    let embedding = async |Path((port, path)): Path<(u16, String)>| {
        Html(format!(
            "<iframe src=\"http://127.0.0.1:{port}/{path}\"></iframe>"
        ))
    };
    let blank = async |Path(port): Path<u16>| {
        Html(format!(
            "<iframe src=\"http://127.0.0.1:{port}/\"></iframe>"
        ))
    };
    let site = serve(
        Router::new()
            .route("/{port}/", get(blank))
            .route("/{port}/{path}", get(embedding)),
    )
    .await;
    let unpartitioned = SessionCookie::default().same_site_none().unwrap();
    let partitioned = unpartitioned.clone().partitioned().unwrap();
    for (cookie, user) in [
        (unpartitioned, "stranger, cookies: 0"),
        (partitioned, "Ada, cookies: 1"),
    ] {
        let application = application(cookie).await;
        // Cookies do not depend on the port, so each application has its own window.
        let window = driver.window(&["--test-third-party-cookie-phaseout"]).await;
        assert_eq!(
            embedded(&window, site, application, "").await,
            "stranger, cookies: 0"
        );
        assert_eq!(
            embedded(&window, site, application, "sign-in").await,
            "signed in"
        );
        assert_eq!(embedded(&window, site, application, "").await, user);
        // Opened directly, the application is in another partition.
        window
            .goto(&format!("http://{application}/"))
            .await
            .unwrap();
        assert_eq!(shown(&window).await, "stranger, cookies: 0");
        assert_eq!(
            embedded(&window, site, application, "sign-out").await,
            "signed out"
        );
        assert_eq!(
            embedded(&window, site, application, "").await,
            "stranger, cookies: 0"
        );
        window.close().await.unwrap();
    }
}
