//! Several replicas on the same stores.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;

use super::{CONFIG, Calls, each_once, leads};
use crate::harness::{
    postgres,
    receiver::{Answer, Receiver},
    redis::PrivateRedis,
    server::{PATIENT, TestServer},
    world::{World, eventually},
};

/// Two replicas, and a tenant through each.
async fn pair(more: &str) -> ([TestServer; 2], [World; 2]) {
    let (database, redis) = (postgres::fresh_database(), PrivateRedis::shared().url());
    let config = format!("{CONFIG}{more}{PATIENT}");
    let first = TestServer::production_under(&database, redis.expose_secret(), &config);
    let second = TestServer::configured(&database, redis.expose_secret(), first.admin_key.clone(), &config);
    let world = World::on(&first.addr, &first.admin_key).await;
    let worlds = [world.clone(), world.through(&second.addr)];
    ([first, second], worlds)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_deliver_each_event_once() {
    let (_servers, worlds) = pair("").await;
    let receivers = [Receiver::start().await, Receiver::start().await, Receiver::start().await];
    for receiver in &receivers {
        leads(&worlds[0], receiver).await;
    }
    let (here, there) = (Calls::start(&worlds[0]).await, Calls::start(&worlds[1]).await);
    tokio::join!(here.happen(60), there.happen(60));
    for receiver in &receivers {
        receiver.received(120).await;
        assert!(each_once(receiver), "{} posts of 120 events", receiver.posts().len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_replica_was_posting_another_posts() {
    // A claim ends 15 s after its post could.
    let (servers, worlds) = pair("timeout_ms = 5000\n").await;
    let receiver = Receiver::answering(Answer::Hang).await;
    leads(&worlds[0], &receiver).await;
    servers[1].signal("STOP");
    let calls = Calls::start(&worlds[0]).await;
    calls.happen(3).await;
    let under_way = async || (receiver.posts().len() >= 3).then_some(());
    eventually("the posts", under_way).await;
    servers[0].kill();
    receiver.answers(Answer::Status(200));
    let before = receiver.posts().len();
    servers[1].signal("CONT");
    let asked = Instant::now();
    let again = || receiver.posts()[before..].iter().map(|post| post.header("webhook-id").to_owned()).collect();
    loop {
        let again: std::collections::BTreeSet<String> = again();
        if again.len() == 3 {
            break;
        }
        assert!(asked.elapsed() < Duration::from_secs(90), "only {again:?} came again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
