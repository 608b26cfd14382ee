//! The events of a tenant in one order, which all who read them see alike.
//!
//! An event is written with the change that it tells of, by whichever replica makes that. Transactions commit in another
//! order than they begin in, so a position that its writer took could be passed by a reader before it can be seen, and
//! would never be read. Therefore an event gets its position only after its commit: the [`Sequencer`] gives what is there
//! and has none the next ones, one replica at a time for a tenant, and nobody reads an event without one. So a reader who
//! has seen position n has seen all before it, for good.
//!
//! Of one session, positions rise with `session_sequence`. Between sessions they follow the time of the events, as far as
//! these were committed together.

mod log;
mod redis;
mod sequencer;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};

pub use self::{log::EventLog, redis::RedisEventSignal, sequencer::Sequencer};
use crate::domain::{
    Result,
    clock::Timestamp,
    event::EventFilter,
    ids::{CallId, EventId, TenantId},
    verb::JsonObject,
};

/// An event that has its position.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantEvent {
    pub id: EventId,
    pub tenant: TenantId,
    /// Rises with every event of the tenant.
    pub sequence: u64,
    /// As it was written: a newer release may know more types than this one.
    pub kind: String,
    pub at: Timestamp,
    pub call: CallId,
    pub session_sequence: u64,
    pub data: JsonObject,
}

/// Some of a tenant's events, in their order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventPage {
    pub events: Vec<TenantEvent>,
    /// All events up to this position were looked at.
    pub through: u64,
    /// There were no more when they were.
    pub is_last: bool,
}

/// Where events are read, and where they get their positions.
#[async_trait]
pub trait EventStore: Send + Sync + std::fmt::Debug {
    /// Gives committed events of the tenant that have none their positions, at most `limit`; answers how many those were.
    async fn sequence(&self, tenant: TenantId, limit: u16) -> Result<usize>;

    /// Tenants that have events without a position.
    async fn unsequenced(&self) -> Result<Vec<TenantId>>;

    /// The last position that was given; 0 if none was.
    async fn last(&self, tenant: TenantId) -> Result<u64>;

    /// The same of those of these tenants that have one.
    async fn heads(&self, tenants: &[TenantId]) -> Result<Vec<(TenantId, u64)>>;

    /// Where an event stands; nothing if there is no such event, or none any more.
    async fn position(&self, tenant: TenantId, id: EventId) -> Result<Option<Position>>;

    /// The events behind a position that the filter lets through, at most `limit`. Looks at a bounded number, of which
    /// there may be none to tell of.
    async fn after(&self, tenant: TenantId, position: u64, filter: &EventFilter, limit: u16) -> Result<EventPage>;
}

/// The way in which replicas tell each other that there are new events.
#[async_trait]
pub trait EventSignal: Send + Sync + std::fmt::Debug {
    /// Tells the others that the tenant has some; maybe in vain.
    async fn tell(&self, tenant: TenantId);

    /// What others tell, until the receiver is dropped.
    fn listen(&self) -> mpsc::Receiver<Heard>;
}

/// What a replica hears of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// The tenant has new events.
    Events(TenantId),
    /// Somebody may have, of whom nothing was heard.
    Missed,
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    At(u64),
    /// It has been written, and has none yet.
    Unsequenced,
}

/// Whose events were committed by this replica since somebody looked.
#[derive(Debug, Clone, Default)]
pub struct EventNews(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    tenants: Mutex<HashSet<TenantId>>,
    rung: Notify,
}

impl EventNews {
    pub(super) fn tell(&self, tenant: TenantId) {
        self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant);
        self.0.rung.notify_one();
    }

    fn take(&self) -> HashSet<TenantId> {
        std::mem::take(&mut self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Until there are some.
    async fn rung(&self) {
        self.0.rung.notified().await;
    }
}
