//! Lookups in tables of several sizes, each in a separate database on the same server.

use std::time::Duration;

use crate::{
    BoxError,
    contestants::{ground::Ground, start},
    data::{self, Numbers, Tables},
    load::Load,
    results::Growth,
};

const TASKS: [u32; 2] = [1, 64];
const TIME: Duration = Duration::from_secs(3);

pub(crate) async fn run(
    sizes: &[u32],
    users: u32,
    ground: &Ground,
) -> Result<Vec<Growth>, BoxError> {
    let admin = data::connect(&ground.config).await?;
    let mut growth = Vec::new();
    for &sessions in sizes {
        let name = format!("growth_{sessions}");
        admin
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
        let mut config = ground.config.clone();
        config.dbname(&name);
        let users = users.min(sessions);
        let numbers = Numbers { sessions, users };
        eprintln!("growth: filling {sessions} sessions");
        data::fill(&config, numbers, Tables::default()).await?;
        let client = data::connect(&config).await?;
        let size = async |relation: &str| -> Result<f64, BoxError> {
            let bytes: i64 = client
                .query_one("SELECT pg_relation_size($1::text::regclass)", &[&relation])
                .await?
                .get(0);
            Ok(bytes as f64 / f64::from(1 << 20))
        };
        let (table_mib, index_mib) = (
            size("sessions").await?,
            size("sessions_token_digest_key").await?,
        );
        let contestant = start::ours_over(config, numbers)?;
        // Until the caches are full.
        contestant.closed(Load::of(64), TIME, None).await;
        for tasks in TASKS {
            let sample = contestant
                .closed(Load::of(tasks), TIME, ground.server_of("ours"))
                .await;
            growth.push(Growth {
                sessions,
                tasks,
                server_us: sample.round.server_us.unwrap_or(f64::NAN),
                rate: sample.round.rate,
                table_mib,
                index_mib,
            });
        }
    }
    Ok(growth)
}
