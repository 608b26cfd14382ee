//! That the history of calls is whole, whatever was away or killed while they came and went.
//!
//! `VOXGATE_OUTAGE_SECONDS` keeps the database away for that long, and has 200 calls a second admitted meanwhile; without it
//! they are admitted as fast as they may for a few seconds.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use tonic::{Code, Response, Status};
use voxgate::proto::v1::{
    AcquireSlotRequest, GetSessionRequest, LeaseRenewal, LeaseState, ReleaseSlotRequest, RenewSlotsRequest, Session,
    SessionOutcome, SessionStatus, Slot, VoiceAgent, control_message::Message as Heard, get_session_request,
};

use crate::{
    harness::{
        client::{Explained as _, granted, refused},
        postgres::{self, PrivatePostgres},
        raw_node::{RawNode, hello},
        redis::PrivateRedis,
        server::TestServer,
        watch::{Watch, assert_in_order, from_beginning, text, types},
        world::{World, acquire, seconds, unique},
    },
    history::number,
};

const CALLERS: usize = 24;
/// With the budget that a database has in production, since it hangs, and with time for Redis, which does not.
const IMPATIENT: &str = "[redis]\ncommand_timeout_ms = 10_000\nconnect_timeout_ms = 10_000\n";
/// Of all callers together, where a pace is asked for.
const CALLS_A_SECOND: u32 = 200;

/// Two replicas on stores of the test's own.
struct Pair {
    postgres: PrivatePostgres,
    database: String,
    _redis: PrivateRedis,
    servers: [TestServer; 2],
    worlds: [World; 2],
    agent: VoiceAgent,
}

impl Pair {
    async fn start() -> Self {
        let (postgres, redis) = (PrivatePostgres::start(), PrivateRedis::start());
        let database = postgres.database();
        let url = redis.url();
        let first = TestServer::production_under(&database, url.expose_secret(), IMPATIENT);
        let second = TestServer::configured(&database, url.expose_secret(), first.admin_key.clone(), IMPATIENT);
        let world = World::on(&first.addr, &first.admin_key).await;
        let worlds = [world.clone(), world.through(&second.addr)];
        let agent = world.agent(10_000).await;
        // Both know the agent, the tenant and the key from here on.
        for world in &worlds {
            assert!(world.release(&world.admit(&agent.id).await).await);
        }
        Self { postgres, database, _redis: redis, servers: [first, second], worlds, agent }
    }
}

/// Counts calls while they come.
#[derive(Debug, Default)]
struct Tally {
    begun: AtomicUsize,
    stop: AtomicBool,
    /// Between two calls of one caller.
    pace: Option<Duration>,
}

/// How a call was left: its session, and how it ended if it did.
type Left = (Slot, Option<SessionOutcome>);

/// Tries at one replica after the other until one answers.
async fn insist<T, F>(worlds: [World; 2], ask: impl Fn(World) -> F) -> T
where
    F: Future<Output = Result<Response<T>, Status>> + Send,
{
    let patience = Instant::now();
    for turn in 0.. {
        match ask(worlds[turn % 2].clone()).await.map(Response::into_inner) {
            Ok(answer) => return answer,
            // A replica that was killed is UNAVAILABLE, or cuts the answer off.
            Err(status) => {
                let passing = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
                assert!(passing.contains(&status.code()), "{status:?}");
                assert!(patience.elapsed() < Duration::from_mins(1), "{status:?}");
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("it is tried until it works")
}

/// Admits one call after the other, here and there in turn, and ends two of three at the other replica.
async fn caller(worlds: [World; 2], agent: String, tally: Arc<Tally>, number: usize) -> Vec<Left> {
    let outcomes = [SessionOutcome::CallerHangup, SessionOutcome::Completed, SessionOutcome::TransferredE164];
    let mut left = Vec::new();
    let mut beat = tally.pace.map(tokio::time::interval);
    for round in number.. {
        if let Some(beat) = &mut beat {
            beat.tick().await;
        }
        if tally.stop.load(Ordering::Relaxed) {
            break;
        }
        let turned = [worlds[round % 2].clone(), worlds[(round + 1) % 2].clone()];
        let request = AcquireSlotRequest { lease_ttl: Some(seconds(300)), ..acquire(&unique("call"), &agent) };
        let admit = |world: World| {
            let request = request.clone();
            async move { world.try_admit(request).await }
        };
        let slot = insist(turned.clone(), admit).await;
        tally.begun.fetch_add(1, Ordering::Relaxed);
        if round % 3 == 0 {
            left.push((slot, None));
            continue;
        }
        let outcome = outcomes[round % outcomes.len()];
        let release = ReleaseSlotRequest {
            call_id: slot.call_id.clone(),
            lease_id: slot.lease_id.clone(),
            outcome: outcome.into(),
        };
        let give_back = |world: World| {
            let release = release.clone();
            async move { world.caller.calls().release_slot(release).await }
        };
        let [here, there] = turned;
        insist([there, here], give_back).await;
        left.push((slot, Some(outcome)));
    }
    left
}

async fn stored(world: &World, slot: &Slot) -> Result<Session, Status> {
    let target = Some(get_session_request::Target::SessionId(slot.session_id.clone()));
    Ok(world.caller.sessions().get_session(GetSessionRequest { target }).await?.into_inner())
}

/// Sessions in the database, by how they ended.
async fn rows(database: &str, agent: &str) -> HashMap<Option<String>, i64> {
    let client = postgres::connect(&postgres::as_superuser(database)).await;
    let sql = format!("SELECT outcome, count(*) FROM sessions WHERE voice_agent_id = '{agent}' GROUP BY outcome");
    let rows = client.query(&sql, &[]).await.expect("rows");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn name(outcome: SessionOutcome) -> String {
    outcome.as_str_name().trim_start_matches("SESSION_OUTCOME_").to_owned()
}

/// Waits until the database has exactly what callers were told, nothing missing and nothing twice.
async fn all_is_there(pair: &Pair, left: &[Left], survivor: &World, within: Duration) {
    let mut expected = HashMap::<Option<String>, i64>::new();
    // Those that warmed the replicas up.
    expected.insert(Some("RELEASED".to_owned()), 2);
    for (_, outcome) in left {
        *expected.entry(outcome.map(name)).or_default() += 1;
    }
    let patience = Instant::now();
    loop {
        let found = rows(&pair.database, &pair.agent.id).await;
        if found == expected {
            break;
        }
        assert!(patience.elapsed() < within, "{found:?} instead of {expected:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    for (slot, outcome) in left.iter().step_by(7) {
        let session = stored(survivor, slot).await.expect("the session");
        assert_eq!((session.call_id.as_str(), session.outcome()), (slot.call_id.as_str(), outcome.unwrap_or_default()));
        assert_eq!(session.status() == SessionStatus::Active, outcome.is_none(), "{session:?}");
    }
    every_story_is_told(left, survivor).await;
    let held = left.iter().filter(|(_, outcome)| outcome.is_none()).count();
    assert_eq!(survivor.usage(&pair.agent.id).await.used, i32::try_from(held).expect("few"));
}

/// The events of every session, in order: its beginning, and its end if it has one.
async fn every_story_is_told(left: &[Left], survivor: &World) {
    const BEGINNING: [&str; 2] = ["call.started", "ai_session.started"];
    const WHOLE: [&str; 4] = [BEGINNING[0], BEGINNING[1], "ai_session.ended", "call.ended"];
    let events_of = |(_, outcome): &Left| outcome.map_or(BEGINNING.len(), |_| WHOLE.len());
    let warm_ups = 2 * WHOLE.len();
    let expected = left.iter().map(events_of).sum::<usize>() + warm_ups;
    let events = Watch::of(&survivor.caller, from_beginning()).await.take(expected).await;
    assert_in_order(&events);
    let mut stories = HashMap::<String, Vec<_>>::new();
    for event in events {
        stories.entry(text(&event, "session_id")).or_default().push(event);
    }
    for (slot, outcome) in left {
        let story = &stories[&slot.session_id];
        match outcome {
            None => assert_eq!(types(story), BEGINNING),
            Some(outcome) => {
                assert_eq!(types(story), WHOLE);
                assert_eq!(text(&story[3], "outcome"), name(*outcome));
            }
        }
    }
    eprintln!("{expected} events, all in order");
}

/// Waits until each caller has begun five calls more, about.
async fn many_more(tally: &Tally) {
    let (asked, before) = (Instant::now(), tally.begun.load(Ordering::Relaxed));
    while tally.begun.load(Ordering::Relaxed) - before < 5 * CALLERS {
        assert!(asked.elapsed() < Duration::from_secs(30), "calls are admitted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Load on both replicas, in the midst of which the database goes and the second replica is killed.
async fn outage(take_away: impl Fn(&mut PrivatePostgres), bring_back: impl Fn(&mut PrivatePostgres)) {
    let mut pair = Pair::start().await;
    let long = number("VOXGATE_OUTAGE_SECONDS").map(Duration::from_secs);
    let pace = long.map(|_| Duration::from_secs(1) * u32::try_from(CALLERS).expect("few") / CALLS_A_SECOND);
    // At least for as long as the first attempts to write take.
    let away_for = long.unwrap_or(Duration::from_secs(3));
    let tally = Arc::new(Tally { pace, ..Tally::default() });
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| tokio::spawn(caller(pair.worlds.clone(), pair.agent.id.clone(), tally.clone(), number)))
        .collect();
    many_more(&tally).await;
    tokio::task::block_in_place(|| take_away(&mut pair.postgres));
    let (gone, before) = (Instant::now(), tally.begun.load(Ordering::Relaxed));
    let meanwhile = || tally.begun.load(Ordering::Relaxed) - before;
    while meanwhile() < 5 * CALLERS || gone.elapsed() < away_for {
        assert!(
            gone.elapsed() < away_for + Duration::from_secs(27),
            "calls are admitted without the database: {}",
            meanwhile()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (meanwhile, gone) = (meanwhile(), gone.elapsed());
    pair.servers[1].kill();
    many_more(&tally).await;
    tokio::task::block_in_place(|| bring_back(&mut pair.postgres));
    many_more(&tally).await;
    tally.stop.store(true, Ordering::Relaxed);
    let mut left = Vec::new();
    for caller in callers {
        left.extend(caller.await.expect("a caller saw nothing but outages"));
    }
    eprintln!("{} calls, {meanwhile} of them in {gone:.1?} without the database", left.len());
    let stopped = Instant::now();
    // What waited is written beside what comes, and what the killed replica had is taken over after a while.
    all_is_there(&pair, &left, &pair.worlds[0], Duration::from_secs(45) + gone).await;
    eprintln!("all of it was there {:.1?} after the last call", stopped.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_missing_after_postgres_was_stopped_and_a_replica_killed_under_load() {
    outage(PrivatePostgres::stop, PrivatePostgres::start_again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_missing_after_postgres_hung_and_a_replica_was_killed_under_load() {
    outage(|postgres| postgres.signal("STOP"), |postgres| postgres.signal("CONT")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_slots_are_taken_kept_and_given_back_and_the_rest_says_so() {
    let mut pair = Pair::start().await;
    let world = pair.worlds[0].clone();
    let before = world.admit(&pair.agent.id).await;
    assert_eq!(world.session(&before).await.status(), SessionStatus::Active, "it is written");
    tokio::task::block_in_place(|| pair.postgres.stop());
    let meanwhile = world.admit(&pair.agent.id).await;
    assert!(pair.servers.iter().all(TestServer::is_ready), "who can admit calls is sent calls");
    // The same call again is its own, also at a replica that only the slot store has told of it.
    for world in &pair.worlds {
        let again = granted(world.try_admit(acquire(&meanwhile.call_id, &pair.agent.id)).await);
        assert_eq!((again.session_id.as_str(), again.fence), (meanwhile.session_id.as_str(), meanwhile.fence));
        assert_eq!(again.routing, meanwhile.routing);
    }
    assert_eq!(stored(&world, &meanwhile).await.expect("from memory").status(), SessionStatus::Active);
    for slot in [&before, &meanwhile] {
        let lease = LeaseRenewal {
            call_id: slot.call_id.clone(),
            lease_id: slot.lease_id.clone(),
            lease_ttl: Some(seconds(60)),
        };
        let renewed = granted(world.caller.calls().renew_slots(RenewSlotsRequest { leases: vec![lease] }).await);
        assert_eq!(renewed.results[0].state(), LeaseState::Renewed);
        assert!(world.release(slot).await);
        assert!(!world.release(slot).await, "twice");
    }
    let target = Some(get_session_request::Target::SessionId(before.session_id.clone()));
    let read = world.caller.sessions().get_session(GetSessionRequest { target }).await;
    refused(read, Code::Unavailable, "DATABASE_UNAVAILABLE");
    tokio::task::block_in_place(|| pair.postgres.start_again());
    for slot in [&before, &meanwhile] {
        let patience = Instant::now();
        while stored(&world, slot).await.map_or(true, |session| session.outcome() != SessionOutcome::Released) {
            assert!(patience.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_journal_refuses_calls_and_takes_them_again_once_it_is_written() {
    let (mut postgres, redis) = (PrivatePostgres::start(), PrivateRedis::start());
    let database = postgres.database();
    let limits = "[journal]\nmax_entries = 20\n";
    let server = TestServer::production_with(&database, redis.url().expose_secret(), limits);
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(100).await;
    let written = world.admit(&agent.id).await;
    world.release(&written).await;
    assert_eq!(world.outcome(&written).await, SessionOutcome::Released);
    while server.metric("voxgate_journal_entries") > 0.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::task::block_in_place(|| postgres.stop());
    let mut slots = Vec::new();
    let full = loop {
        match world.try_admit(acquire(&unique("call"), &agent.id)).await {
            Ok(slot) => slots.push(slot.into_inner()),
            Err(status) => break status,
        }
    };
    assert_eq!((full.code(), full.reason().as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"), "{full:?}");
    assert!(full.retry_delay().is_some());
    assert_eq!(slots.len(), 20);
    assert_eq!(world.usage(&agent.id).await.used, 20, "none was taken that is not kept");
    assert!(server.log().contains("calls are refused once there is no room for more"));
    assert!(server.metric("voxgate_journal_entries") >= 20.0);
    // What a call has, it keeps; and it can always be given back.
    granted(world.try_admit(acquire(&slots[0].call_id, &agent.id)).await);
    for slot in &slots {
        assert!(world.release(slot).await);
    }
    tokio::task::block_in_place(|| postgres.start_again());
    let patience = Instant::now();
    while let Err(status) = world.try_admit(acquire(&unique("call"), &agent.id)).await {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(patience.elapsed() < Duration::from_secs(20), "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for slot in &slots {
        assert_eq!(world.outcome(slot).await, SessionOutcome::Released);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_an_agent_that_was_deleted_before_it_was_written_ends_with_the_agent() {
    let (database, redis) = (postgres::fresh_database(), PrivateRedis::start());
    let server = TestServer::production(&database, redis.url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let (mut node, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let agent = world.agent(5).await;
    let lock = postgres::withhold_writes(&database, "sessions").await;
    let slot = world.admit(&agent.id).await;
    assert_eq!(node.assigned().await.call_id, slot.call_id);
    // By another replica, which knows of no session that the agent has.
    let sql = format!("DELETE FROM voice_agents WHERE id = '{}'", agent.id);
    tokio::task::block_in_place(|| postgres::execute(&postgres::as_superuser(&database), &sql)).expect("deleted");
    drop(lock);
    assert_eq!(world.outcome(&slot).await, SessionOutcome::AgentDeleted);
    match node.hear().await.expect("no end") {
        Some(Heard::EndCall(end)) => assert_eq!(end.call_id, slot.call_id),
        other => panic!("expected the end, heard {other:?}"),
    }
    let patience = Instant::now();
    while server.metric("voxgate_journal_entries") > 0.0 || held(&world, &slot).await {
        assert!(patience.elapsed() < Duration::from_secs(10), "the lease is still held");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the slot's lease is live.
async fn held(world: &World, slot: &Slot) -> bool {
    let (call_id, lease_id) = (slot.call_id.clone(), slot.lease_id.clone());
    let lease = LeaseRenewal { call_id, lease_id, lease_ttl: Some(seconds(10)) };
    let renewed = granted(world.caller.calls().renew_slots(RenewSlotsRequest { leases: vec![lease] }).await);
    renewed.results[0].state() == LeaseState::Renewed
}
