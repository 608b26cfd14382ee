//! A Redis whose clock is set while leases live: holders come back, and nobody else takes their slots meanwhile.
//!
//! Each clock here runs, and each Redis is the test's own. The replicas know what time it is by their own clocks, which
//! nobody sets.

use futures_util::future::join_all;
use voxgate::{
    admission::RedisSlotStore,
    domain::{
        Error,
        clock::SystemClock,
        lease::{Acquire, Acquired, Lease, Renewed},
    },
    redis::{Redis, RedisSettings},
};

use super::{
    slot_fixture::{Caller, limit, secs, steady, ticket},
    slot_recovery::{inbound, readmit, refused},
};
use crate::harness::redis::{PrivateRedis, patient};

/// A replica that has seen the clock as it is.
async fn replica(redis: &PrivateRedis, settings: RedisSettings) -> Caller {
    let store = RedisSlotStore::new(Redis::connect(&redis.url(), settings).expect("a URL"));
    let caller = Caller::of(steady(std::sync::Arc::new(store), std::sync::Arc::new(SystemClock)));
    caller.store.ping().await.expect("it is up");
    caller
}

/// Its second, for the same tenant.
async fn another(redis: &PrivateRedis, first: &Caller) -> Caller {
    Caller { tenant: first.tenant, ..replica(redis, patient()).await }
}

async fn is_recovering(caller: &Caller, request: &Acquire) -> bool {
    match caller.store.acquire(caller.tenant, request).await {
        Err(Error::Recovering { .. }) => true,
        Ok(Acquired::Granted { .. }) => false,
        other => panic!("{other:?}"),
    }
}

async fn comes_back(caller: &Caller, lease: &Lease) {
    assert_eq!(caller.renew(lease, 60).await, Renewed::Missing);
    let fates = readmit(caller, &[inbound(lease, 60)]).await;
    assert!(matches!(fates[..], [Renewed::Readmitted { .. }]), "{fates:?}");
}

#[tokio::test]
async fn leases_outlive_a_clock_that_is_set_ahead_and_no_new_call_takes_their_slots() {
    let redis = PrivateRedis::start_with_clock_shim();
    let here = replica(&redis, patient()).await;
    let there = another(&redis, &here).await;
    let agent = here.agent();
    let ask = |name: &str| Acquire { limits: limit(2), ..here.ask(agent, name) };
    let (first, second) = (here.grant(&ask("first")).await, there.grant(&ask("second")).await);
    redis.advance(secs(300));
    assert!(is_recovering(&here, &ask("new")).await);
    comes_back(&here, &first).await;
    // The other replica finds that out later, and takes nothing back that was mended.
    assert!(is_recovering(&there, &ask("new")).await);
    assert!(matches!(there.renew(&first, 60).await, Renewed::Renewed { .. }));
    comes_back(&there, &second).await;
    assert_eq!(here.usage(agent).await.used, 2);
    assert!(matches!(here.renew(&second, 60).await, Renewed::Renewed { .. }));
    assert!(here.release(&first).await.released);
    assert_eq!(here.renew(&first, 60).await, Renewed::Released);
}

#[tokio::test]
async fn a_tenant_that_is_touched_long_after_the_step_recovers_too() {
    let redis = PrivateRedis::start_with_clock_shim();
    let first = replica(&redis, patient()).await;
    let second = Caller { tenant: Caller::of(first.store.clone()).tenant, ..first.clone() };
    let lease = second.grant(&second.ask(second.agent(), "call")).await;
    redis.advance(secs(300));
    // By another tenant's request and by its own looks the replica knows of the step.
    assert!(!is_recovering(&first, &first.ask(first.agent(), "call")).await, "it had no live call");
    first.store.ping().await.expect("it is up");
    comes_back(&second, &lease).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tenants_that_find_the_step_at_once_all_recover() {
    let redis = PrivateRedis::start_with_clock_shim();
    let first = replica(&redis, patient()).await;
    let tenants: Vec<_> = (0..100).map(|_| Caller::of(first.store.clone())).collect();
    let held =
        join_all(tenants.iter().map(async |caller| caller.grant(&caller.ask(caller.agent(), "call")).await)).await;
    redis.advance(secs(300));
    let back = tenants
        .into_iter()
        .zip(held)
        .map(|(caller, lease)| tokio::spawn(async move { comes_back(&caller, &lease).await }));
    for back in join_all(back).await {
        back.expect("no lease is lost");
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_again_does_not_prolong_the_recovery() {
    let redis = PrivateRedis::start_with_clock_shim();
    let caller = replica(&redis, patient()).await;
    let agent = caller.agent();
    let lease = caller.grant(&caller.ask(agent, "call")).await;
    redis.advance(secs(600));
    assert!(is_recovering(&caller, &caller.ask(agent, "new")).await);
    comes_back(&caller, &lease).await;
    redis.rewind(secs(600));
    let ask = caller.ask(agent, "new");
    assert!(refused(&caller, &ask).await <= 60, "ten minutes and one would be left of it");
    assert!(matches!(caller.renew(&lease, 60).await, Renewed::Renewed { .. }));
    // And it comes nearer to its end, though all that is asked is refused.
    redis.advance(secs(4));
    assert!(refused(&caller, &ask).await <= 56);
}

#[tokio::test]
async fn who_waits_is_granted_no_slot_that_ended_by_the_clock_alone() {
    let redis = PrivateRedis::start_with_clock_shim();
    let caller = replica(&redis, patient()).await;
    let agent = caller.agent();
    let ask = |name: &str| Acquire { limits: limit(1), ..caller.ask(agent, name) };
    let lease = caller.grant(&ask("holds")).await;
    let waiter = ticket(ask("waits"), caller.replica());
    caller.wait(&waiter).await;
    redis.advance(secs(300));
    // It may be offered the slot before anybody knows, and cannot claim it.
    caller.tend(&waiter).await;
    assert!(is_recovering(&caller, &waiter.acquire).await);
    comes_back(&caller, &lease).await;
    assert_eq!(caller.usage(agent).await.used, 1);
}

#[tokio::test]
async fn a_step_within_the_tolerance_and_time_that_passes_change_nothing() {
    let redis = PrivateRedis::start_with_clock_shim();
    let caller = replica(&redis, patient()).await;
    let lease = caller.grant(&caller.ask(caller.agent(), "call")).await;
    redis.advance(secs(4));
    assert!(matches!(caller.renew(&lease, 60).await, Renewed::Renewed { .. }));
    assert!(!is_recovering(&caller, &caller.ask(caller.agent(), "new")).await);
}

#[tokio::test]
async fn without_a_tolerance_time_is_whatever_the_clock_says() {
    let redis = PrivateRedis::start_with_clock_shim();
    let caller = replica(&redis, RedisSettings { clock_step_ms: 0, ..patient() }).await;
    let lease = caller.grant(&caller.ask(caller.agent(), "call")).await;
    redis.advance(secs(300));
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Lost);
}
