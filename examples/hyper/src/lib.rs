//! The application without a framework: a function from a request to a response, the layers around
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

/// Serves HTTP/1 and HTTP/2, whichever a client speaks, until `shutdown` and then until the requests
/// under way are answered.
///
/// The layers, from the outside in: secrets are marked before anything could log them; tracing sees
/// every request; CSRF refuses what another site sent, which costs no lookup, because the user is
/// loaded inside of it.
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
    // With a timer, whoever is slow to send the headers is cut off.
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
                // Too many open files, say.
                tracing::error!(%error, "a connection could not be accepted");
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
                tracing::debug!(error, "a connection broke");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}

/// Signing out costs no lookup, and works while the database does not.
fn needs_no_user(method: &Method, uri: &Uri) -> bool {
    method == Method::POST && uri.path() == "/sign-out"
}
