//! One suite a store trait, run on every back-end: what a trait promises, no back-end may break.
//!
//! A suite is a set of plain functions of [`Stores`]; `on_every_backend!` makes tests of them whose names end in the
//! back-end and the promise.

mod audit_store;
mod command_bus;
mod database;
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

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use voxgate::{
    agents::{SqlVoiceAgentStore, VoiceAgentStore},
    db::{Database, PoolSettings},
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
    /// The SQLite file's, deleted with this.
    _folder: Option<TempDir>,
}

impl Stores {
    fn postgres() -> Self {
        let url = postgres::fresh_database();
        Self::of(Database::postgres(&url.into(), PoolSettings::default()).expect("a url"), None)
    }

    async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let db = Database::sqlite(&folder.path().join("voxgate.db")).expect("a path");
        db.migrate().await.expect("migrations run");
        Self::of(db, Some(folder))
    }

    fn of(db: Database, folder: Option<TempDir>) -> Self {
        Self {
            tenants: Arc::new(SqlTenantStore::new(db.clone())),
            agents: Arc::new(SqlVoiceAgentStore::new(db.clone())),
            sessions: Arc::new(SqlSessionStore::new(db.clone(), Env::system(), EventNews::default())),
            operations: Arc::new(SqlOperationStore::new(db.clone(), Env::system(), EventNews::default())),
            events: Arc::new(SqlEventStore::new(db.clone())),
            audit: Arc::new(SqlAuditStore::new(db.clone())),
            db,
            _folder: folder,
        }
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
