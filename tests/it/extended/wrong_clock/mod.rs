//! An application whose clock is a day ahead, a day behind, or jumps: the database's clock decides.
//!
//! The application is a process of its own, this test binary again, under `libfaketime`. Its monotonic
//! clock is left alone, as on a machine whose time is set.

mod other_process;

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use ephemeral_postgres::TestDatabase;

use self::other_process::{OtherProcess, libfaketime};
use crate::support::{caching::announced_database, number, sql};

const DAY: i64 = 24 * 60 * 60;

/// What the child process does with a token.
const PLAIN: &str = "user";
const CACHED: &str = "cached";

async fn set(database: &TestDatabase, id: &str, change: &str) {
    let update = format!("UPDATE sessions SET {change} WHERE id = '{id}'");
    assert_eq!(sql(database, &update).await, 1);
}

/// The seconds by which this column of the only session is after the database's current time;
/// negative if before.
async fn ahead(database: &TestDatabase, id: &str, column: &str) -> i64 {
    let query = format!(
        "SELECT extract(epoch FROM {column} - now())::bigint FROM sessions WHERE id = '{id}'"
    );
    number(database, &query).await
}

/// Queries until a condition on the database holds.
async fn until(database: &TestDatabase, condition: &str) {
    for _ in 0..400 {
        if number(database, &format!("SELECT ({condition})::int::bigint")).await == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the condition did not hold in time: {condition}");
}

/// Both limits, the authentication time, the last-seen time and the cookie, in a process whose
/// clock is wrong.
async fn nothing_changes(database: &TestDatabase, application: &OtherProcess, offset: i64) {
    let signed_in = application.ask("sign_in");
    let [token, id, max_age] = signed_in.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{signed_in}");
    };
    // The whole lifetime by the database's clock, and no date, which would use the application's
    // clock.
    assert_eq!(max_age, "36000", "{offset}");
    let rest = ahead(database, id, "expires_at").await;
    assert!((35_900..=36_000).contains(&rest), "{offset}: {rest}");
    for column in ["created_at", "last_seen_at", "authenticated_at"] {
        let since = ahead(database, id, column).await;
        assert!((-60..=0).contains(&since), "{offset}: {column} {since}");
    }

    for (change, live) in [
        ("expires_at = now() + interval '1 hour'", true),
        ("expires_at = now() + interval '20 seconds'", true),
        ("expires_at = now()", false),
        ("expires_at = now() - interval '1 hour'", false),
        (
            "expires_at = now() + interval '1 hour', last_seen_at = now() - interval '59 minutes'",
            true,
        ),
        ("last_seen_at = now() - interval '60 minutes'", false),
        ("last_seen_at = now()", true),
    ] {
        set(database, id, change).await;
        let answer = if live { "found" } else { "absent" };
        for how in [PLAIN, CACHED] {
            // From the cache, until the notification of the change arrives.
            let mut said = application.ask(&format!("{how} {token}"));
            for _ in 0..400 {
                if how == PLAIN || said == answer {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
                said = application.ask(&format!("{how} {token}"));
            }
            assert_eq!(said, answer, "{offset}: {how}, {change}");
        }
    }

    for (minutes, passes) in [(4, true), (6, false)] {
        let proof = format!("authenticated_at = now() - interval '{minutes} minutes'");
        set(database, id, &proof).await;
        let said = application.ask(&format!("proof {token}"));
        assert_eq!(said == "200", passes, "{offset}: {proof}: {said}");
    }

    set(database, id, "last_seen_at = now() - interval '30 minutes'").await;
    assert_eq!(application.ask(&format!("{PLAIN} {token}")), "found");
    until(
        database,
        &format!(
            "SELECT last_seen_at > now() - interval '1 minute' FROM sessions WHERE id = '{id}'"
        ),
    )
    .await;
    assert!(ahead(database, id, "last_seen_at").await <= 0, "{offset}");
    // Clean-up deletes expired sessions only.
    assert_eq!(application.ask("clean_up"), "0", "{offset}");
    set(database, id, "expires_at = now()").await;
    assert_eq!(application.ask("clean_up"), "1", "{offset}");
}

/// A cached result outlives no limit and is not evicted early, and the feed stays connected, while
/// the clock jumps a day in either direction.
async fn the_cache_does_not_notice(database: &TestDatabase, application: &OtherProcess) {
    let signed_in = application.ask("sign_in");
    let [token, id, _] = signed_in.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{signed_in}");
    };
    let old_enough = "created_at = created_at - interval '1 hour'";
    set(database, id, old_enough).await;
    let mut before = 0;
    for offset in [0, DAY, -DAY, 0, -DAY, DAY] {
        let mut attempts = (0..3).map(|_| {
            // Cached under one clock …
            application.turn(before);
            assert_eq!(application.ask(&format!("kept {token}")), "kept");
            // … and returned from the cache under another.
            application.turn(offset);
            application.ask(&format!("from_memory {token}"))
        });
        // If the machine is busy for a whole lease, the cache is bypassed.
        assert!(attempts.any(|said| said == "100 0"), "{offset}");
        before = offset;
    }
    for offset in [-DAY, DAY] {
        application.turn(0);
        set(database, id, "expires_at = now() + interval '2 seconds'").await;
        assert_eq!(application.ask(&format!("kept {token}")), "kept");
        application.turn(offset);
        application.ask(&format!("until_over {token}"));
        let late = ahead(database, id, "expires_at").await;
        assert!((-2..=0).contains(&late), "{offset}: {late}");
    }
    assert_eq!(application.ask("clean_up"), "1");
}

/// C07: an application whose clock is wrong by a day in either direction, or jumps while it works,
/// changes no session's validity, with and without the cache. Only `Max-Age` is sent to clients,
/// and it is the remaining time by the database's clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_application_clock_changes_nothing() {
    let Some(library) = libfaketime() else {
        return ephemeral_postgres::skip(
            "extended::wrong_clock::a_wrong_application_clock_changes_nothing",
            "libfaketime is not installed (Debian: faketime)",
        );
    };
    let database = announced_database().await;
    let application = OtherProcess::start(&library, &database);
    for offset in [0, DAY, -DAY] {
        application.turn(offset);
        nothing_changes(&database, &application, offset).await;
    }
    the_cache_does_not_notice(&database, &application).await;
    // While the clock jumps back and forth.
    let stop = AtomicBool::new(false);
    let jumping = || {
        while !stop.load(Relaxed) {
            for offset in [DAY, -DAY, 0] {
                application.turn_quietly(offset);
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    };
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let _jumping = scope.spawn(jumping);
            // Also if a test panics.
            let _stop = Stop(&stop);
            runtime.block_on(nothing_changes(&database, &application, 0));
        });
    });
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The application process. Does nothing unless another test started it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "another test starts it in a process of its own"]
async fn the_application() {
    other_process::live().await;
}
