//! Sign-in for an application's tests.

use http::HeaderValue;

use crate::{
    error::{Error, ErrorKind},
    service::SessionService,
    store::SessionStore,
};

impl<S: SessionStore> SessionService<S> {
    /// Signs this user in, and returns the `Cookie` header for a request with the new session.
    ///
    /// The method is for an application's tests. It works with every store.
    ///
    /// ```
    /// # use tower_user_session::{SessionService, store::MemorySessionStore};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sessions = SessionService::new(MemorySessionStore::new());
    /// sessions.store().add_user(7, "Ada");
    /// let cookie = sessions.cookie_for(7).await?;
    /// let request = http::Request::builder().header("cookie", cookie).body(())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`sign_in`](Self::sign_in). [`ErrorKind::Configuration`] if the cookie is not a valid
    /// header value.
    #[doc(alias("test", "signed_in"))]
    pub async fn cookie_for(&self, user_id: S::UserId) -> Result<HeaderValue, Error> {
        let signed_in = self.sign_in_without_request(user_id).await?;
        let cookie = format!("{}={}", self.cookie().name(), signed_in.token().expose());
        HeaderValue::try_from(cookie).map_err(|error| Error::new(ErrorKind::Configuration, error))
    }
}
