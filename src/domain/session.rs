//! A session: our record of one live conversation on a call.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    behavior::Behavior,
    clock::Timestamp,
    conference::{Conference, Member, Monitor},
    direct::Direct,
    ids::{CallId, LeaseId, NodeId, SessionId, TenantId, VoiceAgentId},
    lease::Direction,
    lease_token::LeaseClaim,
    node::NodeAddress,
    page::Cursor,
    verb::JsonObject,
    voice_agent::{AudioFormat, Spec, Subprotocol, TokenLifetime, WsDisconnectAction},
    words::words,
};

words!(
    /// EXPIRED: nobody ended it; its lease ran out, or its time before anybody connected.
    SessionStatus { Active = "ACTIVE", Ended = "ENDED", Expired = "EXPIRED" }
);

words!(
    /// How a session came to its end.
    Outcome {
        TransferredAgentQueue = "TRANSFERRED_AGENT_QUEUE",
        TransferredE164 = "TRANSFERRED_E164",
        TransferredSipUri = "TRANSFERRED_SIP_URI",
        Hangup = "HANGUP",
        CallerHangup = "CALLER_HANGUP",
        ConferenceLeft = "CONFERENCE_LEFT",
        Completed = "COMPLETED",
        Released = "RELEASED",
        LeaseExpired = "LEASE_EXPIRED",
        NodeLost = "NODE_LOST",
        AgentDeleted = "AGENT_DELETED",
        WsDisconnected = "WS_DISCONNECTED",
        MaxDuration = "MAX_DURATION",
        MaxTurns = "MAX_TURNS",
        TokenExpired = "TOKEN_EXPIRED",
        Failed = "FAILED",
    }
);

impl Outcome {
    /// Whether a caller may say so of a session. The others are for the service to find out.
    pub const fn may_be_stated(self) -> bool {
        match self {
            Self::TransferredAgentQueue
            | Self::TransferredE164
            | Self::TransferredSipUri
            | Self::Hangup
            | Self::CallerHangup
            | Self::ConferenceLeft
            | Self::Completed
            | Self::Released
            | Self::WsDisconnected
            | Self::Failed => true,
            Self::LeaseExpired
            | Self::NodeLost
            | Self::AgentDeleted
            | Self::MaxDuration
            | Self::MaxTurns
            | Self::TokenExpired => false,
        }
    }

    /// The status of a session with this outcome.
    pub const fn status(self) -> SessionStatus {
        match self {
            Self::LeaseExpired | Self::NodeLost | Self::TokenExpired => SessionStatus::Expired,
            Self::TransferredAgentQueue
            | Self::TransferredE164
            | Self::TransferredSipUri
            | Self::Hangup
            | Self::CallerHangup
            | Self::ConferenceLeft
            | Self::Completed
            | Self::Released
            | Self::AgentDeleted
            | Self::WsDisconnected
            | Self::MaxDuration
            | Self::MaxTurns
            | Self::Failed => SessionStatus::Ended,
        }
    }
}

/// Where a call's audio goes: taken from the agent at admission, and not touched by later edits. The agent's
/// secret is not part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    pub ws_url: String,
    pub audio_format: AudioFormat,
    pub subprotocol: Subprotocol,
    pub ws_disconnect_action: WsDisconnectAction,
    pub transfer_destination: Option<String>,
    pub token_lifetime: TokenLifetime,
    /// Sessions from before there were behaviors have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behavior: Option<Arc<Behavior>>,
}

impl From<&Spec> for Routing {
    fn from(spec: &Spec) -> Self {
        Self {
            ws_url: spec.ws_url.clone(),
            audio_format: spec.audio_format,
            subprotocol: spec.subprotocol,
            ws_disconnect_action: spec.ws_disconnect_action,
            transfer_destination: spec.transfer_destination.clone(),
            token_lifetime: spec.token_lifetime,
            behavior: spec.behavior.clone(),
        }
    }
}

impl Routing {
    /// Of an agent that was deleted, with all that was known of it, before anybody wrote the session.
    pub fn unknown() -> Self {
        Self {
            ws_url: String::new(),
            audio_format: AudioFormat::default(),
            subprotocol: Subprotocol::AudioDrachtioOrg,
            ws_disconnect_action: WsDisconnectAction::Hangup,
            transfer_destination: None,
            token_lifetime: TokenLifetime::ThirtyMinWithRefresh,
            behavior: None,
        }
    }
}

/// What is true of the call's parties now, as its node last reported or acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the states of one machine")]
pub struct CallState {
    pub ws_connected: bool,
    pub held: bool,
    pub caller_muted: bool,
    pub agent_muted: bool,
    pub turn_count: u32,
    /// When the WebSocket was last closed: tokens of the lifetime WS_SESSION from before are void.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ws_closed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recording_paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conference: Option<Conference>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub monitors: Vec<Monitor>,
}

/// A party of the call itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Party {
    Caller,
    Agent,
}

impl CallState {
    pub const fn is_muted(&self, party: Party) -> bool {
        match party {
            Party::Caller => self.caller_muted,
            Party::Agent => self.agent_muted,
        }
    }

    pub const fn set_muted(&mut self, party: Party, muted: bool) {
        match party {
            Party::Caller => self.caller_muted = muted,
            Party::Agent => self.agent_muted = muted,
        }
    }

    pub fn monitor(&self, target: &CallId) -> Option<&Monitor> {
        self.monitors.iter().find(|monitor| monitor.target == *target)
    }

    pub fn monitor_mut(&mut self, target: &CallId) -> Option<&mut Monitor> {
        self.monitors.iter_mut().find(|monitor| monitor.target == *target)
    }

    /// The conference of that id, if it still is the call's.
    pub fn conference_mut(&mut self, id: &str) -> Option<&mut Conference> {
        self.conference.as_mut().filter(|conference| conference.id == id)
    }

    pub fn shares_conference(&self, other: &Self) -> bool {
        let id = |state: &Self| state.conference.as_ref().map(|conference| conference.id.clone());
        id(self).is_some() && id(self) == id(other)
    }

    /// Takes over what the node reports of the call's conference.
    pub fn follow_conference(&mut self, reported: Option<&(String, Vec<String>)>) {
        let Some((id, members)) = reported else {
            self.conference = None;
            return;
        };
        if self.conference_mut(id).is_none() {
            self.conference = Some(Conference { id: id.clone(), members: Vec::new() });
        }
        let Some(conference) = &mut self.conference else { return };
        conference.members.retain(|member| members.contains(&member.id));
        for id in members {
            if !conference.members.iter().any(|member| member.id == *id) {
                conference.members.push(Member { id: id.clone(), invitee: None });
            }
        }
    }

    /// Nothing is true of a call's parties any more, but for what has been.
    pub fn over(&mut self) {
        *self = Self { turn_count: self.turn_count, ..Self::default() };
    }
}

words!(
    /// Where the lead behind a call stands.
    LeadStatus {
        Pending = "PENDING",
        Dialing = "DIALING",
        Connected = "CONNECTED",
        Busy = "BUSY",
        NoAnswer = "NO_ANSWER",
        Failed = "FAILED",
        Dnd = "DND",
        Completed = "COMPLETED",
        Callback = "CALLBACK",
    }
);

/// What verbs have written down of the conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disposition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    #[serde(skip_serializing_if = "JsonObject::is_empty")]
    pub lead_fields: JsonObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lead_status: Option<LeadStatus>,
    /// Entries of the session's log, and what they hold as JSON.
    #[serde(skip_serializing_if = "is_zero")]
    pub log_entries: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub log_bytes: u64,
    /// Whether a transcript and results were posted, which are kept apart.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub posted: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One entry of a session's log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEntry {
    pub at: Timestamp,
    pub metadata: JsonObject,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    pub id: SessionId,
    pub tenant: TenantId,
    pub call: CallId,
    pub agent: VoiceAgentId,
    pub agent_revision: i64,
    pub lease: LeaseId,
    pub fence: i64,
    pub direction: Direction,
    pub node: Option<NodeId>,
    pub sandbox: bool,
    pub routing: Routing,
    pub metadata: JsonObject,
    pub state: CallState,
    pub record: Record,
    pub status: SessionStatus,
    pub outcome: Option<Outcome>,
    pub started_at: Timestamp,
    pub answered_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// When the session ends however well it goes.
    pub ends_at: Option<Timestamp>,
    /// Of a client that streams to the agent directly; absent: the session of an admitted call.
    pub direct: Option<Arc<Direct>>,
    /// When the lease was to run out as last heard from the slot store; a hint of when to ask it again. Of a direct session,
    /// whose lease the service itself renews, when it is time to.
    pub lease_expires_at: Timestamp,
    /// The longest life that the lease was last known to be given at once: how long its holder may be silent.
    pub lease_ttl: Duration,
    /// One more by every write: two writers cannot both build on one reading.
    pub version: i64,
}

impl Session {
    /// Its place in a list.
    pub const fn cursor(&self) -> Cursor {
        Cursor { created_at: self.started_at, id: *self.id.as_uuid() }
    }

    /// Where the call's node is, if it has one.
    pub fn node_address(&self) -> Option<NodeAddress> {
        let node = self.node.clone()?;
        Some(NodeAddress { tenant: self.tenant, sandbox: self.sandbox, node })
    }

    /// What the holder of the session's lease can prove.
    pub const fn claim(&self) -> LeaseClaim {
        LeaseClaim {
            lease: self.lease,
            session: self.id,
            fence: self.fence,
            direction: self.direction,
            sandbox: self.sandbox,
        }
    }

    /// Whether the WebSocket for which a token of `issued_at` was good has been closed since.
    pub fn outlived(&self, issued_at: Timestamp) -> bool {
        let ends_with_ws = self.routing.token_lifetime == TokenLifetime::WsSession;
        ends_with_ws && self.state.ws_closed_at.is_some_and(|closed_at| issued_at < closed_at)
    }

    /// Turns after which the session ends.
    pub fn max_turns(&self) -> Option<u32> {
        self.routing.behavior.as_ref().map(|behavior| behavior.max_turns)
    }

    /// Until when it lasts if nothing extends it.
    pub fn expires_at(&self) -> Timestamp {
        match &self.direct {
            Some(_) => self.ends_at.unwrap_or(self.lease_expires_at),
            None => self.lease_expires_at,
        }
    }

    /// Somebody is there to speak with.
    pub fn answer(&mut self, now: Timestamp) {
        if self.answered_at.is_none() {
            self.answered_at = Some(now);
            let ends_at = self.direct.as_ref().map(|direct| direct.ends_once_answered(self.started_at, now));
            self.ends_at = ends_at.or(self.ends_at);
        }
    }

    /// How it ends where `ends_at` has come.
    pub const fn outcome_at_its_time(&self) -> Outcome {
        match (&self.direct, self.answered_at) {
            (Some(_), None) => Outcome::TokenExpired,
            _ => Outcome::MaxDuration,
        }
    }

    pub const fn is_active(&self) -> bool {
        matches!(self.status, SessionStatus::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_that_was_stored_before_there_were_behaviors_reads_as_one_without() {
        let stored = r#"{"ws_url": "wss://ai.example/ws", "audio_format":
            {"encoding": "PCM_S16LE", "sample_rate_hz": 16000, "channels": 1, "frame_ms": 20},
            "subprotocol": "audio.drachtio.org", "ws_disconnect_action": "HANGUP",
            "transfer_destination": null, "token_lifetime": "WS_SESSION"}"#;
        let routing: Routing = serde_json::from_str(stored).expect("a routing");
        assert_eq!((routing.behavior, routing.token_lifetime), (None, TokenLifetime::WsSession));
    }
}
