//! An application without a framework: a function from a request to a response, the layers around
//! it, and a loop that accepts connections.

mod routes;

use std::{pin::pin, time::Duration};

use example_application::Application;
use http::{Method, Request, Uri, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use tower_http::{
    csrf::CsrfLayer,
    sensitive_headers::{SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer},
    trace::TraceLayer,
};
use tower_user_session::LoadUserLayer;

/// Serves HTTP/1 and HTTP/2 until `shutdown`, and then until the requests in flight have their
/// responses.
///
/// The layers, from the outside in:
///
/// 1. The secret headers are marked as sensitive, before a layer can log them.
/// 2. The tracing layer sees every request.
/// 3. The CSRF layer rejects requests that another site caused. They cost no lookup.
/// 4. `LoadUserLayer` looks up the user.
pub async fn serve(
    listener: TcpListener,
    application: Application,
    shutdown: impl Future<Output = ()>,
) {
    let secrets = [header::COOKIE, header::AUTHORIZATION];
    let load_user = LoadUserLayer::new(application.sessions.clone()).exempt(needs_no_user);
    let service = ServiceBuilder::new()
        .layer(SetSensitiveRequestHeadersLayer::new(secrets))
        .layer(TraceLayer::new_for_http())
        .layer(SetSensitiveResponseHeadersLayer::new([header::SET_COOKIE]))
        .layer(CsrfLayer::new())
        .layer(load_user)
        .service(service_fn(move |request| {
            routes::answer(application.clone(), request)
        }));

    let mut server = auto::Builder::new(TokioExecutor::new());
    // With a timer, a client that sends its headers too slowly is disconnected.
    server.http1().timer(TokioTimer::new());
    let connections = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // For example, too many files are open.
                tracing::error!(%error, "accepting a connection failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = service
            .clone()
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(client);
                request
            });
        let connection = server
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "a connection failed");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}

/// Selects the sign-out, which costs no lookup and works without the database.
fn needs_no_user(method: &Method, uri: &Uri) -> bool {
    method == Method::POST && uri.path() == "/sign-out"
}
