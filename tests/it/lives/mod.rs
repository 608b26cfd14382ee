//! That the events of calls tell their whole story: random lives, replayed from the stream.
//!
//! Calls are admitted, answered, noted about, transferred, hung up, ended, given back and forgotten at random, on nodes
//! that come and go, at replicas that are killed and started again. In the end each session's events make of it exactly what
//! GetSession answers. A follower that has resumed after each break has read the same events as one that reads them from the
//! beginning, and so does whoever resumes after any of them.
//!
//! The seed decides what callers, nodes and nemesis try, though not how they take turns (`VOXGATE_TEST_SEED`).
//! `VOXGATE_LIVES` makes a run as long as that many lives.

mod life;
mod node;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use secrecy::ExposeSecret as _;
use tonic::{Code, Response, Status};
use voxgate::{
    domain::Env,
    proto::v1::{Event, GetSessionRequest, Session, SessionStatus, WatchEventsRequest, get_session_request},
};

use crate::{
    harness::{
        client::Caller,
        postgres,
        process::pause,
        redis::PrivateRedis,
        server::{Backend, TestServer},
        watch::{Watch, after, assert_in_order, from_beginning, ids, is_end, replayed, text, told_of, types},
        world::{World, eventually, unique},
    },
    history::number,
};

const NODES: usize = 3;
const CALLERS: usize = 12;
/// Lives of a run in the suite.
const LIVES: usize = 60;
/// For how long the follower reads one stream.
const STREAM_LIFE: Duration = Duration::from_secs(1);
/// For a session to end by itself: its lease, the grace of its node, and as much again.
const ENDS_WITHIN: Duration = Duration::from_secs(90);

/// What replicas stand on.
enum Stores {
    Embedded,
    Shared { database: String, redis: Box<PrivateRedis>, operator_key: String },
}

impl Stores {
    /// Between two kills. Slots in the process are gone with it, and for one lease no new call is admitted.
    const fn rest(&self) -> Duration {
        match self {
            Self::Embedded => Duration::from_secs(20),
            Self::Shared { .. } => Duration::ZERO,
        }
    }

    /// Another replica in the place of one that was killed.
    fn replace(&self, killed: &TestServer) -> TestServer {
        match self {
            Self::Embedded => TestServer::embedded_after(killed),
            Self::Shared { database, redis, operator_key } => {
                TestServer::production_with_key(database, redis.url().expose_secret(), operator_key.clone())
            }
        }
    }
}

struct Replica {
    server: TestServer,
    caller: Caller,
}

/// What all tasks share.
struct Stage {
    stores: Stores,
    replicas: Vec<RwLock<Replica>>,
    key: String,
    /// Whether the key, and so its calls, are of the sandbox.
    sandbox: bool,
    /// Lives that are yet to begin.
    left: AtomicUsize,
    /// No faults any more.
    is_calm: AtomicBool,
    /// No nodes any more.
    is_over: AtomicBool,
}

impl Stage {
    async fn set(backend: Backend, lives: usize) -> (Arc<Self>, World) {
        let (stores, servers) = match backend {
            Backend::Embedded => (Stores::Embedded, vec![TestServer::private(backend)]),
            Backend::PostgresRedis => {
                let (redis, database) = (Box::new(PrivateRedis::start()), postgres::fresh_database());
                let first = TestServer::production(&database, redis.url().expose_secret());
                let operator_key = first.admin_key.clone();
                let stores = Stores::Shared { database, redis, operator_key };
                let second = stores.replace(&first);
                (stores, vec![first, second])
            }
        };
        let world = World::on(&servers[0].addr, &servers[0].admin_key).await;
        let (key, sandbox) = (world.key.clone(), world.sandbox);
        let replica = |server: TestServer| RwLock::new(Replica { caller: Caller::new(&server.addr, &key), server });
        let replicas = servers.into_iter().map(replica).collect();
        let (left, is_calm, is_over) = (AtomicUsize::new(lives), AtomicBool::default(), AtomicBool::default());
        (Arc::new(Self { stores, replicas, key, sandbox, left, is_calm, is_over }), world)
    }

    fn caller(&self, turn: usize) -> Caller {
        self.replicas[turn % self.replicas.len()].read().expect("nobody panicked").caller.clone()
    }

    fn take_life(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// Kills a replica now and then, and starts another in its place; answers how many.
    fn haunt(&self, seed: u64) -> usize {
        let (mut random, mut kills) = (SmallRng::seed_from_u64(!seed), 0);
        let mut killed_at: Option<Instant> = None;
        while self.left.load(Ordering::Relaxed) > 0 {
            pause(Duration::from_millis(random.random_range(500..2_500)));
            if killed_at.is_some_and(|at| at.elapsed() < self.stores.rest()) {
                continue;
            }
            let replica = &self.replicas[random.random_range(0..self.replicas.len())];
            let next = {
                let killed = &replica.read().expect("nobody panicked").server;
                killed.kill();
                self.stores.replace(killed)
            };
            (kills, killed_at) = (kills + 1, Some(Instant::now()));
            let caller = Caller::new(&next.addr, &self.key);
            *replica.write().expect("nobody panicked") = Replica { server: next, caller };
        }
        self.is_calm.store(true, Ordering::Relaxed);
        kills
    }

    /// Asks at one replica after the other until one answers.
    async fn insist<T, F>(&self, ask: impl Fn(Caller) -> F) -> T
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let patience = Instant::now();
        for turn in 0.. {
            let answer = tokio::time::timeout(Duration::from_secs(15), ask(self.caller(turn))).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("of this test"))) {
                Ok(answer) => return answer.into_inner(),
                Err(status) => {
                    assert!(is_passing(&status) && patience.elapsed() < Duration::from_mins(1), "{status:?}");
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        unreachable!("it is tried until it works")
    }

    async fn session(&self, id: &str) -> Session {
        let target = Some(get_session_request::Target::SessionId(id.to_owned()));
        let request = GetSessionRequest { target };
        self.insist(|caller| {
            let request = request.clone();
            async move { caller.sessions().get_session(request).await }
        })
        .await
    }

    /// The session once it has ended.
    async fn ended(&self, id: &str) -> Session {
        let patience = Instant::now();
        loop {
            let session = self.session(id).await;
            if session.status() != SessionStatus::Active {
                return session;
            }
            assert!(patience.elapsed() < ENDS_WITHIN, "{session:?} does not end");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What a replica that is killed, or starts again, leaves callers with.
fn is_passing(status: &Status) -> bool {
    let passing = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal, Code::DeadlineExceeded];
    passing.contains(&status.code()) || status.code() == Code::Aborted
}

/// Reads all events as they come: after each break it resumes, anywhere.
#[derive(Default)]
struct Follower {
    read: Mutex<Vec<Event>>,
    resumed: AtomicUsize,
}

impl Follower {
    fn read(&self) -> Vec<Event> {
        self.read.lock().expect("nobody panicked").clone()
    }

    async fn follow(self: Arc<Self>, stage: Arc<Stage>) {
        for turn in 0.. {
            let last = self.read.lock().expect("nobody panicked").last().map(after);
            let request = last.unwrap_or_else(from_beginning);
            if let Ok(stream) = stage.caller(turn).sessions().watch_events(request).await {
                let mut stream = stream.into_inner();
                let reading = async {
                    while let Ok(Some(event)) = stream.message().await {
                        self.read.lock().expect("nobody panicked").push(event);
                    }
                };
                // Where nothing breaks it, it breaks off.
                let _ = tokio::time::timeout(STREAM_LIFE, reading).await;
            }
            self.resumed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn random_lives(backend: Backend) {
    let seed = number("VOXGATE_TEST_SEED").unwrap_or_else(|| Env::system().uuid().as_u64_pair().1);
    let lives = number("VOXGATE_LIVES").map_or(LIVES, |lives| usize::try_from(lives).expect("a number"));
    println!("VOXGATE_TEST_SEED={seed}");
    let (stage, world) = Box::pin(Stage::set(backend, lives)).await;
    let agent = world.agent(10_000).await.id;
    let follower = Arc::new(Follower::default());
    let following = tokio::spawn(follower.clone().follow(stage.clone()));
    let seeds = (1_u64..).map(|number| seed.wrapping_add(number));
    let nodes: Vec<_> =
        seeds.clone().take(NODES).map(|seed| tokio::spawn(node::live(stage.clone(), unique("node"), seed))).collect();
    let callers: Vec<_> = seeds
        .skip(NODES)
        .take(CALLERS)
        .map(|seed| tokio::spawn(life::live_all(stage.clone(), agent.clone(), SmallRng::seed_from_u64(seed))))
        .collect();
    let nemesis = tokio::task::spawn_blocking({
        let stage = stage.clone();
        move || stage.haunt(seed)
    });
    let mut sessions = HashSet::new();
    for caller in callers {
        sessions.extend(caller.await.expect("a caller saw nothing but outages"));
    }
    let kills = nemesis.await.expect("no panic");
    stage.is_over.store(true, Ordering::Relaxed);
    for node in nodes {
        node.await.expect("no panic");
    }
    join_all(sessions.iter().map(|id| stage.ended(id))).await;

    let all = eventually("the end of every story", async || {
        let read = follower.read();
        let ended: HashSet<_> =
            read.iter().filter(|event| is_end(event)).map(|event| text(event, "session_id")).collect();
        let begun: HashSet<_> = read.iter().map(|event| text(event, "session_id")).collect();
        (sessions.is_subset(&ended) && ended == begun).then_some(read)
    })
    .await;
    following.abort();
    let resumed = follower.resumed.load(Ordering::Relaxed);
    println!("{} events of {} sessions, {kills} kills, resumed {resumed} times", all.len(), sessions.len());
    assert!(kills > 0 && resumed > 0, "nothing happened");
    assert_in_order(&all);
    replays(&stage, &all).await;
    resumes_anywhere(&stage, &all).await;
}

/// Each story makes of its session what it is.
async fn replays(stage: &Stage, all: &[Event]) {
    let mut stories = BTreeMap::<String, Vec<Event>>::new();
    for event in all {
        stories.entry(text(event, "session_id")).or_default().push(event.clone());
    }
    let mut outcomes = BTreeMap::<&str, usize>::new();
    for (id, story) in &stories {
        let session = stage.session(id).await;
        assert_eq!(replayed(story), told_of(&session), "{:?}", types(story));
        *outcomes.entry(session.outcome().as_str_name()).or_default() += 1;
    }
    println!("{outcomes:?}");
    assert!(outcomes.len() > 3, "hardly anything happened: {outcomes:?}");
}

/// Whoever resumes after any event reads the rest, each once and in order.
async fn resumes_anywhere(stage: &Stage, all: &[Event]) {
    let rest_of = async |turn: usize, request: WatchEventsRequest, expected: &[Event]| {
        let rest = Watch::of(&stage.caller(turn), request).await.take(expected.len()).await;
        assert_eq!(ids(&rest), ids(expected), "resumed before {turn}");
    };
    rest_of(0, from_beginning(), all).await;
    // Of a long run some: what is read grows with the square.
    for (turn, event) in all.iter().enumerate().step_by(all.len() / 400 + 1) {
        rest_of(turn, after(event), &all[turn + 1..]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_random_lives_replay_to_their_sessions_embedded() {
    Box::pin(random_lives(Backend::Embedded)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_random_lives_replay_to_their_sessions_postgres_redis() {
    Box::pin(random_lives(Backend::PostgresRedis)).await;
}
