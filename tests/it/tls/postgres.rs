//! TLS to Postgres: which server is taken for ours, by which `sslmode`.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;
use voxgate::db::{Change, Database, Listener, PoolSettings};

use crate::harness::{
    client::granted,
    pki::Authority,
    postgres::{self, PATIENT, PrivatePostgres},
    redis::PrivateRedis,
    server::{self, TestServer, outside_of_any_runtime},
    world::{World, eventually},
};

/// Servers under certificates of all kinds, and one without any.
struct Servers {
    /// Of this address, by our authority.
    ours: PrivatePostgres,
    /// By our authority, of another name.
    misnamed: PrivatePostgres,
    /// Of this address, by an authority that nobody knows.
    foreign: PrivatePostgres,
    plain: PrivatePostgres,
    _dir: tempfile::TempDir,
    ca_file: PathBuf,
}

static SERVERS: LazyLock<Servers> = LazyLock::new(|| {
    outside_of_any_runtime(|| {
        let (authority, foreign) = (Authority::new(), Authority::new());
        let dir = tempfile::tempdir().expect("a temporary folder");
        let ca_file = dir.path().join("ca.crt");
        std::fs::write(&ca_file, &authority.pem).expect("written");
        Servers {
            ours: PrivatePostgres::start_tls(&authority.server()),
            misnamed: PrivatePostgres::start_tls(&authority.server_called("another.example")),
            foreign: PrivatePostgres::start_tls(&foreign.server()),
            plain: PrivatePostgres::start(),
            _dir: dir,
            ca_file,
        }
    })
});

fn with_ca() -> PoolSettings {
    PoolSettings { tls_ca_file: Some(SERVERS.ca_file.clone()), ..PATIENT }
}

fn database(url: &str, settings: &PoolSettings) -> Database {
    Database::postgres(&url.to_owned().into(), settings).expect("a URL")
}

/// How a connection came about, as the server sees it; or why none did.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Plain,
    Tls,
    Refused,
}

/// What a connection to the server by this query of its URL comes to.
async fn meets(server: &PrivatePostgres, query: &str, settings: &PoolSettings) -> Met {
    let name = format!("probe-{}", voxgate::domain::Env::system().uuid());
    let separator = if query.is_empty() { "?" } else { "&" };
    let url = format!("{}{query}{separator}application_name={name}", server.url("postgres"));
    let database = database(&url, settings);
    let answer = database.ping().await;
    let client = postgres::connect(&server.superuser_url("postgres")).await;
    let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = $1";
    let seen: Vec<bool> = client.query(sql, &[&name]).await.expect("rows").iter().map(|row| row.get(0)).collect();
    match (answer, seen.as_slice()) {
        (Ok(()), [true]) => Met::Tls,
        (Ok(()), [false]) => Met::Plain,
        (Err(_), []) => Met::Refused,
        (answer, seen) => panic!("{query}: {answer:?}, and the server sees {seen:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_takes_the_servers_that_it_may_and_no_other() {
    use Met::{Plain, Refused, Tls};
    let Servers { ours, misnamed, foreign, plain, .. } = &*SERVERS;
    let without = PATIENT;
    let with = with_ca();
    // Against ours, one of another name, one of another authority, and one without TLS.
    let table = [
        ("?sslmode=disable", &without, [Plain, Plain, Plain, Plain]),
        ("", &without, [Tls, Tls, Tls, Plain]),
        ("?sslmode=prefer", &without, [Tls, Tls, Tls, Plain]),
        ("?sslmode=require", &without, [Tls, Tls, Tls, Refused]),
        ("?sslmode=require", &with, [Tls, Tls, Refused, Refused]),
        ("?sslmode=verify-ca", &with, [Tls, Tls, Refused, Refused]),
        ("?sslmode=verify-full", &with, [Tls, Refused, Refused, Refused]),
        // Authorities are named, and the URL says nothing.
        ("", &with, [Tls, Refused, Refused, Refused]),
        // The machine's authorities know none of them.
        ("?sslmode=verify-full", &without, [Refused, Refused, Refused, Refused]),
    ];
    for (query, settings, expected) in table {
        let ca = settings.tls_ca_file.is_some();
        let mut met = Vec::new();
        for server in [ours, misnamed, foreign, plain] {
            met.push(meets(server, query, settings).await);
        }
        assert_eq!(met, expected, "{query:?}, with authorities: {ca}");
    }
}

/// How often a listener was told that it listens, by the time that the same database has answered or refused twice.
async fn listens(server: &PrivatePostgres, query: &str) -> usize {
    let database = database(&format!("{}{query}", server.url("postgres")), &with_ca());
    let (told, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let count = told.clone();
    let listener = Listener::new(move |change| {
        assert_eq!(change, Change::Anything);
        count.fetch_add(1, Ordering::Relaxed);
    });
    let listening = database.tell_changes(listener, stop.clone());
    let asked = async {
        let answers = database.ping().await.is_ok();
        if answers {
            let heard = async || (told.load(Ordering::Relaxed) > 0).then_some(());
            eventually("the first word", heard).await;
        } else {
            // Time enough for several attempts of the listener's.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stop.cancel();
    };
    tokio::join!(listening, asked);
    told.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_listens_is_held_to_the_same() {
    let Servers { ours, misnamed, foreign, plain, .. } = &*SERVERS;
    assert_eq!(listens(ours, "?sslmode=verify-full").await, 1);
    assert_eq!(listens(misnamed, "?sslmode=verify-full").await, 0);
    assert_eq!(listens(foreign, "?sslmode=verify-ca").await, 0);
    assert_eq!(listens(plain, "?sslmode=require").await, 0);
}

/// The configuration of tests, with authorities.
fn configured(ca_file: &Path) -> String {
    server::PATIENT.replacen("[database]\n", &format!("[database]\ntls_ca_file = '{}'\n", ca_file.display()), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_speaks_to_its_database_by_tls_alone_and_hears_of_changes_by_it() {
    let Servers { ours, ca_file, .. } = &*SERVERS;
    let redis = PrivateRedis::start();
    let (plain, server) = tokio::task::block_in_place(|| {
        let plain = ours.database();
        // The command line has no file of configuration here, and takes whatever server answers.
        let key = server::operator_key_of(&plain, redis.url().expose_secret());
        let url = format!("{plain}?sslmode=verify-full");
        (plain, TestServer::configured(&url, redis.url().expose_secret(), key, &configured(ca_file)))
    });
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(1).await;
    assert!(world.release(&world.admit(&agent.id).await).await);
    let client = postgres::connect(&postgres::as_superuser(&plain)).await;
    let sql = "SELECT ssl, query LIKE 'LISTEN%' OR query = 'SELECT 1' FROM pg_stat_ssl JOIN pg_stat_activity \
               USING (pid) WHERE datname = current_database() AND usename = 'voxgate'";
    let rows = client.query(sql, &[]).await.expect("rows");
    let seen: Vec<(bool, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(seen.len() >= 2 && seen.iter().all(|(ssl, _)| *ssl), "{seen:?}");
    assert!(seen.iter().any(|(_, listens)| *listens), "the listening connection is among them: {seen:?}");
    granted(world.caller.agents().get_default_voice_agent(voxgate::proto::v1::GetDefaultVoiceAgentRequest {}).await);
}

#[test]
fn what_cannot_work_is_refused_at_the_start_by_name() {
    let error = |url: &str, settings: &PoolSettings| {
        let refused = Database::postgres(&url.to_owned().into(), settings).map(|_| ());
        format!("{:?}", refused.expect_err("refused"))
    };
    let nowhere = PoolSettings { tls_ca_file: Some("/nowhere".into()), ..PATIENT };
    assert!(error("postgres://a/b?sslmode=verify-full", &nowhere).contains("database.tls_ca_file"));
    assert!(error("postgres://a/b?sslmode=allow", &PATIENT).contains("database_url"));
}
