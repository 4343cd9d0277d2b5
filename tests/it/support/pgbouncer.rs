//! A private PgBouncer in front of the test's database.

use std::{
    fs::{self, DirBuilder},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use deadpool_postgres::{Manager, Pool};
use ephemeral_postgres::{TestDatabase, skip};
use tokio_postgres::{Client, NoTls};
use tower_user_session::tokio_postgres::{self, Config, config::Host};

/// Runs the program until the pipe to it closes, however this process ends, and then removes the
/// folder.
const WATCH: &str = r#"
    trap '' HUP INT TERM
    "$1" "$2/pgbouncer.ini" >/dev/null 2>&1 &
    read -r _
    kill -s KILL $!
    wait
    rm -rf -- "$2"
"#;
/// The usual id of the account `nobody`.
const UNPRIVILEGED: u32 = 65534;

pub struct PgBouncer {
    config: Config,
    folder: PathBuf,
    watch: Child,
    pipe: Option<ChildStdin>,
}

impl PgBouncer {
    /// Starts one that pools transactions over two server connections, with these additional
    /// settings. Returns `None` and skips the test if PgBouncer is missing.
    pub async fn before(test: &str, database: &TestDatabase, settings: &str) -> Option<Self> {
        let Some(program) = program() else {
            skip(test, "there is no pgbouncer here");
            return None;
        };
        let server = database.config();
        let port = server.get_ports().first().copied().unwrap_or(5432);
        let (host, account) = match &server.get_hosts()[0] {
            Host::Unix(folder) => (folder.display().to_string(), owner(folder)),
            Host::Tcp(name) => (name.clone(), (UNPRIVILEGED, UNPRIVILEGED)),
        };
        if account.0 == 0 {
            skip(test, "pgbouncer does not run as root, and the server does");
            return None;
        }
        let user = server.get_user().unwrap();
        let password = server.get_password().map_or_else(String::new, |password| {
            format!(" password={}", std::str::from_utf8(password).unwrap())
        });

        let folder = new_folder();
        let ini = format!(
            "[databases]\n\
             * = host={host} port={port} user={user}{password}\n\
             [pgbouncer]\n\
             listen_addr =\n\
             listen_port = 6432\n\
             unix_socket_dir = {folder}\n\
             logfile = {folder}/log\n\
             auth_type = any\n\
             pool_mode = transaction\n\
             default_pool_size = 2\n\
             {settings}\n",
            folder = folder.display(),
        );
        let path = folder.join("pgbouncer.ini");
        fs::write(&path, ini).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCH, "sh"]).arg(program).arg(&folder);
        command.stdin(Stdio::piped()).process_group(0);
        if owner(&folder).0 == 0 {
            // PgBouncer does not run as root.
            for path in [&path, &folder] {
                chown(path, Some(account.0), Some(account.1)).unwrap();
            }
            command.uid(account.0).gid(account.1);
        }
        let mut watch = command.spawn().unwrap();
        let mut config = Config::new();
        config.host_path(&folder).port(6432);
        config.user(user).dbname(database.name());
        let bouncer = Self {
            config,
            folder,
            pipe: watch.stdin.take(),
            watch,
        };
        bouncer.until_it_answers().await;
        Some(bouncer)
    }

    /// Its version, as (1, 18).
    pub fn version() -> Option<(u32, u32)> {
        let output = Command::new(program()?).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut numbers = text.split_whitespace().nth(1)?.split('.');
        let mut number = || numbers.next()?.parse().ok();
        Some((number()?, number()?))
    }

    pub fn config(&self) -> Config {
        self.config.clone()
    }

    pub fn pool(&self, size: usize) -> Pool {
        Pool::builder(Manager::new(self.config(), NoTls))
            .max_size(size)
            .build()
            .unwrap()
    }

    /// Another client of it.
    pub async fn client(&self) -> Client {
        let (client, connection) = self.config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    async fn until_it_answers(&self) {
        let start = Instant::now();
        loop {
            match self.config.connect(NoTls).await {
                Ok(_) => return,
                Err(error) => assert!(
                    start.elapsed() < Duration::from_secs(20),
                    "{error:?}: {}",
                    self.log()
                ),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.pipe = None;
        let _ = self.watch.wait();
    }
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin"].map(PathBuf::from))
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

/// In `/tmp`, which all accounts can enter, and with a path that is short enough for a socket.
fn new_folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = PathBuf::from(format!("/tmp/pgbouncer-{}-{number}", process::id()));
    DirBuilder::new().mode(0o700).create(&folder).unwrap();
    folder
}
