//! Sessions, call states and operations on the wire.

use super::{
    lease::write_usage,
    number, read_enum,
    value::{object, timestamp},
    wire_enum,
};
use crate::{
    control::{Operation, OperationState},
    domain::{
        session::{Outcome, Session, SessionStatus},
        verb::{VerbName, VerbResult},
        violations::{Fault, Violations},
    },
    proto::v1,
};

wire_enum!(SessionStatus, v1::SessionStatus, { Active, Ended, Expired });
wire_enum!(Outcome, v1::SessionOutcome, {
    TransferredAgentQueue, TransferredE164, TransferredSipUri, Hangup, CallerHangup, ConferenceLeft, Completed,
    Released, LeaseExpired, NodeLost, AgentDeleted, WsDisconnected, MaxDuration, MaxTurns, TokenExpired, Failed,
});

impl From<OperationState> for v1::OperationState {
    fn from(state: OperationState) -> Self {
        match state {
            OperationState::Accepted => Self::Accepted,
            OperationState::Dispatched => Self::Dispatched,
            OperationState::Succeeded => Self::Succeeded,
            OperationState::Failed => Self::Failed,
            OperationState::Unknown => Self::Unknown,
        }
    }
}

impl From<VerbName> for v1::Verb {
    fn from(verb: VerbName) -> Self {
        match verb {
            VerbName::GetCallState => Self::GetCallState,
            VerbName::Hangup => Self::Hangup,
            VerbName::Hold => Self::Hold,
            VerbName::Transfer => Self::Transfer,
            VerbName::Unhold => Self::Unhold,
        }
    }
}

/// An outcome that a caller states.
pub(crate) fn read_outcome(number: i32, faults: &mut Violations) -> Option<Outcome> {
    let outcome: Option<Outcome> = read_enum("outcome", number, faults);
    if outcome.is_some_and(|outcome| !outcome.may_be_stated()) {
        faults.add("outcome", Fault::new("is for the service to find out, not for a caller to state"));
    }
    outcome
}

/// UNSPECIFIED while there is none.
pub(crate) fn write_outcome(outcome: Option<Outcome>) -> i32 {
    outcome.map_or(v1::SessionOutcome::Unspecified, Into::into).into()
}

pub(crate) fn write(session: &Session) -> v1::Session {
    v1::Session {
        id: session.id.to_string(),
        call_id: session.call.to_string(),
        tenant_id: session.tenant.to_string(),
        voice_agent_id: session.agent.to_string(),
        revision: session.agent_revision,
        status: v1::SessionStatus::from(session.status).into(),
        outcome: write_outcome(session.outcome),
        direction: v1::Direction::from(session.direction).into(),
        node_id: session.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        started_at: Some(timestamp(session.started_at)),
        answered_at: session.answered_at.map(timestamp),
        ended_at: session.ended_at.map(timestamp),
        expires_at: Some(timestamp(session.lease_expires_at)),
        metadata: Some(object(&session.metadata)),
        turn_count: number(session.state.turn_count),
        sandbox: session.sandbox,
        ..v1::Session::default()
    }
}

/// The call as a verb left it: its session was active then, whatever has become of it since.
pub(crate) fn write_call_state(result: &VerbResult) -> v1::CallState {
    let state = result.call_state;
    let phase = if result.answered { v1::CallPhase::Active } else { v1::CallPhase::Pending };
    let leg = |role: v1::LegRole, connected, muted, held| v1::Leg {
        role: role.into(),
        member_id: String::new(),
        connected,
        muted,
        held,
    };
    v1::CallState {
        phase: phase.into(),
        held: state.held,
        caller_muted: state.caller_muted,
        agent_muted: state.agent_muted,
        recording: v1::RecordingState::Active.into(),
        agent_usage: result
            .usage
            .map(|usage| v1::Usage { voice_agent_id: result.agent.clone(), ..write_usage(usage, None) }),
        status: v1::SessionStatus::Active.into(),
        outcome: write_outcome(None),
        ws_connected: state.ws_connected,
        turn_count: number(state.turn_count),
        node_id: result.node.clone().unwrap_or_default(),
        legs: vec![
            leg(v1::LegRole::Caller, result.answered, state.caller_muted, state.held),
            leg(v1::LegRole::Agent, state.ws_connected, state.agent_muted, false),
        ],
        ..v1::CallState::default()
    }
}

pub(crate) fn write_operation(operation: &Operation) -> v1::Operation {
    let succeeded = operation.state == OperationState::Succeeded;
    let result = operation.result.as_ref().filter(|_| succeeded).and_then(|result| {
        let json = serde_json::to_value(result).ok()?;
        Some(object(json.as_object()?))
    });
    let failure = operation.failure.clone();
    v1::Operation {
        operation_id: operation.id.to_string(),
        call_id: operation.call.to_string(),
        session_id: operation.session.to_string(),
        verb: v1::Verb::from(operation.verb.name()).into(),
        state: v1::OperationState::from(operation.state).into(),
        idempotency_key: operation.key.to_string(),
        accepted_at: Some(timestamp(operation.accepted_at)),
        dispatched_at: operation.dispatched_at.map(timestamp),
        finished_at: operation.finished_at.map(timestamp),
        error_reason: failure.as_ref().map(|failure| failure.reason.clone()).unwrap_or_default(),
        error_message: failure.map(|failure| failure.message).unwrap_or_default(),
        result,
    }
}
