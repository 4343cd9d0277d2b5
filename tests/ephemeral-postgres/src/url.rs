use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Returns the connection string of the server that listens in the folder. `psql` and
/// tokio-postgres both accept this form.
pub(crate) fn of_socket(folder: &Path, port: u16) -> String {
    let mut url = String::from("postgresql:///postgres?host=");
    for &byte in folder.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            url.push(byte.into());
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    let _ = write!(url, "&port={port}&user=postgres");
    url
}

/// Returns the same connection string for another database. Of two values for one parameter, the
/// later applies.
pub(crate) fn with_database(url: &str, database: &str) -> String {
    let is_url = url.starts_with("postgres://") || url.starts_with("postgresql://");
    let separator = match url.contains('?') {
        true if is_url => '&',
        false if is_url => '?',
        _ => ' ', // key-value pairs
    };
    format!("{url}{separator}dbname={database}")
}
