//! What is told of sessions on every database: written with the change that it tells of, numbered without gaps, once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use voxgate::{
    domain::{
        Env, Timestamp,
        event::{EventFilter, EventType, Recording},
        ids::{EventId, LeaseId, SessionId, TenantId},
        journal::Ending,
        session::{LeadStatus, Outcome, Session},
        verb::{Hangup, NodeResult, SetLeadField, SetLeadStatus},
    },
    sessions::{
        Entry, EventNews, EventPage, History, Position, Sequencer, SqlSessionStore, TenantEvent, Written, WrittenEvent,
    },
};

use super::{
    Stores, all_at_once, at, on_every_backend,
    operation_store::{carry_out, events, on},
    session,
};
use crate::harness::postgres::{fresh_database, patient};

on_every_backend![
    a_life_is_told_from_its_beginning_to_its_end,
    what_the_journal_writes_is_told_once_however_often_it_is_written,
    a_session_that_another_displaces_ends_in_its_events_too,
    a_session_of_a_deleted_agent_is_told_whole,
    a_verb_that_ends_the_session_tells_both_ends,
    events_have_no_gaps_however_many_write_at_once,
    what_is_not_written_is_not_told,
    events_of_a_sandbox_call_say_so,
    positions_rise_by_time_and_within_a_session_by_number,
    an_event_that_is_committed_late_stands_behind_what_was_read,
    sixteen_sequencers_give_each_event_one_position,
    a_page_ends_where_it_says_and_the_next_goes_on_there,
    filters_let_through_what_they_name,
    another_tenants_events_have_positions_of_their_own,
    a_sequencer_is_told_of_news_and_finds_the_rest_by_itself,
];

const STARTED: [EventType; 2] = [EventType::CallStarted, EventType::AiSessionStarted];
const ENDED: [EventType; 2] = [EventType::AiSessionEnded, EventType::CallEnded];

fn history(stores: &Stores) -> Arc<dyn History> {
    Arc::new(SqlSessionStore::new(stores.db.clone(), Env::system(), EventNews::default()))
}

fn kinds(events: &[WrittenEvent]) -> Vec<EventType> {
    events.iter().map(|event| event.event.kind).collect()
}

fn recording(url: &str) -> Recording {
    Recording { url: url.to_owned(), stereo: true, duration: Some(Duration::from_millis(12_500)) }
}

fn begins(session: &Session) -> Entry {
    Entry { session: session.id, opening: Some(Arc::new(session.clone())), ending: None }
}

fn ends(session: &Session, outcome: Outcome, at: Timestamp) -> Entry {
    Entry { session: session.id, opening: None, ending: Some(Ending { outcome, at }) }
}

fn whole(session: &Session, outcome: Outcome, at: Timestamp) -> Entry {
    Entry { opening: begins(session).opening, ..ends(session, outcome, at) }
}

/// The next session of the same call.
fn next(session: &Session) -> Session {
    let env = Env::system();
    Session {
        id: SessionId::new(&env),
        lease: LeaseId::new(&env, session.agent),
        fence: session.fence + 1,
        started_at: at(100),
        ..session.clone()
    }
}

async fn a_life_is_told_from_its_beginning_to_its_end(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = stores.session(tenant, "call").await;
    assert_eq!(kinds(&events(stores, &session).await), STARTED);

    let answered = Session { answered_at: Some(at(3)), ..session.clone() };
    for _ in 0..2 {
        stores.sessions.update(tenant, &answered).await.expect("an answer");
    }
    let held = Session { version: 2, ..answered };
    assert!(stores.sessions.update(tenant, &held).await.expect("an answer"), "it was answered before");
    let end = stores.sessions.end(tenant, session.id, Outcome::Hangup, at(9)).await.expect("an answer");
    assert!(end.is_some_and(|ended| ended.version == 4));
    assert!(stores.sessions.end(tenant, session.id, Outcome::Failed, at(10)).await.expect("an answer").is_none());
    for url in ["https://media.example/a", "https://media.example/a", "https://media.example/b"] {
        assert!(stores.sessions.tell(tenant, session.id, recording(url).into(), at(11)).await.expect("an answer"));
    }

    let told = events(stores, &session).await;
    let mut expected = STARTED.to_vec();
    expected.push(EventType::CallAnswered);
    expected.extend(ENDED);
    expected.extend([EventType::CallRecordingReady; 2]);
    assert_eq!(kinds(&told), expected);
    assert_eq!(told.iter().map(|event| event.at).collect::<Vec<_>>(), [0, 0, 3, 9, 9, 11, 11].map(at));
    let data = |index: usize, field: &str| told[index].event.data[field].clone();
    assert_eq!((data(0, "direction"), data(1, "voice_agent_revision")), (json!("INBOUND"), json!(1)));
    assert_eq!((data(3, "outcome"), data(4, "outcome")), (json!("HANGUP"), json!("HANGUP")));
    assert_eq!((data(6, "url"), data(6, "stereo")), (json!("https://media.example/b"), json!(true)));
    assert_eq!(data(6, "duration_seconds"), json!(12.5));
}

async fn what_the_journal_writes_is_told_once_however_often_it_is_written(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (store, agent) = (history(stores), stores.agent(tenant).await.id);
    let [plain, late, at_once] = ["plain", "late", "at-once"].map(|call| session(tenant, agent, call));
    let steps = [
        vec![begins(&plain), whole(&at_once, Outcome::Hangup, at(9)), ends(&late, Outcome::Hangup, at(9))],
        vec![ends(&plain, Outcome::CallerHangup, at(8)), begins(&at_once), begins(&late)],
        vec![whole(&plain, Outcome::Failed, at(7)), whole(&late, Outcome::Hangup, at(9))],
    ];
    for _ in 0..3 {
        for step in &steps {
            store.write(tenant, step.clone(), at(5)).await.expect("written");
        }
        for (session, outcome) in [(&plain, "CALLER_HANGUP"), (&at_once, "HANGUP"), (&late, "HANGUP")] {
            let told = events(stores, session).await;
            assert_eq!(kinds(&told), [STARTED, ENDED].concat(), "{}", session.call);
            assert!(told[2..].iter().all(|event| event.event.data["outcome"] == json!(outcome)));
        }
    }
}

async fn a_session_that_another_displaces_ends_in_its_events_too(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (store, agent) = (history(stores), stores.agent(tenant).await.id);
    let ends_of = async |session: &Session| {
        let told = events(stores, session).await;
        assert_eq!(kinds(&told), [STARTED, ENDED].concat());
        (told[2].event.data["outcome"].clone(), told[2].at)
    };
    let expired = |at| (json!("LEASE_EXPIRED"), at);

    // By an opening, by one that was blocked, and of one that comes too late itself.
    let first = session(tenant, agent, "opened");
    store.open(tenant, &first).await.expect("opened");
    let second = next(&first);
    store.open(tenant, &second).await.expect("opened");
    assert_eq!(ends_of(&first).await, expired(at(100)));
    assert_eq!(kinds(&events(stores, &second).await), STARTED);

    let left = session(tenant, agent, "displaced");
    let successor = next(&left);
    store.write(tenant, vec![begins(&left)], at(5)).await.expect("written");
    let blocked = store.write(tenant, vec![begins(&successor)], at(5)).await.expect("an answer");
    assert_eq!(blocked, [Written::Blocked { by: Some(left.id) }]);
    assert!(events(stores, &successor).await.is_empty());
    for _ in 0..2 {
        assert_eq!(store.displace(tenant, begins(&successor), at(5)).await.expect("an answer"), Written::Done);
        assert_eq!(ends_of(&left).await, expired(at(100)));
        assert_eq!(kinds(&events(stores, &successor).await), STARTED);
    }

    let stale = session(tenant, agent, "stale");
    store.write(tenant, vec![begins(&next(&stale))], at(5)).await.expect("written");
    for _ in 0..2 {
        store.displace(tenant, begins(&stale), at(5)).await.expect("an answer");
        assert_eq!(ends_of(&stale).await, expired(at(100)));
    }
}

async fn a_session_of_a_deleted_agent_is_told_whole(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await;
    let orphan = session(tenant, agent.id, "call");
    stores.agents.delete(tenant, agent.id, agent.revision).await.expect("deleted");
    for _ in 0..2 {
        history(stores).write(tenant, vec![begins(&orphan)], at(5)).await.expect("written");
        let told = events(stores, &orphan).await;
        assert_eq!(kinds(&told), [STARTED, ENDED].concat());
        assert_eq!(told[3].event.data["outcome"], json!("AGENT_DELETED"));
    }
}

async fn a_verb_that_ends_the_session_tells_both_ends(stores: &Stores) {
    let session = stores.session(stores.tenant().await, "call").await;
    let hangup = on(&session, Hangup::default());
    stores.operations.begin(session.tenant, &hangup, at(0)).await.expect("an answer");
    let settle = || stores.operations.settle(session.tenant, hangup.id, Ok(NodeResult::default()), None, at(9));
    assert!(settle().await.expect("an answer").is_some());
    assert!(settle().await.expect("an answer").is_none());
    let told = events(stores, &session).await;
    assert_eq!(kinds(&told), [STARTED, ENDED].concat());
    assert!(told[2..].iter().all(|event| event.event.data["outcome"] == json!("HANGUP") && event.at == at(9)));
}

async fn events_have_no_gaps_however_many_write_at_once(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = stores.session(tenant, "call").await;
    let (store, operations) = (history(stores), stores.operations.clone());
    all_at_once(32, |task| {
        let (store, operations, session) = (store.clone(), operations.clone(), session.clone());
        async move {
            match task % 4 {
                0 => {
                    let field = SetLeadField { field: task.to_string(), value: json!(task) };
                    // Refused once the session has ended.
                    let _ = operations.carry_out(tenant, on(&session, field), None, at(0)).await;
                }
                1 => {
                    let url = format!("https://media.example/{}", task / 8);
                    store.tell(tenant, session.id, recording(&url).into(), at(1)).await.expect("an answer");
                }
                2 => {
                    let answered = Session { answered_at: Some(at(2)), ..session.clone() };
                    store.update(tenant, &answered).await.expect("an answer");
                }
                _ => {
                    tokio::task::yield_now().await;
                    let entry = whole(&session, Outcome::CallerHangup, at(3));
                    store.write(tenant, vec![entry], at(3)).await.expect("written");
                }
            }
        }
    })
    .await;
    let told = kinds(&events(stores, &session).await);
    let count = |kind| told.iter().filter(|told| **told == kind).count();
    assert_eq!((count(EventType::CallStarted), count(EventType::CallEnded)), (1, 1), "{told:?}");
    assert_eq!(count(EventType::CallRecordingReady), 4, "one for each URL: {told:?}");
    assert!(count(EventType::CallAnswered) <= 1 && count(EventType::LeadUpdated) <= 8, "{told:?}");
}

async fn what_is_not_written_is_not_told(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = stores.session(tenant, "call").await;
    let before = events(stores, &session).await;
    let stale = Session { answered_at: Some(at(3)), version: 7, ..session.clone() };
    assert!(!stores.sessions.update(tenant, &stale).await.expect("an answer"));
    let unknown = SessionId::new(&Env::system());
    let told = stores.sessions.tell(tenant, unknown, recording("https://media.example/a").into(), at(1)).await;
    assert!(!told.expect("an answer"));
    let other = stores.tenant().await;
    assert!(stores.sessions.end(other, session.id, Outcome::Hangup, at(1)).await.expect("an answer").is_none());
    assert_eq!(events(stores, &session).await, before);
}

async fn events_of_a_sandbox_call_say_so(stores: &Stores) {
    let tenant = stores.tenant().await;
    let sandbox = Session { sandbox: true, ..session(tenant, stores.agent(tenant).await.id, "call") };
    stores.sessions.open(tenant, &sandbox).await.expect("opened");
    carry_out(stores, on(&sandbox, SetLeadStatus { status: LeadStatus::Dnd })).await.expect("carried out");
    stores.sessions.end(tenant, sandbox.id, Outcome::Hangup, at(9)).await.expect("an answer");
    let told = events(stores, &sandbox).await;
    assert_eq!(told.len(), 5);
    assert!(told.iter().all(|event| event.event.data["sandbox"] == Value::Bool(true)));
}

// ---------------------------------------------------------------- positions in the tenant's events

/// All events of the tenant, page by page.
async fn all(stores: &Stores, tenant: TenantId, filter: &EventFilter, limit: u16) -> Vec<TenantEvent> {
    let (mut found, mut position) = (Vec::new(), 0);
    loop {
        let EventPage { events, through, is_last } =
            stores.events.after(tenant, position, filter, limit).await.expect("a page");
        assert!(events.len() <= usize::from(limit) && through >= position);
        found.extend(events);
        if is_last {
            return found;
        }
        assert!(through > position, "no end");
        position = through;
    }
}

async fn everything(stores: &Stores, tenant: TenantId) -> Vec<TenantEvent> {
    all(stores, tenant, &EventFilter::default(), 100).await
}

fn sequences(events: &[TenantEvent]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

async fn positions_rise_by_time_and_within_a_session_by_number(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (store, agent) = (history(stores), stores.agent(tenant).await.id);
    let begun = |call: &str, seconds| Session { started_at: at(seconds), ..session(tenant, agent, call) };
    let [late, early] = [begun("late", 50), begun("early", 10)];
    // The end of the one that began last is noted by a clock that is behind.
    let entries = vec![whole(&late, Outcome::Hangup, at(20)), whole(&early, Outcome::Hangup, at(60))];
    store.write(tenant, entries, at(70)).await.expect("written");
    assert!(everything(stores, tenant).await.is_empty(), "nobody reads what has no position");
    assert_eq!(stores.events.unsequenced().await.expect("an answer"), [tenant]);
    assert_eq!(stores.events.sequence(tenant, 100).await.expect("an answer"), 8);
    assert_eq!(stores.events.sequence(tenant, 100).await.expect("an answer"), 0);
    assert!(stores.events.unsequenced().await.expect("an answer").is_empty());

    let read = everything(stores, tenant).await;
    assert_eq!(sequences(&read), (1..=8).collect::<Vec<u64>>());
    let told: Vec<(&str, u64)> = read.iter().map(|event| (event.call.as_str(), event.session_sequence)).collect();
    let in_order =
        [("early", 1), ("early", 2), ("late", 1), ("late", 2), ("late", 3), ("late", 4), ("early", 3), ("early", 4)];
    assert_eq!(told, in_order);
    for (session, calls) in [(&early, "early"), (&late, "late")] {
        let written = events(stores, session).await;
        let read: Vec<_> = read.iter().filter(|event| event.call.as_str() == calls).collect();
        for (written, read) in written.iter().zip(read) {
            assert_eq!((written.id, written.at, written.event.kind.as_str()), (read.id, read.at, read.kind.as_str()));
            assert_eq!((&written.event.data, read.tenant), (&read.data, tenant));
        }
    }
    let last = &read[7];
    assert_eq!(stores.events.position(tenant, last.id).await.expect("an answer"), Some(Position::At(8)));
    assert_eq!(stores.events.last(tenant).await.expect("an answer"), 8);
}

async fn an_event_that_is_committed_late_stands_behind_what_was_read(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await.id;
    let store = history(stores);
    let [first, second] = [session(tenant, agent, "first"), session(tenant, agent, "second")];
    store.write(tenant, vec![begins(&second)], at(5)).await.expect("written");
    stores.events.sequence(tenant, 100).await.expect("an answer");
    let read = everything(stores, tenant).await;
    // Of an earlier moment and of an earlier session, and written now.
    store.write(tenant, vec![begins(&first)], at(5)).await.expect("written");
    let id = events(stores, &first).await[0].id;
    assert_eq!(stores.events.position(tenant, id).await.expect("an answer"), Some(Position::Unsequenced));
    stores.events.sequence(tenant, 100).await.expect("an answer");
    let after = stores.events.after(tenant, read[1].sequence, &EventFilter::default(), 10).await.expect("a page");
    assert_eq!(sequences(&after.events), [3, 4]);
    assert!(after.events.iter().all(|event| event.call == first.call) && after.is_last);
}

async fn sixteen_sequencers_give_each_event_one_position(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (store, agent) = (history(stores), stores.agent(tenant).await.id);
    let lives: Arc<[Session]> = (0..64).map(|n| session(tenant, agent, &format!("call-{n}"))).collect();
    all_at_once(32, |task| {
        let (store, events, lives) = (store.clone(), stores.events.clone(), lives.clone());
        async move {
            if task % 2 == 0 {
                for life in lives.iter().skip(task / 2).step_by(16) {
                    store.write(tenant, vec![begins(life)], at(5)).await.expect("written");
                    store.end(tenant, life.id, Outcome::Hangup, at(6)).await.expect("an answer");
                }
            } else {
                for _ in 0..20 {
                    events.sequence(tenant, 7).await.expect("an answer");
                }
            }
        }
    })
    .await;
    while stores.events.sequence(tenant, 100).await.expect("an answer") > 0 {}
    let read = everything(stores, tenant).await;
    assert_eq!(sequences(&read), (1..=256).collect::<Vec<u64>>());
    let mut numbers = HashMap::new();
    for event in &read {
        let last = numbers.entry(event.call.clone()).or_insert(0);
        assert_eq!(event.session_sequence, *last + 1, "{event:?}");
        *last += 1;
    }
}

async fn a_page_ends_where_it_says_and_the_next_goes_on_there(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (store, agent) = (history(stores), stores.agent(tenant).await.id);
    let empty = stores.events.after(tenant, 0, &EventFilter::default(), 5).await.expect("a page");
    assert_eq!(empty, EventPage { events: Vec::new(), through: 0, is_last: true });
    let lives = (0..5).map(|n| whole(&session(tenant, agent, &format!("call-{n}")), Outcome::Hangup, at(9)));
    store.write(tenant, lives.collect(), at(9)).await.expect("written");
    stores.events.sequence(tenant, 100).await.expect("an answer");
    for limit in [1, 3, 10, 20, 21] {
        assert_eq!(
            sequences(&all(stores, tenant, &EventFilter::default(), limit).await),
            (1..=20).collect::<Vec<u64>>()
        );
    }
    let ends = EventFilter { kinds: Some(vec![EventType::CallEnded]), ..EventFilter::default() };
    for limit in [1, 4, 5, 6] {
        let read = all(stores, tenant, &ends, limit).await;
        assert_eq!(read.len(), 5);
    }
    let beyond = stores.events.after(tenant, 20, &EventFilter::default(), 5).await.expect("a page");
    assert_eq!(beyond, EventPage { events: Vec::new(), through: 20, is_last: true });
    let unknown = stores.events.position(tenant, EventId::new(&Env::system())).await.expect("an answer");
    assert_eq!(unknown, None);
}

async fn filters_let_through_what_they_name(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (store, agents) = (history(stores), [stores.agent(tenant).await.id, stores.agent(tenant).await.id]);
    let lives = agents.map(|agent| session(tenant, agent, &format!("call-{agent}")));
    let entries = lives.iter().map(|life| whole(life, Outcome::Hangup, at(9))).collect();
    store.write(tenant, entries, at(9)).await.expect("written");
    stores.events.sequence(tenant, 100).await.expect("an answer");
    let read = everything(stores, tenant).await;
    let none = EventFilter::default();
    let filters = [
        (none.clone(), 8),
        (EventFilter { kinds: Some(vec![EventType::CallEnded, EventType::CallStarted]), ..none.clone() }, 4),
        (EventFilter { kinds: Some(Vec::new()), ..none.clone() }, 0),
        (EventFilter { call: Some(lives[1].call.clone()), ..none.clone() }, 4),
        (EventFilter { agent: Some(agents[0]), ..none.clone() }, 4),
        (EventFilter { agent: Some(agents[0]), call: Some(lives[1].call.clone()), ..none.clone() }, 0),
        (EventFilter { agent: Some(agents[0]), kinds: Some(vec![EventType::AiSessionEnded]), call: None }, 1),
    ];
    for (filter, count) in filters {
        let found = all(stores, tenant, &filter, 3).await;
        let admitted: Vec<_> =
            read.iter().filter(|event| filter.admits(&event.kind, &event.call, &event.data)).cloned().collect();
        assert_eq!((&found, found.len()), (&admitted, count), "{filter:?}");
    }
}

async fn another_tenants_events_have_positions_of_their_own(stores: &Stores) {
    let tenants = [stores.tenant().await, stores.tenant().await];
    for tenant in tenants {
        stores.session(tenant, "call").await;
        stores.events.sequence(tenant, 100).await.expect("an answer");
    }
    let [ours, theirs] = tenants;
    let read = everything(stores, ours).await;
    assert_eq!(sequences(&read), [1, 2]);
    assert!(read.iter().all(|event| event.tenant == ours));
    assert_eq!(stores.events.position(theirs, read[0].id).await.expect("an answer"), None);
    let mut heads = stores.events.heads(&tenants).await.expect("an answer");
    heads.sort();
    let mut expected = tenants.map(|tenant| (tenant, 2));
    expected.sort();
    assert_eq!(heads, expected);
    let unknown = TenantId::new(&Env::system());
    assert!(stores.events.heads(&[unknown]).await.expect("an answer").is_empty());
    assert_eq!(stores.events.last(unknown).await.expect("an answer"), 0);
}

async fn a_sequencer_is_told_of_news_and_finds_the_rest_by_itself(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await.id;
    let news = EventNews::default();
    let telling = SqlSessionStore::new(stores.db.clone(), Env::system(), news.clone());
    let sequencer = Arc::new(Sequencer::new(stores.events.clone(), news));
    let (stop, (tell, mut told)) = (CancellationToken::new(), mpsc::unbounded_channel());
    let working = tokio::spawn({
        let (sequencer, stop) = (sequencer.clone(), stop.clone());
        let telling = move |tenant| tell.send(tenant).expect("it is listened to");
        async move { sequencer.run_until(telling, stop).await }
    });
    // By a store that tells, and by one that does not, as another replica's.
    let lives = [session(tenant, agent, "told"), session(tenant, agent, "found")];
    for (store, life) in [&telling as &dyn History, &*history(stores)].into_iter().zip(&lives) {
        store.write(tenant, vec![begins(life)], at(5)).await.expect("written");
        let next = tokio::time::timeout(Duration::from_secs(30), told.recv()).await.expect("it is told");
        assert_eq!(next, Some(tenant));
        let read = everything(stores, tenant).await;
        assert_eq!(read.last().map(|event| &event.call), Some(&life.call));
    }
    stop.cancel();
    working.await.expect("it stops");
}

/// Only where two transactions can be open at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_transaction_that_is_held_open_is_read_by_who_has_read_on() {
    let url = fresh_database();
    let stores = Stores::of(patient(&url), None);
    let tenant = stores.tenant().await;
    let held = stores.session(tenant, "held").await;
    stores.events.sequence(tenant, 100).await.expect("an answer");

    let mut open = AsyncPgConnection::establish(&url).await.expect("a connection");
    let session = held.id.as_uuid();
    let begin = format!(
        "BEGIN; SET LOCAL voxgate.tenant = '{tenant}';
         UPDATE sessions SET events = events + 1 WHERE id = '{session}';
         INSERT INTO events (tenant_id, id, kind, created_at, session_id, call_id, session_sequence, data)
         VALUES ('{tenant}', '{}', 'call.answered', now(), '{session}', 'held', 3, '{{}}')",
        Env::system().uuid()
    );
    open.batch_execute(&begin).await.expect("written, and not committed");
    // Another one begins later and commits first.
    let later = stores.session(tenant, "later").await;
    stores.events.sequence(tenant, 100).await.expect("an answer");
    let read = everything(&stores, tenant).await;
    assert_eq!(sequences(&read), [1, 2, 3, 4]);
    assert!(read[2..].iter().all(|event| event.call == later.call));

    open.batch_execute("COMMIT").await.expect("committed");
    stores.events.sequence(tenant, 100).await.expect("an answer");
    let after = stores.events.after(tenant, read[3].sequence, &EventFilter::default(), 10).await.expect("a page");
    let resumed: Vec<_> = after.events.iter().map(|event| (event.call.as_str(), event.kind.as_str())).collect();
    assert_eq!(resumed, [("held", "call.answered")]);
}
