//! How soon an ended session is rejected everywhere, and what the feed costs.
//!
//! # How to run it
//!
//! ```sh
//! cargo run --release --manifest-path benches/feed/Cargo.toml               # about four minutes
//! cargo run --release --manifest-path benches/feed/Cargo.toml -- --quick    # a check that it works
//! cargo run --release --manifest-path benches/feed/Cargo.toml -- --only a,b # some parts
//! ```
//!
//! It starts a private PostgreSQL, with the settings of a durable server, and for each part four processes with
//! a service and a cache each. Linux only: it reads `/proc`.
//!
//! | part | what is measured |
//! |---|---|
//! | a | from the call that ends a session to the last process that rejects it, with connected feeds |
//! | b | the same while feeds are disconnected or stalled, and processes are stopped for three seconds |
//! | c | ten thousand waiting streams: their memory, and the time until all are closed |
//! | d | the triggers' cost for the server at a sign-out |
//! | e | a lookup that is answered from the cache |
//! | f | the server's time for the heartbeats of 10, 50 and 200 feeds |
//!
//! It fails if a result was late. A result is late if a lookup returned the user although it started more than a
//! lease after the ending call had returned, or, in the process of that call, at all after it. A process that slept
//! longer than a lease must query first. All other figures are only printed. The last lines are
//! `measured <name> <value> <unit> (aim <aim>)`.
//!
//! No other program should run on the machine meanwhile.

mod child;
mod clock;
mod connected;
mod cut;
mod ending;
mod figures;
mod ground;
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
/// The first argument of a serving process.
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

/// Whether no result was late.
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
                'a' => connected::run(&ground, &mut report).await?,
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
