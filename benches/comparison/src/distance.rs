//! Latency at a distance from the server, by the rate of requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    BoxError,
    contestants::{Contestant, JOINED_100, ground::Ground, start::start},
    delaying_proxy::{DelayingProxy, Host},
    options::Options,
    results::{AtDistance, Results},
    run::skip,
    tls::Tls,
};

/// The contestants of this part, if they are not deselected.
pub(crate) const CONTESTANTS: [&str; 4] = ["ours", "joined", JOINED_100, "usual"];

/// The rates, in percent of the rate at which `joined-100` saturates.
const PERCENT: [u32; 3] = [10, 50, 80];
/// This rate shows how far this crate goes on.
const BEYOND: u32 = 200;

/// A contestant is saturated at a rate at which fewer of the arriving requests are answered.
pub(crate) const SATURATED: f64 = 0.98;

/// Measures one distance after another. With TLS, the server is at this address.
pub(crate) async fn run(
    options: &Options,
    ground: &Ground,
    address: &Host,
    results: &mut Results,
) -> Result<(), BoxError> {
    let directory = ground
        .server
        .directory()
        .ok_or("the server is not private")?;
    for &distance in &options.distances {
        if distance.tls && ground.server.is_bundled() {
            skip(results, "distance: the bundled PostgreSQL has no TLS");
            continue;
        }
        let server = if distance.tls {
            address.clone()
        } else {
            Host::Directory(directory.to_owned())
        };
        // Without a distance, nothing stands between the two.
        let proxy = (distance.micros > 0)
            .then(|| DelayingProxy::before(&server, distance.round_trip()))
            .transpose()?;
        let host = proxy.as_ref().map_or(&server, DelayingProxy::host);
        let tls = if distance.tls {
            Some(Tls::present(&ground.server, host).await?)
        } else {
            None
        };
        let ground = ground.through(host, tls.as_ref());
        let mut started = BTreeMap::new();
        for id in CONTESTANTS {
            if id == JOINED_100 || options.contestants.contains(&id) {
                let contestant = start(id, &ground).await?;
                results.wrong += contestant.exactly(128, 2_000).await;
                started.insert(id, contestant);
            }
        }
        let saturation = match options.saturation {
            Some(rate) => rate,
            None => saturation(&*started[JOINED_100], options).await,
        };
        eprintln!("{distance}: {JOINED_100} saturates at {saturation} requests a second");
        for round in 0..options.rounds {
            let mut saturated = BTreeSet::new();
            for percent in PERCENT.into_iter().chain([BEYOND]) {
                let rate = (saturation * percent / 100).max(1);
                for n in 0..started.len() {
                    // Each round begins with a different contestant.
                    let n = (n + round as usize) % started.len();
                    let Some((&id, contestant)) = started.iter().nth(n) else {
                        continue;
                    };
                    // A saturated contestant would only answer later and later.
                    if saturated.contains(id) || percent == BEYOND && id != "ours" {
                        continue;
                    }
                    let time = time(options, rate);
                    let sample = contestant.open(rate, time, ground.server_of(id)).await;
                    if sample.achieved < SATURATED {
                        saturated.insert(id);
                    }
                    results.wrong += sample.wrong;
                    let mut measured = sample.round;
                    measured.round = round;
                    eprintln!(
                        "{distance}, {rate}/s, {id}: p50 {:.0} µs, p99 {:.0} µs, client {:.1} µs, server {:.1} µs, answered {:.3}",
                        measured.p50_us.unwrap_or(f64::NAN),
                        measured.p99_us.unwrap_or(f64::NAN),
                        measured.client_us.unwrap_or(f64::NAN),
                        measured.server_us.unwrap_or(f64::NAN),
                        sample.achieved
                    );
                    results.distances.push(AtDistance {
                        distance,
                        contestant: id.to_owned(),
                        percent,
                        rate,
                        achieved: sample.achieved,
                        samples: (f64::from(rate) * time.as_secs_f64()) as u64,
                        round: measured,
                    });
                }
            }
        }
    }
    Ok(())
}

/// Enough arrivals for a meaningful median.
fn time(options: &Options, rate: u32) -> Duration {
    Duration::from_secs_f64(options.seconds.max(500.0 / f64::from(rate)))
}

/// The first rate at which this contestant is saturated, in steps of a fifth.
async fn saturation(contestant: &dyn Contestant, options: &Options) -> u32 {
    let mut rate = 2_000;
    while rate < 100_000 {
        let mut achieved = Vec::new();
        // One pause of the machine is no saturation.
        for _ in 0..3 {
            let sample = contestant.open(rate, time(options, rate), None).await;
            achieved.push(sample.achieved);
            if sample.achieved >= SATURATED {
                break;
            }
        }
        if achieved.iter().all(|achieved| *achieved < SATURATED) {
            break;
        }
        rate += rate / 5;
    }
    rate
}
