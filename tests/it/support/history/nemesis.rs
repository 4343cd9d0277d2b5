//! Temporary faults of the server, the connections and the tables.

use std::{
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use ephemeral_postgres::StopMode;
use tokio::time::{sleep, timeout};
use tower_user_session::tokio_postgres::NoTls;

use super::{
    dice::Dice,
    workload::{BOUND, DEADLINE, LEASE, connect},
    world::World,
};
use crate::support::{
    COMPATIBLE_CHANGES,
    proxy::{Line, Proxy},
};

/// Longer than a lookup's deadline.
const TOO_LONG: Duration = DEADLINE.saturating_add(Duration::from_millis(400));
/// Twice as long as a process without heartbeats may use its cache.
const LONGER_THAN_KEPT: Duration = BOUND.saturating_mul(2);
/// A feed with this delay stays connected, but only just.
const LATE: Duration = Duration::from_millis(300);
const _: () = assert!(LATE.as_millis() < LEASE.as_millis());
/// Notifications overtake results with this delay.
const SLOW: Duration = Duration::from_millis(80);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nemesis {
    /// All backends of the database are terminated, repeatedly.
    KilledBackends,
    /// All processes of the server are stopped and continued.
    StoppedServer,
    /// The server stops as in a crash, and starts again.
    Restart,
    /// The connections of the processes behind a proxy are cut, including new ones.
    CutConnections,
    /// These connections transmit nothing.
    BlackHole,
    /// Columns are added, changed and dropped.
    ChangedTables,
    /// Another transaction locks the users and the sessions.
    LockedTables,
    /// The database's default isolation level changes, and all connections are replaced.
    ChangedSettings,
    /// Other code leaves open transactions and temporary tables on the connections of the pools.
    UncleanPools,
    /// A transaction locks the rows of one user and of that user's sessions.
    LockedUser,
    /// The connections of the processes behind a proxy are slow.
    SlowAnswers,
    /// The feeds behind a proxy are cut, including new ones.
    CutFeeds,
    /// These feeds transmit nothing.
    SilentFeeds,
    /// These feeds are slow.
    LateFeeds,
    /// Each process replaces its feed, repeatedly.
    ReplacedFeeds,
}

/// For processes with a cache.
pub const ALL_WITH_CACHE: &[Nemesis] = &[
    Nemesis::SlowAnswers,
    Nemesis::CutFeeds,
    Nemesis::SilentFeeds,
    Nemesis::LateFeeds,
    Nemesis::ReplacedFeeds,
    Nemesis::KilledBackends,
    Nemesis::StoppedServer,
    Nemesis::Restart,
    Nemesis::CutConnections,
    Nemesis::BlackHole,
    Nemesis::ChangedTables,
    Nemesis::LockedTables,
    Nemesis::ChangedSettings,
    Nemesis::UncleanPools,
    Nemesis::LockedUser,
];

/// For processes without one: without the five faults that only affect a cache.
pub const ALL: &[Nemesis] = ALL_WITH_CACHE.split_at(5).1;

impl Nemesis {
    pub fn name(self) -> &'static str {
        match self {
            Self::KilledBackends => "killed backends",
            Self::StoppedServer => "stopped server",
            Self::Restart => "immediate restart",
            Self::CutConnections => "cut connections",
            Self::BlackHole => "black hole",
            Self::ChangedTables => "changed tables",
            Self::LockedTables => "locked tables",
            Self::ChangedSettings => "changed settings",
            Self::UncleanPools => "unclean pools",
            Self::LockedUser => "locked user",
            Self::SlowAnswers => "slow answers",
            Self::CutFeeds => "cut feeds",
            Self::SilentFeeds => "silent feeds",
            Self::LateFeeds => "late feeds",
            Self::ReplacedFeeds => "replaced feeds",
        }
    }

    pub fn strikes_tables(self) -> bool {
        matches!(self, Self::ChangedTables | Self::LockedTables)
    }

    /// Whether the fault delays no lookup.
    pub fn spares_lookups(self) -> bool {
        matches!(
            self,
            Self::ChangedTables
                | Self::UncleanPools
                | Self::LockedUser
                | Self::SlowAnswers
                | Self::CutFeeds
                | Self::SilentFeeds
                | Self::LateFeeds
                | Self::ReplacedFeeds
        )
    }

    /// Applies the fault and removes it again.
    pub async fn strike(self, world: &World) {
        let (connections, feeds) = (&world.proxy, &world.feeds);
        let shortly = Duration::from_millis(500);
        match self {
            Self::KilledBackends => world.kill_backends().await,
            Self::StoppedServer => world.stop_and_continue().await,
            Self::Restart => world.restart().await,
            Self::CutConnections => interfere(connections, Line::Cut, shortly).await,
            Self::BlackHole => interfere(connections, Line::Silent, TOO_LONG).await,
            Self::ChangedTables => world.change_tables().await,
            Self::LockedTables => world.lock_tables().await,
            Self::ChangedSettings => world.change_settings().await,
            Self::UncleanPools => world.leave_state_in_pools().await,
            Self::LockedUser => world.lock_a_user().await,
            Self::SlowAnswers => {
                interfere(connections, Line::Delayed(SLOW), LONGER_THAN_KEPT).await;
            }
            Self::CutFeeds => interfere(feeds, Line::Cut, shortly).await,
            Self::SilentFeeds => interfere(feeds, Line::Silent, LONGER_THAN_KEPT).await,
            Self::LateFeeds => interfere(feeds, Line::Delayed(LATE), LONGER_THAN_KEPT).await,
            Self::ReplacedFeeds => world.replace_feeds().await,
        }
    }
}

async fn interfere(proxy: &Proxy, line: Line, how_long: Duration) {
    proxy.set(line);
    sleep(how_long).await;
    proxy.set(Line::Open);
}

/// Applies several at once.
pub async fn strike_together(all: &[Nemesis], world: &World, dice: &mut Dice) -> Vec<&'static str> {
    let mut tasks = Vec::new();
    let mut names = Vec::new();
    for &nemesis in all {
        if dice.below(2) == 0 {
            let (world, wait) = (world.clone(), Duration::from_millis(dice.below(500)));
            names.push(nemesis.name());
            tasks.push(tokio::spawn(async move {
                sleep(wait).await;
                nemesis.strike(&world).await;
            }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    names
}

impl World {
    async fn kill_backends(&self) {
        // From another database, so that it does not affect itself.
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE datname LIKE 'test%'";
        for _ in 0..8 {
            let _ = timeout(DEADLINE, async {
                let client = connect(&self.server.config()).await?;
                client.execute(kill, &[]).await.ok()
            })
            .await;
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop_and_continue(&self) {
        let Some(postmaster) = self.server.pid() else {
            return;
        };
        // The postmaster first, so that it starts no other processes meanwhile.
        signal("STOP", &[postmaster]);
        let children = children_of(postmaster);
        signal("STOP", &children);
        sleep(TOO_LONG).await;
        signal("CONT", &children);
        signal("CONT", &[postmaster]);
    }

    async fn restart(&self) {
        let server = Arc::clone(&self.server);
        let restarting = tokio::task::spawn_blocking(move || {
            server.stop(StopMode::Immediate).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            server.restart().unwrap();
        });
        restarting.await.unwrap();
    }

    async fn change_tables(&self) {
        for change in COMPATIBLE_CHANGES {
            self.execute(change).await;
            sleep(Duration::from_millis(50)).await;
        }
        for table in [
            "users DROP COLUMN IF EXISTS nickname",
            "sessions DROP COLUMN IF EXISTS note",
        ] {
            self.execute(&format!("ALTER TABLE {table}")).await;
        }
    }

    async fn lock_tables(&self) {
        let _ = timeout(2 * TOO_LONG, async {
            let mut client = connect(&self.database.config()).await?;
            let transaction = client.transaction().await.ok()?;
            let lock = "LOCK TABLE users, sessions IN ACCESS EXCLUSIVE MODE";
            transaction.batch_execute(lock).await.ok()?;
            sleep(TOO_LONG).await;
            transaction.rollback().await.ok()
        })
        .await;
    }

    async fn change_settings(&self) {
        let database = format!("ALTER DATABASE \"{}\"", self.database.name());
        for level in ["serializable", "repeatable read"] {
            let set = format!("{database} SET default_transaction_isolation = '{level}'");
            self.execute(&set).await;
            self.kill_backends().await;
            sleep(Duration::from_millis(200)).await;
        }
        let reset = format!("{database} RESET default_transaction_isolation");
        self.execute(&reset).await;
    }

    async fn leave_state_in_pools(&self) {
        for _ in 0..10 {
            for pool in &self.pools {
                for state in [
                    "BEGIN; DELETE FROM sessions; UPDATE users SET disabled_at = now()",
                    "CREATE TEMPORARY TABLE IF NOT EXISTS sessions (LIKE public.sessions INCLUDING ALL)",
                    "SET search_path = nowhere",
                ] {
                    let left = timeout(DEADLINE, async {
                        let client = pool.get().await.ok()?;
                        client.batch_execute(state).await.ok()
                    });
                    let _ = left.await;
                }
                // The locks of an open transaction end with it.
                pool.retain(|_, _| false);
            }
            sleep(Duration::from_millis(30)).await;
        }
    }

    async fn lock_a_user(&self) {
        let _ = timeout(2 * TOO_LONG, async {
            let mut client = connect(&self.database.config()).await?;
            let transaction = client.transaction().await.ok()?;
            let lock = "SELECT FROM users WHERE id = 1 FOR UPDATE;
                SELECT FROM sessions WHERE user_id = 1 FOR UPDATE";
            transaction.batch_execute(lock).await.ok()?;
            sleep(TOO_LONG).await;
            transaction.rollback().await.ok()
        })
        .await;
    }

    async fn replace_feeds(&self) {
        for _ in 0..10 {
            for (sessions, feed) in &self.following {
                let feed = sessions.store().feed(feed.clone(), NoTls);
                // Another fault may be active.
                if sessions.replace_feed(feed).await.is_ok() {
                    self.replaced.fetch_add(1, Relaxed);
                }
            }
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// Best effort: another fault may be active.
    async fn execute(&self, statement: &str) {
        let _ = timeout(2 * TOO_LONG, async {
            let client = connect(&self.database.config()).await?;
            client.batch_execute(statement).await.ok()
        })
        .await;
    }
}

pub fn signal(name: &str, processes: &[u32]) {
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", "kill -s \"$@\"", "sh", name]);
    kill.args(processes.iter().map(u32::to_string));
    // One of them may have ended.
    let _ = kill.stderr(Stdio::null()).status();
}

/// The child processes of this process.
fn children_of(process: u32) -> Vec<u32> {
    let children = format!("/proc/{process}/task/{process}/children");
    let listed = std::fs::read_to_string(children).unwrap_or_else(|_| {
        let output = Command::new("pgrep")
            .args(["-P", &process.to_string()])
            .output();
        output.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    });
    let children: Vec<_> = listed
        .split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect();
    assert!(!children.is_empty(), "a server has children");
    children
}
