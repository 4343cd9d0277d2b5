use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io, process};

use crate::error::{Error, Kind};

/// An address of a Unix socket holds 103 bytes on macOS, 107 on Linux. This leaves room for the
/// folder's own name (up to 37) and for `/.s.PGSQL.65535`.
const LONGEST_PARENT: usize = 50;

/// A private server's folder. Only the account that the server runs as can enter it.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// `None`: this process's own.
    pub(crate) account: Option<Account>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Folder {
    /// Creates one. The bundled server runs as root, an installed one does not.
    pub(crate) fn create(runs_as_root: bool) -> Result<Self, Error> {
        let path = new_folder().map_err(Error::system("create a temporary folder"))?;
        let prepare = || {
            // Who owns what we create is who we are.
            let uid = fs::metadata(&path)
                .map_err(Error::system("look at the temporary folder"))?
                .uid();
            if uid != 0 || runs_as_root {
                return Ok(None);
            }
            let account = unprivileged()?;
            chown(&path, Some(account.uid), Some(account.gid))
                .map_err(Error::system("give the temporary folder away"))?;
            Ok(Some(account))
        };
        match prepare() {
            Ok(account) => Ok(Self { path, account }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }
}

fn new_folder() -> io::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let parent = parent();
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("ephemeral-postgres-{}-{number}", process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            // Another container's process may have our id and share the folder.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// The folder for temporary files, or `/tmp` where its path is too long or another account could
/// not pass through it.
fn parent() -> PathBuf {
    let usual = env::temp_dir();
    let short = usual.as_os_str().len() <= LONGEST_PARENT;
    if short && usual.is_absolute() && usual.ancestors().all(anyone_can_enter) {
        usual
    } else {
        "/tmp".into()
    }
}

fn anyone_can_enter(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & 0o001 != 0)
}

/// Whom a server runs as when we are root.
fn unprivileged() -> Result<Account, Error> {
    let passwd = fs::read_to_string("/etc/passwd").map_err(Error::system("read /etc/passwd"))?;
    let find = |name: &str| passwd.lines().find_map(|line| account(line, name));
    find("postgres")
        .or_else(|| find("nobody"))
        .ok_or_else(|| Kind::NobodyToRunAs.into())
}

/// The account in a line of `/etc/passwd`, if it is the one of that name.
fn account(line: &str, name: &str) -> Option<Account> {
    let mut fields = line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    let [uid, gid] = [fields.nth(1)?, fields.next()?].map(|id| id.parse().ok());
    Some(Account {
        uid: uid?,
        gid: gid?,
    })
}
