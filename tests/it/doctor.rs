//! `voxgate doctor`: the real binary on real servers, of which one thing at a time is wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use secrecy::ExposeSecret as _;
use voxgate::{
    domain::{Env, Timestamp, keyring::KeyRing},
    tenants::{SqlTenantStore, TenantStore as _, TokenKey},
};

use crate::harness::{
    cluster::ClusterSet,
    pki::{Authority, Pair},
    postgres,
    process::free_port,
    redis::PrivateRedis,
    sentinel::SentinelSet,
    server::{KEY_RING, voxgate},
};

const DAY: Duration = Duration::from_hours(24);
const OTHER_RING: &str = "others:YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=";
/// The machine of the tests may stop for seconds.
const PATIENT: &str = "[database]\nacquire_timeout_ms = 10000\n[redis]\nconnect_timeout_ms = 10000\n";

/// What the doctor said.
struct Said {
    code: Option<i32>,
    text: String,
    errors: String,
}

impl Said {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("voxgate runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { code: status.code(), text: text(stdout), errors: text(stderr) }
    }

    /// The outcome and what is said beside it.
    fn of_check(&self, check: &str) -> (&str, &str) {
        let lines: Vec<_> = self.text.lines().filter(|line| line.split_whitespace().nth(1) == Some(check)).collect();
        let [line] = lines[..] else { panic!("{check} has {} lines in\n{}{}", lines.len(), self.text, self.errors) };
        let (outcome, rest) = line.split_once(' ').expect("an outcome comes first");
        (outcome, rest.trim_start().strip_prefix(check).expect("then the check").trim_start())
    }

    /// Every other check is well, and each of these is at fault for this reason, with something to do.
    #[track_caller]
    fn faults_alone(&self, faults: &[(&str, &str)]) {
        for (check, why) in faults {
            let (outcome, told) = self.of_check(check);
            assert_eq!(outcome, "fault", "{check} in\n{}", self.text);
            assert!(told.contains(why) && told.contains(". What to do: "), "{check}: {told}");
        }
        let others = self.text.lines().filter(|line| line.starts_with("fault")).count();
        assert_eq!((others, self.code), (faults.len(), Some(i32::from(!faults.is_empty()))), "\n{}", self.text);
    }
}

/// The doctor at these stores, with a configuration and files beside it.
fn at(database: &str, redis: &str, ring: &str, config: &str, files: &[(&str, &str)]) -> Said {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in files.iter().chain(&[("voxgate.toml", config)]) {
        fs::write(dir.path().join(name), text).expect("written");
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).expect("its owner's alone");
    }
    let stores = [("VOXGATE_DATABASE_URL", database), ("VOXGATE_REDIS_URL", redis), ("VOXGATE_KEY_RING", ring)];
    let mut command = voxgate(dir.path(), &stores);
    Said::of(command.current_dir(dir.path()).args(["doctor", "--config", "voxgate.toml"]))
}

fn at_stores(database: &str, redis: &str) -> Said {
    at(database, redis, KEY_RING, PATIENT, &[])
}

/// A Redis as an installation should have it.
fn kept_redis() -> PrivateRedis {
    PrivateRedis::start_with(&["--appendonly", "yes"])
}

fn url_of(redis: &PrivateRedis) -> String {
    redis.url().expose_secret().to_owned()
}

/// A migrated database in which a replica has written its token key under the tests' ring.
fn used_database() -> String {
    let url = postgres::fresh_database();
    let kept = url.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let (env, ring) = (Env::system(), KeyRing::parse(&KEY_RING.to_owned().into()).expect("a ring"));
        let key = TokenKey::generate(&env).sealed(&ring, &env).expect("sealed");
        SqlTenantStore::new(postgres::patient(&kept)).token_key(&key).await.expect("written");
    });
    url
}

fn nowhere() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[test]
fn where_all_is_well_every_line_says_so() {
    let (authority, redis) = (Authority::new(), kept_redis());
    let Pair { cert, key } = authority.server_until(Env::system().now().plus(30 * DAY));
    let tls = "[tls]\ncert_file = 'tls.crt'\nkey_file = 'tls.key'\nclient_ca_file = 'ca.crt'\n\
               [webhooks]\nca_file = 'ca.crt'\n\
               [traces]\nendpoint = 'https://collector:4317'\nca_file = 'ca.crt'\n";
    let files = [("tls.crt", &*cert), ("tls.key", &key), ("ca.crt", &authority.pem)];
    let said = at(&used_database(), &url_of(&redis), KEY_RING, &format!("{tls}{PATIENT}"), &files);
    assert!(said.text.lines().all(|line| line.starts_with("ok ")), "{}", said.text);
    assert_eq!((said.code, said.errors.as_str()), (Some(0), ""), "{}", said.text);
    for (check, told) in [
        ("configuration", "voxgate.toml and the environment"),
        ("files", "all 5 that are named can be read"),
        ("key_ring", "tests"),
        ("key_ring.database", "1 secrets open"),
        ("database", "Postgres 1"),
        ("database.role", "row-level security binds voxgate"),
        ("database.schema", "equal to this binary's"),
        ("database.connections", "replicas of 17 connections each"),
        ("redis", "answers, version"),
        ("redis.policy", "noeviction"),
        ("redis.memory", "MiB are used"),
        ("redis.persistence", "the append-only file is on"),
        ("redis.replication", "a master with 0 replicas"),
        ("clock", "Redis 127.0.0.1"),
        ("tls", "tls.crt loads with its key, valid until"),
        ("tls.client_ca", "1 authorities"),
        ("webhooks.ca", "ca.crt loads with 1 authorities"),
        ("traces.ca", "ca.crt loads with 1 authorities"),
    ] {
        assert!(said.of_check(check).1.contains(told), "{check}: {:?}", said.of_check(check));
    }
    assert_eq!(said.text.lines().count(), 18, "{}", said.text);
}

#[test]
fn a_redis_that_evicts_is_a_fault_and_one_that_keeps_nothing_a_warning() {
    let redis = PrivateRedis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let said = at_stores(&postgres::fresh_database(), &url_of(&redis));
    said.faults_alone(&[("redis.policy", "allkeys-lru")]);
    let (outcome, told) = said.of_check("redis.persistence");
    assert!(outcome == "warning" && told.contains("a restart loses all"), "{told}");
}

#[test]
fn a_server_that_is_away_hides_nothing_of_the_others() {
    let redis = kept_redis();
    let database = postgres::fresh_database();
    let said = at_stores(&database, &format!("redis://{}", nowhere()));
    said.faults_alone(&[("redis", "cannot be asked")]);
    assert_eq!(said.of_check("database.schema").0, "ok");
    let said = at_stores(&format!("postgres://voxgate@{}/voxgate", nowhere()), &url_of(&redis));
    said.faults_alone(&[("database", "onnection refused")]);
    assert_eq!((said.of_check("redis.policy").0, said.of_check("key_ring").0), ("ok", "ok"));
    let said = at_stores(&format!("postgres://voxgate@{}/voxgate", nowhere()), &format!("redis://{}", nowhere()));
    said.faults_alone(&[("database", "cannot be asked"), ("redis", "cannot be asked")]);
}

#[test]
fn half_of_what_serve_needs_is_a_fault_of_the_other_half() {
    let redis = kept_redis();
    at_stores(&postgres::fresh_database(), "").faults_alone(&[("redis", "VOXGATE_REDIS_URL is not set")]);
    at_stores("", &url_of(&redis)).faults_alone(&[("database", "VOXGATE_DATABASE_URL is not set")]);
}

#[test]
fn a_schema_that_is_behind_is_a_fault_and_one_that_is_ahead_a_warning() {
    let redis = kept_redis();
    let said = at_stores(&postgres::empty_database(), &url_of(&redis));
    said.faults_alone(&[("database.schema", "none of this binary's migrations has run")]);
    let database = postgres::fresh_database();
    let newest = "version = (SELECT max(version) FROM __diesel_schema_migrations)";
    postgres::execute(&database, &format!("DELETE FROM __diesel_schema_migrations WHERE {newest}")).expect("removed");
    let said = at_stores(&database, &url_of(&redis));
    said.faults_alone(&[("database.schema", "behind this binary by 1 of")]);
    let database = postgres::fresh_database();
    let another = "INSERT INTO __diesel_schema_migrations (version) VALUES ('20990101000000')";
    postgres::execute(&database, another).expect("added");
    let said = at_stores(&database, &url_of(&redis));
    said.faults_alone(&[]);
    assert_eq!(said.of_check("database.schema").0, "warning");
}

#[test]
fn a_role_that_no_fence_holds_is_a_fault() {
    let redis = kept_redis();
    let said = at_stores(&postgres::as_superuser(&postgres::fresh_database()), &url_of(&redis));
    said.faults_alone(&[("database.role", "postgres bypasses the row-level security")]);
}

#[test]
fn a_server_without_room_for_a_replica_is_a_fault() {
    let redis = kept_redis();
    let config = "[database]\nacquire_timeout_ms = 10000\nmax_connections = 400\n[redis]\nconnect_timeout_ms = 10000\n";
    let said = at(&postgres::fresh_database(), &url_of(&redis), KEY_RING, config, &[]);
    said.faults_alone(&[("database.connections", "room for 0 replicas of 401 connections each")]);
}

#[test]
fn certificates_are_known_by_their_dates_and_by_their_keys() {
    let (authority, redis, database) = (Authority::new(), kept_redis(), postgres::fresh_database());
    let now = Env::system().now();
    let until = |not_after: Timestamp| authority.server_until(not_after);
    let with = |pair: &Pair, key: &str| {
        let config = format!("[tls]\ncert_file = 'tls.crt'\nkey_file = 'tls.key'\n{PATIENT}");
        at(&database, &url_of(&redis), KEY_RING, &config, &[("tls.crt", &pair.cert), ("tls.key", key)])
    };
    let expired = until(now.minus(DAY));
    with(&expired, &expired.key).faults_alone(&[("tls", "has expired at")]);
    let (good, other) = (until(now.plus(30 * DAY)), until(now.plus(30 * DAY)));
    with(&good, &other.key).faults_alone(&[("tls", "are no pair")]);
    with(&good, "no key").faults_alone(&[("tls", "no private key in PEM")]);
    let ending = until(now.plus(13 * DAY));
    let said = with(&ending, &ending.key);
    said.faults_alone(&[]);
    let (outcome, told) = said.of_check("tls");
    assert!(outcome == "warning" && told.contains("which is in 12 days"), "{told}");
}

#[test]
fn a_key_ring_that_does_not_open_what_the_database_holds_is_a_fault() {
    let redis = kept_redis();
    let said = at(&used_database(), &url_of(&redis), OTHER_RING, PATIENT, &[]);
    said.faults_alone(&[("key_ring.database", "1 of 1 secrets do not open")]);
    let said = at(&used_database(), &url_of(&redis), "", PATIENT, &[]);
    said.faults_alone(&[("key_ring", "there is none")]);
    let said = at(&used_database(), &url_of(&redis), "no-ring", PATIENT, &[]);
    said.faults_alone(&[("key_ring", "key_ring[0] must be id:base64")]);
}

#[test]
fn a_clock_that_is_ahead_is_found_and_by_how_much_it_harms() {
    let (redis, database) = (PrivateRedis::start_with_clock_shim(), postgres::fresh_database());
    redis.advance(Duration::from_mins(2));
    let said = at_stores(&database, &url_of(&redis));
    assert_eq!((said.code, said.of_check("clock").0), (Some(0), "warning"), "{}", said.text);
    redis.advance(Duration::from_mins(8));
    let said = at_stores(&database, &url_of(&redis));
    said.faults_alone(&[("clock", "s ahead")]);
}

#[test]
fn redis_behind_sentinels_and_in_a_cluster_is_looked_at_as_well() {
    let (sentinels, database) = (SentinelSet::start(1), postgres::fresh_database());
    let said = at_stores(&database, &sentinels.url());
    said.faults_alone(&[]);
    assert!(said.of_check("redis.sentinels").1.starts_with("3 of 3 name the master"), "{}", said.text);
    assert!(said.of_check("redis.replication").1.contains("a master with 2 replicas, and writes only with 1"));
    let cluster = ClusterSet::start();
    let said = at_stores(&database, &cluster.url());
    said.faults_alone(&[]);
    assert_eq!(said.of_check("redis.cluster"), ("ok", "state ok, 16384 of 16384 slots are owned"));
    cluster.servers()[1].kill();
    let said = at_stores(&database, &cluster.url());
    assert_eq!((said.code, said.of_check("redis").0, said.of_check("redis.policy").0), (Some(1), "fault", "ok"));
}

#[test]
fn all_faults_of_the_configuration_are_told_and_the_servers_are_looked_at_all_the_same() {
    let redis = kept_redis();
    let config = format!("[listen]\nmax_connections = 0\n[calls]\nsweep_interval_ms = 0\n{PATIENT}");
    let said = at(&postgres::fresh_database(), &url_of(&redis), KEY_RING, &config, &[]);
    said.faults_alone(&[(
        "configuration",
        "listen.max_connections must be from 1 to 1000000, not 0 (the default is 10000); calls.sweep",
    )]);
    let said = at(&postgres::fresh_database(), &url_of(&redis), KEY_RING, "[webhooks]\nca_file = 'none'\n", &[]);
    said.faults_alone(&[("files", "webhooks.ca_file none cannot be read"), ("webhooks.ca", "none")]);
    let said = at("", "", "", "grpc_adr = 'x'", &[]);
    said.faults_alone(&[("configuration", "unknown field")]);
}

#[test]
fn no_secret_is_ever_told() {
    let redis = PrivateRedis::start_with(&["--requirepass", "another"]);
    let of_redis = |password: &str| format!("redis://:{password}@127.0.0.1:{}", redis.port());
    let of_database = |password: &str| postgres::fresh_database().replace("voxgate@", &format!("nobody:{password}@"));
    let ring = "canary:Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2E=";
    let canaries = ["canary-db", "canary-pair", "canary-redis", "canary%2Fsentinel", "canary/sentinel", "Y2FuYXJ5"];
    let sentinel = format!("redis+sentinel://:canary-redis@{}/main?sentinel_password=canary%2Fsentinel", nowhere());
    for (database, redis) in [
        (of_database("canary-db"), of_redis("canary-redis")),
        ("postgress://u:canary-db@h/d?sslmode=disable".to_owned(), "canary-redis".to_owned()),
        ("postgres://u:canary-db@h:port/d".to_owned(), "redis://canary-redis@:canary-redis@/x/y".to_owned()),
        (format!("postgres://u:canary-db@{}/d", nowhere()), sentinel),
        ("host=127.0.0.1 port=x user=u password=canary-pair".to_owned(), of_redis("canary-redis")),
    ] {
        for ring in [ring, "Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5", "k1:Y2FuYXJ5"] {
            let said = at(&database, &redis, ring, PATIENT, &[]);
            assert_eq!(said.code, Some(1), "{}", said.text);
            for canary in canaries {
                assert!(!said.text.contains(canary) && !said.errors.contains(canary), "{canary} in\n{}", said.text);
            }
        }
    }
}

#[test]
fn json_says_the_same() {
    let (redis, dir) = (kept_redis(), tempfile::tempdir().expect("a folder"));
    let (url, redis) = (postgres::empty_database(), url_of(&redis));
    let stores = [("VOXGATE_DATABASE_URL", &*url), ("VOXGATE_REDIS_URL", &redis), ("VOXGATE_KEY_RING", KEY_RING)];
    let said = Said::of(voxgate(dir.path(), &stores).args(["doctor", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&said.text).expect("JSON");
    assert_eq!((said.code, &json["ok"]), (Some(1), &false.into()));
    let checks = json["checks"].as_array().expect("checks");
    let schema = checks.iter().find(|check| check["check"] == "database.schema").expect("the schema's");
    assert_eq!(schema["outcome"], "fault");
    assert!(schema["advice"].as_str().is_some_and(|advice| advice.contains("voxgate migrate")), "{schema}");
    let well = checks.iter().find(|check| check["outcome"] == "ok").expect("one that is well");
    assert!(well.get("advice").is_none() && well["found"].is_string(), "{well}");
}

fn embedded(dir: &Path, args: &[&str]) -> Said {
    Said::of(voxgate(dir, &[]).args(args))
}

#[test]
fn on_the_embedded_default_the_folder_and_the_file_are_looked_at_and_left_as_they_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let said = embedded(dir.path(), &["doctor"]);
    said.faults_alone(&[]);
    assert!(said.of_check("data_dir").1.contains("is not there yet") && !data.exists(), "{}", said.text);

    let made = embedded(dir.path(), &["migrate"]);
    assert_eq!(made.code, Some(0), "{}", made.errors);
    let said = embedded(dir.path(), &["doctor"]);
    assert!(said.text.lines().all(|line| !line.starts_with("fault")), "{}", said.text);
    for check in ["data_dir", "database", "database.schema", "database.integrity", "key_ring"] {
        assert_eq!(said.of_check(check).0, "ok", "{}", said.text);
    }

    let file = data.join("voxgate.db");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("set");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).expect("set");
    let said = embedded(dir.path(), &["doctor"]);
    said.faults_alone(&[]);
    assert_eq!((said.of_check("data_dir").0, said.of_check("database").0), ("warning", "warning"), "{}", said.text);
    let permissions = fs::metadata(&file).expect("it is there").permissions();
    assert_eq!(permissions.mode() & 0o777, 0o644, "the doctor mended it");
}

#[test]
fn an_embedded_database_that_is_damaged_behind_or_sealed_by_another_ring_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(embedded(dir.path(), &["migrate"]).code, Some(0));
    let file = dir.path().join("data/voxgate.db");
    let ring = KeyRing::parse(&KEY_RING.to_owned().into()).expect("a ring");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let env = Env::system();
        let key = TokenKey::generate(&env).sealed(&ring, &env).expect("sealed");
        let database = voxgate::db::Database::sqlite(&file).expect("it opens");
        SqlTenantStore::new(database).token_key(&key).await.expect("written");
    });
    let ring = [("VOXGATE_KEY_RING", OTHER_RING)];
    let said = Said::of(voxgate(dir.path(), &ring).arg("doctor"));
    said.faults_alone(&[("key_ring.database", "1 of 1 secrets do not open")]);

    let mut bytes = fs::read(&file).expect("read");
    for byte in bytes.iter_mut().skip(4_096).step_by(97) {
        *byte = !*byte;
    }
    fs::write(&file, &bytes).expect("written");
    let said = Said::of(voxgate(dir.path(), &ring).arg("doctor"));
    assert_eq!(said.code, Some(1), "{}", said.text);
    assert!(said.text.lines().any(|line| line.starts_with("fault    database")), "{}", said.text);
}
