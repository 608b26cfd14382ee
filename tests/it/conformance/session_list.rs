//! What every `SessionStore` promises of its lists.

use std::{collections::BTreeSet, time::Duration};

use voxgate::{
    domain::{
        Timestamp,
        ids::{SessionId, TenantId, VoiceAgentId},
        page::PageRequest,
        session::{CallState, LeadStatus, Outcome, Record, Routing, Session, SessionStatus},
        session_filter::SessionFilter,
    },
    sessions::SessionPage,
};

use super::{Stores, at, on_every_backend, session};

on_every_backend![
    a_listed_session_is_the_one_that_was_written_but_for_its_routing,
    pages_are_newest_first_and_ties_go_by_id,
    each_page_is_of_the_size_that_was_asked_and_the_last_has_no_next,
    filters_narrow_and_combine,
    pages_neither_skip_nor_repeat_while_sessions_come_and_end,
    another_tenants_sessions_are_not_listed,
];

async fn page(stores: &Stores, tenant: TenantId, filter: SessionFilter, page: PageRequest) -> SessionPage {
    stores.sessions.list(tenant, filter, page).await.expect("a page")
}

/// All pages, one after the other.
async fn listed(stores: &Stores, tenant: TenantId, filter: SessionFilter, size: u16) -> Vec<Session> {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let next = page(stores, tenant, filter, PageRequest { size, after }).await;
        listed.extend(next.sessions);
        after = next.next;
        if after.is_none() {
            return listed;
        }
    }
}

fn ids(sessions: &[Session]) -> Vec<SessionId> {
    sessions.iter().map(|session| session.id).collect()
}

fn newest_first(mut sessions: Vec<Session>) -> Vec<SessionId> {
    sessions.sort_by_key(|session| std::cmp::Reverse((session.started_at, *session.id.as_uuid())));
    ids(&sessions)
}

/// A session of its own call that started then, and has ended so, if it has.
async fn written(
    stores: &Stores,
    (tenant, agent): (TenantId, VoiceAgentId),
    started_at: Timestamp,
    outcome: Option<Outcome>,
) -> Session {
    let started = session(tenant, agent, "call");
    let call = format!("call-{}", started.id).parse().expect("a call id");
    let started = Session { call, started_at, ..started };
    stores.sessions.open(tenant, &started).await.expect("opened");
    match outcome {
        None => started,
        Some(outcome) => {
            let ended = stores.sessions.end(tenant, started.id, outcome, started_at.plus(Duration::from_secs(9))).await;
            ended.expect("an answer").expect("it was active")
        }
    }
}

async fn a_listed_session_is_the_one_that_was_written_but_for_its_routing(stores: &Stores) {
    let tenant = stores.tenant().await;
    let full = Session {
        node: Some("node-1".parse().expect("a node id")),
        sandbox: true,
        metadata: [("ключ".to_owned(), "значение 🎧".into())].into_iter().collect(),
        state: CallState { turn_count: 3, ..CallState::default() },
        record: Record { notes: Some("naïve".into()), lead_status: Some(LeadStatus::Dnd), ..Record::default() },
        answered_at: Some(at(3)),
        ends_at: Some(at(90)),
        ..session(tenant, stores.agent(tenant).await.id, "full")
    };
    stores.sessions.open(tenant, &full).await.expect("opened");
    let found = listed(stores, tenant, SessionFilter::default(), 10).await;
    assert_eq!(found, [Session { routing: Routing::unknown(), ..full }]);
}

async fn pages_are_newest_first_and_ties_go_by_id(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agents = [stores.agent(tenant).await.id, stores.agent(tenant).await.id];
    let outcomes = [None, Some(Outcome::Hangup), Some(Outcome::LeaseExpired)];
    let mut all = Vec::new();
    // Of one moment are sessions of every agent and status.
    for n in 0..36 {
        let agent = agents[n % 2];
        let moment = at(u64::try_from(n / 12).expect("small"));
        all.push(written(stores, (tenant, agent), moment, outcomes[n % 3]).await);
    }
    let expected = newest_first(all);
    for size in [1, 5, 12, 100] {
        assert_eq!(ids(&listed(stores, tenant, SessionFilter::default(), size).await), expected, "pages of {size}");
    }
}

async fn each_page_is_of_the_size_that_was_asked_and_the_last_has_no_next(stores: &Stores) {
    let tenant = stores.tenant().await;
    let nothing = page(stores, tenant, SessionFilter::default(), PageRequest { size: 2, after: None }).await;
    assert_eq!((nothing.sessions.len(), nothing.next), (0, None));
    let agent = stores.agent(tenant).await.id;
    for second in 0..4 {
        written(stores, (tenant, agent), at(second), (second % 2 == 0).then_some(Outcome::Hangup)).await;
    }
    let first = page(stores, tenant, SessionFilter::default(), PageRequest { size: 2, after: None }).await;
    let last = page(stores, tenant, SessionFilter::default(), PageRequest { size: 2, after: first.next }).await;
    assert_eq!((first.sessions.len(), last.sessions.len()), (2, 2));
    assert_eq!(first.next, first.sessions.last().map(Session::cursor));
    assert_eq!(last.next, None, "nothing is left");
}

async fn filters_narrow_and_combine(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agents = [stores.agent(tenant).await.id, stores.agent(tenant).await.id];
    let outcomes = [None, Some(Outcome::Hangup), Some(Outcome::NodeLost)];
    let mut all = Vec::new();
    for agent in agents {
        for outcome in outcomes {
            for second in 0..4 {
                all.push(written(stores, (tenant, agent), at(second), outcome).await);
            }
        }
    }
    let statuses = [None, Some(SessionStatus::Active), Some(SessionStatus::Ended), Some(SessionStatus::Expired)];
    let moments = [None, Some(at(1)), Some(at(3))];
    for agent in [None, Some(agents[0]), Some(agents[1])] {
        for status in statuses {
            for from in moments {
                for before in moments {
                    let filter = SessionFilter { agent, status, from, before };
                    let passes = |session: &&Session| {
                        agent.is_none_or(|agent| session.agent == agent)
                            && status.is_none_or(|status| session.status == status)
                            && from.is_none_or(|from| session.started_at >= from)
                            && before.is_none_or(|before| session.started_at < before)
                    };
                    let expected = newest_first(all.iter().filter(passes).cloned().collect());
                    assert_eq!(ids(&listed(stores, tenant, filter, 3).await), expected, "{filter:?}");
                }
            }
        }
    }
}

async fn pages_neither_skip_nor_repeat_while_sessions_come_and_end(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await.id;
    let mut standing = Vec::new();
    for n in 0..40 {
        let outcome = (n % 2 == 0).then_some(Outcome::Hangup);
        standing.push(written(stores, (tenant, agent), at(10 + n / 8), outcome).await);
    }
    let active: Vec<SessionId> = standing.iter().filter(|it| it.is_active()).map(|it| it.id).collect();
    let (sessions, ending) = (stores.sessions.clone(), active.clone());
    let disturber = tokio::spawn(async move {
        for id in ending {
            // Of the same moments as the others, and of later ones.
            for moment in [at(12), at(99)] {
                let newcomer = session(tenant, agent, "call");
                let call = format!("call-{}", newcomer.id).parse().expect("a call id");
                let newcomer = Session { call, started_at: moment, ..newcomer };
                sessions.open(tenant, &newcomer).await.expect("opened");
            }
            sessions.end(tenant, id, Outcome::NodeLost, at(50)).await.expect("an answer").expect("it was active");
        }
    });
    let mut rounds = 0;
    while rounds < 3 || !disturber.is_finished() {
        let found = listed(stores, tenant, SessionFilter::default(), 3).await;
        let mut sorted = found.clone();
        sorted.sort_by_key(|session| std::cmp::Reverse((session.started_at, *session.id.as_uuid())));
        assert_eq!(ids(&found), ids(&sorted), "out of order");
        let once: BTreeSet<SessionId> = found.iter().map(|session| session.id).collect();
        assert_eq!(once.len(), found.len(), "one came twice");
        assert!(standing.iter().all(|session| once.contains(&session.id)), "one was missed");
        rounds += 1;
    }
    disturber.await.expect("the disturber");
    let ended = SessionFilter { status: Some(SessionStatus::Expired), ..SessionFilter::default() };
    let expired: BTreeSet<SessionId> = listed(stores, tenant, ended, 7).await.into_iter().map(|it| it.id).collect();
    assert_eq!(expired, active.into_iter().collect());
}

async fn another_tenants_sessions_are_not_listed(stores: &Stores) {
    let (owner, other) = (stores.tenant().await, stores.tenant().await);
    let theirs = stores.session(owner, "call").await;
    assert_eq!(listed(stores, other, SessionFilter::default(), 10).await, []);
    let by_agent = SessionFilter { agent: Some(theirs.agent), ..SessionFilter::default() };
    assert_eq!(listed(stores, other, by_agent, 10).await, []);
    // Nor from a place in the other's list.
    let after = Some(Session { started_at: at(1), ..theirs.clone() }.cursor());
    assert_eq!(page(stores, other, by_agent, PageRequest { size: 10, after }).await.sessions, []);
    assert_eq!(ids(&listed(stores, owner, by_agent, 10).await), [theirs.id]);
}
