//! An operation: one verb on its way to one call.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    clock::Timestamp,
    hash::Sha256,
    ids::{CallId, IdempotencyKey, OperationId, SessionId, TenantId},
    verb::{NodeResult, Verb, VerbResult},
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

impl OperationState {
    /// Whether this is the operation's last word. UNKNOWN is not: a late acknowledgement resolves it.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// Why a node refused, in its words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: String,
    pub message: String,
}

/// What a node answered to a command.
pub type Acknowledgement = Result<NodeResult, Failure>;
