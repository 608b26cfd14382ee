//! What both databases promise whatever is kept in them, and what only Postgres has to.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use voxgate::{
    db::{Database, PoolSettings},
    domain::{
        Error,
        error::Dependency,
        ids::{TenantId, VoiceAgentId},
        session::Outcome,
    },
    sessions::SessionStore,
    tenants::{SqlTenantStore, TenantStore as _},
};

use super::{Stores, all_at_once, at, on_every_backend, session, tenant};
use crate::harness::{
    postgres::{self as server, PATIENT, PrivatePostgres, empty_database, execute, fresh_database, withhold_writes},
    world::eventually,
};

on_every_backend![it_answers_a_ping, migrating_again_changes_nothing, callers_who_go_away_leave_nothing_half_done,];

fn connect(url: &str, settings: &PoolSettings) -> Database {
    Database::postgres(&url.to_owned().into(), settings).expect("a url")
}

fn is_unavailable<T>(answer: &voxgate::domain::Result<T>) -> bool {
    matches!(answer, Err(Error::Unavailable(Dependency::Database, _)))
}

async fn it_answers_a_ping(stores: &Stores) {
    stores.db.ping().await.expect("it is there");
}

async fn migrating_again_changes_nothing(stores: &Stores) {
    let tenant = stores.tenant().await;
    stores.db.migrate().await.expect("nothing to do");
    assert!(stores.tenants.get(tenant).await.expect("an answer").is_some());
}

/// Opens sessions of one call, each in the place of the one before, and goes away at every stage of that.
async fn go_away_at_every_stage(sessions: &dyn SessionStore, tenant: TenantId, agent: VoiceAgentId) {
    for micros in (0..3_000).step_by(50) {
        let opening = session(tenant, agent, "call");
        let opening = sessions.open(tenant, &opening);
        let _ = tokio::time::timeout(Duration::from_micros(micros), opening).await;
    }
    sessions.open(tenant, &session(tenant, agent, "call")).await.expect("opened");
    let active = sessions.active_of_agent(tenant, agent, 10).await.expect("a list");
    assert_eq!(active.len(), 1);
}

async fn callers_who_go_away_leave_nothing_half_done(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await.id;
    go_away_at_every_stage(stores.sessions.as_ref(), tenant, agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_go_away_cost_the_pool_no_connection() {
    let url = fresh_database();
    let database = connect(&url, &PoolSettings { max_connections: 1, ..PATIENT });
    let stores = Stores::of(database, None);
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await.id;
    let ours = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'voxgate'";
    execute(&url, &format!("CREATE TABLE before AS {ours}")).expect("noted");
    go_away_at_every_stage(stores.sessions.as_ref(), tenant, agent).await;
    let same = format!("ASSERT (SELECT array_agg(pid) FROM before) = ARRAY({ours}), 'another connection'");
    execute(&url, &format!("DO $$ BEGIN {same}; END $$")).expect("the same connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_replicas_migrate_a_fresh_postgres_at_once() {
    let url = empty_database();
    all_at_once(8, |_| {
        let database = connect(&url, &PATIENT);
        async move { database.migrate().await.expect("migrated") }
    })
    .await;
    SqlTenantStore::new(connect(&url, &PATIENT)).create(&tenant("Ada")).await.expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_migrate_one_sqlite_file_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("voxgate.db");
    all_at_once(4, |_| {
        let database = Database::sqlite(&path).expect("a path");
        async move { database.migrate().await.expect("migrated") }
    })
    .await;
    SqlTenantStore::new(Database::sqlite(&path).expect("a path")).create(&tenant("Ada")).await.expect("written");
}

#[tokio::test]
async fn migrations_run_on_a_current_thread_runtime() {
    let url = empty_database();
    connect(&url, &PATIENT).migrate().await.expect("migrated");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_down_and_up_again() {
    let url = fresh_database();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
    let mut versions: Vec<_> = std::fs::read_dir(folder).expect("migrations").flatten().map(|v| v.path()).collect();
    versions.sort();
    for version in versions.iter().rev() {
        let down = std::fs::read_to_string(version.join("down.sql")).expect("a way back");
        execute(&url, &down).expect("down");
    }
    execute(&url, "DELETE FROM __diesel_schema_migrations").expect("forgotten");
    let database = connect(&url, &PATIENT);
    database.migrate().await.expect("up");
    SqlTenantStore::new(database).create(&tenant("Ada")).await.expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_to_sqlite_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("voxgate.db");
    let written = tenant("Ada");
    for run in 0..2 {
        let database = Database::sqlite(&path).expect("a path");
        database.migrate().await.expect("migrated");
        let tenants = SqlTenantStore::new(database);
        if run == 0 {
            tenants.create(&written).await.expect("written");
        }
        assert_eq!(tenants.get(written.id).await.expect("an answer").as_ref(), Some(&written));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_postgres_is_unavailable_and_a_started_one_answers_at_once() {
    let mut server = PrivatePostgres::start();
    let database = connect(&server.database(), &PoolSettings::default());
    database.migrate().await.expect("migrated");
    let tenants = Arc::new(SqlTenantStore::new(database.clone()));
    let ada = tenant("Ada");
    tenants.create(&ada).await.expect("written");
    for round in 0..2 {
        // Fills the pool, so that there is a connection for each of the failures to come.
        let known = all_at_once(32, |_| {
            let (tenants, id) = (tenants.clone(), ada.id);
            async move { tenants.get(id).await }
        })
        .await;
        assert!(known.iter().all(Result::is_ok), "round {round}: {known:?}");
        server.stop();
        for _ in 0..3 {
            let answer = tenants.get(ada.id).await;
            assert!(is_unavailable(&answer), "round {round}: {answer:?}");
        }
        assert!(is_unavailable(&database.ping().await));
        assert!(is_unavailable(&database.migrate().await));
        server.start_again();
        for _ in 0..20 {
            assert_eq!(tenants.get(ada.id).await.expect("it is back").as_ref(), Some(&ada), "round {round}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_the_server_ends_are_replaced() {
    let url = fresh_database();
    let database = connect(&url, &PoolSettings { max_connections: 2, ..PATIENT });
    for _ in 0..5 {
        all_at_once(8, |_| {
            let database = database.clone();
            async move { database.ping().await.expect("an answer") }
        })
        .await;
        execute(
            &url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .expect("ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_too_long_is_unavailable() {
    let url = fresh_database();
    let settings = PoolSettings { statement_timeout_ms: 200, ..PATIENT };
    let tenants = SqlTenantStore::new(connect(&url, &settings));
    tenants.create(&tenant("Ada")).await.expect("written");
    let lock = withhold_writes(&url, "tenants").await;
    let blocked = tenants.create(&tenant("Bob")).await;
    assert!(is_unavailable(&blocked), "{blocked:?}");
    drop(lock);
    tenants.create(&tenant("Bob")).await.expect("the lock is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_stays_exhausted_is_unavailable() {
    let url = fresh_database();
    let settings = PoolSettings { max_connections: 1, acquire_timeout_ms: 1_000, ..PATIENT };
    let database = connect(&url, &settings);
    let tenants = Arc::new(SqlTenantStore::new(database.clone()));
    until_found(&database).await;
    tenants.create(&tenant("Ada")).await.expect("written");
    let lock = withhold_writes(&url, "tenants").await;
    let holder = tokio::spawn({
        let tenants = tenants.clone();
        async move { tenants.create(&tenant("Bob")).await }
    });
    let observer = server::connect(&url).await;
    eventually("the only connection to wait for the lock", async || {
        let waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND database = \
                       (SELECT oid FROM pg_database WHERE datname = current_database())";
        (!observer.query(waiting, &[]).await.expect("an answer").is_empty()).then_some(())
    })
    .await;
    assert!(is_unavailable(&database.ping().await));
    drop(lock);
    holder.await.expect("no panic").expect("the lock is gone");
    until_found(&database).await;
}

/// Where a test takes the time to connect from its subject, a machine that stands still may need another try.
async fn until_found(database: &Database) {
    eventually("a connection", async || database.ping().await.ok()).await;
}

/// Where the Postgres of a test's URL listens.
fn address(url: &str) -> String {
    let port = url.split(['@', '/', ':']).find(|part| part.len() > 3 && part.bytes().all(|b| b.is_ascii_digit()));
    format!("127.0.0.1:{}", port.expect("a port"))
}

/// A way to Postgres whose connections can fall silent: they stay open, and nothing comes through.
async fn proxy(url: &str) -> (String, watch::Sender<bool>) {
    let upstream = address(url);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxied = url.replace(&upstream, &listener.local_addr().expect("bound").to_string());
    let (silence, silent) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (upstream, mut silent) = (upstream.clone(), silent.clone());
            tokio::spawn(async move {
                let mut server = TcpStream::connect(upstream).await.expect("Postgres");
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = async { silent.wait_for(|silent| *silent).await.is_ok() } => std::future::pending().await,
                }
            });
        }
    });
    (proxied, silence)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_falls_silent_is_unavailable() {
    let (url, silence) = proxy(&fresh_database()).await;
    let settings = PoolSettings { max_connections: 1, acquire_timeout_ms: 300, statement_timeout_ms: 100, ..PATIENT };
    let database = connect(&url, &settings);
    until_found(&database).await;
    silence.send_replace(true);
    assert!(is_unavailable(&database.ping().await), "its connection is silent");
    assert!(is_unavailable(&database.ping().await), "a new one cannot be made");
    silence.send_replace(false);
    // The silent connection was thrown away.
    until_found(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_was_never_there_is_unavailable() {
    let database = connect("postgres://voxgate@127.0.0.1:1/nowhere", &PoolSettings::default());
    assert!(is_unavailable(&database.ping().await));
    assert!(is_unavailable(&SqlTenantStore::new(database).get(tenant("Ada").id).await));
    assert!(Database::postgres(&"not a url".to_owned().into(), &PoolSettings::default()).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_database_says_nothing_of_it_to_callers() {
    let url = empty_database();
    let failed = SqlTenantStore::new(connect(&url, &PoolSettings::default())).get(tenant("Ada").id).await;
    let error = failed.expect_err("there are no tables");
    assert!(matches!(error, Error::Internal(_)), "{error:?}");
    assert_eq!(error.to_string(), "internal error");
    assert!(
        std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("tenants")),
        "{error:?}"
    );
}

/// A way to Postgres that counts how often the client spoke after the server had: round trips.
async fn counting_proxy(url: &str) -> (String, Arc<AtomicUsize>) {
    let upstream = address(url);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxied = url.replace(&upstream, &listener.local_addr().expect("bound").to_string());
    let trips = Arc::new(AtomicUsize::new(0));
    let count = trips.clone();
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("a client");
        let mut server = TcpStream::connect(upstream).await.expect("Postgres");
        let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
        let mut server_spoke = true;
        loop {
            tokio::select! {
                read = client.read(&mut asked) => {
                    let Ok(bytes @ 1..) = read else { break };
                    count.fetch_add(usize::from(server_spoke), Ordering::SeqCst);
                    server_spoke = false;
                    server.write_all(&asked[..bytes]).await.expect("Postgres");
                }
                read = server.read(&mut answered) => {
                    let Ok(bytes @ 1..) = read else { break };
                    server_spoke = true;
                    client.write_all(&answered[..bytes]).await.expect("the client");
                }
            }
        }
    });
    (proxied, trips)
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_a_session_takes_three_round_trips_and_one_more_where_events_tell_of_it() {
    let (url, trips) = counting_proxy(&fresh_database()).await;
    let stores = Stores::of(connect(&url, &PoolSettings { max_connections: 1, ..PoolSettings::default() }), None);
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await.id;
    // The first time, each statement is prepared. The others: BEGIN with the tenant's reach, the statement, the events of
    // a beginning or an end, COMMIT.
    for (on, expected) in [("first", None), ("second", Some([4, 3, 4]))] {
        let session = session(tenant, agent, on);
        let before = trips.load(Ordering::SeqCst);
        stores.sessions.open(tenant, &session).await.expect("opened");
        let opened = trips.load(Ordering::SeqCst);
        assert!(stores.sessions.update(tenant, &session).await.expect("an answer"));
        let updated = trips.load(Ordering::SeqCst);
        assert!(stores.sessions.end(tenant, session.id, Outcome::Hangup, at(1)).await.expect("an answer").is_some());
        let ended = trips.load(Ordering::SeqCst);
        if let Some(expected) = expected {
            assert_eq!([opened - before, updated - opened, ended - updated], expected);
        }
    }
}
