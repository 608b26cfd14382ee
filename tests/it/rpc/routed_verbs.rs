//! Verbs that arrive at one replica for a call whose node is connected to another.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use secrecy::ExposeSecret as _;
use tonic::Code;
use voxgate::proto::v1::{
    Command, EndSessionRequest, GetOperationRequest, HangupRequest, Hello, HoldRequest, LiveCall, Operation,
    OperationState, SessionOutcome, Slot, UnholdRequest, VoiceAgent, command::Verb, control_message::Message as Told,
    end_session_request,
};

use crate::harness::{
    client::{Caller, Explained as _, granted},
    pair::Pair,
    postgres,
    raw_node::{RawNode, hello},
    redis::PrivateRedis,
    server::{PATIENT, TestServer},
    world::{World, acquire, eventually, minimal_agent, unique},
};

fn presenting(world: &World, node: &str, slot: &Slot) -> Hello {
    let live = LiveCall { call_id: slot.call_id.clone(), lease_id: slot.lease_id.clone() };
    Hello { calls: vec![live], ..hello(world, node) }
}

/// A node that is connected to `world`'s replica, and a call of it that was admitted through `through`.
async fn hosted(world: &World, through: &World) -> (RawNode, String, Slot) {
    let node = unique("node");
    let (mut raw, _) = RawNode::welcomed(world, hello(world, &node)).await;
    let agent = VoiceAgent { auth_token: Some("s3cret".into()), ..minimal_agent() };
    let agent = world.create(VoiceAgent { max_concurrent: Some(10), ..agent }).await;
    let slot = admitted_on(through, &agent.id, &node).await;
    let assigned = raw.assigned().await;
    let told = assigned.slot.expect("a slot");
    assert_eq!((&assigned.call_id, &told.lease_id), (&slot.call_id, &slot.lease_id));
    let routing = told.routing.expect("a routing");
    assert_eq!(routing.auth_token.as_deref(), Some("s3cret"), "the node always gets it");
    assert!(told.callback_token.starts_with("vg_cb_") && told.callback_token != slot.callback_token);
    (raw, node, slot)
}

/// A replica hears of a node elsewhere a moment after it has come.
async fn admitted_on(world: &World, agent: &str, node: &str) -> Slot {
    eventually("a call for the node", async || {
        let slot = world.admit(agent).await;
        if slot.node_id.as_deref() == Some(node) {
            return Some(slot);
        }
        world.release(&slot).await;
        None
    })
    .await
}

fn hold(slot: &Slot, key: &str) -> HoldRequest {
    HoldRequest { call_id: slot.call_id.clone(), idempotency_key: key.to_owned(), moh_url: None }
}

fn bearer(world: &World, slot: &Slot) -> Caller {
    world.caller.with(&slot.callback_token)
}

async fn operation(world: &World, id: &str) -> Operation {
    granted(world.caller.sessions().get_operation(GetOperationRequest { operation_id: id.to_owned() }).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_admitted_driven_and_ended_through_a_replica_that_does_not_have_its_node() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let (raw, _, slot) = hosted(there, here).await;
    let commands = raw.obey();
    for world in [here, there] {
        let service = bearer(world, &slot);
        let held = granted(service.calls().hold(hold(&slot, "")).await);
        assert_eq!(held.state(), OperationState::Succeeded);
        assert!(held.call_state.expect("a state").held);
        let unhold = UnholdRequest { call_id: slot.call_id.clone(), ..UnholdRequest::default() };
        assert!(!granted(service.calls().unhold(unhold).await).call_state.expect("a state").held);
    }
    let hangup = HangupRequest { call_id: slot.call_id.clone(), ..HangupRequest::default() };
    granted(bearer(here, &slot).calls().hangup(hangup).await);
    let heard: Vec<Option<Verb>> = commands.of_call(&slot.call_id).into_iter().map(|command| command.verb).collect();
    let kinds: Vec<&str> = heard
        .iter()
        .map(|verb| match verb {
            Some(Verb::Hold(_)) => "hold",
            Some(Verb::Unhold(_)) => "unhold",
            Some(Verb::Hangup(_)) => "hangup",
            _ => "another",
        })
        .collect();
    assert_eq!(kinds, ["hold", "unhold", "hold", "unhold", "hangup"]);
    here.freed(&slot.voice_agent_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_through_another_replica_is_told_to_the_node() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let (mut raw, _, slot) = hosted(there, here).await;
    let target = Some(end_session_request::Target::SessionId(slot.session_id.clone()));
    granted(here.caller.sessions().end_session(EndSessionRequest { target, ..EndSessionRequest::default() }).await);
    match raw.hear().await.expect("no end") {
        Some(Told::EndCall(end)) => {
            assert_eq!((end.call_id.as_str(), end.outcome()), (&*slot.call_id, SessionOutcome::Completed));
        }
        other => panic!("expected the end, heard {other:?}"),
    }
}

/// The node hears a command through its replica and loses its stream; answers the command, and the caller who waits.
async fn unanswered(
    raw: &mut RawNode,
    through: &World,
    slot: &Slot,
) -> (Command, tokio::task::JoinHandle<Result<OperationState, tonic::Status>>) {
    let (service, request) = (bearer(through, slot), hold(slot, "k-1"));
    let waiting =
        tokio::spawn(async move { service.calls().hold(request).await.map(|held| held.into_inner().state()) });
    (raw.command().await, waiting)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_stream_had_not_answered_comes_again_once_through_whichever_replica() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let (mut raw, node, slot) = hosted(there, here).await;
    let (command, waiting) = unanswered(&mut raw, here, &slot).await;
    drop(raw);
    // Once more, and not again: it was given twice.
    let (mut second, _) = RawNode::welcomed(here, presenting(here, &node, &slot)).await;
    assert_eq!(second.command().await.operation_id, command.operation_id);
    drop(second);
    let (third, _) = RawNode::welcomed(there, presenting(there, &node, &slot)).await;
    // A node that has carried it out says so whenever it can.
    third.succeed(&command).await;
    assert_eq!(operation_in(here, &command.operation_id, OperationState::Succeeded).await.verb, 6);
    is_told_or_told_to_ask(waiting).await;
    let replayed = granted(bearer(there, &slot).calls().hold(hold(&slot, "k-1")).await);
    assert!(replayed.replayed && replayed.operation_id == command.operation_id);
    let mut third = third;
    let silence = tokio::time::timeout(Duration::from_millis(300), third.inbox.message()).await;
    assert!(silence.is_err(), "{silence:?}");
}

/// The success that the node has stated, unless the caller's patience was over by then.
async fn is_told_or_told_to_ask(waiting: tokio::task::JoinHandle<Result<OperationState, tonic::Status>>) {
    match waiting.await.expect("the caller") {
        Ok(state) => assert_eq!(state, OperationState::Succeeded),
        Err(status) => assert_eq!(status.reason(), "OPERATION_PENDING", "{status:?}"),
    }
}

async fn operation_in(world: &World, id: &str, state: OperationState) -> Operation {
    let there = async || Some(operation(world, id).await).filter(|operation| operation.state() == state);
    eventually("that state of the operation", there).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_takes_no_verb_along() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let (mut raw, node, slot) = hosted(there, here).await;
    let (command, waiting) = unanswered(&mut raw, here, &slot).await;
    pair.servers[1].kill();
    drop(raw);
    let (mut again, _) = RawNode::welcomed(here, presenting(here, &node, &slot)).await;
    assert_eq!(again.command().await.operation_id, command.operation_id);
    again.succeed(&command).await;
    // The caller's replica is the one that lives.
    is_told_or_told_to_ask(waiting).await;
    operation_in(here, &command.operation_id, OperationState::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_given_to_two_replicas_a_thousand_times_at_once_executes_once() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let (raw, _, slot) = hosted(there, here).await;
    let commands = raw.obey();
    let ask = |number: usize| {
        let service = bearer(&pair.worlds[number % 2], &slot);
        let request = hold(&slot, "one-key");
        async move { service.calls().hold(request).await }
    };
    let answers: Vec<_> = stream::iter((0..1_000).map(ask)).buffer_unordered(1_000).collect().await;
    let mut operations = BTreeSet::new();
    let (mut firsts, mut replays) = (0, 0);
    for answer in answers {
        match answer.map(tonic::Response::into_inner) {
            Ok(held) => {
                operations.insert(held.operation_id);
                *if held.replayed { &mut replays } else { &mut firsts } += 1;
            }
            Err(status) => {
                // A thousand at once may also be more than the database's connections serve in their time.
                let told_to_wait = ["IDEMPOTENCY_IN_PROGRESS", "RATE_LIMITED", "DATABASE_UNAVAILABLE"];
                assert!(told_to_wait.contains(&status.reason().as_str()), "{status:?}");
                assert!(status.retry_delay().is_some(), "{status:?}");
            }
        }
    }
    println!("{firsts} first answer, {replays} replays, the others are told when to ask again");
    assert_eq!((firsts, operations.len()), (1, 1));
    assert_eq!(commands.of_call(&slot.call_id).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_connects_to_another_replica_leaves_the_one_before() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let (mut first, node, slot) = hosted(there, here).await;
    let (second, _) = RawNode::welcomed(here, presenting(here, &node, &slot)).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), first.inbox.message()).await.expect("it ends");
    assert!(matches!(ended, Ok(None)), "{ended:?}");
    let commands = second.obey();
    granted(bearer(there, &slot).calls().hold(hold(&slot, "")).await);
    assert_eq!(commands.of_call(&slot.call_id).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_says_so_while_its_node_is_connected_nowhere_and_its_key_may_be_tried_again() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let (raw, node, slot) = hosted(there, here).await;
    drop(raw);
    let service = bearer(here, &slot);
    let gone = async || service.calls().hold(hold(&slot, "k")).await.err().filter(|it| it.code() == Code::Unavailable);
    let status = eventually("the node to be gone", gone).await;
    assert_eq!(status.reason(), "NODE_UNREACHABLE");
    let (raw, _) = RawNode::welcomed(there, presenting(there, &node, &slot)).await;
    let commands = raw.obey();
    let held = eventually("the node to be back", async || service.calls().hold(hold(&slot, "k")).await.ok()).await;
    assert!(!held.into_inner().replayed);
    assert_eq!(commands.of_call(&slot.call_id).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_dealt_to_the_nodes_of_all_replicas_by_their_load() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let agent = here.agent(100).await;
    let names = [unique("node"), unique("node")];
    let mut nodes = Vec::new();
    for (world, name) in pair.worlds.iter().zip(&names) {
        nodes.push(RawNode::welcomed(world, hello(world, name)).await);
    }
    let admitted = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
    let both_are_full = async || {
        let slot = here.admit(&agent.id).await;
        let mut admitted = admitted.lock().expect("nobody panics");
        *admitted.entry(slot.node_id().to_owned()).or_default() += 1;
        let full = names.iter().all(|name| admitted.get(name).is_some_and(|calls| *calls >= 10));
        (full && slot.node_id.is_none()).then_some(())
    };
    eventually("both to be full", both_are_full).await;
    let admitted = admitted.into_inner().expect("nobody panics");
    assert_eq!(admitted[&names[0]], 10, "as many as it has said it can host");
    // What has gone there is forgotten once, when the notice of its coming is heard; a real node says what it carries.
    assert!((10..=20).contains(&admitted[&names[1]]), "{admitted:?}");
    let slot = granted(there.try_admit(acquire(&unique("call"), &agent.id)).await);
    assert_ne!(slot.node_id(), names[1], "its own replica knows that it is full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_nothing_is_there_as_long_as_its_stream() {
    let (database, redis) = (postgres::fresh_database(), PrivateRedis::start());
    // Others believe for 1.6 s that a node is there of which nobody says so.
    let config = format!("{PATIENT}[calls]\nheartbeat_interval_ms = 200\n");
    let server = TestServer::production_under(&database, redis.url().expose_secret(), &config);
    let world = World::on(&server.addr, &server.admin_key).await;
    let (raw, _, slot) = hosted(&world, &world).await;
    let commands = raw.obey();
    // Twice as long.
    tokio::time::sleep(Duration::from_secs(3)).await;
    granted(bearer(&world, &slot).calls().hold(hold(&slot, "")).await);
    assert_eq!(commands.of_call(&slot.call_id).len(), 1);
}
