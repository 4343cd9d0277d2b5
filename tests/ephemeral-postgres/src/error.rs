use std::process::ExitStatus;
use std::{error, fmt, io};

use crate::Source;

/// Why there is no server, or why it could not be used. Its text says what was tried and, if that
/// helps, what to install.
pub struct Error(Box<Kind>);

pub(crate) enum Kind {
    /// None of the sources led to a server. Empty if there was nothing to try.
    NoServer {
        forced: Option<String>,
        attempts: Vec<(Source, Error)>,
    },
    /// The variable does not contain a connection string.
    BadUrl {
        variable: &'static str,
        source: tokio_postgres::Error,
    },
    /// The server is not a private one of this value.
    NotPrivate,
    /// The operating system refused an operation.
    System { doing: String, source: io::Error },
    /// One of PostgreSQL's programs failed.
    Program {
        name: &'static str,
        status: ExitStatus,
        log: String,
    },
    /// The server did not reach the requested state in time.
    TooSlow { doing: &'static str, log: String },
    /// As root, without an account to run the server as.
    NobodyToRunAs,
    /// A statement or a connection failed.
    Sql {
        doing: String,
        source: tokio_postgres::Error,
    },
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Self(Box::new(kind))
    }
}

impl Error {
    /// For `map_err`.
    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            Kind::System {
                doing: doing.into(),
                source,
            }
            .into()
        }
    }

    /// For `map_err`.
    pub(crate) fn sql(doing: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| {
            Kind::Sql {
                doing: doing.into(),
                source,
            }
            .into()
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::NoServer { forced, attempts } => {
                f.write_str("there is no PostgreSQL to run against")?;
                if let Some(forced) = forced {
                    write!(f, ", with EPHEMERAL_POSTGRES={forced}")?;
                }
                if attempts.is_empty() {
                    f.write_str(": none was found")?;
                }
                for (source, error) in attempts {
                    write!(f, "\n  {source}: {error:?}")?;
                }
                if forced.is_some() {
                    f.write_str("\nUnset EPHEMERAL_POSTGRES, so that any source will do.")?;
                }
                f.write_str(
                    "\nInstall one (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf \
                     install postgresql-server; macOS: brew install postgresql@17), or name a \
                     running one in DATABASE_URL (examples) or TEST_DATABASE_URL (tests).",
                )
            }
            Kind::BadUrl { variable, .. } => {
                write!(f, "{variable} is not a PostgreSQL connection string")
            }
            Kind::NotPrivate => f.write_str("only a private server can be stopped and restarted"),
            Kind::System { doing, .. } | Kind::Sql { doing, .. } => write!(f, "cannot {doing}"),
            Kind::Program { name, status, log } => {
                write!(f, "{name} failed ({status}):\n{}", end_of(log))
            }
            Kind::TooSlow { doing, log } => {
                write!(f, "the server did not {doing} in time:\n{}", end_of(log))
            }
            Kind::NobodyToRunAs => f.write_str(
                "PostgreSQL refuses to run as root, and /etc/passwd has neither `postgres` nor \
                 `nobody`",
            ),
        }
    }
}

/// The lines that give the reason.
fn end_of(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &*self.0 {
            Kind::BadUrl { source, .. } | Kind::Sql { source, .. } => Some(source),
            Kind::System { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The text and its causes, because `fn main() -> Result<…>` and `unwrap` print this.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut cause = error::Error::source(self);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
