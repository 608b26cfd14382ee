//! The verbs as bytes: a valid request of each, and what each one's answer says.

use prost::Message;
use prost_types::{Struct, Timestamp, Value, value::Kind};
use voxgate::{
    domain::Env,
    proto::v1::{
        self as wire, CallState, MonitorMode, ParticipantType, TransferDestination, Verb, transfer_destination,
    },
};

pub(super) const QUEUE: &str = "support";
pub(super) const DISPOSITION: &str = "sold";
pub(super) const NOTES: &str = "wants the blue one";
pub(super) const LEAD_FIELD: &str = "budget";
pub(super) const LEAD_STATUS: wire::LeadStatus = wire::LeadStatus::Connected;
pub(super) const INVITEE: (ParticipantType, &str) = (ParticipantType::Agent, "ada");
/// The one that is brought in before, in a call that is a conference.
pub(super) const FIRST_INVITEE: (ParticipantType, &str) = (ParticipantType::E164, "+15550100");
pub(super) const MONITOR: MonitorMode = MonitorMode::ListenAndWhisper;

/// Every verb that the proto declares.
pub(super) fn verbs() -> Vec<Verb> {
    (1..).map_while(|number| Verb::try_from(number).ok()).collect()
}

/// The RPC's name: SendDtmf of VERB_SEND_DTMF.
pub(super) fn rpc(verb: Verb) -> String {
    let words = verb.as_str_name().split('_').skip(1);
    words.flat_map(|word| [word[..1].to_owned(), word[1..].to_lowercase()]).collect()
}

pub(super) fn path(verb: Verb) -> String {
    format!("/voxgate.v1.AdmissionService/{}", rpc(verb))
}

pub(super) fn logged() -> Struct {
    Struct { fields: [("step".to_owned(), text("greeted"))].into() }
}

pub(super) fn lead_value() -> Value {
    Value { kind: Some(Kind::NumberValue(250.0)) }
}

fn text(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// A valid request on `call`; `target` is the other call and `member` the conference's.
pub(super) fn request(verb: Verb, call: &str, target: &str, member: &str) -> Vec<u8> {
    let (call_id, target_call_id) = (call.to_owned(), target.to_owned());
    let said = || Some("Hello".to_owned());
    macro_rules! with {
        ($request:ident { $($field:ident: $value:expr),* $(,)? }) => {
            wire::$request { call_id, $($field: $value,)* ..Default::default() }.encode_to_vec()
        };
    }
    match verb {
        Verb::Transfer => {
            let queue = transfer_destination::Destination::AgentQueue(QUEUE.to_owned());
            with!(TransferRequest { destination: Some(TransferDestination { destination: Some(queue) }) })
        }
        Verb::Hangup => with!(HangupRequest {}),
        Verb::Log => with!(LogRequest { metadata: Some(logged()) }),
        Verb::Mute => with!(MuteRequest {}),
        Verb::Unmute => with!(UnmuteRequest {}),
        Verb::Hold => with!(HoldRequest {}),
        Verb::Unhold => with!(UnholdRequest {}),
        Verb::SendDtmf => with!(SendDtmfRequest { digits: "1w#".into() }),
        Verb::PlayAudio => with!(PlayAudioRequest { tts_text: said() }),
        Verb::SetDisposition => {
            with!(SetDispositionRequest { disposition: DISPOSITION.into(), notes: Some(NOTES.into()) })
        }
        Verb::RecordingPause => with!(RecordingPauseRequest {}),
        Verb::RecordingResume => with!(RecordingResumeRequest {}),
        Verb::GetCallState => with!(GetCallStateRequest {}),
        Verb::ConferenceStart => with!(ConferenceStartRequest {}),
        Verb::ConferenceAdd => conference_add(call, INVITEE),
        Verb::ConferenceRemove => with!(ConferenceRemoveRequest { member_id: member.into() }),
        Verb::ConferenceLeave => with!(ConferenceLeaveRequest {}),
        Verb::RequestSupervisor => with!(RequestSupervisorRequest { reason: "asked for one".into() }),
        Verb::Whisper => with!(WhisperRequest { target_call_id: target_call_id, tts_text: said() }),
        Verb::Barge => with!(BargeRequest { target_call_id: target_call_id }),
        Verb::MonitorStart => monitor_start(call, target, MONITOR),
        Verb::MonitorStop => with!(MonitorStopRequest { target_call_id: target_call_id }),
        Verb::SetLeadField => {
            with!(SetLeadFieldRequest { field: LEAD_FIELD.into(), value: Some(lead_value()) })
        }
        Verb::SetLeadStatus => with!(SetLeadStatusRequest { status: LEAD_STATUS.into() }),
        Verb::ScheduleCallback => with!(ScheduleCallbackRequest { scheduled_at: Some(tomorrow()) }),
        Verb::Unspecified => unreachable!("no verb"),
    }
}

pub(super) fn conference_add(call: &str, (kind, destination): (ParticipantType, &str)) -> Vec<u8> {
    let request = wire::ConferenceAddRequest {
        call_id: call.to_owned(),
        participant_type: kind.into(),
        destination: destination.to_owned(),
        ..Default::default()
    };
    request.encode_to_vec()
}

pub(super) fn monitor_start(call: &str, target: &str, mode: MonitorMode) -> Vec<u8> {
    let (call_id, target_call_id) = (call.to_owned(), target.to_owned());
    wire::MonitorStartRequest { call_id, target_call_id, mode: mode.into(), ..Default::default() }.encode_to_vec()
}

fn tomorrow() -> Timestamp {
    Timestamp { seconds: Env::system().now().as_secs() + 24 * 3_600, nanos: 0 }
}

/// What an answer says. The last three are unset where the verb's answer has no such field.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Told {
    pub(super) call_id: String,
    pub(super) operation_id: String,
    pub(super) state: i32,
    pub(super) dispatched_at: Option<Timestamp>,
    pub(super) replayed: bool,
    pub(super) outcome: Option<i32>,
    /// What the verb made: a playback, a conference, a member, a callback.
    pub(super) made: Option<String>,
    pub(super) call_state: Option<CallState>,
}

pub(super) fn told(verb: Verb, body: &[u8]) -> Told {
    macro_rules! read {
        ($response:ident $(, $part:ident: $field:ident)*) => {{
            let answer = wire::$response::decode(body).expect("an answer of the verb");
            Told {
                call_id: answer.call_id,
                operation_id: answer.operation_id,
                state: answer.state,
                dispatched_at: answer.dispatched_at,
                replayed: answer.replayed,
                $($part: answer.$field.into(),)*
                ..Told::default()
            }
        }};
    }
    match verb {
        Verb::Transfer => read!(TransferResponse, outcome: outcome),
        Verb::Hangup => read!(HangupResponse, outcome: outcome),
        Verb::Log => read!(LogResponse),
        Verb::Mute => read!(MuteResponse, call_state: call_state),
        Verb::Unmute => read!(UnmuteResponse, call_state: call_state),
        Verb::Hold => read!(HoldResponse, call_state: call_state),
        Verb::Unhold => read!(UnholdResponse, call_state: call_state),
        Verb::SendDtmf => read!(SendDtmfResponse),
        Verb::PlayAudio => read!(PlayAudioResponse, made: playback_id),
        Verb::SetDisposition => read!(SetDispositionResponse),
        Verb::RecordingPause => read!(RecordingPauseResponse, call_state: call_state),
        Verb::RecordingResume => read!(RecordingResumeResponse, call_state: call_state),
        Verb::GetCallState => read!(GetCallStateResponse, call_state: call_state),
        Verb::ConferenceStart => read!(ConferenceStartResponse, made: conference_id, call_state: call_state),
        Verb::ConferenceAdd => read!(ConferenceAddResponse, made: member_id, call_state: call_state),
        Verb::ConferenceRemove => read!(ConferenceRemoveResponse, call_state: call_state),
        Verb::ConferenceLeave => read!(ConferenceLeaveResponse, outcome: outcome),
        Verb::RequestSupervisor => read!(RequestSupervisorResponse),
        Verb::Whisper => read!(WhisperResponse),
        Verb::Barge => read!(BargeResponse, call_state: call_state),
        Verb::MonitorStart => read!(MonitorStartResponse, call_state: call_state),
        Verb::MonitorStop => read!(MonitorStopResponse, call_state: call_state),
        Verb::SetLeadField => read!(SetLeadFieldResponse),
        Verb::SetLeadStatus => read!(SetLeadStatusResponse),
        Verb::ScheduleCallback => read!(ScheduleCallbackResponse, made: callback_id),
        Verb::Unspecified => unreachable!("no verb"),
    }
}
