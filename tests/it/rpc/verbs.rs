//! The control verbs, from the AI service's callback token to a media node and back.

use std::time::{Duration, Instant};

use tonic::{Code, Response, Status};
use voxgate::{
    node_sim::{Behaviour, Policy},
    proto::v1::{
        CallPhase, EndSessionRequest, GetCallStateRequest, GetCallStateResponse, GetOperationRequest,
        GetSessionRequest, HangupRequest, HangupResponse, Hello, HoldRequest, HoldResponse, Operation, OperationState,
        SessionOutcome, SessionStatus, Slot, TransferDestination, TransferRequest, TransferResponse, UnholdRequest,
        UnholdResponse, Verb, VoiceAgent, end_session_request, get_session_request, transfer_destination::Destination,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused, within},
    raw_node::{RawNode, hello},
    world::{TestNode, World, acquire, eventually, minimal_agent, on_both_backends, policy, unique},
};

on_both_backends!(
    a_call_is_held_and_taken_off_hold_by_its_own_token,
    a_hangup_ends_the_session_and_frees_the_slot,
    a_transfer_ends_the_session_by_the_kind_of_its_destination,
    a_transfer_goes_to_the_agents_destination_by_default,
    a_transfers_faulty_destination_is_named,
    the_state_tells_what_the_node_reported,
    a_token_drives_its_own_call_alone,
    a_key_needs_the_scope_to_drive_calls,
    a_verb_that_the_state_does_not_allow_is_refused_by_that_state,
    a_verb_on_an_ended_session_says_how_it_ended,
    a_token_of_an_earlier_session_does_not_drive_the_next,
    the_same_key_and_request_are_answered_the_first_answer,
    a_successful_hangup_is_replayed_after_the_sessions_end,
    the_same_key_with_another_request_is_refused,
    a_key_whose_first_request_still_runs_is_refused_for_now,
    racing_requests_of_one_key_execute_once,
    a_node_that_rejects_leaves_the_call_as_it_was,
    a_silent_node_leaves_an_operation_that_can_be_asked_about,
    a_late_acknowledgement_completes_the_operation,
    an_acknowledgement_after_the_services_own_patience_still_takes_effect,
    without_a_node_a_verb_says_so_and_may_be_tried_again,
    a_node_that_returns_takes_its_calls_up_again,
    operations_are_their_own_tenants,
    ending_a_session_tells_the_node_and_frees_the_slot,
    a_verb_whose_caller_vanished_is_answered_by_what_happened_and_reaches_the_node_once,
    a_delayed_retry_does_not_touch_the_calls_next_session,
    a_node_that_lost_the_lease_answers_lease_lost,
    music_is_not_fetched_from_a_private_address,
);

/// A call on a node, and its AI service.
struct Driven {
    world: World,
    node: TestNode,
    slot: Slot,
    /// Bears the call's callback token.
    service: Caller,
}

impl Driven {
    async fn by(world: World, behavior: Behaviour) -> Self {
        let node = world.node(behavior).await;
        let agent = world.agent(3).await;
        Self::on(world, node, &agent).await
    }

    async fn on(world: World, node: TestNode, agent: &VoiceAgent) -> Self {
        let slot = world.admit(&agent.id).await;
        assert_eq!(slot.node_id(), node.id);
        let service = world.caller.with(&slot.callback_token);
        Self { world, node, slot, service }
    }

    fn call_id(&self) -> String {
        self.slot.call_id.clone()
    }

    fn hold_request(&self, key: &str) -> HoldRequest {
        HoldRequest { call_id: self.call_id(), idempotency_key: key.to_owned(), moh_url: None }
    }

    async fn hold(&self, key: &str) -> Result<Response<HoldResponse>, Status> {
        self.service.calls().hold(self.hold_request(key)).await
    }

    async fn unhold(&self, key: &str) -> Result<Response<UnholdResponse>, Status> {
        let request = UnholdRequest { call_id: self.call_id(), idempotency_key: key.to_owned() };
        self.service.calls().unhold(request).await
    }

    async fn hangup(&self, key: &str) -> Result<Response<HangupResponse>, Status> {
        let request =
            HangupRequest { call_id: self.call_id(), idempotency_key: key.to_owned(), ..HangupRequest::default() };
        self.service.calls().hangup(request).await
    }

    async fn transfer(&self, destination: Option<Destination>) -> Result<Response<TransferResponse>, Status> {
        let destination = destination.map(|destination| TransferDestination { destination: Some(destination) });
        let request = TransferRequest { call_id: self.call_id(), destination, ..TransferRequest::default() };
        self.service.calls().transfer(request).await
    }

    async fn state(&self) -> Result<Response<GetCallStateResponse>, Status> {
        let request = GetCallStateRequest { call_id: self.call_id(), ..GetCallStateRequest::default() };
        self.service.calls().get_call_state(request).await
    }

    async fn held(&self) -> bool {
        loop {
            match self.state().await {
                // Whoever asked before has used up what a call is given in a second.
                Err(status) if status.reason() == "RATE_LIMITED" => {
                    tokio::time::sleep(status.retry_delay().expect("a delay")).await;
                }
                answer => return granted(answer).call_state.expect("a state").held,
            }
        }
    }

    async fn session(&self) -> voxgate::proto::v1::Session {
        let target = Some(get_session_request::Target::SessionId(self.slot.session_id.clone()));
        granted(self.world.caller.sessions().get_session(GetSessionRequest { target }).await)
    }

    async fn operation(&self, operation_id: &str) -> Operation {
        let request = GetOperationRequest { operation_id: operation_id.to_owned() };
        granted(self.service.sessions().get_operation(request).await)
    }

    /// The operation once it has come to `state`, which may be after its caller was answered.
    async fn operation_in(&self, operation_id: &str, state: OperationState) -> Operation {
        let there = async || Some(self.operation(operation_id).await).filter(|operation| operation.state() == state);
        eventually("that state of the operation", there).await
    }

    async fn used(&self) -> i32 {
        self.world.usage(&self.slot.voice_agent_id).await.used
    }
}

async fn a_call_is_held_and_taken_off_hold_by_its_own_token(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let held = granted(call.hold("").await);
    assert_eq!(
        (held.call_id.as_str(), held.state(), held.replayed),
        (&*call.slot.call_id, OperationState::Succeeded, false)
    );
    assert!(held.dispatched_at.is_some() && held.call_state.expect("a state").held);
    assert!(call.held().await);
    let operation = call.operation(&held.operation_id).await;
    assert_eq!((operation.verb(), operation.state()), (Verb::Hold, OperationState::Succeeded));
    assert_eq!((operation.call_id.as_str(), &operation.session_id), (&*call.slot.call_id, &call.slot.session_id));
    assert!(
        operation.finished_at.is_some() && operation.error_reason.is_empty() && !operation.idempotency_key.is_empty()
    );
    assert!(!granted(call.unhold("").await).call_state.expect("a state").held);
    assert!(!call.held().await);
}

async fn a_hangup_ends_the_session_and_frees_the_slot(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    assert_eq!(call.used().await, 1);
    assert_eq!(granted(call.hangup("").await).outcome(), SessionOutcome::Hangup);
    let session = call.session().await;
    assert_eq!((session.status(), session.outcome()), (SessionStatus::Ended, SessionOutcome::Hangup));
    assert!(session.ended_at.is_some());
    assert_eq!(call.used().await, 0);
}

async fn a_transfer_ends_the_session_by_the_kind_of_its_destination(world: World) {
    let node = world.node(Behaviour::default()).await;
    let agent = world.agent(3).await;
    let mut call = Driven::on(world, node, &agent).await;
    let kinds = [
        (Destination::AgentQueue("support".into()), SessionOutcome::TransferredAgentQueue),
        (Destination::E164("+15550100".into()), SessionOutcome::TransferredE164),
        (Destination::SipUri("sip:desk@pbx.example".into()), SessionOutcome::TransferredSipUri),
    ];
    for (destination, outcome) in kinds {
        assert_eq!(granted(call.transfer(Some(destination)).await).outcome(), outcome);
        assert_eq!(call.session().await.outcome(), outcome);
        assert_eq!(call.used().await, 0);
        call = Driven::on(call.world, call.node, &agent).await;
    }
}

async fn a_transfer_goes_to_the_agents_destination_by_default(world: World) {
    let node = world.node(Behaviour::default()).await;
    let agent = VoiceAgent { transfer_destination: Some("sip:desk@pbx.example".into()), ..minimal_agent() };
    let agent = world.create(agent).await;
    let call = Driven::on(world, node, &agent).await;
    assert_eq!(granted(call.transfer(None).await).outcome(), SessionOutcome::TransferredSipUri);
}

async fn a_transfers_faulty_destination_is_named(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let wrong = [
        (Destination::AgentQueue(String::new()), "destination.agent_queue"),
        (Destination::AgentQueue("x".repeat(201)), "destination.agent_queue"),
        (Destination::E164("15550100".into()), "destination.e164"),
        (Destination::E164("+123456".into()), "destination.e164"),
        (Destination::SipUri("sip:a@b\r\nX: y".into()), "destination.sip_uri"),
        (Destination::SipUri(format!("sip:{}@b", "x".repeat(600))), "destination.sip_uri"),
    ];
    for (destination, field) in wrong {
        assert_eq!(faults(call.transfer(Some(destination.clone())).await), [field], "{destination:?}");
    }
    assert_eq!(faults(call.transfer(None).await), ["destination"], "the agent has none either");
    let longest = Destination::SipUri(format!("sip:{}@b", "x".repeat(512 - "sip:@b".len())));
    granted(call.transfer(Some(longest)).await);
}

async fn the_state_tells_what_the_node_reported(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let state = eventually("the node's report", async || {
        let state = granted(call.state().await).call_state.expect("a state");
        Some(state).filter(|state| state.ws_connected && state.phase() == CallPhase::Active)
    })
    .await;
    assert_eq!((state.status(), state.node_id.as_str()), (SessionStatus::Active, &*call.node.id));
    assert!(!state.held && !state.caller_muted && !state.agent_muted);
    let usage = state.agent_usage.expect("the agent's usage");
    assert_eq!((usage.used, usage.limit), (1, 3));
    assert_eq!(state.legs.len(), 2, "the caller's and the AI's: {:?}", state.legs);
    assert!(call.session().await.answered_at.is_some());
}

async fn a_token_drives_its_own_call_alone(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let other = call.world.admit(&call.slot.voice_agent_id).await;
    let request = HoldRequest { call_id: other.call_id.clone(), ..HoldRequest::default() };
    let answer = call.service.calls().hold(request).await;
    let status = refused(answer, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
    assert_eq!(status.metadata_of_reason()["call_id"], other.call_id);
    let unknown = HoldRequest { call_id: unique("call"), ..HoldRequest::default() };
    refused(call.service.calls().hold(unknown).await, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
    let target = Some(get_session_request::Target::SessionId(other.session_id));
    let answer = call.service.sessions().get_session(GetSessionRequest { target }).await;
    refused(answer, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
    // Of its tenant's calls a token does not learn which there are.
    for name in [other.call_id.clone(), unique("call")] {
        let target = Some(get_session_request::Target::CallId(name.clone()));
        let answer = call.service.sessions().get_session(GetSessionRequest { target }).await;
        let status = refused(answer, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
        assert_eq!(status.metadata_of_reason()["call_id"], name);
        let target = Some(end_session_request::Target::CallId(name));
        let answer = call.service.sessions().end_session(EndSessionRequest { target, ..Default::default() }).await;
        refused(answer, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
    }
    // Nor does it open anything but its call.
    let answer = call.service.calls().acquire_slot(acquire(&unique("call"), &call.slot.voice_agent_id)).await;
    refused(answer, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert!(!call.held().await);
}

async fn a_key_needs_the_scope_to_drive_calls(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let weak = call.world.caller_with(&["slots:acquire", "ai_sessions:read", "nodes:connect"]).await;
    let status = refused(weak.calls().hold(call.hold_request("")).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(status.metadata_of_reason()["scope"], "ai_sessions:control_admin");
    let strong = call.world.caller_with(&["ai_sessions:control_admin"]).await;
    granted(strong.calls().hold(call.hold_request("")).await);
    assert!(call.held().await);
    let stranger = call.world.neighbour().await;
    let answer = stranger.caller.calls().hold(call.hold_request("")).await;
    refused(answer, Code::NotFound, "SESSION_NOT_FOUND");
}

async fn a_verb_that_the_state_does_not_allow_is_refused_by_that_state(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let status = refused(call.unhold("").await, Code::FailedPrecondition, "INVALID_CALL_STATE");
    let told = status.metadata_of_reason();
    assert_eq!((told["call_id"].as_str(), told["state"].as_str()), (&*call.slot.call_id, "not_held"));
    granted(call.hold("").await);
    let status = refused(call.hold("").await, Code::FailedPrecondition, "INVALID_CALL_STATE");
    assert_eq!(status.metadata_of_reason()["state"], "already_held");
    let request = HoldRequest { moh_url: Some("http://music.example/a.mp3".into()), ..call.hold_request("") };
    assert_eq!(faults(call.service.calls().hold(request).await), ["moh_url"]);
    let request = HoldRequest { idempotency_key: "x".repeat(129), ..call.hold_request("") };
    assert_eq!(faults(call.service.calls().hold(request).await), ["idempotency_key"]);
}

async fn a_verb_on_an_ended_session_says_how_it_ended(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    granted(call.hangup("").await);
    let status = refused(call.hold("").await, Code::FailedPrecondition, "AI_SESSION_TERMINATED");
    let told = status.metadata_of_reason();
    assert_eq!(told["outcome"], "HANGUP");
    assert_eq!((&told["call_id"], &told["session_id"]), (&call.slot.call_id, &call.slot.session_id));
    refused(call.hangup("").await, Code::FailedPrecondition, "AI_SESSION_TERMINATED");
    refused(call.state().await, Code::FailedPrecondition, "AI_SESSION_TERMINATED");
}

async fn a_token_of_an_earlier_session_does_not_drive_the_next(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    granted(call.hangup("").await);
    let next = granted(call.world.try_admit(acquire(&call.slot.call_id, &call.slot.voice_agent_id)).await);
    assert_ne!(next.session_id, call.slot.session_id);
    let status = refused(call.hangup("").await, Code::FailedPrecondition, "AI_SESSION_TERMINATED");
    assert_eq!(status.metadata_of_reason()["session_id"], call.slot.session_id);
    assert_eq!(call.used().await, 1, "the next session goes on");
    let service = call.world.caller.with(&next.callback_token);
    granted(service.calls().hold(call.hold_request("")).await);
}

async fn the_same_key_and_request_are_answered_the_first_answer(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let first = granted(call.hold("k-1").await);
    granted(call.unhold("k-2").await);
    let replay = granted(call.hold("k-1").await);
    assert!(replay.replayed && !first.replayed);
    assert_eq!(replay, HoldResponse { replayed: true, ..first });
    assert!(!call.held().await, "nothing happened this time");
    // A key is the session's own: on another call it is unused.
    let other = call.world.admit(&call.slot.voice_agent_id).await;
    let request = HoldRequest { call_id: other.call_id.clone(), ..call.hold_request("k-1") };
    let answer = call.world.caller.with(&other.callback_token).calls().hold(request).await;
    assert!(!granted(answer).replayed);
}

async fn a_successful_hangup_is_replayed_after_the_sessions_end(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let first = granted(call.hangup("k-1").await);
    let replay = granted(call.hangup("k-1").await);
    assert_eq!((replay.replayed, replay.outcome()), (true, SessionOutcome::Hangup));
    assert_eq!(replay.operation_id, first.operation_id);
}

async fn the_same_key_with_another_request_is_refused(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    granted(call.hold("k-1").await);
    let status = refused(call.unhold("k-1").await, Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(status.metadata_of_reason()["idempotency_key"], "k-1");
    let request = HoldRequest { moh_url: Some("https://music.example/a.mp3".into()), ..call.hold_request("k-1") };
    refused(call.service.calls().hold(request).await, Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED");
    assert!(call.held().await);
}

async fn a_key_whose_first_request_still_runs_is_refused_for_now(world: World) {
    let slow = Behaviour { ack_delay: Duration::from_secs(4), ..Behaviour::default() };
    let call = Driven::by(world, slow).await;
    let (mut calls, request) = (call.service.calls(), call.hold_request("k-1"));
    let first = tokio::spawn(async move { granted(calls.hold(request).await) });
    // Nothing says that the first has begun before it has ended.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = refused(call.hold("k-1").await, Code::Aborted, "IDEMPOTENCY_IN_PROGRESS");
    assert!(status.retry_delay().is_some_and(|delay| !delay.is_zero()), "{status:?}");
    assert_eq!(status.metadata_of_reason()["idempotency_key"], "k-1");
    let first = first.await.expect("the first request");
    assert_eq!(granted(call.hold("k-1").await).operation_id, first.operation_id);
}

async fn racing_requests_of_one_key_execute_once(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let racers: Vec<_> = (0..20)
        .map(|_| {
            let (mut calls, request) = (call.service.calls(), call.hold_request("k-1"));
            tokio::spawn(async move { calls.hold(request).await })
        })
        .collect();
    let mut operations = std::collections::BTreeSet::new();
    for racer in racers {
        match racer.await.expect("a racer") {
            Ok(held) => assert!(operations.insert(held.into_inner().operation_id) || operations.len() == 1),
            // A racer that reads the state after the winner changed it, and the key before, must still find the key.
            Err(status) => {
                let reason = status.reason();
                assert!(matches!(&*reason, "IDEMPOTENCY_IN_PROGRESS" | "RATE_LIMITED"), "{status:?}");
            }
        }
    }
    assert_eq!(operations.len(), 1, "one operation");
    assert!(call.held().await);
}

async fn a_node_that_rejects_leaves_the_call_as_it_was(world: World) {
    let call = Driven::by(world, policy(Policy::Reject)).await;
    let status = call.hangup("k-1").await.expect_err("the node rejects");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let again = call.hangup("k-1").await.expect_err("the same answer to the same key");
    assert_eq!((status.reason(), status.metadata_of_reason()), (again.reason(), again.metadata_of_reason()));
    assert_eq!(call.session().await.status(), SessionStatus::Active);
    assert_eq!(call.used().await, 1);
    if let Some(id) = status.metadata_of_reason().get("operation_id") {
        let operation = call.operation(id).await;
        assert_eq!((operation.state(), operation.error_reason.as_str()), (OperationState::Failed, "NODE_REJECTED"));
        assert!(!operation.error_message.is_empty() && operation.result.is_none());
    }
}

async fn a_silent_node_leaves_an_operation_that_can_be_asked_about(world: World) {
    let call = Driven::by(world, policy(Policy::Ignore)).await;
    let request = within(Duration::from_secs(3), call.hold_request("k-1"));
    let status = refused(call.service.calls().hold(request).await, Code::DeadlineExceeded, "OPERATION_PENDING");
    let operation_id = status.metadata_of_reason()["operation_id"].clone();
    let operation = call.operation(&operation_id).await;
    assert_eq!((operation.state(), operation.verb()), (OperationState::Dispatched, Verb::Hold));
    assert!(operation.finished_at.is_none());
    assert_eq!(operation.idempotency_key, "k-1");
    assert!(!call.held().await);
    // Without a deadline of the caller's, the service's own ends the waiting.
    let status = refused(call.hangup("k-2").await, Code::DeadlineExceeded, "OPERATION_PENDING");
    call.operation_in(&status.metadata_of_reason()["operation_id"], OperationState::Unknown).await;
    assert_eq!(call.session().await.status(), SessionStatus::Active, "not ended on a guess");
}

async fn a_late_acknowledgement_completes_the_operation(world: World) {
    let slow = Behaviour { ack_delay: Duration::from_secs(6), ..Behaviour::default() };
    let call = Driven::by(world, slow).await;
    let mut request = within(Duration::from_secs(2), HangupRequest { call_id: call.call_id(), ..Default::default() });
    request.get_mut().idempotency_key = "k-1".into();
    let status = refused(call.service.calls().hangup(request).await, Code::DeadlineExceeded, "OPERATION_PENDING");
    let operation_id = status.metadata_of_reason()["operation_id"].clone();
    assert_eq!(call.operation(&operation_id).await.state(), OperationState::Dispatched);
    call.operation_in(&operation_id, OperationState::Succeeded).await;
    assert_eq!(call.session().await.outcome(), SessionOutcome::Hangup);
    assert_eq!(call.used().await, 0);
    assert!(granted(call.hangup("k-1").await).replayed);
}

async fn an_acknowledgement_after_the_services_own_patience_still_takes_effect(world: World) {
    let slow = Behaviour { ack_delay: Duration::from_secs(12), ..Behaviour::default() };
    let call = Driven::by(world, slow).await;
    let status = refused(call.hold("k-1").await, Code::DeadlineExceeded, "OPERATION_PENDING");
    let operation_id = status.metadata_of_reason()["operation_id"].clone();
    // The service gave up after 10 s, the node answers after 12.
    call.operation_in(&operation_id, OperationState::Unknown).await;
    call.operation_in(&operation_id, OperationState::Succeeded).await;
    assert!(call.held().await, "the caller is on hold, whenever we heard of it");
}

async fn without_a_node_a_verb_says_so_and_may_be_tried_again(world: World) {
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    let service = world.caller.with(&slot.callback_token);
    let request =
        || HoldRequest { call_id: slot.call_id.clone(), idempotency_key: "k-1".into(), ..HoldRequest::default() };
    let status = refused(service.calls().hold(request()).await, Code::Unavailable, "NODE_UNREACHABLE");
    assert_eq!(status.metadata_of_reason()["call_id"], slot.call_id);
    assert!(status.retry_delay().is_some());
    let state = GetCallStateRequest { call_id: slot.call_id.clone(), ..GetCallStateRequest::default() };
    granted(service.calls().get_call_state(state).await);
    // The key was not used up by what was never sent.
    refused(service.calls().hold(request()).await, Code::Unavailable, "NODE_UNREACHABLE");
    let end = EndSessionRequest {
        target: Some(end_session_request::Target::CallId(slot.call_id.clone())),
        ..EndSessionRequest::default()
    };
    granted(service.sessions().end_session(end).await);
    assert_eq!(world.usage(&agent.id).await.used, 0);
}

async fn a_node_that_returns_takes_its_calls_up_again(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    // Another stream of the same name replaces the first one, which reconnects and takes the name back.
    let rival = TestNode::start_as(&call.world, &call.node.id, Behaviour::default());
    tokio::time::sleep(Duration::from_millis(500)).await;
    rival.stop();
    for attempt in 0..100 {
        match call.hold(&format!("k-{attempt}")).await {
            Ok(_) => break,
            Err(status) => assert!(
                matches!(status.reason().as_str(), "NODE_UNREACHABLE" | "INVALID_CALL_STATE" | "OPERATION_PENDING"),
                "{status:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(call.held().await, "the first node drives its call again");
    assert_eq!(call.session().await.status(), SessionStatus::Active);
}

async fn operations_are_their_own_tenants(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let held = granted(call.hold("").await);
    let request = || GetOperationRequest { operation_id: held.operation_id.clone() };
    granted(call.world.caller.sessions().get_operation(request()).await);
    let stranger = call.world.neighbour().await;
    let answer = stranger.caller.sessions().get_operation(request()).await;
    refused(answer, Code::NotFound, "OPERATION_NOT_FOUND");
    let other = call.world.admit(&call.slot.voice_agent_id).await;
    let other = call.world.caller.with(&other.callback_token);
    let status = other.sessions().get_operation(request()).await.expect_err("another call's operation");
    assert!(matches!(status.code(), Code::NotFound | Code::PermissionDenied), "{status:?}");
    let malformed = GetOperationRequest { operation_id: "x".into() };
    assert_eq!(faults(call.service.sessions().get_operation(malformed).await), ["operation_id"]);
}

async fn ending_a_session_tells_the_node_and_frees_the_slot(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let end = || EndSessionRequest {
        target: Some(end_session_request::Target::SessionId(call.slot.session_id.clone())),
        ..EndSessionRequest::default()
    };
    let ended = granted(call.service.sessions().end_session(end()).await);
    assert_eq!((ended.status(), ended.outcome()), (SessionStatus::Ended, SessionOutcome::Completed));
    assert_eq!(call.used().await, 0);
    let again = granted(call.world.caller.sessions().end_session(end()).await);
    assert_eq!(again, ended, "ending an ended session answers it as it is");
    // A node that kept the call would renew it back to life with its next heartbeat.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(call.used().await, 0);
}

async fn a_verb_whose_caller_vanished_is_answered_by_what_happened_and_reaches_the_node_once(world: World) {
    let agent = world.agent(30).await;
    let (raw, _) = RawNode::welcomed(&world, Hello { capacity: 100, ..hello(&world, &unique("node")) }).await;
    let commands = raw.obey();
    for round in 1..=30_u64 {
        let slot = world.admit(&agent.id).await;
        assert!(slot.node_id.is_some());
        let service = world.caller.with(&slot.callback_token);
        let request = HoldRequest { call_id: slot.call_id.clone(), idempotency_key: "k-1".into(), moh_url: None };
        let (mut calls, first) = (service.calls(), request.clone());
        let vanishing = tokio::spawn(async move { calls.hold(first).await });
        tokio::time::sleep(Duration::from_micros(round * 200)).await;
        vanishing.abort();
        let patience = Instant::now();
        loop {
            match service.calls().hold(request.clone()).await {
                Ok(held) => break assert_eq!(held.into_inner().state(), OperationState::Succeeded, "round {round}"),
                Err(status) => assert_eq!(status.reason(), "IDEMPOTENCY_IN_PROGRESS", "round {round}: {status:?}"),
            }
            assert!(patience.elapsed() < Duration::from_secs(2), "round {round}: still in progress");
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        assert_eq!(commands.of_call(&slot.call_id).len(), 1, "round {round}");
    }
}

async fn a_delayed_retry_does_not_touch_the_calls_next_session(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let request =
        || HangupRequest { call_id: call.call_id(), idempotency_key: "k-1".into(), ..HangupRequest::default() };
    let first = granted(call.world.caller.calls().hangup(request()).await);
    let next = granted(call.world.try_admit(acquire(&call.slot.call_id, &call.slot.voice_agent_id)).await);
    assert_ne!(next.session_id, call.slot.session_id);
    // By a key, and by the token of the first session.
    for caller in [&call.world.caller, &call.service] {
        let replay = granted(caller.calls().hangup(request()).await);
        assert_eq!((replay.replayed, &replay.operation_id), (true, &first.operation_id));
    }
    assert_eq!(call.world.session(&next).await.status(), SessionStatus::Active);
    assert_eq!(call.used().await, 1);
}

async fn a_node_that_lost_the_lease_answers_lease_lost(world: World) {
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let slot = world.admit(&world.agent(1).await.id).await;
    raw.assigned().await;
    let mut calls = world.caller.with(&slot.callback_token).calls();
    let request = HoldRequest { call_id: slot.call_id, ..HoldRequest::default() };
    let hold = tokio::spawn(async move { calls.hold(request).await });
    let command = raw.command().await;
    raw.fail(&command, "LEASE_LOST").await;
    refused(hold.await.expect("an answer"), Code::FailedPrecondition, "LEASE_LOST");
}

async fn music_is_not_fetched_from_a_private_address(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let hosts = [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:a00:1::1]",
        "192.0.0.8",
        "198.18.0.1",
    ];
    for host in hosts {
        let request = HoldRequest { moh_url: Some(format!("https://{host}/a.mp3")), ..call.hold_request("") };
        let answer = call.world.caller.calls().hold(request).await;
        assert!(answer.is_err(), "{host} was accepted");
        assert_eq!(faults(answer), ["moh_url"], "{host}");
        // A call takes ten verbs a second.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let public = HoldRequest { moh_url: Some("https://203.0.114.7/a.mp3".into()), ..call.hold_request("") };
    granted(call.service.calls().hold(public).await);
}
