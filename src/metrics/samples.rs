//! The values of a snapshot with their names.

use crate::metrics::{LatencyHistogram, SessionMetrics};

/// One value of a snapshot, with the name and the labels under which it is exported.
///
/// Samples of one name differ in the value of one label. The sum over the label is meaningful.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sample {
    /// The name, such as `tower_user_session_lookups_total`.
    pub name: &'static str,
    /// The meaning, in one sentence.
    pub help: &'static str,
    /// Labels: names and values.
    pub labels: &'static [(&'static str, &'static str)],
    /// The value.
    pub value: SampleValue,
}

/// The value of a [`Sample`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum SampleValue {
    /// A total since the service was built.
    Counter(u64),
    /// A value at the time of the snapshot. A time is in seconds.
    Gauge(f64),
    /// Latencies since the service was built.
    Histogram(LatencyHistogram),
}

use SampleValue::{Counter, Gauge, Histogram};

/// The start of each name.
macro_rules! name {
    ($name:literal) => {
        concat!("tower_user_session_", $name)
    };
}

/// Labels: names and values.
pub(super) type Labels = &'static [(&'static str, &'static str)];

impl SessionMetrics {
    /// Returns all values with their names, those of one name one after the other.
    ///
    /// A gauge of a feed or of a cache is missing if the service has none.
    pub fn samples(&self) -> Vec<Sample> {
        let mut samples = Samples::default();
        self.add_lookups(&mut samples);
        self.add_operations(&mut samples);
        self.add_store(&mut samples);
        self.add_gauges(&mut samples);
        self.add_latencies(&mut samples);
        samples.0
    }

    fn add_lookups(&self, samples: &mut Samples) {
        let not_live = self
            .rejected
            .saturating_sub(self.rejected_malformed)
            .saturating_sub(self.rejected_ambiguous);
        samples.add(
            name!("requests_total"),
            "Requests that passed through the layer.",
            &[
                (&[("outcome", "authenticated")], Counter(self.authenticated)),
                (&[("outcome", "anonymous")], Counter(self.anonymous)),
                (&[("outcome", "not_live")], Counter(not_live)),
                (
                    &[("outcome", "malformed")],
                    Counter(self.rejected_malformed),
                ),
                (
                    &[("outcome", "ambiguous")],
                    Counter(self.rejected_ambiguous),
                ),
                (&[("outcome", "unavailable")], Counter(self.unavailable)),
            ],
        );
        samples.add(
            name!("lookups_total"),
            "Tokens looked up.",
            &[
                (
                    &[("source", "cache"), ("outcome", "live")],
                    Counter(self.from_cache),
                ),
                (
                    &[("source", "store"), ("outcome", "live")],
                    Counter(self.lookups_live),
                ),
                (
                    &[("source", "store"), ("outcome", "absent")],
                    Counter(self.lookups_absent),
                ),
                (
                    &[("source", "store"), ("outcome", "failed")],
                    Counter(self.lookups_failed),
                ),
            ],
        );
        let succeeded = self.statements.saturating_sub(self.statements_failed);
        samples.add(
            name!("statements_total"),
            "Queries of lookups.",
            &[
                (&[("outcome", "succeeded")], Counter(succeeded)),
                (&[("outcome", "failed")], Counter(self.statements_failed)),
            ],
        );
    }

    fn add_operations(&self, samples: &mut Samples) {
        samples.add(
            name!("sign_ins_total"),
            "Sign-ins.",
            &[
                (&[("outcome", "succeeded")], Counter(self.sign_ins)),
                (
                    &[("outcome", "not_allowed")],
                    Counter(self.sign_ins_not_allowed),
                ),
                (
                    &[("outcome", "too_many_sessions")],
                    Counter(self.sign_ins_too_many),
                ),
                (&[("outcome", "failed")], Counter(self.sign_ins_failed)),
            ],
        );
        samples.add(
            name!("reauthentications_total"),
            "Re-authentications.",
            &outcomes(
                self.reauthentications,
                self.reauthentications_not_found,
                self.reauthentications_failed,
            ),
        );
        samples.add(
            name!("sign_outs_total"),
            "Sign-outs.",
            &outcomes(
                self.sign_outs,
                self.sign_outs_without_session,
                self.sign_outs_failed,
            ),
        );
        samples.add(
            name!("updates_total"),
            "Updates of session columns.",
            &outcomes(self.updates, self.updates_not_found, self.updates_failed),
        );
        samples.add(
            name!("revocations_total"),
            "Calls that revoke sessions.",
            &[
                (&[("outcome", "succeeded")], Counter(self.revocations)),
                (&[("outcome", "failed")], Counter(self.revocations_failed)),
            ],
        );
        samples.total(
            name!("revoked_sessions_total"),
            "Sessions that revocations ended.",
            self.sessions_revoked,
        );
        samples.add(
            name!("uses_total"),
            "Uses of sessions that were due to be recorded.",
            &[
                (&[("outcome", "succeeded")], Counter(self.uses_recorded)),
                (&[("outcome", "failed")], Counter(self.uses_failed)),
            ],
        );
        samples.total(
            name!("expired_sessions_deleted_total"),
            "Expired sessions that were deleted.",
            self.expired_deleted,
        );
        samples.total(
            name!("deletions_failed_total"),
            "Failed deletions of expired sessions.",
            self.deletions_failed,
        );
        samples.total(
            name!("feed_disconnects_total"),
            "Failures of the feed: lost connections, failed attempts to reconnect, and late heartbeats.",
            self.feed_disconnects,
        );
        samples.total(
            name!("events_dropped_total"),
            "Session events that the observer did not receive.",
            self.events_dropped,
        );
    }

    fn add_store(&self, samples: &mut Samples) {
        let store = &self.store;
        samples.add(
            name!("retries_total"),
            "Statements that were sent again: after a failure without effect, or behind a slow one.",
            &[
                (&[("cause", "lookup_failed")], Counter(store.lookups_retried)),
                (&[("cause", "lookup_stalled")], Counter(store.lookups_moved)),
                (&[("cause", "write_failed")], Counter(store.writes_retried)),
            ],
        );
        samples.total(
            name!("connections_opened_total"),
            "Connections of the store that were opened.",
            store.connections_opened,
        );
        samples.total(
            name!("connections_failed_total"),
            "Failed attempts of the store to open a connection.",
            store.connections_failed,
        );
        samples.add(
            name!("connections_closed_total"),
            "Connections of the store that were closed.",
            &[
                (&[("cause", "lost")], Counter(store.connections_lost)),
                (&[("cause", "broken")], Counter(store.connections_broken)),
                (&[("cause", "retired")], Counter(store.connections_retired)),
            ],
        );
    }

    fn add_gauges(&self, samples: &mut Samples) {
        samples.gauge(
            name!("connections_open"),
            "Open connections of the store.",
            Some(number(self.store.connections_open())),
        );
        samples.gauge(
            name!("feed_connected"),
            "1 if the feed is connected, 0 if it is not.",
            self.feed_connected.map(f64::from),
        );
        samples.gauge(
            name!("feed_last_proof_seconds"),
            "Time since the last heartbeat that came back was sent.",
            self.feed_last_proof.map(|time| time.as_secs_f64()),
        );
        samples.gauge(
            name!("cached_sessions"),
            "Sessions in the cache.",
            self.cached_sessions.map(number),
        );
        samples.gauge(
            name!("cache_capacity"),
            "Most sessions in the cache.",
            self.cache_capacity.map(number),
        );
        samples.gauge(
            name!("lookups_waiting"),
            "Lookups in batches that were not sent.",
            Some(number(self.lookups_waiting)),
        );
        samples.gauge(
            name!("statements_in_flight"),
            "Queries of lookups in progress.",
            Some(number(self.statements_in_flight)),
        );
        samples.gauge(
            name!("watched_streams"),
            "Streams and other waits for the end of a session.",
            Some(number(self.watched_streams)),
        );
    }

    fn add_latencies(&self, samples: &mut Samples) {
        samples.add(
            name!("query_seconds"),
            "Time of a query, from its dispatch to its results.",
            &[(&[], Histogram(self.query_time))],
        );
        samples.add(
            name!("queue_seconds"),
            "Time of a batch in the queue, from its first lookup to its dispatch.",
            &[(&[], Histogram(self.queue_wait))],
        );
        samples.add(
            name!("sign_in_seconds"),
            "Time of a sign-in.",
            &[(&[], Histogram(self.sign_in_time))],
        );
    }
}

#[derive(Default)]
struct Samples(Vec<Sample>);

impl Samples {
    fn add(&mut self, name: &'static str, help: &'static str, values: &[(Labels, SampleValue)]) {
        let samples = values.iter().map(|(labels, value)| Sample {
            name,
            help,
            labels,
            value: *value,
        });
        self.0.extend(samples);
    }

    fn total(&mut self, name: &'static str, help: &'static str, total: u64) {
        self.add(name, help, &[(&[], Counter(total))]);
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            self.add(name, help, &[(&[], Gauge(value))]);
        }
    }
}

fn outcomes(succeeded: u64, not_found: u64, failed: u64) -> [(Labels, SampleValue); 3] {
    [
        (&[("outcome", "succeeded")], Counter(succeeded)),
        (&[("outcome", "not_found")], Counter(not_found)),
        (&[("outcome", "failed")], Counter(failed)),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is far below 2^52")]
const fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Q01: the documented table lists each name with its type and its labels, and no other name.
    #[test]
    fn the_documentation_lists_each_metric() {
        let metrics = SessionMetrics {
            feed_connected: Some(true),
            feed_last_proof: Some(Duration::ZERO),
            cached_sessions: Some(0),
            cache_capacity: Some(0),
            ..SessionMetrics::default()
        };
        let mut rows: Vec<String> = Vec::new();
        for sample in metrics.samples() {
            let kind = match sample.value {
                Counter(_) => "counter",
                Gauge(_) => "gauge",
                Histogram(_) => "histogram",
            };
            let labels: Vec<_> = sample
                .labels
                .iter()
                .map(|(name, value)| format!("`{name}=\"{value}\"`"))
                .collect();
            let labels = labels.join(" ");
            let start = format!("| `{}` | {kind} | ", sample.name);
            let end = format!(" | {} |", sample.help);
            match rows.last_mut() {
                Some(row) if row.starts_with(&start) => {
                    row.truncate(row.len() - end.len());
                    *row += &[", ", &labels, &end].concat();
                }
                _ => rows.push(format!("{start}{labels}{end}")),
            }
        }
        let documented = include_str!("names.md");
        let documented: Vec<_> = documented.lines().skip(2).collect();
        assert_eq!(documented, rows, "names.md:\n{}", rows.join("\n"));
    }
}
