//! Part d: the triggers' cost for the server at a sign-out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ephemeral_postgres::TestDatabase;
use tokio::task::JoinSet;
use tower_user_session::{
    BoxError, Error,
    tokio_postgres::{Client, NoTls},
};

use crate::{
    clock,
    ending::four,
    figures::Report,
    ground::{Ground, Sessions, headers, sessions},
};

const BATCH: u64 = 500;
/// How many sign-outs run concurrently.
const AT_ONCE: [u64; 3] = [1, 2, 8];
/// The application name of the connections that sign out.
const SIGNING_OUT: &str = "signing out";

/// One way to sign out.
struct Arm {
    name: &'static str,
    sessions: Sessions,
    client: Client,
    /// The first session that is not signed out yet.
    next: u64,
    /// How many are signed out concurrently.
    spent: [Spent; AT_ONCE.len()],
}

#[derive(Clone, Copy, Default)]
struct Spent {
    sign_outs: u64,
    time: Duration,
    /// Seconds of all the database's backends, including those of the listeners.
    processor: f64,
    /// Of these, the seconds of the backends that sign out.
    signing_out: f64,
}

pub(crate) async fn run(ground: &Ground, report: &mut Report) -> Result<(), BoxError> {
    let each = ground.scaled(20_000, 2_000);
    let quiet = ground.quiet_database(each).await?;
    // PostgreSQL wakes the listeners of the same database.
    let without_listeners = ground.database(each).await?;
    // Half of them for a service that follows the feed itself.
    let with_listeners = ground.database(2 * each).await?;
    let _listening = four(&with_listeners).await?;
    let mut arms = [
        Arm::new("without triggers", &quiet, 0).await?,
        Arm::new("with triggers", &without_listeners, 0).await?,
        Arm::new("with triggers and four listeners", &with_listeners, 0).await?,
        Arm::new("the same, following itself", &with_listeners, each).await?,
    ];
    let idle = idle(&arms[2]).await?;
    let following = &arms[3].sessions;
    let feed = following.store().feed(with_listeners.config(), NoTls);
    following.subscribe(feed).await?;

    for batch in 0..each / BATCH {
        for turn in 0..arms.len() {
            let arm = &mut arms[(turn + batch as usize) % 4];
            arm.batch(batch as usize % AT_ONCE.len()).await?;
        }
    }
    tell(&arms, idle, report);
    Ok(())
}

/// Processor seconds per second of a database with listeners while no one signs out.
async fn idle(arm: &Arm) -> Result<f64, BoxError> {
    let before = arm.processor().await?;
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let spent = arm.processor().await?.since(&before, |_| true);
    Ok(spent / start.elapsed().as_secs_f64())
}

fn tell(arms: &[Arm; 4], idle: f64, report: &mut Report) {
    println!("\nd. Sign-outs, on a server that keeps what was committed");
    println!(
        "{:<34}{:>8}{:>12}{:>16}{:>14}{:>20}",
        "", "at once", "sign-outs/s", "server us each", "to sign out", "without heartbeats"
    );
    for (place, at_once) in AT_ONCE.into_iter().enumerate() {
        for (number, arm) in arms.iter().enumerate() {
            let listening = if number < 2 { 0.0 } else { idle };
            let Spent {
                sign_outs,
                time,
                processor,
                signing_out,
            } = arm.spent[place];
            let net = processor - listening * time.as_secs_f64();
            println!(
                "{:<34}{at_once:>8}{:>12.0}{:>16.1}{:>14.1}{:>20.1}",
                arm.name,
                sign_outs as f64 / time.as_secs_f64(),
                processor * 1e6 / sign_outs as f64,
                signing_out * 1e6 / sign_outs as f64,
                net * 1e6 / sign_outs as f64
            );
            let name = ["without", "with", "heard", "following"][number];
            report.add(
                &format!("sign_outs_{name}_at_{at_once}"),
                sign_outs as f64 / time.as_secs_f64(),
                "1/s",
                "-",
            );
        }
    }
    println!(
        "four listeners alone take {:.2} ms of processor time a second",
        idle * 1e3
    );
    let total = |arm: &Arm, listening: f64| {
        let spent = arm.spent.iter();
        spent
            .map(|spent| spent.processor - listening * spent.time.as_secs_f64())
            .sum::<f64>()
    };
    for (place, at_once) in AT_ONCE.into_iter().enumerate() {
        let each = |arm: &Arm| arm.spent[place].processor / arm.spent[place].sign_outs as f64;
        report.add(
            &format!("triggers_processor_time_at_{at_once}"),
            each(&arms[1]) / each(&arms[0]),
            "ratio",
            "<= 1.5",
        );
    }
    let without = total(&arms[0], 0.0);
    let sign_outs: u64 = arms[2].spent.iter().map(|spent| spent.sign_outs).sum();
    let listening = total(&arms[2], idle) - total(&arms[1], 0.0);
    report.add(
        "a_sign_out_for_each_listener",
        listening * 1e6 / (4 * sign_outs) as f64,
        "us",
        "-",
    );
    for (name, arm, idle) in [
        ("triggers_processor_time_four_listeners", &arms[2], 0.0),
        ("triggers_processor_time_no_heartbeats", &arms[2], idle),
        ("following_processor_time", &arms[3], 0.0),
    ] {
        report.add(name, total(arm, idle) / without, "ratio", "-");
    }
    let signing_out = |arm: &Arm| arm.spent.iter().map(|spent| spent.signing_out).sum::<f64>();
    report.add(
        "triggers_processor_time_of_who_signs_out",
        signing_out(&arms[2]) / signing_out(&arms[0]),
        "ratio",
        "-",
    );
    report.add("four_listeners", idle * 1e3, "ms/s", "-");
}

/// The processor time of a database's backends at a moment, and which of them sign out.
struct Processor(HashMap<i32, (f64, bool)>);

impl Processor {
    fn since(&self, before: &Self, which: impl Fn(bool) -> bool) -> f64 {
        let backends = self.0.iter().filter(|(_, (_, kind))| which(*kind));
        backends
            .map(|(pid, (time, _))| time - before.0.get(pid).map_or(0.0, |(time, _)| *time))
            .sum()
    }
}

impl Arm {
    async fn new(
        name: &'static str,
        database: &TestDatabase,
        first: u64,
    ) -> Result<Self, BoxError> {
        Ok(Self {
            name,
            sessions: sessions(database.config().application_name(SIGNING_OUT), 8)?,
            client: database.client().await,
            next: first,
            spent: [Spent::default(); AT_ONCE.len()],
        })
    }

    async fn batch(&mut self, place: usize) -> Result<(), BoxError> {
        let (first, at_once) = (self.next, AT_ONCE[place]);
        self.next += BATCH;
        let before = self.processor().await?;
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        for task in 0..at_once {
            let sessions = self.sessions.clone();
            tasks.spawn(async move {
                let mut signed_out = 0;
                for session in (first + task..first + BATCH).step_by(at_once as usize) {
                    let ended = sessions.sign_out(&headers(session)?).await;
                    signed_out += u64::from(ended.ended().map_err(Error::clone)?);
                }
                Ok::<_, BoxError>(signed_out)
            });
        }
        let mut signed_out = 0;
        while let Some(task) = tasks.join_next().await {
            signed_out += task??;
        }
        let time = start.elapsed();
        if signed_out != BATCH {
            return Err("a session was over already".into());
        }
        let spent = &mut self.spent[place];
        spent.sign_outs += signed_out;
        spent.time += time;
        let after = self.processor().await?;
        self.spent[place].processor += after.since(&before, |_| true);
        self.spent[place].signing_out += after.since(&before, |signing_out| signing_out);
        Ok(())
    }

    async fn processor(&self) -> Result<Processor, BoxError> {
        let backends = "SELECT pid, application_name = $1 FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let rows = self.client.query(backends, &[&SIGNING_OUT]).await?;
        let mut used = HashMap::new();
        for row in rows {
            let pid: i32 = row.get(0);
            used.insert(pid, (clock::on_cpu(pid)?, row.get(1)));
        }
        Ok(Processor(used))
    }
}
