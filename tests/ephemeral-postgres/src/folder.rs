use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::error::{Error, Kind};
use crate::name::new_name;
use crate::watchdog::Watchdog;

/// An address of a Unix socket holds 103 bytes on macOS, 107 on Linux.
const LONGEST_SOCKET: usize = 103;

/// A private server's folder. Only the account that the server runs as can enter it. Dropping it
/// stops the processes there and removes it.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// `None`: the account of this process.
    pub(crate) account: Option<Account>,
    pub(crate) watchdog: Watchdog,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Folder {
    /// Creates a folder. The bundled server can run as root, an installed one cannot.
    pub(crate) fn create(runs_as_root: bool) -> Result<Self, Error> {
        let path = new_path();
        let watchdog = Watchdog::over_new(&path)?;
        let mut folder = Self {
            path,
            account: None,
            watchdog,
        };
        // The owner of a new file is this process's account.
        let metadata = fs::metadata(&folder.path).map_err(Error::system("look at its folder"))?;
        if metadata.uid() == 0 && !runs_as_root {
            folder.account = Some(unprivileged()?);
            own(&folder.path, folder.account)
                .map_err(Error::system("give its folder to another account"))?;
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

/// Gives a file or a folder to the account, if there is one.
pub(crate) fn own(path: &Path, account: Option<Account>) -> io::Result<()> {
    account.map_or(Ok(()), |account| {
        chown(path, Some(account.uid), Some(account.gid))
    })
}

/// In the folder for temporary files, or in `/tmp` if that path is too long for a socket or another
/// account could not traverse it.
fn new_path() -> PathBuf {
    let name = new_name("ephemeral-postgres-");
    let usual = env::temp_dir().join(&name);
    let short = usual.join(".s.PGSQL.65535").as_os_str().len() <= LONGEST_SOCKET;
    let open = usual.is_absolute() && usual.ancestors().skip(1).all(anyone_can_enter);
    if short && open {
        usual
    } else {
        Path::new("/tmp").join(name)
    }
}

fn anyone_can_enter(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.mode() & 0o001 != 0)
}

/// The account that a server runs as if this process is root.
fn unprivileged() -> Result<Account, Error> {
    let passwd = fs::read_to_string("/etc/passwd").map_err(Error::system("read /etc/passwd"))?;
    let find = |name: &str| passwd.lines().find_map(|line| account(line, name));
    find("postgres")
        .or_else(|| find("nobody"))
        .ok_or_else(|| Kind::NobodyToRunAs.into())
}

/// The account in a line of `/etc/passwd`, if it has that name.
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
