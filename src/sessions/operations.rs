//! Where operations are kept, and where they take effect.
//!
//! An operation is written before it is dispatched, so that a retry, a crash or a lost acknowledgement cannot make
//! it happen twice or vanish: the record answers what became of it. What came of it is written in one transaction with
//! what it changes of its session and with the events that tell of it: all of it is true, or nothing.

use async_trait::async_trait;

use crate::domain::{
    Result,
    clock::Timestamp,
    event::Event,
    ids::{CallId, EventId, IdempotencyKey, OperationId, SessionId, TenantId},
    lease::Usage,
    operation::{Acknowledgement, Operation},
    session::{LogEntry, Session},
};

#[derive(Debug, Clone)]
pub enum Begun {
    New,
    /// An operation of this call has the key: of this session or an earlier one, finished or still running, of this
    /// request or of another one.
    Existing(Box<Operation>),
}

/// An operation that has come to its end just now.
#[derive(Debug, Clone)]
pub struct Settled {
    pub operation: Operation,
    /// The operation's session as it is now, if there is a row of it.
    pub session: Option<Session>,
    /// Whether the session was active and ended with this.
    pub ended: bool,
}

#[derive(Debug, Clone)]
pub enum Carried {
    Out(Box<Settled>),
    /// As [`Begun::Existing`]: nothing was done.
    Existing(Box<Operation>),
}

/// An event as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenEvent {
    pub id: EventId,
    pub at: Timestamp,
    pub call: CallId,
    /// 1, 2, 3 … within the session, without gaps.
    pub session_sequence: u64,
    pub event: Event,
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

    /// Writes what the node answered, with its effect on the session if that is active. Nothing if there is no such
    /// operation or it has come to its end before: so an answer that comes twice takes effect once.
    async fn settle(
        &self,
        tenant: TenantId,
        id: OperationId,
        answer: Acknowledgement,
        usage: Option<Usage>,
        now: Timestamp,
    ) -> Result<Option<Settled>>;

    /// Judges, records and does what no node is needed for, in one step. `AiSessionTerminated` if the session is over.
    async fn carry_out(
        &self,
        tenant: TenantId,
        operation: Operation,
        usage: Option<Usage>,
        remembered_since: Timestamp,
    ) -> Result<Carried>;

    /// Notes that nobody knows what became of the operation, unless somebody does.
    async fn lose(&self, tenant: TenantId, id: OperationId) -> Result<()>;

    async fn get(&self, tenant: TenantId, id: OperationId) -> Result<Option<Operation>>;

    /// Operations of all tenants that were accepted from `from` to `to` and have not come to an end, oldest first.
    async fn open(&self, from: Timestamp, to: Timestamp, limit: u16) -> Result<Vec<Operation>>;

    /// The session's log, oldest first.
    async fn log(&self, tenant: TenantId, session: SessionId) -> Result<Vec<LogEntry>>;

    /// The session's events in their order.
    async fn events(&self, tenant: TenantId, session: SessionId) -> Result<Vec<WrittenEvent>>;
}
