//! The semaphore: who holds a slot, until when, and why another could not.
//!
//! [`SlotStore`] promises, on every back-end (contract section 4, invariants 1 to 7):
//! - no lease is granted while the live ones have reached a limit, checked and added in one atomic step;
//! - a call that acquires again is answered its own lease;
//! - a lease that is not renewed is free at `expires_at`, by the store's clock and with nobody's help;
//! - renewal and release name the lease, and never touch the slot's next holder;
//! - fences rise strictly for an agent, also when everything else about it has been forgotten;
//! - the newest limits win over those of a replica that has not heard of them.
//!
//! Deliberately absent: sessions, tokens and nodes. `calls` joins them.

mod memory;
mod redis;

use async_trait::async_trait;

pub use self::{memory::MemorySlotStore, redis::RedisSlotStore};
use crate::domain::{
    Result,
    ids::{CallId, LeaseId, TenantId, VoiceAgentId},
    lease::{Acquire, Acquired, Lease, Released, Renewal, Renewed, Usage},
};

#[async_trait]
pub trait SlotStore: Send + Sync + std::fmt::Debug {
    async fn acquire(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired>;

    /// Answers as `acquire` would and takes nothing. A grant's lease is then what would have been granted, its
    /// fence 0.
    async fn probe(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired>;

    /// Each lease's fate, in the order asked. One round trip, however many (at most `RENEW_MAX`).
    /// A renewal moves the expiry to now + ttl and never nearer.
    async fn renew(&self, tenant: TenantId, leases: &[Renewal]) -> Result<Vec<Renewed>>;

    async fn release(&self, tenant: TenantId, call: &CallId, lease: LeaseId) -> Result<Released>;

    /// The live lease of each call that has one, in the order asked. One round trip.
    async fn leases(&self, tenant: TenantId, calls: &[CallId]) -> Result<Vec<Option<Lease>>>;

    /// `limit` and `reserved_inbound` are the newest that the store has heard of, 0 if it never has.
    async fn usage(&self, tenant: TenantId, agent: VoiceAgentId) -> Result<Usage>;

    async fn tenant_usage(&self, tenant: TenantId) -> Result<Usage>;

    /// Whether the store answers, for readiness.
    async fn ping(&self) -> Result<()>;
}
