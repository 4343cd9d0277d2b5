use std::path::Path;

use crate::keep;

const DEFAULTS: [(&str, &str); 10] = [
    ("listen_addresses", ""),
    ("max_connections", "200"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_wal_size", "256MB"),
    // Committed data still survives a crash of the server, as long as the machine stays up.
    ("fsync", "off"),
    ("full_page_writes", "off"),
    // The bundled server makes a full fsync of each of these hints, even with fsync off.
    ("backend_flush_after", "0"),
    ("bgwriter_flush_after", "0"),
    ("checkpoint_flush_after", "0"),
];

/// If the server's files are kept, everything is logged.
const EVERYTHING_LOGGED: [(&str, &str); 4] = [
    ("log_statement", "all"),
    ("log_min_duration_statement", "0"),
    ("log_parameter_max_length", "-1"),
    ("log_parameter_max_length_on_error", "-1"),
];

/// The folders of the modules, relative to the programs: Debian and the PostgreSQL project;
/// Homebrew; Fedora.
const MODULES: [&str; 3] = ["../lib", "../lib/postgresql", "../lib64/pgsql"];

/// A private server's settings.
#[derive(Debug)]
pub(crate) struct Settings(Vec<(String, String)>);

impl Settings {
    pub(crate) fn new(bin: &Path, own: &[(&str, &str)]) -> Self {
        let statistics = has_module(bin, "pg_stat_statements");
        let statistics = statistics.then_some(&("shared_preload_libraries", "pg_stat_statements"));
        let logged = keep::folder().map_or(&[][..], |_| &EVERYTHING_LOGGED);
        let settings = DEFAULTS.iter().chain(statistics).chain(logged).chain(own);
        Self(
            settings
                .map(|&(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }

    pub(crate) fn port(&self) -> u16 {
        let port = self.0.iter().rfind(|(name, _)| name == "port");
        port.and_then(|(_, port)| port.parse().ok()).unwrap_or(5432)
    }

    /// For the command line of `postgres`, where the last value of a setting applies.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = String> {
        self.0
            .iter()
            .flat_map(|(name, value)| ["-c".into(), format!("{name}={value}")])
    }
}

fn has_module(bin: &Path, module: &str) -> bool {
    let files = ["so", "dylib"].map(|suffix| format!("{module}.{suffix}"));
    MODULES.iter().any(|folder| {
        files
            .iter()
            .any(|file| bin.join(folder).join(file).is_file())
    })
}
