//! What is old goes, whichever replica removes it; what is young or alive stays.

use diesel::{
    Connection as _, QueryableByName, RunQueryDsl as _, SqliteConnection, connection::SimpleConnection as _,
    sql_types::BigInt,
};
use secrecy::ExposeSecret as _;
use tonic::Code;
use voxgate::{
    node_sim::Behaviour,
    proto::v1::{
        CompleteSessionRequest, GetOperationRequest, GetSessionRequest, HoldRequest, ListAuditEntriesRequest,
        LogRequest, Session, Slot, TranscriptRole, TranscriptTurn, complete_session_request,
        get_session_request::Target,
    },
};

use crate::harness::{
    client::{granted, refused},
    postgres,
    redis::PrivateRedis,
    server::{PATIENT, TestServer},
    world::{World, eventually},
};

/// Looks ten times a second, where an installation looks every ten minutes.
const OFTEN: &str = "[retention]\ninterval_ms = 100\n";
/// Older than all that is kept by default.
const AGE_DAYS: u64 = 91;

/// A server that removes, and the way to its rows beside it.
struct Aged {
    _server: TestServer,
    world: World,
    database: Raw,
    _redis: Option<PrivateRedis>,
}

enum Raw {
    Postgres(String),
    Sqlite(String),
}

impl Raw {
    /// Runs a statement; `{age}` in it is the age, in the form of the database.
    fn run(&self, sql: &str) {
        match self {
            Self::Postgres(url) => {
                let sql =
                    sql.replace("{age}", &format!("interval '{AGE_DAYS} days'")).replace("{id}", "gen_random_uuid()");
                let all = format!("BEGIN; SET LOCAL voxgate.tenant = 'everyone'; {sql}; COMMIT");
                postgres::execute(url, &all).unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
            Self::Sqlite(file) => {
                let micros = (AGE_DAYS * 86_400 * 1_000_000).to_string();
                let sql = sql.replace("{age}", &micros).replace("{id}", "randomblob(16)");
                let mut raw = SqliteConnection::establish(file).expect("the file");
                raw.batch_execute("PRAGMA busy_timeout = 10000").expect("set");
                raw.batch_execute(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
        }
    }

    /// How many rows there are of a table, or of it and a condition.
    async fn rows(&self, of: &str) -> i64 {
        let count = format!("SELECT count(*) AS count FROM {of}");
        match self {
            Self::Postgres(url) => {
                let superuser = postgres::connect(&postgres::as_superuser(url)).await;
                superuser.query_one(&count, &[]).await.expect("a count").get(0)
            }
            Self::Sqlite(file) => {
                let mut raw = SqliteConnection::establish(file).expect("the file");
                raw.batch_execute("PRAGMA busy_timeout = 10000").expect("set");
                diesel::sql_query(count).get_result::<Counted>(&mut raw).expect("a count").count
            }
        }
    }
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

impl Aged {
    async fn postgres() -> Self {
        let (redis, url) = (PrivateRedis::start(), postgres::fresh_database());
        let server = TestServer::production_with(&url, redis.url().expose_secret(), OFTEN);
        let world = World::on(&server.addr, &server.admin_key).await;
        Self { _server: server, world, database: Raw::Postgres(url), _redis: Some(redis) }
    }

    async fn sqlite() -> Self {
        let server = TestServer::embedded_with(OFTEN);
        let world = World::on(&server.addr, &server.admin_key).await;
        let file = server.data_dir().join("voxgate.db").to_str().expect("UTF-8").to_owned();
        Self { _server: server, world, database: Raw::Sqlite(file), _redis: None }
    }

    /// A call that was held and has written to its log; the operation of the hold.
    async fn call(&self, agent: &str) -> (Slot, String) {
        let slot = self.world.admit(agent).await;
        let call_id = slot.call_id.clone();
        let mut calls = self.world.caller.calls();
        let hold = HoldRequest { call_id: call_id.clone(), ..HoldRequest::default() };
        let answer = granted(calls.hold(hold).await);
        let said = prost_types::Struct {
            fields: [("said".to_owned(), prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) })]
                .into(),
        };
        granted(calls.log(LogRequest { call_id, metadata: Some(said), ..LogRequest::default() }).await);
        (slot, answer.operation_id)
    }

    /// Posts of the call's session, which has ended.
    async fn post(&self, slot: &Slot) {
        let said = TranscriptTurn { role: TranscriptRole::Caller.into(), text: "Hello".into(), spoken_at: None };
        let request = CompleteSessionRequest {
            target: Some(complete_session_request::Target::SessionId(slot.session_id.clone())),
            transcript: vec![said],
            results: None,
        };
        granted(self.world.caller.sessions().complete_session(request).await);
    }

    async fn session(&self, slot: &Slot) -> Option<Session> {
        let request = GetSessionRequest { target: Some(Target::SessionId(slot.session_id.clone())) };
        self.world.caller.sessions().get_session(request).await.ok().map(tonic::Response::into_inner)
    }

    async fn audit_entries_of(&self, call: &str) -> usize {
        let request = ListAuditEntriesRequest { call_id: call.to_owned(), ..ListAuditEntriesRequest::default() };
        granted(self.world.caller.sessions().list_audit_entries(request).await).audit_entries.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_what_is_young_or_alive() {
    what_is_old_goes_with_all_that_is_its_own(Aged::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_what_is_young_or_alive() {
    what_is_old_goes_with_all_that_is_its_own(Aged::sqlite().await).await;
}

async fn what_is_old_goes_with_all_that_is_its_own(aged: Aged) {
    let node = aged.world.node(Behaviour::default()).await;
    let agent = aged.world.agent(5).await.id;
    let ((old, old_hold), (young, young_hold), (live, live_hold)) =
        (aged.call(&agent).await, aged.call(&agent).await, aged.call(&agent).await);
    for slot in [&old, &young] {
        assert!(aged.world.release(slot).await);
        aged.post(slot).await;
    }
    assert_eq!(aged.database.rows("session_results").await, 2);
    let entries = aged.audit_entries_of(&old.call_id).await;
    assert_eq!(entries, 3, "Hold, Log and CompleteSession");
    // Entries cannot be made older, but older ones can be written.
    aged.database.run(&format!(
        "INSERT INTO audit_entries SELECT tenant_id, {{id}}, created_at - {{age}}, actor, action, target, call_id, \
         session_id, error_reason, details FROM audit_entries WHERE call_id = '{}'",
        old.call_id
    ));
    aged.database.run(&format!(
        "UPDATE events SET created_at = created_at - {{age}} WHERE call_id = '{}'; \
         UPDATE sessions SET started_at = started_at - {{age}}, ended_at = ended_at - {{age}} \
         WHERE call_id IN ('{}', '{}')",
        young.call_id, old.call_id, live.call_id
    ));

    eventually("the old session to be gone", async || aged.session(&old).await.is_none().then_some(())).await;
    eventually("the old entries to be gone", async || {
        (aged.audit_entries_of(&old.call_id).await == entries).then_some(())
    })
    .await;
    assert_eq!(aged.database.rows("session_results").await, 1);
    assert_eq!(aged.session(&young).await.expect("kept").transcript.len(), 1);
    let operation = |operation_id: &str| GetOperationRequest { operation_id: operation_id.to_owned() };
    let mut sessions = aged.world.caller.sessions();
    refused(sessions.get_operation(operation(&old_hold)).await, Code::NotFound, "OPERATION_NOT_FOUND");
    for (slot, hold) in [(&young, &young_hold), (&live, &live_hold)] {
        let session = aged.session(slot).await.expect("kept");
        assert_eq!(session.log.len(), 1, "{session:?}");
        granted(sessions.get_operation(operation(hold)).await);
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_grows_old_in_the_midst_of_a_removal_leaves_nothing_behind() {
    let aged = Aged::postgres().await;
    let node = aged.world.node(Behaviour::default()).await;
    let agent = aged.world.agent(1).await.id;
    let (slot, _) = aged.call(&agent).await;
    assert!(aged.world.release(&slot).await);
    aged.post(&slot).await;
    // Whenever operations were removed, which is before sessions are.
    aged.database.run(&format!(
        "CREATE FUNCTION grow_old() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         UPDATE sessions SET started_at = started_at - {{age}}, ended_at = ended_at - {{age}} \
         WHERE call_id = '{}' AND ended_at > now() - interval '1 day'; RETURN NULL; END $$; \
         CREATE TRIGGER grow_old AFTER DELETE ON operations FOR EACH STATEMENT EXECUTE FUNCTION grow_old()",
        slot.call_id
    ));
    eventually("the session to be gone", async || aged.session(&slot).await.is_none().then_some(())).await;
    let session = slot.session_id.trim_start_matches("ses_");
    for table in ["session_log", "operations", "session_results"] {
        let its_own = format!("{table} WHERE session_id = '{session}'");
        assert_eq!(aged.database.rows(&its_own).await, 0, "{table}");
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_removal_and_remove_each_row_once() {
    const OLD: usize = 3_500;
    let (redis, url) = (PrivateRedis::start(), postgres::fresh_database());
    let redis_url = redis.url();
    let first = TestServer::production_with(&url, redis_url.expose_secret(), OFTEN);
    let config = format!("{OFTEN}{PATIENT}");
    let second = TestServer::configured(&url, redis_url.expose_secret(), first.admin_key.clone(), &config);
    let rows = |count: usize, age: &str| {
        let sql = format!(
            "BEGIN; SET LOCAL voxgate.tenant = 'everyone'; \
             INSERT INTO events (tenant_id, id, kind, created_at, session_id, call_id, session_sequence, data) \
             SELECT '{tenant}', gen_random_uuid(), 'call.started', now() - interval '{age}', gen_random_uuid(), \
             'call', 1, '{{}}' FROM generate_series(1, {count}); COMMIT",
            tenant = uuid::Uuid::nil(),
        );
        postgres::execute(&url, &sql).expect("inserted");
    };
    rows(5, "6 days 23 hours");
    rows(OLD, "8 days");
    let superuser = postgres::connect(&postgres::as_superuser(&url)).await;
    let left = async || {
        let row = superuser.query_one("SELECT count(*) FROM events", &[]).await.expect("a count");
        row.get::<_, i64>(0)
    };
    eventually("the old ones to be gone", async || (left().await == 5).then_some(())).await;
    let removed = |server: &TestServer| server.metric("voxgate_rows_removed_total{table=\"events\"}");
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let expected = OLD as f64;
    let told = async || ((removed(&first) + removed(&second) - expected).abs() < 0.5).then_some(());
    eventually("both to have counted what they removed", told).await;
}
