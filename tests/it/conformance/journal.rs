//! What the journal promises on both homes: what was said is read at once, and written once, whoever writes it.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use voxgate::{
    admission::{MemorySlotStore, RedisSlotStore, SlotStore},
    agents::{Deleted, VoiceAgentStore},
    domain::{
        Env, Error, Result,
        clock::SystemClock,
        error::Resource,
        ids::{LeaseId, SessionId, TenantId, VoiceAgentId},
        journal::{Draft, Ending, Opening, Spool},
        lease::{Acquire, Acquired, Direction, Lease},
        queue::{Enqueued, ReplicaId},
        session::{Outcome, Routing, Session, SessionStatus},
        voice_agent::Spec,
    },
    redis::{Redis, RedisSettings},
    sessions::{
        Entry, EventNews, History, Journal, JournalSettings, Place, Routings, SessionStore, SqlSessionStore, Written,
    },
};

use super::{
    Stores, all_at_once, at, call, draft, session,
    slot_fixture::{limit, secs, steady, ticket},
};
use crate::harness::redis::PrivateRedis;

/// Makes a test of each function on each home.
macro_rules! on_both_homes {
    ($($test:ident),+ $(,)?) => {
        mod postgres_redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::Home::production().await).await;
            })+
        }

        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(super::Home::embedded().await).await;
            })+
        }
    };
}

on_both_homes![
    what_was_said_is_read_at_once,
    what_was_said_is_written_and_then_kept_nowhere_else,
    a_thousand_calls_at_once_all_arrive,
    a_session_left_by_an_expired_lease_ends_when_the_call_is_admitted_again,
    a_session_of_a_deleted_agent_is_written_as_ended,
    without_room_nothing_is_taken,
    a_stop_writes_what_is_left,
    history_is_the_same_however_often_it_is_written,
    history_written_late_does_not_end_the_calls_next_session,
    who_writes_the_same_history_is_not_in_the_way,
    an_end_without_a_session_is_told_apart,
];

/// A replica's journal on stores that others may share.
struct Home {
    stores: Arc<Stores>,
    sql: Arc<SqlSessionStore>,
    slots: Arc<dyn SlotStore>,
    spool: Option<Arc<RedisSlotStore>>,
    journal: Arc<Journal>,
    without_agent: Receiver<Session>,
    stop: CancellationToken,
    tenant: TenantId,
    agent: VoiceAgentId,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Home {
    async fn production() -> Self {
        // Patient: a busy machine must not fail a test that is about something else.
        let settings =
            RedisSettings { command_timeout_ms: 30_000, connect_timeout_ms: 30_000, ..RedisSettings::default() };
        let redis = Redis::connect(&PrivateRedis::shared().url(), settings).expect("a URL");
        let slots = Arc::new(RedisSlotStore::new(redis));
        let steady = steady(slots.clone(), Arc::new(SystemClock));
        Self::of(Stores::postgres(), steady, Some(slots)).await.writing()
    }

    async fn embedded() -> Self {
        let clock = Arc::new(SystemClock);
        let slots = steady(Arc::new(MemorySlotStore::new(clock.clone())), clock);
        Self::of(Stores::sqlite().await, slots, None).await.writing()
    }

    async fn of(stores: Stores, slots: Arc<dyn SlotStore>, spool: Option<Arc<RedisSlotStore>>) -> Self {
        let tenant = stores.tenant().await;
        let agent = stores.agent(tenant).await.id;
        Self::on(Arc::new(stores), slots, spool, tenant, agent)
    }

    fn on(
        stores: Arc<Stores>,
        slots: Arc<dyn SlotStore>,
        spool: Option<Arc<RedisSlotStore>>,
        tenant: TenantId,
        agent: VoiceAgentId,
    ) -> Self {
        let sql = Arc::new(SqlSessionStore::new(stores.db.clone(), Env::system(), EventNews::default()));
        let place = spool.clone().map_or(Place::Database, |spool| Place::Spool(spool));
        let settings = JournalSettings { max_entries: 2_000, orphan_after_ms: 1, ..JournalSettings::default() };
        let routings = Arc::new(Revisions(stores.agents.clone()));
        let (journal, without_agent) = Journal::new(sql.clone(), routings, place, settings, Env::system());
        let stop = CancellationToken::new();
        Self { stores, sql, slots, spool, journal, without_agent, stop, tenant, agent }
    }

    /// Another replica. What it is told stays unwritten until it writes.
    fn twin(&self) -> Self {
        Self::on(self.stores.clone(), self.slots.clone(), self.spool.clone(), self.tenant, self.agent)
    }

    fn writing(self) -> Self {
        let (journal, stop) = (self.journal.clone(), self.stop.clone());
        tokio::spawn(async move { journal.write_until(stop).await });
        self
    }

    /// A call that wants a slot of an agent with so many.
    fn ask(&self, on: &str, most: u32) -> Acquire {
        let env = Env::system();
        let draft = Draft {
            agent_revision: 1,
            node: Some("node-1".parse().expect("a node id")),
            sandbox: false,
            metadata: [("key".to_owned(), "value".into())].into_iter().collect(),
            started_at: env.now(),
            lease_ttl: secs(60),
            direct: None,
        };
        Acquire {
            agent: self.agent,
            call: call(on),
            lease: LeaseId::new(&env, self.agent),
            session: SessionId::new(&env),
            direction: Direction::Outbound,
            priority: 0,
            ttl: secs(60),
            limits: limit(most),
            draft: Some(draft),
        }
    }

    /// Grants a slot, and does not say so.
    async fn grant(&self, on: &str) -> Session {
        self.take(self.ask(on, 2_000)).await
    }

    async fn take(&self, request: Acquire) -> Session {
        let Acquired::Granted { lease, .. } = self.slots.acquire(self.tenant, &request).await.expect("an answer")
        else {
            panic!("a grant was expected");
        };
        self.session_of(lease, request)
    }

    fn session_of(&self, lease: Lease, request: Acquire) -> Session {
        let draft = request.draft.expect("a draft");
        Opening { lease, direction: request.direction, draft }.into_session(self.tenant, routing())
    }

    /// Grants a slot and says so.
    async fn begin(&self, on: &str) -> Session {
        let session = self.grant(on).await;
        let room = self.journal.room().expect("room");
        self.journal.opened(session.clone(), room).await.expect("said");
        session
    }

    /// Frees a slot, and does not say so.
    async fn free(&self, session: &Session, outcome: Outcome) -> voxgate::domain::journal::Unwritten {
        let ending = Ending { outcome, at: Env::system().now() };
        let freed = self.slots.release_ending(self.tenant, &session.call, session.lease, &ending).await;
        let freed = freed.expect("an answer");
        assert!(freed.released.released);
        let session = freed.session.expect("the session that held it");
        assert_eq!(session.ending, Some(ending));
        session
    }

    /// Frees a slot and says so.
    async fn end(&self, session: &Session, outcome: Outcome) {
        let ended = self.free(session, outcome).await;
        self.journal.ended(self.tenant, ended).await.expect("said");
    }

    async fn row(&self, session: &Session) -> Option<Session> {
        self.sql.get(self.tenant, session.id).await.expect("an answer")
    }

    async fn kept(&self, session: &Session) -> bool {
        match &self.spool {
            Some(spool) => spool.find(self.tenant, session.id).await.expect("an answer").is_some(),
            None => false,
        }
    }

    async fn read(&self, session: &Session) -> Session {
        self.journal.get(self.tenant, session.id).await.expect("an answer").expect("the session")
    }
}

#[derive(Debug)]
struct Revisions(Arc<dyn VoiceAgentStore>);

#[async_trait::async_trait]
impl Routings for Revisions {
    async fn at(&self, tenant: TenantId, agent: VoiceAgentId, revision: i64) -> Result<Option<Routing>> {
        Ok(self.0.at(tenant, agent, revision).await?.map(|agent| Routing::from(&agent.spec)))
    }
}

fn routing() -> Routing {
    Routing::from(&Spec::parse(draft("Ada")).expect("a valid agent"))
}

/// Waits until `holds`.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

fn end_of(session: &Session) -> (SessionStatus, Option<Outcome>) {
    (session.status, session.outcome)
}

async fn what_was_said_is_read_at_once(home: Home) {
    for n in 0..20 {
        let name = format!("call-{n}");
        let begun = home.begin(&name).await;
        assert_eq!(home.read(&begun).await, begun);
        home.end(&begun, Outcome::CallerHangup).await;
        let found = home.journal.of_call(home.tenant, &begun.call).await.expect("an answer").expect("the session");
        assert_eq!((found.id, end_of(&found)), (begun.id, (SessionStatus::Ended, Some(Outcome::CallerHangup))));
        assert_eq!(home.read(&begun).await, found);
        let next = home.begin(&name).await;
        let found = home.journal.of_call(home.tenant, &begun.call).await.expect("an answer").expect("the session");
        assert_eq!(found, next);
    }
    let active = home.journal.active_of_agent(home.tenant, home.agent, 100).await.expect("a list");
    assert_eq!(active.len(), 20);
}

async fn what_was_said_is_written_and_then_kept_nowhere_else(home: Home) {
    let (stays, ends) = (home.begin("stays").await, home.begin("ends").await);
    home.end(&ends, Outcome::TransferredE164).await;
    until("both are written", async || {
        let ended = home.row(&ends).await.is_some_and(|row| row.outcome == Some(Outcome::TransferredE164));
        ended && home.row(&stays).await.as_ref() == Some(&stays)
    })
    .await;
    until("neither is kept", async || !home.kept(&stays).await && !home.kept(&ends).await).await;
    assert_eq!(home.journal.room().map(|_| ()).ok(), Some(()));
}

async fn a_thousand_calls_at_once_all_arrive(home: Home) {
    let home = Arc::new(home);
    let sessions = all_at_once(1_000, |n| {
        let home = home.clone();
        async move {
            let session = home.begin(&format!("call-{n}")).await;
            let outcome = Outcome::ALL[n % Outcome::ALL.len()];
            if n % 3 > 0 {
                home.end(&session, outcome).await;
            }
            (session, (n % 3 > 0).then_some(outcome))
        }
    })
    .await;
    home.journal.settle_all(home.tenant).await.expect("written");
    for (session, outcome) in &sessions {
        let row = home.row(session).await.expect("a row");
        assert_eq!((row.outcome, row.version), (*outcome, 1 + i64::from(outcome.is_some())));
        assert_eq!(row.started_at, session.started_at);
    }
    let active = home.sql.active_of_agent(home.tenant, home.agent, 2_000).await.expect("a list").len();
    assert_eq!(active, sessions.iter().filter(|(_, outcome)| outcome.is_none()).count());
}

async fn a_session_left_by_an_expired_lease_ends_when_the_call_is_admitted_again(home: Home) {
    let left = home.begin("call").await;
    home.slots.release(home.tenant, &left.call, left.lease).await.expect("its lease is gone");
    let next = home.begin("call").await;
    home.journal.settle_all(home.tenant).await.expect("written");
    let row = home.row(&left).await.expect("a row");
    assert_eq!(end_of(&row), (SessionStatus::Expired, Some(Outcome::LeaseExpired)));
    assert_eq!(home.row(&next).await.expect("a row"), next);
}

async fn a_session_of_a_deleted_agent_is_written_as_ended(mut home: Home) {
    // As a replica does that has not heard of the deletion.
    assert_eq!(home.stores.agents.delete(home.tenant, home.agent, 1).await.expect("an answer"), Deleted::Done);
    let session = home.grant("call").await;
    let room = home.journal.room().expect("room");
    let said = home.journal.opened(session.clone(), room).await;
    if home.spool.is_none() {
        let without = matches!(said, Err(Error::NotFound { resource: Resource::VoiceAgent, .. }));
        assert!(without, "{said:?}");
    }
    let told =
        tokio::time::timeout(secs(10), home.without_agent.recv()).await.expect("it is told").expect("it is open");
    assert_eq!(told, session);
    let row = home.row(&session).await.expect("a row");
    assert_eq!(end_of(&row), (SessionStatus::Ended, Some(Outcome::AgentDeleted)));
    assert_eq!(row.routing, session.routing);
}

async fn without_room_nothing_is_taken(home: Home) {
    let rooms: Vec<_> = (0..2_000).map(|_| home.journal.room().expect("room")).collect();
    let refused = home.journal.room();
    assert!(matches!(refused, Err(Error::Unavailable(..))), "{refused:?}");
    drop(rooms);
    home.begin("call").await;
}

async fn a_stop_writes_what_is_left(home: Home) {
    let twin = home.twin();
    let said = {
        let session = twin.grant("call").await;
        let (journal, room) = (twin.journal.clone(), twin.journal.room().expect("room"));
        let waiting = session.clone();
        tokio::spawn(async move { journal.opened(waiting, room).await.expect("said") });
        session
    };
    until("it waits", async || format!("{:?}", twin.journal).contains("entries: 1")).await;
    twin.stop.cancel();
    twin.journal.write_until(twin.stop.clone()).await;
    assert_eq!(home.row(&said).await, Some(said));
}

fn begins(session: &Session) -> Entry {
    Entry { session: session.id, opening: Some(Arc::new(session.clone())), ending: None }
}

fn ends(session: &Session, outcome: Outcome) -> Entry {
    Entry { session: session.id, opening: None, ending: Some(Ending { outcome, at: at(9) }) }
}

async fn history_is_the_same_however_often_it_is_written(home: Home) {
    let (plain, whole) = (session(home.tenant, home.agent, "plain"), session(home.tenant, home.agent, "whole"));
    let both = Entry { ending: ends(&whole, Outcome::Hangup).ending, ..begins(&whole) };
    let steps = [vec![begins(&plain), both.clone()], vec![ends(&plain, Outcome::Failed), begins(&whole)]];
    for _ in 0..3 {
        for step in &steps {
            let written = home.sql.write(home.tenant, step.clone(), at(5)).await.expect("written");
            assert_eq!(written, [Written::Done, Written::Done]);
        }
        let expected = [(&plain, Outcome::Failed), (&whole, Outcome::Hangup)];
        for (session, outcome) in expected {
            let row = home.row(session).await.expect("a row");
            assert_eq!((row.outcome, row.ended_at, row.version), (Some(outcome), Some(at(9)), 2));
        }
    }
    // The end first, then both: a row that began elsewhere is ended all the same.
    let late = session(home.tenant, home.agent, "late");
    home.sql.write(home.tenant, vec![begins(&late)], at(5)).await.expect("written");
    let both = Entry { ending: ends(&late, Outcome::Hangup).ending, ..begins(&late) };
    assert_eq!(home.sql.write(home.tenant, vec![both], at(5)).await.expect("written"), [Written::Done]);
    assert_eq!(home.row(&late).await.and_then(|row| row.outcome), Some(Outcome::Hangup));
}

async fn history_written_late_does_not_end_the_calls_next_session(home: Home) {
    let late = session(home.tenant, home.agent, "call");
    let env = Env::system();
    let next = Session {
        id: SessionId::new(&env),
        lease: LeaseId::new(&env, home.agent),
        fence: late.fence + 1,
        started_at: at(100),
        ..late.clone()
    };
    home.sql.write(home.tenant, vec![begins(&next)], at(5)).await.expect("written");
    let blocked = home.sql.write(home.tenant, vec![begins(&late)], at(5)).await.expect("an answer");
    assert_eq!(blocked, [Written::Blocked { by: Some(next.id) }]);
    assert_eq!(home.row(&late).await, None);
    for _ in 0..2 {
        let written = home.sql.displace(home.tenant, begins(&late), at(5)).await.expect("written");
        assert_eq!(written, Written::Done);
        let row = home.row(&late).await.expect("a row");
        assert_eq!(
            (end_of(&row), row.ended_at),
            ((SessionStatus::Expired, Some(Outcome::LeaseExpired)), Some(at(100)))
        );
        assert_eq!(home.row(&next).await.expect("a row"), next);
    }
}

/// As a replica that says what it knows does, and one that finds the same in the spool: the first has the end alone of what
/// is written already, and the whole of the rest; the other has the whole of everything.
async fn who_writes_the_same_history_is_not_in_the_way(home: Home) {
    let home = Arc::new(home);
    for round in 0..20 {
        let sessions: Arc<[Session]> =
            (0..200).map(|n| session(home.tenant, home.agent, &format!("call-{round}-{n}"))).collect();
        let written = sessions.iter().step_by(2).map(begins).collect();
        home.sql.write(home.tenant, written, at(5)).await.expect("written");
        all_at_once(8, |writer| {
            let (home, sessions) = (home.clone(), sessions.clone());
            async move {
                let said = |(n, session): (usize, &Session)| {
                    let end = ends(session, Outcome::Hangup);
                    let is_end_alone = writer % 2 == 0 && n % 2 == 0;
                    if is_end_alone { end } else { Entry { opening: begins(session).opening, ..end } }
                };
                let entries = sessions.iter().enumerate().map(said).collect();
                home.sql.write(home.tenant, entries, at(5)).await.expect("written");
            }
        })
        .await;
        for session in &*sessions {
            assert_eq!(home.row(session).await.expect("a row").outcome, Some(Outcome::Hangup));
        }
    }
}

async fn an_end_without_a_session_is_told_apart(home: Home) {
    let (known, unknown) = (session(home.tenant, home.agent, "known"), session(home.tenant, home.agent, "unknown"));
    home.sql.write(home.tenant, vec![begins(&known)], at(5)).await.expect("written");
    let entries = vec![ends(&unknown, Outcome::Hangup), ends(&known, Outcome::Hangup)];
    let written = home.sql.write(home.tenant, entries, at(5)).await.expect("written");
    assert_eq!(written, [Written::Missing, Written::Done]);
}

// ---------------------------------------------------------------- several replicas: only where there is a spool

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_replica_left_is_written_by_another() {
    let home = Home::production().await;
    let killed = home.twin();
    let (stays, ends, unsaid) = (killed.begin("stays").await, killed.begin("ends").await, killed.grant("unsaid").await);
    killed.end(&ends, Outcome::CallerHangup).await;
    drop(killed);
    assert_eq!((home.row(&stays).await, home.row(&ends).await), (None, None));
    // An entry must be a millisecond old.
    until("all are written", async || {
        home.journal.adopt().await.expect("looked");
        home.row(&unsaid).await.is_some() && home.row(&stays).await.is_some() && home.row(&ends).await.is_some()
    })
    .await;
    assert_eq!(home.row(&stays).await.expect("a row"), stays, "its routing is the revision's");
    assert_eq!(home.row(&ends).await.and_then(|row| row.outcome), Some(Outcome::CallerHangup));
    assert!(!home.kept(&stays).await && !home.kept(&ends).await && !home.kept(&unsaid).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_was_told_another_reads_and_ends() {
    let here = Home::production().await;
    let there = here.twin();
    let by_id = there.begin("by-id").await;
    assert_eq!(here.read(&by_id).await, by_id);
    let by_call = there.begin("by-call").await;
    let found = here.journal.of_call(here.tenant, &by_call.call).await.expect("an answer");
    assert_eq!(found, Some(by_call));
    // Released here, right after it was granted there.
    let ended = there.begin("ended").await;
    let freed = here.free(&ended, Outcome::Hangup).await;
    assert!(freed.opening.is_some(), "it is not written yet");
    here.journal.ended(here.tenant, freed).await.expect("said");
    until("it is written", async || here.row(&ended).await.is_some_and(|row| row.outcome.is_some())).await;
    // Whoever was to write its beginning does so late, and changes nothing.
    let row = here.row(&ended).await;
    there.stop.cancel();
    there.journal.write_until(there.stop.clone()).await;
    assert_eq!(here.row(&ended).await, row);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_not_written_yet_counts_before_every_other() {
    let here = Home::production().await;
    let there = here.twin();
    let (swept, again) = (here.begin("swept").await, here.begin("again").await);
    here.journal.settle_all(here.tenant).await.expect("written");
    there.end(&swept, Outcome::CallerHangup).await;
    there.end(&again, Outcome::TransferredSipUri).await;
    // As a sweep does that finds no lease.
    let now = Env::system().now();
    let ended = here.journal.end(here.tenant, swept.id, Outcome::NodeLost, now).await.expect("an answer");
    assert_eq!(ended, None);
    assert_eq!(here.row(&swept).await.and_then(|row| row.outcome), Some(Outcome::CallerHangup));
    // And as the next admission of a call does, whose former session looks active.
    let next = here.begin("again").await;
    until("it is written", async || here.row(&next).await.is_some()).await;
    assert_eq!(here.row(&again).await.and_then(|row| row.outcome), Some(Outcome::TransferredSipUri));
    assert!(here.row(&next).await.is_some_and(|row| row.is_active()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unwritten_is_kept_for_a_day_from_the_last() {
    let home = Home::production().await;
    let twin = home.twin();
    twin.begin("call").await;
    let key = format!("vg:{{{}}}:unwritten", home.tenant);
    let left: i64 = super::slot_redis::raw(PrivateRedis::shared(), &["PTTL", &key]).await;
    assert!((86_000_000..=86_400_000).contains(&left), "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_one_who_waited_begins_when_the_offer_is_claimed() {
    let home = Home::production().await;
    let holder = home.take(home.ask("holder", 1)).await;
    let waits = Acquire { draft: None, ..home.ask("waiter", 1) };
    let ticket = ticket(waits.clone(), ReplicaId::new(&Env::system()));
    let enqueued = home.slots.enqueue(home.tenant, &ticket).await.expect("an answer");
    assert!(matches!(enqueued, Enqueued::Waiting(_)), "{enqueued:?}");
    home.free(&holder, Outcome::Hangup).await;
    let spool = home.spool.clone().expect("there is one");
    let kept = async |session| spool.find(home.tenant, session).await.expect("an answer");
    assert_eq!(kept(waits.session).await, None, "an offer is no session");
    // Whoever claims it, under a name of its own even: the lease is the ticket's.
    let claim = home.ask("waiter", 1);
    let claimed = home.slots.acquire(home.tenant, &claim).await.expect("an answer");
    let Acquired::Existing { lease, .. } = claimed else { panic!("an offer was to be claimed: {claimed:?}") };
    assert_eq!((lease.id, lease.session), (waits.lease, waits.session));
    let begun = home.session_of(lease, claim.clone());
    assert_eq!(kept(claim.session).await, None);
    assert_eq!(home.read(&begun).await, begun);
    assert_eq!(home.row(&begun).await, Some(begun.clone()));
    // To ask again begins nothing.
    home.slots.acquire(home.tenant, &home.ask("waiter", 1)).await.expect("an answer");
    assert!(!home.kept(&begun).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_written_yet_counts_among_the_live_calls() {
    let home = Home::production().await;
    let twin = home.twin();
    assert_eq!(twin.journal.longest_lease(home.tenant).await.expect("an answer"), None);
    let begun = twin.begin("call").await;
    let status = async |session: &Session| {
        twin.journal.statuses(home.tenant, &[session.id]).await.expect("an answer").remove(&session.id)
    };
    assert_eq!(home.row(&begun).await, None);
    assert_eq!(twin.journal.longest_lease(home.tenant).await.expect("an answer"), Some(secs(60)));
    assert_eq!(status(&begun).await, Some(SessionStatus::Active));
    twin.end(&begun, Outcome::CallerHangup).await;
    assert_eq!(twin.journal.longest_lease(home.tenant).await.expect("an answer"), None);
    assert_eq!(status(&begun).await, Some(SessionStatus::Ended));
    assert_eq!(home.row(&begun).await, None);
}
