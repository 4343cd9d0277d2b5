//! Records all that this process logs, for the search in `extended/all_logs`.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tracing_subscriber::fmt::format::FmtSpan;

/// Names the variable with the folder in which servers and processes leave their logs.
pub const KEEP: &str = "EPHEMERAL_POSTGRES_KEEP";

/// The file of digests that tests present as tokens.
pub const PRESENTED: &str = "presented";

/// The log file of this process, if logs are recorded.
fn log() -> Option<&'static File> {
    static LOG: OnceLock<Option<File>> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let folder = PathBuf::from(std::env::var_os(KEEP)?);
        let name = format!("application.{}.log", std::process::id());
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(folder.join(name));
        Some(file.unwrap())
    });
    log.as_ref()
}

/// Records all that this process logs from now on, if logs are recorded.
pub fn begin() {
    static BEGUN: OnceLock<()> = OnceLock::new();
    BEGUN.get_or_init(|| {
        if log().is_none() {
            return;
        }
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
            .with_ansi(false)
            .with_writer(|| Line)
            .finish();
        tracing::subscriber::set_global_default(subscriber).unwrap();
        // `tokio-postgres` logs through this. Another test may have installed it first.
        let _ = tracing_log::LogTracer::init();
    });
}

/// Runs code that logging must not disturb, such as one that counts its own allocations.
pub fn aside<T>(what: impl FnOnce() -> T) -> T {
    if log().is_none() {
        return what();
    }
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), what)
}

/// Records an event that a subscriber of one thread has captured.
pub fn note(event: &[u8]) {
    if let Some(mut log) = log() {
        // One event per line, so that no search has to cross lines.
        let end = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line: Vec<_> = end
            .iter()
            .map(|byte| if *byte == b'\n' { b' ' } else { *byte })
            .collect();
        line.push(b'\n');
        log.write_all(&line).unwrap();
    }
}

/// Records that a test presents these bytes as a token on purpose although they are a digest, so
/// that the server's log may contain them.
pub fn presented_though_a_digest(bytes: &[u8]) {
    if let Some(folder) = std::env::var_os(KEEP) {
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true);
        let mut file = file.open(Path::new(&folder).join(PRESENTED)).unwrap();
        file.write_all(bytes).unwrap();
    }
}

struct Line;

impl Write for Line {
    fn write(&mut self, event: &[u8]) -> std::io::Result<usize> {
        note(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
