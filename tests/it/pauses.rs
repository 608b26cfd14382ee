//! Pauses that are longer than a lease: whoever wakes up has lost it, and nobody ever has it twice.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tonic::Code;
use voxgate::{
    node_sim::Behaviour,
    proto::v1::{
        AcquireSlotRequest, HoldRequest, LeaseRenewal, LeaseState, RenewSlotsRequest, SessionOutcome, SessionStatus,
        Slot,
    },
};

use crate::harness::{
    client::{Explained as _, granted, refused, within},
    node::NodeProcess,
    postgres,
    redis::PrivateRedis,
    server::{PATIENT, TestServer},
    world::{World, acquire, eventually, seconds, unique},
};

/// The shortest lease there is.
const LEASE: Duration = Duration::from_secs(10);
/// Nobody sweeps, so that what the node is told is for its heartbeat to find out.
const CONFIG: &str = "[calls]\nheartbeat_lease_ms = 10_000\nsweep_interval_ms = 600_000\n";

fn short(agent: &str) -> AcquireSlotRequest {
    AcquireSlotRequest { lease_ttl: Some(seconds(10)), ..acquire(&unique("call"), agent) }
}

async fn renew(world: &World, slot: &Slot) -> LeaseState {
    let (call_id, lease_id) = (slot.call_id.clone(), slot.lease_id.clone());
    let leases = vec![LeaseRenewal { call_id, lease_id, lease_ttl: Some(seconds(10)) }];
    granted(world.caller.calls().renew_slots(RenewSlotsRequest { leases }).await).results[0].state()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_for_longer_than_its_lease_is_told_the_loss_and_there_are_never_two_owners() {
    let redis = PrivateRedis::start();
    let config = format!("{CONFIG}{PATIENT}");
    let server = TestServer::production_under(&postgres::fresh_database(), redis.url().expose_secret(), &config);
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(1).await;
    let sleeper = NodeProcess::start(&world, unique("sleeper"));
    let slept = eventually("a call on the node", async || {
        let slot = granted(world.try_admit(short(&agent.id)).await);
        if slot.node_id.as_deref() == Some(sleeper.id.as_str()) {
            return Some(slot);
        }
        world.release(&slot).await;
        None
    })
    .await;
    eventually("the node's answer", async || world.session(&slept).await.answered_at).await;

    sleeper.signal("STOP");
    let stopped = Instant::now();
    let other = world.node(Behaviour::default()).await;
    let next = loop {
        match world.try_admit(short(&agent.id)).await {
            Ok(slot) => break slot.into_inner(),
            Err(status) => assert_eq!(status.reason(), "MAX_CONCURRENT_EXCEEDED", "{status:?}"),
        }
        assert!(
            stopped.elapsed() < LEASE + Duration::from_secs(2),
            "the slot of a node that sleeps does not come free"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    println!("the slot went to another call {:?} after its node was stopped", stopped.elapsed());
    // The last heartbeat was a little earlier.
    assert!(stopped.elapsed() + Duration::from_secs(4) > LEASE, "the lease was live: {:?}", stopped.elapsed());
    assert_eq!(next.node_id.as_deref(), Some(other.id.as_str()));
    assert!(next.fence > slept.fence, "{} after {}", next.fence, slept.fence);

    // By then nobody can do anything with the former lease.
    assert_eq!(renew(&world, &slept).await, LeaseState::Lost);
    let hold = HoldRequest { call_id: slept.call_id.clone(), ..HoldRequest::default() };
    let verb = world.caller.with(&slept.callback_token).calls().hold(within(Duration::from_secs(10), hold)).await;
    refused(verb, Code::FailedPrecondition, "LEASE_LOST");

    while stopped.elapsed() < LEASE + Duration::from_secs(5) {
        assert_eq!(renew(&world, &next).await, LeaseState::Renewed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    sleeper.signal("CONT");
    let said = eventually("the end of the call on the node that slept", async || {
        sleeper.said_of(&slept.call_id).into_iter().find(|line| line.contains("the node dropped a call"))
    })
    .await;
    assert!(said.contains("its lease is lost"), "{said}");
    let session = world.session(&slept).await;
    assert_eq!((session.status(), session.outcome()), (SessionStatus::Expired, SessionOutcome::LeaseExpired));
    let carried_out = sleeper.said_of(&slept.call_id).into_iter().find(|line| line.contains("was carried out"));
    assert_eq!(carried_out, None, "a verb reached a call that had lost its slot");

    // Through two more heartbeats of the one that slept, the other stays what it is.
    let woken = Instant::now();
    while woken.elapsed() < Duration::from_secs(7) {
        assert_eq!(world.usage(&agent.id).await.used, 1);
        assert_eq!(renew(&world, &next).await, LeaseState::Renewed);
        assert_eq!(renew(&world, &slept).await, LeaseState::Lost);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let hold = HoldRequest { call_id: next.call_id.clone(), ..HoldRequest::default() };
    granted(world.caller.with(&next.callback_token).calls().hold(hold).await);
    assert!(!world.release(&slept).await);
    assert!(world.release(&next).await);
}
