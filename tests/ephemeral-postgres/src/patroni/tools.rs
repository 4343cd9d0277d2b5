use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::source::{self, Source};

/// The programs of a cluster.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) patroni: PathBuf,
    pub(super) etcd: PathBuf,
    pub(super) etcdctl: PathBuf,
    pub(super) haproxy: PathBuf,
    /// The folder of PostgreSQL's programs.
    pub(super) postgres: PathBuf,
}

impl Tools {
    /// Finds all programs, or returns which one is missing.
    pub(super) fn find() -> Result<Self, String> {
        if !cfg!(target_os = "linux") {
            return Err("the cluster needs Linux's loopback network".to_owned());
        }
        let tools = Self {
            patroni: on_path("patroni")?,
            etcd: on_path("etcd")?,
            etcdctl: on_path("etcdctl")?,
            haproxy: on_path("haproxy")?,
            postgres: postgres()?,
        };
        for module in ["patroni.dcs.etcd", "psycopg2"] {
            if !can_import(&tools.patroni, module) {
                return Err(format!("the Python of patroni has no module {module}"));
            }
        }
        Ok(tools)
    }
}

/// Returns whether the interpreter in the first line of the program finds a module.
fn can_import(program: &Path, module: &str) -> bool {
    let program = fs::read_to_string(program).unwrap_or_default();
    let interpreter = program
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("#!"));
    let mut words = interpreter.unwrap_or("python3").split_whitespace();
    let Some(first) = words.next() else {
        return false;
    };
    let mut import = Command::new(first);
    import.args(words).args(["-c", &format!("import {module}")]);
    import.stderr(Stdio::null());
    import.status().is_ok_and(|status| status.success())
}

fn on_path(name: &str) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| format!("there is no {name} here"))
}

fn postgres() -> Result<PathBuf, String> {
    let installed = |source| match source {
        Source::Installed(bin) => Some(bin),
        _ => None,
    };
    source::candidates(source::forced().as_deref())
        .into_iter()
        .find_map(installed)
        .filter(|bin| bin.join("pg_basebackup").is_file() && bin.join("psql").is_file())
        .ok_or_else(|| "no PostgreSQL with pg_basebackup and psql is installed".to_owned())
}
