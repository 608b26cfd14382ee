//! CompleteSession.

use prost_types::{Struct, Timestamp, Value, value::Kind};
use serde_json::json;
use tonic::Code;
use voxgate::{
    grpc::convert::value::object,
    node_sim::Behaviour,
    proto::v1::{
        Behavior, CompleteSessionRequest, GetSessionRequest, HangupRequest, ListSessionsRequest, LogRequest, Session,
        SessionOutcome, SessionStatus, SetLeadFieldRequest, Slot, TranscriptRole, TranscriptTurn,
        UpdateVoiceAgentRequest, VoiceAgent, complete_session_request::Target, get_session_request,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    world::{World, acquire, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    what_is_posted_is_answered_and_read_back_and_not_listed,
    an_active_session_ends_completed_and_frees_its_slot,
    an_ended_session_keeps_its_outcome,
    posting_again_replaces_and_the_same_again_is_answered_the_same,
    the_same_request_eight_times_at_once_ends_the_session_once,
    results_are_held_against_the_snapshot,
    results_that_cannot_be_checked_are_kept,
    a_schema_that_asks_itself_for_ever_costs_nobody_else_anything,
    a_callback_token_completes_its_own_session_and_no_other,
    what_is_too_much_or_wrong_is_named_at_once,
    the_largest_session_is_read_whole,
    another_tenants_session_is_unknown,
    a_live_session_is_unknown_to_a_sandbox_key,
);

fn turn(role: TranscriptRole, text: &str) -> TranscriptTurn {
    TranscriptTurn { role: role.into(), text: text.to_owned(), spoken_at: None }
}

fn said(texts: &[&str]) -> Vec<TranscriptTurn> {
    texts.iter().map(|text| turn(TranscriptRole::Caller, text)).collect()
}

fn fields(json: &serde_json::Value) -> Struct {
    object(json.as_object().expect("an object"))
}

fn of(slot: &Slot, transcript: Vec<TranscriptTurn>, results: Option<Struct>) -> CompleteSessionRequest {
    CompleteSessionRequest { target: Some(Target::SessionId(slot.session_id.clone())), transcript, results }
}

async fn complete(caller: &Caller, request: CompleteSessionRequest) -> Session {
    granted(caller.sessions().complete_session(request).await)
}

fn warned(session: &Session) -> Vec<&str> {
    session.result_warnings.iter().map(|warning| warning.path.as_str()).collect()
}

async fn what_is_posted_is_answered_and_read_back_and_not_listed(world: World) {
    let slot = world.admit(&world.agent(1).await.id).await;
    let metadata = Some(fields(&json!({"n": 1})));
    let log = LogRequest { call_id: slot.call_id.clone(), metadata, ..LogRequest::default() };
    granted(world.caller.calls().log(log).await);
    let spoken_at = Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 });
    let transcript = vec![
        TranscriptTurn { spoken_at, ..turn(TranscriptRole::Agent, "Schönen Tag! 🎧\nWhat can I do?") },
        turn(TranscriptRole::Caller, " "),
        turn(TranscriptRole::Tool, "{\"tool\": \"\\u0041\"}"),
        turn(TranscriptRole::System, "note"),
    ];
    let results = fields(&json!({"budget": 3, "ключ": [null, {"a": "b"}]}));
    let answer = complete(&world.caller, of(&slot, transcript.clone(), Some(results.clone()))).await;
    assert_eq!((&answer.transcript, &answer.results), (&transcript, &Some(results)));
    assert_eq!((answer.log.len(), warned(&answer).len()), (1, 0), "without a schema everything fits");
    assert_eq!(world.session(&slot).await, answer);
    let listed = granted(world.caller.sessions().list_sessions(ListSessionsRequest::default()).await).sessions;
    assert_eq!(listed.len(), 1);
    assert!(listed[0].transcript.is_empty() && listed[0].results.is_none() && listed[0].log.is_empty());
}

async fn an_active_session_ends_completed_and_frees_its_slot(world: World) {
    let _node = world.node(Behaviour::default()).await;
    let agent = world.agent(1).await.id;
    let slot = world.admit(&agent).await;
    let answer = complete(&world.caller, of(&slot, said(&["Hello"]), None)).await;
    assert_eq!((answer.status(), answer.outcome()), (SessionStatus::Ended, SessionOutcome::Completed));
    assert!(answer.ended_at.is_some() && answer.results.is_none());
    world.freed(&agent).await;
    let hangup = HangupRequest { call_id: slot.call_id.clone(), ..HangupRequest::default() };
    refused(world.caller.calls().hangup(hangup).await, Code::FailedPrecondition, "AI_SESSION_TERMINATED");
    // The call may be admitted again, as a session of which nothing was posted.
    let again = granted(world.try_admit(acquire(&slot.call_id, &agent)).await);
    assert_ne!(again.session_id, slot.session_id);
    assert!(world.session(&again).await.transcript.is_empty());
    assert_eq!(world.session(&slot).await, answer);
}

async fn an_ended_session_keeps_its_outcome(world: World) {
    let slot = world.admit(&world.agent(1).await.id).await;
    world.release(&slot).await;
    let before = world.session(&slot).await;
    let answer = complete(&world.caller, of(&slot, said(&["Hello"]), None)).await;
    assert_eq!(answer, Session { transcript: said(&["Hello"]), ..before });
    assert_eq!(answer.outcome(), SessionOutcome::Released);
}

async fn posting_again_replaces_and_the_same_again_is_answered_the_same(world: World) {
    let slot = world.admit(&world.agent(1).await.id).await;
    let first = of(&slot, said(&["a", "b"]), Some(fields(&json!({"a": 1}))));
    let answer = complete(&world.caller, first.clone()).await;
    assert_eq!(complete(&world.caller, first).await, answer);
    let by_call = CompleteSessionRequest {
        target: Some(Target::CallId(slot.call_id.clone())),
        transcript: said(&["c"]),
        results: None,
    };
    let replaced = complete(&world.caller, by_call).await;
    assert_eq!(replaced, Session { transcript: said(&["c"]), results: None, ..answer });
    assert_eq!(world.session(&slot).await, replaced);
}

async fn the_same_request_eight_times_at_once_ends_the_session_once(world: World) {
    let agent = world.agent(1).await.id;
    let slot = world.admit(&agent).await;
    let request = of(&slot, said(&["Hello"]), Some(fields(&json!({"a": 1}))));
    let ask = |_| {
        let (caller, request) = (world.caller.clone(), request.clone());
        tokio::spawn(async move { complete(&caller, request).await })
    };
    let asked: Vec<_> = (0..8).map(ask).collect();
    let mut answers = Vec::new();
    for task in asked {
        answers.push(task.await.expect("no panic"));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    assert_eq!(world.session(&slot).await, answers[0]);
    world.freed(&agent).await;
}

async fn results_are_held_against_the_snapshot(world: World) {
    let guests = json!({"type": "array", "items": {"type": "string", "pattern": "^\\p{Lu}"}});
    let keys = [("day", "date"), ("seats", "number"), ("where", "enum:in,out")];
    let behavior = Behavior {
        instructions: "Book a table.".into(),
        output_schema: keys.map(|(key, kind)| (key.to_owned(), kind.to_owned())).into(),
        output_schema_strict: Some(fields(&json!({"type": "object", "properties": {"guests": guests}}))),
        ..Behavior::default()
    };
    let agent = world.create(VoiceAgent { behavior: Some(behavior), ..minimal_agent() }).await;
    let slot = world.admit(&agent.id).await;
    // Later edits change nothing in the snapshot.
    let lenient = Behavior { instructions: "Be kind.".into(), ..Behavior::default() };
    let edit = VoiceAgent { id: agent.id.clone(), behavior: Some(lenient), ..VoiceAgent::default() };
    let update = UpdateVoiceAgentRequest { voice_agent: Some(edit), ..UpdateVoiceAgentRequest::default() };
    granted(world.caller.agents().update_voice_agent(update).await);

    let bad = fields(&json!({"day": "tomorrow", "seats": "two", "guests": ["Ada", "bob"], "more": 1}));
    let answer = complete(&world.caller, of(&slot, said(&["Hello"]), Some(bad.clone()))).await;
    assert_eq!(answer.results, Some(bad), "kept as it came");
    assert_eq!(warned(&answer), ["/day", "/seats", "/where", "/guests/1"]);
    assert!(answer.result_warnings.iter().all(|warning| !warning.description.is_empty()));
    assert_eq!(world.session(&slot).await, answer);

    let good = fields(&json!({"day": "2026-11-22", "seats": 2, "where": "out", "guests": ["Ada", "Ève"], "more": 1}));
    let answer = complete(&world.caller, of(&slot, said(&["Hello"]), Some(good))).await;
    assert!(warned(&answer).is_empty(), "{:?}", answer.result_warnings);
    let nothing = complete(&world.caller, of(&slot, said(&["Hello"]), None)).await;
    assert!(warned(&nothing).is_empty(), "no results, nothing that does not fit");
    let empty = complete(&world.caller, of(&slot, said(&["Hello"]), Some(Struct::default()))).await;
    assert_eq!((warned(&empty), &empty.results), (vec!["/day", "/seats", "/where"], &Some(Struct::default())));
}

async fn with_schema(world: &World, strict: &serde_json::Value) -> Slot {
    let behavior =
        Behavior { instructions: "Be kind.".into(), output_schema_strict: Some(fields(strict)), ..Behavior::default() };
    let agent = world.create(VoiceAgent { behavior: Some(behavior), ..minimal_agent() }).await;
    world.admit(&agent.id).await
}

async fn results_that_cannot_be_checked_are_kept(world: World) {
    let circle = json!({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"});
    let slot = with_schema(&world, &circle).await;
    let results = fields(&json!({"a": 1}));
    let answer = complete(&world.caller, of(&slot, said(&["Hello"]), Some(results.clone()))).await;
    assert_eq!((answer.results.as_ref(), warned(&answer)), (Some(&results), vec![""]));
    assert!(answer.result_warnings[0].description.starts_with("could not be checked"));
}

async fn a_schema_that_asks_itself_for_ever_costs_nobody_else_anything(world: World) {
    let next = |n: usize| {
        let next = format!("#/$defs/{n}");
        json!({"anyOf": [{"$ref": next}, {"$ref": next}]})
    };
    let mut defs: serde_json::Map<_, _> = (0..40).map(|n| (n.to_string(), next(n + 1))).collect();
    defs.insert("40".to_owned(), json!({"type": "number"}));
    let slot = with_schema(&world, &json!({"properties": {"a": {"$ref": "#/$defs/0"}}, "$defs": defs})).await;
    for _ in 0..4 {
        let results = fields(&json!({"a": "text"}));
        let answer = complete(&world.caller, of(&slot, said(&["Hello"]), Some(results))).await;
        assert_eq!(warned(&answer), [""]);
    }
    // Other schemas are checked by the same two hands.
    let other = with_schema(&world, &json!({"required": ["a"]})).await;
    let answer = complete(&world.caller, of(&other, said(&["Hello"]), Some(Struct::default()))).await;
    assert_eq!(warned(&answer), [""]);
}

async fn a_callback_token_completes_its_own_session_and_no_other(world: World) {
    let agent = world.agent(3).await.id;
    let (own, other) = (world.admit(&agent).await, world.admit(&agent).await);
    let token = world.caller.with(&own.callback_token);
    for target in [Target::SessionId(other.session_id.clone()), Target::CallId(other.call_id.clone())] {
        let request = CompleteSessionRequest { target: Some(target), transcript: said(&["Hello"]), results: None };
        refused(token.sessions().complete_session(request).await, Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN");
    }
    let answer = complete(&token, of(&own, said(&["Hello"]), None)).await;
    assert_eq!(answer.outcome(), SessionOutcome::Completed);
    // Also after the end, until it expires.
    let again = complete(&token, of(&own, said(&["Hello again"]), None)).await;
    assert_eq!(again.transcript, said(&["Hello again"]));
    assert_eq!(world.session(&other).await.status(), SessionStatus::Active);
    let reader = world.caller_with(&["ai_sessions:read", "slots:acquire"]).await;
    let answer = reader.sessions().complete_session(of(&other, said(&["Hello"]), None)).await;
    refused(answer, Code::PermissionDenied, "SCOPE_REQUIRED");
}

async fn what_is_too_much_or_wrong_is_named_at_once(world: World) {
    let slot = world.admit(&world.agent(1).await.id).await;
    let impossible = Some(Timestamp { seconds: 0, nanos: -1 });
    let transcript = vec![
        turn(TranscriptRole::Caller, &"ü".repeat(16_000)),
        turn(TranscriptRole::Unspecified, ""),
        turn(TranscriptRole::Agent, &"ü".repeat(16_001)),
        TranscriptTurn { role: 99, text: "nul \0".into(), spoken_at: impossible },
    ];
    let nan = Value { kind: Some(Kind::NumberValue(f64::NAN)) };
    let results = Struct { fields: [("a".to_owned(), nan)].into() };
    let request = CompleteSessionRequest { target: None, transcript, results: Some(results) };
    let mut named = faults(world.caller.sessions().complete_session(request).await);
    named.sort();
    let expected = [
        "results",
        "target",
        "transcript[1].role",
        "transcript[1].text",
        "transcript[2].text",
        "transcript[3].role",
        "transcript[3].spoken_at",
        "transcript[3].text",
    ];
    assert_eq!(named, expected);
    let large = fields(&json!({"a": "x".repeat(16 * 1024)}));
    let many = vec![turn(TranscriptRole::Caller, "x"); 5_001];
    for (transcript, results, field) in
        [(vec![], None, "transcript"), (many, None, "transcript"), (said(&["x"]), Some(large), "results")]
    {
        assert_eq!(faults(world.caller.sessions().complete_session(of(&slot, transcript, results)).await), [field]);
    }
    let all_wrong = vec![turn(TranscriptRole::Unspecified, ""); 5_000];
    let answer = world.caller.sessions().complete_session(of(&slot, all_wrong, None)).await;
    let status = refused(answer, Code::InvalidArgument, "VALIDATION_FAILED");
    assert!(status.details().len() < 8 * 1024 && status.faulty_fields()[0] == "transcript[0].role");
    let too_large = vec![turn(TranscriptRole::Caller, &"x".repeat(16_000)); 17];
    let answer = world.caller.sessions().complete_session(of(&slot, too_large, None)).await;
    assert_eq!(faults(answer), ["request"], "more than a message may hold");
    assert_eq!(world.session(&slot).await.status(), SessionStatus::Active, "nothing of it was posted");
}

/// What takes the most on the wire for its JSON.
fn ones(count: usize) -> Value {
    let one = Value { kind: Some(Kind::NumberValue(1.0)) };
    Value { kind: Some(Kind::ListValue(prost_types::ListValue { values: vec![one; count] })) }
}

async fn the_largest_session_is_read_whole(world: World) {
    let slot = world.admit(&world.agent(1).await.id).await;
    for n in 0..7 {
        let set = SetLeadFieldRequest {
            call_id: slot.call_id.clone(),
            field: format!("field{n}"),
            value: Some(ones(4_000)),
            ..SetLeadFieldRequest::default()
        };
        granted(world.caller.calls().set_lead_field(set).await);
    }
    let transcript = vec![turn(TranscriptRole::Caller, &"x".repeat(38)); 5_000];
    let results = Struct { fields: [("a".to_owned(), ones(2_000))].into() };
    let answer = complete(&world.caller, of(&slot, transcript.clone(), Some(results))).await;
    assert_eq!(answer.transcript, transcript);
    assert!(prost::Message::encoded_len(&answer) > 500_000, "more than other messages hold");
    let target = Some(get_session_request::Target::CallId(slot.call_id.clone()));
    let read = granted(world.caller.sessions().get_session(GetSessionRequest { target }).await);
    assert_eq!(read, answer);
}

async fn another_tenants_session_is_unknown(world: World) {
    let slot = world.admit(&world.agent(1).await.id).await;
    let neighbour = world.neighbour().await;
    let unknown = Target::SessionId("ses_01a1fc37-58e2-7667-adaf-b5e9ba0dc5a6".into());
    for target in [Target::SessionId(slot.session_id.clone()), Target::CallId(slot.call_id.clone()), unknown] {
        let request = CompleteSessionRequest { target: Some(target), transcript: said(&["x"]), results: None };
        refused(neighbour.caller.sessions().complete_session(request).await, Code::NotFound, "SESSION_NOT_FOUND");
    }
    assert_eq!(world.session(&slot).await.status(), SessionStatus::Active);
}

async fn a_live_session_is_unknown_to_a_sandbox_key(world: World) {
    let (live, sandbox) = world.sides().await;
    let slot = live.admit(&live.agent(1).await.id).await;
    let by_call =
        |call| CompleteSessionRequest { target: Some(Target::CallId(call)), transcript: said(&["x"]), results: None };
    for request in [of(&slot, said(&["x"]), None), by_call(slot.call_id.clone()), by_call(unique("call"))] {
        refused(sandbox.caller.sessions().complete_session(request).await, Code::NotFound, "SESSION_NOT_FOUND");
    }
    let session = live.session(&slot).await;
    assert!(session.transcript.is_empty() && session.status() == SessionStatus::Active);
}
