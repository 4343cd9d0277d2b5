use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::error::{Error, Kind};
use crate::name::new_name;
use crate::watchdog::Watchdog;

/// An address of a Unix socket holds 103 bytes on macOS, 107 on Linux. This leaves room for the
/// folder's own name (up to 37) and for `/.s.PGSQL.65535`.
const LONGEST_PARENT: usize = 50;

/// A private server's folder. Only the account that the server runs as can enter it. Dropping it
/// stops what runs there and removes it.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// `None`: this process's own.
    pub(crate) account: Option<Account>,
    pub(crate) watchdog: Watchdog,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Folder {
    /// Creates one. The bundled server runs as root, an installed one does not.
    pub(crate) fn create(runs_as_root: bool) -> Result<Self, Error> {
        let path = parent().join(new_name("ephemeral-postgres-"));
        let watchdog = Watchdog::over_new(&path)?;
        let mut folder = Self {
            path,
            account: None,
            watchdog,
        };
        // Who owns what we create is who we are.
        let metadata = fs::metadata(&folder.path).map_err(Error::system("look at its folder"))?;
        if metadata.uid() == 0 && !runs_as_root {
            let account = unprivileged()?;
            chown(&folder.path, Some(account.uid), Some(account.gid))
                .map_err(Error::system("give its folder to another account"))?;
            folder.account = Some(account);
        }
        Ok(folder)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
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
