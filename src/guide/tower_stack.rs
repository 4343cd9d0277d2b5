//! hyper, and a tower stack with a timeout and load shedding.
//!
//! # Order of layers
//!
//! From the outside in:
//!
//! | layer | why here |
//! |---|---|
//! | tracing | sees every request |
//! | load shedding, concurrency limit | a rejected request costs nothing else |
//! | timeout | includes the lookup, and is longer than its deadline |
//! | CSRF | a request from another site costs no lookup |
//! | [`LoadUserLayer`](crate::LoadUserLayer) | |
//! | [`RequireUserLayer`](crate::RequireUserLayer) | around single routes |
//!
//! The timeout must be longer than the [deadline of a
//! lookup](crate::service::SessionServiceBuilder::deadline), which is 2 s by default. Otherwise a
//! slow database causes the timeout's response, and not the 503 with `Retry-After`. A handler that
//! signs in waits up to the deadline once more, so the timeout should exceed twice the deadline.
//!
//! If the timeout passes, the future of the request is dropped. A lookup continues in a task of
//! its own, and its connection stays usable.
//!
//! # Errors become responses
//!
//! A timeout and load shedding return errors. A server closes the connection at an error, so the
//! outermost service must turn it into a response. `service_fn` with `oneshot` does, and its error
//! type is `Infallible`:
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use bytes::Bytes;
//! use http::{Request, Response, StatusCode};
//! use http_body_util::Full;
//! use hyper::body::Incoming;
//! use tower::{
//!     Service, ServiceBuilder, ServiceExt as _, load_shed::error::Overloaded, service_fn,
//!     timeout::error::Elapsed,
//! };
//! use tower_http::csrf::CsrfLayer;
//! use tower_user_session::{BoxError, LoadUserLayer, SessionService, store::SessionLookup};
//! # #[derive(Clone)]
//! # struct User { email: String }
//!
//! type Answer = Response<Full<Bytes>>;
//!
//! fn stack<S: SessionLookup<User = User>>(
//!     sessions: SessionService<S>,
//! ) -> impl Service<Request<Incoming>, Response = Answer, Error = Infallible, Future: Send> + Clone
//! {
//!     let inner = ServiceBuilder::new()
//!         .load_shed()
//!         .concurrency_limit(1_000)
//!         .timeout(Duration::from_secs(5))
//!         .layer(CsrfLayer::new())
//!         .layer(LoadUserLayer::new(sessions))
//!         .service(service_fn(handle));
//!     service_fn(move |request| {
//!         // All clones share the limit.
//!         let inner = inner.clone();
//!         async move { Ok(inner.oneshot(request).await.unwrap_or_else(|error| failed(&error))) }
//!     })
//! }
//!
//! fn failed(error: &BoxError) -> Answer {
//!     let status = if error.is::<Elapsed>() {
//!         StatusCode::GATEWAY_TIMEOUT
//!     } else if error.is::<Overloaded>() {
//!         StatusCode::SERVICE_UNAVAILABLE
//!     } else {
//!         StatusCode::INTERNAL_SERVER_ERROR
//!     };
//!     let mut answer = Answer::default();
//!     *answer.status_mut() = status;
//!     answer
//! }
//!
//! async fn handle(request: Request<Incoming>) -> Result<Answer, Infallible> {
//!     let text = match request.extensions().get::<User>() {
//!         Some(user) => format!("Hello, {}", user.email),
//!         None => "Please sign in".to_owned(),
//!     };
//!     Ok(Response::new(text.into()))
//! }
//! ```
//!
//! # Serving with hyper
//!
//! `hyper_util::service::TowerToHyperService` turns the stack into hyper's service. Clone it for
//! every connection:
//!
//! ```no_run
//! # use std::convert::Infallible;
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use hyper::body::Incoming;
//! use hyper_util::{
//!     rt::{TokioExecutor, TokioIo, TokioTimer}, server::conn::auto, service::TowerToHyperService,
//! };
//! use tokio::net::TcpListener;
//! use tower::Service;
//!
//! async fn serve<S>(listener: TcpListener, stack: S) -> std::io::Result<()>
//! where
//!     S: Service<Request<Incoming>, Response = Response<Full<Bytes>>, Error = Infallible>,
//!     S: Clone + Send + 'static,
//!     S::Future: Send + 'static,
//! {
//!     let mut server = auto::Builder::new(TokioExecutor::new());
//!     // With a timer, a client that sends its headers too slowly is disconnected.
//!     server.http1().timer(TokioTimer::new());
//!     loop {
//!         let (stream, _) = listener.accept().await?;
//!         let service = TowerToHyperService::new(stack.clone());
//!         let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
//!         tokio::spawn(connection);
//!     }
//! }
//! ```
//!
//! # Guards, sign-in and sign-out
//!
//! Without a router, put the guard around the handler of one route. It is an ordinary service:
//!
//! ```
//! # use std::convert::Infallible;
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use hyper::body::Incoming;
//! # #[derive(Clone)] struct User;
//! # type Answer = Response<Full<Bytes>>;
//! # async fn account(_: Request<Incoming>) -> Result<Answer, Infallible> { Ok(Answer::default()) }
//! use tower::{Layer as _, ServiceExt as _, service_fn};
//! use tower_user_session::{RequireUserLayer, SessionService, store::SessionStore};
//!
//! async fn guarded_account(request: Request<Incoming>) -> Result<Answer, Infallible> {
//!     RequireUserLayer::<User>::new().layer(service_fn(account)).oneshot(request).await
//! }
//!
//! async fn sign_out<S: SessionStore>(
//!     sessions: &SessionService<S>, request: Request<Incoming>,
//! ) -> Answer {
//!     let mut answer = Answer::default();
//!     sessions.sign_out(request.headers()).await.write_to(answer.headers_mut());
//!     answer
//! }
//! ```
//!
//! `examples/hyper` in the repository is a complete program over HTTP/1 and HTTP/2, with a graceful
//! shutdown.
