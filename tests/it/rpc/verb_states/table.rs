//! What the contract says of each verb in each state for each credential: which is granted, and how the others are
//! refused. Written from the contract and the proto comments, so that it can disagree with the service. They name three
//! words of `state` (not_held, already_muted, no_conference); the others are as the service says them, pinned here.

use std::collections::BTreeMap;

use tonic::Code;
use voxgate::proto::v1::Verb;

/// What is true of the call when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The node has reported nothing yet. A call is admitted when it is answered, so its verbs need no report of that.
    BeforeAnswer,
    Active,
    Held,
    /// The caller is.
    Muted,
    RecordingPaused,
    /// With one member that was brought in.
    InConference,
    /// It has a monitor of mode LISTEN on another call.
    Listening,
    /// It has a monitor of mode LISTEN_AND_WHISPER on another call.
    Monitored,
    /// By a Hangup.
    Ended,
}

impl State {
    pub(super) const ALL: [Self; 9] = [
        Self::BeforeAnswer,
        Self::Active,
        Self::Held,
        Self::Muted,
        Self::RecordingPaused,
        Self::InConference,
        Self::Listening,
        Self::Monitored,
        Self::Ended,
    ];
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Credential {
    /// Of the call itself; it was good once.
    ExpiredToken,
    /// Of the call itself; it was good until a RevokeToken before the verb.
    RevokedToken,
    /// What the call's own token says, signed by a key that is not the service's.
    ForgedToken,
    /// Of another call of the same tenant.
    OtherCallsToken,
    /// Of the tenant, with every scope but the one that verbs need.
    KeyWithoutTheScope,
    OtherTenantsAdminKey,
    OwnToken,
    /// Of the tenant, with the scope that verbs need and no other.
    AdminKey,
}

impl Credential {
    /// First those that nothing is granted to: they can share a call.
    pub(super) const ALL: [Self; 8] = [
        Self::ExpiredToken,
        Self::RevokedToken,
        Self::ForgedToken,
        Self::OtherCallsToken,
        Self::KeyWithoutTheScope,
        Self::OtherTenantsAdminKey,
        Self::OwnToken,
        Self::AdminKey,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// OPERATION_STATE_SUCCEEDED, and the verb's effect.
    Granted,
    Unauthenticated(&'static str),
    Revoked,
    ScopeRequired,
    NotBoundToToken,
    SessionNotFound,
    Terminated,
    /// The state does not allow it, and is named so.
    Invalid(&'static str),
    /// What the two calls would have to have with each other.
    Unrelated(&'static str),
}

/// First the credential is judged, then whether the session lives, then the relationship to the other call, then the
/// call's own state.
pub(super) fn expected(verb: Verb, state: State, credential: Credential) -> Verdict {
    let is_admin = match credential {
        Credential::ExpiredToken => return Verdict::Unauthenticated("CREDENTIAL_EXPIRED"),
        Credential::RevokedToken => return Verdict::Revoked,
        Credential::ForgedToken => return Verdict::Unauthenticated("CREDENTIAL_INVALID"),
        Credential::OtherCallsToken => return Verdict::NotBoundToToken,
        Credential::KeyWithoutTheScope => return Verdict::ScopeRequired,
        Credential::OtherTenantsAdminKey => return Verdict::SessionNotFound,
        Credential::OwnToken => false,
        Credential::AdminKey => true,
    };
    if state == State::Ended {
        return Verdict::Terminated;
    }
    let unless = |now, named| if state == now { Verdict::Invalid(named) } else { Verdict::Granted };
    let only = |now, named| if state == now { Verdict::Granted } else { Verdict::Invalid(named) };
    match verb {
        Verb::Mute => unless(State::Muted, "already_muted"),
        Verb::Unmute => only(State::Muted, "not_muted"),
        Verb::Hold => unless(State::Held, "already_held"),
        Verb::Unhold => only(State::Held, "not_held"),
        Verb::RecordingPause => unless(State::RecordingPaused, "recording_paused"),
        Verb::RecordingResume => only(State::RecordingPaused, "recording_not_paused"),
        Verb::ConferenceStart => unless(State::InConference, "already_in_conference"),
        Verb::ConferenceAdd | Verb::ConferenceRemove | Verb::ConferenceLeave => {
            only(State::InConference, "no_conference")
        }
        Verb::MonitorStart if !is_admin => Verdict::Unrelated("conference"),
        // It asks for LISTEN_AND_WHISPER, which a monitor that only listens does not do yet.
        Verb::MonitorStart => unless(State::Monitored, "already_monitoring"),
        Verb::Whisper if state == State::Listening => Verdict::Unrelated("whisper"),
        Verb::Whisper | Verb::Barge | Verb::MonitorStop => match state {
            State::Listening | State::Monitored => Verdict::Granted,
            _ => Verdict::Unrelated("monitor"),
        },
        Verb::Transfer
        | Verb::Hangup
        | Verb::Log
        | Verb::SendDtmf
        | Verb::PlayAudio
        | Verb::SetDisposition
        | Verb::GetCallState
        | Verb::RequestSupervisor
        | Verb::SetLeadField
        | Verb::SetLeadStatus
        | Verb::ScheduleCallback => Verdict::Granted,
        Verb::Unspecified => unreachable!("no verb"),
    }
}

/// Whether the call's node carries the verb out; otherwise the control plane does alone.
pub(super) fn is_for_the_node(verb: Verb) -> bool {
    !matches!(
        verb,
        Verb::Log
            | Verb::SetDisposition
            | Verb::GetCallState
            | Verb::RequestSupervisor
            | Verb::SetLeadField
            | Verb::SetLeadStatus
            | Verb::ScheduleCallback
    )
}

/// What a request is about, as errors name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'n> {
    pub(super) call: &'n str,
    pub(super) session: &'n str,
    /// The token of the call that was revoked.
    pub(super) revoked: &'n str,
    /// The call that the verbs of monitors name.
    pub(super) target: &'n str,
}

/// The code, the reason and all of the reason's metadata.
pub(super) type Refusal = (Code, &'static str, BTreeMap<String, String>);

impl Verdict {
    pub(super) fn refusal(self, names: Names<'_>) -> Option<Refusal> {
        let (call, session) = (("call_id", names.call), ("session_id", names.session));
        let (code, reason, told) = match self {
            Self::Granted => return None,
            Self::Unauthenticated(reason) => (Code::Unauthenticated, reason, vec![]),
            Self::Revoked => (Code::Unauthenticated, "TOKEN_REVOKED", vec![("jti", names.revoked)]),
            Self::ScopeRequired => {
                (Code::PermissionDenied, "SCOPE_REQUIRED", vec![("scope", "ai_sessions:control_admin")])
            }
            Self::NotBoundToToken => (Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN", vec![call]),
            Self::SessionNotFound => (Code::NotFound, "SESSION_NOT_FOUND", vec![call]),
            Self::Terminated => {
                (Code::FailedPrecondition, "AI_SESSION_TERMINATED", vec![call, session, ("outcome", "HANGUP")])
            }
            Self::Invalid(state) => (Code::FailedPrecondition, "INVALID_CALL_STATE", vec![call, ("state", state)]),
            Self::Unrelated(required) => (
                Code::PermissionDenied,
                "CONFERENCE_MEMBERSHIP_REQUIRED",
                vec![call, ("target_call_id", names.target), ("required", required)],
            ),
        };
        Some((code, reason, told.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }
}
