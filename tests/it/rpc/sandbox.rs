//! The sandbox fence within a tenant: neither side reaches the other's calls, nodes and keys.

use tonic::{Code, Status};
use voxgate::proto::v1::{
    AcquireSlotRequest, CallerHangup, EndSessionRequest, Heartbeat, HoldRequest, LeaseRenewal, LeaseRenewalResult,
    LeaseState, ListVoiceAgentsRequest, LiveCall, RenewSlotsRequest, RevokeApiKeyRequest, SessionOutcome,
    SessionStatus, Slot, VoiceAgent, call_event::Event, control_message::Message as Told, end_session_request,
    node_message::Message as Said,
};

use crate::harness::{
    client::{granted, refused},
    raw_node::{RawNode, hello},
    world::{World, acquire, minimal_agent, on_both_backends, seconds, unique},
};

on_both_backends!(
    acquiring_a_call_of_the_other_side_is_refused_and_tells_nothing_of_it,
    a_sandbox_keys_renewal_of_a_live_lease_is_lost_and_prolongs_nothing,
    a_sandbox_node_does_not_take_a_live_nodes_name,
    a_verb_does_not_reach_a_node_of_the_other_side,
    a_sandbox_key_does_not_revoke_a_live_key,
    a_live_call_is_an_unknown_one_to_a_sandbox_key,
);

async fn acquiring_a_call_of_the_other_side_is_refused_and_tells_nothing_of_it(world: World) {
    let (live, sandbox) = world.sides().await;
    for (host, other) in [(&live, &sandbox), (&sandbox, &live)] {
        let agent = host.create(VoiceAgent { auth_token: Some("canary-7f3a".into()), ..minimal_agent() }).await;
        let slot = host.admit(&agent.id).await;
        let answer = other.try_admit(acquire(&slot.call_id, &agent.id)).await;
        let told = format!("{:?}", refused(answer, Code::FailedPrecondition, "CALL_ALREADY_ADMITTED"));
        for secret in [&slot.lease_id, &slot.session_id, &slot.callback_token, "canary-7f3a"] {
            assert!(!told.contains(secret), "{told}");
        }
        assert_eq!(granted(host.try_admit(acquire(&slot.call_id, &agent.id)).await).lease_id, slot.lease_id);
        assert_eq!(host.usage(&agent.id).await.used, 1);
    }
}

async fn renew(world: &World, slot: &Slot, ttl: i64) -> LeaseRenewalResult {
    let lease =
        LeaseRenewal { call_id: slot.call_id.clone(), lease_id: slot.lease_id.clone(), lease_ttl: Some(seconds(ttl)) };
    let request = RenewSlotsRequest { leases: vec![lease] };
    granted(world.caller.calls().renew_slots(request).await).results.remove(0)
}

async fn a_sandbox_keys_renewal_of_a_live_lease_is_lost_and_prolongs_nothing(world: World) {
    let (live, sandbox) = world.sides().await;
    let slot = live.admit(&live.agent(1).await.id).await;
    let fate = renew(&sandbox, &slot, 300).await;
    assert_eq!((fate.state(), fate.expires_at), (LeaseState::Lost, None));
    // A renewal never brings the expiry nearer, so it shows one that was put off.
    let fate = renew(&live, &slot, 10).await;
    let (now, first) = (fate.expires_at.expect("a time"), slot.expires_at.expect("a time"));
    assert_eq!(fate.state(), LeaseState::Renewed);
    assert!(now.seconds - first.seconds < 60, "{now:?} after {first:?}");
    assert_eq!(live.session(&slot).await.status(), SessionStatus::Active);
}

async fn a_sandbox_node_does_not_take_a_live_nodes_name(world: World) {
    let (live, sandbox) = world.sides().await;
    let name = unique("node");
    let (mut live_node, _) = RawNode::welcomed(&live, hello(&live, &name)).await;
    let (mut sandbox_node, _) = RawNode::welcomed(&sandbox, hello(&sandbox, &name)).await;
    let agent = live.agent(2).await;
    let (live_call, sandbox_call) = (live.admit(&agent.id).await, sandbox.admit(&agent.id).await);
    assert_eq!(live_node.assigned().await.call_id, live_call.call_id);
    assert_eq!(sandbox_node.assigned().await.call_id, sandbox_call.call_id);

    sandbox_node.report(&live_call.call_id, Event::CallerHangup(CallerHangup {})).await;
    let stolen = LiveCall { call_id: live_call.call_id.clone(), lease_id: live_call.lease_id.clone() };
    sandbox_node.say(Said::Heartbeat(Heartbeat { calls: vec![stolen] })).await;
    match sandbox_node.hear().await.expect("no end") {
        Some(Told::LeaseLost(lost)) => assert_eq!(lost.call_id, live_call.call_id),
        other => panic!("expected the loss of a call that is not the node's, heard {other:?}"),
    }
    sandbox_node.report(&sandbox_call.call_id, Event::CallerHangup(CallerHangup {})).await;
    assert_eq!(sandbox.outcome(&sandbox_call).await, SessionOutcome::CallerHangup);
    assert_eq!(live.session(&live_call).await.status(), SessionStatus::Active);
    assert_eq!(live.usage(&agent.id).await.used, 1);
    live_node.report(&live_call.call_id, Event::CallerHangup(CallerHangup {})).await;
    assert_eq!(live.outcome(&live_call).await, SessionOutcome::CallerHangup);
}

async fn a_verb_does_not_reach_a_node_of_the_other_side(world: World) {
    let (live, sandbox) = world.sides().await;
    for (host, other) in [(&live, &sandbox), (&sandbox, &live)] {
        let (name, agent) = (unique("node"), host.agent(2).await);
        // A node that is named need not be connected yet.
        let request = AcquireSlotRequest { node_id: Some(name.clone()), ..acquire(&unique("call"), &agent.id) };
        let slot = granted(other.try_admit(request).await);
        let (mut node, _) = RawNode::welcomed(host, hello(host, &name)).await;
        let hold = HoldRequest { call_id: slot.call_id.clone(), ..HoldRequest::default() };
        for caller in [&other.caller.with(&slot.callback_token), &other.caller] {
            refused(caller.calls().hold(hold.clone()).await, Code::Unavailable, "NODE_UNREACHABLE");
        }
        other.release(&slot).await;
        // What the node hears first is its own side's call: no command, and no end of the other's.
        let own = host.admit(&agent.id).await;
        assert_eq!(node.assigned().await.call_id, own.call_id);
    }
}

async fn a_sandbox_key_does_not_revoke_a_live_key(world: World) {
    let (live, sandbox) = world.sides().await;
    let key = live.new_key(&["voice_agents:read"]).await;
    let request = RevokeApiKeyRequest { id: key.api_key.expect("the key").id };
    let administrator = sandbox.caller_with(&["tenants:admin"]).await;
    let answer = administrator.tenants().revoke_api_key(request.clone()).await;
    refused(answer, Code::NotFound, "API_KEY_NOT_FOUND");
    let bearer = live.operator.with(&key.secret);
    granted(bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await);
    granted(live.operator.tenants().revoke_api_key(request).await);
}

async fn a_live_call_is_an_unknown_one_to_a_sandbox_key(world: World) {
    let (live, sandbox) = world.sides().await;
    let (agent, call) = (live.agent(1).await, unique("call"));
    let end = async || {
        let target = Some(end_session_request::Target::CallId(call.clone()));
        let request = EndSessionRequest { target, ..EndSessionRequest::default() };
        refused(sandbox.caller.sessions().end_session(request).await, Code::NotFound, "SESSION_NOT_FOUND")
    };
    let parts = |status: &Status| (status.message().to_owned(), status.details().to_vec());
    let unknown = end().await;
    let slot = granted(live.try_admit(acquire(&call, &agent.id)).await);
    assert_eq!(parts(&end().await), parts(&unknown));
    assert_eq!(live.session(&slot).await.status(), SessionStatus::Active);
}
