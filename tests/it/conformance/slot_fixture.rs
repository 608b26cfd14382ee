//! The slot stores under test, each with a clock that the test moves, and a caller to ask them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use voxgate::{
    admission::{LiveCalls, MemorySlotStore, RedisSlotStore, SlotStore, SteadySlots},
    domain::{
        Clock, Env, Timestamp,
        ids::{CallId, LeaseId, SessionId, TenantId, VoiceAgentId},
        lease::{Acquire, Acquired, Denial, Direction, Lease, Limits, Released, Renewal, Renewed, Usage},
        queue::{Enqueued, Leave, Left, Place, ReplicaId, Tend, Tended, Ticket},
    },
    redis::{Redis as SharedRedis, RedisSettings},
};

use crate::harness::redis::PrivateRedis;

/// A back-end and its clock.
pub(crate) trait Fixture: Send + Sync {
    fn start() -> Self;
    fn store(&self) -> Arc<dyn SlotStore>;
    /// Moves the store's clock on.
    fn advance(&self, span: Duration);
    /// Moves the store's clock back, which no store's clock should do and some will.
    fn rewind(&self, span: Duration);
    /// Takes all its data away.
    fn lose_everything(&self);
}

/// A database without a session, so that what the store itself does is what a suite sees.
#[derive(Debug)]
pub(crate) struct NoHistory;

#[async_trait]
impl LiveCalls for NoHistory {
    async fn longest_lease(&self, _: TenantId) -> voxgate::domain::Result<Option<Duration>> {
        Ok(None)
    }
}

/// The store as the service uses it, which opens the books of each new tenant.
pub(crate) fn steady(store: Arc<dyn SlotStore>, clock: Arc<dyn Clock>) -> Arc<SteadySlots> {
    Arc::new(SteadySlots::new(store, Arc::new(NoHistory), clock))
}

#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) server: PrivateRedis,
    /// The replica's own clock, which goes with the server's.
    clock: Arc<SteppedClock>,
    store: Arc<SteadySlots>,
}

impl Fixture for Redis {
    fn start() -> Self {
        let server = PrivateRedis::start_with_still_clock();
        // Patient: a busy machine must not fail a test that is about something else. Here time is what the clock says.
        let settings = RedisSettings {
            command_timeout_ms: 30_000,
            connect_timeout_ms: 30_000,
            clock_step_ms: 0,
            ..RedisSettings::default()
        };
        let store = Arc::new(RedisSlotStore::new(SharedRedis::connect(&server.url(), settings).expect("a URL")));
        let clock = Arc::new(SteppedClock::start());
        Self { server, store: steady(store, clock.clone()), clock }
    }

    fn store(&self) -> Arc<dyn SlotStore> {
        self.store.clone()
    }

    fn advance(&self, span: Duration) {
        self.server.advance(span);
        self.clock.step(span);
    }

    fn rewind(&self, span: Duration) {
        self.server.rewind(span);
    }

    fn lose_everything(&self) {
        assert!(self.server.command("FLUSHALL").starts_with("+OK"));
    }
}

/// Microseconds, in both directions.
#[derive(Debug)]
pub(crate) struct SteppedClock(pub(crate) AtomicI64);

impl SteppedClock {
    pub(crate) fn start() -> Self {
        let start: Timestamp = "2026-11-21T10:00:00Z".parse().expect("RFC 3339");
        Self(AtomicI64::new(start.as_micros()))
    }

    fn step(&self, span: Duration) {
        self.0.fetch_add(i64::try_from(span.as_micros()).expect("a test's span"), Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
pub(crate) struct Memory {
    clock: Arc<SteppedClock>,
    ledgers: Arc<MemorySlotStore>,
    store: Arc<SteadySlots>,
}

impl Fixture for Memory {
    fn start() -> Self {
        let clock = Arc::new(SteppedClock::start());
        let ledgers = Arc::new(MemorySlotStore::new(clock.clone()));
        Self { store: steady(ledgers.clone(), clock.clone()), ledgers, clock }
    }

    fn store(&self) -> Arc<dyn SlotStore> {
        self.store.clone()
    }

    fn advance(&self, span: Duration) {
        self.clock.step(span);
    }

    fn rewind(&self, span: Duration) {
        self.clock.0.fetch_sub(i64::try_from(span.as_micros()).expect("a test's span"), Ordering::SeqCst);
    }

    fn lose_everything(&self) {
        self.ledgers.forget();
    }
}

/// A replica that speaks for one tenant, and panics on every error.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) store: Arc<dyn SlotStore>,
    pub(crate) env: Env,
    pub(crate) tenant: TenantId,
}

impl Caller {
    pub(crate) fn of(store: Arc<dyn SlotStore>) -> Self {
        let env = Env::system();
        Self { store, tenant: TenantId::new(&env), env }
    }

    pub(crate) fn agent(&self) -> VoiceAgentId {
        VoiceAgentId::new(&self.env)
    }

    /// An inbound call for 60 s under a limit of 10; tests change what they are about.
    pub(crate) fn ask(&self, agent: VoiceAgentId, name: &str) -> Acquire {
        Acquire {
            agent,
            call: call(name),
            lease: LeaseId::new(&self.env, agent),
            session: SessionId::new(&self.env),
            direction: Direction::Inbound,
            priority: 0,
            ttl: secs(60),
            limits: limit(10),
            draft: None,
        }
    }

    pub(crate) async fn acquire(&self, request: &Acquire) -> Acquired {
        self.store.acquire(self.tenant, request).await.expect("acquire")
    }

    pub(crate) async fn probe(&self, request: &Acquire) -> Acquired {
        self.store.probe(self.tenant, request).await.expect("probe")
    }

    pub(crate) async fn grant(&self, request: &Acquire) -> Lease {
        match self.acquire(request).await {
            Acquired::Granted { lease, .. } => lease,
            other => panic!("expected a grant, got {other:?}"),
        }
    }

    pub(crate) async fn existing(&self, request: &Acquire) -> Lease {
        match self.acquire(request).await {
            Acquired::Existing { lease, .. } => lease,
            other => panic!("expected the existing lease, got {other:?}"),
        }
    }

    pub(crate) async fn denial(&self, request: &Acquire) -> Denial {
        match self.acquire(request).await {
            Acquired::Denied(denial) => denial,
            other => panic!("expected a denial, got {other:?}"),
        }
    }

    pub(crate) async fn renew(&self, lease: &Lease, ttl_s: u64) -> Renewed {
        self.renew_all(&[renewal(lease, ttl_s)]).await[0]
    }

    pub(crate) async fn renew_all(&self, renewals: &[Renewal]) -> Vec<Renewed> {
        self.store.renew(self.tenant, renewals).await.expect("renew")
    }

    pub(crate) async fn release(&self, lease: &Lease) -> Released {
        self.store.release(self.tenant, &lease.call, lease.id).await.expect("release")
    }

    pub(crate) async fn usage(&self, agent: VoiceAgentId) -> Usage {
        self.store.usage(self.tenant, agent).await.expect("usage")
    }

    pub(crate) async fn tenant_used(&self) -> u32 {
        self.store.tenant_usage(self.tenant).await.expect("usage").used
    }

    pub(crate) fn replica(&self) -> ReplicaId {
        ReplicaId::new(&self.env)
    }

    pub(crate) async fn enqueue(&self, ticket: &Ticket) -> Enqueued {
        self.store.enqueue(self.tenant, ticket).await.expect("enqueue")
    }

    /// The place that the ticket gets, which must be one.
    pub(crate) async fn wait(&self, ticket: &Ticket) -> Place {
        match self.enqueue(ticket).await {
            Enqueued::Waiting(place) => place,
            other => panic!("expected a place, got {other:?}"),
        }
    }

    /// Tends a ticket's line on behalf of its replica, with a look at the ticket.
    pub(crate) async fn tend(&self, ticket: &Ticket) -> Tended {
        let Acquire { agent, limits, call, .. } = ticket.acquire.clone();
        let tend = Tend { replica: ticket.replica, agent, limits, calls: vec![call] };
        self.store.tend(self.tenant, &tend).await.expect("tend")
    }

    pub(crate) async fn leave(&self, ticket: &Ticket) -> Left {
        let Acquire { call, lease, .. } = ticket.acquire.clone();
        self.store.leave(self.tenant, &Leave { replica: ticket.replica, call, lease }).await.expect("leave")
    }

    /// Whether the ticket's call holds the very lease that it waited for.
    pub(crate) async fn has_its_turn(&self, ticket: &Ticket) -> bool {
        let lease = self.leases(std::slice::from_ref(&ticket.acquire.call)).await.remove(0);
        lease.is_some_and(|lease| (lease.id, lease.session) == (ticket.acquire.lease, ticket.acquire.session))
    }

    pub(crate) async fn leases(&self, calls: &[CallId]) -> Vec<Option<Lease>> {
        self.store.leases(self.tenant, calls).await.expect("leases")
    }
}

/// A ticket of a replica, in a queue that is never full.
pub(crate) fn ticket(acquire: Acquire, replica: ReplicaId) -> Ticket {
    Ticket { acquire, replica, since: None, depth: 10_000 }
}

pub(crate) fn call(name: &str) -> CallId {
    name.parse().expect("a call id")
}

pub(crate) fn renewal(lease: &Lease, ttl_s: u64) -> Renewal {
    Renewal { call: lease.call.clone(), lease: lease.id, ttl: Duration::from_secs(ttl_s) }
}

/// Version 1 of an agent's limit, and no tenant's cap.
pub(crate) fn limit(agent_limit: u32) -> Limits {
    Limits { agent_limit, reserved_inbound: 0, agent_version: 1, tenant_limit: 0, tenant_version: 1 }
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Redis's clock also runs while a test does.
pub(crate) fn is_about(actual: Timestamp, expected: Timestamp) -> bool {
    actual.since(expected).max(expected.since(actual)) < secs(4)
}
