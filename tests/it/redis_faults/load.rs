//! Callers who admit and release one call after the other, and what they were answered.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use voxgate::domain::{
    Error,
    ids::VoiceAgentId,
    lease::{Acquire, Acquired},
};

use super::unavailable;
use crate::{
    conformance::slot_fixture::{Caller, limit},
    harness::world::unique,
};

#[derive(Debug, Default)]
pub(super) struct Tally {
    stop: AtomicBool,
    granted: AtomicUsize,
    /// How long each answer took, since it was last asked.
    grants: Mutex<Vec<Duration>>,
    refusals: Mutex<Vec<Duration>>,
}

#[derive(Debug)]
pub(super) struct Load {
    tally: Arc<Tally>,
    workers: Vec<JoinHandle<()>>,
    callers: Vec<Caller>,
}

/// Of each lease that a worker asks for.
const TTL: Duration = Duration::from_secs(10);

/// How long answers took, in order.
#[derive(Debug, Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(place).copied().unwrap_or_default()
    }

    pub(super) fn slower_than(&self, span: Duration) -> usize {
        self.0.iter().filter(|it| **it > span).count()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (half, most, all) = (self.percentile(50), self.percentile(99), self.percentile(100));
        write!(f, "{} (p50 {half:?}, p99 {most:?}, max {all:?})", self.count())
    }
}

impl Load {
    /// `workers` for each of the callers' tenants.
    pub(super) fn start(callers: &[Caller], workers: usize) -> Self {
        let tally = Arc::new(Tally::default());
        let callers = callers.to_vec();
        let work = |caller: &Caller| tokio::spawn(work(caller.clone(), caller.agent(), tally.clone()));
        let workers = callers.iter().flat_map(|caller| (0..workers).map(move |_| work(caller))).collect();
        Self { tally, workers, callers }
    }

    pub(super) fn granted(&self) -> usize {
        self.tally.granted.load(Ordering::Relaxed)
    }

    /// How long it takes until `more` calls are admitted, which must be less than `patience`.
    pub(super) async fn grants(&self, more: usize, patience: Duration) -> Duration {
        let (from, start) = (self.granted(), Instant::now());
        while self.granted() < from + more {
            assert!(start.elapsed() < patience, "{} of {more} within {patience:?}", self.granted() - from);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        start.elapsed()
    }

    /// How long what was granted and what was refused took since the last look.
    pub(super) fn look(&self) -> (Times, Times) {
        let take = |times: &Mutex<Vec<Duration>>| std::mem::take(&mut *times.lock().expect("no worker panicked"));
        (Times::of(take(&self.tally.grants)), Times::of(take(&self.tally.refusals)))
    }

    /// Ends when all that was admitted is released; then no tenant may hold anything.
    pub(super) async fn stop(self) {
        for caller in self.end().await {
            assert_eq!(caller.tenant_used().await, 0, "a lease leaked");
        }
    }

    /// The same where releases may have been lost with the server that took them: the leases run out.
    pub(super) async fn stop_and_wait_for_leases(self) {
        let callers = self.end().await;
        let start = Instant::now();
        for caller in callers {
            let left = caller.tenant_used().await;
            while caller.tenant_used().await > 0 {
                assert!(start.elapsed() < TTL + Duration::from_secs(1), "a lease leaked");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            println!(
                "{left} releases were lost with the old server, and their leases were over {:?} later",
                start.elapsed()
            );
        }
    }

    async fn end(self) -> Vec<Caller> {
        self.tally.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.await.expect("a caller saw nothing else");
        }
        self.callers
    }
}

async fn work(caller: Caller, agent: VoiceAgentId, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let ask = Acquire { limits: limit(100_000), ttl: TTL, ..caller.ask(agent, &unique("call")) };
        let started = Instant::now();
        let lease = match caller.store.acquire(caller.tenant, &ask).await {
            Ok(Acquired::Granted { lease, .. }) => lease,
            Ok(other) => panic!("{other:?}"),
            // Its leases are gone: none is granted, and nobody is turned away for good.
            Err(Error::Recovering { .. }) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            Err(error) => {
                unavailable(&error);
                tally.refusals.lock().expect("no worker panicked").push(started.elapsed());
                // It may have been carried out: whoever hears nothing asks again, or lets go.
                while caller.store.release(caller.tenant, &ask.call, ask.lease).await.is_err() {
                    let is_over = tally.stop.load(Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(if is_over { 50 } else { 5 })).await;
                }
                continue;
            }
        };
        tally.grants.lock().expect("no worker panicked").push(started.elapsed());
        tally.granted.fetch_add(1, Ordering::Relaxed);
        while let Err(error) = caller.store.release(caller.tenant, &lease.call, lease.id).await {
            unavailable(&error);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
