use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

use tokio::sync::Mutex;
use tokio_postgres::Config;

use crate::cluster::{Cluster, StopMode};
use crate::error::{Error, Kind};
use crate::folder::Folder;
use crate::settings::Settings;
use crate::skip::say_aloud;
use crate::source::{self, Source};
use crate::url;

/// A PostgreSQL server.
///
/// A private one stops, and its folder is removed, when this value is dropped and also if the
/// process ends in another way.
pub struct Server {
    config: Config,
    /// The same as `config`.
    url: String,
    source: Source,
    cluster: Option<Cluster>,
    /// Used by all tests of this process.
    shared: bool,
    /// The template databases by the SQL that ran in them, for [`crate::TestDatabase`].
    pub(crate) templates: Mutex<HashMap<String, String>>,
}

impl Server {
    /// Returns the server for examples: the one that `DATABASE_URL` names, otherwise a private one.
    /// Blocks until it accepts connections, which takes half a second or a little more for a
    /// private one.
    ///
    /// # Errors
    ///
    /// If `DATABASE_URL` is not a connection string, or if no PostgreSQL was found that starts.
    /// Whether the server that `DATABASE_URL` names can be reached is not checked here.
    pub fn for_examples() -> Result<Self, Error> {
        Self::find("DATABASE_URL")
    }

    /// Returns the server that all tests of this process share, started at first use: the one that
    /// `TEST_DATABASE_URL` names, otherwise a private one. Blocks; in asynchronous code use
    /// [`TestDatabase`](crate::TestDatabase) or `spawn_blocking`.
    ///
    /// # Panics
    ///
    /// If [`Server::for_examples`] would fail.
    pub fn for_tests() -> &'static Self {
        static SERVER: OnceLock<Result<Server, Error>> = OnceLock::new();
        let server = SERVER.get_or_init(|| {
            Ok(Self {
                shared: true,
                ..Self::find("TEST_DATABASE_URL")?
            })
        });
        server.as_ref().unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Starts a private server with additional settings, as `("log_statement", "all")`. No variable
    /// replaces it, and no other code uses it. Blocks until it accepts connections.
    ///
    /// # Errors
    ///
    /// If no PostgreSQL was found that starts with these settings.
    pub fn start_private(settings: &[(&str, &str)]) -> Result<Self, Error> {
        let forced = source::forced();
        let mut attempts = Vec::new();
        for source in source::candidates(forced.as_deref()) {
            match Self::start(&source, settings) {
                Ok(server) => {
                    for (source, error) in attempts {
                        say_aloud(&format!(
                            "{source} does not start, another one does: {error:?}"
                        ));
                    }
                    return Ok(server);
                }
                Err(error) => attempts.push((source, error)),
            }
        }
        Err(Kind::NoServer { forced, attempts }.into())
    }

    fn find(variable: &'static str) -> Result<Self, Error> {
        match source::read(variable) {
            Some(url) if source::forced().is_none() => {
                let config = url
                    .parse()
                    .map_err(|source| Kind::BadUrl { variable, source })?;
                Ok(Self::new(config, url, Source::Url, None))
            }
            _ => Self::start_private(&[]),
        }
    }

    /// Starts a private server as the streaming replica of a private one, over a Unix socket, with
    /// its own settings, as `("recovery_min_apply_delay", "5s")`. Blocks until it accepts read-only
    /// connections.
    ///
    /// # Errors
    ///
    /// If the primary is not private or does not run, or if its programs lack `pg_basebackup`, like
    /// those of the bundled one.
    pub fn replica_of(primary: &Self, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let source = &primary.source;
        let bin = source.bin_dir().ok_or(Kind::NotPrivate)?;
        let folder = Folder::create(matches!(source, Source::Bundled(_)))?;
        let settings = Settings::new(bin, settings);
        let cluster = primary.own()?.start_replica(folder, settings)?;
        Ok(Self::private(source, cluster))
    }

    fn start(source: &Source, settings: &[(&str, &str)]) -> Result<Self, Error> {
        let bin = source.bin_dir().ok_or(Kind::NotPrivate)?;
        let folder = Folder::create(matches!(source, Source::Bundled(_)))?;
        let cluster = Cluster::start(bin, folder, Settings::new(bin, settings))?;
        Ok(Self::private(source, cluster))
    }

    fn private(source: &Source, cluster: Cluster) -> Self {
        let mut config = Config::new();
        config
            .host_path(&cluster.folder.path)
            .port(cluster.settings.port())
            .user("postgres")
            .dbname("postgres");
        let url = url::of_socket(&cluster.folder.path, cluster.settings.port());
        Self::new(config, url, source.clone(), Some(cluster))
    }

    fn new(config: Config, url: String, source: Source, cluster: Option<Cluster>) -> Self {
        Self {
            config,
            url,
            source,
            cluster,
            shared: false,
            templates: Mutex::default(),
        }
    }

    /// Returns how to connect: as a superuser to the database `postgres`, or as the variable says.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// Returns the same as a connection string, for `psql` and other programs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the source of the server.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether it is the bundled one, which lacks contrib modules, ICU, TLS and everything that a
    /// timer drives: statement, lock and idle timeouts and deadlock detection. Such waits last
    /// forever.
    pub fn is_bundled(&self) -> bool {
        matches!(self.source, Source::Bundled(_))
    }

    /// Returns the folder with `postgres` and, if installed, `psql`, `pg_basebackup` and so on;
    /// `None` for a server from a variable. The bundled one has `postgres` and `initdb` only.
    pub fn bin_dir(&self) -> Option<&Path> {
        self.source.bin_dir()
    }

    /// Returns a private server's folder: its socket, `data` and `log`.
    pub fn directory(&self) -> Option<&Path> {
        self.cluster
            .as_ref()
            .map(|cluster| cluster.folder.path.as_path())
    }

    /// Returns what a private server has logged so far; empty for another.
    pub fn log(&self) -> String {
        self.cluster.as_ref().map(Cluster::log).unwrap_or_default()
    }

    /// Returns the process of a private server, its postmaster, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.cluster.as_ref()?.pid()
    }

    /// Stops a private server and keeps its data for [`Server::restart`]. Does nothing if it is
    /// already stopped. Blocks.
    ///
    /// # Errors
    ///
    /// If the caller does not own the server ([`Server::start_private`], [`Server::for_examples`]),
    /// or if it does not stop within a minute.
    pub fn stop(&self, mode: StopMode) -> Result<(), Error> {
        self.own()?.stop(mode)
    }

    /// Starts a private server again, on the same data and the same socket, with the same settings.
    /// A running one is stopped first ([`StopMode::Fast`]). Works also after its process was
    /// killed. Blocks until it accepts connections.
    ///
    /// # Errors
    ///
    /// As for [`Server::stop`], or if it does not start again.
    pub fn restart(&self) -> Result<(), Error> {
        self.own()?.restart()
    }

    /// Promotes a private server that is a replica. Blocks until it accepts writes.
    ///
    /// # Errors
    ///
    /// As for [`Server::stop`], or if it is not a replica.
    pub fn promote(&self) -> Result<(), Error> {
        self.own()?.promote()
    }

    fn own(&self) -> Result<&Cluster, Error> {
        self.cluster
            .as_ref()
            .filter(|_| !self.shared)
            .ok_or_else(|| Kind::NotPrivate.into())
    }
}

/// Without the connection string, which may contain a password.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("source", &self.source)
            .field("config", &self.config)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
