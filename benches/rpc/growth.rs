//! A million agents beside a thousand: what a slot costs when there are many, and what a lease takes of Redis.
//!
//! The slot store runs in this process, on a Redis of its own for each size. Both sizes have a thousand tenants, so that as
//! many requests meet at one, and each agent has one lease that lives on; what is measured takes a second slot of an
//! agent by chance and gives it back.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use secrecy::ExposeSecret as _;
use voxgate::{
    admission::{RedisSlotStore, SlotStore as _},
    domain::{
        Env,
        ids::{LeaseId, SessionId, TenantId, VoiceAgentId},
        lease::{Acquire, Acquired, Direction, LEASE_TTL_MAX, Limits, Opening},
    },
    redis::{Redis, RedisSettings},
};

use super::{
    CROWD, ROUNDS, Span,
    figures::{Figures, Rounds, histogram, record},
    harness::redis::PrivateRedis,
    open,
};

const TENANTS: usize = 1_000;
const ROOM: &str = "a string takes it";
/// Of each tenant.
const FEW: usize = 1;
const MANY: usize = 1_000;

pub(crate) async fn measure(span: Span) -> String {
    let (few, many) = (Arc::new(Crowd::of(FEW).await), Arc::new(Crowd::of(MANY).await));
    let (mut small, mut large) = (Measured::default(), Measured::default());
    few.acquire_for(span.warm_up).await;
    many.acquire_for(span.warm_up).await;
    for _ in 0..ROUNDS {
        small.closed.add(few.acquire_for(span.measured).await);
        large.closed.add(many.acquire_for(span.measured).await);
    }
    // Both at the same.
    let rate = large.closed.median().rate / 2.0;
    for _ in 0..ROUNDS {
        small.open.add(few.acquire_at(rate, span).await);
        large.open.add(many.acquire_at(rate, span).await);
    }
    render(rate, (&few, &small), (&many, &large))
}

/// With so many in flight as can be, and at a constant rate.
#[derive(Debug, Default)]
struct Measured {
    closed: Rounds,
    open: Rounds,
}

/// Agents of a thousand tenants, each with a lease.
struct Crowd {
    redis: PrivateRedis,
    env: Env,
    store: Arc<RedisSlotStore>,
    agents: Vec<(TenantId, VoiceAgentId)>,
    /// Bytes that Redis took for an agent with its lease.
    bytes: u64,
}

impl Crowd {
    async fn of(each: usize) -> Self {
        let redis = PrivateRedis::start();
        let url = redis.url().expose_secret().to_owned().into();
        let env = Env::system();
        let store = Arc::new(RedisSlotStore::new(Redis::connect(&url, RedisSettings::default()).expect("a URL")));
        let tenants: Vec<TenantId> = (0..TENANTS).map(|_| TenantId::new(&env)).collect();
        let agents = |tenant: &TenantId| {
            let tenant = *tenant;
            (0..each).map(|_| (tenant, VoiceAgentId::new(&env))).collect::<Vec<_>>()
        };
        let agents: Vec<_> = tenants.iter().flat_map(agents).collect();
        for tenant in &tenants {
            store.open(*tenant, Opening::Fresh).await.expect("the books are opened");
        }
        let mut crowd = Self { redis, env, store, agents, bytes: 0 };
        let before = crowd.used_bytes();
        let all = stream::iter(0..crowd.agents.len()).map(|n| crowd.acquire(crowd.agents[n]));
        all.buffer_unordered(CROWD).for_each(|_| std::future::ready(())).await;
        crowd.bytes = (crowd.used_bytes() - before) / crowd.agents.len() as u64;
        crowd
    }

    /// Another call of the agent.
    async fn acquire(&self, (tenant, agent): (TenantId, VoiceAgentId)) -> Acquire {
        let session = SessionId::new(&self.env);
        let request = Acquire {
            agent,
            call: session.to_string().parse().expect("a call id"),
            lease: LeaseId::new(&self.env, agent),
            session,
            direction: Direction::Inbound,
            priority: 0,
            ttl: LEASE_TTL_MAX,
            limits: Limits {
                agent_limit: 100,
                reserved_inbound: 0,
                agent_version: 1,
                tenant_limit: 0,
                tenant_version: 1,
            },
            draft: None,
        };
        let answer = self.store.acquire(tenant, &request).await.expect("Redis answers");
        assert!(matches!(answer, Acquired::Granted { .. }), "{answer:?}");
        request
    }

    /// Acquires for one of the agents by chance, and gives the slot back; answers when it had it.
    async fn acquire_once(&self) -> Instant {
        let picked = usize::try_from(self.env.uuid().as_u128() % self.agents.len() as u128).expect("an index");
        let (tenant, agent) = self.agents[picked];
        let Acquire { call, lease, .. } = self.acquire((tenant, agent)).await;
        let granted = Instant::now();
        let released = self.store.release(tenant, &call, lease).await.expect("Redis answers");
        assert!(released.released, "it was just granted");
        granted
    }

    /// What acquiring takes with as many in flight as elsewhere.
    async fn acquire_for(&self, span: Duration) -> Figures {
        let (began, mut latencies) = (Instant::now(), histogram());
        let work = stream::repeat(()).take_while(|()| std::future::ready(began.elapsed() < span)).map(async |()| {
            let asked = Instant::now();
            self.acquire_once().await - asked
        });
        let mut work = std::pin::pin!(work.buffer_unordered(CROWD));
        while let Some(took) = work.next().await {
            record(&mut latencies, took);
        }
        Figures::of(&latencies, began.elapsed())
    }

    /// What it takes where so many a second do.
    async fn acquire_at(self: &Arc<Self>, rate: f64, span: Span) -> Figures {
        let crowd = self.clone();
        let send = move |_| {
            let crowd = crowd.clone();
            async move { crowd.acquire_once().await }
        };
        open::at_rate(rate, span, send).await
    }

    fn used_bytes(&self) -> u64 {
        let info = self.redis.command("INFO memory");
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("it is told");
        used.trim().parse().expect("a number")
    }
}

fn render(rate: f64, (few, small): (&Crowd, &Measured), (many, large): (&Crowd, &Measured)) -> String {
    let mut table = format!("### Acquire at the slot store, {TENANTS} tenants\n\n");
    write!(table, "| agents, one lease each | {CROWD} in flight, acquires/s | p99 ms | by that of few | ").expect(ROOM);
    write!(table, "{rate:.0} acquires/s, p50 ms | p99 ms | by that of few | ").expect(ROOM);
    table.push_str("bytes of Redis an agent with its lease |\n|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    for (crowd, of) in [(few, small), (many, large)] {
        let cells = |rounds: &Rounds, base: &Rounds| {
            let (p99, least, most) = rounds.spread(|figures| figures.p99);
            let (ratio, low, high) = rounds.ratio(base, |figures| figures.p99);
            format!("{p99:.2} ({least:.2}–{most:.2}) | {ratio:.2} × ({low:.2}–{high:.2})")
        };
        let (closed, open) = (cells(&of.closed, &small.closed), cells(&of.open, &small.open));
        let (agents, bytes) = (crowd.agents.len(), crowd.bytes);
        let (acquires, p50) = (of.closed.median().rate, of.open.median().p50);
        writeln!(table, "| {agents} | {acquires:.0} | {closed} | {p50:.2} | {open} | {bytes} |").expect(ROOM);
    }
    table
}
