//! CreateSession, and the life of a session whose client streams to the agent directly.

use std::time::Duration;

use prost_types::{Struct, Value, value::Kind};
use serde_json::json;
use tonic::{Code, Response, Status};
use voxgate::{
    grpc::convert::value::object,
    proto::v1::{
        AcquireSlotRequest, Behavior, CompleteSessionRequest, Controls, CreateSessionRequest, CreateSessionResponse,
        DeleteVoiceAgentRequest, Direction, EndSessionRequest, Event, GetCallStateRequest, GetOperationRequest,
        GetSessionRequest, HangupRequest, HoldRequest, ListSessionsRequest, PauseVoiceAgentRequest, RevokeTokenRequest,
        Session, SessionOutcome, SessionStatus, SetDispositionRequest, TranscriptRole, TranscriptTurn, VoiceAgent,
        WatchEventsRequest, complete_session_request, end_session_request, get_session_request, revoke_token_request,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    clock::MovedClock,
    pair::Pair,
    postgres,
    server::TestServer,
    token::signed_again,
    world::{World, acquire, eventually, minimal_agent, on_both_backends, seconds, unique},
};

on_both_backends!(
    a_session_is_admitted_told_of_and_read_back,
    the_url_keeps_the_agents_parameters,
    what_is_wrong_is_named_at_once,
    the_largest_session_is_created_listed_and_read,
    refusals_are_those_of_acquire_slot,
    hints_lead_to_the_agent,
    the_first_use_of_the_token_answers_the_session_once,
    a_connection_token_reads_and_completes_its_own_session_and_does_nothing_else,
    neither_kind_of_token_passes_for_the_other,
    a_revoked_token_lets_nobody_in_and_the_session_goes_on,
    however_it_ends_the_slot_is_free_and_the_token_dead,
    verbs_that_need_no_node_serve_it,
    no_node_is_given_it,
    the_conversation_lasts_as_long_as_it_may,
    a_sandbox_session_is_on_its_side,
);

fn of_agent(agent: &str) -> CreateSessionRequest {
    CreateSessionRequest { voice_agent_id: Some(agent.to_owned()), ..CreateSessionRequest::default() }
}

async fn try_create(world: &World, request: CreateSessionRequest) -> Result<Response<CreateSessionResponse>, Status> {
    world.caller.sessions().create_session(request).await
}

async fn create(world: &World, request: CreateSessionRequest) -> CreateSessionResponse {
    granted(try_create(world, request).await)
}

fn by_id(session: &str) -> GetSessionRequest {
    GetSessionRequest { target: Some(get_session_request::Target::SessionId(session.to_owned())) }
}

fn by_call(call: &str) -> GetSessionRequest {
    GetSessionRequest { target: Some(get_session_request::Target::CallId(call.to_owned())) }
}

async fn read(world: &World, session: &str) -> Session {
    granted(world.caller.sessions().get_session(by_id(session)).await)
}

fn call_of(created: &CreateSessionResponse) -> String {
    created.session.as_ref().expect("the session").call_id.clone()
}

/// What the AI service asks when a client has shown the token.
async fn shown(bearer: &Caller, created: &CreateSessionResponse) -> Result<Response<Session>, Status> {
    bearer.with(&created.connection_token).sessions().get_session(by_id(&created.session_id)).await
}

fn end(session: &str) -> EndSessionRequest {
    let target = Some(end_session_request::Target::SessionId(session.to_owned()));
    EndSessionRequest { target, ..EndSessionRequest::default() }
}

fn complete(session: &str) -> CompleteSessionRequest {
    let said = TranscriptTurn { role: TranscriptRole::Caller.into(), text: "Hello".into(), spoken_at: None };
    let target = Some(complete_session_request::Target::SessionId(session.to_owned()));
    CompleteSessionRequest { target, transcript: vec![said], results: None }
}

async fn ended(world: &World, session: &str) -> Session {
    let over = async || Some(read(world, session).await).filter(|session| session.status() != SessionStatus::Active);
    eventually("the end of the session", over).await
}

fn fields(json: &serde_json::Value) -> Struct {
    object(json.as_object().expect("an object"))
}

fn span(session: &Session) -> i64 {
    let at = |moment: &Option<prost_types::Timestamp>| moment.as_ref().expect("a time").seconds;
    at(&session.expires_at) - at(&session.started_at)
}

/// The call's events so far, of which there are so many.
async fn events(world: &World, call: &str, count: usize) -> Vec<Event> {
    let request =
        WatchEventsRequest { call_id: call.to_owned(), from_beginning: true, ..WatchEventsRequest::default() };
    let mut watch = granted(world.caller.sessions().watch_events(request).await);
    let mut events = Vec::new();
    while events.len() < count {
        events.push(watch.message().await.expect("no error").expect("an event"));
    }
    events
}

fn types(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}

async fn a_session_is_admitted_told_of_and_read_back(world: World) {
    let agent = world.agent(3).await;
    let request = CreateSessionRequest {
        ttl: Some(seconds(120)),
        initial_message: Some("Grüß Gott".into()),
        participant: Some(fields(&json!({"name": "Ada", "tags": [1, {"b": null}]}))),
        context: Some("First line\nsecond 🎧".into()),
        metadata: Some(fields(&json!({"order": 7}))),
        ..of_agent(&agent.id)
    };
    let created = create(&world, request.clone()).await;
    let session = created.session.clone().expect("the session");
    assert_eq!((created.session_id.as_str(), created.status()), (session.id.as_str(), SessionStatus::Active));
    assert_eq!((created.expires_at, span(&session)), (session.expires_at, 120));
    assert_eq!(session.websocket_url.as_deref(), Some(created.websocket_url.as_str()));
    assert_eq!(created.websocket_url, format!("wss://ai.example/ws?session_id={}", session.id));
    assert!(created.connection_token.starts_with("vg_ct_"));
    assert!(!format!("{session:?}").contains(&created.connection_token), "it is shown once, and not in the URL");
    assert_eq!((&session.participant, &session.metadata), (&request.participant, &request.metadata));
    assert_eq!((&session.context, &session.initial_message), (&request.context, &request.initial_message));
    assert_eq!((session.revision, session.direction(), session.sandbox), (1, Direction::Inbound, world.sandbox));
    assert_eq!((session.node_id.as_str(), session.answered_at, session.ended_at), ("", None, None));
    assert_eq!(world.usage(&agent.id).await.used, 1);
    assert_eq!(read(&world, &session.id).await, session);
    assert_eq!(granted(world.caller.sessions().get_session(by_call(&session.call_id)).await), session);
    let listed = granted(world.caller.sessions().list_sessions(ListSessionsRequest::default()).await).sessions;
    assert_eq!(listed, std::slice::from_ref(&session));
    let told = events(&world, &session.call_id, 2).await;
    assert_eq!(types(&told), ["call.started", "ai_session.started"]);
    let slot = world.admit(&agent.id).await;
    let called = world.session(&slot).await;
    assert_eq!((called.websocket_url, called.participant, called.context), (None, None, None));
    let another = create(&world, CreateSessionRequest { ttl: None, ..request }).await;
    assert_ne!(another.session_id, session.id, "each request begins another one");
}

async fn the_url_keeps_the_agents_parameters(world: World) {
    let ws_url = "wss://ai.example:8443/w%20s/?a=%26b&session_id=mine&c=d+e".to_owned();
    let agent = world.create(VoiceAgent { ws_url: Some(ws_url), ..minimal_agent() }).await;
    let created = create(&world, of_agent(&agent.id)).await;
    let expected = format!("wss://ai.example:8443/w%20s/?a=%26b&c=d+e&session_id={}", created.session_id);
    assert_eq!(created.websocket_url, expected);
}

async fn what_is_wrong_is_named_at_once(world: World) {
    let agent = world.agent(1).await.id;
    let nan = Value { kind: Some(Kind::NumberValue(f64::NAN)) };
    let all_wrong = CreateSessionRequest {
        voice_agent_id: Some("x".into()),
        flow_node_voice_agent_id: Some("x".into()),
        campaign_voice_agent_id: Some("x".into()),
        ttl: Some(seconds(59)),
        max_duration: Some(seconds(0)),
        initial_message: Some("ü".repeat(2_001)),
        participant: Some(Struct { fields: [("a".to_owned(), nan)].into() }),
        context: Some("ü".repeat(16_001)),
        metadata: Some(fields(&json!({"a": "x".repeat(16 * 1024)}))),
    };
    let mut named = faults(try_create(&world, all_wrong).await);
    named.sort();
    let expected = [
        "campaign_voice_agent_id",
        "context",
        "flow_node_voice_agent_id",
        "initial_message",
        "max_duration",
        "metadata",
        "participant",
        "ttl",
        "voice_agent_id",
    ];
    assert_eq!(named, expected);
    let with = |ttl, max_duration| CreateSessionRequest { ttl, max_duration, ..of_agent(&agent) };
    let fraction = prost_types::Duration { seconds: 0, nanos: 999_999_999 };
    let crooked = prost_types::Duration { seconds: 100, nanos: -1 };
    for (request, field) in [
        (with(Some(seconds(3_601)), None), "ttl"),
        (with(Some(seconds(-60)), None), "ttl"),
        (with(Some(crooked), None), "ttl"),
        (with(Some(seconds(60)), Some(seconds(61))), "max_duration"),
        (with(None, Some(seconds(3_601))), "max_duration"),
        (with(None, Some(fraction)), "max_duration"),
        (CreateSessionRequest { context: Some("nul \0".into()), ..of_agent(&agent) }, "context"),
        (CreateSessionRequest { initial_message: Some("nul \0".into()), ..of_agent(&agent) }, "initial_message"),
    ] {
        assert_eq!(faults(try_create(&world, request).await), [field]);
    }
    assert_eq!(world.usage(&agent).await.used, 0, "nothing was taken");
    let created = create(&world, with(None, Some(seconds(3_600)))).await;
    assert_eq!(span(&created.session.expect("the session")), 3_600, "the ttl is as long as the conversation may last");
}

async fn the_largest_session_is_created_listed_and_read(world: World) {
    let agent = world.agent(1).await.id;
    let one = Value { kind: Some(Kind::NumberValue(1.0)) };
    // What takes the most on the wire for its JSON.
    let ones = Value { kind: Some(Kind::ListValue(prost_types::ListValue { values: vec![one; 7_000] })) };
    let large = Struct { fields: [("a".to_owned(), ones)].into() };
    let request = CreateSessionRequest {
        participant: Some(large.clone()),
        metadata: Some(large),
        context: Some("🎧".repeat(16_000)),
        initial_message: Some("🎧".repeat(2_000)),
        ..of_agent(&agent)
    };
    let created = create(&world, request).await;
    let session = created.session.clone().expect("the session");
    assert_eq!(session.context.as_ref().map(|context| context.chars().count()), Some(16_000));
    assert_eq!(granted(shown(&world.caller, &created).await).participant, session.participant);
    let listed = granted(world.caller.sessions().list_sessions(ListSessionsRequest::default()).await).sessions;
    assert_eq!(listed[0].metadata, session.metadata);
}

/// All that a refusal tells, but for a delay that is drawn by lot.
fn told(status: &Status) -> impl PartialEq + std::fmt::Debug {
    let metadata = status.metadata_of_reason();
    let parts = (status.quotas(), status.faulty_fields(), status.retry_delay().is_some());
    (status.code(), status.reason(), status.message().to_owned(), metadata, parts)
}

async fn refusals_are_those_of_acquire_slot(world: World) {
    let (full, paused) = (world.agent(1).await.id, world.agent(1).await.id);
    world.admit(&full).await;
    let pause = PauseVoiceAgentRequest { id: paused.clone(), ..PauseVoiceAgentRequest::default() };
    granted(world.caller.agents().pause_voice_agent(pause).await);
    let theirs = world.neighbour().await.agent(1).await.id;
    for agent in [Some(full), Some(paused), Some(theirs), Some(unique("")[1..].to_owned()), None] {
        let slot = AcquireSlotRequest { voice_agent_id: agent.clone(), ..acquire(&unique("call"), "") };
        let slot = world.try_admit(slot).await.expect_err("refused");
        let request = CreateSessionRequest { voice_agent_id: agent.clone(), ..CreateSessionRequest::default() };
        let session = try_create(&world, request).await.expect_err("refused");
        assert_eq!(told(&session), told(&slot), "{agent:?}");
    }
    let capped = world.capped_neighbour(1).await;
    let agent = capped.agent(5).await.id;
    let created = create(&capped, of_agent(&agent)).await;
    let slot = capped.try_admit(acquire(&unique("call"), &agent)).await;
    let slot = refused(slot, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
    assert_eq!(told(&try_create(&capped, of_agent(&agent)).await.expect_err("refused")), told(&slot));
    granted(capped.caller.sessions().end_session(end(&created.session_id)).await);
    capped.freed(&agent).await;
    // Slots that only inbound calls may take are this session's to take.
    let reserving = VoiceAgent { max_concurrent: Some(1), reserved_inbound: Some(1), ..minimal_agent() };
    create(&capped, of_agent(&capped.create(reserving).await.id)).await;
}

async fn hints_lead_to_the_agent(world: World) {
    let (flow, campaign) = (world.agent(1).await.id, world.agent(1).await.id);
    let hinted = |flow_node: Option<&String>, campaign: Option<&String>| CreateSessionRequest {
        flow_node_voice_agent_id: flow_node.cloned(),
        campaign_voice_agent_id: campaign.cloned(),
        ..CreateSessionRequest::default()
    };
    for (request, agent) in [(hinted(Some(&flow), Some(&campaign)), &flow), (hinted(None, Some(&campaign)), &campaign)]
    {
        let created = create(&world, request).await;
        assert_eq!(created.session.expect("the session").voice_agent_id, *agent);
    }
}

async fn the_first_use_of_the_token_answers_the_session_once(world: World) {
    let agent = world.agent(1).await.id;
    let request = CreateSessionRequest {
        ttl: Some(seconds(600)),
        max_duration: Some(seconds(60)),
        participant: Some(fields(&json!({"name": "Ada"}))),
        ..of_agent(&agent)
    };
    let created = create(&world, request).await;
    assert_eq!(read(&world, &created.session_id).await.answered_at, None, "a key that reads it is no client");
    let ask = |_| {
        let (caller, created) = (world.caller.clone(), created.clone());
        tokio::spawn(async move { granted(shown(&caller, &created).await) })
    };
    let asked: Vec<_> = (0..8).map(ask).collect();
    let mut answers = Vec::new();
    for task in asked {
        answers.push(task.await.expect("no panic"));
    }
    let session = read(&world, &created.session_id).await;
    assert!(answers.iter().all(|answer| *answer == session), "{answers:#?}");
    assert!(session.answered_at.is_some() && session.participant.is_some());
    assert!((60..=61 + 30).contains(&span(&session)), "the conversation ends sooner than the ttl: {session:?}");
    let call = call_of(&created);
    let by_its_call = world.caller.with(&created.connection_token).sessions().get_session(by_call(&call)).await;
    assert_eq!(granted(by_its_call), session);
    granted(world.caller.sessions().end_session(end(&created.session_id)).await);
    let told = events(&world, &call, 5).await;
    assert_eq!(types(&told), ["call.started", "ai_session.started", "call.answered", "ai_session.ended", "call.ended"]);
}

async fn a_connection_token_reads_and_completes_its_own_session_and_does_nothing_else(world: World) {
    let agent = world.agent(5).await.id;
    let (own, other) = (create(&world, of_agent(&agent)).await, create(&world, of_agent(&agent)).await);
    let call = world.admit(&agent).await;
    let neighbour = world.neighbour().await;
    let theirs = create(&neighbour, of_agent(&neighbour.agent(1).await.id)).await;
    let client = world.caller.with(&own.connection_token);
    for session in [&other.session_id, &call.session_id] {
        let answer = client.sessions().get_session(by_id(session)).await;
        refused(answer, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
        let answer = client.sessions().complete_session(complete(session)).await;
        refused(answer, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
    }
    for name in [call_of(&other), call.call_id.clone(), unique("call")] {
        refused(client.sessions().get_session(by_call(&name)).await, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
    }
    refused(client.sessions().get_session(by_id(&theirs.session_id)).await, Code::NotFound, "SESSION_NOT_FOUND");
    let own_call = call_of(&own);
    let hangup = HangupRequest { call_id: own_call.clone(), ..HangupRequest::default() };
    refused(client.calls().hangup(hangup).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    let state = GetCallStateRequest { call_id: own_call.clone(), ..GetCallStateRequest::default() };
    refused(client.calls().get_call_state(state).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    refused(client.sessions().end_session(end(&own.session_id)).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    let list = client.sessions().list_sessions(ListSessionsRequest::default()).await;
    refused(list, Code::PermissionDenied, "SCOPE_REQUIRED");
    refused(client.sessions().create_session(of_agent(&agent)).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    let operation = GetOperationRequest { operation_id: unique("op") };
    refused(client.sessions().get_operation(operation).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(read(&world, &own.session_id).await.answered_at, None, "none of that was a use of it");

    let completed = granted(client.sessions().complete_session(complete(&own.session_id)).await);
    assert_eq!((completed.outcome(), completed.transcript.len()), (SessionOutcome::Completed, 1));
    assert!(completed.answered_at.is_some());
    granted(client.sessions().complete_session(complete(&own.session_id)).await);
    assert_eq!(read(&world, &other.session_id).await.status(), SessionStatus::Active);
    assert_eq!(read(&neighbour, &theirs.session_id).await.answered_at, None);
}

async fn neither_kind_of_token_passes_for_the_other(world: World) {
    let agent = world.agent(5).await.id;
    let (created, slot) = (create(&world, of_agent(&agent)).await, world.admit(&agent).await);
    let renamed = |token: &str, from: &str, to: &str| format!("{to}{}", token.strip_prefix(from).expect("a token"));
    let as_callback = renamed(&created.connection_token, "vg_ct_", "vg_cb_");
    let as_connection = renamed(&slot.callback_token, "vg_cb_", "vg_ct_");
    // The service's own key would not help: what a token is for is signed too.
    let secret = world.server.expect("a shared server").token_key().await.secret;
    let claimed = signed_again(&slot.callback_token, &secret, &[("aud", "voxgate-connection".into())]);
    for forged in [as_callback, as_connection, claimed.clone(), renamed(&claimed, "vg_cb_", "vg_ct_")] {
        for session in [&created.session_id, &slot.session_id] {
            let answer = world.caller.with(&forged).sessions().get_session(by_id(session)).await;
            refused(answer, Code::Unauthenticated, "CREDENTIAL_INVALID");
        }
    }
    assert_eq!(read(&world, &created.session_id).await.answered_at, None);
}

async fn a_revoked_token_lets_nobody_in_and_the_session_goes_on(world: World) {
    let agent = world.agent(2).await.id;
    let (first, second) = (create(&world, of_agent(&agent)).await, create(&world, of_agent(&agent)).await);
    let by_token = revoke_token_request::Target::Token(first.connection_token.clone());
    let revoked = RevokeTokenRequest { target: Some(by_token) };
    let revoked = granted(world.caller.sessions().revoke_token(revoked).await);
    let (until, expires_at) = (revoked.revoked_until.expect("a time"), first.expires_at.expect("a time"));
    assert_eq!(until.seconds, expires_at.seconds, "it is as good as long as the session lasts");
    refused(shown(&world.caller, &first).await, Code::Unauthenticated, "TOKEN_REVOKED");
    let client = world.caller.with(&first.connection_token);
    let completed = client.sessions().complete_session(complete(&first.session_id)).await;
    refused(completed, Code::Unauthenticated, "TOKEN_REVOKED");
    let session = read(&world, &first.session_id).await;
    assert_eq!((session.status(), session.answered_at), (SessionStatus::Active, None));
    granted(shown(&world.caller, &second).await);
}

async fn however_it_ends_the_slot_is_free_and_the_token_dead(world: World) {
    for (answered, way) in [(false, "end"), (true, "end"), (true, "complete"), (false, "complete"), (true, "delete")] {
        let agent = world.agent(1).await.id;
        let created = create(&world, of_agent(&agent)).await;
        let id = &created.session_id;
        if answered {
            granted(shown(&world.caller, &created).await);
        }
        refused(try_create(&world, of_agent(&agent)).await, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
        let mut sessions = world.caller.sessions();
        let outcome = match way {
            "end" => granted(sessions.end_session(end(id)).await).outcome(),
            "complete" => granted(sessions.complete_session(complete(id)).await).outcome(),
            _ => {
                let request = DeleteVoiceAgentRequest { id: agent.clone(), force: true, ..Default::default() };
                granted(world.caller.agents().delete_voice_agent(request).await);
                ended(&world, id).await.outcome()
            }
        };
        let expected = if way == "delete" { SessionOutcome::AgentDeleted } else { SessionOutcome::Completed };
        assert_eq!(outcome, expected, "{way}");
        let status = refused(shown(&world.caller, &created).await, Code::FailedPrecondition, "AI_SESSION_TERMINATED");
        assert_eq!(status.metadata_of_reason()["outcome"], expected.as_str_name()["SESSION_OUTCOME_".len()..]);
        if way != "delete" {
            world.freed(&agent).await;
            create(&world, of_agent(&agent)).await;
        }
        // The transcript of a conversation that is over is posted with it.
        let client = world.caller.with(&created.connection_token);
        let posted = granted(client.sessions().complete_session(complete(id)).await);
        assert_eq!((posted.outcome(), posted.transcript.len()), (expected, 1));
        assert_eq!(posted.answered_at.is_some(), answered, "who comes too late has not connected");
    }
}

async fn verbs_that_need_no_node_serve_it(world: World) {
    let created = create(&world, of_agent(&world.agent(1).await.id)).await;
    let call_id = call_of(&created);
    let disposition = SetDispositionRequest {
        call_id: call_id.clone(),
        disposition: "SOLD".into(),
        ..SetDispositionRequest::default()
    };
    granted(world.caller.calls().set_disposition(disposition).await);
    let state = GetCallStateRequest { call_id: call_id.clone(), ..GetCallStateRequest::default() };
    granted(world.caller.calls().get_call_state(state).await);
    let hold = HoldRequest { call_id: call_id.clone(), ..HoldRequest::default() };
    refused(world.caller.calls().hold(hold).await, Code::Unavailable, "NODE_UNREACHABLE");
    let hangup = HangupRequest { call_id, ..HangupRequest::default() };
    refused(world.caller.calls().hangup(hangup).await, Code::Unavailable, "NODE_UNREACHABLE");
    let session = read(&world, &created.session_id).await;
    assert_eq!((session.status(), session.disposition.as_deref()), (SessionStatus::Active, Some("SOLD")));
}

async fn no_node_is_given_it(world: World) {
    let _node = world.node(voxgate::node_sim::Behaviour::default()).await;
    let agent = world.agent(2).await.id;
    let created = create(&world, of_agent(&agent)).await;
    assert_eq!(created.session.expect("the session").node_id, "");
    assert!(world.admit(&agent).await.node_id.is_some(), "there is one");
}

async fn the_conversation_lasts_as_long_as_it_may(world: World) {
    let agent = world.agent(1).await.id;
    let created = create(&world, CreateSessionRequest { max_duration: Some(seconds(1)), ..of_agent(&agent) }).await;
    let session = granted(shown(&world.caller, &created).await);
    assert!(session.expires_at.expect("a time").seconds < created.expires_at.expect("a time").seconds);
    let over = ended(&world, &created.session_id).await;
    assert_eq!((over.status(), over.outcome()), (SessionStatus::Ended, SessionOutcome::MaxDuration));
    assert_eq!(over.expires_at, session.expires_at);
    world.freed(&agent).await;
    refused(shown(&world.caller, &created).await, Code::FailedPrecondition, "AI_SESSION_TERMINATED");
}

async fn a_sandbox_session_is_on_its_side(world: World) {
    let (live, sandbox) = world.sides().await;
    let (theirs, ours) = (live.agent(1).await.id, sandbox.agent(1).await.id);
    let (theirs, ours) = (create(&live, of_agent(&theirs)).await, create(&sandbox, of_agent(&ours)).await);
    assert!(
        !theirs.session.clone().expect("the session").sandbox && ours.session.clone().expect("the session").sandbox
    );
    let mut hands = sandbox.caller.sessions();
    refused(hands.end_session(end(&theirs.session_id)).await, Code::NotFound, "SESSION_NOT_FOUND");
    // What a sandbox key revokes is a sandbox session's token, or none.
    for created in [&theirs, &ours] {
        let target = Some(revoke_token_request::Target::Token(created.connection_token.clone()));
        granted(hands.revoke_token(RevokeTokenRequest { target }).await);
    }
    granted(shown(&live.caller, &theirs).await);
    refused(shown(&live.caller, &ours).await, Code::Unauthenticated, "TOKEN_REVOKED");
}

/// A server whose clock a test moves, and a tenant on it.
async fn moved() -> (MovedClock, TestServer, World) {
    let clock = MovedClock::running();
    let server = TestServer::embedded_in(&clock.env());
    let world = World::on(&server.addr, &server.live_key).await;
    (clock, server, world)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_to_which_nobody_connects_ends_by_its_ttl() {
    let (clock, _server, world) = moved().await;
    let agent = world.agent(2).await.id;
    let with = |max_duration| CreateSessionRequest { ttl: Some(seconds(60)), max_duration, ..of_agent(&agent) };
    let deserted = create(&world, with(Some(seconds(30)))).await;
    let late = create(&world, with(None)).await;
    clock.advance(Duration::from_secs(50));
    // Longer than a sweep takes to come round (every 2 s).
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(read(&world, &deserted.session_id).await.status(), SessionStatus::Active, "nobody speaks yet");
    assert_eq!(granted(shown(&world.caller, &late).await).expires_at, late.expires_at, "the ttl is sooner");
    clock.advance(Duration::from_secs(10));
    let over = ended(&world, &deserted.session_id).await;
    assert_eq!((over.status(), over.outcome()), (SessionStatus::Expired, SessionOutcome::TokenExpired));
    assert_eq!(ended(&world, &late.session_id).await.outcome(), SessionOutcome::MaxDuration);
    world.freed(&agent).await;
    refused(shown(&world.caller, &deserted).await, Code::Unauthenticated, "CREDENTIAL_EXPIRED");
    let told = events(&world, &call_of(&deserted), 4).await;
    assert_eq!(types(&told)[2..], ["ai_session.ended", "call.ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_behavior_says_how_long_a_conversation_lasts_that_no_request_bounds() {
    let (clock, _server, world) = moved().await;
    let controls = Controls { max_duration_seconds: Some(120), ..Controls::default() };
    let behavior = Behavior { instructions: "Be brief.".into(), controls: Some(controls), ..Behavior::default() };
    let agent = world.create(VoiceAgent { behavior: Some(behavior), ..minimal_agent() }).await.id;
    let created = create(&world, of_agent(&agent)).await;
    clock.advance(Duration::from_secs(200));
    granted(shown(&world.caller, &created).await);
    clock.advance(Duration::from_secs(110));
    // Longer than a sweep takes to come round (every 2 s).
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(read(&world, &created.session_id).await.status(), SessionStatus::Active);
    clock.advance(Duration::from_secs(10));
    assert_eq!(ended(&world, &created.session_id).await.outcome(), SessionOutcome::MaxDuration);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_its_first_lease_many_times_with_nobodys_help() {
    let (clock, server, world) = moved().await;
    let agent = world.agent(1).await.id;
    let created = create(&world, CreateSessionRequest { ttl: Some(seconds(3_600)), ..of_agent(&agent) }).await;
    let renewed = || server.metric("voxgate_lease_renewals_total{fate=\"renewed\"}");
    for _ in 0..5 {
        let before = renewed();
        clock.advance(Duration::from_secs(200));
        eventually("a renewal", async || (renewed() > before).then_some(())).await;
    }
    let session = read(&world, &created.session_id).await;
    assert_eq!((session.status(), session.expires_at), (SessionStatus::Active, created.expires_at));
    assert_eq!(world.usage(&agent).await.used, 1);
    refused(try_create(&world, of_agent(&agent)).await, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_on_and_ends_in_time_though_its_replica_was_killed() {
    let pair = Pair::start().await;
    let [world, survivor] = &pair.worlds;
    let (brief, lasting) = (world.agent(1).await.id, world.agent(1).await.id);
    let ttl = Some(seconds(3_600));
    let max_duration = Some(seconds(2));
    let ending = create(world, CreateSessionRequest { ttl, max_duration, ..of_agent(&brief) }).await;
    let living = create(world, CreateSessionRequest { ttl, ..of_agent(&lasting) }).await;
    pair.servers[0].kill();
    granted(shown(&survivor.caller, &ending).await);
    assert_eq!(ended(survivor, &ending.session_id).await.outcome(), SessionOutcome::MaxDuration);
    survivor.freed(&brief).await;
    assert_eq!(read(survivor, &living.session_id).await.status(), SessionStatus::Active);
    // As if half of its lease were over: the other replica renews it.
    let long_ago = "BEGIN; SET LOCAL voxgate.tenant = 'everyone'; \
        UPDATE sessions SET lease_expires_at = lease_expires_at - interval '1 hour' WHERE direct IS NOT NULL; COMMIT";
    postgres::execute(&pair.database, long_ago).expect("written");
    let renewed = || pair.servers[1].metric("voxgate_lease_renewals_total{fate=\"renewed\"}");
    eventually("a renewal", async || (renewed() > 0.5).then_some(())).await;
    assert_eq!(survivor.usage(&lasting).await.used, 1);
    granted(survivor.caller.sessions().end_session(end(&living.session_id)).await);
    survivor.freed(&lasting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_comes_back_after_the_slot_store_has_lost_its_data() {
    let pair = Pair::start().await;
    let world = &pair.worlds[0];
    let agent = world.agent(1).await.id;
    let created = create(world, CreateSessionRequest { ttl: Some(seconds(3_600)), ..of_agent(&agent) }).await;
    // Written, that is: what the slot store alone had is lost with it.
    assert_eq!(read(world, &created.session_id).await.status(), SessionStatus::Active);
    assert!(pair.redis.command("FLUSHALL").starts_with("+OK"));
    let due = "BEGIN; SET LOCAL voxgate.tenant = 'everyone'; \
        UPDATE sessions SET lease_expires_at = lease_expires_at - interval '1 hour' WHERE direct IS NOT NULL; COMMIT";
    postgres::execute(&pair.database, due).expect("written");
    let readmitted = async || {
        let count = |server: &TestServer| server.metric("voxgate_lease_renewals_total{fate=\"readmitted\"}");
        (pair.servers.iter().map(count).sum::<f64>() > 0.5).then_some(())
    };
    eventually("the lease to come back", readmitted).await;
    assert_eq!(world.usage(&agent).await.used, 1);
    assert_eq!(read(world, &created.session_id).await.status(), SessionStatus::Active);
}
