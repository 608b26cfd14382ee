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
};

const TENANTS: usize = 1_000;
/// Of each tenant.
const FEW: usize = 1;
const MANY: usize = 1_000;

pub(crate) async fn measure(span: Span) -> String {
    let (few, many) = (Crowd::of(FEW).await, Crowd::of(MANY).await);
    let (mut small, mut large) = (Rounds::default(), Rounds::default());
    few.acquire_for(span.warm_up).await;
    many.acquire_for(span.warm_up).await;
    for _ in 0..ROUNDS {
        small.add(few.acquire_for(span.measured).await);
        large.add(many.acquire_for(span.measured).await);
    }
    render(&few, &small, &many, &large)
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

    /// What acquiring takes with as many in flight as elsewhere.
    async fn acquire_for(&self, span: Duration) -> Figures {
        let (began, mut latencies) = (Instant::now(), histogram());
        let work = stream::repeat(()).take_while(|()| std::future::ready(began.elapsed() < span)).map(async |()| {
            let picked = usize::try_from(self.env.uuid().as_u128() % self.agents.len() as u128).expect("an index");
            let (tenant, agent) = self.agents[picked];
            let asked = Instant::now();
            let Acquire { call, lease, .. } = self.acquire((tenant, agent)).await;
            let took = asked.elapsed();
            let released = self.store.release(tenant, &call, lease).await.expect("Redis answers");
            assert!(released.released, "it was just granted");
            took
        });
        let mut work = std::pin::pin!(work.buffer_unordered(CROWD));
        while let Some(took) = work.next().await {
            record(&mut latencies, took);
        }
        Figures::of(&latencies, began.elapsed())
    }

    fn used_bytes(&self) -> u64 {
        let info = self.redis.command("INFO memory");
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("it is told");
        used.trim().parse().expect("a number")
    }
}

fn render(few: &Crowd, small: &Rounds, many: &Crowd, large: &Rounds) -> String {
    let mut table = format!("### Acquire at the slot store, {TENANTS} tenants, {CROWD} in flight\n\n");
    table.push_str("| agents, one lease each | acquires/s | p50 ms | p99 ms (min–max) | p99 by that of few | ");
    table.push_str("bytes of Redis an agent with its lease |\n|---:|---:|---:|---:|---:|---:|\n");
    for (crowd, rounds) in [(few, small), (many, large)] {
        let (figures, (_, least, most)) = (rounds.median(), rounds.spread(|figures| figures.p99));
        let (ratio, low, high) = rounds.ratio(small, |figures| figures.p99);
        writeln!(
            table,
            "| {} | {:.0} | {:.2} | {:.2} ({least:.2}–{most:.2}) | {ratio:.2} × ({low:.2}–{high:.2}) | {} |",
            crowd.agents.len(),
            figures.rate,
            figures.p50,
            figures.p99,
            crowd.bytes
        )
        .expect("a string takes it");
    }
    table
}
