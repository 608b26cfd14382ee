//! The control verbs: what may be asked of a live call, when, and what it changes.
//!
//! One verb, one file: its request, the states that allow it and its effect. A verb is pure; `calls::control`
//! authorises, de-duplicates and carries it. To add one: the proto, a file here, a line in the registry below
//! and a forward in `grpc`.

mod get_call_state;
mod hangup;
mod hold;
mod transfer;
mod unhold;

use serde::{Deserialize, Serialize};

pub use self::{
    get_call_state::GetCallState,
    hangup::Hangup,
    hold::Hold,
    transfer::{Destination, Transfer},
    unhold::Unhold,
};
use super::{
    error::Result,
    lease::Usage,
    session::{CallState, Outcome, Session},
};

/// A free-form JSON object, bounded where it is decoded.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// What each verb says of itself.
pub trait Rules {
    /// Whether the call's media node carries the verb out, or the control plane alone.
    const EXECUTOR: Executor;

    /// Completes the request from the session (a default destination) and refuses it where the call's state
    /// does not allow it. Only asked of an active session.
    fn prepare(self, session: &Session) -> Result<Self>
    where
        Self: Sized;

    /// What is true of the call once the verb has happened.
    fn effect(&self, state: &mut CallState);

    /// The outcome of the session when the verb ends it.
    fn ends(&self) -> Option<Outcome> {
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executor {
    Node,
    ControlPlane,
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

            pub fn prepare(self, session: &Session) -> Result<Self> {
                match self { $(Self::$name(verb) => verb.prepare(session).map(Self::$name)),+ }
            }

            pub fn effect(&self, state: &mut CallState) {
                match self { $(Self::$name(verb) => verb.effect(state)),+ }
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
    GetCallState = "GET_CALL_STATE",
    Hangup = "HANGUP",
    Hold = "HOLD",
    Transfer = "TRANSFER",
    Unhold = "UNHOLD",
}

/// The result of a verb that happened: kept with its operation and answered again to a replay, as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VerbResult {
    pub call_state: CallState,
    pub answered: bool,
    pub node: Option<String>,
    pub agent: String,
    /// Of the call's agent; absent when the slot store could not tell.
    pub usage: Option<Usage>,
    /// How the verb ended the session, if it did.
    pub outcome: Option<Outcome>,
}

impl VerbResult {
    pub fn of(session: &Session, usage: Option<Usage>) -> Self {
        Self {
            call_state: session.state,
            answered: session.answered_at.is_some(),
            node: session.node.as_ref().map(ToString::to_string),
            agent: session.agent.to_string(),
            usage,
            outcome: None,
        }
    }
}
