//! What four clients saw of three replicas while everything around them failed, and whether it could all be true.
//!
//! Clients acquire, wait, renew, release and hang up; a nemesis kills replicas, stops them, flushes scripts, resets connections, loses
//! replies and lets nothing through. Every operation is recorded with when it began, when it ended and what it answered;
//! `checker.rs` then looks for what must never be. The seed decides what clients and nemesis try, though not how threads
//! take turns: a run is replayed with `VOXGATE_TEST_SEED`, as often as it takes. `VOXGATE_HISTORY_OPERATIONS` makes a run
//! as long as that many operations, in place of some seconds.

mod checker;
mod clients;
mod nemesis;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use voxgate::{domain::Env, proto::v1::VoiceAgent};

use self::{
    checker::{Did, Op, check},
    clients::live,
    nemesis::Nemesis,
};
use crate::harness::{
    chaos::ChaosProxy, client::Caller, postgres, redis::PrivateRedis, server::TestServer, world::World,
};

const REPLICAS: usize = 3;
const CLIENTS: usize = 4;
/// Calls that one client has in hand at once.
const LANES: usize = 24;
const LIMITS: [u32; 2] = [6, 9];
/// Below the sum of the agents' limits, so that it binds too.
const TENANT_CAP: u32 = 13;
/// The shortest lease there is.
const LEASE: Duration = Duration::from_secs(10);
/// Short against a client's patience, so that silences are seen and not only waited for.
const CONFIG: &str = "[redis]\ncommand_timeout_ms = 300\n";
const SHORT_RUN: Duration = Duration::from_secs(15);
/// Leases without which a history shows little.
const GRANTS_MIN: usize = 100;

/// One replica, and what is between it and Redis.
#[derive(Debug)]
struct Replica {
    server: TestServer,
    proxy: Arc<ChaosProxy>,
    caller: Caller,
}

/// What all threads share.
#[derive(Debug)]
struct Stage {
    replicas: Vec<RwLock<Replica>>,
    redis_url: String,
    database: String,
    operator_key: String,
    key: String,
    agents: Vec<String>,
    history: Mutex<Vec<Op>>,
    /// No more faults and no more new calls.
    is_over: AtomicBool,
}

impl Stage {
    /// Starts a replica behind `proxy`; blocks until it is ready.
    fn replica(database: &str, proxy: Arc<ChaosProxy>, operator_key: &str, key: &str) -> Replica {
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let server = TestServer::configured(database, &url, operator_key.to_owned(), CONFIG);
        let caller = Caller::new(&server.addr, key);
        Replica { server, proxy, caller }
    }

    fn caller(&self, replica: usize) -> Caller {
        self.replicas[replica].read().expect("nobody panicked").caller.clone()
    }

    fn record(&self, op: Op) {
        self.history.lock().expect("nobody panicked").push(op);
    }

    fn recorded(&self) -> usize {
        self.history.lock().expect("nobody panicked").len()
    }

    /// Leases that some caller was told of.
    fn granted(&self) -> usize {
        let history = self.history.lock().expect("nobody panicked");
        let leases = history.iter().filter_map(|op| match &op.did {
            Did::Acquired { lease, .. } => Some(lease),
            _ => None,
        });
        leases.collect::<HashSet<_>>().len()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Three replicas on one Redis, and a tenant with two agents.
    async fn set(redis: &PrivateRedis) -> Self {
        let redis_url = format!("redis://127.0.0.1:{}", redis.port());
        let (database, url) = (postgres::fresh_database(), redis_url.clone());
        let stores = database.clone();
        let first = tokio::task::spawn_blocking(move || TestServer::production(&stores, &url));
        let first = first.await.expect("started");
        let operator_key = first.admin_key.clone();
        let world = World::on(&first.addr, &operator_key).await;
        let cap = i32::try_from(TENANT_CAP).expect("small");
        let world = world.capped_neighbour(cap).await;
        let mut agents = Vec::new();
        for limit in LIMITS {
            let agent: VoiceAgent = world.agent(i32::try_from(limit).expect("small")).await;
            agents.push(agent.id);
        }
        drop(first);
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            let (database, operator_key, key) = (database.clone(), operator_key.clone(), world.key.clone());
            let proxy = Arc::new(ChaosProxy::to(redis.port()));
            let started = tokio::task::spawn_blocking(move || Self::replica(&database, proxy, &operator_key, &key));
            replicas.push(RwLock::new(started.await.expect("started")));
        }
        Self {
            replicas,
            redis_url,
            database,
            operator_key,
            key: world.key,
            agents,
            history: Mutex::default(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Everything works again: the nemesis has healed what it broke. What nobody released runs out, and whoever waited
    /// has left or died.
    async fn ends_with_nothing_held(&self) {
        let start = Instant::now();
        for agent in &self.agents {
            loop {
                let request = voxgate::proto::v1::GetUsageRequest { voice_agent_id: Some(agent.clone()) };
                let left = self.caller(0).calls().get_usage(request).await.map(|usage| {
                    let usage = usage.into_inner();
                    (usage.used, usage.queued)
                });
                if matches!(left, Ok((0, 0))) {
                    break;
                }
                let patience = LEASE + Duration::from_secs(5);
                assert!(start.elapsed() < patience, "slots or tickets of {agent} leaked: {left:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        println!("nothing is held {:?} after the last operation", start.elapsed());
    }
}

/// The number that a variable of the test's own holds.
#[expect(clippy::disallowed_methods, reason = "these variables are the test's, not the service's")]
pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_history_of_acquires_waits_renewals_and_releases_under_faults_breaks_a_promise() {
    let mut random = [0; 8];
    Env::system().entropy.fill(&mut random);
    let seed = number("VOXGATE_TEST_SEED").unwrap_or(u64::from_le_bytes(random));
    println!("VOXGATE_TEST_SEED={seed}");
    let redis = tokio::task::spawn_blocking(PrivateRedis::start).await.expect("started");
    let stage = Arc::new(Stage::set(&redis).await);
    let start = Instant::now();
    let lanes: Vec<_> =
        (0..CLIENTS * LANES).map(|lane| tokio::spawn(live(stage.clone(), lane, seed ^ lane as u64))).collect();
    let nemesis = tokio::task::spawn_blocking({
        let stage = stage.clone();
        move || Nemesis::new(seed).haunt(&stage)
    });
    let wanted = number("VOXGATE_HISTORY_OPERATIONS");
    // A busy machine is given longer to come to what is worth checking.
    let is_short = || start.elapsed() < SHORT_RUN || stage.granted() <= GRANTS_MIN && start.elapsed() < 4 * SHORT_RUN;
    while wanted.map_or_else(is_short, |wanted| (stage.recorded() as u64) < wanted) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(lanes.iter().all(|lane| !lane.is_finished()), "a client gave up");
    }
    stage.is_over.store(true, Ordering::Relaxed);
    let faults = nemesis.await.expect("the nemesis ends");
    for lane in lanes {
        lane.await.expect("a client saw nothing else");
    }
    let span = start.elapsed();
    stage.ends_with_nothing_held().await;
    let history = std::mem::take(&mut *stage.history.lock().expect("nobody panicked"));
    let found = check(&history, &LIMITS, TENANT_CAP);
    println!("{} operations in {span:?} under {faults}: {}", history.len(), found.figures);
    assert!(found.violations.is_empty(), "VOXGATE_TEST_SEED={seed}: {:#?}", found.violations);
    let waits = &found.figures.waits;
    assert!(found.figures.grants > GRANTS_MIN, "{}", found.figures);
    assert!(waits.granted.min(waits.timed_out).min(waits.hung_up) > 10, "each end is seen: {}", found.figures);
}
