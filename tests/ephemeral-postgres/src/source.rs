use std::path::{Path, PathBuf};
use std::{env, fmt};

use crate::installed;

/// The source of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A variable names a running server.
    Url,
    /// The programs in this folder, installed on the machine.
    Installed(PathBuf),
    /// The programs in this folder, unpacked from a crate.
    Bundled(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url => f.write_str("a server named by a variable"),
            Self::Installed(bin) => write!(f, "PostgreSQL in {}", bin.display()),
            Self::Bundled(bin) => write!(f, "bundled PostgreSQL in {}", bin.display()),
        }
    }
}

impl Source {
    /// Returns the possible sources of a private server on this machine, best first, as
    /// `EPHEMERAL_POSTGRES` allows.
    pub fn available() -> Vec<Self> {
        candidates(forced().as_deref())
    }

    /// Returns the folder with the programs.
    pub(crate) fn bin_dir(&self) -> Option<&Path> {
        match self {
            Self::Url => None,
            Self::Installed(bin) | Self::Bundled(bin) => Some(bin),
        }
    }
}

/// The value of `EPHEMERAL_POSTGRES`.
pub(crate) fn forced() -> Option<String> {
    read("EPHEMERAL_POSTGRES")
}

/// Returns an environment variable. An empty one counts as absent.
pub(crate) fn read(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Returns the possible sources of a private server, best first.
pub(crate) fn candidates(forced: Option<&str>) -> Vec<Source> {
    match forced {
        Some("installed") => installed::find()
            .map(Source::Installed)
            .into_iter()
            .collect(),
        Some("bundled") => bundled().into_iter().collect(),
        Some(bin) => vec![Source::Installed(bin.into())],
        None => installed::find()
            .map(Source::Installed)
            .into_iter()
            .chain(bundled())
            .collect(),
    }
}

/// Where build.rs unpacked it.
fn bundled() -> Option<Source> {
    let folder = option_env!("EPHEMERAL_POSTGRES_BUNDLED")?;
    Some(Source::Bundled(Path::new(folder).join("bin")))
}
