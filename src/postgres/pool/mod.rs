//! Pool construction from a connection string, with TLS for every remote host.

mod connection_string;
#[cfg(feature = "rustls")]
mod tls;

use std::{fmt, time::Duration};

use deadpool_postgres::{Pool, Runtime};
use tokio_postgres::{Config, NoTls, config::SslMode};

#[cfg(feature = "rustls")]
use crate::postgres::pool::tls::Certificates;
use crate::{
    error::{BoxError, Error, ErrorKind},
    postgres::{
        connector::PgConnector,
        pool::connection_string::{ConnectionString, config_error},
    },
};

/// The time limit for waiting for a connection, and for recycling a connection. After the
/// [`DEFAULT_DEADLINE`](crate::service::DEFAULT_DEADLINE), a sign-in has already been answered with
/// 503.
const WAIT_TIMEOUT: Duration = crate::service::DEFAULT_DEADLINE;
/// The time limit for the TLS handshake, authentication and the first response, after the TCP
/// connection is established.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Builds a [`Pool`] from a connection string. It never connects to a remote host in clear text by
/// default.
///
/// # Encryption
///
/// If any host of the string (in `host` or `hostaddr`) is remote, TLS is required for all hosts. An
/// absent `sslmode` and `sslmode=prefer` then mean `require`. `sslmode=disable` is an error. Local
/// hosts are Unix sockets, `127.0.0.0/8`, `::1` and `localhost`. If all hosts are local, `sslmode`
/// applies as given. If `sslmode` is absent, clear text is used, unless
/// [`root_certificates`](Self::root_certificates) are set.
///
/// With TLS, the server's certificate and its name are always verified. `require` is therefore
/// equivalent to `verify-full` in `libpq`. `verify-full` and `verify-ca` are read as `require`.
/// These cases are errors ([`ErrorKind::Tls`]): a certificate that has expired, names another host
/// or comes from an unknown authority, and a server without TLS if TLS is required. The pool never
/// falls back to clear text.
///
/// The pool trusts the certificate authorities of the platform and of
/// [`root_certificates`](Self::root_certificates). An operator can therefore add and remove
/// authorities without a new build. `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the platform's
/// authorities.
///
/// The cryptography provider is `ring`, regardless of the provider that the process has installed.
///
/// Without the feature `rustls` there is no TLS, and `build` fails for a database on another host.
///
/// # Defaults
///
/// A value in the connection string takes precedence over these defaults:
///
/// | setting | default | reason |
/// |---|---|---|
/// | `connect_timeout` | 1 s per host; also if set to 0 | a dead host must not use up the deadline |
/// | `tcp_user_timeout` | 2 s (Linux) | a lost host is detected in 2 s, not 15 min |
/// | `keepalives_idle` | 10 s | firewalls drop idle connections |
/// | `keepalives_interval` | 2 s | firewalls drop idle connections |
/// | `keepalives_retries` | 3 | firewalls drop idle connections |
/// | `target_session_attrs` | `read-write` if several hosts | a replica may lack revocations |
/// | `application_name` | `tower-user-session` | for `pg_stat_activity` |
/// | waiting for a connection | 2 s, the [default deadline] | no caller waits without limit |
/// | opening a connection | `connect_timeout` per host, plus 2 s | a host may accept, then not respond; see [`PgConnector`] for several hosts |
/// | recycling a connection | 2 s | no caller waits without limit |
/// | maximum number of connections | two per processor | |
///
/// [default deadline]: crate::service::DEFAULT_DEADLINE
///
/// The pool recycles a connection without a test query
/// ([`RecyclingMethod::Fast`](deadpool_postgres::RecyclingMethod::Fast)), because the query would
/// cost one round trip each time. A lookup on a dead connection is retried.
///
/// # Example
///
/// ```no_run
/// # #[cfg(feature = "rustls")]
/// # mod example {
/// # use tower_user_session::{BoxError, LookupRow, PgUser};
/// use tower_user_session::{PgSessionStore, postgres::PgPoolBuilder};
/// # #[derive(Clone)]
/// # struct User { id: i64 }
/// # impl PgUser for User {
/// #     type Id = i64;
/// #     const COLUMNS: &'static str = "u.id";
/// #     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> {
/// #         Ok(User { id: row.user().get("id")? })
/// #     }
/// # }
///
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = PgPoolBuilder::from_url(&std::env::var("DATABASE_URL")?)?
///     .root_certificates(std::fs::read("/etc/app/database-ca.pem")?)
///     .max_size(8)
///     .build()?;
/// let store = PgSessionStore::<User>::new(pool);
/// # Ok(())
/// # }
/// # }
/// ```
#[must_use = "`build` creates the pool"]
pub struct PgPoolBuilder {
    string: ConnectionString,
    max_size: Option<usize>,
    clear_text: bool,
    #[cfg(feature = "rustls")]
    certificates: Certificates,
    password: Option<Box<dyn FnOnce(PgConnector) -> PgConnector + Send>>,
}

impl PgPoolBuilder {
    /// Parses a connection string in either of PostgreSQL's forms: `postgres://user@host/database`
    /// or `host=… user=…`, with the options of [`tokio_postgres::Config`]. It opens no connection.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if the string cannot be parsed, names no host, or is a URL
    /// whose password is not percent-encoded as required. The error does not quote the string,
    /// because it contains the password.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Ok(Self {
            string: ConnectionString::parse(url)?,
            max_size: None,
            clear_text: false,
            #[cfg(feature = "rustls")]
            certificates: Certificates::default(),
            password: None,
        })
    }

    /// Sets the maximum number of connections in the pool. The default is two per processor.
    /// Lookups use two dedicated connections in addition.
    pub fn max_size(mut self, connections: usize) -> Self {
        self.max_size = Some(connections);
        self
    }

    /// Trusts these certificate authorities in addition to the authorities of the platform: one or
    /// more certificates in PEM format, such as libpq's `sslrootcert` file. An absent `sslmode`
    /// then means `require` for local hosts, too. Repeated calls add authorities.
    #[cfg(feature = "rustls")]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.roots.push(pem.into());
        self
    }

    /// Sets the client certificate: its chain and its private key (PKCS #8, PKCS #1 or SEC 1) in
    /// PEM format, such as libpq's `sslcert` and `sslkey` files.
    #[cfg(feature = "rustls")]
    pub fn client_certificate(
        mut self,
        chain_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.certificates.own = Some((chain_pem.into(), key_pem.into()));
        self
    }

    /// Calls `provider` for a password before each connection is opened, for passwords that rotate.
    /// See [`PgConnector::with_password`].
    pub fn password<F, E>(mut self, provider: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.password = Some(Box::new(move |connector: PgConnector| {
            connector.with_password(provider)
        }));
        self
    }

    /// **Allows clear text to remote hosts. Anyone on the network path can then read and change the
    /// password, the users' data and the sessions.** With this setting, `sslmode` applies to remote
    /// hosts in the same way as to local hosts. Use it only on a network that is encrypted at a
    /// lower layer. A warning is logged.
    pub fn insecure_clear_text(mut self) -> Self {
        self.clear_text = true;
        self
    }

    /// Builds the pool. It opens no connection yet. With TLS, it reads the platform's certificates
    /// from disk, which takes a few milliseconds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] in each of these cases:
    ///
    /// * `sslmode=disable` with a remote host;
    /// * TLS with a host that is a Unix socket, because a Unix socket cannot use TLS;
    /// * TLS with a `hostaddr` without a `host`, because there is no name to verify;
    /// * a certificate or key that cannot be read, or no trusted authority;
    /// * a maximum of 0 connections.
    pub fn build(self) -> Result<Pool, Error> {
        self.build_with_connector().map(|(pool, _)| pool)
    }

    /// Builds the pool, and also returns its connector, which has the hosts, TLS and the password.
    /// A [feed](super::PgSessionStore::feed_with) with this connector connects as the pool does.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_with_connector(self) -> Result<(Pool, PgConnector), Error> {
        if self.max_size == Some(0) {
            return Err(config_error(
                "the maximum size of the pool must be at least 1",
            ));
        }
        let ssl_mode = self.ssl_mode()?;
        let mut config = self.string.config.clone();
        config.ssl_mode(ssl_mode);
        let connect_timeout = config.get_connect_timeout().copied().unwrap_or_default();
        let hosts = u32::try_from(self.string.hosts()).unwrap_or(u32::MAX);
        let create = connect_timeout
            .saturating_mul(hosts)
            .saturating_add(HANDSHAKE_TIMEOUT);
        let mut connector = if ssl_mode == SslMode::Disable {
            PgConnector::new(config, NoTls)
        } else {
            self.connector(config)?
        };
        if let Some(rotate) = self.password {
            connector = rotate(connector);
        }
        let mut pool = Pool::builder(connector.manager())
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT_TIMEOUT))
            .create_timeout(Some(create))
            .recycle_timeout(Some(WAIT_TIMEOUT));
        if let Some(connections) = self.max_size {
            pool = pool.max_size(connections);
        }
        let pool = pool
            .build()
            .map_err(|error| Error::new(ErrorKind::Configuration, error))?;
        Ok((pool, connector))
    }

    #[cfg(feature = "rustls")]
    fn connector(&self, config: Config) -> Result<PgConnector, Error> {
        Ok(PgConnector::new(config, self.certificates.connector()?))
    }

    #[cfg(not(feature = "rustls"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    fn connector(&self, config: Config) -> Result<PgConnector, Error> {
        if config.get_ssl_mode() == SslMode::Require {
            return Err(config_error(
                "the connection requires TLS: enable the feature `rustls`",
            ));
        }
        Ok(PgConnector::new(config, NoTls))
    }

    #[cfg(feature = "rustls")]
    fn has_certificates(&self) -> bool {
        !self.certificates.is_empty()
    }

    #[cfg(not(feature = "rustls"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    const fn has_certificates(&self) -> bool {
        false
    }

    /// Returns the effective `sslmode`.
    fn ssl_mode(&self) -> Result<SslMode, Error> {
        let is_remote = self.string.has_remote_host();
        let mode = match self.string.ssl_mode {
            Some(SslMode::Disable) if is_remote && !self.clear_text => {
                return Err(config_error(
                    "`sslmode=disable` is not allowed for a remote host: remove it, or call \
                     insecure_clear_text",
                ));
            }
            _ if is_remote && !self.clear_text => SslMode::Require,
            None if !self.has_certificates() => SslMode::Disable,
            None => SslMode::Require,
            Some(mode) => mode,
        };
        if mode == SslMode::Require && !self.string.has_names() {
            return Err(config_error(
                "TLS requires a host name to verify, but a host is a Unix socket or a `hostaddr` \
                 without `host`",
            ));
        }
        if is_remote && mode != SslMode::Require {
            tracing::warn!(
                target: "tower_user_session",
                event = "clear_text_allowed",
                "clear text is allowed to the database on another host"
            );
        }
        Ok(mode)
    }
}

/// Omits the connection string, which contains the password, and the private key.
impl fmt::Debug for PgPoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgPoolBuilder")
            .field("max_size", &self.max_size)
            .field("clear_text", &self.clear_text)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// L03: without the feature `rustls`, `build` fails for a connection that requires TLS.
    #[cfg(not(feature = "rustls"))]
    #[test]
    fn tls_needs_the_feature() {
        for (url, built) in [
            ("postgres://localhost", true),
            ("postgres://localhost?sslmode=prefer", true),
            ("postgres://localhost?sslmode=require", false),
            ("postgres://db", false),
        ] {
            let pool = PgPoolBuilder::from_url(url).unwrap().build();
            assert_eq!(pool.is_ok(), built, "{url}");
        }
        let clear_text = PgPoolBuilder::from_url("postgres://db").unwrap();
        assert!(clear_text.insecure_clear_text().build().is_ok());
    }

    /// L03: each row lists the effective `sslmode`; `None` means that `build` fails.
    #[cfg(feature = "rustls")]
    #[test]
    fn clear_text_to_a_remote_host_requires_insecure_clear_text() {
        use SslMode::{Disable, Prefer, Require};
        let authority = |builder: PgPoolBuilder| builder.root_certificates("not read here");
        let insecure = PgPoolBuilder::insecure_clear_text;
        for (hosts, mode, plain, with_authority, with_clear_text) in [
            ("localhost", "", Some(Disable), Some(Require), Some(Disable)),
            (
                "localhost",
                "disable",
                Some(Disable),
                Some(Disable),
                Some(Disable),
            ),
            (
                "localhost",
                "prefer",
                Some(Prefer),
                Some(Prefer),
                Some(Prefer),
            ),
            (
                "localhost",
                "require",
                Some(Require),
                Some(Require),
                Some(Require),
            ),
            ("%2Frun", "", Some(Disable), None, Some(Disable)),
            ("%2Frun", "require", None, None, None),
            ("db", "", Some(Require), Some(Require), Some(Disable)),
            ("db", "disable", None, None, Some(Disable)),
            ("db", "prefer", Some(Require), Some(Require), Some(Prefer)),
            ("db", "require", Some(Require), Some(Require), Some(Require)),
            (
                "localhost,db",
                "",
                Some(Require),
                Some(Require),
                Some(Disable),
            ),
            ("localhost,db", "disable", None, None, Some(Disable)),
            ("%2Frun,db", "", None, None, Some(Disable)),
        ] {
            let url = match mode {
                "" => format!("postgres://{hosts}"),
                mode => format!("postgres://{hosts}?sslmode={mode}"),
            };
            let builder = || PgPoolBuilder::from_url(&url).unwrap();
            assert_eq!(builder().ssl_mode().ok(), plain, "{url}");
            assert_eq!(
                authority(builder()).ssl_mode().ok(),
                with_authority,
                "{url}"
            );
            assert_eq!(
                insecure(builder()).ssl_mode().ok(),
                with_clear_text,
                "{url}"
            );
        }
        // Without a host name there is nothing to verify.
        let nameless = PgPoolBuilder::from_url("hostaddr=10.0.0.1").unwrap();
        assert_eq!(
            nameless.build().unwrap_err().kind(),
            ErrorKind::Configuration
        );
    }
}
