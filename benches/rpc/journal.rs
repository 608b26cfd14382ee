//! The writer of history beside a bare multi-row INSERT of the same rows into the same Postgres, on one connection, which
//! holds no agent, sends half of the columns once, asks for no conflicts and writes nothing in a tenant's reach.
//!
//! The journal runs in this process, on the stores of the service. It is told of sessions as fast as it takes them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use voxgate::{
    admission::RedisSlotStore,
    db::{Database, PoolSettings},
    domain::{
        Env, Result,
        ids::{LeaseId, SessionId, TenantId, VoiceAgentId},
        lease::Direction,
        session::{CallState, Record, Routing, Session, SessionStatus},
    },
    redis::{Redis, RedisSettings},
    sessions::{EventNews, Journal, JournalSettings, Place, Routings, SessionStore as _, SqlSessionStore},
};

use super::{
    ROUNDS, Span,
    figures::{Figures, Rounds},
    home::Home,
    report,
    subject::Subject,
};

/// As many as the journal writes at once.
const BATCH: usize = 500;
/// Sessions that wait, so that the writer never does.
const AHEAD: usize = 4 * BATCH;

const INSERT: &str = "
    INSERT INTO sessions (tenant_id, id, call_id, voice_agent_id, voice_agent_revision, lease_id, fence, direction,
        node_id, sandbox, routing, metadata, state, status, outcome, started_at, answered_at, ended_at,
        lease_expires_at, version)
    SELECT $1::text::uuid, r.id::uuid, r.call, $2::text::uuid, 1, r.lease, r.fence, 'INBOUND', NULL, false,
        $3::text::jsonb, '{}', $4::text::jsonb, 'ACTIVE', NULL, now(), NULL, NULL, now() + interval '1 hour', 1
    FROM unnest($5::text[], $6::text[], $7::text[], $8::bigint[]) AS r (id, call, lease, fence)";

pub(crate) async fn measure(home: &Home, subject: &Subject, span: Span) -> String {
    let (postgres, redis) = (home.postgres_url().expect("Postgres"), home.redis_url().expect("Redis"));
    let maker = Maker::of(subject);
    let client = connect(postgres).await;
    let sql = Arc::new(SqlSessionStore::new(
        Database::postgres(&postgres.to_owned().into(), &PoolSettings::default()).expect("a URL"),
        Env::system(),
        EventNews::default(),
    ));
    let spool = RedisSlotStore::new(Redis::connect(&redis.to_owned().into(), RedisSettings::default()).expect("a URL"));
    let settings = JournalSettings { max_entries: AHEAD, ..JournalSettings::default() };
    let (journal, _orphaned) =
        Journal::new(sql, Arc::new(NoneAsked), Place::Spool(Arc::new(spool)), settings, Env::system());
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let (journal, stop) = (journal.clone(), stop.clone());
        async move { journal.write_until(stop).await }
    });
    written(&journal, &maker, span.warm_up).await;
    let (mut bare, mut ours) = (Rounds::default(), Rounds::default());
    for _ in 0..ROUNDS {
        bare.add(inserted(&client, &maker, span.measured).await);
        ours.add(written(&journal, &maker, span.measured).await);
    }
    stop.cancel();
    writer.await.expect("the writer ends");
    report::rates(
        ("bare multi-row INSERT, 500 rows", &bare),
        ("the journal", &ours),
        "sessions written by one replica, one tenant",
    )
}

/// All that is written here began here.
#[derive(Debug)]
struct NoneAsked;

#[async_trait::async_trait]
impl Routings for NoneAsked {
    async fn at(&self, _: TenantId, _: VoiceAgentId, _: i64) -> Result<Option<Routing>> {
        Ok(None)
    }
}

/// Makes sessions that are alike but for their names.
struct Maker {
    env: Env,
    tenant: TenantId,
    agent: VoiceAgentId,
    routing: Routing,
}

impl Maker {
    fn of(subject: &Subject) -> Self {
        let id = "an id as the service prints it";
        Self {
            env: Env::system(),
            tenant: subject.tenant().parse().expect(id),
            agent: subject.agent().parse().expect(id),
            routing: Routing { ws_url: "wss://ai.example.com/calls".to_owned(), ..Routing::unknown() },
        }
    }

    fn session(&self) -> Session {
        let (id, now) = (SessionId::new(&self.env), self.env.now());
        Session {
            id,
            tenant: self.tenant,
            call: id.to_string().parse().expect("a call id"),
            agent: self.agent,
            agent_revision: 1,
            lease: LeaseId::new(&self.env, self.agent),
            fence: now.as_micros(),
            direction: Direction::Inbound,
            node: None,
            sandbox: false,
            routing: self.routing.clone(),
            metadata: serde_json::Map::new(),
            state: CallState::default(),
            record: Record::default(),
            ends_at: None,
            direct: None,
            status: SessionStatus::Active,
            outcome: None,
            started_at: now,
            answered_at: None,
            ended_at: None,
            lease_expires_at: now.plus(Duration::from_hours(1)),
            lease_ttl: Duration::from_mins(1),
            version: 1,
        }
    }
}

/// From the first that is said to the last that is written.
async fn written(journal: &Journal, maker: &Maker, span: Duration) -> Figures {
    let started = Instant::now();
    let (mut count, mut last) = (0_u32, None);
    while started.elapsed() < span {
        match journal.room() {
            Ok(room) => {
                let session = maker.session();
                last = Some(session.id);
                journal.opened(session, room).await.expect("said");
                count += 1;
            }
            Err(_full) => tokio::time::sleep(Duration::from_micros(200)).await,
        }
    }
    // As many places as there are: nothing waits any more.
    let mut rooms = Vec::new();
    while rooms.len() < AHEAD {
        match journal.room() {
            Ok(room) => rooms.push(room),
            Err(_full) => tokio::time::sleep(Duration::from_micros(200)).await,
        }
    }
    let took = started.elapsed();
    let last = last.expect("at least one was said");
    assert!(journal.get(maker.tenant, last).await.expect("an answer").is_some(), "it is written");
    Figures { rate: f64::from(count) / took.as_secs_f64(), p50: 0.0, p99: 0.0 }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("Postgres runs");
    tokio::spawn(connection);
    client.batch_execute("SET voxgate.tenant = 'everyone'").await.expect("a setting");
    client
}

async fn inserted(client: &Client, maker: &Maker, span: Duration) -> Figures {
    let statement = client.prepare(INSERT).await.expect("a statement");
    let (tenant, agent) = (maker.tenant.to_string(), maker.agent.to_string());
    let text = |value: serde_json::Result<String>| value.expect("JSON");
    let routing = text(serde_json::to_string(&maker.routing));
    let state = text(serde_json::to_string(&CallState::default()));
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < span {
        let sessions: Vec<Session> = (0..BATCH).map(|_| maker.session()).collect();
        let ids: Vec<String> = sessions.iter().map(|session| session.id.as_uuid().to_string()).collect();
        let calls: Vec<&str> = sessions.iter().map(|session| session.call.as_str()).collect();
        let leases: Vec<String> = sessions.iter().map(|session| session.lease.to_string()).collect();
        let fences: Vec<i64> = sessions.iter().map(|session| session.fence).collect();
        let rows = client
            .execute(&statement, &[&tenant, &agent, &routing, &state, &ids, &calls, &leases, &fences])
            .await
            .expect("rows");
        count += u32::try_from(rows).expect("a batch");
    }
    Figures { rate: f64::from(count) / started.elapsed().as_secs_f64(), p50: 0.0, p99: 0.0 }
}
