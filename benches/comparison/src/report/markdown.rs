//! The text of `BENCHMARKS.md`. The figures come from the results.

use std::fmt::Write as _;

use super::{plots, table};
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
        (Part::Closed, "In-process, closed loop", CLOSED),
        (Part::Open, "In-process, open loop", OPEN),
        (Part::Http, "Over HTTP", HTTP),
        (Part::Flood, "Flood of unknown tokens", FLOOD),
        (Part::Memory, "Lookups from memory", MEMORY),
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
        ("Table size", GROWTH, table::growth(results)),
    ];
    for (title, words, figures) in rest {
        let _ = write!(
            text,
            "\n## {title}\n{words}\n{}",
            figures.as_deref().unwrap_or(NOT_MEASURED)
        );
    }
    let _ = write!(text, "\n## Distance from the server\n{DISTANCE}");
    for distance in plots::distances(results) {
        let _ = writeln!(
            text,
            "![Latency at {distance}](benches/comparison/plots/{})\n",
            plots::distance_plot(distance)
        );
    }
    text += table::distances(results).as_deref().unwrap_or(NOT_MEASURED);
    text += RATIOS;
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
        "\n## Environment\n\n{} processors ({}), {} GiB, {}.\n\
         {} sessions of {} users; {} rounds of {} s per cell.\n\
         Load average {} before the run and {} after it.\n**Wrong answers: {}.**\n\n",
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
        "PostgreSQL listens on a Unix socket.\nIt runs with these settings: {}.",
        settings.collect::<Vec<_>>().join(", ")
    );
    for skipped in &results.skipped {
        let _ = writeln!(text, "\nSkipped: {skipped}.");
    }
}

const NOT_MEASURED: &str = "Not measured in this run.\n";

const INTRODUCTION: &str = "\
# Benchmarks

These benchmarks measure the time from a session cookie to a user, with this crate and with
alternatives.
The first command starts its own PostgreSQL server, fills the tables, checks every response and
measures.
The second command writes this page from the results:

```sh
cargo run --release --manifest-path benches/comparison/Cargo.toml -- --growth-10m
cargo run --release --manifest-path benches/comparison/Cargo.toml -- --report
```

`--help` lists the options, such as `--quick`, `--parts` and `--contestants`.
The commands use Debian's packages `postgresql`, `redis-server` and `wrk` if they are installed.
Without `redis-server` or `wrk` the run skips the rows that need this program, and reports the
skipped rows.

**Compare ratios, not absolute figures.**
The load generator, the contestant and its server share the same processors.

## Contestants
";

const FAIRNESS: &str = "
The contestants do not provide the same features.
`axum-login` over `tower-sessions` and `axum_session_auth` over `axum_session` are built on general
session stores.
With such a store, an application can keep any data in a session.
It can use another database by using another store.
This crate supports only sessions and users in one PostgreSQL database.
Therefore it needs only one statement.

* By default, `axum_session` caches a session in the process for an hour.
  `axum_session_auth` caches a user for six hours.
  The row `axum_session` includes lookups from these caches and queries.
  `axum_session` also writes a session back after it has been loaded.
* `joined` and `two` only look up the user: they have no deadline, no bounded queue and no cache headers.
* `ours-cached` serves lookups from memory.
  It subscribes to a feed, which invalidates sessions that ended elsewhere.
* Redis returns a stored value.
  The application has to write this value, and to invalidate it when the user changes.

The conditions are the same for all contestants:

* The `Cookie` header has 612 bytes and five cookies.
  One of the cookies belongs to the contestant.
* Each contestant has the same users and the same number of sessions in its own tables.
  The requests use 100,000 of the sessions in random order.
* The pool has ten connections, which is close to the default of both pools.
  This crate uses two connections of its own for lookups, and up to five at a distance.
* The runtime is the same.
  The inner service returns the user's number, and every response is checked.

Each contestant is configured as its own documentation shows.
This crate records the last use of a session every five minutes.
In this benchmark `last_seen_at` of every session is in the future, so no such write occurs.
`benches/upkeep` measures these writes.
`pgbench` computes the digest in SQL, which costs one or two microseconds.

Rounds are interleaved, and each round starts with a different contestant.
Each cell runs for a quarter of its time before the measurement starts.
Client CPU is the processor time of the benchmark process, including the load generator.
The row `empty` shows the share of the load generator.
Server CPU is the processor time of the database server with all its backends.
The benchmark process counts allocations, at a cost of a few nanoseconds each.
";

const CLOSED: &str = "
Each task sends one request after another.
With one task, the result depends on whether the kernel runs client and server on one processor.
Differences below a factor of 1.4 are not significant with one task.

![Requests a second, in process](benches/comparison/plots/throughput.svg)

![Processor time a request](benches/comparison/plots/processor.svg)
";

const OPEN: &str = "
Requests arrive as a Poisson process at a fixed mean rate, independent of earlier responses.
Latency is measured from the scheduled arrival time, which avoids coordinated omission.

![Latency at 5,000 requests a second](benches/comparison/plots/latency.svg)
";

const HTTP: &str = "
The same services run under axum over loopback.
`wrk` sends the requests with one thread and uses a share of the same processors.

![Requests a second over HTTP](benches/comparison/plots/http.svg)
";

const FLOOD: &str = "
256 tasks run as a closed loop.
In `ours-flooded` nine of ten requests carry unknown tokens.
The rates and times are for the remaining requests.
";

const MEMORY: &str = "
64 tasks run as a closed loop, with different numbers of sessions in use.
With a thousand sessions, headers and entries fit into the processor's caches.
This is similar to a few users who make many requests.
With a hundred thousand sessions in random order, each request waits for main memory.
Its header alone occupies about ten cache lines.
This cost then dominates the comparison.
";

const COUNTS: &str = "
64 tasks run as a closed loop.
`pg_stat_statements` counts the statements; it does not count the ping that sqlx's pool sends before
each use.
The allocations of the empty service are subtracted.
The allocations of the drivers' tasks are included.
";

const STEPS: &str = "
One thread runs each step, with warm caches.
";

const RATIOS: &str = "
## Ratios

Each value is the median of the ratios between rounds with the same number.
`ratio` and `ratio-http` compare requests per second: more is better.
`ratio-memory` compares requests per second for lookups from memory.
`ratio-cpu`, `ratio-p50`, `ratio-p99` and `ratio-p99-flood` compare times: less is better.
`ratio-client-cpu` compares client CPU.
The last ratios compare this crate at a distance, at rates at which neither contestant is saturated.
After ten rounds or more, the 95 % confidence interval of the median follows in parentheses.

```text
";

const DISTANCE: &str = "
Many databases run on another machine: half a millisecond away in the same zone, or a few
milliseconds away in the next region.
`--parts distance` starts a proxy in front of the server that delays each byte, and runs the open loop
through the proxy.
The proxy is one thread of a separate process. The kernel wakes it with a precision of microseconds.
It shares the two processors with the contestants and the server.
At 0 ms there is no proxy.
With TLS, each contestant verifies the certificate of the server, and the connections use TCP.
Without TLS they use Unix sockets.
`--distances` selects other round trips, such as `--distances 2,20,2tls`.

The rates are 10 %, 50 % and 80 % of the rate at which `joined-100` saturates.
`joined-100` is `joined` with a hundred connections.
A contestant is saturated if it answers less than 98 % of the arriving requests in the measured time.
The last rate of each distance, 200 %, is measured for this crate only.
The plots omit saturated contestants.

If the latency is mostly the network round trip, this crate sends a lookup at once.
Up to four statements are then in flight on each connection.
If the latency is mostly the server, lookups share statements.
At most two statements are then in flight, or as many as the process has processors, up to the number
of connections for lookups.
`src/lookup/queue_simulation.rs` simulates this with 2, 4 and 16 processors: a server with 16
processors and a pool of 16 connections gets 8 statements at the same time.

";

const GROWTH: &str = "
The table shows the server's processor time for one lookup of this crate, for tables of several
sizes.
The index on the digests has one entry of 32 bytes plus overhead for each row, live or not.
If the index becomes larger than `shared_buffers`, and then larger than the machine's memory, give
the server more memory or delete expired sessions sooner.

![The server's processor time as the table grows](benches/comparison/plots/growth.svg)

";
