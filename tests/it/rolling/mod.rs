//! An upgrade under load: two replicas are replaced one after the other, as Kubernetes does it, while calls are admitted and
//! live ones are driven through clients that balance and try again what was UNAVAILABLE.
//!
//! In the end nothing but that was refused; every verb that was answered was carried out, once; and no slot is held.
//! `VOXGATE_ROLLING_RATE` is how many calls are admitted a second, `VOXGATE_ROLLING_CALLS` how many live ones are driven.

mod callers;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;
use voxgate::proto::v1::{ListSessionsRequest, SessionStatus, Slot};

use self::callers::{Tally, drive, visit};
use crate::{
    harness::{
        client::{Caller, granted},
        fleet::Fleet,
        node::NodeProcess,
        pair::Pair,
        process::pause,
        server::TestServer,
        world::{World, eventually, unique},
    },
    history::number,
};

const NODES: u64 = 4;
/// In the suite, beside other tests.
const RATE: u64 = 25;
const CALLS: u64 = 12;
/// Before the first replica goes, between the two and after the second.
const CALM: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_are_replaced_under_load_and_no_call_notices() {
    let rate = number("VOXGATE_ROLLING_RATE").unwrap_or(RATE);
    let count = number("VOXGATE_ROLLING_CALLS").unwrap_or(CALLS);
    let Pair { redis, database, servers, worlds: [world, _] } = Pair::start().await;
    let key = servers[0].admin_key.clone();
    let fleet = Fleet::of(servers).await;
    let caller = Caller::on(fleet.channel()).with(&world.key);
    let world = World { addr: fleet.addr.clone(), caller, ..world };
    // Room for the live calls: the others are admitted for whoever hosts calls elsewhere.
    let capacity = (count.div_ceil(NODES) + 1).to_string();
    let start = |_| NodeProcess::start_with(&world, unique("node"), &["--capacity", &capacity]);
    let nodes: Vec<_> = (0..NODES).map(start).collect();
    let agent = world.agent(10_000).await.id;
    let admission = Arc::new(Tally::default());
    let live = join_all((0..count).map(|_| callers::live_call(&world, &agent))).await;

    let stop = CancellationToken::new();
    let verbs = Arc::new(Tally::default());
    let drive_one = |(slot, seed): (&Slot, u64)| {
        drive(world.caller.clone(), slot.call_id.clone(), seed, verbs.clone(), stop.clone())
    };
    let driven: Vec<_> = live.iter().zip(0..).map(drive_one).map(tokio::spawn).collect();
    let visits = tokio::spawn(visit(world.caller.clone(), agent.clone(), rate, admission.clone(), stop.clone()));

    let started = Instant::now();
    let gone = tokio::task::block_in_place(|| {
        let replace = |()| {
            pause(CALM);
            let newest = TestServer::production_with_key(&database, redis.url().expose_secret(), key.clone());
            fleet.replace_oldest(newest)
        };
        let gone = [(); 2].map(replace);
        pause(CALM);
        gone
    });
    let lasted = started.elapsed();
    stop.cancel();
    visits.await.expect("nobody panicked");
    let answered: Vec<String> =
        join_all(driven).await.into_iter().flat_map(|it| it.expect("nobody panicked")).collect();
    println!("{rate} calls a second admitted, {count} live ones driven, both replicas replaced within {lasted:.1?}");
    println!("{}\n{}\n{}", Tally::HEAD, admission.line("acquire, release"), verbs.line("hold, unhold"));

    for tally in [&admission, &verbs] {
        assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
    }
    assert!(!answered.is_empty() && admission.answered() > 0, "nothing was asked");
    for replica in gone {
        let log = replica.log();
        assert!(log.contains("draining") && !log.contains("not all work was done"), "{log}");
    }
    // What was asked of a node was asked once, and nothing that it has done is unknown.
    let carried_out: Vec<String> = nodes.iter().flat_map(NodeProcess::carried_out).collect();
    let once: BTreeSet<&String> = carried_out.iter().collect();
    assert_eq!(once.len(), carried_out.len(), "a verb was carried out twice");
    assert_eq!(once, answered.iter().collect(), "what was carried out, and what was answered");
    nothing_is_left(&world, &agent, &live).await;
}

/// The live calls have their slots and nobody else has one; and then they have none either.
async fn nothing_is_left(world: &World, agent: &str, live: &[Slot]) {
    let held = i32::try_from(live.len()).expect("few");
    let left = async || (world.usage(agent).await.used == held).then_some(());
    eventually("only the live calls to have slots", left).await;
    for slot in live {
        assert!(world.release(slot).await, "{} had lost its slot", slot.call_id);
    }
    world.freed(agent).await;
    let request =
        ListSessionsRequest { page_size: 10, status: SessionStatus::Active.into(), ..ListSessionsRequest::default() };
    eventually("the last session to have ended", async || {
        let active = granted(world.caller.sessions().list_sessions(request.clone()).await).sessions;
        active.is_empty().then_some(())
    })
    .await;
}
