//! The admin port: is the process alive, is it ready, what has it counted.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Stores, samples::AgentSample};
use crate::sessions::Journal;

/// A store that takes longer than this to say that it is there is not.
const LOOK_WITHIN: Duration = Duration::from_secs(1);

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const DRAINING: u8 = 2;

/// Whether this replica should be sent work.
#[derive(Debug, Clone)]
pub(super) struct Readiness {
    stores: Stores,
    phase: Arc<AtomicU8>,
    journal: Arc<OnceLock<Arc<Journal>>>,
    closing: CancellationToken,
}

/// What a look found.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the states of one machine")]
pub(super) struct Found {
    pub(super) database: bool,
    pub(super) slots: bool,
    /// What the database does not take now is kept until it does.
    pub(super) room: bool,
    pub(super) serving: bool,
}

impl Found {
    /// Whether calls are admitted: of known agents they are without the database too. To send them to no replica at all
    /// because the database is away from all would end what still works.
    pub(super) const fn is_ready(self) -> bool {
        (self.database || self.room) && self.slots && self.serving
    }
}

impl Readiness {
    pub(super) fn new(stores: Stores, closing: CancellationToken) -> Self {
        tell(false);
        Self { stores, phase: Arc::new(AtomicU8::new(STARTING)), journal: Arc::default(), closing }
    }

    pub(super) fn started(&self, journal: Arc<Journal>) {
        // Nobody else sets it.
        let _ = self.journal.set(journal);
        self.phase.store(SERVING, Ordering::Release);
    }

    pub(super) fn draining(&self) {
        self.phase.store(DRAINING, Ordering::Release);
        tell(false);
    }

    pub(super) async fn look(&self) -> Found {
        let database = tokio::time::timeout(LOOK_WITHIN, self.stores.database.ping());
        let slots = tokio::time::timeout(LOOK_WITHIN, self.stores.slots.ping());
        let (database, slots) = tokio::join!(database, slots);
        let serving = self.phase.load(Ordering::Acquire) == SERVING && !self.closing.is_cancelled();
        let room = self.journal.get().is_some_and(|journal| journal.outlasts_database());
        let found =
            Found { database: matches!(database, Ok(Ok(()))), slots: matches!(slots, Ok(Ok(()))), room, serving };
        tell(found.is_ready());
        found
    }
}

/// What `/readyz` answers, to whoever reads metrics.
fn tell(ready: bool) {
    metrics::gauge!("voxgate_ready").set(f64::from(u8::from(ready)));
}

#[derive(Debug, Clone)]
struct Admin {
    readiness: Readiness,
    metrics: PrometheusHandle,
    agents: AgentSample,
}

pub(super) async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: PrometheusHandle,
    agents: AgentSample,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Admin { readiness, metrics, agents });
    Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?)
}

async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    let found = admin.readiness.look().await;
    let status = if found.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = |fine| if fine { "ok" } else { "not ready" };
    let body = format!(
        "database: {}\nslot store: {}\nserving: {}\n",
        word(found.database),
        word(found.slots),
        word(found.serving)
    );
    (status, body)
}

async fn render(State(admin): State<Admin>) -> String {
    admin.metrics.run_upkeep();
    admin.metrics.render() + &admin.agents.text()
}
