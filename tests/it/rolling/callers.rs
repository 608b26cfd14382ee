//! Clients as they should be: what was UNAVAILABLE is asked again, the same once more. Nothing else is forgiven.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;
use voxgate::proto::v1::{
    AcquireSlotRequest, HoldRequest, ReleaseSlotRequest, Slot, UnholdRequest,
    admission_service_client::AdmissionServiceClient,
};

use crate::harness::{
    client::{Bearing, Caller, Explained as _},
    world::{World, acquire, eventually, seconds, unique},
};

/// How long a client asks again.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it waits at least before it does; what the service asks for is spread already.
const WAIT: Duration = Duration::from_millis(50);
/// How long an admitted call lasts.
const LASTS: Duration = Duration::from_secs(1);
/// From one verb of a live call to the next, in ms.
const THINKS_MS: std::ops::Range<u64> = 1_000..8_000;

type Calls = AdmissionServiceClient<Bearing>;

/// What became of requests.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// From the first try to the answer.
    took: Vec<Duration>,
    /// By reason.
    retried: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    pub(super) const HEAD: &str = "| requests | answered | p50 | p99 | longest | UNAVAILABLE, asked again | failed |\n|---|---|---|---|---|---|---|";

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("nobody panicked")
    }

    pub(super) fn answered(&self) -> usize {
        self.counts().took.len()
    }

    pub(super) fn failures(&self) -> Vec<String> {
        self.counts().failures.clone()
    }

    /// A row of the table.
    pub(super) fn line(&self, what: &str) -> String {
        let mut counts = self.counts();
        counts.took.sort_unstable();
        let at =
            |share: usize| counts.took.get((counts.took.len() * share / 100).min(counts.took.len().saturating_sub(1)));
        let ms = |share| at(share).map_or(0.0, |took| took.as_secs_f64() * 1_000.0);
        let mut retried = String::new();
        for (reason, times) in &counts.retried {
            let _ = write!(retried, "{times} {reason} ");
        }
        let (answered, failed) = (counts.took.len(), counts.failures.len());
        format!(
            "| {what} | {answered} | {:.1} ms | {:.1} ms | {:.1} ms | {} | {failed} |",
            ms(50),
            ms(99),
            ms(100),
            retried.trim_end()
        )
    }

    /// Asks until it is answered. Nothing where it is refused for good.
    async fn persist<Q: Clone, A, F>(&self, caller: &Caller, request: Q, ask: impl Fn(Calls, Q) -> F) -> Option<A>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let asked = Instant::now();
        loop {
            let status = match ask(caller.calls(), request.clone()).await {
                Ok(answer) => {
                    self.counts().took.push(asked.elapsed());
                    return Some(answer.into_inner());
                }
                Err(status) => status,
            };
            if status.code() != Code::Unavailable || asked.elapsed() > PATIENCE {
                self.counts().failures.push(format!("after {:.1?}: {status:?}", asked.elapsed()));
                return None;
            }
            // The client's own word for a connection that was closed has no reason.
            let reason = status.get_details_error_info().map_or_else(|| "connection".to_owned(), |info| info.reason);
            *self.counts().retried.entry(reason).or_default() += 1;
            let wait = status.retry_delay().unwrap_or(WAIT).max(WAIT);
            tokio::time::sleep(wait).await;
        }
    }
}

/// A call that lasts, on a node.
pub(super) async fn live_call(world: &World, agent: &str) -> Slot {
    eventually("a call on a node", async || {
        let request = AcquireSlotRequest { lease_ttl: Some(seconds(300)), ..acquire(&unique("live"), agent) };
        let slot = world.try_admit(request).await.ok()?.into_inner();
        if slot.node_id.is_some() {
            return Some(slot);
        }
        world.release(&slot).await;
        None
    })
    .await
}

/// Puts the call on hold and takes it back, until `stop`; answers the operations.
pub(super) async fn drive(
    caller: Caller,
    call: String,
    seed: u64,
    tally: Arc<Tally>,
    stop: CancellationToken,
) -> Vec<String> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut operations = Vec::new();
    // Calls are at different points of their lives: they do not all begin at once.
    let mut thinks = Duration::from_millis(random.random_range(0..THINKS_MS.end));
    loop {
        tokio::select! {
            () = stop.cancelled() => return operations,
            () = tokio::time::sleep(thinks) => {}
        }
        let (call_id, idempotency_key) = (call.clone(), format!("verb-{}", operations.len()));
        let answer = if operations.len() % 2 == 0 {
            let request = HoldRequest { call_id, idempotency_key, ..HoldRequest::default() };
            let held =
                tally.persist(&caller, request, |mut calls: Calls, it| async move { calls.hold(it).await }).await;
            held.map(|held| (held.operation_id, held.call_state, true))
        } else {
            let request = UnholdRequest { call_id, idempotency_key };
            let taken_back =
                tally.persist(&caller, request, |mut calls: Calls, it| async move { calls.unhold(it).await }).await;
            taken_back.map(|back| (back.operation_id, back.call_state, false))
        };
        let Some((operation, state, held)) = answer else { return operations };
        assert_eq!(state.expect("a state").held, held, "verb {} of {call}", operations.len());
        operations.push(operation);
        thinks = Duration::from_millis(random.random_range(THINKS_MS));
    }
}

/// Has so many calls a second admitted, each for a while, until `stop`.
pub(super) async fn visit(caller: Caller, agent: String, rate: u64, tally: Arc<Tally>, stop: CancellationToken) {
    let mut turns = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate).expect("a pace"));
    // What was late is made up for: the pace is that of callers, who do not wait for each other.
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut visits = JoinSet::new();
    while stop.run_until_cancelled(turns.tick()).await.is_some() {
        let (caller, tally, request) = (caller.clone(), tally.clone(), acquire(&unique("call"), &agent));
        visits.spawn(async move {
            let Some(slot) = tally
                .persist(&caller, request, |mut calls: Calls, it| async move { calls.acquire_slot(it).await })
                .await
            else {
                return;
            };
            tokio::time::sleep(LASTS).await;
            let (call_id, lease_id) = (slot.call_id, slot.lease_id);
            let request = ReleaseSlotRequest { call_id, lease_id, ..ReleaseSlotRequest::default() };
            tally.persist(&caller, request, |mut calls: Calls, it| async move { calls.release_slot(it).await }).await;
        });
    }
    visits.join_all().await;
}
