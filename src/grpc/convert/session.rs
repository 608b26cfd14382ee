//! Sessions, call states and operations on the wire.

use super::{
    lease::write_usage,
    number, read_enum,
    value::{object, timestamp, value},
    wire_enum,
};
use crate::{
    domain::{
        conference::{Conference, Member, Monitor},
        operation::{Operation, OperationState},
        session::{LogEntry, Outcome, Session, SessionStatus},
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

wire_enum!(VerbName, v1::Verb, {
    Barge, ConferenceAdd, ConferenceLeave, ConferenceRemove, ConferenceStart, GetCallState, Hangup, Hold, Log, MonitorStart, MonitorStop, Mute, PlayAudio, RecordingPause, RecordingResume, RequestSupervisor, ScheduleCallback, SendDtmf, SetDisposition, SetLeadField, SetLeadStatus, Transfer, Unhold, Unmute, Whisper,
});

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
    let direct = session.direct.as_deref();
    v1::Session {
        participant: direct.and_then(|direct| direct.participant.as_ref()).map(object),
        context: direct.and_then(|direct| direct.context.clone()),
        initial_message: direct.and_then(|direct| direct.initial_message.clone()),
        websocket_url: direct.map(|direct| direct.websocket_url.clone()),
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
        expires_at: Some(timestamp(session.expires_at())),
        metadata: Some(object(&session.metadata)),
        turn_count: number(session.state.turn_count),
        sandbox: session.sandbox,
        disposition: session.record.disposition.clone(),
        notes: session.record.notes.clone(),
        lead_fields: session.record.lead_fields.iter().map(|(field, json)| (field.clone(), value(json))).collect(),
        lead_status: session.record.lead_status.map_or(v1::LeadStatus::Unspecified, Into::into).into(),
        ..v1::Session::default()
    }
}

/// With what its log holds.
pub(crate) fn write_with_log(session: &Session, log: &[LogEntry]) -> v1::Session {
    let entry = |entry: &LogEntry| v1::SessionLogEntry {
        logged_at: Some(timestamp(entry.at)),
        metadata: Some(object(&entry.metadata)),
    };
    v1::Session { log: log.iter().map(entry).collect(), ..write(session) }
}

/// The call as a verb left it: its session was active then, whatever has become of it since.
pub(crate) fn write_call_state(result: &VerbResult) -> v1::CallState {
    let state = &result.call_state;
    let phase = if result.answered { v1::CallPhase::Active } else { v1::CallPhase::Pending };
    let recording = if state.recording_paused { v1::RecordingState::Paused } else { v1::RecordingState::Active };
    let leg = |role: v1::LegRole, connected, muted, held| v1::Leg {
        role: role.into(),
        member_id: String::new(),
        connected,
        muted,
        held,
    };
    let mut legs = vec![
        leg(v1::LegRole::Caller, result.answered, state.caller_muted, state.held),
        leg(v1::LegRole::Agent, state.ws_connected, state.agent_muted, false),
    ];
    let members = state.conference.iter().flat_map(|conference| &conference.members);
    legs.extend(
        members.map(|member| v1::Leg { member_id: member.id.clone(), ..leg(v1::LegRole::Member, true, false, false) }),
    );
    v1::CallState {
        phase: phase.into(),
        held: state.held,
        caller_muted: state.caller_muted,
        agent_muted: state.agent_muted,
        recording: recording.into(),
        conference: state.conference.as_ref().map(write_conference),
        monitors: state.monitors.iter().map(write_monitor).collect(),
        agent_usage: result
            .usage
            .map(|usage| v1::Usage { voice_agent_id: result.agent.clone(), ..write_usage(usage, None) }),
        status: v1::SessionStatus::Active.into(),
        outcome: write_outcome(None),
        ws_connected: state.ws_connected,
        turn_count: number(state.turn_count),
        node_id: result.node.clone().unwrap_or_default(),
        legs,
    }
}

fn write_conference(conference: &Conference) -> v1::Conference {
    let member = |member: &Member| v1::ConferenceMember {
        member_id: member.id.clone(),
        participant_type: member
            .invitee
            .as_ref()
            .map_or(v1::ParticipantType::Unspecified, |invitee| invitee.kind.into())
            .into(),
        destination: member.invitee.as_ref().map(|invitee| invitee.destination.clone()).unwrap_or_default(),
    };
    v1::Conference { conference_id: conference.id.clone(), members: conference.members.iter().map(member).collect() }
}

fn write_monitor(monitor: &Monitor) -> v1::Monitor {
    v1::Monitor {
        target_call_id: monitor.target.to_string(),
        mode: v1::MonitorMode::from(monitor.mode).into(),
        barged: monitor.barged,
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
