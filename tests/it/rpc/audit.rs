//! The audit log: every attempt at a verb is in it, a denied one too, and no secret.

use prost_types::{Timestamp, value::Kind};
use tonic::Code;
use voxgate::{
    node_sim::{Behaviour, Policy},
    proto::v1::{
        AuditEntry, BargeRequest, ConferenceAddRequest, EndSessionRequest, GetCallStateRequest, HangupRequest, Hello,
        HoldRequest, ListAuditEntriesRequest, MonitorStartRequest, MuteRequest, ParticipantType, RevokeTokenRequest,
        SetDispositionRequest, Slot, TransferDestination, TransferRequest, UnholdRequest, end_session_request,
        revoke_token_request, transfer_destination::Destination,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    raw_node::{RawNode, hello},
    token::parts,
    world::{TENANT_SCOPES, TestNode, World, eventually, on_both_backends, policy, unique},
};

on_both_backends!(
    a_granted_verb_and_its_replay_are_an_entry_each,
    each_denial_is_an_entry_with_its_reason,
    who_is_denied_before_the_handler_is_an_entry_too,
    a_target_is_as_the_caller_gave_it,
    ending_a_session_and_revoking_a_token_are_entries,
    reads_of_the_state_are_entries_only_when_denied,
    a_flood_is_one_entry_a_second,
    a_verb_whose_caller_hung_up_is_an_entry,
    a_verb_that_nobody_knows_the_end_of_is_pending,
    pages_are_of_their_filter_and_newest_first,
    faulty_fields_are_named_at_once,
    no_entry_holds_a_secret,
    another_tenant_sees_no_entry,
);

/// A call on a node, and its AI service.
struct Driven {
    world: World,
    _node: TestNode,
    slot: Slot,
    service: Caller,
}

impl Driven {
    async fn by(world: World, behavior: Behaviour) -> Self {
        let node = world.node(behavior).await;
        let slot = world.admit(&world.agent(3).await.id).await;
        let service = world.caller.with(&slot.callback_token);
        Self { world, _node: node, slot, service }
    }

    fn hold(&self, key: &str) -> HoldRequest {
        HoldRequest { call_id: self.slot.call_id.clone(), idempotency_key: key.to_owned(), moh_url: None }
    }

    fn unhold(&self) -> UnholdRequest {
        UnholdRequest { call_id: self.slot.call_id.clone(), ..UnholdRequest::default() }
    }

    /// Of the call, oldest first.
    async fn entries(&self) -> Vec<AuditEntry> {
        entries_of(&self.world, &self.slot.call_id).await
    }

    fn jti(&self) -> String {
        jti(&self.slot)
    }

    fn key_prefix(&self) -> &str {
        &self.world.key[..16]
    }
}

fn jti(slot: &Slot) -> String {
    parts(&slot.callback_token).1["jti"].as_str().expect("a jti").to_owned()
}

async fn list(caller: &Caller, request: ListAuditEntriesRequest) -> Vec<AuditEntry> {
    granted(caller.sessions().list_audit_entries(request).await).audit_entries
}

fn of_call(call: &str) -> ListAuditEntriesRequest {
    ListAuditEntriesRequest { call_id: call.to_owned(), page_size: 100, ..ListAuditEntriesRequest::default() }
}

/// Oldest first.
async fn entries_of(world: &World, call: &str) -> Vec<AuditEntry> {
    let mut entries = list(&world.caller, of_call(call)).await;
    entries.reverse();
    entries
}

fn told(entries: &[AuditEntry]) -> Vec<(&str, &str)> {
    entries.iter().map(|entry| (entry.action.as_str(), entry.error_reason.as_str())).collect()
}

fn detail(entry: &AuditEntry, name: &str) -> Option<Kind> {
    entry.details.as_ref()?.fields.get(name)?.kind.clone()
}

fn text(entry: &AuditEntry, name: &str) -> String {
    match detail(entry, name) {
        Some(Kind::StringValue(text)) => text,
        other => panic!("{name} is {other:?}"),
    }
}

async fn a_granted_verb_and_its_replay_are_an_entry_each(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let held = granted(call.service.calls().hold(call.hold("k-1")).await);
    assert!(granted(call.world.caller.calls().hold(call.hold("k-1")).await).replayed);
    let entries = call.entries().await;
    assert_eq!(told(&entries), [("Hold", ""), ("Hold", "")]);
    assert_eq!(entries[0].actor, call.jti());
    assert!(call.world.key.starts_with(&entries[1].actor) && entries[1].actor.len() < 20, "{}", entries[1].actor);
    for (entry, replayed) in entries.iter().zip([false, true]) {
        assert!(entry.id.starts_with("aud_") && entry.created_at.is_some() && entry.target.is_empty());
        assert_eq!((&entry.tenant_id, &entry.call_id), (&call.world.tenant, &call.slot.call_id));
        assert_eq!(entry.session_id, call.slot.session_id);
        assert_eq!(text(entry, "operation_id"), held.operation_id);
        assert_eq!(text(entry, "idempotency_key"), "k-1");
        assert_eq!(detail(entry, "replayed"), Some(Kind::BoolValue(replayed)));
    }
}

async fn each_denial_is_an_entry_with_its_reason(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let (mut service, mut owner) = (call.service.calls(), call.world.caller.calls());
    refused(service.unhold(call.unhold()).await, Code::FailedPrecondition, "INVALID_CALL_STATE");
    granted(service.hold(call.hold("k-1")).await);
    let reused =
        MuteRequest { call_id: call.slot.call_id.clone(), idempotency_key: "k-1".into(), ..MuteRequest::default() };
    refused(service.mute(reused).await, Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED");
    let faulty = SetDispositionRequest { call_id: call.slot.call_id.clone(), ..SetDispositionRequest::default() };
    assert_eq!(faults(service.set_disposition(faulty).await), ["disposition"]);
    let barge =
        BargeRequest { call_id: call.slot.call_id.clone(), target_call_id: "other".into(), ..BargeRequest::default() };
    refused(service.barge(barge).await, Code::PermissionDenied, "CONFERENCE_MEMBERSHIP_REQUIRED");
    let hangup = HangupRequest { call_id: call.slot.call_id.clone(), ..HangupRequest::default() };
    granted(owner.hangup(hangup.clone()).await);
    refused(owner.hangup(hangup).await, Code::FailedPrecondition, "AI_SESSION_TERMINATED");
    let entries = call.entries().await;
    assert_eq!(
        told(&entries),
        [
            ("Unhold", "INVALID_CALL_STATE"),
            ("Hold", ""),
            ("Mute", "IDEMPOTENCY_KEY_REUSED"),
            ("SetDisposition", "VALIDATION_FAILED"),
            ("Barge", "CONFERENCE_MEMBERSHIP_REQUIRED"),
            ("Hangup", ""),
            ("Hangup", "AI_SESSION_TERMINATED"),
        ]
    );
    assert_eq!(entries[4].target, "other");
    // By session too; what was not a valid request has none.
    let of_session = ListAuditEntriesRequest {
        session_id: call.slot.session_id.clone(),
        page_size: 100,
        ..ListAuditEntriesRequest::default()
    };
    assert_eq!(list(&call.world.caller, of_session).await.len(), entries.len() - 1);
}

async fn who_is_denied_before_the_handler_is_an_entry_too(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    // A token of another call.
    let other = call.world.admit(&call.world.agent(1).await.id).await;
    let stranger = call.world.caller.with(&other.callback_token);
    refused(stranger.calls().hold(call.hold("")).await, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
    // A key without the scope.
    let powerless = call.world.caller_with(&["ai_sessions:read"]).await;
    refused(powerless.calls().hold(call.hold("k-1")).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    let target = Some(end_session_request::Target::CallId(call.slot.call_id.clone()));
    let end = EndSessionRequest { target, ..EndSessionRequest::default() };
    refused(powerless.sessions().end_session(end).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    let entries = call.entries().await;
    assert_eq!(
        told(&entries),
        [("Hold", "CALL_NOT_BOUND_TO_TOKEN"), ("Hold", "SCOPE_REQUIRED"), ("EndSession", "SCOPE_REQUIRED")]
    );
    assert_eq!(entries[0].actor, jti(&other));
    assert!(entries.iter().all(|entry| entry.session_id.is_empty()));
    assert_eq!(text(&entries[1], "idempotency_key"), "k-1");
    // A call that there is not.
    let unknown = unique("call");
    let hold = HoldRequest { call_id: unknown.clone(), ..HoldRequest::default() };
    refused(call.world.caller.calls().hold(hold.clone()).await, Code::NotFound, "SESSION_NOT_FOUND");
    // Nobody's key, and no message of the RPC: the one is nobody's attempt, the other is on no call.
    let nobody = call.world.caller.with("vg_live_00000000000000000000000000000000");
    refused(nobody.calls().hold(hold).await, Code::Unauthenticated, "CREDENTIAL_INVALID");
    let garbage = call.world.caller.ask("/voxgate.v1.AdmissionService/Mute", vec![0xFF; 9]).await.expect_err("refused");
    assert_eq!(garbage.reason(), "VALIDATION_FAILED");
    assert_eq!(told(&entries_of(&call.world, &unknown).await), [("Hold", "SESSION_NOT_FOUND")]);
    let mutes = ListAuditEntriesRequest { action: "Mute".into(), ..ListAuditEntriesRequest::default() };
    let mutes = list(&call.world.caller, mutes).await;
    assert_eq!((told(&mutes), mutes[0].call_id.as_str()), (vec![("Mute", "VALIDATION_FAILED")], ""));
}

async fn a_target_is_as_the_caller_gave_it(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let transfer = |destination| TransferRequest {
        call_id: call.slot.call_id.clone(),
        destination: Some(TransferDestination { destination: Some(destination) }),
        ..TransferRequest::default()
    };
    let mut service = call.service.calls();
    faults(service.transfer(transfer(Destination::E164("0049-555".into()))).await);
    let add = ConferenceAddRequest {
        call_id: call.slot.call_id.clone(),
        participant_type: ParticipantType::Supervisor.into(),
        destination: "Ада".into(),
        ..ConferenceAddRequest::default()
    };
    refused(service.conference_add(add).await, Code::FailedPrecondition, "INVALID_CALL_STATE");
    let monitor = MonitorStartRequest {
        call_id: call.slot.call_id.clone(),
        target_call_id: "elsewhere".into(),
        ..MonitorStartRequest::default()
    };
    refused(service.monitor_start(monitor).await, Code::PermissionDenied, "CONFERENCE_MEMBERSHIP_REQUIRED");
    granted(service.transfer(transfer(Destination::E164("+15550100".into()))).await);
    let entries = call.entries().await;
    let targets: Vec<_> = entries.iter().map(|entry| entry.target.as_str()).collect();
    assert_eq!(targets, ["e164:0049-555", "supervisor:Ада", "elsewhere", "e164:+15550100"]);
}

async fn ending_a_session_and_revoking_a_token_are_entries(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let mut sessions = call.world.caller.sessions();
    let revoke = |target| RevokeTokenRequest { target: Some(target) };
    let token = revoke_token_request::Target::Token(call.slot.callback_token.clone());
    granted(sessions.revoke_token(revoke(token)).await);
    faults(sessions.revoke_token(revoke(revoke_token_request::Target::Token("vg_cb_x".into()))).await);
    let listed = ListAuditEntriesRequest { action: "RevokeToken".into(), ..ListAuditEntriesRequest::default() };
    let revoked = list(&call.world.caller, listed).await;
    assert_eq!(told(&revoked), [("RevokeToken", "VALIDATION_FAILED"), ("RevokeToken", "")]);
    assert_eq!((revoked[0].target.as_str(), revoked[1].target.clone()), ("", call.jti()));
    let target = Some(end_session_request::Target::SessionId(call.slot.session_id.clone()));
    let end = EndSessionRequest { target, ..EndSessionRequest::default() };
    granted(sessions.end_session(end).await);
    let entries = call.entries().await;
    assert_eq!(told(&entries), [("EndSession", "")]);
    assert_eq!(entries[0].session_id, call.slot.session_id);
}

async fn reads_of_the_state_are_entries_only_when_denied(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let state = GetCallStateRequest { call_id: call.slot.call_id.clone(), ..GetCallStateRequest::default() };
    granted(call.service.calls().get_call_state(state.clone()).await);
    let powerless = call.world.caller_with(&TENANT_SCOPES[..3]).await;
    refused(powerless.calls().get_call_state(state).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(told(&call.entries().await), [("GetCallState", "SCOPE_REQUIRED")]);
}

async fn a_flood_is_one_entry_a_second(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let mut denied = 0_u32;
    for _ in 0..60 {
        match call.service.calls().unhold(call.unhold()).await {
            Err(status) if status.reason() == "RATE_LIMITED" => denied += 1,
            answer => drop(refused(answer, Code::FailedPrecondition, "INVALID_CALL_STATE")),
        }
    }
    assert!(denied > 0, "60 in less than six seconds");
    let floods = eventually("all of the flood", async || {
        let entries = call.entries().await;
        let floods: Vec<_> = entries.into_iter().filter(|entry| entry.error_reason == "RATE_LIMITED").collect();
        let count = |entry| match detail(entry, "count") {
            Some(Kind::NumberValue(count)) => count,
            other => panic!("count is {other:?}"),
        };
        let sum: f64 = floods.iter().map(count).sum();
        (sum >= f64::from(denied)).then_some((sum, floods))
    });
    let (sum, floods) = floods.await;
    assert!((sum - f64::from(denied)).abs() < 0.5, "{sum} of {denied}");
    assert!(floods.iter().all(|entry| entry.action == "Unhold" && entry.session_id == call.slot.session_id));
    let moments: Vec<_> = floods.iter().map(|entry| entry.created_at.expect("a moment")).collect();
    let micros = |at: &Timestamp| at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000;
    assert!(moments.windows(2).all(|two| micros(&two[1]) - micros(&two[0]) > 900_000), "{moments:?}");
}

async fn a_verb_whose_caller_hung_up_is_an_entry(world: World) {
    let agent = world.agent(3).await;
    let (mut raw, _) = RawNode::welcomed(&world, Hello { ..hello(&world, &unique("node")) }).await;
    let slot = world.admit(&agent.id).await;
    raw.assigned().await;
    let service = world.caller.with(&slot.callback_token);
    let hold = HoldRequest { call_id: slot.call_id.clone(), idempotency_key: "k-1".into(), moh_url: None };
    let vanishing = tokio::spawn(async move { service.calls().hold(hold).await });
    let command = raw.command().await;
    vanishing.abort();
    assert!(vanishing.await.expect_err("it has gone").is_cancelled());
    assert_eq!(entries_of(&world, &slot.call_id).await.len(), 0, "nothing has come of it yet");
    raw.succeed(&command).await;
    let noted = async || Some(entries_of(&world, &slot.call_id).await).filter(|entries| !entries.is_empty());
    let entries = eventually("the entry", noted).await;
    assert_eq!(told(&entries), [("Hold", "")]);
    assert_eq!(text(&entries[0], "operation_id"), command.operation_id);
}

async fn a_verb_that_nobody_knows_the_end_of_is_pending(world: World) {
    let call = Driven::by(world, policy(Policy::Ignore)).await;
    // Without a deadline of its own: the caller's client would hold it against its own clock, and may be the first.
    let hold = call.service.calls().hold(call.hold("k-1")).await;
    let status = refused(hold, Code::DeadlineExceeded, "OPERATION_PENDING");
    let noted = async || Some(call.entries().await).filter(|entries| !entries.is_empty());
    let entries = eventually("the end of the service's own patience", noted).await;
    assert_eq!(told(&entries), [("Hold", "OPERATION_PENDING")]);
    assert_eq!(text(&entries[0], "operation_id"), status.metadata_of_reason()["operation_id"]);
}

async fn pages_are_of_their_filter_and_newest_first(world: World) {
    let calls: Vec<String> = (0..7).map(|_| unique("call")).collect();
    for call_id in &calls {
        let hold = HoldRequest { call_id: call_id.clone(), ..HoldRequest::default() };
        refused(world.caller.calls().hold(hold).await, Code::NotFound, "SESSION_NOT_FOUND");
    }
    let page = |token: &str, action: &str| ListAuditEntriesRequest {
        page_size: 3,
        page_token: token.to_owned(),
        action: action.to_owned(),
        ..ListAuditEntriesRequest::default()
    };
    let (mut token, mut listed, mut sizes) = (String::new(), Vec::new(), Vec::new());
    loop {
        let answer = granted(world.caller.sessions().list_audit_entries(page(&token, "Hold")).await);
        sizes.push(answer.audit_entries.len());
        listed.extend(answer.audit_entries.into_iter().map(|entry| entry.call_id));
        if answer.next_page_token.is_empty() {
            break;
        }
        token = answer.next_page_token;
    }
    assert_eq!(sizes, [3, 3, 1]);
    assert!(listed.iter().eq(calls.iter().rev()), "newest first");
    let other = world.caller.sessions().list_audit_entries(page(&token, "Mute")).await;
    refused(other, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    assert_eq!(list(&world.caller, page("", "Mute")).await, []);
    let all = list(&world.caller, of_call("")).await;
    let middle = all[3].created_at;
    let between = |created_after, created_before| ListAuditEntriesRequest {
        created_after,
        created_before,
        ..ListAuditEntriesRequest::default()
    };
    assert_eq!(list(&world.caller, between(middle, None)).await, all[..4]);
    assert_eq!(list(&world.caller, between(None, middle)).await, all[4..]);
}

async fn faulty_fields_are_named_at_once(world: World) {
    let impossible = Some(Timestamp { seconds: i64::MAX, nanos: 0 });
    let request = ListAuditEntriesRequest {
        page_size: -1,
        page_token: String::new(),
        call_id: "a call".into(),
        session_id: "none".into(),
        action: "\0".into(),
        created_after: impossible,
        created_before: impossible,
    };
    let mut named = faults(world.caller.sessions().list_audit_entries(request).await);
    named.sort();
    assert_eq!(named, ["action", "call_id", "created_after", "created_before", "page_size", "session_id"]);
}

async fn no_entry_holds_a_secret(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    let secrets = [call.slot.callback_token.clone(), call.world.key.clone()];
    let mut owner = call.world.caller.calls();
    for secret in &secrets {
        let destination = Destination::AgentQueue(secret.chars().take(190).collect());
        let transfer = TransferRequest {
            call_id: call.slot.call_id.clone(),
            idempotency_key: secret.chars().take(128).collect(),
            destination: Some(TransferDestination { destination: Some(destination) }),
            ..TransferRequest::default()
        };
        let _ = owner.transfer(transfer).await;
        let _ = owner.hold(HoldRequest { call_id: secret.clone(), ..HoldRequest::default() }).await;
        let target = Some(revoke_token_request::Target::Token(secret.clone()));
        let _ = call.world.caller.sessions().revoke_token(RevokeTokenRequest { target }).await;
    }
    let sip = Destination::SipUri("sip:ada:open-sesame@pbx.example".into());
    let transfer = TransferRequest {
        call_id: call.slot.call_id.clone(),
        destination: Some(TransferDestination { destination: Some(sip) }),
        ..TransferRequest::default()
    };
    let _ = owner.transfer(transfer).await;
    let all = list(&call.world.caller, of_call("")).await;
    assert_eq!(all.len(), 7);
    let written = format!("{all:?}");
    assert!(!written.contains("open-sesame"), "{written}");
    for secret in &secrets {
        // Not even enough of it to guess the rest; a key's public prefix names it.
        assert!(!written.contains(&secret[..call.key_prefix().len() + 4]), "{written}");
    }
}

async fn another_tenant_sees_no_entry(world: World) {
    let call = Driven::by(world, Behaviour::default()).await;
    granted(call.service.calls().hold(call.hold("")).await);
    assert_eq!(call.entries().await.len(), 1);
    let neighbour = call.world.neighbour().await;
    assert_eq!(entries_of(&neighbour, &call.slot.call_id).await, []);
    assert_eq!(list(&neighbour.caller, ListAuditEntriesRequest::default()).await, []);
    let answer = call.service.sessions().list_audit_entries(ListAuditEntriesRequest::default()).await;
    refused(answer, Code::PermissionDenied, "SCOPE_REQUIRED");
}
