//! Verbs on the wire: requests in, typed answers out.

use std::time::Duration;

use super::{
    behavior::read_voice,
    read, read_enum, read_optional,
    session::{write_call_state, write_outcome},
    value::{read_object, read_timestamp, read_value_within, timestamp},
    wire_enum,
};
use crate::{
    calls::Executed,
    domain::{
        behavior::Voice,
        clock::Timestamp,
        conference::{ID_MAX_CHARS, Invitee, MonitorMode, ParticipantType},
        session::{LeadStatus, Party},
        text::{MediaUrls, bounded_text, optional_prose, required_prose},
        verb::{
            Barge, ConferenceAdd, ConferenceLeave, ConferenceRemove, ConferenceStart, Destination, GetCallState,
            Hangup, Hold, Log, MonitorStart, MonitorStop, Mute, PlayAudio, RecordingPause, RecordingResume,
            RequestSupervisor, ScheduleCallback, SendDtmf, SetDisposition, SetLeadField, SetLeadStatus, Source, Speech,
            Transfer, Unhold, Unmute, Urgency, Verb, Whisper,
        },
        violations::{Fault, Violations},
    },
    proto::v1,
};

const TTS_MAX_CHARS: usize = 4_000;
const DISPOSITION_MAX_CHARS: usize = 100;
const NOTES_MAX_CHARS: usize = 4_000;
const RECORDING_REASON_MAX_CHARS: usize = 200;
const REASON_MAX_CHARS: usize = 500;
const LEAD_FIELD_MAX_CHARS: usize = 64;
const LEAD_VALUE_MAX_BYTES: u64 = 8 * 1024;
/// How far ahead a callback may lie: a leap year.
const CALLBACK_WITHIN: Duration = Duration::from_hours(366 * 24);

wire_enum!(Party, v1::MuteTarget, { Caller, Agent });
wire_enum!(Urgency, v1::Urgency, { Low, High });
wire_enum!(MonitorMode, v1::MonitorMode, { Listen, ListenAndWhisper });
wire_enum!(ParticipantType, v1::ParticipantType, { E164, SipUri, Agent, Supervisor });
wire_enum!(LeadStatus, v1::LeadStatus, {
    Pending, Dialing, Connected, Busy, NoAnswer, Failed, Dnd, Completed, Callback,
});

/// What a verb is read by beside its request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VerbContext {
    pub(crate) now: Timestamp,
    pub(crate) media_urls: MediaUrls,
}

/// A verb's request, seen as what all of them have in common and the verb itself.
pub(crate) trait VerbRequest {
    fn call_id(&self) -> &str;
    fn idempotency_key(&self) -> &str;
    /// What it is aimed at beside its call, as the caller wrote it: for the audit log.
    fn target(&self) -> String;
    fn verb(self, context: VerbContext, faults: &mut Violations) -> Option<Verb>;
}

/// Implements the common part of [`VerbRequest`] and hands the rest to `$read`.
macro_rules! verb_request {
    ($request:ident $(at $target:expr)?, |$wire:pat_param, $faults:pat_param| $read:expr) => {
        verb_request!($request $(at $target)?, |$wire, $faults, _| $read);
    };
    ($request:ident $(at $target:expr)?, |$wire:pat_param, $faults:pat_param, $context:pat_param| $read:expr) => {
        impl VerbRequest for v1::$request {
            fn call_id(&self) -> &str {
                &self.call_id
            }

            fn idempotency_key(&self) -> &str {
                &self.idempotency_key
            }

            fn target(&self) -> String {
                let told: &[fn(&Self) -> String] = &[$($target)?];
                told.first().map_or_else(String::new, |told| told(self))
            }

            fn verb(self, $context: VerbContext, $faults: &mut Violations) -> Option<Verb> {
                let $wire = self;
                $read
            }
        }
    };
}

verb_request!(BargeRequest at |wire| wire.target_call_id.clone(), |wire, faults| Some(
    Barge { target: read("target_call_id", &wire.target_call_id, faults)? }.into()
));
verb_request!(ConferenceAddRequest at invitee_of, |wire, faults| {
    let kind = required(read_enum("participant_type", wire.participant_type, faults));
    let kind = faults.take("participant_type", kind);
    let invitee = kind.map(|kind| Invitee::new(kind, wire.destination));
    let invitee = invitee.and_then(|invitee| faults.take("destination", invitee));
    let metadata = faults.take("metadata", read_object(wire.metadata))?;
    Some(ConferenceAdd { invitee: invitee?, metadata, conference: String::new() }.into())
});
verb_request!(ConferenceLeaveRequest, |_, _| Some(ConferenceLeave::default().into()));
verb_request!(ConferenceRemoveRequest at |wire| wire.member_id.clone(), |wire, faults| {
    let member = faults.take("member_id", bounded_text(wire.member_id, ID_MAX_CHARS))?;
    Some(ConferenceRemove { member, conference: String::new() }.into())
});
verb_request!(ConferenceStartRequest, |_, _| Some(ConferenceStart.into()));
verb_request!(GetCallStateRequest, |_, _| Some(GetCallState.into()));
verb_request!(HangupRequest, |wire, faults| {
    let metadata = faults.take("metadata", read_object(wire.metadata))?;
    Some(Hangup { metadata }.into())
});
verb_request!(HoldRequest, |wire, faults, context| {
    let moh_url = wire.moh_url.filter(|url| !url.is_empty());
    let moh_url = moh_url.map(|url| context.media_urls.parse(url)).transpose();
    Some(Hold { moh_url: faults.take("moh_url", moh_url)? }.into())
});
verb_request!(LogRequest, |wire, faults| {
    let metadata = wire.metadata.ok_or_else(Fault::required);
    let metadata = metadata.and_then(|metadata| read_object(Some(metadata)));
    Some(Log { metadata: faults.take("metadata", metadata)? }.into())
});
verb_request!(MonitorStartRequest at |wire| wire.target_call_id.clone(), |wire, faults| {
    let target = read("target_call_id", &wire.target_call_id, faults);
    let mode = read_enum("mode", wire.mode, faults).unwrap_or(MonitorMode::Listen);
    Some(MonitorStart { target: target?, mode }.into())
});
verb_request!(MonitorStopRequest at |wire| wire.target_call_id.clone(), |wire, faults| Some(
    MonitorStop { target: read("target_call_id", &wire.target_call_id, faults)? }.into()
));
verb_request!(MuteRequest, |wire, faults| Some(
    Mute { party: read_enum("target", wire.target, faults).unwrap_or(Party::Caller) }.into()
));
verb_request!(PlayAudioRequest, |wire, faults, context| {
    let speech = read_speech((wire.audio_url, context.media_urls), wire.tts_text, wire.voice, faults)?;
    Some(PlayAudio { speech }.into())
});
verb_request!(RecordingPauseRequest, |wire, faults| {
    let reason = faults.take("reason", optional_prose(wire.reason, RECORDING_REASON_MAX_CHARS))?;
    Some(RecordingPause { reason }.into())
});
verb_request!(RecordingResumeRequest, |_, _| Some(RecordingResume.into()));
verb_request!(RequestSupervisorRequest, |wire, faults| {
    let reason = faults.take("reason", required_prose(Some(wire.reason), REASON_MAX_CHARS));
    let urgency = read_enum("urgency", wire.urgency, faults).unwrap_or(Urgency::Low);
    Some(RequestSupervisor { reason: reason?, urgency }.into())
});
verb_request!(ScheduleCallbackRequest, |wire, faults, context| {
    let at = wire.scheduled_at.ok_or_else(Fault::required).and_then(read_timestamp);
    let at = faults.take("scheduled_at", at.and_then(|at| within_a_year(at, context.now)));
    let reason = faults.take("reason", optional_prose(wire.reason, REASON_MAX_CHARS));
    let agent = read_optional("voice_agent_id", wire.voice_agent_id.as_deref(), faults);
    Some(ScheduleCallback { at: at?, reason: reason?, agent }.into())
});
verb_request!(SendDtmfRequest, |wire, faults| Some(SendDtmf { digits: read("digits", &wire.digits, faults)? }.into()));
verb_request!(SetDispositionRequest, |wire, faults| {
    let disposition = required_prose(Some(wire.disposition), DISPOSITION_MAX_CHARS);
    let disposition = faults.take("disposition", disposition);
    let notes = faults.take("notes", optional_prose(wire.notes, NOTES_MAX_CHARS))?;
    Some(SetDisposition { disposition: disposition?, notes }.into())
});
verb_request!(SetLeadFieldRequest, |wire, faults| {
    let field = faults.take("field", bounded_text(wire.field, LEAD_FIELD_MAX_CHARS));
    let value = wire.value.filter(|value| value.kind.is_some()).ok_or_else(Fault::required);
    let value = faults.take("value", value.and_then(|value| read_value_within(value, LEAD_VALUE_MAX_BYTES)));
    Some(SetLeadField { field: field?, value: value? }.into())
});
verb_request!(SetLeadStatusRequest, |wire, faults| {
    let status = required(read_enum("status", wire.status, faults));
    Some(SetLeadStatus { status: faults.take("status", status)? }.into())
});
verb_request!(TransferRequest at destination_of, |wire, faults| {
    let destination = wire.destination.and_then(|destination| destination.destination);
    let destination = destination.map(|destination| read_destination(destination, faults));
    let metadata = faults.take("metadata", read_object(wire.metadata))?;
    Some(Transfer { destination: destination.flatten(), metadata }.into())
});
verb_request!(UnholdRequest, |_, _| Some(Unhold.into()));
verb_request!(UnmuteRequest, |wire, faults| Some(
    Unmute { party: read_enum("target", wire.target, faults).unwrap_or(Party::Caller) }.into()
));
verb_request!(WhisperRequest at |wire| wire.target_call_id.clone(), |wire, faults, context| {
    let target = read("target_call_id", &wire.target_call_id, faults);
    let speech = read_speech((wire.audio_url, context.media_urls), wire.tts_text, wire.voice, faults);
    Some(Whisper { target: target?, speech: speech? }.into())
});

fn invitee_of(wire: &v1::ConferenceAddRequest) -> String {
    let kind = match wire.participant_type() {
        v1::ParticipantType::Unspecified => "unspecified",
        v1::ParticipantType::E164 => "e164",
        v1::ParticipantType::SipUri => "sip_uri",
        v1::ParticipantType::Agent => "agent",
        v1::ParticipantType::Supervisor => "supervisor",
    };
    format!("{kind}:{}", wire.destination)
}

fn destination_of(wire: &v1::TransferRequest) -> String {
    use v1::transfer_destination::Destination as Wire;
    match wire.destination.as_ref().and_then(|destination| destination.destination.as_ref()) {
        Some(Wire::AgentQueue(name)) => format!("agent_queue:{name}"),
        Some(Wire::E164(number)) => format!("e164:{number}"),
        Some(Wire::SipUri(uri)) => format!("sip_uri:{uri}"),
        // The agent's own, which is not the caller's word.
        None => String::new(),
    }
}

/// Unspecified is no answer to what must be said.
fn required<T>(read: Option<T>) -> Result<T, Fault> {
    read.ok_or_else(Fault::required)
}

fn within_a_year(at: Timestamp, now: Timestamp) -> Result<Timestamp, Fault> {
    if now < at && at <= now.plus(CALLBACK_WITHIN) {
        return Ok(at);
    }
    Err(Fault::new("must be in the future, and within a year"))
}

fn read_speech(
    (audio_url, media_urls): (Option<String>, MediaUrls),
    tts_text: Option<String>,
    voice: Option<v1::Voice>,
    faults: &mut Violations,
) -> Option<Speech> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let source = match (given(audio_url), given(tts_text)) {
        (Some(url), None) => faults.take("audio_url", media_urls.parse(url).map(Source::AudioUrl)),
        (None, Some(text)) => faults.take("tts_text", required_prose(Some(text), TTS_MAX_CHARS).map(Source::TtsText)),
        (Some(_), Some(_)) | (None, None) => {
            faults.take("audio_url", Err(Fault::new("or tts_text is required, and not both")))
        }
    };
    let voice = match voice {
        Some(voice) => Voice::parse(read_voice(voice), faults)?,
        None => None,
    };
    Some(Speech { source: source?, voice })
}

fn read_destination(wire: v1::transfer_destination::Destination, faults: &mut Violations) -> Option<Destination> {
    use v1::transfer_destination::Destination as Wire;
    match wire {
        Wire::AgentQueue(name) => faults.take("destination.agent_queue", Destination::agent_queue(name)),
        Wire::E164(number) => faults.take("destination.e164", Destination::e164(number)),
        Wire::SipUri(uri) => faults.take("destination.sip_uri", Destination::sip_uri(uri)),
    }
}

/// Makes the answer of a verb: what all of them have in common, and fields of its own.
macro_rules! verb_response {
    ($response:ident { $($field:ident: $value:expr),* $(,)? }) => {
        impl From<Executed> for v1::$response {
            fn from(executed: Executed) -> Self {
                Self {
                    $($field: $value(&executed).into(),)*
                    call_id: executed.operation.call.to_string(),
                    operation_id: executed.operation.id.to_string(),
                    state: v1::OperationState::from(executed.operation.state).into(),
                    dispatched_at: executed.operation.dispatched_at.map(timestamp),
                    replayed: executed.replayed,
                }
            }
        }
    };
}

fn state_after(executed: &Executed) -> v1::CallState {
    write_call_state(&executed.result())
}

fn outcome(executed: &Executed) -> i32 {
    write_outcome(executed.result().outcome)
}

fn playback(executed: &Executed) -> String {
    executed.result().playback_id.unwrap_or_default()
}

fn conference(executed: &Executed) -> String {
    executed.result().conference_id.unwrap_or_default()
}

fn member(executed: &Executed) -> String {
    executed.result().member_id.unwrap_or_default()
}

fn callback(executed: &Executed) -> String {
    executed.result().callback_id.unwrap_or_default()
}

verb_response!(BargeResponse { call_state: state_after });
verb_response!(ConferenceAddResponse { member_id: member, call_state: state_after });
verb_response!(ConferenceLeaveResponse { outcome: outcome });
verb_response!(ConferenceRemoveResponse { call_state: state_after });
verb_response!(ConferenceStartResponse { conference_id: conference, call_state: state_after });
verb_response!(GetCallStateResponse { call_state: state_after });
verb_response!(HangupResponse { outcome: outcome });
verb_response!(HoldResponse { call_state: state_after });
verb_response!(LogResponse {});
verb_response!(MonitorStartResponse { call_state: state_after });
verb_response!(MonitorStopResponse { call_state: state_after });
verb_response!(MuteResponse { call_state: state_after });
verb_response!(PlayAudioResponse { playback_id: playback });
verb_response!(RecordingPauseResponse { call_state: state_after });
verb_response!(RecordingResumeResponse { call_state: state_after });
verb_response!(RequestSupervisorResponse {});
verb_response!(ScheduleCallbackResponse { callback_id: callback });
verb_response!(SendDtmfResponse {});
verb_response!(SetDispositionResponse {});
verb_response!(SetLeadFieldResponse {});
verb_response!(SetLeadStatusResponse {});
verb_response!(TransferResponse { outcome: outcome });
verb_response!(UnholdResponse { call_state: state_after });
verb_response!(UnmuteResponse { call_state: state_after });
verb_response!(WhisperResponse {});
