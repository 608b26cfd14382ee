//! What callers see while things break, and what is left afterwards.
//!
//! Each of these servers is the test's own, because it is killed, stopped or cut off from its stores.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use tonic::{Code, Status};
use voxgate::{
    node_sim::{Behaviour, Policy},
    proto::v1::{
        AcquireSlotRequest, CallerHangup, GetSessionRequest, HoldRequest, ListVoiceAgentsRequest, Session,
        SessionOutcome, SessionStatus, Slot, call_event::Event, control_message, get_session_request,
    },
};

use crate::harness::{
    client::{Explained as _, granted, refused, within},
    postgres,
    raw_node::{RawNode, hello},
    redis,
    server::{Backend, TestServer},
    world::{World, acquire, eventually, policy, seconds, unique},
};

const IN_FLIGHT: usize = 64;

async fn world_on(server: &TestServer) -> World {
    World::on(&server.addr, &server.admin_key).await
}

/// Counts what callers were answered.
#[derive(Debug, Default)]
struct Tally {
    granted: AtomicUsize,
    unavailable: AtomicUsize,
    recovering: AtomicUsize,
    stop: AtomicBool,
}

/// Admits and releases one call after the other until told to stop.
async fn cycle(world: World, agent: String, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let answer = world.try_admit(acquire(&unique("call"), &agent)).await;
        let slot = match answer {
            Ok(slot) => slot.into_inner(),
            Err(status) if status.reason() == "RECOVERING" => {
                tally.recovering.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Err(status) => {
                unavailable(&status);
                tally.unavailable.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        tally.granted.fetch_add(1, Ordering::Relaxed);
        let request = voxgate::proto::v1::ReleaseSlotRequest {
            call_id: slot.call_id,
            lease_id: slot.lease_id,
            ..Default::default()
        };
        // A release that the store does not hear is kept by the caller and tried again.
        while let Err(status) = world.caller.calls().release_slot(request.clone()).await {
            unavailable(&status);
            tally.unavailable.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[track_caller]
fn unavailable(status: &Status) {
    assert_eq!((status.code(), status.reason().as_str()), (Code::Unavailable, "SLOT_STORE_UNAVAILABLE"), "{status:?}");
    assert!(status.retry_delay().is_some(), "{status:?}");
}

#[tokio::test]
async fn killing_and_restarting_redis_under_load_shows_callers_nothing_but_unavailable() {
    let redis = redis::PrivateRedis::start();
    let server = TestServer::production(&postgres::fresh_database(), redis.url().expose_secret());
    let world = world_on(&server).await;
    let agent = world.agent(1_000).await;
    let tally = Arc::new(Tally::default());
    let callers: Vec<_> =
        (0..IN_FLIGHT).map(|_| tokio::spawn(cycle(world.clone(), agent.id.clone(), tally.clone()))).collect();
    let more = async |what: &str, count: &AtomicUsize| {
        let (from, asked) = (count.load(Ordering::Relaxed), Instant::now());
        let enough = async || (count.load(Ordering::Relaxed) >= from + IN_FLIGHT).then_some(());
        eventually(what, enough).await;
        asked.elapsed()
    };
    let mut took = Vec::new();
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        redis.kill();
        more("the outage", &tally.unavailable).await;
        redis.restart();
        // It starts empty: that it answers again shows in its recovering.
        took.push(more(&format!("Redis in round {round}"), &tally.recovering).await);
    }
    assert!(took.iter().all(|it| *it < Duration::from_secs(2)), "{took:?}");
    tally.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("a caller saw nothing else");
    }
    assert_eq!(world.usage(&agent.id).await.used, 0, "nothing leaked");
    assert!(server.is_ready(), "and the service was never restarted");
}

async fn session(world: &World, slot: &Slot) -> Session {
    let target = Some(get_session_request::Target::SessionId(slot.session_id.clone()));
    granted(world.caller.sessions().get_session(GetSessionRequest { target }).await)
}

#[tokio::test]
async fn killing_the_server_leaves_no_session_active_after_the_lease_and_a_sweep() {
    let (database, redis) = (postgres::fresh_database(), redis::PrivateRedis::start());
    let server = TestServer::production(&database, redis.url().expose_secret());
    let world = world_on(&server).await;
    let agent = world.agent(5).await;
    let mut slots = Vec::new();
    for _ in 0..5 {
        let request = AcquireSlotRequest { lease_ttl: Some(seconds(10)), ..acquire(&unique("call"), &agent.id) };
        slots.push(granted(world.try_admit(request).await));
    }
    let last_grant = Instant::now();
    server.kill();
    let next = TestServer::production_with_key(&database, redis.url().expose_secret(), server.admin_key.clone());
    let world = world.through(&next.addr);
    // Lease 10 s, freed at most 1 s later, swept every 2 s, and a second for a busy machine.
    tokio::time::sleep_until((last_grant + Duration::from_secs(14)).into()).await;
    for slot in &slots {
        let ended = session(&world, slot).await;
        assert_eq!(ended.status(), SessionStatus::Expired, "{ended:?}");
        assert!(ended.ended_at.is_some());
    }
    assert_eq!(world.usage(&agent.id).await.used, 0);
}

async fn drains(backend: Backend) {
    let server = TestServer::private(backend);
    let world = world_on(&server).await;
    let node = world.node(Behaviour { ack_delay: Duration::from_secs(1), ..Behaviour::default() }).await;
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    assert_eq!(slot.node_id(), node.id);
    let (service, call_id) = (world.caller.with(&slot.callback_token), slot.call_id.clone());
    let hold = tokio::spawn(async move { service.calls().hold(HoldRequest { call_id, ..Default::default() }).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let signalled = Instant::now();
    server.signal("TERM");
    let answer = granted(hold.await.expect("the verb in flight"));
    assert!(answer.call_state.expect("a state").held, "what was begun is finished");
    tokio::task::block_in_place(|| server.wait_for_exit(Duration::from_secs(22)));
    assert!(signalled.elapsed() < Duration::from_secs(21), "{:?}", signalled.elapsed());
    eprintln!("{backend:?} drained in {:?}", signalled.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_within_its_cap_with_an_open_node_stream_embedded() {
    drains(Backend::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_within_its_cap_with_an_open_node_stream_postgres_redis() {
    drains(Backend::PostgresRedis).await;
}

async fn vanishing_clients_leak_nothing(backend: Backend) {
    let world = World::shared(backend).await;
    let agent = world.agent(1_000).await;
    let mut calls = Vec::new();
    for number in 0..200_u64 {
        let call = unique("call");
        calls.push(call.clone());
        let (world, agent) = (world.clone(), agent.id.clone());
        let acquiring = tokio::spawn(async move { world.try_admit(acquire(&call, &agent)).await });
        // From before the request is sent to after it was answered.
        tokio::time::sleep(Duration::from_micros(number * 50)).await;
        acquiring.abort();
    }
    // What was begun runs to its end although nobody waits for it, and no answer tells when: a second is long for it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Whatever was granted is the call's own: admitting the same call again finds it, and nothing else is held.
    let before = world.usage(&agent.id).await.used;
    let mut held = 0;
    for call in &calls {
        let slot = granted(world.try_admit(acquire(call, &agent.id)).await);
        held += 1;
        assert_eq!(session(&world, &slot).await.status(), SessionStatus::Active);
    }
    assert!(before <= held);
    assert_eq!(world.usage(&agent.id).await.used, held);
    for call in &calls {
        let slot = granted(world.try_admit(acquire(call, &agent.id)).await);
        assert!(world.release(&slot).await);
    }
    assert_eq!(world.usage(&agent.id).await.used, 0);
}

#[tokio::test]
async fn a_client_that_vanishes_while_acquiring_leaks_nothing_embedded() {
    vanishing_clients_leak_nothing(Backend::Embedded).await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_acquiring_leaks_nothing_postgres_redis() {
    vanishing_clients_leak_nothing(Backend::PostgresRedis).await;
}

/// A stopped store is work that takes for ever.
#[tokio::test]
async fn a_deadline_shorter_than_the_work_answers_deadline_exceeded_and_leaks_nothing() {
    let redis = redis::PrivateRedis::start();
    let server = TestServer::production_under(
        &postgres::fresh_database(),
        redis.url().expose_secret(),
        "[redis]\ncommand_timeout_ms = 500",
    );
    let world = world_on(&server).await;
    let agent = world.agent(3).await;
    world.release(&world.admit(&agent.id).await).await;

    redis.signal("STOP");
    let request = within(Duration::from_millis(10), acquire(&unique("call"), &agent.id));
    let status = world.caller.calls().acquire_slot(request).await.expect_err("the store is stopped");
    // The client's own timer may fire first, which its library reports as CANCELLED.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    let started = Instant::now();
    let status = world.try_admit(acquire(&unique("call"), &agent.id)).await.expect_err("the store is stopped");
    unavailable(&status);
    assert!(started.elapsed() < Duration::from_secs(1), "a stopped store is given up on: {:?}", started.elapsed());
    redis.signal("CONT");

    // An answer that the store gave too late must not have left a slot behind for longer than its lease.
    let patience = Instant::now();
    loop {
        match world.try_admit(acquire(&unique("call"), &agent.id)).await {
            Ok(slot) => {
                assert!(world.release(&slot.into_inner()).await);
                break;
            }
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        assert!(patience.elapsed() < Duration::from_secs(2), "calls are admitted again within 2 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn short_deadlines(backend: Backend) {
    let world = World::shared(backend).await;
    let _node = world.node(policy(Policy::Ignore)).await;
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    let service = world.caller.with(&slot.callback_token);
    let request = HoldRequest { call_id: slot.call_id, ..HoldRequest::default() };
    let started = Instant::now();
    let answer = service.calls().hold(within(Duration::from_millis(400), request)).await;
    refused(answer, Code::DeadlineExceeded, "OPERATION_PENDING");
    assert!(
        started.elapsed() < Duration::from_millis(600),
        "by the deadline, not by the node: {:?}",
        started.elapsed()
    );
    let request = within(Duration::from_nanos(1), ListVoiceAgentsRequest::default());
    let status = world.caller.agents().list_voice_agents(request).await.expect_err("no time at all");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
}

#[tokio::test]
async fn a_verb_that_outlasts_its_deadline_names_its_operation_embedded() {
    short_deadlines(Backend::Embedded).await;
}

#[tokio::test]
async fn a_verb_that_outlasts_its_deadline_names_its_operation_postgres_redis() {
    short_deadlines(Backend::PostgresRedis).await;
}

/// A call on a hand-made node, on stores of its own whose database can be taken away.
struct Outage {
    postgres: postgres::PrivatePostgres,
    world: World,
    node: RawNode,
    slot: Slot,
    _redis: redis::PrivateRedis,
    _server: TestServer,
}

impl Outage {
    async fn ready() -> Self {
        let (postgres, redis) = (postgres::PrivatePostgres::start(), redis::PrivateRedis::start());
        let server = TestServer::production(&postgres.database(), redis.url().expose_secret());
        let world = world_on(&server).await;
        let (mut node, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
        let slot = world.admit(&world.agent(1).await.id).await;
        node.assigned().await;
        Self { postgres, world, node, slot, _redis: redis, _server: server }
    }

    /// What gives the call's slot back because the caller hung up.
    fn release(&self) -> voxgate::proto::v1::ReleaseSlotRequest {
        voxgate::proto::v1::ReleaseSlotRequest {
            call_id: self.slot.call_id.clone(),
            lease_id: self.slot.lease_id.clone(),
            outcome: SessionOutcome::CallerHangup.into(),
        }
    }

    /// Waits, through errors too, until the session has ended and its slot is free; answers how it ended.
    async fn end(&self) -> SessionOutcome {
        let patience = Instant::now();
        loop {
            let target = Some(get_session_request::Target::SessionId(self.slot.session_id.clone()));
            let answer = self.world.caller.sessions().get_session(GetSessionRequest { target }).await;
            if let Ok(session) = answer
                && session.get_ref().status() != SessionStatus::Active
            {
                self.world.freed(&self.slot.voice_agent_id).await;
                return session.get_ref().outcome();
            }
            assert!(patience.elapsed() < Duration::from_secs(20), "the session is still active");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reported_while_the_database_is_away_is_worked_off_when_it_is_back() {
    let mut outage = Outage::ready().await;
    outage.postgres.stop();
    outage.node.report(&outage.slot.call_id, Event::CallerHangup(CallerHangup {})).await;
    // The outage must outlast the first attempts to write it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    outage.postgres.start_again();
    assert_eq!(outage.end().await, SessionOutcome::CallerHangup);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_while_the_database_is_away_frees_the_slot_at_once_and_ends_the_session_as_stated() {
    let mut outage = Outage::ready().await;
    outage.postgres.stop();
    assert!(granted(outage.world.caller.calls().release_slot(outage.release()).await).released);
    match outage.node.hear().await.expect("no end") {
        Some(control_message::Message::EndCall(end)) => assert_eq!(end.call_id, outage.slot.call_id),
        other => panic!("expected the end, heard {other:?}"),
    }
    assert!(!granted(outage.world.caller.calls().release_slot(outage.release()).await).released, "twice");
    outage.postgres.start_again();
    assert_eq!(outage.end().await, SessionOutcome::CallerHangup);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_replica_was_killed_before_it_was_written_ends_the_session_as_stated() {
    let (database, redis) = (postgres::fresh_database(), redis::PrivateRedis::start());
    let server = TestServer::production(&database, redis.url().expose_secret());
    let world = world_on(&server).await;
    let slot = world.admit(&world.agent(1).await.id).await;
    let release = voxgate::proto::v1::ReleaseSlotRequest {
        call_id: slot.call_id.clone(),
        lease_id: slot.lease_id.clone(),
        outcome: SessionOutcome::CallerHangup.into(),
    };
    let lock = postgres::withhold_writes(&database, "sessions").await;
    assert!(granted(world.caller.calls().release_slot(release.clone()).await).released);
    server.kill();
    drop(lock);
    let next = TestServer::production_with_key(&database, redis.url().expose_secret(), server.admin_key.clone());
    let world = world.through(&next.addr);
    assert!(!granted(world.caller.calls().release_slot(release).await).released, "the slot was free already");
    assert_eq!(world.session(&slot).await.outcome(), SessionOutcome::CallerHangup, "at the first look");
}
