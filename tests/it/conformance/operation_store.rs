//! What every `OperationStore` promises.

use std::collections::BTreeSet;

use serde_json::json;
use voxgate::{
    domain::{
        Env, Error,
        conference::{Invitee, MonitorMode, ParticipantType},
        event::EventType,
        hash::Sha256,
        ids::{OperationId, SessionId, TenantId},
        lease::Usage,
        operation::{Acknowledgement, Failure, Operation, OperationState},
        session::{LeadStatus, Outcome, Party, Session, SessionStatus},
        verb::{
            Barge, ConferenceAdd, ConferenceLeave, ConferenceRemove, ConferenceStart, Destination, GetCallState,
            Hangup, Hold, JsonObject, Log, MonitorStart, MonitorStop, Mute, NodeResult, PlayAudio, RecordingPause,
            RecordingResume, RequestSupervisor, ScheduleCallback, SendDtmf, SetDisposition, SetLeadField,
            SetLeadStatus, Source, Speech, Transfer, Unhold, Unmute, Urgency, Verb, VerbName, Whisper,
        },
    },
    sessions::{Begun, Carried, Settled, WrittenEvent},
};

use super::{Stores, all_at_once, at, call, on_every_backend};

on_every_backend![
    an_operation_of_each_verb_reads_back_as_it_was_written,
    another_tenants_operation_does_not_exist,
    a_key_begins_once_in_a_call,
    a_key_begun_from_sixteen_tasks_is_new_once,
    a_forgotten_key_begins_again,
    a_forgotten_key_begun_from_sixteen_tasks_is_new_once,
    an_acknowledgement_takes_effect_with_its_record,
    an_acknowledgement_that_comes_from_sixteen_tasks_takes_effect_once,
    a_refusal_changes_nothing_but_the_record,
    a_verb_that_ends_the_session_ends_it_in_the_same_step,
    of_a_session_that_is_over_the_record_alone_is_written,
    an_unknown_fate_is_resolved_later,
    a_final_state_stays,
    what_has_not_come_to_an_end_is_told,
    what_no_node_is_needed_for_is_done_and_recorded_at_once,
    what_is_done_under_a_key_is_done_once,
    a_session_that_is_over_takes_no_more_and_a_retry_is_still_answered,
    the_log_and_the_lead_are_bounded,
    events_are_numbered_without_gaps_however_many_write,
    a_key_is_found_in_its_own_call_while_it_is_remembered,
    a_withdrawn_operation_leaves_its_key_free,
];

/// An operation on the call `on`, under a session of its own.
pub(super) fn operation(tenant: TenantId, on: &str, key: &str) -> Operation {
    Operation {
        id: OperationId::new(&Env::system()),
        tenant,
        session: SessionId::new(&Env::system()),
        call: call(on),
        verb: Hold { moh_url: Some("https://moh.example/a".into()) }.into(),
        key: key.parse().expect("a key"),
        digest: Sha256::of("request"),
        state: OperationState::Accepted,
        accepted_at: at(0),
        dispatched_at: None,
        finished_at: None,
        result: None,
        failure: None,
    }
}

async fn begin(stores: &Stores, operation: &Operation) -> Option<Operation> {
    match stores.operations.begin(operation.tenant, operation, at(0)).await.expect("an answer") {
        Begun::New => None,
        Begun::Existing(existing) => Some(*existing),
    }
}

async fn get(stores: &Stores, operation: &Operation) -> Option<Operation> {
    stores.operations.get(operation.tenant, operation.id).await.expect("an answer")
}

/// An operation on a session that there is.
pub(super) fn on(session: &Session, verb: impl Into<Verb>) -> Operation {
    Operation {
        session: session.id,
        call: session.call.clone(),
        verb: verb.into(),
        key: OperationId::new(&Env::system()).to_string().parse().expect("a key"),
        ..operation(session.tenant, "any", "any")
    }
}

async fn settle(stores: &Stores, operation: &Operation, answer: Acknowledgement) -> Option<Settled> {
    stores.operations.settle(operation.tenant, operation.id, answer, Some(USAGE), at(9)).await.expect("an answer")
}

pub(super) async fn carry_out(stores: &Stores, operation: Operation) -> Result<Carried, Error> {
    stores.operations.carry_out(operation.tenant, operation, None, at(0)).await
}

async fn session_of(stores: &Stores, operation: &Operation) -> Session {
    let found = stores.sessions.get(operation.tenant, operation.session).await.expect("an answer");
    found.expect("the session")
}

/// What was told of the session since it began.
async fn kinds(stores: &Stores, session: &Session) -> Vec<EventType> {
    let mut events = events(stores, session).await;
    let begun: Vec<EventType> = events.drain(..2).map(|event| event.event.kind).collect();
    assert_eq!(begun, [EventType::CallStarted, EventType::AiSessionStarted]);
    events.into_iter().map(|event| event.event.kind).collect()
}

/// The session's events, each of which says whose it is.
pub(super) async fn events(stores: &Stores, session: &Session) -> Vec<WrittenEvent> {
    let events = stores.operations.events(session.tenant, session.id).await.expect("an answer");
    let numbers: Vec<u64> = events.iter().map(|event| event.session_sequence).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>(), "a gap");
    let ids: BTreeSet<String> = events.iter().map(|event| event.id.to_string()).collect();
    assert_eq!(ids.len(), events.len());
    for event in &events {
        assert_eq!(event.call, session.call);
        assert_eq!(event.event.data["session_id"], json!(session.id.to_string()));
        assert_eq!(event.event.data["voice_agent_id"], json!(session.agent.to_string()));
        assert_eq!(event.event.data.get("sandbox"), session.sandbox.then_some(&json!(true)));
    }
    events
}

const USAGE: Usage = Usage { used: 2, used_outbound: 1, limit: 3, reserved_inbound: 0, queued: 0, oldest_waiter: None };

pub(super) fn object(value: serde_json::Value) -> JsonObject {
    match value {
        serde_json::Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

async fn an_operation_of_each_verb_reads_back_as_it_was_written(stores: &Stores) {
    let tenant = stores.tenant().await;
    let metadata = || object(json!({"ключ": [1.5, null, "🎧"]}));
    let destination = Some(Destination::AgentQueue("support".into()));
    let invitee = Invitee::new(ParticipantType::Supervisor, "Ada".into()).expect("an invitee");
    let speech = |source| Speech { source, voice: None };
    let target = || call("another call".replace(' ', "-").as_str());
    let verbs: Vec<Verb> = vec![
        Barge { target: target() }.into(),
        ConferenceAdd { invitee, metadata: metadata(), conference: "c".into() }.into(),
        ConferenceLeave { conference: "c".into() }.into(),
        ConferenceRemove { member: "m".into(), conference: "c".into() }.into(),
        ConferenceStart.into(),
        GetCallState.into(),
        Hangup { metadata: metadata() }.into(),
        Hold { moh_url: None }.into(),
        Log { metadata: metadata() }.into(),
        MonitorStart { target: target(), mode: MonitorMode::ListenAndWhisper }.into(),
        MonitorStop { target: target() }.into(),
        Mute { party: Party::Caller }.into(),
        PlayAudio { speech: speech(Source::TtsText("Grüß\nGott".into())) }.into(),
        RecordingPause { reason: Some("card".into()) }.into(),
        RecordingResume.into(),
        RequestSupervisor { reason: "lost".into(), urgency: Urgency::High }.into(),
        ScheduleCallback { at: at(99), reason: None, agent: None }.into(),
        SendDtmf { digits: "1w#".parse().expect("digits") }.into(),
        SetDisposition { disposition: "sold".into(), notes: None }.into(),
        SetLeadField { field: "budget".into(), value: json!(null) }.into(),
        SetLeadStatus { status: LeadStatus::Dnd }.into(),
        Transfer { destination, metadata: metadata() }.into(),
        Unhold.into(),
        Unmute { party: Party::Agent }.into(),
        Whisper { target: target(), speech: speech(Source::AudioUrl("https://media.example/a".into())) }.into(),
    ];
    let named: Vec<VerbName> = verbs.iter().map(Verb::name).collect();
    assert_eq!(named, VerbName::ALL, "each verb once");
    for verb in verbs {
        let on = verb.name().as_str().to_owned();
        let written = Operation { verb, ..operation(tenant, &on, "~key!") };
        assert_eq!(begin(stores, &written).await, None);
        assert_eq!(get(stores, &written).await, Some(written));
    }
}

async fn another_tenants_operation_does_not_exist(stores: &Stores) {
    let (owner, other) = (stores.tenant().await, stores.tenant().await);
    let theirs = operation(owner, "call", "key");
    begin(stores, &theirs).await;
    assert_eq!(stores.operations.get(other, theirs.id).await.expect("an answer"), None);
    let answer = Ok(NodeResult::default());
    assert!(stores.operations.settle(other, theirs.id, answer, None, at(1)).await.expect("an answer").is_none());
    stores.operations.lose(other, theirs.id).await.expect("an answer");
    let session = stores.session(owner, "their-call").await;
    let done = on(&session, SetLeadStatus { status: LeadStatus::Dnd });
    let foreign = Operation { tenant: other, ..done };
    assert!(matches!(carry_out(stores, foreign).await, Err(Error::NotFound { .. })));
    assert!(stores.operations.events(other, session.id).await.expect("an answer").is_empty());
    assert_eq!(get(stores, &theirs).await, Some(theirs.clone()));
    assert_eq!(begin(stores, &operation(other, "call", "key")).await, None, "keys of two tenants do not meet");
}

async fn a_key_begins_once_in_a_call(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = operation(tenant, "call", "key");
    assert_eq!(begin(stores, &first).await, None);
    let of_the_same_session = Operation { session: first.session, ..operation(tenant, "call", "key") };
    let of_another_session = operation(tenant, "call", "key");
    // Of another request: told apart by the digest of the one that stands.
    let other = Operation { digest: Sha256::of("another"), ..operation(tenant, "call", "key") };
    for retry in [&of_the_same_session, &of_another_session, &other, &first] {
        assert_eq!(begin(stores, retry).await, Some(first.clone()));
    }
    for (on, key) in [("call", "Key"), ("Call", "key")] {
        // Also under one session.
        let different = Operation { session: first.session, ..operation(tenant, on, key) };
        assert_eq!(begin(stores, &different).await, None);
    }
}

async fn a_key_begun_from_sixteen_tasks_is_new_once(stores: &Stores) {
    let tenant = stores.tenant().await;
    raced(stores, tenant, at(0)).await;
}

async fn a_forgotten_key_begins_again(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = Operation { accepted_at: at(10), ..operation(tenant, "call", "key") };
    begin(stores, &first).await;
    let second = Operation { accepted_at: at(20), ..operation(tenant, "call", "key") };
    let at_the_limit = stores.operations.begin(tenant, &second, at(10)).await.expect("an answer");
    assert!(matches!(at_the_limit, Begun::Existing(_)), "{at_the_limit:?}");
    let later = stores.operations.begin(tenant, &second, at(11)).await.expect("an answer");
    assert!(matches!(later, Begun::New), "{later:?}");
    assert_eq!(get(stores, &second).await, Some(second));
}

async fn a_forgotten_key_begun_from_sixteen_tasks_is_new_once(stores: &Stores) {
    let tenant = stores.tenant().await;
    begin(stores, &operation(tenant, "call", "key")).await;
    raced(stores, tenant, at(1)).await;
}

/// Sixteen tasks, of a session each, begin one key of one call at second 5: one is told that it is new, the others are
/// answered that one's.
async fn raced(stores: &Stores, tenant: TenantId, since: voxgate::domain::Timestamp) {
    let answers = all_at_once(16, |_| {
        let operations = stores.operations.clone();
        async move {
            let mine = Operation { accepted_at: at(5), ..operation(tenant, "call", "key") };
            match operations.begin(tenant, &mine, since).await.expect("an answer") {
                Begun::New => (true, mine),
                Begun::Existing(existing) => (false, *existing),
            }
        }
    })
    .await;
    assert_eq!(answers.iter().filter(|(new, _)| *new).count(), 1);
    let (_, winner) = answers.iter().find(|(new, _)| *new).expect("one began");
    assert!(answers.iter().all(|(_, operation)| operation == winner));
}

async fn an_acknowledgement_takes_effect_with_its_record(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let hold = on(&session, Hold { moh_url: None });
    begin(stores, &hold).await;
    let settled = settle(stores, &hold, Ok(NodeResult::default())).await.expect("it is settled");
    let after = session_of(stores, &hold).await;
    assert_eq!((after.state.held, after.version), (true, session.version + 1));
    assert_eq!((settled.session.as_ref(), settled.ended), (Some(&after), false));
    let recorded = get(stores, &hold).await.expect("the operation");
    assert_eq!((recorded.state, recorded.finished_at), (OperationState::Succeeded, Some(at(9))));
    let result = recorded.result.clone().expect("a result");
    assert_eq!((result.call_state.held, result.usage, result.outcome), (true, Some(USAGE), None));
    assert_eq!(recorded, settled.operation);
    assert_eq!(begin(stores, &hold).await, Some(recorded), "a replay is answered what became of it");
    assert!(kinds(stores, &session).await.is_empty());

    let start = on(&session, ConferenceStart);
    begin(stores, &start).await;
    let named = NodeResult { conference_id: Some("conf-7".into()), ..NodeResult::default() };
    let settled = settle(stores, &start, Ok(named)).await.expect("it is settled");
    assert_eq!(settled.operation.result.expect("a result").conference_id.as_deref(), Some("conf-7"));
    let after = session_of(stores, &start).await;
    assert!(after.state.held && after.state.conference.expect("a conference").id == "conf-7");
    assert_eq!(kinds(stores, &session).await, [EventType::AiSessionConferenceChanged]);
}

async fn an_acknowledgement_that_comes_from_sixteen_tasks_takes_effect_once(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let start = on(&session, ConferenceStart);
    begin(stores, &start).await;
    let settled = all_at_once(16, |task| {
        let (operations, start) = (stores.operations.clone(), start.clone());
        async move {
            let answer = NodeResult { conference_id: Some(format!("conf-{task}")), ..NodeResult::default() };
            operations.settle(start.tenant, start.id, Ok(answer), None, at(9)).await.expect("an answer")
        }
    })
    .await;
    let winners: Vec<_> = settled.into_iter().flatten().collect();
    assert_eq!(winners.len(), 1);
    let named = winners[0].operation.result.clone().expect("a result").conference_id;
    let after = session_of(stores, &start).await;
    assert_eq!(after.state.conference.map(|conference| conference.id), named);
    assert_eq!((after.version, kinds(stores, &session).await.len()), (session.version + 1, 1));
}

async fn a_refusal_changes_nothing_but_the_record(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let hold = on(&session, Hold { moh_url: None });
    begin(stores, &hold).await;
    // A node's words may be anything, even what Postgres cannot keep.
    let failure = Failure { reason: "BUSY".into(), message: "nö \u{0} 📵".into() };
    settle(stores, &hold, Err(failure)).await.expect("it is settled");
    let read = get(stores, &hold).await.expect("the operation");
    assert_eq!((read.state, read.result), (OperationState::Failed, None));
    assert_eq!(read.failure.expect("a failure").message, "nö \u{fffd} 📵");
    assert_eq!(session_of(stores, &hold).await, session);
}

async fn a_verb_that_ends_the_session_ends_it_in_the_same_step(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let transfer = on(
        &session,
        Transfer { destination: Some(Destination::E164("+15550100".into())), metadata: JsonObject::new() },
    );
    begin(stores, &transfer).await;
    let settled = settle(stores, &transfer, Ok(NodeResult::default())).await.expect("it is settled");
    assert!(settled.ended);
    let after = session_of(stores, &transfer).await;
    assert_eq!(
        (after.status, after.outcome, after.ended_at),
        (SessionStatus::Ended, Some(Outcome::TransferredE164), Some(at(9)))
    );
    let result = settled.operation.result.expect("a result");
    assert_eq!((result.outcome, result.usage), (Some(Outcome::TransferredE164), None));
    let told = [EventType::AiSessionTransferred, EventType::AiSessionEnded, EventType::CallEnded];
    assert_eq!(kinds(stores, &session).await, told);
}

async fn of_a_session_that_is_over_the_record_alone_is_written(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let hangup = on(&session, Hangup::default());
    begin(stores, &hangup).await;
    let ended = stores.sessions.end(session.tenant, session.id, Outcome::CallerHangup, at(5)).await;
    let ended = ended.expect("an answer").expect("it was active");
    let settled = settle(stores, &hangup, Ok(NodeResult::default())).await.expect("it is settled");
    assert!(!settled.ended && settled.operation.state == OperationState::Succeeded);
    assert_eq!(session_of(stores, &hangup).await, ended, "the first end stands");
    assert_eq!(kinds(stores, &session).await, [EventType::AiSessionEnded, EventType::CallEnded]);
}

async fn an_unknown_fate_is_resolved_later(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let hold = on(&session, Hold { moh_url: None });
    begin(stores, &hold).await;
    stores.operations.lose(session.tenant, hold.id).await.expect("an answer");
    assert_eq!(get(stores, &hold).await.expect("the operation").state, OperationState::Unknown);
    settle(stores, &hold, Ok(NodeResult::default())).await.expect("it is settled");
    assert_eq!(get(stores, &hold).await.expect("the operation").state, OperationState::Succeeded);
    assert!(session_of(stores, &hold).await.state.held);
}

async fn what_has_not_come_to_an_end_is_told(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let mut ids = Vec::new();
    for second in 10..15 {
        let mute = Operation { accepted_at: at(second), ..on(&session, Mute { party: Party::Caller }) };
        begin(stores, &mute).await;
        ids.push(mute);
    }
    stores.operations.lose(session.tenant, ids[1].id).await.expect("an answer");
    settle(stores, &ids[2], Ok(NodeResult::default())).await.expect("it is settled");
    let told = async |from, to, limit| {
        let open = stores.operations.open(at(from), at(to), limit).await.expect("an answer");
        open.into_iter().map(|operation| operation.id).collect::<Vec<_>>()
    };
    assert_eq!(told(0, 100, 100).await, [ids[0].id, ids[1].id, ids[3].id, ids[4].id]);
    assert_eq!(told(11, 13, 100).await, [ids[1].id, ids[3].id]);
    assert_eq!(told(0, 100, 1).await, [ids[0].id]);
}

async fn a_final_state_stays(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let refusal = || Failure { reason: "BUSY".into(), message: String::new() };
    for answer in [Ok(NodeResult::default()), Err(refusal())] {
        let mute = on(&session, Mute { party: Party::Caller });
        begin(stores, &mute).await;
        settle(stores, &mute, answer).await.expect("it is settled");
        let last = get(stores, &mute).await;
        assert!(settle(stores, &mute, Ok(NodeResult::default())).await.is_none());
        assert!(settle(stores, &mute, Err(refusal())).await.is_none());
        stores.operations.lose(session.tenant, mute.id).await.expect("an answer");
        assert_eq!(get(stores, &mute).await, last);
    }
    assert!(settle(stores, &on(&session, Unhold), Ok(NodeResult::default())).await.is_none(), "never begun");
}

async fn what_no_node_is_needed_for_is_done_and_recorded_at_once(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let value = json!({"min": 1.5, "ж": [null, "🎧"]});
    let verbs: Vec<Verb> = vec![
        SetDisposition { disposition: "sold".into(), notes: Some("two\nlines".into()) }.into(),
        SetLeadField { field: "budget".into(), value: value.clone() }.into(),
        SetLeadField { field: "gone".into(), value: json!(null) }.into(),
        SetLeadStatus { status: LeadStatus::Callback }.into(),
        RequestSupervisor { reason: "angry".into(), urgency: Urgency::High }.into(),
        ScheduleCallback { at: at(3_600), reason: Some("later".into()), agent: None }.into(),
        Log { metadata: object(json!({"n": 1})) }.into(),
        Log { metadata: object(json!({"n": 2})) }.into(),
    ];
    for verb in verbs {
        let operation = on(&session, verb);
        let Ok(Carried::Out(settled)) = carry_out(stores, operation.clone()).await else { panic!("carried out") };
        assert_eq!(settled.operation.state, OperationState::Succeeded);
        assert_eq!(get(stores, &operation).await, Some(settled.operation.clone()));
        let callback = settled.operation.result.expect("a result").callback_id;
        assert_eq!(callback.is_some(), operation.verb.name() == VerbName::ScheduleCallback);
    }
    let after = stores.sessions.get(session.tenant, session.id).await.expect("an answer").expect("the session");
    let record = &after.record;
    assert_eq!((record.disposition.as_deref(), record.notes.as_deref()), (Some("sold"), Some("two\nlines")));
    assert_eq!(record.lead_fields, object(json!({"budget": value, "gone": null})));
    assert_eq!((record.lead_status, record.log_entries), (Some(LeadStatus::Callback), 2));
    let log = stores.operations.log(session.tenant, session.id).await.expect("an answer");
    let logged: Vec<_> = log.iter().map(|entry| entry.metadata["n"].clone()).collect();
    assert_eq!(logged, [json!(1), json!(2)]);
    assert_eq!(
        kinds(stores, &session).await,
        [
            EventType::AiSessionDispositionSet,
            EventType::LeadUpdated,
            EventType::LeadUpdated,
            EventType::LeadUpdated,
            EventType::AiSessionEscalated,
            EventType::CallbackScheduled,
        ]
    );
}

async fn what_is_done_under_a_key_is_done_once(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let carried = all_at_once(16, |task| {
        let (operations, session) = (stores.operations.clone(), session.clone());
        async move {
            let log = Log { metadata: object(json!({"task": task})) };
            let operation = Operation { key: "one-key".parse().expect("a key"), ..on(&session, log) };
            operations.carry_out(session.tenant, operation, None, at(0)).await.expect("an answer")
        }
    })
    .await;
    let (mut done, mut existing) = (Vec::new(), Vec::new());
    for carried in carried {
        match carried {
            Carried::Out(settled) => done.push(settled.operation),
            Carried::Existing(operation) => existing.push(*operation),
        }
    }
    assert_eq!((done.len(), existing.len()), (1, 15));
    assert!(existing.iter().all(|operation| *operation == done[0]));
    assert_eq!(stores.operations.log(session.tenant, session.id).await.expect("an answer").len(), 1);
}

async fn a_session_that_is_over_takes_no_more_and_a_retry_is_still_answered(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let first = on(&session, SetLeadStatus { status: LeadStatus::Dnd });
    assert!(matches!(carry_out(stores, first.clone()).await, Ok(Carried::Out(_))));
    stores.sessions.end(session.tenant, session.id, Outcome::Hangup, at(5)).await.expect("an answer");
    let retry = Operation { id: OperationId::new(&Env::system()), ..first };
    assert!(matches!(carry_out(stores, retry).await, Ok(Carried::Existing(_))));
    let late = on(&session, SetLeadStatus { status: LeadStatus::Busy });
    let refused = carry_out(stores, late.clone()).await;
    assert!(matches!(refused, Err(Error::AiSessionTerminated { outcome: Outcome::Hangup, .. })), "{refused:?}");
    assert_eq!(get(stores, &late).await, None, "what was refused leaves no record, and its key free");
    assert_eq!(session_of(stores, &late).await.record.lead_status, Some(LeadStatus::Dnd));
}

async fn the_log_and_the_lead_are_bounded(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let large = "x".repeat(8_000);
    let fill = async |verb: &dyn Fn(usize) -> Verb| {
        let mut taken = 0;
        while let Ok(Carried::Out(_)) = carry_out(stores, on(&session, verb(taken))).await {
            taken += 1;
            assert!(taken < 100, "no bound");
        }
        taken
    };
    assert_eq!(fill(&|_| Log { metadata: object(json!({"text": large})) }.into()).await, 8);
    assert_eq!(fill(&|n| SetLeadField { field: n.to_string(), value: json!(large) }.into()).await, 8);
    // A field that is there may be written again, and a small entry still fits.
    let again = on(&session, SetLeadField { field: "0".into(), value: json!("y") });
    assert!(matches!(carry_out(stores, again).await, Ok(Carried::Out(_))));
    let small = on(&session, Log { metadata: object(json!({"text": "small"})) });
    assert!(matches!(carry_out(stores, small).await, Ok(Carried::Out(_))));
    let refused = carry_out(stores, on(&session, Log { metadata: object(json!({"text": large})) })).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

async fn events_are_numbered_without_gaps_however_many_write(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    all_at_once(16, |task| {
        let (operations, session) = (stores.operations.clone(), session.clone());
        async move {
            if task % 2 == 0 {
                let field = SetLeadField { field: task.to_string(), value: json!(task) };
                let operation = on(&session, field);
                operations.carry_out(session.tenant, operation, None, at(0)).await.expect("an answer");
            } else {
                let operation = on(&session, ConferenceStart);
                operations.begin(session.tenant, &operation, at(0)).await.expect("an answer");
                let answer = Ok(NodeResult::default());
                operations.settle(session.tenant, operation.id, answer, None, at(1)).await.expect("an answer");
            }
        }
    })
    .await;
    assert_eq!(kinds(stores, &session).await.len(), 16);
    let after = stores.sessions.get(session.tenant, session.id).await.expect("an answer").expect("the session");
    assert_eq!(after.record.lead_fields.len(), 8);
}

async fn a_key_is_found_in_its_own_call_while_it_is_remembered(stores: &Stores) {
    let tenant = stores.tenant().await;
    let made = operation(tenant, "call", "key");
    assert!(begin(stores, &made).await.is_none());
    let find = async |tenant, on: &str, key: &str, since| {
        let key = key.parse().expect("a key");
        stores.operations.find(tenant, &call(on), &key, since).await.expect("an answer")
    };
    assert_eq!(find(tenant, "call", "key", at(0)).await, Some(made.clone()));
    assert_eq!(find(tenant, "call", "other", at(0)).await, None);
    assert_eq!(find(tenant, "another-call", "key", at(0)).await, None);
    assert_eq!(find(stores.tenant().await, "call", "key", at(0)).await, None);
    assert_eq!(find(tenant, "call", "key", at(1)).await, None, "forgotten");
}

async fn a_withdrawn_operation_leaves_its_key_free(stores: &Stores) {
    let tenant = stores.tenant().await;
    let made = operation(tenant, "call", "key");
    assert!(begin(stores, &made).await.is_none());
    stores.operations.withdraw(stores.tenant().await, made.id).await.expect("an answer");
    assert!(get(stores, &made).await.is_some(), "another tenant withdraws nothing");
    stores.operations.withdraw(tenant, made.id).await.expect("an answer");
    assert!(get(stores, &made).await.is_none());
    let again = Operation { id: OperationId::new(&Env::system()), ..made };
    assert!(begin(stores, &again).await.is_none());
}
