//! What is looked at every so often to be told as metrics: the leases in flight, and the agents that use most of them.
//!
//! Series of agents bear ids, so there are never more of them than the operator has asked for: each sample is rendered
//! apart and replaces the one before it. Nothing here is asked at an admission.

use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::{
    calls::Calls,
    config::MetricsSettings,
    domain::ids::{TenantId, VoiceAgentId},
    telemetry,
};

/// README says so.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// What was told of agents when they were last looked at. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentSample(Arc<ArcSwap<String>>);

impl AgentSample {
    pub(super) fn text(&self) -> Arc<String> {
        self.0.load_full()
    }
}

/// Looks until `closing`.
pub(super) async fn sample_until(
    calls: Calls,
    settings: MetricsSettings,
    agents: AgentSample,
    closing: CancellationToken,
) {
    closing.run_until_cancelled(sample(&calls, settings, &agents)).await;
    // Its calls are other replicas' from here on.
    count(0);
    agents.0.store(Arc::default());
}

async fn sample(calls: &Calls, settings: MetricsSettings, agents: &AgentSample) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let held = calls.in_flight();
        count(held.values().sum());
        if settings.top_agents > 0 {
            agents.0.store(Arc::new(look_at(calls, held, settings.top_agents).await));
        }
    }
}

fn count(leases: usize) {
    metrics::gauge!("voxgate_slots_in_flight").set(u32::try_from(leases).unwrap_or(u32::MAX));
}

/// The usage and the limits of the agents that have most leases here. One that cannot be asked about is left out.
async fn look_at(calls: &Calls, held: HashMap<(TenantId, VoiceAgentId), usize>, most: usize) -> String {
    let mut agents: Vec<_> = held.into_iter().collect();
    // By their ids among equals, so that those told do not change with every look.
    agents.sort_unstable_by_key(|(agent, leases)| (Reverse(*leases), *agent));
    let mut told = Vec::new();
    for ((tenant, agent), _) in agents.into_iter().take(most) {
        if let Ok(usage) = calls.usage(tenant, Some(agent)).await {
            told.push((tenant.to_string(), agent.to_string(), usage));
        }
    }
    telemetry::render_apart(|| {
        for (tenant, agent, usage) in told {
            metrics::gauge!("voxgate_agent_slots_used", "tenant" => tenant.clone(), "voice_agent" => agent.clone())
                .set(usage.used);
            metrics::gauge!("voxgate_agent_slots_limit", "tenant" => tenant, "voice_agent" => agent).set(usage.limit);
        }
    })
}
