//! A primary that was cut off from its replicas, and a replica that takes its place.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use voxgate::domain::lease::{Acquire, Acquired, Renewed};

use super::{caller_at, load::Load, unavailable};
use crate::{
    conformance::slot_fixture::{Caller, limit, renewal, secs},
    harness::{
        chaos::ChaosProxy,
        hosts::{self, Cable, Host},
        process::wait_for,
        redis::{Place, PrivateRedis, ask, brisk},
    },
};

/// What lies between the two.
#[derive(Debug)]
enum Network {
    /// Machines of their own, each with a cable to the callers, and one between them.
    Hosts {
        between: Cable,
        _hosts: [Host; 2],
    },
    Proxy(ChaosProxy),
}

/// A primary that writes only while it hears of its replica, and the network between them.
struct Pair {
    old: PrivateRedis,
    network: Network,
    new: PrivateRedis,
}

impl Pair {
    async fn start() -> Self {
        let start = || {
            let hosts = hosts::inside().then(|| [Host::start(), Host::start()]);
            let place = |number: usize| match &hosts {
                Some(hosts) => hosts[number].place(&hosts[number].cable(None)),
                None => Place::default(),
            };
            let writes = ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"];
            let (old, new) = (PrivateRedis::start_on(place(0), &writes), PrivateRedis::start_on(place(1), &[]));
            let network = match hosts {
                Some(hosts) => Network::Hosts { between: hosts[0].cable(Some(&hosts[1])), _hosts: hosts },
                None => Network::Proxy(ChaosProxy::to(old.port())),
            };
            let pair = Self { old, network, new };
            pair.follow();
            pair
        };
        tokio::task::spawn_blocking(start).await.expect("started")
    }

    /// The replica is one, and is heard of.
    fn follow(&self) {
        let (host, port) = match &self.network {
            Network::Hosts { between, .. } => (&*between.address, self.old.port()),
            Network::Proxy(proxy) => ("127.0.0.1", proxy.port()),
        };
        self.tell_the_replica(host, &port.to_string());
        self.wait_for_the_replica();
    }

    /// The two hear nothing of each other, and are not told.
    fn cut(&self) {
        match &self.network {
            Network::Hosts { between, .. } => between.cut(),
            Network::Proxy(proxy) => proxy.swallow_everything(),
        }
    }

    fn wait_for_the_replica(&self) {
        wait_for("the replica", secs(20), || {
            let info: String = ask(&url(&self.old), &["INFO", "replication"]).ok()?;
            info.contains("min_slaves_good_slaves:1").then_some(())
        });
    }

    /// The replica becomes a primary of its own.
    fn promote(&self) {
        tokio::task::block_in_place(|| self.tell_the_replica("NO", "ONE"));
    }

    /// It is a replica of the old primary again.
    fn heal(&self) {
        match &self.network {
            Network::Hosts { between, .. } => between.mend(),
            Network::Proxy(proxy) => proxy.heal(),
        }
        tokio::task::block_in_place(|| self.follow());
    }

    fn tell_the_replica(&self, host: &str, port: &str) {
        ask::<()>(&url(&self.new), &["REPLICAOF", host, port]).expect("it obeys");
    }
}

fn url(redis: &PrivateRedis) -> String {
    redis.url().expose_secret().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_that_were_not_replicated_are_all_the_excess_and_it_is_gone_after_one_lease() {
    if hosts::in_a_network_of_its_own(
        "redis_faults::partition::leases_that_were_not_replicated_are_all_the_excess_and_it_is_gone_after_one_lease",
    ) {
        return;
    }
    let pair = Pair::start().await;
    let (before, after) = (caller_at(&url(&pair.old), brisk()), caller_at(&url(&pair.new), brisk()));
    // The same tenant on both sides.
    let after = Caller { tenant: before.tenant, ..after };
    let (agent, most, ttl) = (before.agent(), 10, 10);
    let wanted = |name: &str| Acquire { limits: limit(most), ttl: secs(ttl), ..before.ask(agent, name) };
    let mut replicated = Vec::new();
    for round in 0..4 {
        replicated.push(before.grant(&wanted(&format!("replicated-{round}"))).await);
    }
    let key = format!("vg:{{{}}}:leases", before.tenant);
    tokio::task::block_in_place(|| {
        wait_for("the replica to have heard of them", secs(10), || {
            (ask::<usize>(&url(&pair.new), &["ZCARD", &key]).ok()? == replicated.len()).then_some(())
        });
    });
    pair.cut();
    let mut unheard = Vec::new();
    for round in 4..most {
        unheard.push(before.grant(&wanted(&format!("unheard-{round}"))).await);
    }
    let last = Instant::now();
    pair.promote();
    let mut granted = Vec::new();
    loop {
        match after.store.acquire(after.tenant, &wanted(&format!("after-{}", granted.len()))).await {
            Ok(Acquired::Granted { lease, .. }) => granted.push(lease),
            Ok(Acquired::Denied(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    let live = replicated.len() + unheard.len() + granted.len();
    println!("limit {most}, {live} live: {} acknowledged leases had not been replicated", unheard.len());
    assert!(live - most as usize <= unheard.len(), "the excess is what was not replicated");
    // Their holders hear of it by the next renewal, and the old primary renews nothing.
    let renewals: Vec<_> = unheard.iter().map(|lease| renewal(lease, 60)).collect();
    assert_eq!(after.renew_all(&renewals).await, vec![Renewed::Missing; unheard.len()]);
    let kept: Vec<_> = replicated.iter().chain(&granted).map(|lease| renewal(lease, 60)).collect();
    let fates = after.renew_all(&kept).await;
    assert!(fates.iter().all(|fate| matches!(fate, Renewed::Renewed { .. })), "{fates:?}");
    tokio::time::sleep_until((last + secs(ttl)).into()).await;
    unavailable(&before.store.renew(before.tenant, &renewals).await.expect_err("the old primary may not write"));
    assert_eq!(after.usage(agent).await.used, most, "one lease later nothing is above the limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_primary_without_its_replicas_grants_nothing_and_calls_nothing_lost() {
    if hosts::in_a_network_of_its_own(
        "redis_faults::partition::an_old_primary_without_its_replicas_grants_nothing_and_calls_nothing_lost",
    ) {
        return;
    }
    let pair = Pair::start().await;
    let before = caller_at(&url(&pair.old), brisk());
    let kept = before.grant(&Acquire { ttl: secs(3), ..before.ask(before.agent(), "kept") }).await;
    let load = Load::start(std::slice::from_ref(&before), 16);
    load.grants(200, secs(10)).await;

    pair.cut();
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

    pair.promote();
    let after = caller_at(&url(&pair.new), brisk());
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
    pair.heal();
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
    let caller = caller_at(&format!("redis://127.0.0.1:{}", replica.port()), brisk());
    let lease = caller.ask(caller.agent(), "call");
    unavailable(&caller.store.acquire(caller.tenant, &lease).await.expect_err("a replica"));
    unavailable(&caller.store.leases(caller.tenant, std::slice::from_ref(&lease.call)).await.expect_err("a replica"));
    unavailable(&caller.store.release(caller.tenant, &lease.call, lease.lease).await.expect_err("a replica"));
    drop(primary);
}
