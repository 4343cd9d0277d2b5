use std::env;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;
use crate::folder::Folder;

/// Writes its own id into the watchdog's pipe, and then becomes the program. So the watchdog knows
/// the program before it starts, even if this process ends in between.
const REPORT_AND_RUN: &str = r#"echo $$; log=$1; shift; exec "$@" >>"$log" 2>&1"#;

/// Returns a command for one of PostgreSQL's programs, which runs in the folder as its account and
/// without this process's environment.
pub(crate) fn command(program: &Path, folder: &Folder, log: &Path) -> Result<Command, Error> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", REPORT_AND_RUN, "sh"])
        .arg(log)
        .arg(program);
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if ["PG", "LC_", "LANG"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(&variable);
        }
    }
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command.current_dir(&folder.path);
    command
        .stdin(Stdio::null())
        .stdout(folder.watchdog.pipe()?)
        .stderr(Stdio::null());
    command.process_group(0); // out of reach of the terminal's Ctrl-C
    if let Some(account) = folder.account {
        command.uid(account.uid).gid(account.gid); // which also leaves root's other groups
    }
    Ok(command)
}
