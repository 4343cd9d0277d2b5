//! The machine and the versions of a measurement.

use std::{fs, process::Command};

use crate::{contestants::ground::Ground, data, results::Machine};

/// Programs and crates whose versions are stated.
const CRATES: [&str; 13] = [
    "tower-user-session",
    "tokio-postgres",
    "deadpool-postgres",
    "axum-login",
    "tower-sessions",
    "tower-sessions-sqlx-store",
    "axum_session",
    "axum_session_auth",
    "axum_session_sqlx",
    "sqlx",
    "redis",
    "axum",
    "tokio",
];

pub(crate) async fn describe(ground: &Ground) -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kib: u64 = field(&meminfo, "MemTotal")
        .and_then(|memory| memory.split(' ').next()?.parse().ok())
        .unwrap_or(0);
    let mut versions = vec![("PostgreSQL".to_owned(), postgres(ground).await)];
    for (program, argument) in [
        ("rustc", "--version"),
        ("redis-server", "--version"),
        ("wrk", "-v"),
    ] {
        if let Some(version) = said_by(program, argument) {
            versions.push((program.to_owned(), version));
        }
    }
    versions.extend(
        CRATES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), locked(name)?))),
    );
    Machine {
        processor: field(&cpuinfo, "model name").unwrap_or_default(),
        processors: std::thread::available_parallelism().map_or(0, usize::from),
        memory_gib: kib.div_ceil(1 << 20),
        system: format!("Linux {}", said_by("uname", "-r").unwrap_or_default()),
        versions,
    }
}

pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

async fn postgres(ground: &Ground) -> String {
    let Ok(client) = data::connect(&ground.config).await else {
        return String::new();
    };
    let row = client
        .query_one("SELECT current_setting('server_version')", &[])
        .await;
    row.map(|row| row.get(0)).unwrap_or_default()
}

/// The first word with a digit and a dot in a program's output.
fn said_by(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let version = |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    let word = text.split_whitespace().find(version)?;
    Some(word.trim_start_matches("v=").to_owned())
}

/// The versions of a crate in the lock file.
fn locked(name: &str) -> Option<String> {
    let lock = include_str!("../Cargo.lock");
    let line = format!("name = \"{name}\"");
    let mut lines = lock.lines();
    let mut versions = Vec::new();
    while let Some(found) = lines.by_ref().find(|found| **found == line) {
        debug_assert_eq!(found, line, "the line that was looked for");
        versions.extend(
            lines
                .next()?
                .strip_prefix("version = ")
                .map(|version| version.trim_matches('"')),
        );
    }
    (!versions.is_empty()).then(|| versions.join(" and "))
}
