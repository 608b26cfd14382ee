//! What every `CommandBus` promises, on Redis and in the process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use voxgate::{
    control::{Attachment, BusTimes, CommandBus, Connected, Delivery, Letter, MAILBOX, MemoryBus, RedisBus, Unsent},
    domain::{
        Env,
        hash::Sha256,
        ids::{OperationId, SessionId, TenantId},
        node::{Command, NodeAddress, NodeProfile},
        operation::{Operation, OperationState},
        queue::ReplicaId,
        trace::TraceContext,
        verb::{Unhold, VerbResult},
        voice_agent::Subprotocol,
    },
    redis::{Redis as SharedRedis, RedisSettings},
};

use super::{at, call, slot_fixture::SteppedClock};
use crate::harness::{redis::PrivateRedis, world::eventually};

const TIMES: BusTimes = BusTimes { alive: Duration::from_secs(10), grace: Duration::from_secs(30) };
/// Far longer than a letter takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Far longer than a letter that is not to come would take.
const SILENCE: Duration = Duration::from_millis(150);

/// A home of the bus, its replicas and its clock.
struct Fixture {
    buses: Vec<Arc<dyn CommandBus>>,
    clock: Option<Arc<SteppedClock>>,
    redis: Option<PrivateRedis>,
    _closing: DropGuard,
}

impl Fixture {
    fn memory() -> Self {
        let clock = Arc::new(SteppedClock::start());
        let bus = Arc::new(MemoryBus::new(ReplicaId::new(&Env::system()), TIMES, clock.clone()));
        let closing = CancellationToken::new().drop_guard();
        Self { buses: vec![bus], clock: Some(clock), redis: None, _closing: closing }
    }

    /// Three replicas.
    fn redis() -> Self {
        let (server, closing) = (PrivateRedis::start_with_clock_shim(), CancellationToken::new());
        let settings = RedisSettings { command_timeout_ms: 3_000, ..RedisSettings::default() };
        let bus = |_| -> Arc<dyn CommandBus> {
            let redis = SharedRedis::connect(&server.url(), settings.clone()).expect("a URL");
            RedisBus::start(redis, ReplicaId::new(&Env::system()), TIMES, |_| {}, closing.clone())
        };
        let buses = (0..3).map(bus).collect();
        Self { buses, clock: None, redis: Some(server), _closing: closing.drop_guard() }
    }

    /// The replica of that number, if there are as many.
    fn bus(&self, number: usize) -> &Arc<dyn CommandBus> {
        &self.buses[number % self.buses.len()]
    }

    fn advance(&self, span: Duration) {
        match (&self.clock, &self.redis) {
            (Some(clock), _) => {
                let micros = i64::try_from(span.as_micros()).expect("a test's span");
                clock.0.fetch_add(micros, Ordering::SeqCst);
            }
            (None, Some(redis)) => redis.advance(span),
            (None, None) => unreachable!("there is one of them"),
        }
    }

    async fn attach(&self, replica: usize, node: &NodeAddress) -> Stream {
        static STREAMS: AtomicU64 = AtomicU64::new(1);
        let stream = STREAMS.fetch_add(1, Ordering::Relaxed);
        let attachment = Attachment { node: node.clone(), stream, profile: profile() };
        let (mailbox, mail) = mpsc::channel(MAILBOX);
        let bus = self.bus(replica).clone();
        bus.attach(&attachment, mailbox).await.expect("an answer");
        Stream { bus, attachment, mail }
    }

    /// As [`CommandBus::send`], once the subscription of the node's replica is there to hear it.
    async fn send(&self, replica: usize, to: &NodeAddress, letter: Letter) {
        self.bus(replica).send(to, letter).await.expect("the node is connected");
    }
}

struct Stream {
    bus: Arc<dyn CommandBus>,
    attachment: Attachment,
    mail: mpsc::Receiver<Delivery>,
}

impl Stream {
    async fn next(&mut self) -> Option<Delivery> {
        tokio::time::timeout(PATIENCE, self.mail.recv()).await.expect("something comes")
    }

    async fn letter(&mut self) -> (u64, Letter) {
        match self.next().await {
            Some(Delivery::Letter { number, letter }) => (number, *letter),
            other => panic!("no letter: {other:?}"),
        }
    }

    async fn is_silent(&mut self) {
        let heard = tokio::time::timeout(SILENCE, self.mail.recv()).await;
        assert!(!matches!(heard, Ok(Some(_))), "{heard:?}");
    }

    async fn keep(&self, load: usize) -> bool {
        self.bus.keep(&self.attachment, load).await.expect("an answer")
    }
}

fn profile() -> NodeProfile {
    NodeProfile { subprotocol: Subprotocol::AudioJambonzOrg, capacity: 7, version: "1 \"ü\" | {}".into() }
}

fn node(name: &str) -> NodeAddress {
    NodeAddress { tenant: TenantId::new(&Env::system()), sandbox: false, node: name.parse().expect("a node id") }
}

fn command(reply_to: ReplicaId) -> Letter {
    let command = Command {
        operation: OperationId::new(&Env::system()),
        call: call("call|1"),
        fence: i64::MAX,
        deadline: at(9),
        verb: Unhold.into(),
        trace: TraceContext::new(1, 2, true, "vendor=told"),
    };
    Letter::Command { command, reply_to }
}

fn letter() -> Letter {
    Letter::Assign { call: "call-1".parse().expect("a call id"), session: SessionId::new(&Env::system()) }
}

fn operation() -> Operation {
    let env = Env::system();
    Operation {
        id: OperationId::new(&env),
        tenant: TenantId::new(&env),
        session: SessionId::new(&env),
        call: call("call"),
        verb: Unhold.into(),
        key: "key".parse().expect("a key"),
        digest: Sha256::of("request"),
        state: OperationState::Succeeded,
        accepted_at: at(0),
        dispatched_at: Some(at(1)),
        finished_at: Some(at(2)),
        result: Some(VerbResult { answered: true, playback_id: Some("p|ü".into()), ..VerbResult::default() }),
        failure: None,
    }
}

macro_rules! on_every_home {
    ($($test:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::Fixture::memory()).await;
            })+
        }

        mod redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::Fixture::redis()).await;
            })+
        }
    };
}

on_every_home!(
    letters_come_from_any_replica_in_the_order_in_which_they_were_sent,
    a_node_that_is_connected_nowhere_is_sent_nothing,
    nodes_of_two_tenants_and_of_both_sides_are_told_apart,
    a_newer_stream_takes_the_nodes_place_wherever_it_is,
    what_was_not_settled_is_given_once_more_and_then_never,
    what_is_too_old_is_not_given_again,
    an_answer_comes_to_whoever_waits_for_it,
    the_connected_nodes_are_told_with_their_load,
);

async fn letters_come_from_any_replica_in_the_order_in_which_they_were_sent(fixture: &Fixture) {
    let node = node("n");
    let mut stream = fixture.attach(0, &node).await;
    let mut sent = Vec::new();
    for number in 0..200 {
        let letter = if number % 2 == 0 { letter() } else { command(fixture.bus(0).replica()) };
        fixture.send(number, &node, letter.clone()).await;
        sent.push(letter);
    }
    let mut numbers = Vec::new();
    for letter in sent {
        let (number, came) = stream.letter().await;
        assert_eq!(came, letter);
        numbers.push(number);
    }
    assert!(numbers.is_sorted() && numbers[0] > 0);
    stream.is_silent().await;
}

async fn a_node_that_is_connected_nowhere_is_sent_nothing(fixture: &Fixture) {
    let node = node("n");
    assert!(matches!(fixture.bus(0).send(&node, letter()).await, Err(Unsent::Unreachable)));
    let stream = fixture.attach(0, &node).await;
    fixture.bus(0).detach(&stream.attachment).await;
    assert!(matches!(fixture.bus(1).send(&node, letter()).await, Err(Unsent::Unreachable)));
    assert!(!stream.keep(1).await, "what has gone does not stay");
    fixture.attach(1, &node).await.is_silent().await;
}

async fn nodes_of_two_tenants_and_of_both_sides_are_told_apart(fixture: &Fixture) {
    let live = node("n");
    let sandbox = NodeAddress { sandbox: true, ..live.clone() };
    let foreign = node("n");
    let mut streams = Vec::new();
    for node in [&live, &sandbox, &foreign] {
        streams.push(fixture.attach(0, node).await);
    }
    for (number, node) in [&live, &sandbox, &foreign].into_iter().enumerate() {
        let letter = letter();
        fixture.send(1, node, letter.clone()).await;
        assert_eq!(streams[number].letter().await.1, letter);
    }
    for stream in &mut streams {
        stream.is_silent().await;
    }
}

async fn a_newer_stream_takes_the_nodes_place_wherever_it_is(fixture: &Fixture) {
    let node = node("n");
    let mut former = fixture.attach(0, &node).await;
    for replica in [0, 1] {
        let mut newer = fixture.attach(replica, &node).await;
        assert_eq!(former.next().await, Some(Delivery::TakenOver));
        assert!(!former.keep(1).await && newer.keep(1).await);
        let letter = letter();
        fixture.send(2, &node, letter.clone()).await;
        let (number, came) = newer.letter().await;
        assert_eq!(came, letter);
        newer.bus.settle(&node, Some(number), None).await;
        // The end of the older one changes nothing.
        former.bus.detach(&former.attachment).await;
        assert!(newer.keep(1).await);
        former = newer;
    }
}

async fn what_was_not_settled_is_given_once_more_and_then_never(fixture: &Fixture) {
    let node = node("n");
    let mut first = fixture.attach(0, &node).await;
    let letters = [letter(), command(fixture.bus(0).replica()), letter()];
    for letter in &letters {
        fixture.send(1, &node, letter.clone()).await;
    }
    let (settled, _) = first.letter().await;
    first.letter().await;
    first.letter().await;
    first.bus.settle(&node, Some(settled), None).await;
    first.bus.detach(&first.attachment).await;

    let mut second = fixture.attach(2, &node).await;
    let again = [second.letter().await.1, second.letter().await.1];
    assert_eq!(again, letters[1..], "in order, and without what was settled");
    let fresh = letter();
    fixture.send(0, &node, fresh.clone()).await;
    let (number, came) = second.letter().await;
    assert_eq!(came, fresh, "behind those before it");
    second.bus.settle(&node, Some(number), None).await;

    fixture.attach(1, &node).await.is_silent().await;
}

async fn what_is_too_old_is_not_given_again(fixture: &Fixture) {
    let node = node("n");
    let mut first = fixture.attach(0, &node).await;
    let (old, young) = (letter(), letter());
    fixture.send(1, &node, old).await;
    first.letter().await;
    fixture.advance(Duration::from_secs(5));
    assert!(first.keep(1).await);
    fixture.send(1, &node, young.clone()).await;
    first.letter().await;
    first.bus.detach(&first.attachment).await;
    fixture.advance(TIMES.grace.saturating_sub(Duration::from_secs(3)));
    let mut second = fixture.attach(0, &node).await;
    assert_eq!(second.letter().await.1, young);
    second.is_silent().await;
}

async fn an_answer_comes_to_whoever_waits_for_it(fixture: &Fixture) {
    let node = node("n");
    let mut stream = fixture.attach(0, &node).await;
    for sender in 0..3 {
        let (bus, operation) = (fixture.bus(sender), operation());
        let awaited = bus.expect(operation.id);
        fixture.send(sender, &node, command(bus.replica())).await;
        let (number, letter) = stream.letter().await;
        let Letter::Command { reply_to, .. } = letter else { panic!("no command: {letter:?}") };
        stream.bus.settle(&node, Some(number), Some((reply_to, operation.clone()))).await;
        let answer = tokio::time::timeout(PATIENCE, awaited).await.expect("it comes").expect("it is an answer");
        assert_eq!(answer, operation);
        // Nobody waits for it now, and that is nobody's harm.
        stream.bus.settle(&node, None, Some((reply_to, operation))).await;
    }
}

async fn the_connected_nodes_are_told_with_their_load(fixture: &Fixture) {
    let first = node("first");
    let second = NodeAddress { sandbox: true, node: "second".parse().expect("a node id"), ..first.clone() };
    let streams = [fixture.attach(0, &first).await, fixture.attach(1, &second).await];
    assert!(streams[1].keep(5).await);
    let connected = async || {
        let mut all = fixture.bus(2).connected(first.tenant).await.expect("an answer");
        all.sort_by(|a, b| a.node.cmp(&b.node));
        all
    };
    let of = |stream: &Stream, load| Connected {
        node: stream.attachment.node.node.clone(),
        sandbox: stream.attachment.node.sandbox,
        profile: profile(),
        load,
        replica: stream.bus.replica(),
    };
    assert_eq!(connected().await, [of(&streams[0], 0), of(&streams[1], 5)]);
    assert!(fixture.bus(0).connected(TenantId::new(&Env::system())).await.expect("an answer").is_empty());
    streams[0].bus.detach(&streams[0].attachment).await;
    assert_eq!(connected().await, [of(&streams[1], 5)]);
}

#[tokio::test]
async fn a_node_whose_replica_says_nothing_any_more_is_not_connected() {
    let (fixture, node) = (Fixture::redis(), node("n"));
    let stream = fixture.attach(0, &node).await;
    fixture.advance(TIMES.alive + Duration::from_secs(1));
    assert!(matches!(fixture.bus(1).send(&node, letter()).await, Err(Unsent::Unreachable)));
    assert!(fixture.bus(1).connected(node.tenant).await.expect("an answer").is_empty());
    assert!(stream.keep(1).await, "it was only late");
    fixture.send(1, &node, letter()).await;
}

#[tokio::test]
async fn what_was_said_while_nobody_listened_comes_with_the_next_heartbeat_or_the_next_letter() {
    let (fixture, node) = (Fixture::redis(), node("n"));
    let mut stream = fixture.attach(0, &node).await;
    let redis = fixture.redis.as_ref().expect("a Redis");
    let heard = letter();
    fixture.send(1, &node, heard.clone()).await;
    assert_eq!(stream.letter().await.1, heard);
    let sent = [letter(), letter(), letter()];
    for letter in &sent {
        // Whoever listens is cut off, and back some time later: in between, what is published is lost.
        redis.command("CLIENT KILL TYPE pubsub");
        fixture.send(1, &node, letter.clone()).await;
    }
    assert!(stream.keep(1).await);
    for letter in sent {
        assert_eq!(stream.letter().await.1, letter);
    }
    stream.is_silent().await;
}

#[tokio::test]
async fn a_redis_that_lost_everything_carries_letters_again_after_the_next_heartbeat() {
    let (fixture, node) = (Fixture::redis(), node("n"));
    let mut stream = fixture.attach(0, &node).await;
    fixture.send(1, &node, letter()).await;
    stream.letter().await;
    fixture.redis.as_ref().expect("a Redis").command("FLUSHALL");
    assert!(matches!(fixture.bus(1).send(&node, letter()).await, Err(Unsent::Unreachable)));
    assert!(stream.keep(1).await);
    let letter = letter();
    fixture.send(1, &node, letter.clone()).await;
    assert_eq!(stream.letter().await.1, letter);
}

#[tokio::test]
async fn all_replicas_hear_whose_nodes_have_come_or_gone() {
    let server = PrivateRedis::start();
    let (told, heard) = std::sync::mpsc::channel();
    let closing = CancellationToken::new();
    let settings = RedisSettings { command_timeout_ms: 3_000, ..RedisSettings::default() };
    let connect = || SharedRedis::connect(&server.url(), settings.clone()).expect("a URL");
    let tell = move |tenant| told.send(tenant).expect("somebody hears");
    let _follower = RedisBus::start(connect(), ReplicaId::new(&Env::system()), TIMES, tell, closing.clone());
    let heard = std::sync::Mutex::new(heard);
    let next = async || heard.lock().expect("nobody panics").try_recv().ok();
    assert_eq!(eventually("the subscription", next).await, None, "what was said before was missed");
    let bus = RedisBus::start(connect(), ReplicaId::new(&Env::system()), TIMES, |_| {}, closing.clone());
    let attachment = Attachment { node: node("n"), stream: 1, profile: profile() };
    bus.attach(&attachment, mpsc::channel(1).0).await.expect("an answer");
    assert_eq!(eventually("that it came", next).await, Some(attachment.node.tenant));
    bus.detach(&attachment).await;
    assert_eq!(eventually("that it left", next).await, Some(attachment.node.tenant));
    closing.cancel();
}
