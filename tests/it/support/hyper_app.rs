//! A small application on hyper, without a framework.

use std::convert::Infallible;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use tower::{Service, ServiceBuilder};
use tower_user_session::{LoadUserLayer, RequireUserLayer};

use super::{
    users::User,
    watched_store::{WatchedSessions, WatchedStore},
};

pub fn load_user(sessions: &WatchedSessions) -> LoadUserLayer<WatchedStore> {
    LoadUserLayer::new(sessions.clone()).exempt(|_, uri| uri.path() == "/sign-out")
}

pub type Page = Response<Full<Bytes>>;

/// The application of `layer/frameworks`, without a framework.
pub fn plain_app(
    sessions: &WatchedSessions,
) -> impl Service<Request<Incoming>, Response = Page, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    let demanding = ServiceBuilder::new()
        .layer(RequireUserLayer::<User>::new())
        .service_fn(page);
    let sessions_too = sessions.clone();
    ServiceBuilder::new().layer(load_user(sessions)).service_fn(
        move |request: Request<Incoming>| {
            let (sessions, mut demanding) = (sessions_too.clone(), demanding.clone());
            async move {
                match request.uri().path() {
                    "/account" | "/extractor" => demanding.call(request).await,
                    "/sign-in" => {
                        let sign_in = sessions.sign_in(1, request.headers()).remember(true);
                        let mut response = Response::default();
                        sign_in.await.unwrap().write_to(response.headers_mut());
                        Ok(response)
                    }
                    "/sign-out" => {
                        let signed_out = sessions.sign_out(request.headers()).await;
                        let mut response = Response::default();
                        signed_out.write_to(response.headers_mut());
                        Ok(response)
                    }
                    _ => page(request).await,
                }
            }
        },
    )
}

async fn page(request: Request<Incoming>) -> Result<Page, Infallible> {
    let user = request.extensions().get::<User>();
    let text = user.map_or("anonymous".to_owned(), |user| user.email.clone());
    Ok(Response::new(Full::from(text)))
}
