//! Tests of the tests: each mutation in `*.toml` changes one place of the crate or of its SQL, and one of the
//! tests that it names must fail. The list covers each predicate of the statements, and those guards of the
//! code that `cargo mutants` does not change by itself.
//!
//! ```sh
//! cargo test --all-features --test it mutations::each_is_killed -- --ignored --nocapture
//! ```
//!
//! tries all of them in a copy of the sources. `MUTATIONS=find.sql,catch_up` selects those with one of these
//! texts in their file name or in the changed place. Each takes about ten seconds.

use std::{
    collections::BTreeSet,
    fmt,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::catalogue;

/// A mutant may hang, which a test may or may not detect.
const PATIENCE: Duration = Duration::from_secs(150);

#[derive(Deserialize)]
struct List {
    mutation: Vec<Mutation>,
}

/// One change to one file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutation {
    file: String,
    /// Occurs once in the file.
    find: String,
    replace: String,
    /// Parts of the names of tests, at least one of which fails.
    #[serde(default)]
    tests: Vec<String>,
    /// Why no test can detect the change.
    survives: Option<String>,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (find, replace) = (one_line(&self.find), one_line(&self.replace));
        write!(f, "{}: `{find}` -> `{replace}`", self.file)
    }
}

/// The file or folder of a test's module in `tests/it`; `None` for a test of the library.
fn integrated(test: &str) -> Option<PathBuf> {
    // Folders of `tests/it` have the names of modules of the library.
    if test.contains("::tests::") {
        return None;
    }
    let mut path = test.split("::");
    let folder = root().join("tests/it").join(path.next()?);
    let module = folder.join(path.next()?);
    let file = module.with_extension("rs");
    [module, file].into_iter().find(|path| path.exists())
}

/// The file of the library that contains this test.
fn inline(test: &str) -> PathBuf {
    let (module, _) = test.rsplit_once("::").unwrap_or_default();
    let module = module.strip_suffix("::tests").unwrap_or(module);
    let folder = root().join("src").join(module.replace("::", "/"));
    let files = [
        folder.join("tests.rs"),
        folder.with_extension("rs"),
        folder.join("mod.rs"),
    ];
    let file = files.into_iter().find(|path| path.exists());
    file.unwrap_or(folder)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn list() -> Vec<Mutation> {
    let lists = [
        include_str!("rust.toml"),
        include_str!("sql.toml"),
        include_str!("settings.toml"),
    ];
    let lists = lists.map(|list| toml::from_str::<List>(list).unwrap().mutation);
    lists.concat()
}

/// Each entry of the list matches the sources.
#[test]
#[ignore = "part of the extended tests"]
fn the_list_fits_the_sources() {
    let mut wrong = Vec::new();
    for mutation in list() {
        let source = std::fs::read_to_string(root().join(&mutation.file)).unwrap_or_default();
        if source.matches(&mutation.find).count() != 1 {
            wrong.push(format!("{mutation}: not there, or not once"));
        }
        if mutation.tests.is_empty() == mutation.survives.is_none() {
            wrong.push(format!("{mutation}: it needs tests, or else a reason"));
        }
        for test in &mutation.tests {
            let function = test.rsplit("::").next().unwrap_or_default();
            let place = integrated(test).unwrap_or_else(|| inline(test));
            if !catalogue::source(&place).contains(&format!("fn {function}")) {
                wrong.push(format!("{mutation}: no test {test}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The result of one mutation.
#[derive(Debug)]
enum Outcome {
    Killed(Vec<String>),
    Hung,
    Survived,
    /// It proves nothing: it does not compile, or no test ran.
    Invalid(String),
}

#[test]
#[ignore = "builds the crate once for each mutation"]
fn each_is_killed() {
    let only = std::env::var("MUTATIONS").unwrap_or_default();
    let all = list().into_iter();
    let (mutations, left): (Vec<_>, Vec<_>) = all
        .filter(|mutation| {
            let mut parts = only.split(',');
            parts.any(|part| mutation.file.contains(part) || mutation.find.contains(part))
        })
        .partition(|mutation| mutation.survives.is_none());
    let copy = Copy::new();
    let tests: BTreeSet<_> = mutations.iter().flat_map(|each| &each.tests).collect();
    let tests: Vec<_> = tests.into_iter().cloned().collect();
    let sound = copy.test(&tests, 10 * PATIENCE);
    assert!(
        matches!(sound, Outcome::Survived),
        "the tests fail without a mutation: {sound:?}"
    );
    let mut wrong = Vec::new();
    for (number, mutation) in mutations.iter().enumerate() {
        let start = Instant::now();
        let outcome = copy.with(mutation);
        let place = format!("{}/{} {mutation}", number + 1, mutations.len());
        let seconds = start.elapsed().as_secs();
        let told = match outcome {
            Outcome::Killed(by) => format!("killed by {}", by.join(", ")),
            Outcome::Hung => "killed: a test does not end".to_owned(),
            Outcome::Survived => "SURVIVED".to_owned(),
            Outcome::Invalid(why) => format!("INVALID: {why}"),
        };
        println!("{place}\n    {told} ({seconds} s)");
        if !told.starts_with("killed") {
            wrong.push(mutation.to_string());
        }
    }
    for mutation in &left {
        let reason = mutation.survives.as_deref().unwrap_or_default();
        println!("{mutation}\n    not tried: {reason}");
    }
    let killed = mutations.len() - wrong.len();
    println!("{killed} killed, {} not tried, for a reason", left.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A copy of the sources that may be changed.
struct Copy {
    folder: PathBuf,
}

impl Copy {
    /// Writes all sources, and any other file only if it differs, so that earlier builds are reused.
    fn new() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
        let files = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(files.status.success(), "the sources are listed by git");
        // A file that was moved since the last run would be in the copy twice.
        for sources in ["src", "tests/it"] {
            let _ = std::fs::remove_dir_all(folder.join(sources));
        }
        for file in String::from_utf8(files.stdout)
            .unwrap()
            .split_terminator('\0')
        {
            let Ok(source) = std::fs::read(root().join(file)) else {
                continue;
            };
            write(&folder.join(file), &source);
        }
        Self { folder }
    }

    /// Leaves only the modules that these tests need, which halves the time. No module of tests uses another:
    /// what they share is in `support`.
    fn keep(&self, tests: &[String]) {
        for entry in std::fs::read_dir(root().join("tests/it")).unwrap() {
            let file = entry.unwrap().path().join("mod.rs");
            let folder = file.parent().and_then(Path::file_name).unwrap_or_default();
            let folder = folder.display().to_string();
            if folder == "support" || !file.is_file() {
                continue;
            }
            let source = std::fs::read_to_string(&file).unwrap();
            // An attribute belongs to the next line.
            let source = source.replace("]\nmod ", "]mod ");
            let needed = |line: &&str| {
                let module = line
                    .rsplit_once("mod ")
                    .and_then(|(_, name)| name.strip_suffix(';'));
                module.is_none_or(|module| {
                    let prefix = format!("{folder}::{module}::");
                    tests.iter().any(|test| test.starts_with(&prefix))
                })
            };
            let items: Vec<_> = source.lines().filter(needed).collect();
            let copy = self.folder.join(file.strip_prefix(root()).unwrap());
            write(&copy, items.join("\n").as_bytes());
        }
    }

    fn with(&self, mutation: &Mutation) -> Outcome {
        let path = self.folder.join(&mutation.file);
        let source = std::fs::read_to_string(&path).unwrap();
        let mutated = source.replacen(&mutation.find, &mutation.replace, 1);
        std::fs::write(&path, mutated).unwrap();
        let outcome = self.test(&mutation.tests, PATIENCE);
        std::fs::write(&path, source).unwrap();
        outcome
    }

    fn cargo(&self, args: &[&str]) -> Command {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["test", "--package", "tower-user-session", "--all-features"])
            .args(args)
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", self.folder.with_extension("target"))
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("RUST_BACKTRACE", "0");
        cargo
    }

    fn test(&self, tests: &[String], patience: Duration) -> Outcome {
        self.keep(tests);
        let mut targets = Vec::new();
        if tests.iter().any(|test| integrated(test).is_some()) {
            targets.extend(["--test", "it"]);
        }
        if !tests.iter().all(|test| integrated(test).is_some()) {
            targets.push("--lib");
        }
        let built = self.cargo(&targets).arg("--no-run").output().unwrap();
        if !built.status.success() {
            return Outcome::Invalid(String::from_utf8_lossy(&built.stderr).into_owned());
        }
        let told = self.folder.with_extension("log");
        let mut running = self
            .cargo(&targets)
            .args(["--no-fail-fast", "--"])
            .args(tests)
            .stdout(std::fs::File::create(&told).unwrap())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = running.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > patience {
                // Cargo and the tests that it runs.
                let group = format!("-{}", running.id());
                let killed = Command::new("kill").args(["-KILL", "--", &group]).status();
                assert!(killed.unwrap().success());
                running.wait().unwrap();
                return Outcome::Hung;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let told = std::fs::read_to_string(told).unwrap();
        let failed = told.lines().filter_map(|line| {
            let test = line.strip_prefix("test ")?;
            test.strip_suffix(" ... FAILED").map(str::to_owned)
        });
        let failed: Vec<_> = failed.collect();
        if !failed.is_empty() {
            Outcome::Killed(failed)
        } else if status.success() && told.contains(" ... ok") {
            Outcome::Survived
        } else {
            Outcome::Invalid("no test ran, or not to its end".to_owned())
        }
    }
}

fn write(path: &Path, source: &[u8]) {
    if std::fs::read(path).is_ok_and(|there| there == source) {
        return;
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, source).unwrap();
}
