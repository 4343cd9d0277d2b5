//! Part f: the server's cost of the heartbeats of many feeds.

use std::time::{Duration, Instant};

use ephemeral_postgres::TestDatabase;
use tower_user_session::{BoxError, tokio_postgres::NoTls};

use crate::{
    clock::on_cpu,
    figures::Report,
    ground::{Ground, Sessions, sessions},
};

const FEEDS: [usize; 3] = [10, 50, 200];

pub(crate) async fn run(ground: &Ground, report: &mut Report) -> Result<(), BoxError> {
    let time = Duration::from_secs(ground.scaled(20, 3));
    println!(
        "\nf. Heartbeats of feeds without other notifications, four in a second for each feed"
    );
    println!(
        "{:>8}{:>24}{:>20}",
        "feeds", "server ms a second", "us a heartbeat"
    );
    for feeds in FEEDS {
        let database = ground.database(1).await?;
        let mut following: Vec<Sessions> = Vec::new();
        for _ in 0..feeds {
            let sessions = sessions(&database.config(), 1)?;
            let feed = sessions.store().feed(database.config(), NoTls);
            sessions.subscribe(feed).await?;
            following.push(sessions);
        }
        let start = Instant::now();
        let before = processor(&database).await?;
        tokio::time::sleep(time).await;
        let spent = processor(&database).await? - before;
        let a_second = spent / start.elapsed().as_secs_f64();
        let each = a_second * 1e6 / (4.0 * feeds as f64);
        println!("{feeds:>8}{:>24.2}{each:>20.1}", a_second * 1e3);
        if feeds == 200 {
            report.add("heartbeats_of_200_feeds", a_second * 1e3, "ms/s", "linear");
        }
        for sessions in following {
            sessions.close().await;
        }
    }
    Ok(())
}

/// Processor seconds of the database's backends.
async fn processor(database: &TestDatabase) -> Result<f64, BoxError> {
    let pids = "SELECT pid FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let rows = database.client().await.query(pids, &[]).await?;
    let all: Result<Vec<f64>, BoxError> = rows.iter().map(|row| on_cpu(row.get(0))).collect();
    Ok(all?.iter().sum())
}
