//! Slots, leases and usage on the wire.

use secrecy::ExposeSecret as _;

use super::{
    number, read, read_enum, read_optional,
    value::{read_duration, read_object, timestamp},
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
        tenant::Scope,
        violations::{Fault, Violations},
    },
    proto::v1,
};

wire_enum!(Direction, v1::Direction, { Inbound, Outbound });

pub(crate) fn read_acquire(wire: v1::AcquireSlotRequest, principal: &Principal) -> Result<Admit> {
    let mut faults = Violations::default();
    let call = read("call_id", &wire.call_id, &mut faults);
    let agent = read_optional("voice_agent_id", wire.voice_agent_id.as_deref(), &mut faults);
    let hints = Hints {
        flow_node: read_optional("flow_node_voice_agent_id", wire.flow_node_voice_agent_id.as_deref(), &mut faults),
        campaign: read_optional("campaign_voice_agent_id", wire.campaign_voice_agent_id.as_deref(), &mut faults),
    };
    let direction = read_enum("direction", wire.direction, &mut faults).unwrap_or(Direction::Inbound);
    if !(0..=100).contains(&wire.priority) {
        faults.add("priority", Fault::new("must be 0 to 100"));
    }
    let node = read_optional("node_id", wire.node_id.as_deref(), &mut faults);
    let subprotocol = read_enum("subprotocol", wire.subprotocol, &mut faults);
    let ttl =
        read_duration("lease_ttl", wire.lease_ttl, (LEASE_TTL_MIN, LEASE_TTL_MAX), LEASE_TTL_DEFAULT, &mut faults);
    let metadata = faults.take("metadata", read_object(wire.metadata));
    let admit = (|| {
        Some(Admit {
            call: call?,
            agent,
            hints,
            direction,
            node,
            subprotocol,
            ttl,
            metadata: metadata?,
            sandbox: principal.sandbox(),
            validate_only: wire.validate_only,
        })
    })();
    Ok(faults.into_result(admit)?)
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

pub(crate) fn write_usage(usage: Usage, agent: Option<VoiceAgentId>) -> v1::Usage {
    v1::Usage {
        used: number(usage.used),
        limit: number(usage.limit),
        reserved_inbound: number(usage.reserved_inbound),
        queued: 0,
        oldest_waiter: None,
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
