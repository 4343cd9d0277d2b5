//! Database connector, shared by the pool and the feed.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use deadpool_postgres::{Connect, Manager, ManagerConfig, RecyclingMethod};
use tokio::{spawn, task::JoinHandle, time::timeout};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Socket,
    config::TargetSessionAttrs,
    tls::{MakeTlsConnect, TlsConnect, TlsStream},
};

use crate::{
    error::{BoxError, Chain},
    log_limit::LogLimiter,
    outage::Outage,
    postgres::{each_host::each_host, errors},
};

type Opened = Result<(Client, Box<dyn Messages>), tokio_postgres::Error>;
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type PasswordProvider = dyn Fn() -> BoxFuture<'static, Result<String, BoxError>> + Send + Sync;

/// Connection parameters for the database: hosts, TLS and password. A pool and a
/// [feed](super::PgSessionStore::feed_with) that share a connector connect in the same way. Cloning
/// is cheap.
///
/// If the configuration has several hosts and `target_session_attrs`, each connection begins with
/// the next host, so that a server that the store rejected is not tried again at once. For all hosts
/// but the last, `connect_timeout` limits the time until the server is ready, and not only the time
/// until it accepts the connection: the kernel of a frozen server still accepts connections. In this
/// case `load_balance_hosts` has no effect.
///
/// ```no_run
/// use deadpool_postgres::{Pool, tokio_postgres::{Config, NoTls}};
/// use tower_user_session::{Error, PgSessionStore, PgUser, SessionService, postgres::PgConnector};
///
/// # async fn current_password() -> Result<String, std::io::Error> { Ok(String::new()) }
/// # async fn run<U: PgUser>(config: Config) -> Result<(), Box<dyn std::error::Error>> {
/// let connector = PgConnector::new(config, NoTls).with_password(current_password);
/// let pool = Pool::builder(connector.manager()).max_size(8).build()?;
/// let sessions = SessionService::new(PgSessionStore::<U>::new(pool));
/// sessions.enable_cache(sessions.store().feed_with(&connector), 100_000).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PgConnector {
    config: Config,
    open: Arc<dyn Fn(Config) -> BoxFuture<'static, Opened> + Send + Sync>,
    password: Option<Arc<PasswordProvider>>,
    /// The last password that the provider returned.
    last_password: Arc<Mutex<Option<String>>>,
    /// The number of connections opened so far: each begins with the next host.
    opened: Arc<AtomicUsize>,
    events: Arc<Events>,
}

/// The limits of the connector's events.
struct Events {
    password: Outage,
    lost: LogLimiter,
}

impl PgConnector {
    /// Creates a connector for `config` with this TLS implementation. It opens no connection yet.
    pub fn new<T>(config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let open = move |config: Config| -> BoxFuture<'static, Opened> {
            let tls = tls.clone();
            Box::pin(async move {
                let (client, connection) = config.connect(tls).await?;
                Ok((client, Box::new(connection) as Box<dyn Messages>))
            })
        };
        Self {
            config,
            open: Arc::new(open),
            password: None,
            last_password: Arc::default(),
            opened: Arc::default(),
            events: Arc::new(Events {
                password: Outage::new(
                    Duration::ZERO,
                    "password_recovered",
                    "password provider recovered",
                ),
                lost: LogLimiter::default(),
            }),
        }
    }

    /// Calls `provider` for a password before each connection is opened, for passwords that rotate.
    /// If the provider fails, the failure is logged. The connection then uses the last password
    /// that the provider returned, or the password in the configuration.
    pub fn with_password<F, E>(mut self, provider: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.password = Some(Arc::new(move || {
            let password = provider();
            Box::pin(async move { password.await.map_err(Into::into) })
        }));
        self
    }

    /// Returns a manager for a pool with these connection parameters. The manager recycles
    /// connections without a test query ([`RecyclingMethod::Fast`]).
    pub fn manager(&self) -> Manager {
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        Manager::from_connect(self.config.clone(), self.clone(), recycling)
    }

    pub(super) async fn open(&self) -> Opened {
        let mut config = self.config.clone();
        if let Some(provider) = &self.password {
            match provider().await {
                Ok(password) => {
                    *self.last_password() = Some(password);
                    self.events.password.succeeded();
                }
                Err(error) => self.report_password_failure(&*error),
            }
            if let Some(password) = &*self.last_password() {
                config.password(password);
            }
        }
        let mut hosts = each_host(&config);
        let any = config.get_target_session_attrs() == TargetSessionAttrs::Any;
        if any || hosts.len() < 2 {
            return (self.open)(config).await;
        }
        let next = self.opened.fetch_add(1, Relaxed) % hosts.len();
        hosts.rotate_left(next);
        let last = hosts.pop().unwrap_or(config);
        for host in hosts {
            let limit = host.get_connect_timeout().copied().unwrap_or(Duration::MAX);
            if let Ok(Ok(opened)) = timeout(limit, (self.open)(host)).await {
                return Ok(opened);
            }
        }
        (self.open)(last).await
    }

    fn report_password_failure(&self, error: &(dyn std::error::Error + 'static)) {
        if let Some(times) = self.events.password.failed() {
            tracing::warn!(
                target: "tower_user_session",
                event = "password_failed",
                error = %Chain(error),
                times,
                "password provider failed: the last password is used"
            );
        }
    }

    fn last_password(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.last_password
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connect for PgConnector {
    /// The manager's configuration equals the connector's own, so the parameter is ignored.
    fn connect(
        &self,
        _: &Config,
    ) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        Box::pin(async move {
            let (client, mut connection) = self.open().await?;
            let events = Arc::clone(&self.events);
            let driver = spawn(async move {
                while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                    if let Err(error) = message {
                        if let Some(times) = events.lost.count() {
                            tracing::warn!(
                                target: "tower_user_session",
                                event = "connection_lost",
                                kind = ?errors::connection_kind(&error),
                                error = %Chain(&error),
                                times,
                                "database connection failed"
                            );
                        }
                        return;
                    }
                }
            });
            Ok((client, driver))
        })
    }
}

/// The message stream of a connection, independent of its TLS type.
pub(super) trait Messages: Send {
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>>;
}

impl<T: TlsStream + Unpin + Send> Messages for Connection<Socket, T> {
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<AsyncMessage, tokio_postgres::Error>>> {
        Connection::poll_message(self, cx)
    }
}

/// Omits the configuration, which contains the password.
impl fmt::Debug for PgConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgConnector")
            .field("rotates_password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}
