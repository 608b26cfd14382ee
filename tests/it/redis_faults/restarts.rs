//! A Redis that is killed and comes back, again and again.

use std::{sync::Arc, time::Duration};

use super::{caller_at, load::Load};
use crate::{
    conformance::slot_fixture::Caller,
    harness::redis::{PrivateRedis, patient},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_20_restarts_is_got_over_within_two_seconds() {
    let redis = Arc::new(PrivateRedis::start());
    let caller = caller_at(&format!("redis://127.0.0.1:{}", redis.port()), patient());
    let mut times = Vec::new();
    for _ in 0..20 {
        // It comes back empty: who had leases there recovers, and a tenant that had none is admitted at once.
        let load = Load::start(&[Caller::of(caller.store.clone())], 32);
        load.grants(50, Duration::from_secs(5)).await;
        let server = redis.clone();
        tokio::task::spawn_blocking(move || {
            server.kill();
            server.restart();
        })
        .await
        .expect("restarted");
        let next = Load::start(&[Caller::of(caller.store.clone())], 32);
        times.push(next.grants(32, Duration::from_secs(2)).await);
        load.stop().await;
        next.stop().await;
    }
    times.sort_unstable();
    println!("admitted again after each of 20 restarts: median {:?}, at most {:?}", times[10], times[19]);
}
