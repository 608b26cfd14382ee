//! MediaNodeService.Connect, spoken by hand: what the simulated node never says, and what it hears.

use std::time::Duration;

use tonic::{Code, Status};
use voxgate::proto::v1::{
    Answered, CallerHangup, Heartbeat, Hello, LeaseState, LiveCall, RevokeApiKeyRequest, SessionOutcome, Slot,
    TurnCount, VoiceAgent, WsDisconnectAction, WsDisconnected, call_event::Event, command::Verb,
    control_message::Message as Told, node_message::Message as Said, transfer_command::Destination,
};

use crate::harness::{
    client::{Explained as _, granted},
    raw_node::{RawNode, hello},
    world::{World, acquire, eventually, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    a_stream_begins_with_hello_and_welcome,
    a_stream_that_begins_otherwise_is_refused,
    a_faulty_hello_names_its_fields,
    a_call_is_assigned_with_the_secret_and_a_token,
    a_newer_stream_of_the_same_node_ends_the_older_one_well,
    a_presented_call_is_adopted_and_its_fate_told,
    a_heartbeat_renews_what_is_assigned,
    a_caller_who_hangs_up_ends_the_session,
    a_dropped_websocket_ends_the_call_as_the_agent_says,
    a_node_says_nothing_about_another_nodes_calls,
    a_call_goes_to_no_node_across_the_sandbox_fence,
    fates_are_told_in_the_order_of_the_hello,
    a_hangup_reported_just_before_a_reconnect_ends_the_session,
    a_node_of_capacity_one_is_given_one_of_thirty_racing_calls,
    a_stream_ends_soon_after_its_key_was_revoked,
    a_dropped_websocket_hands_the_caller_to_the_agents_destination_or_else_the_default_queue,
    the_count_of_turns_never_goes_backwards,
);

async fn a_stream_begins_with_hello_and_welcome(world: World) {
    let (_raw, welcome) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let interval = welcome.heartbeat_interval.expect("an interval");
    assert!((1..=10).contains(&interval.seconds), "{interval:?}");
    assert!(welcome.reconnect_grace.expect("a grace").seconds > interval.seconds);
    assert!(welcome.leases.is_empty() && welcome.server_time.is_some());
}

/// How the stream that begins with `first` ends.
async fn refusal(world: &World, first: Said) -> Status {
    match RawNode::begin(world, first).await {
        Err(status) => status,
        Ok(mut raw) => raw.hear().await.expect_err("refused"),
    }
}

async fn a_stream_that_begins_otherwise_is_refused(world: World) {
    let status = refusal(&world, Said::Heartbeat(Heartbeat::default())).await;
    assert_eq!((status.code(), status.reason().as_str()), (Code::InvalidArgument, "VALIDATION_FAILED"));
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    raw.say(Said::Hello(hello(&world, &unique("node")))).await;
    let status = raw.hear().await.expect_err("a second hello");
    assert_eq!((status.code(), status.reason().as_str()), (Code::InvalidArgument, "VALIDATION_FAILED"));
}

async fn a_faulty_hello_names_its_fields(world: World) {
    let live = LiveCall { call_id: String::new(), lease_id: "x".into() };
    let faulty = Hello { node_id: "a b".into(), capacity: 0, subprotocol: 99, calls: vec![live], ..hello(&world, "") };
    let mut named = refusal(&world, Said::Hello(faulty)).await.faulty_fields();
    named.sort();
    assert_eq!(
        named,
        ["hello.calls[0].call_id", "hello.calls[0].lease_id", "hello.capacity", "hello.node_id", "hello.subprotocol"]
    );
}

async fn a_call_is_assigned_with_the_secret_and_a_token(world: World) {
    let node = unique("node");
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &node)).await;
    let agent = VoiceAgent { auth_token: Some("canary-90d1".into()), ..minimal_agent() };
    let agent = world.create(agent).await;
    let slot = world.admit(&agent.id).await;
    assert_eq!(slot.node_id(), node);
    let assigned = raw.assigned().await;
    assert_eq!((&assigned.call_id, assigned.sandbox), (&slot.call_id, world.sandbox));
    let told = assigned.slot.expect("the slot");
    assert_eq!((&told.lease_id, &told.session_id, told.fence), (&slot.lease_id, &slot.session_id, slot.fence));
    assert_eq!(told.routing.expect("routing").auth_token(), "canary-90d1");
    let service = world.caller.with(&told.callback_token);
    let request = voxgate::proto::v1::GetCallStateRequest { call_id: slot.call_id, ..Default::default() };
    granted(service.calls().get_call_state(request).await);
}

async fn a_newer_stream_of_the_same_node_ends_the_older_one_well(world: World) {
    let node = unique("node");
    let (mut older, _) = RawNode::welcomed(&world, hello(&world, &node)).await;
    let (mut newer, _) = RawNode::welcomed(&world, hello(&world, &node)).await;
    assert_eq!(older.hear().await.expect("it ends with OK"), None);
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    assert_eq!(newer.assigned().await.call_id, slot.call_id);
}

async fn a_presented_call_is_adopted_and_its_fate_told(world: World) {
    let agent = world.agent(2).await;
    let (live, gone) = (world.admit(&agent.id).await, world.admit(&agent.id).await);
    assert!(live.node_id.is_none(), "no node is connected yet");
    world.release(&gone).await;
    let present = |slot: &Slot| LiveCall { call_id: slot.call_id.clone(), lease_id: slot.lease_id.clone() };
    let unknown = LiveCall { call_id: unique("call"), lease_id: live.lease_id.clone() };
    let node = unique("node");
    let calls = vec![unknown.clone(), present(&live), present(&gone)];
    let (mut raw, welcome) = RawNode::welcomed(&world, Hello { calls, ..hello(&world, &node) }).await;
    let mut fates: Vec<_> = welcome.leases.iter().map(|fate| (fate.call_id.as_str(), fate.state())).collect();
    fates.sort();
    let mut expected = [
        (unknown.call_id.as_str(), LeaseState::Lost),
        (live.call_id.as_str(), LeaseState::Renewed),
        (gone.call_id.as_str(), LeaseState::Released),
    ];
    expected.sort();
    assert_eq!(fates, expected);
    let mut told = Vec::new();
    for _ in 0..2 {
        told.push(match raw.hear().await.expect("no end") {
            Some(Told::LeaseLost(lost)) => ("lost", lost.call_id),
            Some(Told::EndCall(end)) if end.outcome() == SessionOutcome::Released => ("ended", end.call_id),
            other => panic!("expected the ends of two calls, heard {other:?}"),
        });
    }
    told.sort();
    assert_eq!(told, [("ended", gone.call_id), ("lost", unknown.call_id)]);
    assert_eq!(world.session(&live).await.node_id, node, "the call is the node's that announced it");
}

async fn fates_are_told_in_the_order_of_the_hello(world: World) {
    let agent = world.agent(4).await;
    let mut calls = Vec::new();
    for number in 0..4 {
        let slot = world.admit(&agent.id).await;
        if number % 2 == 1 {
            world.release(&slot).await;
        }
        calls.push(LiveCall { call_id: slot.call_id, lease_id: slot.lease_id });
    }
    let hello = Hello { calls: calls.clone(), ..hello(&world, &unique("node")) };
    let (_raw, welcome) = RawNode::welcomed(&world, hello).await;
    let told: Vec<_> = welcome.leases.iter().map(|fate| &fate.call_id).collect();
    assert_eq!(told, calls.iter().map(|call| &call.call_id).collect::<Vec<_>>());
}

async fn a_heartbeat_renews_what_is_assigned(world: World) {
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let agent = world.agent(1).await;
    let request = voxgate::proto::v1::AcquireSlotRequest {
        lease_ttl: Some(crate::harness::world::seconds(10)),
        ..acquire(&unique("call"), &agent.id)
    };
    let slot = granted(world.try_admit(request).await);
    raw.assigned().await;
    for _ in 0..4 {
        raw.say(Said::Heartbeat(Heartbeat::default())).await;
        // The interval of Welcome.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(world.usage(&agent.id).await.used, 1, "12 s into a lease of 10 s");
    assert!(world.release(&slot).await);
    match raw.hear().await.expect("no end") {
        Some(Told::EndCall(end)) => {
            assert_eq!((end.call_id, end.outcome), (slot.call_id, SessionOutcome::Released.into()));
        }
        other => panic!("expected the call's end, heard {other:?}"),
    }
}

async fn a_caller_who_hangs_up_ends_the_session(world: World) {
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    raw.assigned().await;
    raw.report(&slot.call_id, Event::CallerHangup(CallerHangup {})).await;
    assert_eq!(world.outcome(&slot).await, SessionOutcome::CallerHangup);
    world.freed(&agent.id).await;
}

async fn a_dropped_websocket_ends_the_call_as_the_agent_says(world: World) {
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    raw.assigned().await;
    raw.report(&slot.call_id, Event::WsDisconnected(WsDisconnected { code: 1006, reason: String::new() })).await;
    assert_eq!(world.outcome(&slot).await, SessionOutcome::WsDisconnected);
    match raw.hear().await.expect("no end") {
        Some(Told::EndCall(end)) => assert_eq!(end.call_id, slot.call_id),
        other => panic!("expected the call's end, heard {other:?}"),
    }
    assert_eq!(world.usage(&agent.id).await.used, 0);
}

async fn a_node_says_nothing_about_another_nodes_calls(world: World) {
    let (mut host, _) = RawNode::welcomed(&world, hello(&world, "a-host")).await;
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    host.assigned().await;
    let (rival, _) = RawNode::welcomed(&world, hello(&world, "b-rival")).await;
    rival.report(&slot.call_id, Event::CallerHangup(CallerHangup {})).await;
    let stranger = world.neighbour().await;
    let (foreign, _) = RawNode::welcomed(&stranger, hello(&stranger, "a-host")).await;
    foreign.report(&slot.call_id, Event::CallerHangup(CallerHangup {})).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.usage(&agent.id).await.used, 1);
}

async fn a_call_goes_to_no_node_across_the_sandbox_fence(world: World) {
    let across = Hello { sandbox: !world.sandbox, ..hello(&world, &unique("node")) };
    if world.sandbox {
        // A sandbox key cannot speak for a node that hosts live calls.
        assert_eq!(refusal(&world, Said::Hello(across)).await.faulty_fields(), ["hello.sandbox"]);
        return;
    }
    let (_raw, _) = RawNode::welcomed(&world, across).await;
    let agent = world.agent(1).await;
    assert!(world.admit(&agent.id).await.node_id.is_none());
}

async fn a_hangup_reported_just_before_a_reconnect_ends_the_session(world: World) {
    let (node, agent) = (unique("node"), world.agent(1).await);
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &node)).await;
    for round in 0..20 {
        let slot = world.admit(&agent.id).await;
        assert_eq!(raw.assigned().await.call_id, slot.call_id);
        raw.report(&slot.call_id, Event::CallerHangup(CallerHangup {})).await;
        let RawNode { outbox, inbox } = raw;
        if round % 2 == 0 {
            // The older stream ends before the newer one begins; else the newer one replaces it.
            drop(outbox);
        }
        (raw, _) = RawNode::welcomed(&world, hello(&world, &node)).await;
        drop(inbox);
        assert_eq!(world.outcome(&slot).await, SessionOutcome::CallerHangup, "round {round}");
        world.freed(&agent.id).await;
    }
}

async fn a_node_of_capacity_one_is_given_one_of_thirty_racing_calls(world: World) {
    let (_raw, _) = RawNode::welcomed(&world, Hello { capacity: 1, ..hello(&world, &unique("node")) }).await;
    let agent = world.agent(30).await;
    let racers: Vec<_> = (0..30)
        .map(|_| {
            let (world, agent) = (world.clone(), agent.id.clone());
            tokio::spawn(async move { world.admit(&agent).await.node_id })
        })
        .collect();
    let mut assigned = 0;
    for racer in racers {
        assigned += usize::from(racer.await.expect("granted, with a node or without").is_some());
    }
    assert_eq!(assigned, 1);
}

async fn a_stream_ends_soon_after_its_key_was_revoked(world: World) {
    let created = world.new_key(&["nodes:connect"]).await;
    let bearer = World { caller: world.caller.with(&created.secret), ..world.clone() };
    let (mut raw, _) = RawNode::welcomed(&bearer, hello(&world, &unique("node"))).await;
    let id = created.api_key.expect("the key").id;
    granted(world.operator.tenants().revoke_api_key(RevokeApiKeyRequest { id }).await);
    let end = tokio::time::timeout(Duration::from_secs(15), raw.inbox.message()).await.expect("it ends");
    let status = end.expect_err("it ends by a refusal");
    assert_eq!((status.code(), status.reason().as_str()), (Code::Unauthenticated, "CREDENTIAL_INVALID"));
}

async fn a_dropped_websocket_hands_the_caller_to_the_agents_destination_or_else_the_default_queue(world: World) {
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let kinds = [
        (Some("+15550100"), Destination::E164("+15550100".into()), SessionOutcome::TransferredE164),
        (None, Destination::AgentQueue("default".into()), SessionOutcome::TransferredAgentQueue),
    ];
    for (configured, destination, outcome) in kinds {
        let agent = VoiceAgent {
            ws_disconnect_action: Some(WsDisconnectAction::TransferToQueue.into()),
            transfer_destination: configured.map(str::to_owned),
            ..minimal_agent()
        };
        let slot = world.admit(&world.create(agent).await.id).await;
        raw.assigned().await;
        raw.report(&slot.call_id, Event::WsDisconnected(WsDisconnected { code: 1006, reason: String::new() })).await;
        let command = raw.command().await;
        match &command.verb {
            Some(Verb::Transfer(transfer)) => assert_eq!(transfer.destination.as_ref(), Some(&destination)),
            other => panic!("expected a transfer, heard {other:?}"),
        }
        raw.succeed(&command).await;
        assert_eq!(world.outcome(&slot).await, outcome);
        world.freed(&slot.voice_agent_id).await;
    }
}

async fn the_count_of_turns_never_goes_backwards(world: World) {
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let slot = world.admit(&world.agent(1).await.id).await;
    raw.assigned().await;
    for turns in [5, 3, 0] {
        raw.report(&slot.call_id, Event::TurnCount(TurnCount { turns })).await;
    }
    // Said last, so whoever sees it sees what came before.
    raw.report(&slot.call_id, Event::Answered(Answered {})).await;
    let answered = async || Some(world.session(&slot).await).filter(|session| session.answered_at.is_some());
    assert_eq!(eventually("the answer", answered).await.turn_count, 5);
}
