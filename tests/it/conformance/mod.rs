//! One suite a store trait, run on every back-end: what a trait promises, no back-end may break.
//!
//! A suite is a set of plain functions of [`Stores`]; `on_every_backend!` makes tests of them whose names end in the
//! back-end and the promise.

mod audit_store;
mod command_bus;
mod database;
mod delivery_store;
mod event_store;
mod fence;
mod journal;
mod operation_store;
mod rate_limiter;
mod session_list;
mod session_results;
mod session_store;
mod slot_clock;
pub(crate) mod slot_fixture;
mod slot_model;
mod slot_queue;
mod slot_queue_model;
mod slot_recovery;
mod slot_redis;
mod slot_store;
mod tenant_store;
mod voice_agent_store;
mod webhook_store;

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use voxgate::{
    agents::{SqlVoiceAgentStore, VoiceAgentStore},
    db::Database,
    domain::{
        Env, Timestamp,
        ids::{CallId, LeaseId, SessionId, TenantId, VoiceAgentId},
        keyring::KeyRing,
        lease::Direction,
        session::{CallState, Record, Routing, Session, SessionStatus},
        tenant::{Tenant, TenantDraft},
        voice_agent::{Draft, Spec, Status, VoiceAgent},
    },
    sessions::{
        AuditStore, EventNews, EventStore, OperationStore, SessionStore, SqlAuditStore, SqlEventStore,
        SqlOperationStore, SqlSessionStore,
    },
    tenants::{SqlTenantStore, TenantStore},
    webhooks::{DeliveryStore, SqlWebhookStore, WebhookStore},
};

use crate::harness::postgres;

/// Makes a test of each function of a suite, on each back-end.
macro_rules! on_every_backend {
    ($($test:ident),+ $(,)?) => {
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&$crate::conformance::Stores::postgres()).await;
            })+
        }

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&$crate::conformance::Stores::sqlite().await).await;
            })+
        }
    };
}
use on_every_backend;

/// All stores, on one fresh database.
#[derive(Debug)]
struct Stores {
    db: Database,
    tenants: Arc<dyn TenantStore>,
    agents: Arc<dyn VoiceAgentStore>,
    sessions: Arc<dyn SessionStore>,
    operations: Arc<dyn OperationStore>,
    events: Arc<dyn EventStore>,
    audit: Arc<dyn AuditStore>,
    webhooks: Arc<dyn WebhookStore>,
    deliveries: Arc<dyn DeliveryStore>,
    /// Where the database is: a URL of Postgres, or SQLite's file.
    place: String,
    /// The SQLite file's, deleted with this.
    _folder: Option<TempDir>,
}

impl Stores {
    fn postgres() -> Self {
        let url = postgres::fresh_database();
        let db = postgres::patient(&url);
        Self { place: url, ..Self::of(db, None) }
    }

    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("voxgate.db");
        let db = Database::sqlite(&file).expect("a path");
        db.migrate().await.expect("migrations run");
        Self { place: file.to_str().expect("UTF-8").to_owned(), ..Self::of(db, Some(folder)) }
    }

    fn of(db: Database, folder: Option<TempDir>) -> Self {
        Self {
            tenants: Arc::new(SqlTenantStore::new(db.clone())),
            agents: Arc::new(SqlVoiceAgentStore::new(db.clone())),
            sessions: Arc::new(SqlSessionStore::new(db.clone(), Env::system(), EventNews::default())),
            operations: Arc::new(SqlOperationStore::new(db.clone(), Env::system(), EventNews::default())),
            events: Arc::new(SqlEventStore::new(db.clone())),
            audit: Arc::new(SqlAuditStore::new(db.clone())),
            webhooks: Arc::new(SqlWebhookStore::new(db.clone())),
            deliveries: Arc::new(SqlWebhookStore::new(db.clone())),
            place: String::new(),
            db,
            _folder: folder,
        }
    }

    fn is_postgres(&self) -> bool {
        self.place.starts_with("postgres")
    }

    /// Does what no store does.
    async fn raw(&self, sql: &str) {
        let (place, sql, is_postgres) = (self.place.clone(), sql.to_owned(), self.is_postgres());
        let done = tokio::task::spawn_blocking(move || {
            if is_postgres {
                postgres::execute(&postgres::as_superuser(&place), &sql).expect("done");
            } else {
                use diesel::{Connection as _, connection::SimpleConnection as _};
                let mut file = diesel::SqliteConnection::establish(&place).expect("the file");
                file.batch_execute(&format!("PRAGMA busy_timeout = 5000; {sql}")).expect("done");
            }
        });
        done.await.expect("no panic");
    }

    /// Events of one session, with their places among the tenant's.
    async fn happened(&self, tenant: TenantId, kind: &str, events: usize, sandbox: bool) {
        let env = Env::system();
        let (session, now) = (env.uuid(), env.now());
        let literal = |id: &uuid::Uuid| match self.is_postgres() {
            true => format!("'{id}'"),
            false => format!("x'{}'", id.simple()),
        };
        let moment = if self.is_postgres() { format!("'{now}'") } else { now.as_micros().to_string() };
        let (tenant, session) = (literal(tenant.as_uuid()), literal(&session));
        let row = |number: usize| {
            format!(
                "({tenant}, {}, '{kind}', {moment}, {session}, 'call', {number}, '{{\"sandbox\": {sandbox}}}',
                (SELECT coalesce(max(last), 0) FROM event_sequences WHERE tenant_id = {tenant}) + {number})",
                literal(&env.uuid())
            )
        };
        let rows = (1..=events).map(row).collect::<Vec<_>>().join(", ");
        let columns = "tenant_id, id, kind, created_at, session_id, call_id, session_sequence, data, sequence";
        let place = "ON CONFLICT (tenant_id) DO UPDATE SET last = event_sequences.last + excluded.last";
        self.raw(&format!(
            "INSERT INTO events ({columns}) VALUES {rows};
            INSERT INTO event_sequences (tenant_id, last) VALUES ({tenant}, {events}) {place}"
        ))
        .await;
    }

    /// A new tenant.
    async fn tenant(&self) -> TenantId {
        let tenant = tenant("Ada");
        self.tenants.create(&tenant).await.expect("a tenant");
        tenant.id
    }

    /// A new agent of `tenant`.
    async fn agent(&self, tenant: TenantId) -> VoiceAgent {
        let agent = agent(tenant, "Ada", at(0));
        self.agents.create(tenant, &agent, None).await.expect("an agent");
        agent
    }

    /// A new active session of `tenant`, of an agent of its own.
    async fn session(&self, tenant: TenantId, call: &str) -> Session {
        let session = session(tenant, self.agent(tenant).await.id, call);
        self.sessions.open(tenant, &session).await.expect("a session");
        session
    }
}

/// `seconds` after the tests' beginning of time, and a microsecond that no rounding may lose.
fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_001).plus(Duration::from_secs(seconds))
}

fn tenant(name: &str) -> Tenant {
    let draft = TenantDraft { name: Some(name.into()), ..TenantDraft::default() };
    let tenant = Tenant::create(&Env::system(), draft).expect("a valid tenant");
    Tenant { created_at: at(0), updated_at: at(0), ..tenant }
}

fn draft(name: &str) -> Draft {
    Draft { name: Some(name.into()), ws_url: Some("wss://ai.example/ws".into()), ..Draft::default() }
}

fn agent(tenant: TenantId, name: &str, created_at: Timestamp) -> VoiceAgent {
    VoiceAgent {
        id: VoiceAgentId::new(&Env::system()),
        tenant,
        spec: Spec::parse(draft(name)).expect("a valid agent"),
        status: Status::Active,
        revision: 1,
        created_at,
        updated_at: created_at,
        updated_by: "key:vg_test_01234567".into(),
    }
}

/// The key ring under which the suites seal.
fn ring() -> KeyRing {
    KeyRing::parse(&crate::harness::server::KEY_RING.to_owned().into()).expect("a ring")
}

fn call(text: &str) -> CallId {
    text.parse().expect("a call id")
}

fn session(tenant: TenantId, agent: VoiceAgentId, on: &str) -> Session {
    let env = Env::system();
    Session {
        id: SessionId::new(&env),
        tenant,
        call: call(on),
        agent,
        agent_revision: 1,
        lease: LeaseId::new(&env, agent),
        fence: 1,
        direction: Direction::Inbound,
        node: None,
        sandbox: false,
        routing: Routing::from(&Spec::parse(draft("Ada")).expect("a valid agent")),
        metadata: serde_json::Map::new(),
        state: CallState::default(),
        record: Record::default(),
        ends_at: None,
        direct: None,
        status: SessionStatus::Active,
        outcome: None,
        started_at: at(0),
        answered_at: None,
        ended_at: None,
        lease_expires_at: at(60),
        lease_ttl: Duration::from_mins(1),
        version: 1,
    }
}

/// Runs `work` for every number below `tasks` at once, and answers what they answered.
async fn all_at_once<T, F>(tasks: usize, work: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let running: Vec<_> = (0..tasks).map(|task| tokio::spawn(work(task))).collect();
    let mut answers = Vec::new();
    for task in running {
        answers.push(task.await.expect("no task panics"));
    }
    answers
}
