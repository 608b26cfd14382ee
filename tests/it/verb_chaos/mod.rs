//! Verbs while everything around them fails: replicas are killed, nodes lose their streams and move to another replica,
//! acknowledgements are dropped.
//!
//! Each call is driven by one caller, verb by verb, each under a key of its own and sent again, to whichever replica,
//! until it is known what became of it. What the nodes have carried out they note themselves. In the end: no verb took
//! effect twice; each that succeeded did; each whose fate was not known is known now, and is what the node's own record
//! says; and the verbs of a call were carried out in the order in which they were asked for.
//!
//! The seed decides what callers, nodes and nemesis try, though not how they take turns (`VOXGATE_TEST_SEED`).
//! `VOXGATE_CHAOS_VERBS` makes a run as long as that many verbs.

mod caller;
mod node;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use secrecy::ExposeSecret as _;
use voxgate::domain::Env;

use self::{
    caller::{Fate, drive},
    node::Node,
};
use crate::{
    harness::{
        client::{Caller, granted},
        postgres,
        process::pause,
        redis::PrivateRedis,
        server::TestServer,
        world::{World, acquire, eventually, unique},
    },
    history::number,
};

const REPLICAS: usize = 3;
const NODES: usize = 4;
/// Calls and verbs of a run in the suite, which takes some seconds,
const SHORT: (usize, usize) = (60, 600);
/// and calls of a long one.
const CALLS: usize = 500;

struct Replica {
    server: TestServer,
    caller: Caller,
}

impl Replica {
    fn new(server: TestServer, key: &str) -> Self {
        let caller = Caller::new(&server.addr, key);
        Self { server, caller }
    }
}

/// What all tasks share.
struct Stage {
    replicas: Vec<RwLock<Replica>>,
    database: String,
    redis: PrivateRedis,
    operator_key: String,
    key: String,
    /// Verbs that are yet to be asked for.
    left: AtomicUsize,
    /// No faults yet, or no more.
    is_calm: AtomicBool,
}

impl Stage {
    fn caller(&self, replica: usize) -> Caller {
        self.replicas[replica % REPLICAS].read().expect("nobody panicked").caller.clone()
    }

    fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    /// Comes after so long a time of faults.
    async fn outlive(&self, life: Duration) {
        while self.is_calm() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(life).await;
    }

    /// Takes a verb out of those that are left.
    fn take_verb(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Kills a replica now and then, and starts another in its place.
    fn haunt(&self, seed: u64) -> usize {
        let (mut random, mut kills) = (SmallRng::seed_from_u64(!seed), 0);
        while self.left.load(Ordering::Relaxed) > 0 {
            pause(Duration::from_millis(random.random_range(500..3_000)));
            let replica = &self.replicas[random.random_range(0..REPLICAS)];
            replica.read().expect("nobody panicked").server.kill();
            kills += 1;
            let (redis, key) = (self.redis.url(), self.operator_key.clone());
            let next = TestServer::production_with_key(&self.database, redis.expose_secret(), key);
            // Only for the change itself: nobody waits for a start.
            *replica.write().expect("nobody panicked") = Replica::new(next, &self.key);
        }
        self.is_calm.store(true, Ordering::Relaxed);
        kills
    }

    async fn set(verbs: usize) -> (Arc<Self>, World) {
        let (redis, database) = (PrivateRedis::start(), postgres::fresh_database());
        let first = TestServer::production(&database, redis.url().expose_secret());
        let operator_key = first.admin_key.clone();
        let world = World::on(&first.addr, &operator_key).await;
        let mut replicas = vec![RwLock::new(Replica::new(first, &world.key))];
        while replicas.len() < REPLICAS {
            let url = redis.url();
            let next = TestServer::production_with_key(&database, url.expose_secret(), operator_key.clone());
            replicas.push(RwLock::new(Replica::new(next, &world.key)));
        }
        let (left, is_calm) = (AtomicUsize::new(verbs), AtomicBool::new(true));
        let key = world.key.clone();
        (Arc::new(Self { replicas, database, redis, operator_key, key, left, is_calm }), world)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_fails_a_verb_happens_at_most_once_in_order_and_it_is_known_whether_it_did() {
    let seed = number("VOXGATE_TEST_SEED").unwrap_or_else(|| Env::system().uuid().as_u64_pair().1);
    let long = number("VOXGATE_CHAOS_VERBS").map(|verbs| (CALLS, usize::try_from(verbs).expect("a number")));
    let (count, verbs) = long.unwrap_or(SHORT);
    println!("VOXGATE_TEST_SEED={seed}");
    let (stage, world) = Box::pin(Stage::set(verbs)).await;
    let nodes: Vec<Arc<Node>> = (0..NODES).map(|_| Arc::new(Node::new(unique("node")))).collect();
    let lives: Vec<_> = nodes
        .iter()
        .zip(1_u64..)
        .map(|(node, number)| tokio::spawn(node.clone().live(stage.clone(), seed.wrapping_add(number))))
        .collect();
    let connected = async || nodes.iter().all(|node| node.streams() > 0).then_some(());
    eventually("all nodes to be connected", connected).await;
    let agent = world.agent(i32::try_from(count).expect("small")).await.id;
    let admitted = join_all((0..count).map(|number| {
        let node_id = Some(nodes[number % NODES].id.clone());
        world.try_admit(voxgate::proto::v1::AcquireSlotRequest { node_id, ..acquire(&unique("call"), &agent) })
    }))
    .await;
    let calls: Vec<String> = admitted.into_iter().map(|slot| granted(slot).call_id).collect();
    let hosted = async || (nodes.iter().map(|node| node.hosts()).sum::<usize>() == count).then_some(());
    eventually("all calls to be hosted", hosted).await;
    stage.is_calm.store(false, Ordering::Relaxed);

    let haunting = {
        let stage = stage.clone();
        tokio::task::spawn_blocking(move || stage.haunt(seed))
    };
    let driven = join_all(calls.iter().zip(100_u64..).map(|(call, number)| {
        tokio::spawn(drive(stage.clone(), call.clone(), SmallRng::seed_from_u64(seed.wrapping_add(number))))
    }))
    .await;
    let kills = haunting.await.expect("nobody panicked");
    let mut all: BTreeMap<String, Vec<Fate>> = BTreeMap::new();
    for (call, driven) in calls.iter().zip(driven) {
        all.insert(call.clone(), driven.unwrap_or_else(|panic| panic!("seed {seed}: {panic}")));
    }
    for life in lives {
        life.abort();
    }
    judge(seed, &all, &nodes, kills);
}

/// Compares what callers were told with what the nodes have carried out.
fn judge(seed: u64, told: &BTreeMap<String, Vec<Fate>>, nodes: &[Arc<Node>], kills: usize) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (call, fates) in told {
        let done: Vec<u32> = nodes.iter().flat_map(|node| node.done(call)).collect();
        if !done.is_sorted_by(|earlier, later| earlier < later) {
            wrong.push(format!("{call}: twice, or out of order: {done:?}"));
        }
        for (number, fate) in fates.iter().enumerate() {
            let happened = done.contains(&u32::try_from(number).expect("small"));
            *counts.entry(fate.name()).or_default() += 1;
            let right = match fate {
                Fate::Succeeded | Fate::FoundSucceeded => happened,
                Fate::Failed => !happened,
                Fate::Unresolved => false,
            };
            if !right {
                wrong.push(format!("{call}: verb {number} was told as {fate:?}, and it happened: {happened}"));
            }
        }
    }
    let of_nodes = |count: fn(&Node) -> usize| nodes.iter().map(|node| count(node)).sum::<usize>();
    println!(
        "{} verbs on {} calls under {kills} kills, {} streams, {} acknowledgements dropped, {} commands given again: {counts:?}",
        told.values().map(Vec::len).sum::<usize>(),
        told.len(),
        of_nodes(Node::streams),
        of_nodes(Node::dropped),
        of_nodes(Node::repeated),
    );
    assert!(wrong.is_empty(), "seed {seed}: {} violations:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(of_nodes(Node::dropped) > 0 && of_nodes(Node::repeated) > 0 && kills > 0, "seed {seed}: nothing failed");
}
