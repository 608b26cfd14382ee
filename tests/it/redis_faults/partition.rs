//! A primary that was cut off from its replicas, and a replica that takes its place.

use std::time::{Duration, Instant};

use voxgate::domain::lease::Acquire;

use super::{caller_at, load::Load, unavailable};
use crate::{
    conformance::slot_fixture::{limit, renewal, secs},
    harness::{
        chaos::ChaosProxy,
        process::wait_for,
        redis::{PrivateRedis, ask, patient},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_without_its_replicas_grants_nothing_and_calls_nothing_lost() {
    let (old, proxy, new) = tokio::task::spawn_blocking(|| {
        let old = PrivateRedis::start_with(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]);
        let proxy = ChaosProxy::to(old.port());
        let of = format!("127.0.0.1 {}", proxy.port());
        let new = PrivateRedis::start_with(&["--replicaof", &of]);
        wait_for("the replica", secs(20), || {
            let info: String = ask(&format!("redis://127.0.0.1:{}", old.port()), &["INFO", "replication"]).ok()?;
            info.contains("min_slaves_good_slaves:1").then_some(())
        });
        (old, proxy, new)
    })
    .await
    .expect("started");
    let before = caller_at(&format!("redis://127.0.0.1:{}", old.port()), patient());
    let kept = before.grant(&Acquire { ttl: secs(3), ..before.ask(before.agent(), "kept") }).await;
    let load = Load::start(std::slice::from_ref(&before), 16);
    load.grants(200, secs(10)).await;

    proxy.swallow_everything();
    let (cut, granted) = (Instant::now(), load.granted());
    let mut last = (granted, cut);
    while last.1.elapsed() < secs(1) {
        assert!(cut.elapsed() < secs(10), "it grants on");
        if load.granted() > last.0 {
            last = (load.granted(), Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (excess, silent_after) = (last.0 - granted, last.1 - cut);
    println!("cut off, the old primary granted {excess} more within {silent_after:?}, then nothing");
    assert!(silent_after < secs(4), "{silent_after:?}");

    let port = new.port();
    tokio::task::spawn_blocking(move || {
        let url = format!("redis://127.0.0.1:{port}");
        let _: () = ask(&url, &["REPLICAOF", "NO", "ONE"]).expect("promoted");
    })
    .await
    .expect("promoted");
    let after = caller_at(&format!("redis://127.0.0.1:{port}"), patient());
    let agent = after.agent();
    // Writers on both sides.
    for round in 0..50 {
        let granted = after.grant(&Acquire { limits: limit(50), ..after.ask(agent, &format!("new-{round}")) }).await;
        assert!(granted.fence > 0);
        let refused = before.store.acquire(before.tenant, &before.ask(before.agent(), "old")).await;
        unavailable(&refused.expect_err("the old primary may not write"));
    }
    // The lease has run out by the old primary's clock alone: it must not say so, nor that there is none to release.
    tokio::time::sleep(secs(3)).await;
    unavailable(&before.store.renew(before.tenant, &[renewal(&kept, 60)]).await.expect_err("it cannot know"));
    unavailable(
        &before.store.leases(before.tenant, std::slice::from_ref(&kept.call)).await.expect_err("it cannot know"),
    );
    unavailable(&before.store.release(before.tenant, &kept.call, kept.id).await.expect_err("it cannot know"));
    assert_eq!(load.granted(), last.0, "and it never granted again");

    // Its replica is back, the releases that were kept are heard, and nothing is held.
    proxy.heal();
    let port = (old.port(), proxy.port());
    let replica = tokio::task::spawn_blocking(move || {
        let of = [port.1.to_string()];
        let _: () =
            ask(&format!("redis://127.0.0.1:{}", new.port()), &["REPLICAOF", "127.0.0.1", &of[0]]).expect("told");
        wait_for("the replica", secs(20), || {
            let info: String = ask(&format!("redis://127.0.0.1:{}", port.0), &["INFO", "replication"]).ok()?;
            info.contains("min_slaves_good_slaves:1").then_some(())
        });
        new
    });
    let _replica = replica.await.expect("healed");
    load.grants(50, secs(5)).await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_answers_no_question_about_leases() {
    let (primary, replica) = tokio::task::spawn_blocking(|| {
        let primary = PrivateRedis::start();
        let replica = PrivateRedis::start_with(&["--replicaof", &format!("127.0.0.1 {}", primary.port())]);
        (primary, replica)
    })
    .await
    .expect("started");
    let caller = caller_at(&format!("redis://127.0.0.1:{}", replica.port()), patient());
    let lease = caller.ask(caller.agent(), "call");
    unavailable(&caller.store.acquire(caller.tenant, &lease).await.expect_err("a replica"));
    unavailable(&caller.store.leases(caller.tenant, &[lease.call.clone()]).await.expect_err("a replica"));
    unavailable(&caller.store.release(caller.tenant, &lease.call, lease.lease).await.expect_err("a replica"));
    drop(primary);
}
