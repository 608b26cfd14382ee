//! Logs and metrics of the process.
//!
//! Logs go to stderr: stdout belongs to what a command answers. Metric labels come from enums, never from ids.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::LogFormat;

/// A busy replica measures some 60,000 times a second, at 16 bytes each.
const ADD_UP_EVERY: Duration = Duration::from_secs(1);

/// Upper bounds in seconds, from a cached read to a verb that a slow carrier answers.
const SECONDS: [f64; 13] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The same for a wait, whose longest is two minutes.
const WAIT_SECONDS: [f64; 11] = [0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

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
    metrics::describe_counter!("voxgate_rpcs_total", "RPCs answered, by RPC and status code.");
    metrics::describe_histogram!("voxgate_rpc_duration_seconds", "Time to answer an RPC, by RPC.");
    metrics::describe_counter!("voxgate_admissions_total", "AcquireSlot answers, by outcome and binding scope.");
    metrics::describe_gauge!("voxgate_queue_waiting", "Calls that wait for a slot on this replica.");
    metrics::describe_counter!("voxgate_queue_waits_total", "AwaitSlot streams that ended, by outcome.");
    metrics::describe_histogram!("voxgate_queue_wait_seconds", "How long an AwaitSlot stream lasted.");
    metrics::describe_counter!("voxgate_lease_renewals_total", "Leases presented for renewal, by fate.");
    metrics::describe_counter!("voxgate_sessions_ended_total", "Sessions ended, by outcome.");
    metrics::describe_gauge!("voxgate_journal_entries", "Sessions that wait to be written to the database.");
    metrics::describe_counter!("voxgate_journal_written_total", "Sessions written behind, by beginning or end.");
    metrics::describe_counter!("voxgate_rows_removed_total", "Rows removed because they were old, by table.");
    metrics::describe_counter!("voxgate_operations_total", "Operations that came to a state, by verb and state.");
    let fallbacks = "Requests whose rate was limited by this replica alone, since Redis did not answer.";
    metrics::describe_counter!("voxgate_rate_limit_fallbacks_total", fallbacks);
    let lost = "Connections to Redis that were given up, by cause: broken, silent or demoted.";
    metrics::describe_counter!("voxgate_redis_connections_lost_total", lost);
    metrics::describe_counter!("voxgate_connections_refused_total", "Connections closed at accept, over the limit.");
    metrics::describe_counter!("voxgate_connections_garbled_total", "Connections closed: not what this port speaks.");
    metrics::describe_counter!("voxgate_tls_handshakes_failed_total", "TLS handshakes that failed otherwise.");
    metrics::describe_counter!("voxgate_tls_reloads_total", "Changed certificate files, by what became of them.");
    metrics::describe_gauge!("voxgate_tls_certificate_expires_seconds", "Expiry of the certificate in use, Unix time.");
    metrics::describe_counter!("voxgate_recoveries_total", "Tenants whose leases the slot store had lost.");
    metrics::describe_gauge!("voxgate_releases_kept", "Releases that the slot store refused and that are tried again.");
    metrics::describe_counter!(
        "voxgate_drift_total",
        "Differences of leases, sessions and nodes that were healed, by kind."
    );
    metrics::describe_counter!("voxgate_mass_expiries_total", "Looks that found many leases run out and none renewed.");
    metrics::describe_gauge!("voxgate_slot_store_memory_ratio", "Memory that Redis uses, of its maxmemory.");
    metrics::describe_counter!("voxgate_slot_store_clock_steps_total", "Steps of Redis's clock, by direction.");
    metrics::describe_gauge!("voxgate_nodes_connected", "Media nodes connected to this replica.");
    metrics::describe_counter!("voxgate_webhook_deliveries_made_total", "Deliveries of events to endpoints.");
    metrics::describe_counter!("voxgate_webhook_posts_total", "Posts of events, by what becomes of their deliveries.");
    metrics::describe_gauge!("voxgate_webhook_deliveries_pending", "Deliveries that wait, of all replicas.");
    metrics::describe_gauge!("voxgate_webhook_oldest_pending_seconds", "Age of the oldest delivery that waits.");
    metrics::describe_gauge!("voxgate_webhook_dead_letters", "Dead letters that are kept.");
    Ok(handle)
}
