//! Verbs on their way: the bus that carries a command to a call's node, and the record of every operation.
//!
//! An operation is written before it is dispatched, so that a retry, a crash or a lost acknowledgement cannot make
//! it happen twice or vanish: the record answers what became of it. What a verb means is in `domain::verb`.

mod memory;
mod sql;

use std::time::Duration;

use async_trait::async_trait;

pub use self::{memory::MemoryBus, sql::SqlOperationStore};
use crate::domain::{
    Result,
    clock::Timestamp,
    hash::Sha256,
    ids::{CallId, IdempotencyKey, OperationId, SessionId, TenantId},
    node::{Command, NodeAddress, Unreachable},
    verb::{Verb, VerbResult},
    words::words,
};

words!(
    /// ACCEPTED → DISPATCHED → SUCCEEDED, FAILED or UNKNOWN.
    OperationState {
        Accepted = "ACCEPTED",
        Dispatched = "DISPATCHED",
        Succeeded = "SUCCEEDED",
        Failed = "FAILED",
        Unknown = "UNKNOWN",
    }
);

impl Operation {
    /// The state as far as anybody knows at `now`: one that has been on its way for longer than `limit` lost whoever
    /// waited for its answer.
    pub fn known_state(&self, now: Timestamp, limit: Duration) -> OperationState {
        match self.state {
            OperationState::Accepted | OperationState::Dispatched if now.since(self.accepted_at) > limit => {
                OperationState::Unknown
            }
            state => state,
        }
    }
}

impl OperationState {
    /// Whether this is the operation's last word. UNKNOWN is not: a late acknowledgement resolves it.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// One verb on its way to one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub id: OperationId,
    pub tenant: TenantId,
    pub session: SessionId,
    pub call: CallId,
    /// As it was sent: completed from the session.
    pub verb: Verb,
    pub key: IdempotencyKey,
    /// Of the verb as it was asked for: another request under the same key is told apart by this.
    pub digest: Sha256,
    pub state: OperationState,
    pub accepted_at: Timestamp,
    pub dispatched_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub result: Option<VerbResult>,
    pub failure: Option<Failure>,
}

/// Why a node refused, in its words.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    pub reason: String,
    pub message: String,
}

/// What a node answered to a command.
pub type Acknowledgement = std::result::Result<(), Failure>;

#[derive(Debug, Clone)]
pub enum Begun {
    New,
    /// An operation of this call has the key: of this session or an earlier one, finished or still running, of this
    /// request or of another one.
    Existing(Box<Operation>),
}

#[async_trait]
pub trait OperationStore: Send + Sync + std::fmt::Debug {
    /// Writes `operation` unless its call has one of the same key since `remembered_since`, under whichever session:
    /// a retry that comes after the call's lease ran out and was acquired again is still a retry. Of two replicas
    /// that begin at once, one is told `New`.
    async fn begin(&self, tenant: TenantId, operation: &Operation, remembered_since: Timestamp) -> Result<Begun>;

    /// The call's operation of that key, under whichever session, if it is not older than `remembered_since`.
    async fn find(
        &self,
        tenant: TenantId,
        call: &CallId,
        key: &IdempotencyKey,
        remembered_since: Timestamp,
    ) -> Result<Option<Operation>>;

    /// Forgets an operation that was never sent, so that its key may be tried again.
    async fn withdraw(&self, tenant: TenantId, id: OperationId) -> Result<()>;

    /// Writes `state`, `dispatched_at`, `finished_at`, `result` and `failure`, unless the row's state is final. True if it was written.
    async fn record(&self, tenant: TenantId, operation: &Operation) -> Result<bool>;

    async fn get(&self, tenant: TenantId, id: OperationId) -> Result<Option<Operation>>;
}

/// Why a command's fate is not known, or that it was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusError {
    /// It was not sent, and never will be.
    Unreachable,
    /// It was sent, and the node left or the time ran out before it answered.
    NoAnswer,
}

impl From<Unreachable> for BusError {
    fn from(_: Unreachable) -> Self {
        Self::Unreachable
    }
}

/// The way from any replica to a call's node, and back.
#[async_trait]
pub trait CommandBus: Send + Sync + std::fmt::Debug {
    /// Hands the command to its node, after those that were handed over before, and waits for its answer.
    async fn execute(
        &self,
        to: &NodeAddress,
        command: Command,
        patience: Duration,
    ) -> std::result::Result<Acknowledgement, BusError>;

    /// Brings a node's answer to whoever waits for it. False: nobody does any more.
    fn acknowledge(&self, from: &NodeAddress, operation: OperationId, answer: Acknowledgement) -> bool;

    /// The node has left: nothing that it has not answered will be answered on this stream.
    fn node_left(&self, node: &NodeAddress);
}
