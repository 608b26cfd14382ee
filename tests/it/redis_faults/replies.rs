//! Replies that are lost, and scripts that are forgotten.

use std::time::{Duration, Instant};

use voxgate::{
    domain::lease::{Acquire, Acquired},
    redis::RedisSettings,
};

use super::{caller_at, load::Load, unavailable};
use crate::{
    conformance::slot_fixture::{limit, secs},
    harness::{
        chaos::{ChaosProxy, Way},
        redis::{PrivateRedis, ask, brisk},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_reply_was_lost_finds_its_lease_when_it_asks_again() {
    let redis = PrivateRedis::start();
    let proxy = ChaosProxy::to(redis.port());
    let caller = caller_at(&format!("redis://127.0.0.1:{}", proxy.port()), brisk());
    let agent = caller.agent();
    let ask = |name: &str| Acquire { limits: limit(100), ..caller.ask(agent, name) };
    caller.grant(&ask("warm")).await;
    let (rounds, mut tries) = (40, 0);
    for round in 0..rounds {
        let name = format!("call-{round}");
        proxy.to_client(Way::Cut);
        let first = ask(&name);
        unavailable(&caller.store.acquire(caller.tenant, &first).await.expect_err("the reply is lost"));
        proxy.heal();
        let start = Instant::now();
        let lease = loop {
            tries += 1;
            // Each try proposes a lease of its own; the first one's stays.
            match caller.store.acquire(caller.tenant, &ask(&name)).await {
                Ok(Acquired::Existing { lease, .. }) => break lease,
                Ok(other) => panic!("a second lease, or none: {other:?}"),
                Err(error) => unavailable(&error),
            }
            assert!(start.elapsed() < secs(2), "the connection is not found again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(lease.id, first.lease);
    }
    assert_eq!(caller.usage(agent).await.used, rounds + 1);
    println!("{rounds} replies lost after the grant, {tries} tries later each call had its one lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_flushed_every_50_ms_under_load_show_callers_nothing() {
    let redis = PrivateRedis::start();
    let url = format!("redis://127.0.0.1:{}", redis.port());
    // Patient, because a refusal must have no other reason.
    let settings = RedisSettings { command_timeout_ms: 30_000, ..RedisSettings::default() };
    let load = Load::start(&[caller_at(&url, settings)], 16);
    load.grants(100, secs(20)).await;
    let flushes = tokio::task::spawn_blocking(move || {
        (0..60).for_each(|_| {
            let _: () = ask(&url, &["SCRIPT", "FLUSH"]).expect("flushed");
            crate::harness::process::pause(Duration::from_millis(50));
        });
        60
    });
    let flushes = flushes.await.expect("flushed");
    let (grants, refusals) = load.look();
    println!("{flushes} flushes: granted {grants}, refused {}", refusals.count());
    assert_eq!(refusals.count(), 0, "{refusals}");
    assert!(grants.count() > 1_000, "{grants}");
    load.stop().await;
}
