use std::path::{Path, PathBuf};
use std::{env, fmt};

use crate::installed;

/// Where a server came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// It was running already: a variable names it.
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
    /// What a private server can be started from on this machine, best first. `EPHEMERAL_POSTGRES`
    /// has its say.
    pub fn available() -> Vec<Self> {
        candidates(forced().as_deref())
    }

    /// Where the programs are.
    pub(crate) fn bin_dir(&self) -> Option<&Path> {
        match self {
            Self::Url => None,
            Self::Installed(bin) | Self::Bundled(bin) => Some(bin),
        }
    }
}

/// What `EPHEMERAL_POSTGRES` asks for.
pub(crate) fn forced() -> Option<String> {
    read("EPHEMERAL_POSTGRES")
}

/// An environment variable; an empty one counts as absent.
pub(crate) fn read(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// What a private server can be started from, best first.
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

/// Where build.rs put it.
fn bundled() -> Option<Source> {
    let folder = option_env!("EPHEMERAL_POSTGRES_BUNDLED")?;
    Some(Source::Bundled(Path::new(folder).join("bin")))
}
