//! What the standard health service tells.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic_health::server::HealthReporter;

use super::admin;
use crate::{grpc::SERVICES, nodes::NodeRegistry};

/// How often health looks at the stores.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// Tells the standard health service what readiness finds, a status a service.
pub(super) async fn report_health(
    reporter: HealthReporter,
    readiness: admin::Readiness,
    nodes: Arc<NodeRegistry>,
    closing: CancellationToken,
) {
    loop {
        let found = readiness.look().await;
        for service in SERVICES {
            // Agents and tenants live in the database alone, sessions beside the slots too; calls outlast the database.
            let serves = match service {
                name if name.ends_with("VoiceAgentService") || name.ends_with("TenantService") => {
                    found.database && found.serving
                }
                name if name.ends_with("SessionService") => found.database && found.slots && found.serving,
                _ => found.is_ready(),
            };
            set(&reporter, service, serves).await;
        }
        set(&reporter, "", found.is_ready()).await;
        metrics::gauge!("voxgate_nodes_connected").set(u32::try_from(nodes.connected()).unwrap_or(u32::MAX));
        tokio::select! {
            () = closing.cancelled() => return,
            () = tokio::time::sleep(HEALTH_EVERY) => {}
        }
    }
}

/// Says of every service, and of the server as a whole, that it does not serve.
pub(super) async fn none_serves(reporter: &HealthReporter) {
    for service in SERVICES.iter().chain([&""]) {
        set(reporter, service, false).await;
    }
}

async fn set(reporter: &HealthReporter, service: &str, serving: bool) {
    let status = if serving { tonic_health::ServingStatus::Serving } else { tonic_health::ServingStatus::NotServing };
    reporter.set_service_status(service, status).await;
}
