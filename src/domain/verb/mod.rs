//! The control verbs: what may be asked of a live call, when, and what it changes.
//!
//! One verb, one file: its request, the states that allow it and its effect. A verb is pure; `calls::control`
//! authorises, de-duplicates and carries it. To add one: the proto, a file here, a line in the registry below
//! and a forward in `grpc`.

mod barge;
mod conference_add;
mod conference_leave;
mod conference_remove;
mod conference_start;
mod get_call_state;
mod hangup;
mod hold;
mod log;
mod monitor_start;
mod monitor_stop;
mod mute;
mod play_audio;
mod recording_pause;
mod recording_resume;
mod request_supervisor;
mod result;
mod scene;
mod schedule_callback;
mod send_dtmf;
mod set_disposition;
mod set_lead_field;
mod set_lead_status;
mod speech;
mod transfer;
mod unhold;
mod unmute;
mod whisper;

use serde::{Deserialize, Serialize};

pub use self::{
    barge::Barge,
    conference_add::ConferenceAdd,
    conference_leave::ConferenceLeave,
    conference_remove::ConferenceRemove,
    conference_start::ConferenceStart,
    get_call_state::GetCallState,
    hangup::Hangup,
    hold::Hold,
    log::{LOG_MAX_BYTES, Log},
    monitor_start::MonitorStart,
    monitor_stop::MonitorStop,
    mute::Mute,
    play_audio::PlayAudio,
    recording_pause::RecordingPause,
    recording_resume::RecordingResume,
    request_supervisor::{RequestSupervisor, Urgency},
    result::{Done, Effect, NodeResult, VerbResult},
    scene::Scene,
    schedule_callback::ScheduleCallback,
    send_dtmf::{Digits, SendDtmf},
    set_disposition::SetDisposition,
    set_lead_field::{LEAD_MAX_BYTES, SetLeadField},
    set_lead_status::SetLeadStatus,
    speech::{Source, Speech},
    transfer::{Destination, Transfer},
    unhold::Unhold,
    unmute::Unmute,
    whisper::Whisper,
};
use super::{
    destination::Outbound,
    error::Result,
    ids::CallId,
    session::{Outcome, Session},
};

/// A free-form JSON object, bounded where it is decoded.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// What each verb says of itself.
pub trait Rules: Sized {
    const EXECUTOR: Executor;

    /// The other call that the verb concerns and that must be looked at before it is judged.
    fn target(&self) -> Option<&CallId> {
        None
    }

    /// Where beyond the platform the verb reaches, once it is prepared: what the tenant's rules are asked about.
    fn outbound(&self) -> Option<Outbound<'_>> {
        None
    }

    /// Completes the request from the session (a default destination) and refuses it where the call's state
    /// does not allow it. Only asked of an active session.
    fn prepare(self, _: &Scene<'_>) -> Result<Self> {
        Ok(self)
    }

    /// Makes of the session what is true once the verb has happened.
    fn effect(&self, _: &mut Session, _: &Done) -> Effect {
        Effect::default()
    }

    /// The outcome of the session when the verb ends it.
    fn ends(&self) -> Option<Outcome> {
        None
    }
}

/// Who carries a verb out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    /// The call's media node, which acknowledges it.
    Node,
    /// The control plane alone, in the transaction that records it.
    ControlPlane,
    /// Nobody: it is a read, and leaves no record.
    Read,
}

/// The registry: declares [`Verb`] and [`VerbName`], and sends each question to the verb's own file.
macro_rules! registry {
    ($($name:ident = $word:literal),+ $(,)?) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub enum Verb { $($name($name)),+ }

        super::words::words!(VerbName { $($name = $word),+ });

        impl Verb {
            pub const fn name(&self) -> VerbName {
                match self { $(Self::$name(_) => VerbName::$name),+ }
            }

            pub const fn executor(&self) -> Executor {
                match self { $(Self::$name(_) => <$name as Rules>::EXECUTOR),+ }
            }

            pub fn target(&self) -> Option<&CallId> {
                match self { $(Self::$name(verb) => verb.target()),+ }
            }

            pub fn outbound(&self) -> Option<Outbound<'_>> {
                match self { $(Self::$name(verb) => verb.outbound()),+ }
            }

            pub fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
                match self { $(Self::$name(verb) => verb.prepare(scene).map(Self::$name)),+ }
            }

            pub fn effect(&self, session: &mut Session, done: &Done) -> Effect {
                match self { $(Self::$name(verb) => verb.effect(session, done)),+ }
            }

            pub fn ends(&self) -> Option<Outcome> {
                match self { $(Self::$name(verb) => verb.ends()),+ }
            }
        }

        $(impl From<$name> for Verb {
            fn from(verb: $name) -> Self {
                Self::$name(verb)
            }
        })+
    };
}

registry! {
    Barge = "BARGE",
    ConferenceAdd = "CONFERENCE_ADD",
    ConferenceLeave = "CONFERENCE_LEAVE",
    ConferenceRemove = "CONFERENCE_REMOVE",
    ConferenceStart = "CONFERENCE_START",
    GetCallState = "GET_CALL_STATE",
    Hangup = "HANGUP",
    Hold = "HOLD",
    Log = "LOG",
    MonitorStart = "MONITOR_START",
    MonitorStop = "MONITOR_STOP",
    Mute = "MUTE",
    PlayAudio = "PLAY_AUDIO",
    RecordingPause = "RECORDING_PAUSE",
    RecordingResume = "RECORDING_RESUME",
    RequestSupervisor = "REQUEST_SUPERVISOR",
    ScheduleCallback = "SCHEDULE_CALLBACK",
    SendDtmf = "SEND_DTMF",
    SetDisposition = "SET_DISPOSITION",
    SetLeadField = "SET_LEAD_FIELD",
    SetLeadStatus = "SET_LEAD_STATUS",
    Transfer = "TRANSFER",
    Unhold = "UNHOLD",
    Unmute = "UNMUTE",
    Whisper = "WHISPER",
}
