//! A client: one call after the other, through whichever replica, noting all that it is told.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use voxgate::{
    domain::Env,
    proto::v1::{
        AcquireSlotRequest, AwaitSlotRequest, LeaseRenewal, LeaseState, ReleaseSlotRequest, RenewSlotsRequest, Slot,
        await_slot_response::Update,
    },
};

use super::{
    LEASE, REPLICAS, Stage,
    checker::{Did, Op},
};
use crate::harness::{
    client::{Explained as _, within},
    world::acquire,
};

/// Longer than a budget, shorter than most pauses.
const PATIENCE: Duration = Duration::from_millis(1_500);

struct Client {
    stage: Arc<Stage>,
    random: SmallRng,
    call: String,
    agent: usize,
}

pub(super) async fn live(stage: Arc<Stage>, lane: usize, seed: u64) {
    let mut client = Client { stage, random: SmallRng::seed_from_u64(seed), call: String::new(), agent: 0 };
    let mut number = 0;
    while !client.stage.is_over() {
        // Now and then the call before is admitted again, as a new session.
        if client.call.is_empty() || client.random.random_bool(0.8) {
            number += 1;
            client.call = format!("history-{lane}-{number}");
            client.agent = client.random.random_range(0..client.stage.agents.len());
        }
        client.one_call().await;
    }
}

impl Client {
    async fn one_call(&mut self) {
        let Some(lease) = self.acquire_until_answered().await else {
            let pause = self.random.random_range(1..6);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            return;
        };
        if self.random.random_bool(0.3) {
            // The same again, perhaps at another replica.
            self.acquire().await;
        }
        for _ in 0..self.random.random_range(0..4) {
            let pause = self.random.random_range(0..5);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.renew(&lease).await;
        }
        // Whoever dies with a call in hand leaves it to its lease.
        if self.random.random_bool(0.01) && !self.stage.is_over() {
            self.call.clear();
            return;
        }
        let mut tries = 0;
        while !self.release(&lease).await {
            tries += 1;
            assert!(tries < 200, "the release of {lease} is never heard");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        if self.random.random_bool(0.1) {
            self.release(&lease).await;
        }
    }

    /// The lease, or nothing where there is none to have.
    async fn acquire_until_answered(&mut self) -> Option<String> {
        for _ in 0..20 {
            let did = if self.random.random_bool(0.4) { self.wait().await } else { self.acquire().await };
            match did {
                Did::Acquired { lease, .. } => return Some(lease),
                Did::Denied | Did::TimedOut => return None,
                Did::HungUp => {
                    // Whoever hangs up does not ask again.
                    self.call.clear();
                    return None;
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        None
    }

    async fn acquire(&mut self) -> Did {
        let (replica, from) = (self.replica(), now());
        let request = AcquireSlotRequest {
            lease_ttl: Some(prost_types::Duration { seconds: LEASE.as_secs().cast_signed(), nanos: 0 }),
            ..acquire(&self.call, &self.stage.agents[self.agent])
        };
        let answer = self.stage.caller(replica).calls().acquire_slot(within(PATIENCE, request)).await;
        let did = match answer {
            Ok(slot) => acquired(slot.into_inner()),
            Err(status) => refused(&status),
        };
        self.record(from, did.clone());
        did
    }

    /// Waits in the queue for a moment, and now and then hangs up before it is over.
    async fn wait(&mut self) -> Did {
        let (replica, from) = (self.replica(), now());
        let max_wait = Duration::from_millis(self.random.random_range(20..400));
        let hangs_up_in = self.random.random_bool(0.2).then(|| max_wait.mul_f64(self.random.random_range(0.0..1.0)));
        let as_acquired = acquire(&self.call, &self.stage.agents[self.agent]);
        let request = AwaitSlotRequest {
            call_id: as_acquired.call_id,
            voice_agent_id: as_acquired.voice_agent_id,
            direction: as_acquired.direction,
            priority: self.random.random_range(0..3),
            lease_ttl: Some(prost_types::Duration { seconds: LEASE.as_secs().cast_signed(), nanos: 0 }),
            max_wait: Some(max_wait.try_into().expect("short")),
            ..AwaitSlotRequest::default()
        };
        let mut calls = self.stage.caller(replica).calls();
        let waiting = async {
            let mut updates = calls.await_slot(within(PATIENCE, request)).await?.into_inner();
            loop {
                match updates.message().await?.and_then(|message| message.update) {
                    Some(Update::Waiting(place)) => assert!(place.position > 0, "{place:?}"),
                    Some(Update::Slot(slot)) => return Ok(slot),
                    None => panic!("the stream ended without an answer"),
                }
            }
        };
        let answer = tokio::time::timeout(hangs_up_in.unwrap_or(PATIENCE * 2), waiting).await;
        let did = match answer {
            Ok(Ok(slot)) => acquired(slot),
            Ok(Err(status)) => refused(&status),
            Err(_) => Did::HungUp,
        };
        let (until, call, agent) = (now(), self.call.clone(), self.agent);
        self.stage.record(Op { from, until, call, agent, waited: true, did: did.clone() });
        did
    }

    async fn renew(&mut self, lease: &str) {
        let (replica, from) = (self.replica(), now());
        let renewal = LeaseRenewal {
            call_id: self.call.clone(),
            lease_id: lease.to_owned(),
            lease_ttl: Some(prost_types::Duration { seconds: LEASE.as_secs().cast_signed(), nanos: 0 }),
        };
        let request = within(PATIENCE, RenewSlotsRequest { leases: vec![renewal] });
        let did = match self.stage.caller(replica).calls().renew_slots(request).await {
            Ok(answer) => {
                let result = answer.into_inner().results.pop().expect("one lease, one fate");
                match result.state() {
                    LeaseState::Renewed | LeaseState::Readmitted => {
                        Did::Renewed { lease: lease.to_owned(), expires: micros(result.expires_at) }
                    }
                    LeaseState::Lost | LeaseState::Released => Did::Lost { lease: lease.to_owned() },
                    LeaseState::Unspecified => panic!("{result:?}"),
                }
            }
            Err(status) => {
                expected(&status);
                Did::MayHaveRenewed
            }
        };
        self.record(from, did);
    }

    /// Whether it was heard.
    async fn release(&mut self, lease: &str) -> bool {
        let (replica, from) = (self.replica(), now());
        let request = ReleaseSlotRequest {
            call_id: self.call.clone(),
            lease_id: lease.to_owned(),
            ..ReleaseSlotRequest::default()
        };
        let lease = lease.to_owned();
        let did = match self.stage.caller(replica).calls().release_slot(within(PATIENCE, request)).await {
            Ok(answer) => Did::Released { lease, was_held: answer.into_inner().released },
            Err(status) => {
                expected(&status);
                Did::MayHaveReleased { lease }
            }
        };
        let is_heard = matches!(did, Did::Released { .. });
        self.record(from, did);
        is_heard
    }

    fn replica(&mut self) -> usize {
        self.random.random_range(0..REPLICAS)
    }

    fn record(&self, from: i64, did: Did) {
        let (until, call, agent) = (now(), self.call.clone(), self.agent);
        self.stage.record(Op { from, until, call, agent, waited: false, did });
    }
}

fn acquired(slot: Slot) -> Did {
    Did::Acquired { expires: micros(slot.expires_at), lease: slot.lease_id, fence: slot.fence }
}

/// What it means for a call that it was not answered a slot.
#[track_caller]
fn refused(status: &Status) -> Did {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    match reason.as_str() {
        "MAX_CONCURRENT_EXCEEDED" | "QUEUE_FULL" => Did::Denied,
        "QUEUE_TIMEOUT" => Did::TimedOut,
        _ => {
            expected(status);
            Did::MayHaveAcquired
        }
    }
}

/// What a fault may look like. A client's own library calls a killed server's connection UNKNOWN or CANCELLED.
#[track_caller]
fn expected(status: &Status) {
    let is_fault = matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::ResourceExhausted
    );
    // Two tries of one call may cross: one that was given up is still at work.
    let is_race = status.code() == Code::Aborted;
    assert!(is_fault || is_race, "{status:?} {:?}", status.metadata_of_reason());
}

fn now() -> i64 {
    Env::system().now().as_micros()
}

fn micros(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.expect("it is told");
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}
