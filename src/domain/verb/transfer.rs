//! Hands the caller to a queue, a number or a SIP address; the AI's leg drops and the session ends.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Done, Effect, Executor, JsonObject, Outbound, Outcome, Result, Rules, Scene, Session};
use crate::domain::{
    Error,
    destination::DestinationType,
    event::{Event, EventType},
    text::{bounded_text, check_e164, check_sip_uri},
    violations::Fault,
};

/// A queue's name, at most.
const QUEUE_MAX_CHARS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    AgentQueue(String),
    E164(String),
    SipUri(String),
}

impl Destination {
    pub fn agent_queue(name: String) -> Result<Self, Fault> {
        bounded_text(name, QUEUE_MAX_CHARS).map(Self::AgentQueue)
    }

    pub fn e164(number: String) -> Result<Self, Fault> {
        check_e164(&number).map(|()| Self::E164(number))
    }

    pub fn sip_uri(uri: String) -> Result<Self, Fault> {
        check_sip_uri(&uri).map(|()| Self::SipUri(uri))
    }

    fn outbound(&self) -> Option<Outbound<'_>> {
        match self {
            Self::AgentQueue(_) => None,
            Self::E164(number) => Some(Outbound { kind: DestinationType::E164, address: number }),
            Self::SipUri(uri) => Some(Outbound { kind: DestinationType::SipUri, address: uri }),
        }
    }

    fn described(&self) -> Value {
        match self {
            Self::AgentQueue(name) => json!({"agent_queue": name}),
            Self::E164(number) => json!({"e164": number}),
            Self::SipUri(uri) => json!({"sip_uri": uri}),
        }
    }

    /// Reads an agent's `transfer_destination`, which was checked when the agent was written.
    fn of_agent(text: &str) -> Self {
        if text.starts_with('+') { Self::E164(text.to_owned()) } else { Self::SipUri(text.to_owned()) }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Absent: the agent's `transfer_destination`.
    pub destination: Option<Destination>,
    pub metadata: JsonObject,
}

impl Rules for Transfer {
    const EXECUTOR: Executor = Executor::Node;

    fn outbound(&self) -> Option<Outbound<'_>> {
        self.destination.as_ref().and_then(Destination::outbound)
    }

    fn prepare(self, scene: &Scene<'_>) -> Result<Self> {
        let of_agent = || scene.session.routing.transfer_destination.as_deref().map(Destination::of_agent);
        let destination = self
            .destination
            .or_else(of_agent)
            .ok_or_else(|| Error::invalid("destination", "is required: the voice agent has no transfer_destination"))?;
        Ok(Self { destination: Some(destination), ..self })
    }

    fn effect(&self, session: &mut Session, _: &Done) -> Effect {
        session.state.over();
        let to = self.destination.as_ref().map(Destination::described);
        let data = json!({"destination": to, "metadata": self.metadata});
        Effect { events: vec![Event::new(EventType::AiSessionTransferred, data)], ..Effect::default() }
    }

    fn ends(&self) -> Option<Outcome> {
        self.destination.as_ref().map(|destination| match destination {
            Destination::AgentQueue(_) => Outcome::TransferredAgentQueue,
            Destination::E164(_) => Outcome::TransferredE164,
            Destination::SipUri(_) => Outcome::TransferredSipUri,
        })
    }
}
