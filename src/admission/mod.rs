//! The semaphore: who holds a slot, until when, and why another could not.
//!
//! [`SlotStore`] promises, on every back-end (contract section 4, invariants 1 to 7):
//! - no lease is granted while the live ones have reached a limit, checked and added in one atomic step;
//! - a call that acquires again is answered its own lease;
//! - a lease that is not renewed is free at `expires_at`, by the store's clock and with nobody's help;
//! - renewal and release name the lease, and never touch the slot's next holder;
//! - fences rise strictly for an agent, also when everything else about it has been forgotten;
//! - the newest limits win over those of a replica that has not heard of them;
//! - a slot that comes free is granted to whoever waits for it by the step that frees it, in the order of the queue,
//!   and nobody who acquires passes one who waits with equal or higher priority.
//!
//! And of its own losses (invariant 8): a store has books for each tenant. Where there are none, it cannot know whether
//! the tenant is new or its data is gone; every operation that would change or judge anything then answers
//! [`Error::Unopened`](crate::domain::Error::Unopened) and changes nothing, until somebody who can tell has opened them.
//! [`SteadySlots`] is who can.
//!
//! The Redis back-end also keeps what a session begins and ends with until the database has it: it is the
//! [`Spool`](crate::domain::journal::Spool). The embedded one does not: its database is in the same process.
//!
//! Deliberately absent: sessions, tokens and nodes. `calls` joins them.

mod memory;
mod redis;
mod steady;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use self::{
    memory::MemorySlotStore,
    redis::RedisSlotStore,
    steady::{LiveCalls, SteadySlots},
};
use crate::domain::{
    Result,
    ids::{CallId, LeaseId, TenantId, VoiceAgentId},
    journal::{Ending, Freed},
    lease::{Acquire, Acquired, Lease, Opening, Proven, Released, Renewal, Renewed, Usage},
    queue::{Enqueued, Heard, Leave, Left, ReplicaId, Tend, Tended, Ticket},
};

#[async_trait]
pub trait SlotStore: Send + Sync + std::fmt::Debug {
    /// Begins the tenant's books; nothing changes where they are open already, except that who witnessed a loss corrects
    /// who opened them as fresh a moment ago. While they are recovering, what `acquire` would grant afresh is refused
    /// with `Recovering`, and [`Self::renew`] tells a lease that is missing from one that has expired.
    async fn open(&self, tenant: TenantId, opening: Opening) -> Result<()>;

    async fn acquire(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired>;

    /// Answers as `acquire` would and takes nothing. A grant's lease is then what would have been granted, its
    /// fence 0.
    async fn probe(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired>;

    /// Each lease's fate, in the order asked. One round trip, however many (at most `RENEW_MAX`).
    /// A renewal moves the expiry to now + ttl and never nearer.
    async fn renew(&self, tenant: TenantId, leases: &[Renewal]) -> Result<Vec<Renewed>>;

    /// Counts leases again that `renew` has called missing, each with its own fence and session, even above the limit.
    /// Whether they are the caller's has been verified; whether their sessions live, the caller has looked.
    async fn readmit(&self, tenant: TenantId, leases: &[Proven]) -> Result<Vec<Renewed>>;

    /// What `renew` would answer, and changes nothing: `Renewed` carries the expiry as it stands. At most `RENEW_MAX`.
    async fn fates(&self, tenant: TenantId, leases: &[(CallId, LeaseId)]) -> Result<Vec<Renewed>>;

    /// A lease that is missing is remembered as released all the same, and not readmitted afterwards.
    async fn release(&self, tenant: TenantId, call: &CallId, lease: LeaseId) -> Result<Released>;

    /// The same, and keeps in the same step how the session ended, where this store is one that keeps such things.
    async fn release_ending(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed>;

    /// The same by the request that the lease was granted to, whose caller went away without hearing of it. The call may
    /// have asked again since and been answered the same lease: then it stays.
    async fn give_up(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed>;

    /// The live lease of each call that has one, in the order asked. One round trip.
    async fn leases(&self, tenant: TenantId, calls: &[CallId]) -> Result<Vec<Option<Lease>>>;

    /// The tenant's live leases, at most `most`. Not in one step: what comes or goes meanwhile may be there or not.
    async fn live(&self, tenant: TenantId, most: usize) -> Result<Vec<Lease>>;

    /// `limit` and `reserved_inbound` are the newest that the store has heard of, 0 if it never has.
    async fn usage(&self, tenant: TenantId, agent: VoiceAgentId) -> Result<Usage>;

    async fn tenant_usage(&self, tenant: TenantId) -> Result<Usage>;

    /// Puts the call into its agent's queue, unless it holds a lease. A ticket that it has already is taken over, with its
    /// place. Grants what is free, maybe to this very call.
    async fn enqueue(&self, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued>;

    /// Answers as `enqueue` would where nothing is free, and changes nothing.
    async fn probe_queue(&self, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued>;

    /// Keeps all tickets of the replica alive, grants what came free by expiry or by a raised limit, removes the tickets
    /// of replicas that died, and tells where some stand.
    async fn tend(&self, tenant: TenantId, tend: &Tend) -> Result<Tended>;

    /// Gives the ticket up, or the slot that was granted to it and not claimed yet; that goes to the next in turn.
    async fn leave(&self, tenant: TenantId, leave: &Leave) -> Result<Left>;

    /// What is told to the replica's waiters, from now on and for as long as somebody listens. Messages may be lost: what
    /// they say is found by `tend` too.
    fn listen(&self, replica: ReplicaId) -> mpsc::Receiver<Heard>;

    /// Whether the store answers, for readiness.
    async fn ping(&self) -> Result<()>;
}
