//! What is kept of events on their way.
//!
//! Each endpoint has a position in its tenant's events. [`DeliveryStore::fan_out`] makes one delivery of each event behind
//! it that the endpoint wants, and moves the position, in one transaction that holds the endpoint: so there is exactly one
//! delivery an event and endpoint, however many replicas run. A delivery that is tried is claimed until a moment, and is
//! anybody's again after it: so a replica that is killed delays what it was posting, and loses nothing.

use async_trait::async_trait;
use uuid::Uuid;

use crate::domain::{
    Env, Result,
    clock::Timestamp,
    ids::{EventId, TenantId, WebhookEndpointId},
    page::{Page, PageRequest},
    webhook::{Attempt, DeadLetter, PostedEvent, WebhookEndpoint},
};

/// Posts at once to an endpoint whose last one succeeded.
pub const IN_FLIGHT_OF_SOUND: u32 = 4;
/// Posts at once to an endpoint whose last one failed: enough to see that it is back.
pub const IN_FLIGHT_OF_FAILING: u32 = 1;
/// Events that one transaction makes deliveries of.
pub const FAN_OUT_MAX: u16 = 500;

pub type EndpointKey = (TenantId, WebhookEndpointId);

/// Endpoints in trouble are served apart, so that they use up their own share alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The last post succeeded, or there was none.
    Sound,
    Failing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FannedOut {
    /// Deliveries that were made.
    pub made: usize,
    /// Whether there are more events that it was not asked about.
    pub more: bool,
}

/// Who tries what is due, and how long nobody else may.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    pub id: Uuid,
    pub now: Timestamp,
    pub until: Timestamp,
    pub at_most: u32,
}

/// A delivery that is claimed.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    pub event: PostedEvent,
    /// With the one that it is claimed for.
    pub attempts: u32,
    /// When it was to be posted first.
    pub made_at: Timestamp,
}

/// What of an endpoint is claimed, and the endpoint as it is then.
#[derive(Debug, Clone)]
pub struct Claims {
    pub endpoint: WebhookEndpoint,
    pub deliveries: Vec<Claimed>,
}

/// What becomes of a delivery after a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It was taken: nothing is left of it.
    Done,
    TriedAgain(Timestamp),
    GivenUp,
    /// The same, and nothing is posted to the endpoint any more.
    Disabled,
}

/// The end of a claimed try.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub event: EventId,
    pub claim: Uuid,
    pub attempt: Attempt,
    pub next: Next,
    pub now: Timestamp,
}

/// What waits, of all tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    pub pending: u64,
    /// When the oldest was to be posted first.
    pub oldest: Option<Timestamp>,
    pub dead: u64,
}

/// Which event goes where once more.
#[derive(Debug, Clone, Copy)]
pub struct Redelivery {
    pub tenant: TenantId,
    pub event: EventId,
    /// Absent: every enabled one that wants it.
    pub endpoint: Option<WebhookEndpointId>,
    /// Asked by a sandbox key: what is live does not exist for it.
    pub sandbox: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redelivered {
    To(Vec<WebhookEndpointId>),
    UnknownEvent,
    UnknownEndpoint,
    EndpointDisabled,
    /// The endpoint is the sandbox's, and the event is not.
    EventIsLive,
}

#[async_trait]
pub trait DeliveryStore: Send + Sync + std::fmt::Debug {
    /// Enabled endpoints whose tenants have events behind their position.
    async fn lagging(&self, limit: u16) -> Result<Vec<EndpointKey>>;

    /// Makes deliveries of the next [`FAN_OUT_MAX`] events at most. Nothing where another is at it, or has done it.
    async fn fan_out(&self, endpoint: EndpointKey, env: &Env) -> Result<FannedOut>;

    /// Enabled endpoints for which something is due, the longest due first.
    async fn due(&self, lane: Lane, now: Timestamp, limit: u16) -> Result<Vec<EndpointKey>>;

    /// Claims what is due, and counts it as tried: no more than may be in flight to the endpoint at once, over all
    /// replicas. Nothing where another is at it.
    async fn claim(&self, endpoint: EndpointKey, claim: Claim) -> Result<Option<Claims>>;

    /// Ends a claimed try. False where the claim is not that one's any more: nothing changes then.
    async fn settle(&self, endpoint: EndpointKey, settlement: Settlement) -> Result<bool>;

    /// Gives up what was to be posted before `made_before` and is nobody's at `now`; answers how many, not many more than
    /// `limit` at once.
    async fn give_up(&self, made_before: Timestamp, now: Timestamp, limit: u16) -> Result<usize>;

    /// Forgets dead letters from before `dead_before`; the same.
    async fn forget(&self, dead_before: Timestamp, limit: u16) -> Result<usize>;

    async fn backlog(&self) -> Result<Backlog>;

    /// The tenant's, of one endpoint or of all, the latest first; only those of the sandbox's endpoints where `sandbox`
    /// says so. `total_size` is not told.
    async fn dead_letters(
        &self,
        tenant: TenantId,
        endpoint: Option<WebhookEndpointId>,
        sandbox: bool,
        page: PageRequest,
    ) -> Result<Page<DeadLetter>>;

    /// Makes new deliveries of an event in the place of those that there are.
    async fn redeliver(&self, redelivery: Redelivery, env: &Env) -> Result<Redelivered>;
}
