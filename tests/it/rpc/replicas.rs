//! What holds between server processes that share their stores.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use voxgate::proto::v1::AcquireSlotRequest;

use crate::harness::{
    client::Explained as _,
    postgres, redis,
    server::TestServer,
    world::{World, acquire, seconds, unique},
};

const LEASE: Duration = Duration::from_secs(10);
const CALLS: usize = 500;
const LIMIT: usize = 7;

/// `count` calls at once on `agent`, split over `worlds`; answers how many were granted.
async fn storm(worlds: &[World], agent: &str, count: usize) -> usize {
    let racers: Vec<_> = (0..count)
        .map(|number| {
            let request = AcquireSlotRequest { lease_ttl: Some(seconds(10)), ..acquire(&unique("call"), agent) };
            let world = worlds[number % worlds.len()].clone();
            tokio::spawn(async move { world.try_admit(request).await })
        })
        .collect();
    let mut granted = 0;
    for racer in racers {
        match racer.await.expect("a racer") {
            Ok(_) => granted += 1,
            Err(status) => assert_eq!(status.reason(), "MAX_CONCURRENT_EXCEEDED", "{status:?}"),
        }
    }
    granted
}

#[tokio::test]
async fn two_servers_on_one_redis_grant_exactly_the_limit_and_its_holders_death_frees_every_slot() {
    let (database, redis) = (postgres::fresh_database(), redis::PrivateRedis::start());
    let first = TestServer::production(&database, redis.url().expose_secret());
    let second = TestServer::production_with_key(&database, redis.url().expose_secret(), first.admin_key.clone());
    let world = World::on(&first.addr, &first.admin_key).await;
    let worlds = [world.clone(), world.through(&second.addr)];
    let agent = world.agent(7).await;

    let started = Instant::now();
    assert_eq!(storm(&worlds, &agent.id, CALLS).await, LIMIT, "of {CALLS}");
    let last_grant = Instant::now();
    assert_eq!(worlds[1].usage(&agent.id).await.used, 7, "both replicas see the same");

    first.kill();
    second.kill();
    let third = TestServer::production_with_key(&database, redis.url().expose_secret(), first.admin_key.clone());
    let survivor = world.through(&third.addr);
    if started.elapsed() + Duration::from_secs(1) < LEASE {
        assert_eq!(storm(std::slice::from_ref(&survivor), &agent.id, 1).await, 0, "leases outlive the servers");
    }
    let free_at = last_grant + LEASE + Duration::from_secs(1);
    tokio::time::sleep_until(free_at.into()).await;
    assert_eq!(survivor.usage(&agent.id).await.used, 0, "all are free within lease + 1 s");
    assert_eq!(storm(&[survivor], &agent.id, 20).await, LIMIT);
}
