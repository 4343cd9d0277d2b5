//! `BENCHMARKS.md`: its text is in this file, its figures are in the results.

use std::fmt::Write as _;

use super::table;
use crate::{contestants::ALL, data::SETTINGS, options::Part, ratios, results::Results};

pub(super) fn report(results: &Results) -> String {
    let mut text = String::from(INTRODUCTION);
    text += "\n| name | what it is |\n|---|---|\n";
    for about in ALL {
        let _ = writeln!(text, "| `{}` | {} |", about.id, about.what);
    }
    text += FAIRNESS;
    machine(&mut text, results);
    let parts = [
        (Part::Closed, "In this process, as fast as it goes", CLOSED),
        (Part::Open, "In this process, at a fixed rate", OPEN),
        (Part::Http, "Over HTTP", HTTP),
        (Part::Flood, "A flood of unknown tokens", FLOOD),
        (Part::Memory, "From memory", MEMORY),
    ];
    for (part, title, words) in parts {
        let _ = write!(text, "\n## {title}\n{words}\n");
        if results.cells.iter().any(|cell| cell.part == part) {
            text += &table::of_part(results, part);
        } else {
            text += NOT_MEASURED;
        }
    }
    let rest = [
        ("Statements and allocations", COUNTS, table::counts(results)),
        ("Single steps", STEPS, table::steps(results)),
        ("As the table grows", GROWTH, table::growth(results)),
    ];
    for (title, words, figures) in rest {
        let _ = write!(
            text,
            "\n## {title}\n{words}\n{}",
            figures.as_deref().unwrap_or(NOT_MEASURED)
        );
    }
    text += "\n## Ratios\n\nMedians of the ratios of rounds with the same number. `ratio`, `ratio-http`: requests a second, more is \
             better. `ratio-cpu`, `ratio-p50`, `ratio-p99`: less is better.\n\n```text\n";
    for ratio in ratios::all(results) {
        let _ = writeln!(text, "{ratio}");
    }
    text += "```\n";
    text
}

fn machine(text: &mut String, results: &Results) {
    let (machine, run) = (&results.machine, &results.run);
    let _ = write!(
        text,
        "\n## Measured on\n\n{} processors ({}), {} GiB, {}. {} sessions of {} users; {} rounds of {} s a cell. \
         Load average before the run {}, after it {}. **Wrong answers: {}.**\n\n",
        machine.processors,
        machine.processor,
        machine.memory_gib,
        machine.system,
        run.sessions,
        run.users,
        run.rounds,
        run.seconds,
        run.load_before,
        run.load_after,
        results.wrong,
    );
    let versions = machine
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"));
    let _ = writeln!(
        text,
        "Versions: {}.\n",
        versions.collect::<Vec<_>>().join(", ")
    );
    let settings = SETTINGS
        .iter()
        .map(|(name, value)| format!("`{name} = {value}`"));
    let _ = writeln!(
        text,
        "PostgreSQL listens on a Unix socket. Its settings, where they are not its defaults: {}.",
        settings.collect::<Vec<_>>().join(", ")
    );
    for skipped in &results.skipped {
        let _ = writeln!(text, "\nSkipped: {skipped}.");
    }
}

const NOT_MEASURED: &str = "Not measured in this run.\n";

const INTRODUCTION: &str = "\
# Benchmarks

How long it takes to get from a session cookie to a user, here and in other ways. One command starts a PostgreSQL of
its own, fills it, checks every answer and measures; another writes this page from what was measured:

```sh
cargo run --release --manifest-path benches/comparison/Cargo.toml -- --growth-10m
cargo run --release --manifest-path benches/comparison/Cargo.toml -- --report
```

`--help` lists what can be chosen, such as `--quick`, `--parts` and `--contestants`. Debian's packages `postgresql`, `redis-server`
and `wrk` are used where they are installed; without one of the latter two, its rows are skipped, and the run says so.

**Read ratios, not figures.** Everything on a line shares the same processors: the load, the contestant and its server.

## Who takes part
";

const FAIRNESS: &str = "
They do not all do the same. `axum-login` over `tower-sessions` and `axum_session_auth` over `axum_session` are built on
general session stores: an application can keep anything in a session, and switch the database by switching the store. This
crate knows sessions and users only, in one PostgreSQL, and that is why one statement is enough. In `axum_session`'s defaults
a session stays in the process's memory for an hour and a user for six, so that its row shows both hits and queries; it
also writes a session back when it has been loaded. `joined` and `two` do nothing but look up: no deadline, no
limits on waiting, no headers for caches. `ours-cached` answers from memory, and follows a feed that
drops what ended elsewhere. Redis answers with a value that somebody must have put there, and must take away when
a user changes.

What is the same for all: 612 bytes of `Cookie` header with five cookies, of which one is the contestant's; the same users and as
many sessions in its own tables, 100,000 of them asked for in random order; ten connections in the pool (both pools' default is
not far from it), except that this crate looks up on two of its own; the same runtime; an inner service that
answers with the user's number, which is checked every time. Each contestant is configured as its own documentation shows. This
crate writes down every five minutes that a session is used; the sessions here count as just seen, so no such write falls into the
measurement (`benches/upkeep` measures them). `pgbench` computes the digest in SQL, which costs it a microsecond or two.

Rounds are interleaved, and each begins with another contestant. A cell runs for a quarter of its time before it is measured.
Processor time is this process's own, load included (the empty service shows how much that is), and that of the server with all
its backends. Allocations are counted in the same program, at a cost of a few nanoseconds each.
";

const CLOSED: &str = "
So many tasks, each with one request after the other. With one task, the figure depends on whether the kernel keeps both sides on one processor:
differences below a factor of 1.4 say nothing.

![Requests a second, in process](benches/comparison/plots/throughput.svg)

![Processor time a request](benches/comparison/plots/processor.svg)
";

const OPEN: &str = "
Requests arrive at random at a fixed mean rate, whatever becomes of those before, and a latency is counted from the moment at which
its request was meant to arrive.

![Latency at 5,000 requests a second](benches/comparison/plots/latency.svg)
";

const HTTP: &str = "
The same services under axum over loopback; `wrk` with one thread asks, and takes its share of the same processors.

![Requests a second over HTTP](benches/comparison/plots/http.svg)
";

const FLOOD: &str = "
256 at once, as fast as it goes. In `ours-flooded` nine of ten requests carry tokens of no session; the rates and times are those of
the others.
";

const MEMORY: &str = "
64 at once, by how many sessions are in use. With a thousand, headers and entries are in the processor's caches, as they are where
the same people make many requests. With a hundred thousand in random order, each request waits for main memory, for its
header alone some ten cache lines, and that is what is compared then.
";

const COUNTS: &str = "
64 at once. Statements as `pg_stat_statements` counts them; the ping that sqlx's pool sends before each use is not among them.
Allocations are those over the empty service, the drivers' own tasks included.
";

const STEPS: &str = "
One thread, everything warm.
";

const GROWTH: &str = "
The server's processor time for one lookup of this crate, in tables of several sizes. Once the index on the digests outgrows
`shared_buffers`, and then the memory of the machine, give the server more memory, or remove sessions that are over
sooner: the index holds one entry of 32 bytes and overhead for each row, live or not.

![The server's processor time as the table grows](benches/comparison/plots/growth.svg)

";
