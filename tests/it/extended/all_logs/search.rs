//! Searches all recorded files.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use memchr::memmem;
use sha2::{Digest as _, Sha256};

use super::spellings::{Bytes, Spelling, in_bytes, in_line, in_words};
use crate::support::{recorded_logs::PRESENTED, secrets::SESSION_VALUE};

/// Counts of what was searched, and the findings.
#[derive(Debug, Default)]
pub struct Searched {
    pub files: usize,
    pub bytes: usize,
    /// Digests that were sent to a server. A token is recognized by them.
    pub digests: usize,
    /// Lines of the application's logs that this crate wrote.
    pub of_the_crate: usize,
    /// Lines of the application's logs that `tokio-postgres` wrote.
    pub of_the_driver: usize,
    /// Lines of the servers' logs that have parameters.
    pub with_parameters: usize,
    /// Lines of the servers' logs that have the value of a session column.
    pub with_session_value: usize,
    /// In write-ahead logs and tables, where digests are expected.
    pub digests_in_data: usize,
    pub found: Vec<String>,
}

/// Which program wrote a file, and so what may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    /// Neither tokens nor digests of any store: nothing that looks like 32 random bytes.
    Application,
    /// Digests, but no token of one of them.
    Server,
    /// The same as `Server`, in binary.
    Data,
}

/// Reports at most this many findings.
const TOLD: usize = 20;
const CHUNK: usize = 1 << 20;
/// Longer than anything that is searched for.
const OVERLAP: usize = 256;

pub fn all(folder: &Path) -> Searched {
    let mut files = Vec::new();
    collect(folder, &mut files);
    // The longest files first, so that all processors stay busy to the end.
    files.sort_by_key(|(_, path)| std::cmp::Reverse(path.metadata().unwrap().len()));
    let digests: Mutex<HashSet<Bytes>> = Mutex::default();
    share(&files, |(writer, path)| {
        if *writer == Writer::Server {
            let here = digests_in(path);
            digests.lock().unwrap().extend(here);
        }
    });
    let digests = digests.into_inner().unwrap();
    let presented = std::fs::read(folder.join(PRESENTED)).unwrap_or_default();
    let known = Known {
        digests,
        no_tokens: presented
            .chunks_exact(32)
            .flat_map(Bytes::try_from)
            .collect(),
    };
    let searched = Mutex::new(Searched {
        digests: known.digests.len(),
        ..Searched::default()
    });
    share(&files, |(writer, path)| {
        let here = search(*writer, path, &known);
        searched.lock().unwrap().add(here);
    });
    searched.into_inner().unwrap()
}

impl Searched {
    fn add(&mut self, other: Self) {
        self.files += 1;
        self.bytes += other.bytes;
        self.of_the_crate += other.of_the_crate;
        self.of_the_driver += other.of_the_driver;
        self.with_parameters += other.with_parameters;
        self.with_session_value += other.with_session_value;
        self.digests_in_data += other.digests_in_data;
        self.found.extend(other.found);
        self.found.truncate(TOLD);
    }
}

fn collect(folder: &Path, into: &mut Vec<(Writer, PathBuf)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let within = |part: &str| {
            path.components()
                .any(|component| component.as_os_str() == part)
        };
        if path.is_dir() {
            collect(&path, into);
            continue;
        }
        let writer = if name.starts_with("application.") {
            Writer::Application
        } else if within("pg_wal") || within("base") {
            Writer::Data
        } else if name == "log" || path.extension().is_some_and(|extension| extension == "log") {
            Writer::Server
        } else {
            continue;
        };
        into.push((writer, path));
    }
}

/// Processes each file, on all processors.
fn share(files: &[(Writer, PathBuf)], with: impl Fn(&(Writer, PathBuf)) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Relaxed)) {
                    with(file);
                }
            });
        }
    });
}

fn lines(path: &Path, mut with: impl FnMut(&[u8])) {
    let mut reader = BufReader::with_capacity(CHUNK, File::open(path).unwrap());
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).unwrap() > 0 {
        with(&line);
        line.clear();
    }
}

/// Digests that the server received or stored: its log contains each parameter.
fn digests_in(path: &Path) -> Vec<Bytes> {
    let mut all = Vec::new();
    lines(path, |line| {
        if memmem::find(line, br"\x").is_some() {
            in_words(line, &mut |spelling, bytes| {
                if spelling == Spelling::Hex {
                    all.push(bytes);
                }
            });
        }
    });
    all
}

/// The data that distinguishes a token from other bytes.
struct Known {
    digests: HashSet<Bytes>,
    /// Digests that were presented as tokens.
    no_tokens: HashSet<Bytes>,
}

impl Known {
    fn is_token(&self, bytes: &Bytes) -> bool {
        let digest: Bytes = Sha256::digest(bytes).into();
        self.digests.contains(&digest) && !self.no_tokens.contains(bytes)
    }
}

fn search(writer: Writer, path: &Path, known: &Known) -> Searched {
    let mut searched = Searched::default();
    if writer == Writer::Data {
        let mut file = File::open(path).unwrap();
        let mut chunk = Vec::new();
        loop {
            let read = file
                .by_ref()
                .take(CHUNK as u64)
                .read_to_end(&mut chunk)
                .unwrap();
            if read == 0 {
                return searched;
            }
            searched.bytes += read;
            let mut met = |spelling, bytes| {
                searched.digests_in_data += usize::from(known.digests.contains(&bytes));
                if known.is_token(&bytes) {
                    searched
                        .found
                        .push(format!("{spelling:?} of a token in {}", path.display()));
                }
            };
            in_bytes(&chunk, &mut met);
            // A list is in the log of the statement that sent it.
            in_words(&chunk, &mut met);
            chunk.drain(..chunk.len().saturating_sub(OVERLAP));
        }
    }
    // The same word occurs many times.
    let mut harmless = BTreeSet::new();
    lines(path, |line| {
        searched.bytes += line.len();
        let says = |text: &[u8]| memmem::find(line, text).is_some();
        let has_value = says(SESSION_VALUE.as_bytes());
        if has_value && writer == Writer::Application {
            let path = path.display();
            searched
                .found
                .push(format!("the value of a session column in {path}"));
        }
        searched.with_session_value += usize::from(has_value);
        match writer {
            Writer::Application => {
                searched.of_the_crate += usize::from(says(b" tower_user_session: "));
                searched.of_the_driver += usize::from(says(b" tokio_postgres::"));
            }
            // Later versions of PostgreSQL write a capital letter.
            _ => searched.with_parameters += usize::from(says(b"arameters: $1 = ")),
        }
        let mut told = false;
        in_line(line, &mut |spelling, bytes| {
            if told || harmless.contains(&bytes) {
                return;
            }
            let what = if known.is_token(&bytes) {
                "a token"
            } else if writer == Writer::Server {
                harmless.insert(bytes);
                return;
            } else if known.digests.contains(&bytes) {
                "a digest"
            } else if spelling == Spelling::Raw {
                return;
            } else {
                "what may be a token or a digest"
            };
            told = true;
            let line = String::from_utf8_lossy(line);
            let line: String = line.chars().take(2_000).collect();
            let path = path.display();
            searched
                .found
                .push(format!("{spelling:?} of {what} in {path}: {line}"));
        });
    });
    searched
}
