//! Logs, metrics and traces of the process.
//!
//! Logs go to stderr: stdout belongs to what a command answers. Metric labels come from enums, never from ids; the one exception, by the
//! operator's choice, is in `server/samples.rs`.

mod traces;

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use self::traces::export_traces;
use crate::config::LogFormat;

/// A busy replica measures some 60,000 times a second, at 16 bytes each.
const ADD_UP_EVERY: Duration = Duration::from_secs(1);

/// Upper bounds in seconds, from a cached read to a verb that a slow carrier answers.
const SECONDS: [f64; 13] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The same for a wait, whose longest is two minutes.
const WAIT_SECONDS: [f64; 11] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Something that is counted. Where it is counted says its name and its labels once more, and README to operators; tests
/// hold the three together.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub kind: Kind,
    pub name: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As Prometheus spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { kind: Kind::Counter, name, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { kind: Kind::Gauge, name, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { kind: Kind::Histogram, name, labels, help }
}

/// All of them, in README's order.
pub const METRICS: &[Metric] = &[
    counter("voxgate_rpcs_total", &["rpc", "code"], "RPCs answered, by RPC and status code."),
    histogram("voxgate_rpc_duration_seconds", &["rpc"], "Time to answer an RPC, by RPC."),
    counter(
        "voxgate_admissions_total",
        &["outcome", "scope"],
        "Calls that asked for a slot, by outcome and binding scope.",
    ),
    counter("voxgate_lease_renewals_total", &["fate"], "Leases presented for renewal, by fate."),
    gauge("voxgate_queue_waiting", &[], "Calls that wait for a slot on this replica."),
    counter("voxgate_queue_waits_total", &["outcome"], "AwaitSlot streams that ended, by outcome."),
    histogram("voxgate_queue_wait_seconds", &[], "How long an AwaitSlot stream lasted."),
    counter("voxgate_recoveries_total", &[], "Tenants whose leases the slot store had lost."),
    gauge("voxgate_releases_kept", &[], "Releases that the slot store refused and that are tried again."),
    gauge("voxgate_slots_in_flight", &[], "Leases that this replica keeps, as far as it knows."),
    gauge("voxgate_agent_slots_used", &["tenant", "voice_agent"], "Slots in use of the agents used most here."),
    gauge("voxgate_agent_slots_limit", &["tenant", "voice_agent"], "Slots that each of these agents has."),
    gauge("voxgate_ready", &[], "What /readyz answers: 1 ready, 0 not."),
    histogram(
        "voxgate_store_duration_seconds",
        &["store", "operation", "outcome"],
        "Time that the database and Redis take, by operation and outcome.",
    ),
    gauge("voxgate_journal_entries", &[], "Sessions that wait to be written to the database."),
    gauge("voxgate_journal_entries_max", &[], "Sessions that may wait to be written; with as many, calls are refused."),
    counter("voxgate_journal_written_total", &[], "Sessions written behind, by beginning or end."),
    counter("voxgate_drift_total", &["kind"], "Differences of leases, sessions and nodes that were healed, by kind."),
    counter("voxgate_mass_expiries_total", &[], "Looks that found many leases run out and none renewed."),
    gauge("voxgate_slot_store_memory_ratio", &[], "Memory that Redis uses, of its maxmemory."),
    counter("voxgate_slot_store_clock_steps_total", &["direction"], "Steps of Redis's clock, by direction."),
    counter("voxgate_redis_connections_lost_total", &["cause"], "Connections to Redis that were given up, by cause."),
    counter("voxgate_sessions_ended_total", &["outcome"], "Sessions ended, by outcome."),
    counter("voxgate_operations_total", &["verb", "state"], "Operations that came to a state, by verb and state."),
    counter("voxgate_audit_entries_lost_total", &[], "Entries of the audit log that were never written."),
    counter("voxgate_rows_removed_total", &["table"], "Rows removed because they were old, by table."),
    counter("voxgate_webhook_deliveries_made_total", &[], "Deliveries of events to endpoints."),
    counter("voxgate_webhook_posts_total", &["outcome"], "Posts of events, by what becomes of their deliveries."),
    gauge("voxgate_webhook_deliveries_pending", &[], "Deliveries that wait, of all replicas."),
    gauge("voxgate_webhook_oldest_pending_seconds", &[], "Age of the oldest delivery that waits."),
    gauge("voxgate_webhook_dead_letters", &[], "Dead letters that are kept."),
    gauge("voxgate_nodes_connected", &[], "Media nodes connected to this replica."),
    counter("voxgate_connections_refused_total", &[], "Connections closed at accept, over the limit."),
    counter("voxgate_connections_aged_total", &[], "Connections that reached their age: their clients were sent away."),
    counter("voxgate_connections_silent_total", &[], "Connections closed: no handshake or preface came in time."),
    counter("voxgate_connections_garbled_total", &[], "Connections closed: not what this port speaks."),
    counter("voxgate_tls_handshakes_failed_total", &[], "TLS handshakes that failed otherwise."),
    counter("voxgate_tls_reloads_total", &["outcome"], "Changed certificate files, by what became of them."),
    gauge("voxgate_tls_certificate_expires_seconds", &[], "Expiry of the certificate in use, Unix time."),
    counter("voxgate_rate_limit_fallbacks_total", &[], "Requests whose rate was limited by this replica alone."),
    counter("voxgate_cache_outage_answers_total", &["cache"], "Answers from memory, too old, without the database."),
    counter("voxgate_change_listeners_lost_total", &[], "Losses of the connection for other replicas' changes."),
    counter("voxgate_spans_total", &["outcome"], "Spans of recorded traces, by what became of them."),
];

/// Counters of one label whose values are all known before any is counted, as README lists them.
const FROM_ZERO: [(&str, &str, &[&str]); 9] = [
    ("voxgate_lease_renewals_total", "fate", &["renewed", "readmitted", "lost", "released"]),
    (
        "voxgate_drift_total",
        "kind",
        &["lease_without_session", "session_without_lease", "node_call_without_session", "session_not_on_node"],
    ),
    ("voxgate_slot_store_clock_steps_total", "direction", &["back", "forward"]),
    ("voxgate_redis_connections_lost_total", "cause", &["broken", "silent", "demoted"]),
    (
        "voxgate_rows_removed_total",
        "table",
        &["sessions", "events", "audit_entries", "voice_agent_create_requests", "revoked_tokens"],
    ),
    ("voxgate_webhook_posts_total", "outcome", &["taken", "tried_again", "given_up", "gone"]),
    ("voxgate_tls_reloads_total", "outcome", &["loaded", "refused"]),
    ("voxgate_cache_outage_answers_total", "cache", &["voice_agents", "fallbacks", "tenants", "api_keys"]),
    ("voxgate_spans_total", "outcome", &["sent", "queue_full", "not_taken"]),
];

/// Starts logging what `filter` lets through.
pub fn log_to_stderr(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("VOXGATE_LOG: {filter:?} is not a filter"))?;
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// Adds up what histograms were told, for ever: each keeps every single value until then, also where nobody asks for
/// `/metrics`.
pub async fn add_up(metrics: PrometheusHandle) {
    let mut ticks = tokio::time::interval(ADD_UP_EVERY);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

/// Starts counting; the handle renders what was counted.
pub fn record_metrics() -> anyhow::Result<PrometheusHandle> {
    let waits = Matcher::Full("voxgate_queue_wait_seconds".to_owned());
    let buckets = PrometheusBuilder::new().set_buckets(&SECONDS)?.set_buckets_for_metric(waits, &WAIT_SECONDS)?;
    let handle = buckets.install_recorder()?;
    describe();
    // From 0 on, so that the first of them is an increase to Prometheus.
    for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Counter && metric.labels.is_empty()) {
        metrics::counter!(metric.name).absolute(0);
    }
    for (name, label, values) in FROM_ZERO {
        for value in values {
            metrics::counter!(name, label => *value).absolute(0);
        }
    }
    Ok(handle)
}

/// The text of what `count` counts, which nothing else is told of, and nothing remembers.
pub fn render_apart(count: impl FnOnce()) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        describe();
        count();
    });
    recorder.handle().render()
}

fn describe() {
    for Metric { kind, name, help, .. } in METRICS {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readme_lists_the_values_of_the_labels_that_are_told_from_the_start() {
        let readme = include_str!("../../README.md");
        for (name, label, values) in FROM_ZERO {
            let metric = METRICS.iter().find(|metric| metric.name == name).expect("a metric of ours");
            assert_eq!((metric.kind, metric.labels), (Kind::Counter, &[label][..]), "{name}");
            let listed: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            let row = format!("| `{name}` | counter | `{label}`: {} |", listed.join(", "));
            assert!(readme.contains(&row), "{row}");
        }
    }
}
