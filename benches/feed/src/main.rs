//! How soon an ended session is refused everywhere, and what hearing of it costs.
//!
//! # How to run it
//!
//! ```sh
//! cargo run --release --manifest-path benches/feed/Cargo.toml               # four minutes or so
//! cargo run --release --manifest-path benches/feed/Cargo.toml -- --quick    # to see that it works
//! cargo run --release --manifest-path benches/feed/Cargo.toml -- --only a,b # some of the parts
//! ```
//!
//! It starts a PostgreSQL of its own, with the settings of a server that is to keep what was committed,
//! and for each part four processes with a service and a cache each. Linux only: it reads `/proc`.
//!
//! | part | what is measured |
//! |---|---|
//! | a | from the call that ends a session to the last process that refuses it, where all feeds hear |
//! | b | the same where feeds are cut or fall silent, and where processes are stopped for three seconds |
//! | c | ten thousand streams that wait: their memory, and until all are closed |
//! | d | what the triggers cost the server at a sign-out |
//! | e | a lookup that is answered from the cache |
//! | f | the server's time for the heartbeats of 10, 50 and 200 feeds |
//!
//! It fails where an answer was late: where a process answered "signed in", to a question that was asked
//! longer than a lease after the ending call had returned, or at all after that where the call was its own.
//! A process that slept longer than a lease must ask first. Everything else is only printed; the last lines
//! are `measured <name> <value> <unit> (aim <aim>)`.
//!
//! Nothing else should run on the machine meanwhile.

mod child;
mod clock;
mod cut;
mod ending;
mod figures;
mod ground;
mod hearing;
mod heartbeats;
mod hit;
mod process;
mod proxy;
mod streams;
mod triggers;
mod watching;

use std::process::ExitCode;

use lexopt::prelude::*;
use tower_user_session::BoxError;

use self::{figures::Report, ground::Ground};

const PARTS: &str = "abcdef";
/// The first argument of a process that serves.
const CHILD: &str = "--child";

struct Options {
    parts: String,
    quick: bool,
}

fn main() -> ExitCode {
    let result = if std::env::args().nth(1).as_deref() == Some(CHILD) {
        child::run().map(|()| true)
    } else {
        measure()
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether no answer was late.
fn measure() -> Result<bool, BoxError> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut report = Report::default();
    runtime.block_on(async {
        let ground = Ground::start(options.quick).await?;
        for part in options.parts.chars() {
            match part {
                'a' => hearing::run(&ground, &mut report).await?,
                'b' => cut::run(&ground, &mut report).await?,
                'c' => streams::run(&ground, &mut report).await?,
                'd' => triggers::run(&ground, &mut report).await?,
                'e' => hit::run(&ground, &mut report).await?,
                _ => heartbeats::run(&ground, &mut report).await?,
            }
        }
        Ok::<_, BoxError>(())
    })?;
    report.print();
    Ok(report.late == 0)
}

fn options() -> Result<Options, BoxError> {
    let mut options = Options {
        parts: PARTS.to_owned(),
        quick: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("quick") => options.quick = true,
            Long("only") => {
                let only = parser.value()?.string()?;
                let parts: Vec<&str> = only.split(',').collect();
                if !parts
                    .iter()
                    .all(|part| part.len() == 1 && PARTS.contains(part))
                {
                    return Err(format!("there are the parts a,b,c,d,e,f, and not {only}").into());
                }
                options.parts = parts.concat();
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(options)
}
