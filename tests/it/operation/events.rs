//! The events of the log: their documentation and their limits.

use std::collections::{BTreeMap, BTreeSet};

use axum::response::IntoResponse as _;
use tower_user_session::{Error, ErrorKind};

use crate::support::{Logs, fault::rows, sources};

/// An event as the source emits it or as the documentation lists it.
#[derive(Debug, PartialEq, Eq)]
struct Event {
    level: String,
    message: String,
    fields: BTreeSet<String>,
}

/// Q02: each event has the crate's target and a name of its own. `SECURITY.md` lists it with its
/// level, message and fields, and lists no other event.
#[test]
fn each_event_is_documented() {
    let mut emitted = BTreeMap::new();
    for (path, source) in sources() {
        if path.ends_with("src/outage.rs") {
            continue;
        }
        let logged = calls(&source)
            .into_iter()
            .map(|(level, call)| parse(level, &call).unwrap_or_else(|| panic!("{path}: {call}")));
        for (name, event) in logged.chain(recoveries(&source)) {
            assert!(
                emitted.insert(name.clone(), event).is_none(),
                "{path}: two events are called {name}"
            );
        }
    }
    let text = include_str!("../../../SECURITY.md");
    let documented: BTreeMap<_, _> = text.lines().filter_map(row).collect();
    for (name, event) in &emitted {
        assert_eq!(documented.get(name), Some(event), "SECURITY.md: {name}");
    }
    assert!(documented.len() > 30);
    assert_eq!(emitted.len(), documented.len(), "{documented:#?}");
}

/// Q02: an event about a failure has a remedy, and one about an outage has a recovery.
#[test]
fn each_failure_has_a_recovery_or_says_why_not() {
    /// Failures that are no state: the next operation can succeed, or nothing recovers.
    const SINGLE: [&str; 4] = [
        "request_failed", // a handler's own operation; `lookup_recovered` reports the database
        "tokens_collided",
        "close_timed_out",
        "cookie_not_written",
    ];
    let text = include_str!("../../../SECURITY.md");
    let documented: BTreeMap<_, _> = text.lines().filter_map(row).collect();
    for name in documented.keys() {
        let Some(subject) = name
            .strip_suffix("_failed")
            .or(name.strip_suffix("_disconnected"))
        else {
            continue;
        };
        let recovered = documented.contains_key(&format!("{subject}_recovered"));
        assert!(recovered || SINGLE.contains(&&**name), "{name}");
    }
}

/// Q03: each row about a fault says that nothing shows it, or one of its tests observes its events
/// and metrics.
#[test]
fn each_fault_is_visible_in_its_own_test_or_said_not_to_be() {
    /// The starts of cells without an event or a metric.
    const NOTHING: [&str; 4] = [
        "not visible",
        "no effect to see",
        "as in the previous row",
        "as for synchronous replication",
    ];
    let rows = rows();
    assert!(rows.len() > 30);
    for row in rows {
        if row.signs().is_empty() {
            let said = NOTHING
                .iter()
                .any(|start| row.visible_as.starts_with(start));
            assert!(said, "{}: {}", row.fault, row.visible_as);
            continue;
        }
        let literal = format!("\"{}\"", row.fault);
        let tests = row.shown_by.split('`').skip(1).step_by(2);
        let mut sources = tests.filter_map(|test| {
            let module = test.rsplit_once("::")?.0.replace("::", "/");
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
            std::fs::read_to_string(format!("{folder}/{module}.rs")).ok()
        });
        let observed = sources.any(|source| source.contains(&literal));
        assert!(observed, "no test of {} observes it", row.fault);
    }
}

/// Q02, I12: a client that makes a handler fail writes one event in ten seconds, with a count.
#[test]
fn failed_requests_log_one_event() {
    let logs = Logs::capture();
    for _ in 0..500 {
        let failed = Error::new(ErrorKind::Connection, "made up");
        assert_eq!(failed.into_response().status(), 503);
    }
    let of_handlers = |line: &&String| line.contains("event=\"request_failed\"");
    let events: Vec<_> = logs.events();
    let events: Vec<_> = events.iter().filter(of_handlers).collect();
    // Another test may have used the limit of the process.
    assert!(events.len() <= 1, "{events:?}");
}

/// Returns each call of a macro that emits an event, with its level. Comments do not count.
fn calls(source: &str) -> Vec<(&'static str, String)> {
    // The examples of the documentation are applications.
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let source = code.collect::<Vec<_>>().join("\n");
    let mut all = Vec::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        for (start, _) in source.match_indices(&format!("tracing::{level}!(")) {
            let mut depth = 0;
            let call: String = source[start..]
                .chars()
                .take_while(|character| {
                    depth += i32::from(*character == '(') - i32::from(*character == ')');
                    *character != ')' || depth > 0
                })
                .collect();
            all.push((level, call));
        }
    }
    all
}

/// Returns the events that report the end of an outage. `src/outage.rs` logs them.
fn recoveries(source: &str) -> Vec<(String, Event)> {
    let outages = source.split("Outage::new(").skip(1);
    outages
        .map(|arguments| {
            let literals: Vec<_> = arguments.split('"').collect();
            let event = Event {
                level: "info".to_owned(),
                message: literals[3].to_owned(),
                fields: ["after", "failures"].map(str::to_owned).into(),
            };
            (literals[1].to_owned(), event)
        })
        .collect()
}

fn parse(level: &str, call: &str) -> Option<(String, Event)> {
    let arguments = call.split_once("!(")?.1.trim();
    let rest = arguments.strip_prefix("target: \"tower_user_session\",")?;
    let rest = rest.trim_start().strip_prefix("event = \"")?;
    let (name, rest) = rest.split_once('"')?;
    let message = rest.rfind('"').and_then(|end| {
        let start = rest[..end].rfind('"')?;
        Some((start, &rest[start + 1..end]))
    });
    let (start, message) = message?;
    let mut joined = String::new();
    for line in message.split("\\\n") {
        joined.push_str(if joined.is_empty() {
            line
        } else {
            line.trim_start()
        });
    }
    let fields = rest[..start]
        .lines()
        .flat_map(|line| line.split(", "))
        .map(|field| field.split('=').next().unwrap_or(field))
        .map(|field| field.trim_matches(|c: char| !c.is_alphanumeric() && c != '_'))
        .filter(|field| !field.is_empty())
        .map(str::to_owned)
        .collect();
    let event = Event {
        level: level.to_owned(),
        message: joined,
        fields,
    };
    Some((name.to_owned(), event))
}

/// Parses a row of the table in `SECURITY.md`.
fn row(line: &str) -> Option<(String, Event)> {
    let cells: Vec<_> = line.split(" | ").collect();
    let [level, name, message, fields, _, remedy] = &cells[..] else {
        return None;
    };
    let level = level.strip_prefix("| ")?;
    ["error", "warn", "info", "debug"]
        .contains(&level)
        .then_some(())?;
    assert!(remedy.len() > 5, "{line}");
    let code = |cell: &str| cell.trim_matches('`').to_owned();
    let fields = fields.split(';').next().unwrap_or_default();
    let event = Event {
        level: level.to_owned(),
        message: code(message),
        fields: fields
            .split(", ")
            .map(code)
            .filter(|field| !field.is_empty())
            .collect(),
    };
    Some((code(name), event))
}
