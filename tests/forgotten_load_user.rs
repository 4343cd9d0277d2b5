//! A process in which `RequireUserLayer` stands alone. The check is once a process, so it has one.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking, and its helpers do"
)]

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
};

use http::{Request, Response, StatusCode};
use tower::{ServiceBuilder, ServiceExt};
use tower_user_session::{LoadUserLayer, MemorySessionStore, RequireUserLayer, SessionService};

#[derive(Clone)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn hello(_: Request<String>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello".to_owned()))
}

/// C14: without the layer that loads users everybody is refused, whatever they bring, and the first
/// refusal says why; later ones do not, nor do they once such a layer runs.
#[tokio::test]
async fn a_forgotten_layer_refuses_everybody_and_says_so_once() {
    let log = Buffer(Arc::default());
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let complaints = || {
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        log.lines()
            .filter(|line| line.contains("ERROR") && line.contains("no LoadUserLayer"))
            .count()
    };
    let alone = ServiceBuilder::new()
        .layer(RequireUserLayer::<&str>::new())
        .service_fn(hello);
    for _ in 0..3 {
        let request = Request::builder().header("cookie", "__Host-session=x");
        let request = request.body(String::new()).unwrap();
        let response = alone.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(complaints(), 1);
    }

    let store = MemorySessionStore::<i64, &str>::new();
    let together = ServiceBuilder::new()
        .layer(LoadUserLayer::new(SessionService::new(store)))
        .layer(RequireUserLayer::<&str>::new())
        .service_fn(hello);
    let response = together.oneshot(Request::new(String::new())).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(complaints(), 1);
}
