//! What goes on beside the requests.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Stores, rooms::Rooms};
use crate::{
    calls::Calls,
    db::RetentionSettings,
    domain::Env,
    sessions::{AuditLog, Journal},
    telemetry,
};

pub(super) async fn write(journal: Arc<Journal>, audit: Arc<AuditLog>, said_all: CancellationToken) {
    tokio::join!(journal.write_until(said_all.clone()), audit.write_until(said_all));
}

pub(super) async fn sweep(calls: Calls, closing: CancellationToken) {
    tokio::join!(calls.sweep_until(closing.clone()), calls.reconcile_until(closing));
}

pub(super) async fn tend(calls: Calls, closing: CancellationToken) {
    tokio::join!(
        calls.tend_until(closing.clone()),
        calls.inquire_until(closing.clone()),
        calls.look_at_nodes_until(closing)
    );
}

/// What goes on beside the requests until the end: hearing of other replicas' changes, writing when keys were used and
/// what killed replicas left, bringing events to those who watch, removing what is old, releasing what the slot store would
/// not release, and adding up what was measured.
pub(super) fn upkeep(
    stores: &Stores,
    rooms: &Rooms,
    metrics: PrometheusHandle,
    retention: RetentionSettings,
    closing: &CancellationToken,
) -> JoinHandle<()> {
    let (database, changes, uses) = (stores.database.clone(), rooms.changes.clone(), rooms.uses.clone());
    let revocations = rooms.revocations.clone();
    let (slots, journal, closing) = (rooms.slots.clone(), rooms.journal.clone(), closing.clone());
    let events = rooms.events.clone();
    tokio::spawn(async move {
        let adding_up = closing.clone().run_until_cancelled_owned(telemetry::add_up(metrics));
        tokio::join!(
            database.tell_changes(changes, closing.clone()),
            database.retain_until(retention, Env::system(), closing.clone()),
            uses.write_until(closing.clone()),
            journal.adopt_until(closing.clone()),
            revocations.follow_until(closing.clone()),
            events.run_until(closing.clone()),
            slots.retry_releases_until(closing),
            adding_up
        );
    })
}
