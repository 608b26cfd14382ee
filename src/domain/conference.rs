//! What calls have to do with each other: conferences, and one call's listening in on another.
//!
//! Both are part of a call's state, which follows what its node has done and reported; no caller claims them. Two calls
//! are in one conference if the nodes that host them name the same one.

use serde::{Deserialize, Serialize};

use super::{
    destination::{DestinationType, Outbound},
    ids::CallId,
    text::{bounded_text, check_e164, check_sip_uri},
    violations::Fault,
    words::words,
};

/// Parties that a conference can have besides caller and AI.
pub const MEMBERS_MAX: usize = 64;
/// Calls that one call can listen to.
pub const MONITORS_MAX: usize = 16;
/// Of what a node names.
pub const ID_MAX_CHARS: usize = 128;
/// An agent's or a supervisor's id.
const PERSON_MAX_CHARS: usize = 512;

/// A call's conference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conference {
    /// The node's name of it.
    pub id: String,
    /// Who was brought in, in the order of joining.
    pub members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's name of it.
    pub id: String,
    /// Absent: a party that the node reported and nobody asked for.
    pub invitee: Option<Invitee>,
}

words!(
    /// What an invitation names.
    ParticipantType { E164 = "E164", SipUri = "SIP_URI", Agent = "AGENT", Supervisor = "SUPERVISOR" }
);

/// Whom to bring into a conference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitee {
    pub kind: ParticipantType,
    pub destination: String,
}

impl Invitee {
    pub fn new(kind: ParticipantType, destination: String) -> Result<Self, Fault> {
        match kind {
            _ if destination.is_empty() => return Err(Fault::required()),
            ParticipantType::E164 => check_e164(&destination)?,
            ParticipantType::SipUri => check_sip_uri(&destination)?,
            ParticipantType::Agent | ParticipantType::Supervisor => {
                bounded_text(destination.clone(), PERSON_MAX_CHARS).map(|_| ())?;
            }
        }
        Ok(Self { kind, destination })
    }

    /// Where the party is to be found, unless the platform knows it by itself.
    pub fn outbound(&self) -> Option<Outbound<'_>> {
        let kind = match self.kind {
            ParticipantType::E164 => DestinationType::E164,
            ParticipantType::SipUri => DestinationType::SipUri,
            ParticipantType::Agent | ParticipantType::Supervisor => return None,
        };
        Some(Outbound { kind, address: &self.destination })
    }
}

words!(
    /// What a monitor may do.
    MonitorMode { Listen = "LISTEN", ListenAndWhisper = "LISTEN_AND_WHISPER" }
);

words!(
    /// What one call must have to do with another one.
    Relation { Conference = "conference", Monitor = "monitor", Whisper = "whisper" }
);

/// A call's listening in on another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Monitor {
    pub target: CallId,
    pub mode: MonitorMode,
    /// Whether it has become a full party.
    pub barged: bool,
}
