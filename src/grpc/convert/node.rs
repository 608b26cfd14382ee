//! The node stream on the wire.

use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::{
    lease::write_fate,
    read, read_enum,
    session::write_outcome,
    value::{duration, object, read_duration, timestamp},
    voice_agent::write_routing,
};
use crate::{
    calls::Welcome,
    domain::{
        Error, Result,
        behavior::Voice,
        conference::{ID_MAX_CHARS, MEMBERS_MAX},
        event::Recording,
        ids::{CallId, OperationId},
        node::{Assignment, CallEvent, Command, Hello, LiveCall, NodeProfile, ToNode},
        operation::{Acknowledgement, Failure},
        text::{bounded_text, parse_recording_url},
        trace::TraceContext,
        verb::{Destination, NodeResult, PlayAudio, Source, Speech, Verb, Whisper},
        violations::{Fault, Violations},
        voice_agent::Subprotocol,
    },
    proto::v1::{self, control_message::Message as Control},
};

const CAPACITY_MAX: u32 = 100_000;
/// Calls that one message presents: as many as fit into the largest message, whatever their ids.
const LIVE_CALLS_MAX: usize = 2_000;
/// Longer than any call that a lease outlives.
const RECORDING_LONGEST: Duration = Duration::from_hours(24 * 7);
/// Of a node's own words, in logs and answers.
const WORDS_MAX_CHARS: usize = 500;

pub(crate) fn read_hello(wire: v1::Hello) -> Result<Hello> {
    let mut faults = Violations::default();
    let node = read("node_id", &wire.node_id, &mut faults);
    let subprotocol = read_enum("subprotocol", wire.subprotocol, &mut faults).unwrap_or(Subprotocol::AudioDrachtioOrg);
    let capacity = u32::try_from(wire.capacity).ok().filter(|capacity| (1..=CAPACITY_MAX).contains(capacity));
    let capacity = faults.take("capacity", capacity.ok_or_else(|| Fault::new(format!("must be 1 to {CAPACITY_MAX}"))));
    let calls = read_live_calls(wire.calls, &mut faults);
    let version = words(&wire.version);
    let hello = (|| {
        let profile = NodeProfile { subprotocol, capacity: capacity?, version };
        Some(Hello { node: node?, sandbox: wire.sandbox, profile, calls })
    })();
    faults.into_result(hello).map_err(|faults| Error::from(faults).under("hello"))
}

fn read_live_calls(wire: Vec<v1::LiveCall>, faults: &mut Violations) -> Vec<LiveCall> {
    if wire.len() > LIVE_CALLS_MAX {
        faults.add("calls", Fault::new(format!("must have at most {LIVE_CALLS_MAX} entries")));
        return Vec::new();
    }
    let read_one = |(index, live): (usize, v1::LiveCall)| {
        let mut own = Violations::default();
        let call = read("call_id", &live.call_id, &mut own);
        let lease = read("lease_id", &live.lease_id, &mut own);
        faults.absorb(&format!("calls[{index}]"), own);
        call.zip(lease).map(|(call, lease)| LiveCall { call, lease })
    };
    wire.into_iter().enumerate().filter_map(read_one).collect()
}

pub(crate) fn read_heartbeat(wire: v1::Heartbeat) -> Result<Vec<LiveCall>> {
    let mut faults = Violations::default();
    let calls = read_live_calls(wire.calls, &mut faults);
    Ok(faults.into_result(Some(calls))?)
}

pub(crate) fn read_command_result(wire: v1::CommandResult) -> Result<(OperationId, Acknowledgement)> {
    use v1::command_result::Result as Wire;
    let mut faults = Violations::default();
    let operation = read("operation_id", &wire.operation_id, &mut faults);
    let answer = faults.take("result", wire.result.ok_or_else(Fault::required));
    let answer = answer.map(|answer| match answer {
        Wire::Succeeded(succeeded) => Ok(NodeResult {
            playback_id: named(succeeded.playback_id),
            conference_id: named(succeeded.conference_id),
            member_id: named(succeeded.member_id),
        }),
        Wire::Failed(failed) => Err(Failure { reason: words(&failed.reason), message: words(&failed.message) }),
    });
    Ok(faults.into_result(operation.zip(answer))?)
}

pub(crate) fn read_call_event(wire: v1::CallEvent) -> Result<(CallId, CallEvent)> {
    use v1::call_event::Event as Wire;
    let mut faults = Violations::default();
    let call = read("call_id", &wire.call_id, &mut faults);
    let event = faults.take("event", wire.event.ok_or_else(Fault::required));
    let event = event.and_then(|event| match event {
        Wire::WsConnected(_) => Some(CallEvent::WsConnected),
        Wire::WsDisconnected(_) => Some(CallEvent::WsDisconnected),
        Wire::Answered(_) => Some(CallEvent::Answered),
        Wire::CallerHangup(_) => Some(CallEvent::CallerHangup),
        Wire::PartyState(state) => Some(CallEvent::PartyState {
            held: state.held,
            caller_muted: state.caller_muted,
            agent_muted: state.agent_muted,
        }),
        Wire::TurnCount(count) => Some(CallEvent::TurnCount(u32::try_from(count.turns).unwrap_or(0))),
        Wire::ConferenceState(state) => Some(CallEvent::Conference(named(Some(state.conference_id)).map(|id| {
            let members = state.member_ids.into_iter().filter_map(|id| named(Some(id))).take(MEMBERS_MAX).collect();
            (id, members)
        }))),
        Wire::RecordingReady(ready) => read_recording(ready, &mut faults).map(CallEvent::RecordingReady),
        Wire::Error(error) => Some(CallEvent::Error { code: words(&error.code), message: words(&error.message) }),
    });
    Ok(faults.into_result(call.zip(event))?)
}

fn read_recording(wire: v1::RecordingReady, faults: &mut Violations) -> Option<Recording> {
    let url = faults.take("recording_ready.url", parse_recording_url(wire.url));
    let longest = (Duration::ZERO, RECORDING_LONGEST);
    let duration = wire
        .duration
        .map(|duration| read_duration("recording_ready.duration", Some(duration), longest, Duration::ZERO, faults));
    url.map(|url| Recording { url, stereo: wire.stereo, duration })
}

/// What a node says in its own words, shortened and without control characters.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(WORDS_MAX_CHARS).collect()
}

/// What a node names, if it can be named so.
fn named(text: Option<String>) -> Option<String> {
    text.and_then(|text| bounded_text(text, ID_MAX_CHARS).ok())
}

pub(crate) fn write_welcome(welcome: &Welcome) -> v1::ControlMessage {
    wrap(Control::Welcome(v1::Welcome {
        heartbeat_interval: Some(duration(welcome.heartbeat_interval)),
        reconnect_grace: Some(duration(welcome.reconnect_grace)),
        leases: welcome.fates.iter().map(|(call, fate)| write_fate(call, *fate)).collect(),
        server_time: Some(timestamp(welcome.now)),
    }))
}

pub(crate) fn write(message: ToNode) -> v1::ControlMessage {
    wrap(match message {
        ToNode::CallAssigned(assignment) => Control::CallAssigned(write_assignment(&assignment)),
        ToNode::Command(command) => Control::Command(write_command(*command)),
        ToNode::TokenRefresh { call, token, expires_at } => Control::TokenRefresh(v1::TokenRefresh {
            call_id: call.to_string(),
            callback_token: token,
            expires_at: Some(timestamp(expires_at)),
        }),
        ToNode::LeaseLost { call, lease } => {
            Control::LeaseLost(v1::LeaseLost { call_id: call.to_string(), lease_id: lease.to_string() })
        }
        ToNode::EndCall { call, outcome, reason } => {
            Control::EndCall(v1::EndCall { call_id: call.to_string(), outcome: write_outcome(Some(outcome)), reason })
        }
        ToNode::Drain { deadline } => Control::Drain(v1::Drain { deadline: Some(timestamp(deadline)) }),
    })
}

const fn wrap(message: Control) -> v1::ControlMessage {
    v1::ControlMessage { message: Some(message) }
}

fn write_assignment(assignment: &Assignment) -> v1::CallAssigned {
    let session = &assignment.session;
    // The node that hosts the call always gets the agent's secret: it opens the WebSocket.
    let secret = assignment.auth_token.as_ref().map(|secret| secret.expose_secret().to_owned());
    v1::CallAssigned {
        slot: Some(v1::Slot {
            call_id: session.call.to_string(),
            session_id: session.id.to_string(),
            lease_id: assignment.lease.to_string(),
            fence: session.fence,
            expires_at: Some(timestamp(assignment.lease_expires_at)),
            revision: session.agent_revision,
            callback_token: assignment.token.clone(),
            token_expires_at: Some(timestamp(assignment.token_expires_at)),
            routing: Some(write_routing(&session.routing, secret)),
            voice_agent_id: session.agent.to_string(),
            node_id: session.node.as_ref().map(ToString::to_string),
            ..v1::Slot::default()
        }),
        call_id: session.call.to_string(),
        direction: v1::Direction::from(session.direction).into(),
        sandbox: session.sandbox,
        metadata: Some(object(&session.metadata)),
    }
}

fn write_command(command: Command) -> v1::Command {
    v1::Command {
        operation_id: command.operation.to_string(),
        call_id: command.call.to_string(),
        deadline: Some(timestamp(command.deadline)),
        fence: command.fence,
        verb: write_verb(command.verb),
        traceparent: command.trace.as_ref().map(TraceContext::parent),
        tracestate: command.trace.as_ref().map(|trace| trace.state().to_owned()).filter(|state| !state.is_empty()),
    }
}

/// Nothing for a verb that no node ever receives.
fn write_verb(verb: Verb) -> Option<v1::command::Verb> {
    use v1::command::Verb as Wire;
    Some(match verb {
        Verb::GetCallState(_)
        | Verb::Log(_)
        | Verb::RequestSupervisor(_)
        | Verb::ScheduleCallback(_)
        | Verb::SetDisposition(_)
        | Verb::SetLeadField(_)
        | Verb::SetLeadStatus(_) => return None,
        Verb::Barge(barge) => Wire::Barge(v1::BargeCommand { target_call_id: barge.target.to_string() }),
        Verb::ConferenceAdd(add) => Wire::ConferenceAdd(v1::ConferenceAddCommand {
            conference_id: add.conference,
            participant_type: v1::ParticipantType::from(add.invitee.kind).into(),
            destination: add.invitee.destination,
            metadata: Some(object(&add.metadata)),
        }),
        Verb::ConferenceLeave(leave) => {
            Wire::ConferenceLeave(v1::ConferenceLeaveCommand { conference_id: leave.conference })
        }
        Verb::ConferenceRemove(remove) => Wire::ConferenceRemove(v1::ConferenceRemoveCommand {
            conference_id: remove.conference,
            member_id: remove.member,
        }),
        Verb::ConferenceStart(_) => Wire::ConferenceStart(v1::ConferenceStartCommand {}),
        Verb::Hangup(hangup) => Wire::Hangup(v1::HangupCommand { metadata: Some(object(&hangup.metadata)) }),
        Verb::Hold(hold) => Wire::Hold(v1::HoldCommand { moh_url: hold.moh_url }),
        Verb::MonitorStart(start) => Wire::MonitorStart(v1::MonitorStartCommand {
            target_call_id: start.target.to_string(),
            mode: v1::MonitorMode::from(start.mode).into(),
        }),
        Verb::MonitorStop(stop) => {
            Wire::MonitorStop(v1::MonitorStopCommand { target_call_id: stop.target.to_string() })
        }
        Verb::Mute(mute) => Wire::Mute(v1::MuteCommand { target: v1::MuteTarget::from(mute.party).into() }),
        Verb::PlayAudio(PlayAudio { speech: Speech { source, voice } }) => {
            use v1::play_audio_command::Source as To;
            let source = match source {
                Source::AudioUrl(url) => To::AudioUrl(url),
                Source::TtsText(text) => To::TtsText(text),
            };
            Wire::PlayAudio(v1::PlayAudioCommand { source: Some(source), voice: voice.map(write_voice) })
        }
        Verb::RecordingPause(pause) => Wire::RecordingPause(v1::RecordingPauseCommand { reason: pause.reason }),
        Verb::RecordingResume(_) => Wire::RecordingResume(v1::RecordingResumeCommand {}),
        Verb::SendDtmf(dtmf) => Wire::SendDtmf(v1::SendDtmfCommand { digits: dtmf.digits.as_str().to_owned() }),
        Verb::Transfer(transfer) => Wire::Transfer(v1::TransferCommand {
            destination: transfer.destination.map(write_destination),
            metadata: Some(object(&transfer.metadata)),
        }),
        Verb::Unhold(_) => Wire::Unhold(v1::UnholdCommand {}),
        Verb::Unmute(unmute) => Wire::Unmute(v1::UnmuteCommand { target: v1::MuteTarget::from(unmute.party).into() }),
        Verb::Whisper(Whisper { target, speech: Speech { source, voice } }) => {
            use v1::whisper_command::Source as To;
            let source = match source {
                Source::AudioUrl(url) => To::AudioUrl(url),
                Source::TtsText(text) => To::TtsText(text),
            };
            let target_call_id = target.to_string();
            Wire::Whisper(v1::WhisperCommand { target_call_id, source: Some(source), voice: voice.map(write_voice) })
        }
    })
}

fn write_voice(voice: Voice) -> v1::Voice {
    v1::Voice { voice_id: voice.voice_id, language_code: voice.language_code }
}

fn write_destination(destination: Destination) -> v1::transfer_command::Destination {
    use v1::transfer_command::Destination as Wire;
    match destination {
        Destination::AgentQueue(name) => Wire::AgentQueue(name),
        Destination::E164(number) => Wire::E164(number),
        Destination::SipUri(uri) => Wire::SipUri(uri),
    }
}
