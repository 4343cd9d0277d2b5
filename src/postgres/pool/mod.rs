//! A pool from a connection string, encrypted towards every other host.

mod connection_string;
mod tls;

use std::{fmt, time::Duration};

use deadpool_postgres::{Pool, Runtime};
use tokio_postgres::{NoTls, config::SslMode};

use crate::{
    error::{BoxError, Error, ErrorKind},
    postgres::{
        connector::PgConnector,
        pool::{
            connection_string::{ConnectionString, refused},
            tls::Certificates,
        },
    },
};

/// By then a sign-in has been answered with 503; see [`DEFAULT_DEADLINE`](crate::service::DEFAULT_DEADLINE).
const WAIT: Duration = crate::service::DEFAULT_DEADLINE;
/// For the TLS handshake, the password and the first answer, once a host has taken the connection.
const GREETING: Duration = Duration::from_secs(2);

/// Makes a [`Pool`] from a connection string, and does not talk to another host in clear text.
///
/// # Encryption
///
/// As soon as one of the string's hosts (`host` and `hostaddr`, each of them) is not on this machine,
/// TLS is required for all: a missing `sslmode`, or `prefer`, means `require`, and `disable` is an
/// error. On this machine are a Unix socket, `127.0.0.0/8`, `::1` and `localhost`; for these alone
/// `sslmode` counts as it stands, and a missing one means clear text, unless
/// [`root_certificates`](Self::root_certificates) were given.
///
/// Wherever TLS is used, the server's certificate and its name are verified, so that `require` does
/// here what `verify-full` does in `libpq`; `verify-full` and `verify-ca` are read as `require`. A
/// certificate that has expired, belongs to another host or comes from an unknown authority is an
/// error, and so is a server that offers no TLS where it is required: [`ErrorKind::Tls`]. Nothing is
/// tried again in clear text. Trusted are the authorities that the platform trusts, so that an
/// operator adds and removes them without a new build (`SSL_CERT_FILE` and `SSL_CERT_DIR` replace
/// them), and those given.
///
/// The cryptography is `ring`'s, whatever provider the process has installed.
///
/// # Defaults
///
/// What the string sets, counts. Where it is silent:
///
/// | setting | default | why |
/// |---|---|---|
/// | `connect_timeout` | 1 s a host | a host that is gone must not use up the deadline of a lookup; 0 means the default too |
/// | `tcp_user_timeout` | 2 s (Linux) | a host that vanished under an open connection is noticed then, and not after a quarter of an hour |
/// | `keepalives_idle`, `_interval`, `_retries` | 10 s, 2 s, 3 | an idle connection that a firewall dropped is noticed before it is borrowed |
/// | `target_session_attrs` | `read-write` where there are several hosts | sessions are written, and a replica may not know who was signed out |
/// | `application_name` | `tower-user-session` | for `pg_stat_activity` |
/// | waiting for a connection | 2 s, the [default deadline](crate::service::DEFAULT_DEADLINE) | nobody waits for ever |
/// | opening one | `connect_timeout` for each host, and 2 s | a host that takes a connection and then says nothing |
/// | recycling one | 2 s | as for the others |
/// | connections | two for each processor | |
///
/// A connection is lent again without a test query ([`RecyclingMethod::Fast`](deadpool_postgres::RecyclingMethod::Fast)): the query would cost
/// a round trip each time, and a lookup that meets a dead connection is asked again.
///
/// # Example
///
/// ```no_run
/// # use tower_user_session::{BoxError, LookupRow, PgUser};
/// use tower_user_session::{PgSessionStore, postgres::PgPoolBuilder};
/// # #[derive(Clone)]
/// # struct User { id: i64 }
/// # impl PgUser for User {
/// #     type Id = i64;
/// #     const COLUMNS: &'static str = "u.id";
/// #     fn from_row(row: &LookupRow<'_>) -> Result<Self, BoxError> { Ok(User { id: row.user().get("id")? }) }
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
/// ```
#[must_use = "there is no pool until `build` is called"]
pub struct PgPoolBuilder {
    string: ConnectionString,
    max_size: Option<usize>,
    clear_text: bool,
    certificates: Certificates,
    password: Option<Box<dyn FnOnce(PgConnector) -> PgConnector + Send>>,
}

impl PgPoolBuilder {
    /// Reads a connection string, in either of PostgreSQL's forms: `postgres://user@host/database`
    /// or `host=… user=…`, with the options of [`tokio_postgres::Config`]. Connects to nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], without a word of the string, which holds the password: when it
    /// cannot be read, names no host, or is a URL whose password is not percent-encoded where it must
    /// be.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Ok(Self {
            string: ConnectionString::parse(url)?,
            max_size: None,
            clear_text: false,
            certificates: Certificates::default(),
            password: None,
        })
    }

    /// Sets how many connections the pool has at most; lookups have two of their own besides. By
    /// default two for each processor.
    pub fn max_size(mut self, connections: usize) -> Self {
        self.max_size = Some(connections);
        self
    }

    /// Trusts these authorities besides the platform's: one or more certificates in PEM, such as the
    /// file that libpq calls `sslrootcert`. A missing `sslmode` then means `require` on this machine
    /// too. Called again, it adds.
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificates.roots.push(pem.into());
        self
    }

    /// Shows the server this certificate: its chain and its private key (PKCS #8, PKCS #1 or SEC 1),
    /// in PEM, such as the files that libpq calls `sslcert` and `sslkey`.
    pub fn client_certificate(
        mut self,
        chain_pem: impl Into<Vec<u8>>,
        key_pem: impl Into<Vec<u8>>,
    ) -> Self {
        self.certificates.own = Some((chain_pem.into(), key_pem.into()));
        self
    }

    /// Calls `provider` for the password before each connection is opened, for passwords that rotate. See
    /// [`PgConnector::with_password`].
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

    /// **Lets the password, the users' data and the sessions cross the network readable and
    /// changeable by anyone on the way.** `sslmode` then counts for other hosts as it does for this
    /// machine. For a network that is encrypted underneath; it is logged as a warning.
    pub fn insecure_clear_text(mut self) -> Self {
        self.clear_text = true;
        self
    }

    /// The pool. It opens no connection yet, but reads the platform's certificates from disk, where
    /// TLS is used; that takes some milliseconds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], when `sslmode=disable` meets another host; when TLS is used, but
    /// a host is a Unix socket, which cannot have it, or a `hostaddr` without a `host`, so that there
    /// is no name to verify; when a certificate or key cannot be read, or no authority is trusted;
    /// and for a pool of no connections.
    pub fn build(self) -> Result<Pool, Error> {
        self.build_with_connector().map(|(pool, _)| pool)
    }

    /// The pool, and the way in which it connects: hosts, TLS and password. A
    /// [feed](super::PgSessionStore::feed_with) with the same connector connects as the pool does.
    ///
    /// # Errors
    ///
    /// As for [`build`](Self::build).
    pub fn build_with_connector(self) -> Result<(Pool, PgConnector), Error> {
        if self.max_size == Some(0) {
            return Err(refused("a pool of no connections has none to lend"));
        }
        let ssl_mode = self.ssl_mode()?;
        let mut config = self.string.config.clone();
        config.ssl_mode(ssl_mode);
        let patience = config.get_connect_timeout().copied().unwrap_or_default();
        let hosts = u32::try_from(self.string.hosts()).unwrap_or(u32::MAX);
        let create = patience.saturating_mul(hosts).saturating_add(GREETING);
        let mut connector = if ssl_mode == SslMode::Disable {
            PgConnector::new(config, NoTls)
        } else {
            PgConnector::new(config, self.certificates.connector()?)
        };
        if let Some(rotate) = self.password {
            connector = rotate(connector);
        }
        let mut pool = Pool::builder(connector.manager())
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(create))
            .recycle_timeout(Some(WAIT));
        if let Some(connections) = self.max_size {
            pool = pool.max_size(connections);
        }
        let pool = pool
            .build()
            .map_err(|error| Error::new(ErrorKind::Configuration, error))?;
        Ok((pool, connector))
    }

    /// What `sslmode` comes to.
    fn ssl_mode(&self) -> Result<SslMode, Error> {
        let elsewhere = self.string.leaves_this_machine();
        let mode = match self.string.ssl_mode {
            Some(SslMode::Disable) if elsewhere && !self.clear_text => {
                return Err(refused(
                    "`sslmode=disable` would send everything to another host in clear text",
                ));
            }
            _ if elsewhere && !self.clear_text => SslMode::Require,
            None if self.certificates.are_none() => SslMode::Disable,
            None => SslMode::Require,
            Some(mode) => mode,
        };
        if mode == SslMode::Require && !self.string.has_names() {
            return Err(refused(
                "TLS has no name to verify: a host is a Unix socket, or a `hostaddr` without `host`",
            ));
        }
        if elsewhere && mode != SslMode::Require {
            tracing::warn!("clear text is allowed to the database on another host");
        }
        Ok(mode)
    }
}

/// Without the string, which holds the password, and without the key.
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

    /// L03: what `sslmode` comes to: `None` where the pool is refused.
    #[test]
    fn clear_text_reaches_another_host_only_when_asked_for_by_name() {
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
        // Without a name there is nothing to verify.
        let nameless = PgPoolBuilder::from_url("hostaddr=10.0.0.1").unwrap();
        assert_eq!(
            nameless.build().unwrap_err().kind(),
            ErrorKind::Configuration
        );
    }
}
