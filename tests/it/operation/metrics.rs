//! The metrics count each outcome once, and gauges show the present.

use std::{future::Future, pin::Pin, time::Duration};

use http::HeaderMap;
use tower::{ServiceBuilder, ServiceExt as _};
use tower_user_session::{
    LoadUserLayer, PgSessionStore, SessionService, SignedIn,
    metrics::{SampleValue, SessionMetrics, StoreMetrics},
    session::{SessionLimit, SessionToken},
};

use crate::support::{
    Logs, MemorySessions, PgSessions,
    caching::{announced_database, caching, until_cached},
    cookie, current, database, kill_lookups,
    manual_feed::ManualFeed,
    memory, pool, request, sql, until, watched, who,
};

type Step<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Returns the counters and histograms that differ, as `name{label="value"} difference`.
fn changes(before: &SessionMetrics, after: &SessionMetrics) -> Vec<String> {
    let total = |value: SampleValue| match value {
        SampleValue::Counter(total) => total,
        SampleValue::Histogram(latencies) => latencies.count(),
        _ => 0,
    };
    let samples = before.samples().into_iter().zip(after.samples());
    samples
        .filter_map(|(before, after)| {
            assert_eq!((before.name, before.labels), (after.name, after.labels));
            let difference = total(after.value) - total(before.value);
            let name = after.name.strip_prefix("tower_user_session_")?;
            let labels: Vec<_> = after.labels.iter().map(|(_, value)| *value).collect();
            (difference > 0).then(|| format!("{name} {} {difference}", labels.join(" ")))
        })
        .map(|change| change.replace("  ", " "))
        .collect()
}

struct Action {
    name: &'static str,
    run: fn(&MemorySessions, &SignedIn) -> Step<'static>,
    counts: &'static [&'static str],
}

/// The counts of one lookup of the store.
const QUERY: [&str; 3] = [
    "statements_total succeeded 1",
    "query_seconds 1",
    "queue_seconds 1",
];

fn get(sessions: &MemorySessions, headers: HeaderMap) -> Step<'static> {
    let app = ServiceBuilder::new()
        .layer(LoadUserLayer::new(sessions.clone()))
        .service_fn(who::<String>);
    let mut request = http::Request::new(String::new());
    *request.headers_mut() = headers;
    Box::pin(async { drop(app.oneshot(request).await) })
}

const ACTIONS: [Action; 14] = [
    Action {
        name: "a request without a cookie",
        run: |sessions, _| get(sessions, HeaderMap::new()),
        counts: &["requests_total anonymous 1"],
    },
    Action {
        name: "a request with a malformed token",
        run: |sessions, _| get(sessions, request("__Host-session=x").headers().clone()),
        counts: &["requests_total malformed 1"],
    },
    Action {
        name: "a request with two tokens",
        run: |sessions, ada| {
            let mut headers = cookie(sessions, ada.token());
            let other = cookie(sessions, &SessionToken::generate().unwrap());
            headers.append("cookie", other["cookie"].clone());
            get(sessions, headers)
        },
        counts: &["requests_total ambiguous 1"],
    },
    Action {
        name: "a request with an unknown token",
        run: |sessions, _| {
            get(
                sessions,
                cookie(sessions, &SessionToken::generate().unwrap()),
            )
        },
        counts: &["requests_total not_live 1", "lookups_total store absent 1"],
    },
    Action {
        name: "a request with a live session",
        run: |sessions, ada| get(sessions, cookie(sessions, ada.token())),
        counts: &[
            "requests_total authenticated 1",
            "lookups_total store live 1",
        ],
    },
    Action {
        name: "a request while the store fails",
        run: |sessions, ada| {
            let (sessions, request) = (
                sessions.clone(),
                get(sessions, cookie(sessions, ada.token())),
            );
            Box::pin(async move {
                sessions.store().set_failing(true);
                request.await;
                sessions.store().set_failing(false);
            })
        },
        counts: &[
            "requests_total unavailable 1",
            "lookups_total store failed 1",
            "statements_total failed 1",
        ],
    },
    Action {
        name: "a sign-in",
        run: |sessions, _| {
            let sessions = sessions.clone();
            Box::pin(async move { drop(sessions.sign_in_without_request(1).await) })
        },
        counts: &["sign_ins_total succeeded 1", "sign_in_seconds 1"],
    },
    Action {
        name: "a sign-in of an unknown user",
        run: |sessions, _| {
            let sessions = sessions.clone();
            Box::pin(async move { drop(sessions.sign_in_without_request(99).await) })
        },
        counts: &["sign_ins_total not_allowed 1", "sign_in_seconds 1"],
    },
    Action {
        name: "a re-authentication",
        run: |sessions, _| {
            let sessions = sessions.clone();
            Box::pin(async move {
                let other = sessions.sign_in_without_request(2).await.unwrap();
                let headers = cookie(&sessions, other.token());
                drop(sessions.reauthenticate(2, &headers).await);
            })
        },
        counts: &[
            "sign_ins_total succeeded 1",
            "reauthentications_total succeeded 1",
            "sign_in_seconds 1",
        ],
    },
    Action {
        name: "a re-authentication without a session",
        run: |sessions, _| {
            let sessions = sessions.clone();
            Box::pin(async move { drop(sessions.reauthenticate(2, &HeaderMap::new()).await) })
        },
        counts: &["reauthentications_total not_found 1"],
    },
    Action {
        name: "a sign-out without a session",
        run: |sessions, _| {
            let sessions = sessions.clone();
            Box::pin(async move { drop(sessions.sign_out(&HeaderMap::new()).await) })
        },
        counts: &["sign_outs_total not_found 1"],
    },
    Action {
        name: "a sign-out while the store fails",
        run: |sessions, ada| {
            let (sessions, headers) = (sessions.clone(), cookie(sessions, ada.token()));
            Box::pin(async move {
                sessions.store().set_failing(true);
                drop(sessions.sign_out(&headers).await);
                sessions.store().set_failing(false);
            })
        },
        counts: &["sign_outs_total failed 1"],
    },
    Action {
        name: "a sign-out",
        run: |sessions, ada| {
            let (sessions, headers) = (sessions.clone(), cookie(sessions, ada.token()));
            Box::pin(async move { drop(sessions.sign_out(&headers).await) })
        },
        counts: &["sign_outs_total succeeded 1"],
    },
    Action {
        name: "a revocation",
        run: |sessions, _| {
            let sessions = sessions.clone();
            Box::pin(async move { drop(sessions.revoke_all(&2).await) })
        },
        counts: &["revocations_total succeeded 1", "revoked_sessions_total 2"],
    },
];

/// Q01: each outcome is counted once, under its name, and nothing else is.
#[tokio::test]
async fn each_outcome_is_counted_once() {
    let sessions = memory();
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    let eve = sessions.sign_in_without_request(2).await.unwrap();
    drop(eve);
    for Action { name, run, counts } in ACTIONS {
        let before = sessions.metrics();
        run(&sessions, &ada).await;
        let mut expected: Vec<_> = counts.iter().map(ToString::to_string).collect();
        if counts
            .iter()
            .any(|count| count.starts_with("lookups_total"))
        {
            let of_query = QUERY.iter().filter(|count| {
                !(count.starts_with("statements") && counts.contains(&"statements_total failed 1"))
            });
            expected.extend(of_query.map(ToString::to_string));
        }
        expected.sort();
        let mut counted = changes(&before, &sessions.metrics());
        counted.sort();
        assert_eq!(counted, expected, "{name}");
    }
}

/// Q01: the store counts sign-ins beyond the limit, uses, deletions, retries and connections.
#[tokio::test]
async fn the_store_counts_writes_retries_and_connections() {
    let database = database().await;
    let store = PgSessionStore::new(pool(&database, 4))
        .with_session_limit(SessionLimit::refuse_new(1).unwrap());
    let sessions: PgSessions = SessionService::new(store);
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    assert!(sessions.sign_in_without_request(1).await.is_err());
    let metrics = sessions.metrics();
    assert_eq!((metrics.sign_ins, metrics.sign_ins_too_many), (1, 1));
    assert_eq!(metrics.sign_in_time.count(), 2);

    sql(
        &database,
        "UPDATE sessions SET last_seen_at = last_seen_at - interval '1 hour'",
    )
    .await;
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    until(|| sessions.metrics().uses_recorded == 1).await;

    let before = sessions.metrics().store;
    assert!(kill_lookups(&database).await >= 1);
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    let after = sessions.metrics().store;
    // The driver may learn of the loss after the statement has failed.
    let closed = |store: &StoreMetrics| store.connections_lost + store.connections_broken;
    assert_eq!(closed(&after) - closed(&before), 1, "{after:?}");
    assert!(after.lookups_retried <= 1);
    assert!(after.connections_opened > before.connections_opened);
    assert_eq!(after.connections_open(), before.connections_open());

    sql(
        &database,
        "UPDATE sessions SET created_at = created_at - interval '2 years', expires_at = now()",
    )
    .await;
    assert_eq!(sessions.delete_expired().await.unwrap(), 1);
    assert_eq!(sessions.metrics().expired_deleted, 1);
    sessions.close().await;
    let closed = sessions.metrics().store;
    assert_eq!(closed.connections_open(), 0, "{closed:?}");
    assert!(closed.connections_retired >= 2, "{closed:?}");
    assert!(closed.connections_broken <= 1, "{closed:?}");
}

/// Q01: gauges show lookups that wait, queries in progress, streams, the cache and the feed.
#[tokio::test]
async fn gauges_show_the_present() {
    let sessions = watched();
    let gauges = |metrics: SessionMetrics| {
        let SessionMetrics {
            lookups_waiting,
            statements_in_flight,
            watched_streams,
            ..
        } = metrics;
        (lookups_waiting, statements_in_flight, watched_streams)
    };
    assert_eq!(gauges(sessions.metrics()), (0, 0, 0));
    let ada = sessions.sign_in_without_request(1).await.unwrap();
    sessions.store().answer(false);
    let mut lookups = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let (sessions, token) = (sessions.clone(), SessionToken::generate().unwrap());
        lookups.spawn(async move { sessions.user(&token).await });
    }
    until(|| gauges(sessions.metrics()).0 == 2).await;
    assert_eq!(gauges(sessions.metrics()), (2, 1, 0));
    sessions.store().answer(true);
    lookups.join_all().await;
    let streams = [
        sessions.ended(&current(&ada)),
        sessions.ended(&current(&ada)),
    ];
    assert_eq!(gauges(sessions.metrics()), (0, 0, 2));
    drop(streams);
    assert_eq!(gauges(sessions.metrics()), (0, 0, 0));
    assert_eq!(sessions.metrics().feed_connected, None);

    let lease = Duration::from_millis(200);
    let (sessions, feed) = ManualFeed::with_lease(lease).await;
    let metrics = sessions.metrics();
    assert_eq!(metrics.feed_connected, Some(true));
    assert!(metrics.feed_last_proof.unwrap() < lease);
    assert_eq!(
        (metrics.cached_sessions, metrics.cache_capacity),
        (Some(0), Some(1_000))
    );
    feed.stop_heartbeats();
    until(|| sessions.metrics().feed_connected == Some(false)).await;
    assert!(sessions.metrics().feed_last_proof.unwrap() >= lease);
}

/// Q01: a hit in the cache is a lookup of the cache, and no query.
#[tokio::test]
async fn a_hit_is_counted_apart() {
    let database = announced_database().await;
    let sessions = caching(&database).await;
    let ada = crate::support::caching::signed_in(&database, &sessions).await;
    until_cached(&sessions, ada.token()).await;
    assert_eq!(sessions.metrics().cached_sessions, Some(1));
    let before = sessions.metrics();
    assert!(sessions.user(ada.token()).await.unwrap().is_some());
    let counted = changes(&before, &sessions.metrics());
    assert_eq!(counted, ["lookups_total cache live 1"]);
}

/// Q01: the metrics facade gets each value once, with the application's label.
#[cfg(feature = "metrics")]
#[test]
fn the_exporter_passes_each_value_to_the_recorder() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use tower_user_session::metrics::MetricsExporter;

    let _logs = Logs::capture();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let sessions = memory();
    metrics::with_local_recorder(&recorder, || {
        let mut exporter = MetricsExporter::new(sessions.clone()).with_label("service", "staff");
        for _ in 0..3 {
            let token = SessionToken::generate().unwrap();
            runtime.block_on(sessions.user(&token)).unwrap();
            exporter.export();
        }
    });
    let samples = sessions.metrics().samples();
    let mut exported = snapshotter.snapshot().into_vec();
    assert_eq!(exported.len(), samples.len());
    for sample in samples {
        let place = exported.iter().position(|(key, ..)| {
            let labels: Vec<_> = key.key().labels().map(|l| (l.key(), l.value())).collect();
            let mut expected = sample.labels.to_vec();
            expected.push(("service", "staff"));
            key.key().name() == sample.name && labels == expected
        });
        let (_, _, help, value) = exported.swap_remove(place.unwrap());
        assert_eq!(help.as_deref(), Some(sample.help));
        match (value, sample.value) {
            (DebugValue::Counter(exported), SampleValue::Counter(value)) => {
                assert_eq!(exported, value, "{}", sample.name);
            }
            (DebugValue::Gauge(exported), SampleValue::Gauge(value)) => {
                assert!((exported.0 - value).abs() < f64::EPSILON, "{}", sample.name);
            }
            (DebugValue::Histogram(exported), SampleValue::Histogram(value)) => {
                assert_eq!(exported.len() as u64, value.count(), "{}", sample.name);
            }
            (exported, value) => panic!("{}: {exported:?} for {value:?}", sample.name),
        }
    }
}
