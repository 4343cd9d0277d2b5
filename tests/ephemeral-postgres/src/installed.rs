use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Folders with one folder per version in them: the parent, the text before the version, and the
/// path below it.
const VERSIONED: [(&str, &str, &str); 8] = [
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"), // the PostgreSQL project's packages for Fedora and its kin
    ("/usr/libexec", "postgresql", ""), // Alpine
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew on Apple silicon
    ("/usr/local/opt", "postgresql@", "bin"), // Homebrew on Intel
    ("/opt/local/lib", "postgresql", "bin"), // MacPorts
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/usr/local", "pgsql", "bin"), // built from source
];

/// Returns the folder with the programs of an installed PostgreSQL: the one on `PATH`, otherwise
/// the newest.
pub(crate) fn find() -> Option<PathBuf> {
    on_path().or_else(from_pg_config).or_else(newest)
}

fn is_server(bin: &Path) -> bool {
    bin.join("postgres").is_file() && bin.join("initdb").is_file()
}

fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let bin = env::split_paths(&path).find(|folder| is_server(folder))?;
    // `PATH` often contains links only. The other programs are beside the link's target.
    let program = fs::canonicalize(bin.join("postgres")).ok()?;
    program
        .parent()
        .filter(|folder| is_server(folder))
        .map(Path::to_path_buf)
        .or(Some(bin))
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    let bin = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    is_server(&bin).then_some(bin)
}

fn newest() -> Option<PathBuf> {
    let mut found = Vec::new();
    for (parent, prefix, below) in VERSIONED {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let bin = entry.path().join(below);
            let version = entry
                .file_name()
                .to_string_lossy()
                .strip_prefix(prefix)
                .map(str::to_owned);
            if let Some(version) = version.filter(|_| is_server(&bin)) {
                found.push((version.parse().unwrap_or(0), bin));
            }
        }
    }
    found
        .into_iter()
        .max_by_key(|(version, _): &(u32, _)| *version)
        .map(|(_, bin)| bin)
}
