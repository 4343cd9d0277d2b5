//! A store from a connection URL.

use crate::{
    error::Error,
    postgres::{
        connection_set::open_new, pool::PgPoolBuilder, store::PgSessionStore, user::PgUser,
    },
};

impl<U: PgUser> PgSessionStore<U> {
    /// Creates a store with a pool of its own, for an application that uses another driver or has
    /// no pool. `url` is a connection URL, or `key=value` pairs as for `libpq`. One connection is
    /// opened and closed again, so that a wrong URL fails at startup.
    ///
    /// The pool has the defaults of [`PgPoolBuilder`]: a limit for every wait, and TLS to every
    /// other host, which needs the feature `rustls`. Use that builder and [`new`](Self::new) to
    /// change them, or for the connector of a [feed](Self::feed_with).
    ///
    /// # Connections
    ///
    /// The process needs five connections, and one more for a feed: the
    /// [dedicated ones](Self#connections), and one for [`check`](Self::check), a clean-up or a
    /// migration. Lookups at a distance from the server need up to six more. Add them to those of the
    /// other driver's pool. The store's pool can have more only
    /// if the application takes connections from [`pool`](Self::pool).
    ///
    /// # Example
    ///
    /// ```no_run
    /// # use tower_user_session::{BoxError, PgSessionStore, PgUser, SessionService};
    /// # async fn run<User: PgUser>() -> Result<(), BoxError> {
    /// let store = PgSessionStore::<User>::connect("postgres://localhost/app").await?;
    /// store.migrate().await?;
    /// let sessions = SessionService::new(store);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) if the URL is invalid, or
    /// forbids TLS to another host. Otherwise the reason why the connection failed, such as
    /// [`ErrorKind::Connection`](crate::ErrorKind::Connection),
    /// [`ErrorKind::Authentication`](crate::ErrorKind::Authentication) or
    /// [`ErrorKind::Tls`](crate::ErrorKind::Tls).
    #[doc(alias("database_url", "sqlx"))]
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let pool = PgPoolBuilder::from_url(url)?.build()?;
        open_new(&pool).await?;
        Ok(Self::new(pool))
    }
}
