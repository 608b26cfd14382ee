//! `voxgate node-sim --fail …`: a node that fails as its script says, and a service that nevertheless knows what
//! became of each verb, and lets it happen once.

use tonic::{Code, Response, Status};
use voxgate::proto::v1::{
    CallState, ConferenceAddRequest, ConferenceAddResponse, ConferenceStartRequest, ConferenceStartResponse,
    GetCallStateRequest, GetOperationRequest, HangupRequest, HangupResponse, HoldRequest, HoldResponse, Operation,
    OperationState, ParticipantType, SendDtmfRequest, SendDtmfResponse, SessionOutcome, Slot, TransferDestination,
    TransferRequest, TransferResponse, UnholdRequest, UnholdResponse, transfer_destination::Destination,
};

use crate::harness::{
    client::{Caller, Explained as _, granted, refused},
    node::NodeProcess,
    world::{World, eventually, on_both_backends, unique},
};

on_both_backends!(
    a_node_that_drops_its_stream_before_it_answers_is_asked_again_and_does_it_once,
    an_answer_that_comes_twice_counts_once,
    a_node_rejects_the_verbs_that_its_script_names_and_no_others,
    a_failure_lasts_for_as_many_commands_as_its_script_says,
    a_node_is_slow_with_the_verbs_that_its_script_names,
);

/// What the node says when it does something, when it is told the same again, and when it says so twice.
const DONE: &str = "a command was carried out";
const KNOWN: &str = "a command came again and is answered as before";
const TWICE: &str = "a command is acknowledged twice";

/// A call on a node that fails.
struct Driven {
    world: World,
    node: NodeProcess,
    slot: Slot,
    service: Caller,
}

impl Driven {
    async fn by(world: World, script: &[&str]) -> Self {
        let flags: Vec<&str> = script.iter().flat_map(|rule| ["--fail", rule]).collect();
        let node = NodeProcess::start_with(&world, unique("node"), &flags);
        let agent = world.agent(1).await;
        let hosted = async || {
            let slot = world.admit(&agent.id).await;
            if slot.node_id() == node.id {
                return Some(slot);
            }
            world.release(&slot).await;
            None
        };
        let slot = eventually("a call on the node", hosted).await;
        let service = world.caller.with(&slot.callback_token);
        Self { world, node, slot, service }
    }

    fn call(&self) -> String {
        self.slot.call_id.clone()
    }

    async fn hold(&self) -> Result<Response<HoldResponse>, Status> {
        self.service.calls().hold(HoldRequest { call_id: self.call(), ..HoldRequest::default() }).await
    }

    async fn unhold(&self) -> Result<Response<UnholdResponse>, Status> {
        self.service.calls().unhold(UnholdRequest { call_id: self.call(), ..UnholdRequest::default() }).await
    }

    async fn send_dtmf(&self) -> Result<Response<SendDtmfResponse>, Status> {
        let request = SendDtmfRequest { call_id: self.call(), digits: "1".into(), ..SendDtmfRequest::default() };
        self.service.calls().send_dtmf(request).await
    }

    async fn conference_start(&self) -> Result<Response<ConferenceStartResponse>, Status> {
        let request = ConferenceStartRequest { call_id: self.call(), ..ConferenceStartRequest::default() };
        self.service.calls().conference_start(request).await
    }

    async fn conference_add(&self) -> Result<Response<ConferenceAddResponse>, Status> {
        let request = ConferenceAddRequest {
            call_id: self.call(),
            participant_type: ParticipantType::Agent.into(),
            destination: "ada".into(),
            ..ConferenceAddRequest::default()
        };
        self.service.calls().conference_add(request).await
    }

    async fn transfer(&self) -> Result<Response<TransferResponse>, Status> {
        let destination = TransferDestination { destination: Some(Destination::AgentQueue("support".into())) };
        let request =
            TransferRequest { call_id: self.call(), destination: Some(destination), ..TransferRequest::default() };
        self.service.calls().transfer(request).await
    }

    async fn hangup(&self) -> Result<Response<HangupResponse>, Status> {
        self.service.calls().hangup(HangupRequest { call_id: self.call(), ..HangupRequest::default() }).await
    }

    async fn state(&self) -> CallState {
        let request = GetCallStateRequest { call_id: self.call(), ..GetCallStateRequest::default() };
        granted(self.service.calls().get_call_state(request).await).call_state.expect("a state")
    }

    async fn operation(&self, id: &str) -> Operation {
        let request = GetOperationRequest { operation_id: id.to_owned() };
        granted(self.world.caller.sessions().get_operation(request).await)
    }

    /// How often the node has said `what` of the operation.
    fn said(&self, what: &str, operation: &str) -> usize {
        let lines = self.node.said_of(&self.slot.call_id);
        lines.iter().filter(|line| line.contains(what) && line.contains(operation)).count()
    }

    async fn frees_its_slot_once(&self) {
        let agent = &self.slot.voice_agent_id;
        self.world.freed(agent).await;
        let next = self.world.admit(agent).await;
        assert_eq!(self.world.usage(agent).await.used, 1);
        assert!(self.world.release(&next).await);
    }
}

async fn a_node_that_drops_its_stream_before_it_answers_is_asked_again_and_does_it_once(world: World) {
    let call = Driven::by(world, &["*:disconnect"]).await;
    let held = granted(call.hold().await);
    assert!(held.state() == OperationState::Succeeded && held.call_state.expect("a state").held);
    let unheld = granted(call.unhold().await);
    assert!(!unheld.call_state.expect("a state").held);
    let transferred = granted(call.transfer().await);
    assert_eq!(transferred.outcome(), SessionOutcome::TransferredAgentQueue);
    for id in [&held.operation_id, &unheld.operation_id, &transferred.operation_id] {
        assert_eq!(call.operation(id).await.state(), OperationState::Succeeded);
        assert_eq!((call.said(DONE, id), call.said(KNOWN, id)), (1, 1), "{:?}", call.node.said_of(&call.call()));
    }
    assert_eq!(call.world.outcome(&call.slot).await, SessionOutcome::TransferredAgentQueue);
    call.frees_its_slot_once().await;
    println!("3 verbs, 3 streams lost: each was carried out once and answered when it came again");
}

async fn an_answer_that_comes_twice_counts_once(world: World) {
    let call = Driven::by(world, &["*:duplicate-ack"]).await;
    let started = granted(call.conference_start().await);
    let added = granted(call.conference_add().await);
    let held = granted(call.hold().await);
    let (first, unheld) = (call.operation(&held.operation_id).await, granted(call.unhold().await));
    let state = call.state().await;
    let members = state.conference.expect("a conference").members;
    assert_eq!(members.iter().map(|member| &member.member_id).collect::<Vec<_>>(), [&added.member_id]);
    assert!(!state.held, "the second answer to the first verb does not undo the second verb");
    assert_eq!(call.operation(&held.operation_id).await, first, "the second answer changes no record");
    let hung_up = granted(call.hangup().await);
    let all =
        [&started.operation_id, &added.operation_id, &held.operation_id, &unheld.operation_id, &hung_up.operation_id];
    for id in all {
        assert_eq!(call.operation(id).await.state(), OperationState::Succeeded);
        assert_eq!((call.said(DONE, id), call.said(TWICE, id)), (1, 1), "{:?}", call.node.said_of(&call.call()));
    }
    assert_eq!(call.world.outcome(&call.slot).await, SessionOutcome::Hangup);
    call.frees_its_slot_once().await;
    println!("{} verbs, {} answers: each counts once", all.len(), 2 * all.len());
}

/// The verb was refused by the node.
fn rejected<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) {
    let told = refused(answer, Code::FailedPrecondition, "INVALID_CALL_STATE").metadata_of_reason();
    assert_eq!((&*told["state"], &*told["node_reason"]), ("refused_by_node", "NODE_REJECTED"));
}

async fn a_node_rejects_the_verbs_that_its_script_names_and_no_others(world: World) {
    let call = Driven::by(world, &["transfer:reject", "hangup:reject"]).await;
    rejected(call.transfer().await);
    granted(call.hold().await);
    rejected(call.hangup().await);
    assert!(call.state().await.held, "what was rejected has changed nothing");
    granted(call.unhold().await);
    assert_eq!(call.world.usage(&call.slot.voice_agent_id).await.used, 1);
}

async fn a_failure_lasts_for_as_many_commands_as_its_script_says(world: World) {
    // The first rule that is not used up.
    let call = Driven::by(world, &["send_dtmf:reject:2", "send_dtmf:duplicate-ack:1", "hold:reject:1"]).await;
    rejected(call.send_dtmf().await);
    rejected(call.hold().await);
    rejected(call.send_dtmf().await);
    let [twice, once] = [granted(call.send_dtmf().await), granted(call.send_dtmf().await)];
    assert_eq!((call.said(TWICE, &twice.operation_id), call.said(TWICE, &once.operation_id)), (1, 0));
    granted(call.hold().await);
}

async fn a_node_is_slow_with_the_verbs_that_its_script_names(world: World) {
    // Beyond the service's own patience: a deadline of the caller's is held by its client too, which may be the first.
    let call = Driven::by(world, &["hold:slow=12000"]).await;
    let request = HoldRequest { call_id: call.call(), ..HoldRequest::default() };
    let status = refused(call.service.calls().hold(request).await, Code::DeadlineExceeded, "OPERATION_PENDING");
    let id = status.metadata_of_reason()["operation_id"].clone();
    let request = SendDtmfRequest { call_id: call.call(), digits: "1".into(), ..SendDtmfRequest::default() };
    granted(call.service.calls().send_dtmf(request).await);
    assert_ne!(call.operation(&id).await.state(), OperationState::Succeeded, "the other verb did not wait for it");
    let succeeded =
        async || Some(call.operation(&id).await).filter(|operation| operation.state() == OperationState::Succeeded);
    eventually("the slow answer", succeeded).await;
    assert!(call.state().await.held);
    granted(call.unhold().await);
}
