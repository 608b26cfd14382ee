//! What becomes of live calls when the slot store loses its data, refuses to write or must not be trusted.
//!
//! Each of these servers is the test's own, and so is its Redis.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use secrecy::ExposeSecret as _;
use tonic::Code;
use voxgate::proto::v1::{
    AcquireSlotRequest, AwaitSlotRequest, Heartbeat, Hello, LeaseRenewal, LeaseRenewalResult, LeaseState, LiveCall,
    ReleaseSlotRequest, RenewSlotsRequest, SessionOutcome, SessionStatus, Slot, WsConnected, call_event::Event,
    control_message::Message as Told, node_message::Message as Said,
};

use crate::harness::{
    client::{Explained as _, faults, granted, refused},
    clock::MovedClock,
    pair::Pair,
    postgres,
    process::wait_for,
    raw_node::{RawNode, hello},
    redis::{PrivateRedis, ask},
    server::{PATIENT, TestServer},
    world::{World, acquire, eventually, seconds, unique},
};

const LEASE_S: i64 = 10;

impl Pair {
    fn lose_everything(&self) {
        assert!(self.redis.command("FLUSHALL").starts_with("+OK"));
    }
}

fn short(call: &str, agent: &str) -> AcquireSlotRequest {
    AcquireSlotRequest { lease_ttl: Some(seconds(LEASE_S)), ..acquire(call, agent) }
}

async fn renew(world: &World, slots: &[Slot]) -> Vec<LeaseRenewalResult> {
    let renewal = |slot: &Slot| LeaseRenewal {
        call_id: slot.call_id.clone(),
        lease_id: slot.lease_id.clone(),
        lease_ttl: Some(seconds(LEASE_S)),
    };
    let request = RenewSlotsRequest { leases: slots.iter().map(renewal).collect() };
    granted(world.caller.calls().renew_slots(request).await).results
}

fn states(fates: &[LeaseRenewalResult], state: LeaseState) -> usize {
    fates.iter().filter(|fate| fate.state() == state).count()
}

/// What those are told who want in.
#[derive(Debug, Default)]
struct Tally {
    granted: AtomicUsize,
    recovering: AtomicUsize,
    full: AtomicUsize,
    stop: AtomicBool,
}

async fn knock(world: World, agent: String, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::SeqCst) {
        match world.try_admit(short(&unique("new"), &agent)).await {
            Ok(_) => _ = tally.granted.fetch_add(1, Ordering::SeqCst),
            Err(status) => match (status.code(), status.reason().as_str()) {
                (Code::Unavailable, "RECOVERING") => {
                    let left = status.retry_delay().expect("it says when");
                    // What is left, and up to a fifth more.
                    assert!(left <= Duration::from_secs(12), "{left:?}");
                    tally.recovering.fetch_add(1, Ordering::SeqCst);
                }
                (Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED") => _ = tally.full.fetch_add(1, Ordering::SeqCst),
                _ => panic!("{status:?}"),
            },
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flushall_at_full_load_brings_every_call_back_by_its_next_renewal_and_admits_no_other_before_its_time() {
    every_call_comes_back_and_no_other_is_admitted_before_its_time(&Pair::start().await, Pair::lose_everything).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_ahead_at_full_load_ends_no_call_and_admits_no_other_before_its_time() {
    let pair = Pair::start_on(PrivateRedis::start_with_clock_shim()).await;
    let step = |pair: &Pair| pair.redis.advance(Duration::from_mins(5));
    every_call_comes_back_and_no_other_is_admitted_before_its_time(&pair, step).await;
}

async fn every_call_comes_back_and_no_other_is_admitted_before_its_time(pair: &Pair, strike: impl Fn(&Pair)) {
    const CALLS: usize = 100;
    let [here, there] = &pair.worlds;
    let agent = here.agent(100).await;
    let mut slots = Vec::new();
    for number in 0..CALLS {
        slots.push(granted(pair.worlds[number % 2].try_admit(short(&unique("call"), &agent.id)).await));
    }
    let tally = Arc::new(Tally::default());
    let knocking: Vec<_> =
        (0..8).map(|n| tokio::spawn(knock(pair.worlds[n % 2].clone(), agent.id.clone(), tally.clone()))).collect();
    assert_eq!(states(&renew(there, &slots).await, LeaseState::Renewed), CALLS);

    strike(pair);
    let lost = Instant::now();
    // One renewal of each, half of them by either replica.
    let (left, right) = slots.split_at(CALLS / 2);
    let fates = [renew(here, left).await, renew(there, right).await].concat();
    assert_eq!(states(&fates, LeaseState::Readmitted), CALLS, "{fates:?}");
    assert!(fates.iter().all(|fate| fate.expires_at.is_some()));
    assert_eq!(here.usage(&agent.id).await.used, 100);
    let same = granted(there.try_admit(short(&slots[0].call_id, &agent.id)).await);
    assert_eq!(
        (same.lease_id, same.fence, same.session_id),
        (slots[0].lease_id.clone(), slots[0].fence, slots[0].session_id.clone())
    );

    // A slot that is given back is not given to another before the recovery is over.
    assert!(here.release(&slots.pop().expect("some")).await);
    while lost.elapsed() < Duration::from_millis(8_500) {
        let fates = renew(here, &slots).await;
        assert_eq!(states(&fates, LeaseState::Renewed), CALLS - 1, "{fates:?}");
        let granted = tally.granted.load(Ordering::SeqCst);
        // A machine that stops may have skipped the end of the recovery, ten seconds after the loss.
        assert!(granted == 0 || lost.elapsed() > Duration::from_secs(10), "{granted} after {:?}", lost.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(tally.recovering.load(Ordering::SeqCst) > 0);
    // Then exactly the free slot is given away, and no other.
    while tally.granted.load(Ordering::SeqCst) == 0 {
        assert!(lost.elapsed() < Duration::from_secs(13), "new calls are admitted again");
        assert_eq!(states(&renew(there, &slots).await, LeaseState::Renewed), CALLS - 1);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let full = tally.full.load(Ordering::SeqCst);
    while tally.full.load(Ordering::SeqCst) < full + 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tally.stop.store(true, Ordering::SeqCst);
    for knocking in knocking {
        knocking.await.expect("it saw nothing else");
    }
    assert_eq!((tally.granted.load(Ordering::SeqCst), here.usage(&agent.id).await.used), (1, 100));
    let recoveries: f64 = pair.servers.iter().map(|server| server.metric("voxgate_recoveries_total")).sum();
    assert!(recoveries >= 1.0, "it was counted");
    for slot in &slots {
        assert_eq!(here.session(slot).await.status(), SessionStatus::Active);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_heartbeat_brings_its_calls_back_and_a_session_that_nobody_brings_back_ends() {
    let pair = Pair::start().await;
    let world = &pair.worlds[0];
    let (mut node, _) = RawNode::welcomed(world, hello(world, &unique("node"))).await;
    let agent = world.agent(10).await;
    let hosted = granted(world.try_admit(short(&unique("call"), &agent.id)).await);
    assert_eq!(node.assigned().await.slot.expect("a slot").lease_id, hosted.lease_id, "one lease has one name");
    let elsewhere = AcquireSlotRequest { node_id: Some(unique("away")), ..short(&unique("call"), &agent.id) };
    let orphan = granted(world.try_admit(elsewhere).await);
    pair.lose_everything();
    let lost = Instant::now();
    while lost.elapsed() < Duration::from_secs(13) {
        node.say(Said::Heartbeat(Heartbeat::default())).await;
        // Between two heartbeats: what must not happen is looked for through the whole recovery.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = world.session(&orphan).await.status();
        assert!(status == SessionStatus::Active || lost.elapsed() > Duration::from_secs(8), "its time is not over");
    }
    assert_eq!(world.usage(&agent.id).await.used, 1);
    assert_eq!(world.session(&hosted).await.status(), SessionStatus::Active);
    assert_eq!(world.outcome(&orphan).await, SessionOutcome::NodeLost);

    // After a second loss the node is connected elsewhere, and its Hello brings the call back.
    drop(node);
    pair.lose_everything();
    let other = &pair.worlds[1];
    let call = LiveCall { call_id: hosted.call_id.clone(), lease_id: hosted.lease_id.clone() };
    let (_node, welcome) = RawNode::welcomed(other, Hello { calls: vec![call], ..hello(other, &unique("node")) }).await;
    assert_eq!(welcome.leases[0].state(), LeaseState::Readmitted, "{welcome:?}");
    assert_eq!(world.usage(&agent.id).await.used, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_call_does_not_come_back_and_a_lease_of_another_call_is_nobodys() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let agent = here.agent(10).await;
    let (live, ended) = (here.admit(&agent.id).await, here.admit(&agent.id).await);
    // A replica that has not seen the tenant asks the database whether it has live calls.
    let written = async || (pair.servers[0].metric("voxgate_journal_entries") < 1.0).then_some(());
    eventually("the sessions in the database", written).await;
    pair.lose_everything();
    assert!(!there.release(&ended).await, "there was nothing to free");
    let stolen = Slot { call_id: unique("thief"), ..live.clone() };
    let fates = renew(here, &[ended.clone(), stolen.clone(), live.clone()]).await;
    let told: Vec<_> = fates.iter().map(LeaseRenewalResult::state).collect();
    assert_eq!(told, [LeaseState::Released, LeaseState::Lost, LeaseState::Readmitted]);
    assert!(!here.release(&stolen).await);
    assert_eq!(here.usage(&agent.id).await.used, 1);
    let stranger = here.neighbour().await;
    assert_eq!(states(&renew(&stranger, std::slice::from_ref(&live)).await, LeaseState::Lost), 1);

    let (mut node, _) = RawNode::welcomed(here, hello(here, &unique("node"))).await;
    let call = LiveCall { call_id: stolen.call_id.clone(), lease_id: stolen.lease_id.clone() };
    node.say(Said::Heartbeat(Heartbeat { calls: vec![call] })).await;
    match node.hear().await.expect("no end") {
        Some(Told::LeaseLost(lost)) => assert_eq!((lost.call_id, lost.lease_id), (stolen.call_id, stolen.lease_id)),
        other => panic!("expected the loss of the lease, heard {other:?}"),
    }
    let mut wrong = live.clone();
    wrong.lease_id.replace_range(0..2, "!!");
    let leases = vec![LeaseRenewal { call_id: live.call_id, lease_id: wrong.lease_id.clone(), lease_ttl: None }];
    assert_eq!(faults(here.caller.calls().renew_slots(RenewSlotsRequest { leases }).await), ["leases[0].lease_id"]);
    let release = ReleaseSlotRequest { call_id: String::new(), lease_id: wrong.lease_id, ..Default::default() };
    assert_eq!(faults(here.caller.calls().release_slot(release).await), ["call_id", "lease_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_the_proof_of_a_lease_brings_its_call_back() {
    let (mut postgres, redis) = (postgres::PrivatePostgres::start(), PrivateRedis::start());
    let server = TestServer::production(&postgres.database(), redis.url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(10).await;
    let (mut node, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let (hosted, held) = (world.admit(&agent.id).await, world.admit(&agent.id).await);
    for _ in 0..2 {
        node.assigned().await;
    }
    postgres.stop();
    assert!(redis.command("FLUSHALL").starts_with("+OK"));
    assert_eq!(states(&renew(&world, std::slice::from_ref(&held)).await, LeaseState::Readmitted), 1);
    node.say(Said::Heartbeat(Heartbeat::default())).await;
    let patience = Instant::now();
    loop {
        let fates = renew(&world, std::slice::from_ref(&hosted)).await;
        if states(&fates, LeaseState::Renewed) == 1 {
            break;
        }
        // Whoever of the two comes first brings it back.
        assert_eq!(states(&fates, LeaseState::Readmitted), 1, "{fates:?}");
        assert!(patience.elapsed() < Duration::from_secs(20));
    }
    let refusal = world.try_admit(acquire(&unique("call"), &agent.id)).await.expect_err("it recovers");
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_redis_refuses_is_made_when_it_can_be_though_nobody_asks_again() {
    let redis = PrivateRedis::start();
    let server = TestServer::production(&postgres::fresh_database(), redis.url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(10).await;
    let refusals = [
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ];
    for (refuse, allow) in refusals {
        let slot = world.admit(&agent.id).await;
        assert!(redis.command(refuse).starts_with("+OK"), "{refuse}");
        let denied = world.try_admit(acquire(&unique("call"), &agent.id)).await.expect_err("it cannot be written");
        assert_eq!(
            (denied.code(), denied.reason().as_str()),
            (Code::Unavailable, "SLOT_STORE_UNAVAILABLE"),
            "{refuse}"
        );
        let release = ReleaseSlotRequest {
            call_id: slot.call_id.clone(),
            lease_id: slot.lease_id.clone(),
            outcome: SessionOutcome::CallerHangup.into(),
        };
        let refused = world.caller.calls().release_slot(release).await.expect_err("it cannot be written");
        assert_eq!((refused.code(), refused.reason().as_str()), (Code::Unavailable, "SLOT_STORE_UNAVAILABLE"));
        assert_eq!(world.outcome(&slot).await, SessionOutcome::CallerHangup, "{refuse}");
        assert!(redis.command(allow).starts_with("+OK"), "{allow}");
        let patience = Instant::now();
        while world.usage(&agent.id).await.used > 0 {
            assert!(patience.elapsed() < Duration::from_secs(8), "{allow}: long before the lease of 60 s runs out");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_from_an_older_file_lets_holders_assert_what_it_lacks_and_refuses_no_call() {
    let redis = PrivateRedis::start();
    let server = TestServer::production(&postgres::fresh_database(), redis.url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(2).await;
    let kept = world.admit(&agent.id).await;
    let snapshot = redis.dump();
    let lost = world.admit(&agent.id).await;
    redis.kill();
    redis.restart_from(&snapshot);
    let patience = Instant::now();
    // A new call that comes first finds room: one more than the limit is what the file lacks, and what comes back.
    let new = loop {
        match world.try_admit(acquire(&unique("call"), &agent.id)).await {
            Ok(slot) => break slot.into_inner(),
            Err(status) => assert_eq!(status.reason(), "SLOT_STORE_UNAVAILABLE", "{status:?}"),
        }
        assert!(patience.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let fates = renew(&world, &[kept, lost, new]).await;
    let told: Vec<_> = fates.iter().map(LeaseRenewalResult::state).collect();
    assert_eq!(told, [LeaseState::Renewed, LeaseState::Readmitted, LeaseState::Renewed]);
    assert_eq!(world.usage(&agent.id).await.used, 3);
    let denied = world.try_admit(acquire(&unique("call"), &agent.id)).await.expect_err("the limit binds");
    assert_eq!(denied.reason(), "MAX_CONCURRENT_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_is_not_ready_and_one_that_is_nearly_full_is_an_alarm() {
    let redis = PrivateRedis::start();
    let server = TestServer::production(&postgres::fresh_database(), redis.url().expose_secret());
    let patience = Duration::from_secs(30);
    let until = |what: &str, is: &dyn Fn() -> bool| wait_for(what, patience, || is().then_some(()));
    assert!(redis.command("CONFIG SET maxmemory-policy allkeys-lru").starts_with("+OK"));
    until("unreadiness", &|| !server.is_ready());
    assert!(server.log().contains("live leases") || server.get("/readyz").is_some_and(|it| it.contains("not ready")));
    assert!(redis.command("CONFIG SET maxmemory-policy noeviction").starts_with("+OK"));
    until("readiness", &|| server.is_ready());
    assert!(server.metric("voxgate_slot_store_memory_ratio") < 0.8);
    let info = redis.command("INFO memory");
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("it is told");
    let most = used.trim().parse::<u64>().expect("a number") * 10 / 9;
    assert!(redis.command(&format!("CONFIG SET maxmemory {most}")).starts_with("+OK"));
    until("the alarm", &|| server.metric("voxgate_slot_store_memory_ratio") >= 0.8);
    assert!(server.is_ready(), "it is an alarm and no outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_stores_leases_follow_no_change_of_the_machines_clock() {
    let clock = MovedClock::running();
    let server = TestServer::embedded_in(&clock.env());
    let world = World::on(&server.addr, &server.live_key).await;
    let agent = world.agent(1).await;
    let slots = [granted(world.try_admit(short(&unique("call"), &agent.id)).await)];
    for step in [MovedClock::advance, MovedClock::rewind] {
        step(&clock, Duration::from_mins(5));
        // One sweep at least (every 2 s), which would end a session whose lease is gone.
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(states(&renew(&world, &slots).await, LeaseState::Renewed), 1);
        assert_eq!(world.session(&slots[0]).await.status(), SessionStatus::Active);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_of_redis_that_steps_and_leases_that_run_out_in_a_mass_are_alarms() {
    let redis = PrivateRedis::start_with_clock_shim();
    // Where the clock is believed whatever it says, and looks are so rare that each finds many leases run out, however
    // long the machine took to grant them.
    let config = format!("{PATIENT}clock_step_ms = 0\n[calls]\nsweep_interval_ms = 5_000\n");
    let server = TestServer::production_under(&postgres::fresh_database(), redis.url().expose_secret(), &config);
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(100).await;
    let asks = join_all((0..60).map(|_| world.try_admit(short(&unique("call"), &agent.id)))).await;
    let slots: Vec<Slot> = asks.into_iter().map(granted).collect();
    let steps = |direction: &str| {
        let series = format!("voxgate_slot_store_clock_steps_total{{direction=\"{direction}\"}}");
        wait_for("the alarm", Duration::from_secs(30), || (server.metric(&series) >= 1.0).then_some(()));
    };
    redis.rewind(Duration::from_mins(5));
    steps("back");
    assert_eq!(states(&renew(&world, &slots).await, LeaseState::Renewed), 60, "no lease ends by it");
    redis.advance(Duration::from_mins(15));
    steps("forward");
    let mass = || (server.metric("voxgate_mass_expiries_total") >= 1.0).then_some(());
    wait_for("the alarm", Duration::from_mins(1), mass);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_between_leases_sessions_and_nodes_is_counted_and_healed() {
    let (database, redis) = (postgres::fresh_database(), PrivateRedis::start());
    let first = TestServer::production(&database, redis.url().expose_secret());
    let config = format!("[calls]\nreconcile_interval_ms = 500\n{PATIENT}");
    let server = TestServer::configured(&database, redis.url().expose_secret(), first.admin_key.clone(), &config);
    let world = World::on(&server.addr, &server.admin_key).await;
    let drifted = |kind: &str| server.metric(&format!("voxgate_drift_total{{kind=\"{kind}\"}}")) >= 1.0;
    let end_behind_its_back = |slot: &Slot| {
        let id = slot.session_id.trim_start_matches("ses_");
        let sql = format!(
            "UPDATE sessions SET status = 'ENDED', outcome = 'HANGUP', ended_at = now() - interval '1 hour' WHERE id = '{id}'"
        );
        postgres::execute(&postgres::as_superuser(&database), &sql).expect("changed");
    };

    // Its lease goes long before its time.
    let agent = world.agent(10).await;
    let robbed = world.admit(&agent.id).await;
    let calls: Vec<String> = ask(redis.url().expose_secret(), &["KEYS", "vg:*:calls"]).expect("a key");
    let _: i64 = ask(redis.url().expose_secret(), &["ZREM", &calls[0].replace(":calls", ":leases"), &robbed.call_id])
        .expect("removed");
    assert_eq!(world.outcome(&robbed).await, SessionOutcome::LeaseExpired);
    assert!(drifted("session_without_lease"));

    // A lease that holds a slot for nobody, of a call that no node hosts.
    let agent = world.agent(10).await;
    let orphan = world.admit(&agent.id).await;
    // Its row is there once it has been asked for.
    world.session(&orphan).await;
    end_behind_its_back(&orphan);
    let patience = Instant::now();
    while world.usage(&agent.id).await.used > 0 {
        assert!(patience.elapsed() < Duration::from_secs(10), "the slot is still held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(drifted("lease_without_session"));

    // A node goes on with a call that is over.
    let (mut node, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let over = world.admit(&agent.id).await;
    node.assigned().await;
    world.session(&over).await;
    end_behind_its_back(&over);
    match node.hear().await.expect("no end") {
        Some(Told::EndCall(end)) => {
            assert_eq!((end.call_id, end.outcome), (over.call_id, SessionOutcome::Hangup.into()));
        }
        other => panic!("expected the call's end, heard {other:?}"),
    }
    assert!(drifted("node_call_without_session"));

    // A node has forgotten a call whose lease somebody else keeps.
    let (gone, there) = (world.admit(&agent.id).await, world.admit(&agent.id).await);
    for slot in [&gone, &there] {
        node.assigned().await;
        node.report(&slot.call_id, Event::WsConnected(WsConnected {})).await;
    }
    let patience = Instant::now();
    while world.session(&gone).await.status() == SessionStatus::Active {
        let call = LiveCall { call_id: there.call_id.clone(), lease_id: there.lease_id.clone() };
        node.say(Said::Heartbeat(Heartbeat { calls: vec![call] })).await;
        renew(&world, &[gone.clone(), there.clone()]).await;
        assert!(patience.elapsed() < Duration::from_secs(10), "its session is still active");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(world.outcome(&gone).await, SessionOutcome::NodeLost);
    assert!(drifted("session_not_on_node"));
    assert_eq!(world.session(&there).await.status(), SessionStatus::Active);
    assert!(world.release(&there).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_without_memory_left_admits_nobody_and_goes_on_to_renew_and_to_release() {
    let redis = PrivateRedis::start();
    let server = TestServer::production(&postgres::fresh_database(), redis.url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(10).await;
    let (kept, released) = (world.admit(&agent.id).await, world.admit(&agent.id).await);
    assert!(redis.command("CONFIG SET maxmemory 1").starts_with("+OK"));

    for _ in 0..3 {
        let call = unique("call");
        let denied =
            refused(world.try_admit(acquire(&call, &agent.id)).await, Code::Unavailable, "SLOT_STORE_UNAVAILABLE");
        assert!(denied.retry_delay().is_some(), "{denied:?}");
        let wait = AwaitSlotRequest {
            call_id: call,
            voice_agent_id: Some(agent.id.clone()),
            max_wait: Some(seconds(1)),
            ..AwaitSlotRequest::default()
        };
        refused(world.caller.calls().await_slot(wait).await, Code::Unavailable, "SLOT_STORE_UNAVAILABLE");
        assert_eq!(states(&renew(&world, std::slice::from_ref(&kept)).await, LeaseState::Renewed), 1);
    }
    assert!(world.release(&released).await);
    assert_eq!(world.usage(&agent.id).await.used, 1);

    assert!(redis.command("CONFIG SET maxmemory 0").starts_with("+OK"));
    assert!(world.release(&world.admit(&agent.id).await).await);
    assert_eq!(states(&renew(&world, &[kept]).await, LeaseState::Renewed), 1);
}
