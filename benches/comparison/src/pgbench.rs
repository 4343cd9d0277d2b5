//! A limit: PostgreSQL's own load generator, with the same joined query, prepared, one at a time.

use std::process::Command;

use tower_user_session::BoxError;

use crate::database::{Database, KNOWN};

pub const CLIENTS: [u32; 3] = [4, 8, 16];

pub fn run(database: &Database, clients: u32, seconds: u64) -> Result<f64, BoxError> {
    let bin = database.server.bin_dir().ok_or("there is no pgbench")?;
    let script = std::env::temp_dir().join(format!("comparison-{}.sql", std::process::id()));
    std::fs::write(
        &script,
        format!(
            "\\set n random(0, {KNOWN} - 1)
             SELECT u.id, u.email, u.name FROM sessions AS s JOIN users AS u ON u.id = s.user_id
             WHERE s.token_digest = sha256(sha256(('token ' || :n)::bytea)) AND s.expires_at > now();\n"
        ),
    )?;
    let output = Command::new(bin.join("pgbench"))
        .args([
            "-n",
            "-M",
            "prepared",
            "-j",
            "2",
            "-c",
            &clients.to_string(),
        ])
        .args(["-T", &seconds.to_string(), "-f"])
        .arg(&script)
        .arg("-h")
        .arg(database.server.directory().ok_or("not a private server")?)
        .args(["-U", "postgres", database.database.name()])
        .output()?;
    std::fs::remove_file(&script)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.ok_or_else(|| format!("pgbench: {text}{}", String::from_utf8_lossy(&output.stderr)).into())
}
