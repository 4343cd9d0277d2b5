//! A gRPC service with tonic.
//!
//! The layers are the same as over HTTP. A rejected call has the gRPC status 16 (unauthenticated),
//! 7 (permission denied) or 14 (unavailable), and a `grpc-message`.
//!
//! # The server
//!
//! Clients that are not browsers send the token as `authorization: Bearer …`, so enable
//! [`bearer_tokens`](crate::service::SessionServiceBuilder::bearer_tokens). tonic's body cannot
//! hold the default response, so the layers need
//! [`EmptyResponseForRejection`](crate::rejection::EmptyResponseForRejection):
//!
//! ```no_run
//! use tonic::{service::LayerExt as _, transport::Server};
//! use tower_user_session::{
//!     BoxError, LoadUserLayer, PgSessionStore, RequireUserLayer, SessionService,
//!     rejection::EmptyResponseForRejection,
//! };
//! # use tower_user_session::{LookupRow, PgUser};
//! # #[derive(Clone)]
//! # struct User { id: i64, is_editor: bool }
//! # impl PgUser for User {
//! #     type Id = i64;
//! #     const COLUMNS: &'static str = "u.id, u.is_editor";
//! #     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
//! #         Ok(User { id: row.user().get("id")?, is_editor: row.user().get("is_editor")? })
//! #     }
//! # }
//! # /// Stands for a generated server, such as `ChatServer<Chat>`.
//! # macro_rules! generated {
//! #     ($($name:ident)*) => { $(
//! #         #[derive(Clone)]
//! #         struct $name;
//! #         impl tonic::server::NamedService for $name {
//! #             const NAME: &'static str = stringify!($name);
//! #         }
//! #         impl tower::Service<http::Request<tonic::body::Body>> for $name {
//! #             type Response = http::Response<tonic::body::Body>;
//! #             type Error = std::convert::Infallible;
//! #             type Future = std::future::Ready<Result<Self::Response, Self::Error>>;
//! #             fn poll_ready(
//! #                 &mut self, _: &mut std::task::Context<'_>,
//! #             ) -> std::task::Poll<Result<(), Self::Error>> {
//! #                 std::task::Poll::Ready(Ok(()))
//! #             }
//! #             fn call(&mut self, _: http::Request<tonic::body::Body>) -> Self::Future {
//! #                 std::future::ready(Ok(http::Response::default()))
//! #             }
//! #         }
//! #     )* };
//! # }
//! # generated!(AccountsServer ChatServer);
//!
//! type Sessions = SessionService<PgSessionStore<User>>;
//!
//! async fn serve(
//!     store: PgSessionStore<User>, accounts: AccountsServer, chat: ChatServer,
//! ) -> Result<(), BoxError> {
//!     let sessions = Sessions::builder(store).bearer_tokens().build()?;
//!     let load_user = LoadUserLayer::new(sessions)
//!         .rejection_response(EmptyResponseForRejection)
//!         // Reflection and health checks cost no lookup.
//!         .exempt(|_, uri| uri.path().starts_with("/grpc."));
//!     let members_only = RequireUserLayer::<User>::new()
//!         .rejection_response(EmptyResponseForRejection)
//!         // One method is for editors only.
//!         .allow_request_if(|user, head| head.uri.path() != "/app.Chat/Delete" || user.is_editor);
//!     Server::builder()
//!         .layer(load_user)
//!         .add_service(accounts) // sign-in is for anonymous calls
//!         .add_service(members_only.named_layer(chat)) // keeps the name of the service
//!         .serve("127.0.0.1:50051".parse()?)
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! # What every service needs
//!
//! Three functions connect tonic's types with this crate's: the user of a call, the [`Status`] of
//! an error, and the metadata of a response. Copy them:
//!
//! ```
//! use http::HeaderMap;
//! use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};
//! use tower_user_session::{CurrentSession, Error};
//!
//! /// Returns the user, or the `CurrentSession<User>`, that `LoadUserLayer` attached.
//! fn attached<T: Clone + Send + Sync + 'static, M>(request: &Request<M>) -> Result<T, Status> {
//!     let attached = request.extensions().get().cloned();
//!     attached.ok_or_else(|| Status::unauthenticated("Please sign in."))
//! }
//!
//! /// The client does not learn the cause of an error.
//! fn status(error: &Error) -> Status {
//!     tracing::error!(%error, "a call failed");
//!     let code = Code::from(error.grpc_code());
//!     Status::new(code, code.description())
//! }
//!
//! /// Returns a response whose metadata are the headers that `write` sets.
//! fn with_headers<T>(message: T, write: impl FnOnce(&mut HeaderMap)) -> Response<T> {
//!     let mut headers = HeaderMap::new();
//!     write(&mut headers);
//!     Response::from_parts(MetadataMap::from_headers(headers), message, Extensions::default())
//! }
//! # #[derive(Clone)] struct User;
//! # fn example<M>(request: &Request<M>) -> Result<(), Status> {
//! #     let _: User = attached(request)?;
//! #     let _: CurrentSession<User> = attached(request)?;
//! #     Ok(())
//! # }
//! ```
//!
//! The methods for sign-in and sign-out use them:
//!
//! ```
//! # use http::HeaderMap;
//! # use tonic::{Code, Extensions, Request, Response, Status, metadata::MetadataMap};
//! # use tower_user_session::{Error, SessionService, store::MemorySessionStore};
//! # #[derive(Clone)] struct User;
//! # type Sessions = SessionService<MemorySessionStore<i64, User>>;
//! # fn status(error: &Error) -> Status {
//! #     let code = Code::from(error.grpc_code());
//! #     Status::new(code, code.description())
//! # }
//! # fn with_headers<T>(message: T, write: impl FnOnce(&mut HeaderMap)) -> Response<T> {
//! #     let mut headers = HeaderMap::new();
//! #     write(&mut headers);
//! #     Response::from_parts(MetadataMap::from_headers(headers), message, Extensions::default())
//! # }
//! # struct Credentials;
//! # struct Token { token: String }
//! # async fn check_password(_: Credentials) -> Option<i64> { Some(7) }
//! async fn sign_in(
//!     sessions: &Sessions, request: Request<Credentials>,
//! ) -> Result<Response<Token>, Status> {
//!     let ip = request.remote_addr().map(|client| client.ip());
//!     let (metadata, _, credentials) = request.into_parts();
//!     let wrong = || Status::unauthenticated("The email or the password is wrong.");
//!     let user_id = check_password(credentials).await.ok_or_else(wrong)?;
//!     let headers = metadata.into_headers();
//!     let signed_in = sessions.sign_in(user_id, &headers).ip(ip).await;
//!     let signed_in = signed_in.map_err(|error| status(&error))?;
//!     // A program uses the token, and a browser with gRPC-Web uses the cookie.
//!     let token = signed_in.token().expose();
//!     Ok(with_headers(Token { token }, |headers| signed_in.write_to(headers)))
//! }
//!
//! async fn sign_out(sessions: &Sessions, request: Request<()>) -> Result<Response<()>, Status> {
//!     let headers = request.into_parts().0.into_headers();
//!     let signed_out = sessions.sign_out(&headers).await;
//!     signed_out.ended().map_err(|error| status(&error))?;
//!     Ok(with_headers((), |headers| signed_out.write_to(headers)))
//! }
//! ```
//!
//! # The client
//!
//! The client sends the token with every call. A sensitive value is not logged:
//!
//! ```
//! use tonic::{Request, Status, metadata::{AsciiMetadataValue, errors::InvalidMetadataValue}};
//!
//! fn with_token(
//!     token: &str,
//! ) -> Result<impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone, InvalidMetadataValue> {
//!     let mut authorization: AsciiMetadataValue = format!("Bearer {token}").parse()?;
//!     authorization.set_sensitive(true);
//!     Ok(move |mut request: Request<()>| {
//!         request.metadata_mut().insert("authorization", authorization.clone());
//!         Ok(request)
//!     })
//! }
//! // ChatClient::with_interceptor(channel, with_token(&token)?)
//! # assert!(with_token("AAAA").is_ok());
//! ```
//!
//! # Streams
//!
//! A guard checks a call once, before its first message. A stream must therefore end with its
//! session. [`close_stream_with`](crate::feed::Ended::close_stream_with) sends a last item:
//!
//! ```
//! use futures_core::Stream;
//! use tonic::{Request, Response, Status, Streaming, codegen::BoxStream};
//! # use tonic::codegen::tokio_stream;
//! use tokio_stream::StreamExt as _;
//! use tower_user_session::{
//!     CurrentSession, SessionService, feed::{EndReason, StreamUntilEnded}, store::SessionStore,
//! };
//! # #[derive(Clone)] struct User { name: String }
//! # fn attached<T: Clone + Send + Sync + 'static, M>(request: &Request<M>) -> Result<T, Status> {
//! #     request.extensions().get().cloned().ok_or_else(|| Status::unauthenticated(""))
//! # }
//!
//! fn until_signed_out<S, M, T>(
//!     sessions: &SessionService<S>,
//!     session: &CurrentSession<S::User>,
//!     messages: T,
//! ) -> StreamUntilEnded<T>
//! where
//!     S: SessionStore,
//!     T: Stream<Item = Result<M, Status>>,
//! {
//!     sessions.ended(session).close_stream_with(messages, |reason| {
//!         Some(Err(match reason {
//!             EndReason::Revoked => Status::unauthenticated("signed out"),
//!             EndReason::Expired => Status::unauthenticated("the session has expired"),
//!             // This process is shutting down. The client should call again.
//!             _ => Status::unavailable("shutting down"),
//!         }))
//!     })
//! }
//!
//! /// A bidirectional stream. The replies own the client's messages, so both end together.
//! async fn chat<S: SessionStore<User = User>>(
//!     sessions: &SessionService<S>,
//!     request: Request<Streaming<String>>,
//! ) -> Result<Response<BoxStream<String>>, Status> {
//!     let user: User = attached(&request)?;
//!     let session: CurrentSession<User> = attached(&request)?;
//!     let replies = request.into_inner().map(move |message| {
//!         message.map(|text| format!("{}: {text}", user.name))
//!     });
//!     Ok(Response::new(Box::pin(until_signed_out(sessions, &session, replies))))
//! }
//! ```
//!
//! A task of its own that reads the client's messages, such as for a room with many clients, ends
//! with the session too, if [`run_until_ended`](crate::SessionService::run_until_ended) runs it. It
//! can be used together with `close_stream_with` on the same session:
//!
//! ```
//! # use tonic::{Streaming, codegen::tokio_stream::StreamExt as _};
//! # use tower_user_session::{CurrentSession, SessionService, store::SessionStore};
//! fn read<S: SessionStore>(
//!     sessions: &SessionService<S>,
//!     session: &CurrentSession<S::User>,
//!     mut messages: Streaming<String>,
//!     room: tokio::sync::broadcast::Sender<String>,
//! ) {
//!     tokio::spawn(sessions.run_until_ended(session, async move {
//!         while let Some(Ok(text)) = messages.next().await {
//!             let _ = room.send(text); // fails without a receiver
//!         }
//!     }));
//! }
//! ```
//!
//! Without a [feed](crate::feed), the service polls the store, and a stream ends within the lease
//! (1 s by default). With a feed it ends within milliseconds:
//! [`PgPoolBuilder::build_with_connector`](crate::postgres::PgPoolBuilder::build_with_connector)
//! returns the connector that [`feed_with`](crate::PgSessionStore::feed_with) needs, and
//! [`subscribe`](crate::SessionService::subscribe) starts it.
//!
//! # gRPC-Web
//!
//! A browser sends the session cookie with gRPC-Web calls. The calls are `POST` requests, so they
//! need the same protection against other sites as a form. From the outside in:
//!
//! 1. `tower_http::cors::CorsLayer`, only if the page is on another origin;
//! 2. `tower_http::csrf::CsrfLayer`, with that origin as a trusted one;
//! 3. `tonic_web::GrpcWebLayer`;
//! 4. [`LoadUserLayer`](crate::LoadUserLayer) and the guards.
//!
//! ```
//! use http::{HeaderName, HeaderValue, Method, header};
//! use tower_http::{cors::{AllowOrigin, CorsLayer}, csrf::{ConfigError, CsrfLayer}};
//!
//! fn browser_layers(page: &'static str) -> Result<(CorsLayer, CsrfLayer), ConfigError> {
//!     let grpc = ["grpc-status", "grpc-message"].map(HeaderName::from_static);
//!     let grpc_web = ["x-grpc-web", "x-user-agent", "grpc-timeout"].map(HeaderName::from_static);
//!     let cors = CorsLayer::new()
//!         // One origin by name. With credentials, a wildcard is not valid.
//!         .allow_origin(AllowOrigin::exact(HeaderValue::from_static(page)))
//!         .allow_credentials(true)
//!         .allow_methods([Method::POST])
//!         .allow_headers([header::CONTENT_TYPE].into_iter().chain(grpc_web).collect::<Vec<_>>())
//!         .expose_headers(grpc);
//!     Ok((cors, CsrfLayer::new().add_trusted_origin(page)?))
//! }
//! # assert!(browser_layers("https://app.example.com").is_ok());
//! ```
//!
//! The session cookie has `SameSite=Lax`. A browser sends it from `app.example.com` to
//! `api.example.com`, which is the same site, and not from another site. `tonic::transport::Server`
//! needs `accept_http1(true)` for gRPC-Web. A rejection has the content type of the call, so the
//! guards also work outside of `GrpcWebLayer`.
//!
//! `examples/tonic` in the repository is a complete program with a client.
//!
//! [`Status`]: https://docs.rs/tonic/latest/tonic/struct.Status.html
