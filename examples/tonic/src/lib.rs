//! A gRPC application: a public service, and a service whose methods all require a user.

mod accounts;
mod me;

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod proto {
    //! The code that is generated from `example.proto`.
    tonic::include_proto!("example");
}

use example_application::{Application, User};
use http::header;
use tokio::net::TcpListener;
use tonic::{
    metadata::MetadataMap,
    service::LayerExt as _,
    transport::{Error, Server, server::TcpIncoming},
};
use tower::ServiceBuilder;
use tower_http::{
    classify::{GrpcCode, GrpcErrorsAsFailures, SharedClassifier},
    csrf::CsrfLayer,
    sensitive_headers::{SetSensitiveRequestHeadersLayer, SetSensitiveResponseHeadersLayer},
    trace::TraceLayer,
};
use tower_user_session::{LoadUserLayer, RequireUserLayer, rejection::EmptyResponseForRejection};

use self::{
    accounts::Accounts,
    me::Me,
    proto::{accounts_server::AccountsServer, me_server::MeServer},
};

/// In bytes: no message of this application is longer.
const LONGEST_MESSAGE: usize = 16 * 1024;

/// Serves until `shutdown`, and then until the calls in flight have their responses.
///
/// The layers, from the outside in:
///
/// 1. The secret headers are marked as sensitive, before a layer can log them.
/// 2. The tracing layer sees every call.
/// 3. The CSRF layer rejects calls that another site caused. They cost no lookup.
/// 4. `LoadUserLayer` looks up the user.
/// 5. `RequireUserLayer` protects one of the services.
pub async fn serve(
    listener: TcpListener,
    application: Application,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let secrets = [header::COOKIE, header::AUTHORIZATION];
    // An unauthenticated call is not a failure of the server.
    let failures = GrpcErrorsAsFailures::new().with_success(GrpcCode::Unauthenticated);
    let load_user = LoadUserLayer::new(application.sessions.clone())
        .rejection_response(EmptyResponseForRejection)
        .exempt(|_, uri| uri.path() == "/example.Accounts/SignOut");
    let layers = ServiceBuilder::new()
        .layer(SetSensitiveRequestHeadersLayer::new(secrets))
        .layer(TraceLayer::new(SharedClassifier::new(failures)))
        .layer(SetSensitiveResponseHeadersLayer::new([header::SET_COOKIE]))
        .layer(CsrfLayer::new())
        .layer(load_user);

    let me = MeServer::new(Me(application.sessions.clone()));
    let accounts = AccountsServer::new(Accounts(application));
    Server::builder()
        .layer(layers)
        .add_service(accounts.max_decoding_message_size(LONGEST_MESSAGE))
        .add_service(
            RequireUserLayer::<User>::new()
                .rejection_response(EmptyResponseForRejection)
                .named_layer(me.max_decoding_message_size(LONGEST_MESSAGE)),
        )
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown)
        .await
}

/// Returns the cookie that a response sets, without its attributes, as a client sends it with the
/// next call.
pub fn cookie(answer: &MetadataMap) -> Option<&str> {
    let set_cookie = answer.get("set-cookie")?.to_str().ok()?;
    set_cookie.split(';').next()
}
