//! What every `SessionStore` promises.

use std::{collections::HashMap, sync::Arc, time::Duration};

use voxgate::{
    agents::Deleted,
    domain::{
        Env, Error, Result,
        direct::{Direct, DirectRequest},
        error::Resource,
        ids::{LeaseId, SessionId, VoiceAgentId},
        lease::Direction,
        page::PageRequest,
        session::{CallState, Outcome, Session, SessionStatus},
        session_filter::SessionFilter,
    },
    sessions::{ActiveCall, Opened},
};

use super::{Stores, all_at_once, at, call, on_every_backend, session};

on_every_backend![
    a_session_reads_back_as_it_was_written,
    another_tenants_session_does_not_exist,
    opening_a_lease_twice_answers_the_session_that_stands,
    a_lease_opened_from_sixteen_tasks_has_one_session,
    opening_ends_what_an_expired_lease_left,
    calls_opened_under_sixteen_leases_at_once_have_one_active_session,
    a_stale_holder_does_not_end_its_successor,
    a_call_answers_its_active_session_or_its_newest,
    an_update_builds_on_what_was_read,
    of_thirty_two_writers_on_one_version_one_wins,
    a_session_ends_once,
    of_sixteen_who_end_a_session_one_is_told,
    the_active_sessions_of_an_agent_are_listed_oldest_first,
    the_longest_overdue_are_due_first,
    those_that_have_lasted_as_long_as_they_may_are_told,
    a_direct_session_reads_back_and_ends_sooner_once_it_is_answered,
    noting_a_lease_is_not_a_change,
    the_longest_lease_is_that_of_an_active_session_of_the_tenant,
    statuses_are_told_of_the_tenants_own_sessions,
    the_active_calls_of_a_tenant_are_told_with_lease_and_node,
    those_that_ended_are_listed_in_that_order,
    a_session_needs_an_agent_of_its_tenant,
    a_late_retry_is_answered_though_its_agent_was_deleted,
    no_session_is_opened_of_an_agent_that_is_being_deleted,
];

async fn get(stores: &Stores, session: &Session) -> Session {
    stores.sessions.get(session.tenant, session.id).await.expect("an answer").expect("the session")
}

fn under_another_lease(session: &Session) -> Session {
    let env = Env::system();
    let lease = LeaseId::new(&env, session.agent);
    Session { id: SessionId::new(&env), lease, fence: session.fence + 1, started_at: at(100), ..session.clone() }
}

async fn a_session_reads_back_as_it_was_written(stores: &Stores) {
    let tenant = stores.tenant().await;
    let plain = session(tenant, stores.agent(tenant).await.id, "plain");
    let full = Session {
        agent_revision: 7,
        fence: i64::MAX,
        direction: Direction::Outbound,
        node: Some("node-1".parse().expect("a node id")),
        sandbox: true,
        metadata: [("ключ".to_owned(), "значение 🎧".into())].into_iter().collect(),
        state: CallState { ws_connected: true, held: true, turn_count: 3, ..CallState::default() },
        answered_at: Some(at(3)),
        ..session(tenant, stores.agent(tenant).await.id, "full")
    };
    for written in [plain, full] {
        assert!(matches!(stores.sessions.open(tenant, &written).await, Ok(Opened::New)));
        assert_eq!(get(stores, &written).await, written);
    }
}

async fn another_tenants_session_does_not_exist(stores: &Stores) {
    let (owner, other) = (stores.tenant().await, stores.tenant().await);
    let session = stores.session(owner, "call").await;
    assert_eq!(stores.sessions.get(other, session.id).await.expect("an answer"), None);
    assert_eq!(stores.sessions.of_call(other, &session.call).await.expect("an answer"), None);
    assert!(!stores.sessions.update(other, &session).await.expect("an answer"));
    assert_eq!(stores.sessions.end(other, session.id, Outcome::Hangup, at(1)).await.expect("an answer"), None);
    assert!(stores.sessions.active_of_agent(other, session.agent, 10).await.expect("an answer").is_empty());
    stores.sessions.lease_known_until(other, session.id, at(999), Duration::from_secs(999)).await.expect("an answer");
    assert_eq!(get(stores, &session).await, session);
    // Two tenants may have a call of one name.
    let theirs = stores.session(other, "call").await;
    assert_eq!(get(stores, &session).await, session);
    assert_eq!(get(stores, &theirs).await, theirs);
}

async fn opening_a_lease_twice_answers_the_session_that_stands(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = stores.session(tenant, "call").await;
    let again = Session { id: SessionId::new(&Env::system()), ..first.clone() };
    for retry in [&first, &again] {
        let Ok(Opened::Existing(existing)) = stores.sessions.open(tenant, retry).await else {
            panic!("the first session was expected");
        };
        assert_eq!(*existing, first);
    }
    // Also when it has ended since: a late retry opens no second session of one lease.
    let ended = stores.sessions.end(tenant, first.id, Outcome::Hangup, at(5)).await.expect("an answer");
    let Ok(Opened::Existing(existing)) = stores.sessions.open(tenant, &again).await else {
        panic!("the first session was expected");
    };
    assert_eq!(Some(*existing), ended);
}

async fn a_lease_opened_from_sixteen_tasks_has_one_session(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = Arc::new(session(tenant, stores.agent(tenant).await.id, "call"));
    let answers = all_at_once(16, |_| {
        let (sessions, session) = (stores.sessions.clone(), session.clone());
        async move {
            match sessions.open(tenant, &session).await.expect("an answer") {
                Opened::New => None,
                Opened::Existing(existing) => Some(*existing),
            }
        }
    })
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 1);
    assert!(answers.iter().flatten().all(|existing| *existing == *session));
}

async fn opening_ends_what_an_expired_lease_left(stores: &Stores) {
    let tenant = stores.tenant().await;
    let bystander = stores.session(tenant, "another-call").await;
    let left = stores.session(tenant, "call").await;
    let next = under_another_lease(&left);
    assert!(matches!(stores.sessions.open(tenant, &next).await, Ok(Opened::New)));
    let left = get(stores, &left).await;
    assert_eq!((left.status, left.outcome), (SessionStatus::Expired, Some(Outcome::LeaseExpired)));
    assert_eq!((left.ended_at, left.version), (Some(at(100)), 2));
    assert_eq!(get(stores, &next).await, next);
    assert_eq!(get(stores, &bystander).await, bystander);
}

async fn calls_opened_under_sixteen_leases_at_once_have_one_active_session(stores: &Stores) {
    let tenant = stores.tenant().await;
    // Of an agent each, so that no fence tells them apart.
    let mut agents = Vec::new();
    for _ in 0..16 {
        agents.push(stores.agent(tenant).await.id);
    }
    let answers = all_at_once(16, |task| {
        let (sessions, agent) = (stores.sessions.clone(), agents[task]);
        async move {
            let mine = session(tenant, agent, "call");
            assert!(matches!(sessions.open(tenant, &mine).await, Ok(Opened::New)));
            mine
        }
    })
    .await;
    let mut active = 0;
    for session in &answers {
        active += usize::from(get(stores, session).await.is_active());
    }
    assert_eq!(active, 1);
}

async fn a_stale_holder_does_not_end_its_successor(stores: &Stores) {
    let tenant = stores.tenant().await;
    let late = session(tenant, stores.agent(tenant).await.id, "call");
    let successor = under_another_lease(&late);
    assert!(matches!(stores.sessions.open(tenant, &successor).await, Ok(Opened::New)));
    let refused = stores.sessions.open(tenant, &late).await;
    assert!(matches!(refused, Err(Error::LeaseLost { .. })), "{refused:?}");
    assert_eq!(get(stores, &successor).await, successor);
    assert_eq!(stores.sessions.get(tenant, late.id).await.expect("an answer"), None);
}

async fn a_call_answers_its_active_session_or_its_newest(stores: &Stores) {
    let tenant = stores.tenant().await;
    assert_eq!(stores.sessions.of_call(tenant, &call("call")).await.expect("an answer"), None);
    let first = stores.session(tenant, "call").await;
    let second = under_another_lease(&first);
    stores.sessions.open(tenant, &second).await.expect("opened");
    let found = stores.sessions.of_call(tenant, &first.call).await.expect("an answer").expect("a session");
    assert_eq!(found.id, second.id);
    stores.sessions.end(tenant, second.id, Outcome::Hangup, at(101)).await.expect("ended");
    let found = stores.sessions.of_call(tenant, &first.call).await.expect("an answer").expect("a session");
    assert_eq!((found.id, found.outcome), (second.id, Some(Outcome::Hangup)));
    // Active although its replica's clock was behind.
    let third = Session { started_at: at(1), ..under_another_lease(&second) };
    stores.sessions.open(tenant, &third).await.expect("opened");
    let found = stores.sessions.of_call(tenant, &first.call).await.expect("an answer").expect("a session");
    assert_eq!(found.id, third.id);
}

async fn an_update_builds_on_what_was_read(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = stores.session(tenant, "call").await;
    let change = Session {
        node: Some("node-1".parse().expect("a node id")),
        answered_at: Some(at(2)),
        state: CallState { held: true, ..CallState::default() },
        ..first.clone()
    };
    assert!(stores.sessions.update(tenant, &change).await.expect("an answer"));
    let read = get(stores, &first).await;
    assert_eq!(read, Session { version: 2, ..change.clone() });
    assert!(!stores.sessions.update(tenant, &change).await.expect("an answer"), "version 1 is history");
    let ended = stores.sessions.end(tenant, first.id, Outcome::Hangup, at(3)).await.expect("an answer");
    let ended = ended.expect("it was active");
    assert!(!stores.sessions.update(tenant, &ended).await.expect("an answer"), "it has ended");
    assert_eq!(get(stores, &first).await, ended);
}

async fn of_thirty_two_writers_on_one_version_one_wins(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = Arc::new(stores.session(tenant, "call").await);
    let answers = all_at_once(32, |task| {
        let (sessions, session) = (stores.sessions.clone(), session.clone());
        let turn_count = u32::try_from(task).expect("small");
        let change = Session { state: CallState { turn_count, ..CallState::default() }, ..(*session).clone() };
        async move { sessions.update(tenant, &change).await.expect("an answer") }
    })
    .await;
    let winners: Vec<_> = (0..32).filter(|task| answers[*task]).collect();
    assert_eq!(winners.len(), 1);
    let read = get(stores, &session).await;
    assert_eq!((usize::try_from(read.state.turn_count), read.version), (Ok(winners[0]), 2));
}

async fn a_session_ends_once(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = stores.session(tenant, "call").await;
    let ended = stores.sessions.end(tenant, session.id, Outcome::NodeLost, at(9)).await.expect("an answer");
    let expected = Session {
        status: SessionStatus::Expired,
        outcome: Some(Outcome::NodeLost),
        ended_at: Some(at(9)),
        version: 2,
        ..session.clone()
    };
    assert_eq!(ended, Some(expected.clone()));
    assert_eq!(stores.sessions.end(tenant, session.id, Outcome::Hangup, at(10)).await.expect("an answer"), None);
    assert_eq!(get(stores, &session).await, expected);
    let unknown = SessionId::new(&Env::system());
    assert_eq!(stores.sessions.end(tenant, unknown, Outcome::Hangup, at(10)).await.expect("an answer"), None);
}

async fn of_sixteen_who_end_a_session_one_is_told(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = stores.session(tenant, "call").await;
    let outcomes = &Outcome::ALL[..16];
    let answers = all_at_once(outcomes.len(), |task| {
        let (sessions, id, outcome) = (stores.sessions.clone(), session.id, outcomes[task]);
        async move { sessions.end(tenant, id, outcome, at(1)).await.expect("an answer") }
    })
    .await;
    let told: Vec<_> = answers.into_iter().flatten().collect();
    assert_eq!(told.len(), 1);
    assert_eq!(get(stores, &session).await, told[0]);
}

async fn the_active_sessions_of_an_agent_are_listed_oldest_first(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await.id;
    let mut opened = Vec::new();
    for second in [3, 1, 2, 0] {
        let session = Session { started_at: at(second), ..session(tenant, agent, &format!("call-{second}")) };
        stores.sessions.open(tenant, &session).await.expect("opened");
        opened.push(session);
    }
    stores.session(tenant, "of-another-agent").await;
    stores.sessions.end(tenant, opened[2].id, Outcome::Hangup, at(9)).await.expect("ended");
    let listed = async |limit| {
        let found = stores.sessions.active_of_agent(tenant, agent, limit).await.expect("a list");
        found.into_iter().map(|session| session.call.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(listed(10).await, ["call-0", "call-1", "call-3"]);
    assert_eq!(listed(2).await, ["call-0", "call-1"]);
}

async fn those_that_have_lasted_as_long_as_they_may_are_told(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await.id;
    let lasting = |on: &str, until| Session { ends_at: until, ..session(tenant, agent, on) };
    let (late, early) = (lasting("late", Some(at(20))), lasting("early", Some(at(10))));
    let (endless, over) = (lasting("endless", None), lasting("over", Some(at(5))));
    for session in [&late, &early, &endless, &over] {
        stores.sessions.open(tenant, session).await.expect("an answer");
    }
    stores.sessions.end(tenant, over.id, Outcome::Hangup, at(1)).await.expect("an answer");
    let told = async |moment, limit| {
        let over = stores.sessions.over(moment, limit).await.expect("an answer");
        over.into_iter().map(|session| session.call.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(told(at(20), 10).await, ["early"], "before that moment");
    assert_eq!(told(at(21), 10).await, ["early", "late"]);
    assert_eq!(told(at(21), 1).await, ["early"]);
    assert_eq!(get(stores, &late).await.ends_at, Some(at(20)));
}

async fn a_direct_session_reads_back_and_ends_sooner_once_it_is_answered(stores: &Stores) {
    let tenant = stores.tenant().await;
    let plain = session(tenant, stores.agent(tenant).await.id, "call");
    let request = DirectRequest {
        max_duration: Some(Duration::from_secs(30)),
        participant: serde_json::json!({"имя": ["Ада", null]}).as_object().cloned(),
        context: Some("two\nlines 🎧".into()),
        ..DirectRequest::default()
    };
    let direct = Direct::new(request, &plain.routing, plain.id);
    let ends_at = Some(direct.ends_at(plain.started_at));
    let opened = Session { direct: Some(Arc::new(direct)), ends_at, ..plain };
    stores.sessions.open(tenant, &opened).await.expect("an answer");
    let mut read = get(stores, &opened).await;
    assert_eq!(read, opened);
    read.answer(at(5));
    assert!(stores.sessions.update(tenant, &read).await.expect("an answer"));
    let answered = get(stores, &opened).await;
    assert_eq!((answered.answered_at, answered.ends_at), (Some(at(5)), Some(at(35))));
    let over = stores.sessions.over(at(36), 10).await.expect("an answer");
    assert!(over.iter().any(|session| session.id == opened.id));
    let page = PageRequest { size: 10, after: None };
    let listed = stores.sessions.list(tenant, SessionFilter::default(), page).await.expect("a page").sessions;
    assert_eq!(listed[0].direct, opened.direct);
}

async fn the_longest_overdue_are_due_first(stores: &Stores) {
    let mut opened = Vec::new();
    for second in [30, 10, 20, 40] {
        let tenant = stores.tenant().await;
        let session = session(tenant, stores.agent(tenant).await.id, "call");
        let session = Session { lease_expires_at: at(second), ..session };
        stores.sessions.open(tenant, &session).await.expect("opened");
        opened.push(session);
    }
    let ids = |sessions: Vec<Session>| sessions.into_iter().map(|session| session.id).collect::<Vec<_>>();
    let due = stores.sessions.due(at(40), 10).await.expect("a list");
    assert_eq!(ids(due), [opened[1].id, opened[2].id, opened[0].id], "those before the moment, of all tenants");
    assert_eq!(ids(stores.sessions.due(at(40), 1).await.expect("a list")), [opened[1].id]);
    stores.sessions.end(opened[1].tenant, opened[1].id, Outcome::LeaseExpired, at(41)).await.expect("ended");
    assert_eq!(ids(stores.sessions.due(at(40), 1).await.expect("a list")), [opened[2].id]);
}

async fn noting_a_lease_is_not_a_change(stores: &Stores) {
    let tenant = stores.tenant().await;
    let session = stores.session(tenant, "call").await;
    for life in [90, 30] {
        let life = Duration::from_secs(life);
        stores.sessions.lease_known_until(tenant, session.id, at(120), life).await.expect("noted");
    }
    let noted = Session { lease_expires_at: at(120), lease_ttl: Duration::from_secs(90), ..session.clone() };
    assert_eq!(get(stores, &session).await, noted, "the longest life that was seen stays");
    assert!(stores.sessions.update(tenant, &session).await.expect("an answer"), "the version stayed");
    assert_eq!(get(stores, &session).await.lease_expires_at, at(120), "an update leaves the lease alone");
}

async fn the_longest_lease_is_that_of_an_active_session_of_the_tenant(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    let longest = async |tenant| stores.sessions.longest_lease(tenant).await.expect("an answer");
    assert_eq!(longest(tenant).await, None);
    let agent = stores.agent(tenant).await.id;
    let of = |on, life| Session { lease_ttl: Duration::from_secs(life), ..session(tenant, agent, on) };
    let (short, long) = (of("short", 20), of("long", 300));
    for opened in [&short, &long] {
        stores.sessions.open(tenant, opened).await.expect("opened");
    }
    assert_eq!((longest(tenant).await, longest(other).await), (Some(Duration::from_mins(5)), None));
    stores.sessions.end(tenant, long.id, Outcome::Hangup, at(1)).await.expect("an answer");
    assert_eq!(longest(tenant).await, Some(Duration::from_secs(20)));
}

async fn statuses_are_told_of_the_tenants_own_sessions(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    let (active, ended, expired) =
        (stores.session(tenant, "a").await, stores.session(tenant, "b").await, stores.session(tenant, "c").await);
    let theirs = stores.session(other, "d").await;
    stores.sessions.end(tenant, ended.id, Outcome::Hangup, at(1)).await.expect("an answer");
    stores.sessions.end(tenant, expired.id, Outcome::NodeLost, at(1)).await.expect("an answer");
    let ids = [active.id, ended.id, expired.id, theirs.id, SessionId::new(&Env::system())];
    let told = stores.sessions.statuses(tenant, &ids).await.expect("an answer");
    let expected =
        [(active.id, SessionStatus::Active), (ended.id, SessionStatus::Ended), (expired.id, SessionStatus::Expired)];
    assert_eq!(told, HashMap::from(expected));
    assert!(stores.sessions.statuses(tenant, &[]).await.expect("an answer").is_empty());
}

async fn the_active_calls_of_a_tenant_are_told_with_lease_and_node(stores: &Stores) {
    let (tenant, other, idle) = (stores.tenant().await, stores.tenant().await, stores.tenant().await);
    let hosted = Session {
        node: Some("node-1".parse().expect("a node id")),
        sandbox: true,
        state: CallState { ws_connected: true, ..CallState::default() },
        ..session(tenant, stores.agent(tenant).await.id, "hosted")
    };
    stores.sessions.open(tenant, &hosted).await.expect("opened");
    let ended = stores.session(tenant, "ended").await;
    stores.sessions.end(tenant, ended.id, Outcome::Hangup, at(1)).await.expect("an answer");
    let theirs = stores.session(other, "theirs").await;
    stores.session(other, "more").await;
    let told = stores.sessions.active_calls(tenant, 10).await.expect("an answer");
    let expected = ActiveCall {
        session: hosted.id,
        call: hosted.call.clone(),
        lease: hosted.lease,
        node: hosted.node.clone(),
        sandbox: true,
        ws_connected: true,
    };
    assert_eq!(told, [expected]);
    assert_eq!(told[0].node_address(tenant), hosted.node_address());
    let plain = stores.sessions.active_calls(other, 10).await.expect("an answer");
    let plain = plain.iter().find(|call| call.session == theirs.id).expect("it is active");
    assert_eq!((plain.node_address(other), plain.ws_connected), (None, false));
    assert_eq!(stores.sessions.active_calls(other, 1).await.expect("an answer").len(), 1);
    let tenants = stores.sessions.tenants_with_calls().await.expect("an answer");
    assert!(tenants.contains(&tenant) && tenants.contains(&other) && !tenants.contains(&idle));
    assert_eq!(tenants.iter().filter(|it| **it == other).count(), 1);
}

async fn those_that_ended_are_listed_in_that_order(stores: &Stores) {
    let (here, there) = (stores.tenant().await, stores.tenant().await);
    let active = stores.session(here, "active").await;
    let mut ended = Vec::new();
    for (tenant, call, moment) in [(here, "late", at(30)), (there, "early", at(10)), (here, "middle", at(20))] {
        let session = stores.session(tenant, call).await;
        stores.sessions.end(tenant, session.id, Outcome::Hangup, moment).await.expect("an answer").expect("ended");
        ended.push(session.id);
    }
    let since = async |moment, limit| {
        let listed = stores.sessions.ended_since(moment, limit).await.expect("a list");
        listed.into_iter().map(|session| session.id).collect::<Vec<_>>()
    };
    assert_eq!(since(at(0), 10).await, [ended[1], ended[2], ended[0]], "not {}", active.id);
    assert_eq!(since(at(20), 10).await, [ended[2], ended[0]]);
    assert_eq!(since(at(20), 1).await, [ended[2]]);
}

fn is_without_agent(answer: &Result<Opened>) -> bool {
    matches!(answer, Err(Error::NotFound { resource: Resource::VoiceAgent, .. }))
}

async fn a_session_needs_an_agent_of_its_tenant(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    let deleted = stores.agent(tenant).await.id;
    assert_eq!(stores.agents.delete(tenant, deleted, 1).await.expect("an answer"), Deleted::Done);
    let standing = stores.session(tenant, "taken").await;
    for agent in [VoiceAgentId::new(&Env::system()), deleted, stores.agent(other).await.id] {
        for on in ["free", "taken"] {
            let opening = session(tenant, agent, on);
            let refused = stores.sessions.open(tenant, &opening).await;
            assert!(is_without_agent(&refused), "{refused:?}");
            assert_eq!(stores.sessions.get(tenant, opening.id).await.expect("an answer"), None);
        }
    }
    assert_eq!(get(stores, &standing).await, standing, "it was not ended for one that was not opened");
}

async fn a_late_retry_is_answered_though_its_agent_was_deleted(stores: &Stores) {
    let tenant = stores.tenant().await;
    let first = stores.session(tenant, "call").await;
    let ended = stores.sessions.end(tenant, first.id, Outcome::AgentDeleted, at(5)).await.expect("an answer");
    assert_eq!(stores.agents.delete(tenant, first.agent, 1).await.expect("an answer"), Deleted::Done);
    let Ok(Opened::Existing(existing)) = stores.sessions.open(tenant, &first).await else {
        panic!("the first session was expected");
    };
    assert_eq!(Some(*existing), ended);
    let next = stores.sessions.open(tenant, &under_another_lease(&first)).await;
    assert!(is_without_agent(&next), "{next:?}");
}

async fn no_session_is_opened_of_an_agent_that_is_being_deleted(stores: &Stores) {
    let tenant = stores.tenant().await;
    let mut agents = Vec::new();
    for _ in 0..24 {
        agents.push(stores.agent(tenant).await.id);
    }
    // Of every agent one task opens a session and another one deletes it, now this one first and now that one.
    let answers = all_at_once(48, |task| {
        let (sessions, store, agent) = (stores.sessions.clone(), stores.agents.clone(), agents[task / 2]);
        let opens = (task + task / 2) % 2 == 0;
        async move {
            if opens {
                let answer = sessions.open(tenant, &session(tenant, agent, &format!("call-{task}"))).await;
                assert!(matches!(answer, Ok(Opened::New)) || is_without_agent(&answer), "{answer:?}");
                answer.is_ok()
            } else {
                let answer = store.delete(tenant, agent, 1).await.expect("an answer");
                assert!(matches!(answer, Deleted::Done | Deleted::InUse { active_sessions: 1 }), "{answer:?}");
                answer == Deleted::Done
            }
        }
    })
    .await;
    for (agent, done) in agents.into_iter().zip(answers.chunks(2)) {
        let exists = stores.agents.get(tenant, agent).await.expect("an answer").is_some();
        let active = stores.sessions.active_of_agent(tenant, agent, 10).await.expect("a list").len();
        assert_eq!(active, usize::from(exists), "a session of a deleted agent");
        assert_ne!(done[0], done[1], "either it was opened or it was deleted");
    }
}
