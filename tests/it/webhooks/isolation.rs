//! Receivers in trouble cost nobody else anything, and no URL leads inside.

use std::time::Duration;

use secrecy::ExposeSecret as _;

use super::{CONFIG, Calls, each_once, leads, on_both_backends, server};
use crate::harness::{
    postgres,
    receiver::{Answer, Receiver},
    redis::PrivateRedis,
    server::{Backend, TestServer},
    world::{World, eventually},
};

on_both_backends!(
    the_neighbour_of_an_endpoint_that_hangs_is_served_meanwhile,
    another_tenants_events_come_to_nobody_else,
);

async fn the_neighbour_of_an_endpoint_that_hangs_is_served_meanwhile(world: World) {
    let (hanging, slow, sound) = (
        Receiver::answering(Answer::Hang).await,
        Receiver::answering(Answer::Late(Duration::from_millis(500), 200)).await,
        Receiver::start().await,
    );
    for receiver in [&hanging, &slow, &sound] {
        leads(&world, receiver).await;
    }
    let calls = Calls::start(&world).await;
    calls.happen(40).await;
    sound.received(40).await;
    // No post to it has ended yet, so these are all that were ever under way.
    assert!(hanging.posts().len() <= 4, "{} at once", hanging.posts().len());
    assert!(each_once(&sound));
    slow.received(40).await;
}

async fn another_tenants_events_come_to_nobody_else(world: World) {
    let neighbour = world.neighbour().await;
    let (ours, theirs) = (Receiver::start().await, Receiver::start().await);
    leads(&world, &ours).await;
    leads(&neighbour, &theirs).await;
    let (calls, other) = (Calls::start(&world).await, Calls::start(&neighbour).await);
    calls.happen(4).await;
    other.happen(3).await;
    let (our_posts, their_posts) = (ours.received(4).await, theirs.received(3).await);
    assert!(our_posts.iter().all(|post| post.json()["tenant_id"] == world.tenant.as_str()));
    assert!(their_posts.iter().all(|post| post.json()["tenant_id"] == neighbour.tenant.as_str()));
    assert_eq!((our_posts.len(), their_posts.len()), (4, 3));
}

/// More endpoints that hang than there may be posts at once.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_hang_use_up_their_own_share_alone() {
    let config = format!("{CONFIG}max_in_flight = 4\ntimeout_ms = 500\n");
    let server = server(Backend::Embedded, &config);
    let world = World::on(&server.addr, &server.admin_key).await;
    let hanging = Receiver::answering(Answer::Hang).await;
    for _ in 0..12 {
        leads(&world, &hanging).await;
    }
    let calls = Calls::start(&world).await;
    calls.happen(10).await;
    let all_hang = async || (hanging.posts().len() >= 24).then_some(());
    eventually("trouble", all_hang).await;
    let sound = Receiver::start().await;
    leads(&world, &sound).await;
    calls.happen(40).await;
    sound.received(40).await;
    assert!(each_once(&sound));
}

/// A URL that was taken while it was allowed, as a name is that leads inside later.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_address_is_not_dialled_where_it_is_not_allowed() {
    let (database, redis) = (postgres::fresh_database(), PrivateRedis::shared().url());
    let redis = redis.expose_secret();
    let (listening, other) = (Receiver::start().await, Receiver::start().await);
    let lax = TestServer::production_with(&database, redis, CONFIG);
    let world = World::on(&lax.addr, &lax.admin_key).await;
    let endpoint = leads(&world, &listening).await;
    let by_name = listening.url.replace("127.0.0.1", "localhost");
    let mapped = listening.url.replace("127.0.0.1", "[::ffff:127.0.0.1]");
    let decimal = listening.url.replace("127.0.0.1", "2130706433");
    for url in [&by_name, &mapped, &decimal] {
        super::endpoint(&world, url, &["lead.updated"]).await;
    }
    leads(&world, &other).await;
    lax.kill();
    let strict = TestServer::production_with_key(&database, redis, lax.admin_key.clone());
    let world = world.through(&strict.addr);
    let calls = Calls::start(&world).await;
    calls.happen(1).await;
    let told = async || {
        let failures = strict.log().matches("the host has no public address").count();
        (failures >= 5).then_some(())
    };
    eventually("the refusal of each", told).await;
    assert!(listening.posts().is_empty() && other.posts().is_empty(), "{endpoint:?}");
}
