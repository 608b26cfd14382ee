//! Slots, leases and usage on the wire.

use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::{
    number, read, read_enum, read_optional,
    value::{duration, read_duration, read_object, timestamp},
    voice_agent::{write_resolution, write_routing},
    wire_enum,
};
use crate::{
    agents::Hints,
    calls::{Admission, Admit, Presented},
    domain::{
        Result,
        ids::{CallId, VoiceAgentId},
        lease::{Direction, LEASE_TTL_DEFAULT, LEASE_TTL_MAX, LEASE_TTL_MIN, RENEW_MAX, Renewed, Usage},
        principal::Principal,
        queue::{MAX_WAIT_DEFAULT, MAX_WAIT_MAX, PRIORITY_MAX, Place},
        tenant::Scope,
        violations::{Fault, Violations},
    },
    proto::v1,
};

wire_enum!(Direction, v1::Direction, { Inbound, Outbound });

pub(crate) fn read_acquire(wire: v1::AcquireSlotRequest, principal: &Principal) -> Result<Admit> {
    let mut faults = Violations::default();
    let admit = read_admit(wire, principal, &mut faults);
    Ok(faults.into_result(admit)?)
}

/// The call, and how long it would wait.
pub(crate) fn read_await(wire: v1::AwaitSlotRequest, principal: &Principal) -> Result<(Admit, Duration)> {
    let mut faults = Violations::default();
    let bounds = (Duration::ZERO, MAX_WAIT_MAX);
    let max_wait = read_duration("max_wait", wire.max_wait, bounds, MAX_WAIT_DEFAULT, &mut faults);
    let acquire = v1::AcquireSlotRequest {
        call_id: wire.call_id,
        voice_agent_id: wire.voice_agent_id,
        flow_node_voice_agent_id: wire.flow_node_voice_agent_id,
        campaign_voice_agent_id: wire.campaign_voice_agent_id,
        direction: wire.direction,
        priority: wire.priority,
        node_id: wire.node_id,
        subprotocol: wire.subprotocol,
        lease_ttl: wire.lease_ttl,
        metadata: wire.metadata,
        validate_only: wire.validate_only,
    };
    let admit = read_admit(acquire, principal, &mut faults);
    Ok(faults.into_result(admit.map(|admit| (admit, max_wait)))?)
}

fn read_admit(wire: v1::AcquireSlotRequest, principal: &Principal, faults: &mut Violations) -> Option<Admit> {
    let call = read("call_id", &wire.call_id, faults);
    let agent = read_optional("voice_agent_id", wire.voice_agent_id.as_deref(), faults);
    let hints = Hints {
        flow_node: read_optional("flow_node_voice_agent_id", wire.flow_node_voice_agent_id.as_deref(), faults),
        campaign: read_optional("campaign_voice_agent_id", wire.campaign_voice_agent_id.as_deref(), faults),
    };
    let direction = read_enum("direction", wire.direction, faults).unwrap_or(Direction::Inbound);
    let priority = read_priority(wire.priority, faults);
    let node = read_optional("node_id", wire.node_id.as_deref(), faults);
    let subprotocol = read_enum("subprotocol", wire.subprotocol, faults);
    let ttl = read_duration("lease_ttl", wire.lease_ttl, (LEASE_TTL_MIN, LEASE_TTL_MAX), LEASE_TTL_DEFAULT, faults);
    let metadata = faults.take("metadata", read_object(wire.metadata));
    Some(Admit {
        call: call?,
        agent,
        hints,
        direction,
        priority,
        node,
        subprotocol,
        ttl,
        metadata: metadata?,
        direct: None,
        sandbox: principal.sandbox(),
        validate_only: wire.validate_only,
        ticket: None,
    })
}

fn read_priority(wire: i32, faults: &mut Violations) -> u8 {
    let priority = u8::try_from(wire).ok().filter(|priority| *priority <= PRIORITY_MAX);
    priority.unwrap_or_else(|| {
        faults.add("priority", Fault::new(format!("must be 0 to {PRIORITY_MAX}")));
        0
    })
}

/// Who may see the agent's secret in a slot: nodes, and those who may see secrets anyway.
fn sees_secret(principal: &Principal) -> bool {
    principal.has(Scope::NodesConnect) || principal.has(Scope::VoiceAgentsSecrets)
}

pub(crate) fn write_slot(call: &CallId, admission: &Admission, principal: &Principal) -> v1::Slot {
    let secret = admission.auth_token.as_ref().filter(|_| sees_secret(principal));
    let agent = admission.resolved.exists().then_some(&admission.resolved.agent);
    let slot = v1::Slot {
        call_id: call.to_string(),
        voice_agent_id: agent.map(|agent| agent.id.to_string()).unwrap_or_default(),
        revision: agent.map_or(0, |_| admission.revision),
        usage: Some(write_usage(admission.usage, agent.map(|agent| agent.id))),
        routing: Some(write_routing(&admission.routing, secret.map(|secret| secret.expose_secret().to_owned()))),
        resolution: Some(write_resolution(&admission.resolved)),
        ..v1::Slot::default()
    };
    let Some(held) = &admission.held else { return slot };
    v1::Slot {
        session_id: held.session.id.to_string(),
        lease_id: held.lease_token.to_string(),
        fence: held.lease.fence,
        expires_at: Some(timestamp(held.lease.expires_at)),
        callback_token: held.token.text.clone(),
        token_expires_at: Some(timestamp(held.token.expires_at)),
        node_id: held.session.node.as_ref().map(ToString::to_string),
        ..slot
    }
}

pub(crate) fn write_waiting(place: Place) -> v1::Waiting {
    v1::Waiting { position: number(place.position), estimated_wait: place.estimate.map(duration) }
}

pub(crate) fn write_usage(usage: Usage, agent: Option<VoiceAgentId>) -> v1::Usage {
    v1::Usage {
        used: number(usage.used),
        limit: number(usage.limit),
        reserved_inbound: number(usage.reserved_inbound),
        queued: number(usage.queued),
        oldest_waiter: usage.oldest_waiter.map(duration),
        voice_agent_id: agent.map(|agent| agent.to_string()).unwrap_or_default(),
        used_outbound: number(usage.used_outbound),
    }
}

pub(crate) fn read_renewals(wire: v1::RenewSlotsRequest) -> Result<Vec<Presented>> {
    let mut faults = Violations::default();
    if wire.leases.is_empty() || wire.leases.len() > RENEW_MAX {
        faults.add("leases", Fault::new(format!("must have 1 to {RENEW_MAX} entries")));
        return Err(faults.into());
    }
    let mut presented = Vec::with_capacity(wire.leases.len());
    for (index, lease) in wire.leases.into_iter().enumerate() {
        let mut own = Violations::default();
        let call = read("call_id", &lease.call_id, &mut own);
        let id = read("lease_id", &lease.lease_id, &mut own);
        let ttl =
            read_duration("lease_ttl", lease.lease_ttl, (LEASE_TTL_MIN, LEASE_TTL_MAX), LEASE_TTL_DEFAULT, &mut own);
        faults.absorb(&format!("leases[{index}]"), own);
        presented.extend(call.zip(id).map(|(call, lease)| Presented { call, lease, ttl }));
    }
    Ok(faults.into_result(Some(presented))?)
}

pub(crate) fn write_fate(call: &CallId, fate: Renewed) -> v1::LeaseRenewalResult {
    let (state, expires_at) = match fate {
        Renewed::Renewed { expires_at } => (v1::LeaseState::Renewed, Some(timestamp(expires_at))),
        Renewed::Readmitted { expires_at } => (v1::LeaseState::Readmitted, Some(timestamp(expires_at))),
        // What is missing was brought back, or is lost.
        Renewed::Missing | Renewed::Lost => (v1::LeaseState::Lost, None),
        Renewed::Released => (v1::LeaseState::Released, None),
    };
    v1::LeaseRenewalResult { call_id: call.to_string(), state: state.into(), expires_at }
}
