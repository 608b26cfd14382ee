//! ListSessions.

use prost_types::Timestamp;
use tonic::Code;
use voxgate::proto::v1::{
    EndSessionRequest, ListSessionsRequest, LogRequest, ReleaseSlotRequest, RenewSlotsRequest, Session, SessionOutcome,
    SessionStatus, Slot, end_session_request,
};

use crate::harness::{
    client::{Caller, faults, granted, refused},
    world::{World, on_both_backends, seconds},
};

on_both_backends!(
    sessions_are_listed_as_they_are_read_and_newest_first,
    filters_narrow_and_combine,
    pages_are_of_their_filter,
    an_active_sessions_expiry_is_its_leases,
    a_large_page_stops_short_and_goes_on,
    a_sandbox_keys_list_is_a_live_keys,
    another_tenants_sessions_are_not_listed,
    faulty_fields_are_named_at_once,
);

async fn list(caller: &Caller, request: ListSessionsRequest) -> Vec<Session> {
    granted(caller.sessions().list_sessions(request).await).sessions
}

fn of_agent(agent: &str) -> ListSessionsRequest {
    ListSessionsRequest { voice_agent_id: agent.to_owned(), ..ListSessionsRequest::default() }
}

fn ids(sessions: &[Session]) -> Vec<&str> {
    sessions.iter().map(|session| session.id.as_str()).collect()
}

async fn end(world: &World, slot: &Slot, outcome: SessionOutcome) {
    let target = Some(end_session_request::Target::SessionId(slot.session_id.clone()));
    granted(world.caller.sessions().end_session(EndSessionRequest { target, outcome: outcome.into() }).await);
}

async fn admitted(world: &World, agent: &str, count: usize) -> Vec<Slot> {
    let mut slots = Vec::new();
    for _ in 0..count {
        slots.push(world.admit(agent).await);
    }
    slots
}

async fn sessions_are_listed_as_they_are_read_and_newest_first(world: World) {
    let agent = world.agent(10).await.id;
    let slots = admitted(&world, &agent, 3).await;
    end(&world, &slots[0], SessionOutcome::Hangup).await;
    let release = ReleaseSlotRequest {
        call_id: slots[1].call_id.clone(),
        lease_id: slots[1].lease_id.clone(),
        ..ReleaseSlotRequest::default()
    };
    granted(world.caller.calls().release_slot(release).await);
    let log = LogRequest {
        call_id: slots[2].call_id.clone(),
        metadata: Some(prost_types::Struct::default()),
        ..LogRequest::default()
    };
    granted(world.caller.calls().log(log).await);
    let mut expected = Vec::new();
    for slot in slots.iter().rev() {
        // What verbs have logged is not in lists.
        expected.push(Session { log: Vec::new(), ..world.session(slot).await });
    }
    assert_eq!(list(&world.caller, of_agent(&agent)).await, expected);
    assert_eq!(
        expected.iter().map(Session::status).collect::<Vec<_>>(),
        [SessionStatus::Active, SessionStatus::Ended, SessionStatus::Ended]
    );
}

async fn filters_narrow_and_combine(world: World) {
    let (one, other) = (world.agent(10).await.id, world.agent(10).await.id);
    let (mut slots, theirs) = (admitted(&world, &one, 4).await, world.admit(&other).await);
    end(&world, &slots[1], SessionOutcome::Hangup).await;
    end(&world, &theirs, SessionOutcome::Hangup).await;
    slots.push(theirs);
    let id = |n: usize| slots[n].session_id.as_str();
    let filtered = |status: SessionStatus| ListSessionsRequest { status: status.into(), ..Default::default() };
    let all = list(&world.caller, ListSessionsRequest::default()).await;
    assert_eq!(ids(&all), [id(4), id(3), id(2), id(1), id(0)]);
    assert_eq!(ids(&list(&world.caller, filtered(SessionStatus::Ended)).await), [id(4), id(1)]);
    assert_eq!(list(&world.caller, filtered(SessionStatus::Expired)).await, []);
    let ended_of_one = ListSessionsRequest { voice_agent_id: one.clone(), ..filtered(SessionStatus::Ended) };
    assert_eq!(ids(&list(&world.caller, ended_of_one).await), [id(1)]);

    let started = |n: usize| all[4 - n].started_at;
    let between =
        |started_after, started_before| ListSessionsRequest { started_after, started_before, ..of_agent(&one) };
    assert_eq!(ids(&list(&world.caller, between(started(2), None)).await), [id(3), id(2)], "at it or after");
    assert_eq!(ids(&list(&world.caller, between(None, started(2))).await), [id(1), id(0)], "before it");
    let active = ListSessionsRequest { status: SessionStatus::Active.into(), ..between(started(1), started(3)) };
    assert_eq!(ids(&list(&world.caller, active).await), [id(2)]);
}

async fn pages_are_of_their_filter(world: World) {
    let agent = world.agent(10).await.id;
    let mut slots = admitted(&world, &agent, 5).await;
    let page = |token: &str| ListSessionsRequest { page_size: 2, page_token: token.to_owned(), ..of_agent(&agent) };
    let first = granted(world.caller.sessions().list_sessions(page("")).await);
    let token = first.next_page_token.clone();
    // What comes meanwhile is before the pages to come, and what ends stays where it was.
    slots.push(world.admit(&agent).await);
    end(&world, &slots[1], SessionOutcome::Hangup).await;
    let second = granted(world.caller.sessions().list_sessions(page(&token)).await);
    let third = granted(world.caller.sessions().list_sessions(page(&second.next_page_token)).await);
    let read: Vec<_> = [&first, &second, &third].into_iter().flat_map(|page| ids(&page.sessions)).collect();
    let expected: Vec<_> = slots[..5].iter().rev().map(|slot| slot.session_id.as_str()).collect();
    assert_eq!(read, expected);
    assert_eq!(third.next_page_token, "");

    let of_another = ListSessionsRequest { status: SessionStatus::Ended.into(), ..page(&token) };
    for wrong in [of_another, page("x"), page(&"A".repeat(10_000)), page("ü")] {
        let answer = world.caller.sessions().list_sessions(wrong).await;
        refused(answer, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    let many = ListSessionsRequest { page_size: i32::MAX, ..of_agent(&agent) };
    assert_eq!(list(&world.caller, many).await.len(), 6, "more than the largest page is the largest");
}

async fn an_active_sessions_expiry_is_its_leases(world: World) {
    let agent = world.agent(10).await.id;
    let slots = admitted(&world, &agent, 2).await;
    let lease = voxgate::proto::v1::LeaseRenewal {
        call_id: slots[0].call_id.clone(),
        lease_id: slots[0].lease_id.clone(),
        lease_ttl: Some(seconds(300)),
    };
    let renewed = granted(world.caller.calls().renew_slots(RenewSlotsRequest { leases: vec![lease] }).await);
    let listed = list(&world.caller, of_agent(&agent)).await;
    assert_eq!(listed[1].expires_at, renewed.results[0].expires_at);
    assert_eq!(listed[0].expires_at, slots[1].expires_at);
}

async fn a_large_page_stops_short_and_goes_on(world: World) {
    let agent = world.agent(100).await.id;
    let note = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("n".repeat(15_000))) };
    let metadata = prost_types::Struct { fields: [("note".to_owned(), note)].into_iter().collect() };
    let mut admitted = Vec::new();
    for _ in 0..30 {
        let acquire = crate::harness::world::acquire(&crate::harness::world::unique("call"), &agent);
        let acquire = voxgate::proto::v1::AcquireSlotRequest { metadata: Some(metadata.clone()), ..acquire };
        admitted.push(granted(world.try_admit(acquire).await).session_id);
    }
    let (mut token, mut read, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let request = ListSessionsRequest { page_size: 30, page_token: token, ..of_agent(&agent) };
        let page = granted(world.caller.sessions().list_sessions(request).await);
        read.extend(page.sessions.into_iter().map(|session| session.id));
        (token, pages) = (page.next_page_token, pages + 1);
        if token.is_empty() {
            break;
        }
    }
    assert!(pages > 1, "450 KB do not fit into one message");
    admitted.reverse();
    assert_eq!(read, admitted);
}

async fn a_sandbox_keys_list_is_a_live_keys(world: World) {
    let (live, sandbox) = world.sides().await;
    let agent = live.agent(10).await.id;
    live.admit(&agent).await;
    sandbox.admit(&agent).await;
    let listed = list(&live.caller, of_agent(&agent)).await;
    assert_eq!(listed.iter().map(|session| session.sandbox).collect::<Vec<_>>(), [true, false]);
    assert_eq!(list(&sandbox.caller, of_agent(&agent)).await, listed);
}

async fn another_tenants_sessions_are_not_listed(world: World) {
    let agent = world.agent(10).await.id;
    let slots = admitted(&world, &agent, 2).await;
    let page = ListSessionsRequest { page_size: 1, ..of_agent(&agent) };
    let first = granted(world.caller.sessions().list_sessions(page.clone()).await);
    let neighbour = world.neighbour().await;
    for request in [
        ListSessionsRequest::default(),
        of_agent(&agent),
        // A token of the other tenant's list is a place in one's own.
        ListSessionsRequest { page_token: first.next_page_token, ..page },
    ] {
        assert_eq!(list(&neighbour.caller, request).await, []);
    }
    let token = world.caller.with(&slots[0].callback_token);
    let answer = token.sessions().list_sessions(ListSessionsRequest::default()).await;
    refused(answer, Code::PermissionDenied, "SCOPE_REQUIRED");
}

async fn faulty_fields_are_named_at_once(world: World) {
    let impossible = Some(Timestamp { seconds: i64::MAX, nanos: 0 });
    let request = ListSessionsRequest {
        page_size: -1,
        page_token: "none".into(),
        voice_agent_id: "ses_".into(),
        status: 99,
        started_after: impossible,
        started_before: impossible,
    };
    let mut named = faults(world.caller.sessions().list_sessions(request).await);
    named.sort();
    assert_eq!(named, ["page_size", "page_token", "started_after", "started_before", "status", "voice_agent_id"]);
    let moment = |seconds| Some(Timestamp { seconds, nanos: 0 });
    for (from, before) in [(5, 5), (6, 5)] {
        let request = ListSessionsRequest {
            started_after: moment(from),
            started_before: moment(before),
            ..ListSessionsRequest::default()
        };
        assert_eq!(faults(world.caller.sessions().list_sessions(request).await), ["started_before"]);
    }
}
