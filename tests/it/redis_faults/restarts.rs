//! A Redis that is killed and comes back, again and again.

use std::{sync::Arc, time::Duration};

use super::{caller_at, load::Load};
use crate::harness::redis::{PrivateRedis, patient};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_20_restarts_is_got_over_within_two_seconds() {
    let redis = Arc::new(PrivateRedis::start());
    let caller = caller_at(&format!("redis://127.0.0.1:{}", redis.port()), patient());
    let load = Load::start(&[caller], 32);
    let mut times = Vec::new();
    for _ in 0..20 {
        load.grants(50, Duration::from_secs(5)).await;
        let server = redis.clone();
        tokio::task::spawn_blocking(move || {
            server.kill();
            server.restart();
        })
        .await
        .expect("restarted");
        times.push(load.grants(32, Duration::from_secs(2)).await);
    }
    times.sort_unstable();
    println!("admitted again after each of 20 restarts: median {:?}, at most {:?}", times[10], times[19]);
    load.stop().await;
}
