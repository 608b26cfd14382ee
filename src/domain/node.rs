//! Media nodes: what they are and what they are told.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{
    clock::Timestamp,
    event::Recording,
    ids::{CallId, NodeId, OperationId, TenantId},
    lease_token::LeaseToken,
    session::{Outcome, Session},
    trace::{TraceContext, written},
    verb::Verb,
    voice_agent::Subprotocol,
};

/// A node is its tenant's, on one side of the sandbox fence: two tenants may use one name, and so may a sandbox node and
/// a live one. Nothing that is posted to one reaches the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    pub tenant: TenantId,
    pub sandbox: bool,
    pub node: NodeId,
}

/// What a node says of itself when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProfile {
    pub subprotocol: Subprotocol,
    /// Calls that it can host at once.
    pub capacity: u32,
    pub version: String,
}

/// A message to a node.
#[derive(Debug, Clone)]
pub enum ToNode {
    CallAssigned(Box<Assignment>),
    Command(Box<Command>),
    TokenRefresh { call: CallId, token: String, expires_at: Timestamp },
    LeaseLost { call: CallId, lease: LeaseToken },
    EndCall { call: CallId, outcome: Outcome, reason: String },
    Drain { deadline: Timestamp },
}

/// A call that a node is to host.
#[derive(Debug, Clone)]
pub struct Assignment {
    pub session: Session,
    pub auth_token: Option<SecretString>,
    pub lease_expires_at: Timestamp,
    /// As the node is to present the lease.
    pub lease: LeaseToken,
    pub token: String,
    pub token_expires_at: Timestamp,
}

/// One operation as the node receives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    pub operation: OperationId,
    pub call: CallId,
    pub fence: i64,
    pub deadline: Timestamp,
    pub verb: Verb,
    /// What it is done within. Releases that know nothing of traces leave it out, and pass over it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "written")]
    pub trace: Option<TraceContext>,
}

/// No connected node answers to the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is not connected here")]
pub struct Unreachable;

/// The way a message gets to a connected node.
pub trait Postbox: Send + Sync + std::fmt::Debug {
    /// Hands `message` to the node's stream, after everything that was posted before.
    fn post(&self, to: &NodeAddress, message: ToNode) -> Result<(), Unreachable>;
}

/// A call as a node presents it: it hosts the call and knows the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveCall {
    pub call: CallId,
    pub lease: LeaseToken,
}

/// What a node says of itself and its calls when its stream begins.
#[derive(Debug, Clone)]
pub struct Hello {
    pub node: NodeId,
    /// A sandbox node carries only calls of sandbox keys, and they reach no other.
    pub sandbox: bool,
    pub profile: NodeProfile,
    pub calls: Vec<LiveCall>,
}

/// What happened to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEvent {
    WsConnected,
    WsDisconnected,
    Answered,
    CallerHangup,
    PartyState {
        held: bool,
        caller_muted: bool,
        agent_muted: bool,
    },
    TurnCount(u32),
    /// The conference and its members as they are now; none: the call is in none.
    Conference(Option<(String, Vec<String>)>),
    /// Also after the session has ended.
    RecordingReady(Recording),
    /// For the log: `code` and `message` in the node's words.
    Error {
        code: String,
        message: String,
    },
}
