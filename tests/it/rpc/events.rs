//! SessionService.WatchEvents: what callers see of a tenant's events, live and from any of them on.

use std::{collections::BTreeMap, time::Duration};

use tonic::Code;
use voxgate::{
    domain::{Env, ids::EventId},
    proto::v1::{
        Answered, CallerHangup, DeleteVoiceAgentRequest, EndSessionRequest, Event, RecordingReady, ReleaseSlotRequest,
        RevokeApiKeyRequest, Session, SessionOutcome, SessionStatus, SetDispositionRequest, Slot, TransferDestination,
        TransferRequest, WatchEventsRequest, WsDisconnected, call_event::Event as Said, end_session_request,
        transfer_destination::Destination,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    pair::Pair,
    raw_node::{RawNode, hello},
    server::{Backend, TestServer},
    watch::{Watch, after, assert_in_order, from_beginning, ids, is_end, replayed, text, told_of, types},
    world::{World, acquire, eventually, on_both_backends, seconds, unique},
};

on_both_backends!(
    a_live_watch_tells_a_calls_life_as_it_happens,
    a_watch_goes_on_after_any_event_without_gap_or_repetition,
    a_watch_that_catches_up_while_events_come_tells_each_once,
    a_watch_tells_what_its_filters_let_through,
    another_tenants_events_are_not_told,
    a_sandbox_keys_watch_reads_both_sides_and_tells_them_apart,
    faulty_watches_are_refused_by_name,
    the_events_of_a_life_end_as_its_session_does,
    a_watch_ends_soon_after_its_key_was_revoked,
    a_watch_begins_although_nothing_happens,
);

/// A call on the tenant's agent that begins and ends: four events.
async fn life(world: &World, agent: &str) -> Slot {
    let slot = world.admit(agent).await;
    assert!(world.release(&slot).await);
    slot
}

async fn a_live_watch_tells_a_calls_life_as_it_happens(world: World) {
    let agent = world.agent(1).await;
    life(&world, &agent.id).await;
    Watch::of(&world.caller, from_beginning()).await.until(is_end).await;

    let mut watch = Watch::live(&world).await;
    let (node, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let slot = world.admit(&agent.id).await;
    assert_eq!(types(&watch.take(2).await), ["call.started", "ai_session.started"]);
    node.report(&slot.call_id, Said::Answered(Answered {})).await;
    let answered = watch.next().await;
    assert_eq!((answered.r#type.as_str(), answered.session_sequence), ("call.answered", 3));
    let disposition = SetDispositionRequest {
        call_id: slot.call_id.clone(),
        disposition: "sold".into(),
        ..SetDispositionRequest::default()
    };
    granted(world.caller.calls().set_disposition(disposition).await);
    assert_eq!(watch.next().await.r#type, "ai_session.disposition_set");
    node.report(&slot.call_id, Said::CallerHangup(CallerHangup {})).await;
    assert_eq!(types(&watch.take(2).await), ["ai_session.ended", "call.ended"]);
    let url = "https://media.example/r.wav".to_owned();
    for _ in 0..2 {
        let ready = RecordingReady { url: url.clone(), stereo: true, duration: Some(seconds(12)) };
        node.report(&slot.call_id, Said::RecordingReady(ready)).await;
    }
    let ready = watch.next().await;
    assert_eq!((ready.r#type.as_str(), ready.session_sequence), ("call.recording_ready", 7));
    assert_eq!(text(&ready, "url"), url);

    let mut resumed = Watch::of(&world.caller, after(&answered)).await;
    let rest = resumed.take(4).await;
    for event in rest.iter().chain([&answered, &ready]) {
        assert_eq!((event.tenant_id.as_str(), event.call_id.as_str()), (world.tenant.as_str(), slot.call_id.as_str()));
        assert_eq!(text(event, "session_id"), slot.session_id);
        assert_eq!(text(event, "voice_agent_id"), agent.id);
        assert!(event.id.starts_with("evt_") && event.created_at.is_some());
    }
    assert_eq!(rest.last(), Some(&ready));
}

async fn a_watch_goes_on_after_any_event_without_gap_or_repetition(world: World) {
    let agent = world.agent(10).await;
    let mut live = Watch::live(&world).await;
    for _ in 0..5 {
        life(&world, &agent.id).await;
    }
    let all = live.take(20).await;
    assert_in_order(&all);
    let again = Watch::of(&world.caller, from_beginning()).await.take(20).await;
    assert_eq!(again, all, "the past is what was told live");
    let mut watches = Vec::new();
    for (index, event) in all.iter().enumerate() {
        let mut watch = Watch::of(&world.caller, after(event)).await;
        assert_eq!(ids(&watch.take(19 - index).await), ids(&all[index + 1..]));
        watches.push(watch);
    }
    // All of them are live by now, and hear the same once.
    life(&world, &agent.id).await;
    let next = live.take(4).await;
    for watch in &mut watches {
        assert_eq!(watch.take(4).await, next);
    }
}

async fn a_watch_that_catches_up_while_events_come_tells_each_once(world: World) {
    const CALLERS: usize = 4;
    const CALLS: usize = 25;
    let agent = world.agent(100).await;
    let lives: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (world, agent) = (world.clone(), agent.id.clone());
            tokio::spawn(async move {
                for _ in 0..CALLS {
                    life(&world, &agent).await;
                }
            })
        })
        .collect();
    let total = CALLERS * CALLS * 4;
    // Begun at different moments: each catches up with a stream that goes on.
    let mut watches = Vec::new();
    for _ in 0..10 {
        let mut watch = Watch::of(&world.caller, from_beginning()).await;
        watches.push(tokio::spawn(async move { watch.take(total).await }));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for life in lives {
        life.await.expect("no panic");
    }
    let mut all = Vec::new();
    for watch in watches {
        all.push(watch.await.expect("no panic"));
    }
    assert_in_order(&all[0]);
    for other in &all[1..] {
        assert_eq!(ids(other), ids(&all[0]));
    }
    // Resumed from the middle, page by page.
    let mut seen = all[0][..7].to_vec();
    while seen.len() < total {
        let mut watch = Watch::of(&world.caller, after(&seen[seen.len() - 1])).await;
        let some = watch.take((total - seen.len()).min(150)).await;
        seen.extend(some);
    }
    assert_eq!(ids(&seen), ids(&all[0]));
}

async fn a_watch_tells_what_its_filters_let_through(world: World) {
    let agents = [world.agent(10).await.id, world.agent(10).await.id];
    let calls = [unique("call"), unique("call")];
    let of = |types: &[&str]| {
        let types = types.iter().map(ToString::to_string).collect();
        WatchEventsRequest { types, ..WatchEventsRequest::default() }
    };
    let all = ["call.started", "ai_session.started", "ai_session.ended", "call.ended"];
    let cases: Vec<(WatchEventsRequest, Vec<&str>)> = vec![
        (of(&[]), all.repeat(2)),
        (of(&["*"]), all.repeat(2)),
        (of(&["call.ended"]), vec!["call.ended"; 2]),
        (of(&["ai_session.*"]), ["ai_session.started", "ai_session.ended"].repeat(2)),
        (of(&["call.started", "ai_session.e*", "call.s*"]), ["call.started", "ai_session.ended"].repeat(2)),
        (WatchEventsRequest { call_id: calls[0].clone(), ..of(&[]) }, all.to_vec()),
        (
            WatchEventsRequest { voice_agent_id: agents[1].clone(), ..of(&["call.*"]) },
            vec!["call.started", "call.ended"],
        ),
        (WatchEventsRequest { voice_agent_id: agents[1].clone(), call_id: calls[0].clone(), ..of(&[]) }, vec![]),
        (WatchEventsRequest { voice_agent_id: unknown_agent(), ..of(&[]) }, vec![]),
    ];
    let mut watches = Vec::new();
    for (request, expected) in &cases {
        watches.push((Watch::of(&world.caller, request.clone()).await, request, expected));
    }
    let mut everything = Watch::live(&world).await;
    for (call, agent) in calls.iter().zip(&agents) {
        let slot = granted(world.try_admit(acquire(call, agent)).await);
        assert!(world.release(&slot).await);
        everything.until(is_end).await;
    }
    for (request, expected) in &cases {
        let past = WatchEventsRequest { from_beginning: true, ..request.clone() };
        watches.push((Watch::of(&world.caller, past).await, request, expected));
    }
    for (watch, request, expected) in &mut watches {
        let told = watch.take(expected.len()).await;
        assert_eq!(types(&told), **expected, "{request:?}");
    }
    // What comes next is told to those whom it concerns, and nothing before it to anybody.
    let last = granted(world.try_admit(acquire(&calls[0], &agents[1])).await);
    for (watch, request, _) in &mut watches {
        if request.voice_agent_id.is_empty() || request.voice_agent_id == agents[1] {
            let types = &request.types;
            let is_told =
                types.is_empty() || types.iter().any(|it| it == "*" || it.starts_with("call.") && it != "call.ended");
            if is_told {
                let next = watch.next().await;
                assert_eq!(
                    (text(&next, "session_id"), next.r#type.as_str()),
                    (last.session_id.clone(), "call.started")
                );
            }
        }
    }
}

fn unknown_agent() -> String {
    Env::system().uuid().to_string()
}

async fn another_tenants_events_are_not_told(world: World) {
    let neighbour = world.neighbour().await;
    let (ours, theirs) = (world.agent(1).await, neighbour.agent(1).await);
    let mut watch = Watch::live(&world).await;
    let slot = life(&neighbour, &theirs.id).await;
    let their_events = Watch::of(&neighbour.caller, from_beginning()).await.take(4).await;
    let own = life(&world, &ours.id).await;
    for event in watch.take(4).await {
        assert_eq!((event.tenant_id.as_str(), event.call_id.as_str()), (world.tenant.as_str(), own.call_id.as_str()));
    }
    // Nor by their names: what is another's answers as what does not exist.
    let unknown = WatchEventsRequest {
        after_event_id: EventId::new(&Env::system()).to_string(),
        ..WatchEventsRequest::default()
    };
    let mut answers = Vec::new();
    for request in [after(&their_events[0]), unknown] {
        let status =
            refused(world.caller.sessions().watch_events(request).await, Code::InvalidArgument, "VALIDATION_FAILED");
        assert_eq!(status.faulty_fields(), ["after_event_id"]);
        answers.push(status.message().to_owned());
    }
    assert_eq!(answers[0], answers[1]);
    for request in [
        WatchEventsRequest { call_id: slot.call_id.clone(), ..from_beginning() },
        WatchEventsRequest { voice_agent_id: theirs.id.clone(), ..from_beginning() },
    ] {
        let mut watch = Watch::of(&world.caller, request).await;
        let silence = tokio::time::timeout(Duration::from_millis(300), watch.0.message()).await;
        assert!(silence.is_err(), "{silence:?}");
    }
}

async fn a_sandbox_keys_watch_reads_both_sides_and_tells_them_apart(world: World) {
    let (live, sandbox) = world.sides().await;
    let agent = live.agent(10).await;
    let mut watches = [Watch::live(&live).await, Watch::live(&sandbox).await];
    let slots = [life(&live, &agent.id).await, life(&sandbox, &agent.id).await];
    for watch in &mut watches {
        for event in watch.take(8).await {
            let is_sandbox = event.data.as_ref().expect("data").fields.contains_key("sandbox");
            let slot = &slots[usize::from(is_sandbox)];
            assert_eq!(event.call_id, slot.call_id, "{event:?}");
        }
    }
}

async fn faulty_watches_are_refused_by_name(world: World) {
    let sessions = || world.caller.sessions();
    let faulty = WatchEventsRequest {
        after_event_id: "ses_1".into(),
        from_beginning: true,
        types: vec!["call.ended".into(), "call".into(), "*.ended".into(), "nobody.*".into(), String::new()],
        call_id: "a b".into(),
        voice_agent_id: "x".into(),
    };
    let expected = [
        "after_event_id",
        "from_beginning",
        "types[1]",
        "types[2]",
        "types[3]",
        "types[4]",
        "call_id",
        "voice_agent_id",
    ];
    let mut named = faults(sessions().watch_events(faulty).await);
    named.sort();
    let mut expected = expected.map(str::to_owned);
    expected.sort();
    assert_eq!(named, expected);
    let many = WatchEventsRequest { types: vec!["call.*".into(); 33], ..WatchEventsRequest::default() };
    assert_eq!(faults(sessions().watch_events(many.clone()).await), ["types"]);
    let as_many = WatchEventsRequest { types: many.types[1..].to_vec(), ..many };
    granted(sessions().watch_events(as_many).await);
    let long = WatchEventsRequest { types: vec![format!("{}*", "call.".repeat(13))], ..WatchEventsRequest::default() };
    assert_eq!(faults(sessions().watch_events(long).await), ["types[0]"]);
    let reader = world.caller_with(&["ai_sessions:read"]).await;
    let answer = reader.sessions().watch_events(WatchEventsRequest::default()).await;
    refused(answer, Code::PermissionDenied, "SCOPE_REQUIRED");
}

async fn the_events_of_a_life_end_as_its_session_does(world: World) {
    let mut watch = Watch::live(&world).await;
    let (node, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let (agent, doomed) = (world.agent(10).await, world.agent(1).await);
    let admit = async || world.admit(&agent.id).await;
    let slots: Vec<Slot> =
        vec![admit().await, admit().await, admit().await, admit().await, admit().await, admit().await];
    let [released, hung_up, closed, ended, alive, transferred] = &slots[..] else { unreachable!() };
    let orphan = world.admit(&doomed.id).await;

    let stated = ReleaseSlotRequest {
        call_id: released.call_id.clone(),
        lease_id: released.lease_id.clone(),
        outcome: SessionOutcome::Failed.into(),
    };
    granted(world.caller.calls().release_slot(stated).await);
    node.report(&hung_up.call_id, Said::Answered(Answered {})).await;
    node.report(&hung_up.call_id, Said::CallerHangup(CallerHangup {})).await;
    node.report(&closed.call_id, Said::WsDisconnected(WsDisconnected::default())).await;
    let end = EndSessionRequest {
        target: Some(end_session_request::Target::CallId(ended.call_id.clone())),
        ..EndSessionRequest::default()
    };
    granted(world.caller.sessions().end_session(end).await);
    let delete = DeleteVoiceAgentRequest { id: doomed.id.clone(), force: true, ..DeleteVoiceAgentRequest::default() };
    granted(world.caller.agents().delete_voice_agent(delete).await);
    let obedient = node.obey();
    let destination = Some(TransferDestination { destination: Some(Destination::AgentQueue("support".into())) });
    let call_id = transferred.call_id.clone();
    let transfer = TransferRequest { call_id, destination, ..TransferRequest::default() };
    granted(world.caller.calls().transfer(transfer).await);

    let mut lives = BTreeMap::<String, Vec<Event>>::new();
    while lives.values().filter(|life| life.last().is_some_and(is_end)).count() < 6 {
        let event = watch.next().await;
        lives.entry(text(&event, "session_id")).or_default().push(event);
    }
    for slot in slots.iter().chain([&orphan]) {
        let session: Session = world.session(slot).await;
        let life = &lives[&slot.session_id];
        assert_in_order(life);
        assert_eq!(replayed(life), told_of(&session), "{:?}", types(life));
    }
    assert_eq!(replayed(&lives[&alive.session_id]).status(), SessionStatus::Active);
    assert_eq!(replayed(&lives[&orphan.session_id]).outcome(), SessionOutcome::AgentDeleted);
    assert!(types(&lives[&transferred.session_id]).contains(&"ai_session.transferred"));
    drop(obedient);
}

async fn a_watch_ends_soon_after_its_key_was_revoked(world: World) {
    let key = world.new_key(&["events:read"]).await;
    let mut watch = Watch::of(&world.operator.with(&key.secret), WatchEventsRequest::default()).await;
    let id = key.api_key.expect("the key").id;
    granted(world.operator.tenants().revoke_api_key(RevokeApiKeyRequest { id }).await);
    let status = watch.error().await;
    assert_eq!((status.code(), status.reason().as_str()), (Code::Unauthenticated, "CREDENTIAL_INVALID"), "{status:?}");
}

/// The answer begins at once: its caller knows that it watches before anything happens.
async fn a_watch_begins_although_nothing_happens(world: World) {
    let mut watches = Vec::new();
    for request in [WatchEventsRequest::default(), from_beginning()] {
        let begun = tokio::time::timeout(Duration::from_secs(20), Watch::of(&world.caller, request)).await;
        watches.push(begun.expect("headers"));
    }
    life(&world, &world.agent(1).await.id).await;
    for watch in &mut watches {
        assert_eq!(types(&watch.take(4).await)[3], "call.ended");
    }
}

// ---------------------------------------------------------------- servers of a test's own

#[tokio::test]
async fn events_of_one_replica_are_told_at_another() {
    let pair = Pair::start().await;
    let agent = pair.worlds[0].agent(50).await;
    let mut watches = Vec::new();
    for world in &pair.worlds {
        watches.push(Watch::live(world).await);
        watches.push(Watch::live(world).await);
    }
    let lives = pair.worlds.clone().map(|world| {
        let agent = agent.id.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                life(&world, &agent).await;
            }
        })
    });
    for life in lives {
        life.await.expect("no panic");
    }
    let first = watches[0].take(160).await;
    assert_in_order(&first);
    for watch in &mut watches[1..] {
        assert_eq!(ids(&watch.take(160).await), ids(&first));
    }
    // Resumed at the other one.
    let [_, there] = &pair.worlds;
    assert_eq!(ids(&Watch::of(&there.caller, after(&first[17])).await.take(142).await), ids(&first[18..]));
}

#[tokio::test]
async fn a_replica_that_stops_sends_its_watchers_elsewhere() {
    for backend in [Backend::Embedded, Backend::PostgresRedis] {
        let server = TestServer::private(backend);
        let world = World::on(&server.addr, &server.admin_key).await;
        let mut watch = Watch::live(&world).await;
        life(&world, &world.agent(1).await.id).await;
        watch.until(is_end).await;
        server.signal("TERM");
        let status = watch.error().await;
        assert_eq!((status.code(), status.reason().as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{status:?}");
        server.wait_for_exit(Duration::from_secs(20));
        assert!(!server.log().contains("not all work was done"), "{}", server.log());
    }
}

#[tokio::test]
async fn a_replica_serves_as_many_watches_as_it_is_configured_to() {
    let server = TestServer::embedded_with("[calls]\nevent_max_watches = 2\n");
    let world = World::on(&server.addr, &server.admin_key).await;
    let first = Watch::live(&world).await;
    let _second = Watch::live(&world).await;
    let third = world.caller.sessions().watch_events(WatchEventsRequest::default()).await;
    refused(third, Code::Unavailable, "OVERLOADED");
    drop(first);
    eventually("a place", async || world.caller.sessions().watch_events(WatchEventsRequest::default()).await.ok())
        .await;
}

/// Bounded by what the connection itself holds: 64 KiB that the client has not taken, and a few events more.
#[tokio::test]
async fn a_watcher_that_takes_nothing_is_sent_away_and_told_where_to_go_on() {
    let server = TestServer::embedded_with("[calls]\nevent_stall_ms = 500\nevent_max_watches = 1\n");
    let world = World::on(&server.addr, &server.admin_key).await;
    let narrow = Caller::narrow(&server.addr, &world.key);
    let agent = world.agent(20).await;
    let mut watch = Watch::of(&narrow, WatchEventsRequest::default()).await;
    // 8 KiB each: ten a second may be said of a call.
    for _ in 0..20 {
        let slot = world.admit(&agent.id).await;
        for _ in 0..8 {
            let disposition = SetDispositionRequest {
                call_id: slot.call_id.clone(),
                disposition: "sold".into(),
                notes: Some("n".repeat(4_000)),
                ..SetDispositionRequest::default()
            };
            granted(world.caller.calls().set_disposition(disposition).await);
        }
    }
    // Its place is free: the server has given it up, before it reads on.
    let another = async |request: WatchEventsRequest| {
        let watch = async || world.caller.sessions().watch_events(request.clone()).await.ok();
        Watch(eventually("a place", watch).await.into_inner())
    };
    drop(another(WatchEventsRequest::default()).await);
    let mut taken = Vec::new();
    let status = loop {
        match watch.0.message().await {
            Ok(Some(event)) => taken.push(event),
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), status.reason().as_str()), (Code::Unavailable, "OVERLOADED"), "{status:?}");
    assert!(status.retry_delay().is_some());
    let last = taken.last().expect("some");
    assert_eq!(status.metadata_of_reason()["after_event_id"], last.id);
    assert!(taken.len() < 200, "{}", taken.len());
    let mut resumed = another(after(last)).await;
    taken.extend(resumed.take(200 - taken.len()).await);
    assert_in_order(&taken);
}
