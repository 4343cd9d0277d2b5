//! A lower bound: `pgbench -M prepared` with the joined query, at the speed of PostgreSQL's own
//! client.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    BoxError,
    contestants::{by_hand::JOINED, ground::Ground},
    data,
    load::Measure,
    results::Round,
};

/// The number of clients with the best median counts.
pub(crate) const CLIENTS: [u32; 4] = [4, 8, 16, 64];

#[derive(Debug)]
pub(crate) struct Pgbench {
    program: PathBuf,
    script: PathBuf,
    folder: PathBuf,
    seconds: u32,
}

impl Pgbench {
    pub(crate) fn new(ground: &Ground, out: &Path, seconds: f64) -> Result<Self, BoxError> {
        let program = ground
            .server
            .bin_dir()
            .map(|folder| folder.join("pgbench"))
            .filter(|program| program.is_file())
            .ok_or("pgbench is not installed beside the server")?;
        let numbers = ground.numbers;
        // The digest is computed in SQL, which costs a microsecond or two.
        let query = JOINED.replace("$1", &data::digest_in_sql(":n"));
        let script = out.join("joined.sql");
        std::fs::write(
            &script,
            format!(
                "\\set n random(0, {}) * {}\n{query};\n",
                numbers.known() - 1,
                numbers.session(1)
            ),
        )?;
        Ok(Self {
            program,
            script,
            folder: ground
                .server
                .directory()
                .ok_or("the server is not private")?
                .to_owned(),
            seconds: (seconds.ceil() as u32).max(1),
        })
    }

    pub(crate) fn run(&self, ground: &Ground, clients: u32) -> Result<Round, BoxError> {
        let measure = Measure::now(ground.server_of("pgbench"));
        let output = Command::new(&self.program)
            .arg("-h")
            .arg(&self.folder)
            .args(["-U", "postgres", "-n", "-M", "prepared", "-j", "2"])
            .args([
                "-c",
                &clients.to_string(),
                "-T",
                &self.seconds.to_string(),
                "-f",
            ])
            .arg(&self.script)
            .arg("postgres")
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value = |name: &str| -> Result<f64, BoxError> {
            let rest = text.split(name).nth(1).ok_or_else(|| {
                format!(
                    "pgbench failed: {}",
                    String::from_utf8_lossy(&output.stderr)
                )
            })?;
            Ok(rest.split_whitespace().next().unwrap_or("").parse()?)
        };
        let measured = measure.end().round(value("actually processed: ")?);
        Ok(Round {
            rate: value("tps = ")?,
            client_us: None,
            ..measured
        })
    }
}
