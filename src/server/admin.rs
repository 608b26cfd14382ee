//! The admin port: is the process alive, is it ready, what has it counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Stores;

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
    closing: CancellationToken,
}

/// What a look found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) database: bool,
    pub(super) slots: bool,
    pub(super) serving: bool,
}

impl Found {
    pub(super) const fn is_ready(self) -> bool {
        self.database && self.slots && self.serving
    }
}

impl Readiness {
    pub(super) fn new(stores: Stores, closing: CancellationToken) -> Self {
        Self { stores, phase: Arc::new(AtomicU8::new(STARTING)), closing }
    }

    pub(super) fn started(&self) {
        self.phase.store(SERVING, Ordering::Release);
    }

    pub(super) fn draining(&self) {
        self.phase.store(DRAINING, Ordering::Release);
    }

    pub(super) async fn look(&self) -> Found {
        let database = tokio::time::timeout(LOOK_WITHIN, self.stores.database.ping());
        let slots = tokio::time::timeout(LOOK_WITHIN, self.stores.slots.ping());
        let (database, slots) = tokio::join!(database, slots);
        let serving = self.phase.load(Ordering::Acquire) == SERVING && !self.closing.is_cancelled();
        Found { database: matches!(database, Ok(Ok(()))), slots: matches!(slots, Ok(Ok(()))), serving }
    }
}

#[derive(Debug, Clone)]
struct Admin {
    readiness: Readiness,
    metrics: PrometheusHandle,
}

pub(super) async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: PrometheusHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render))
        .with_state(Admin { readiness, metrics });
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
    admin.metrics.render()
}
