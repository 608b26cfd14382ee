//! The real binary as a child process, on ports of its own.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use secrecy::ExposeSecret as _;
use voxgate::{
    db::Database,
    domain::keyring::KeyRing,
    tenants::{SqlTenantStore, TenantStore as _, TokenKey},
};

use super::{
    postgres,
    process::{Process, free_port, wait_for},
    redis,
};

/// The ring of all production servers that tests start.
pub(crate) const KEY_RING: &str = "tests:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const BINARY: &str = env!("CARGO_BIN_EXE_voxgate");
const CONFIG_FILE: &str = "voxgate.toml";
/// A cold start migrates a database on a busy machine.
const START_PATIENCE: Duration = Duration::from_mins(1);

/// Where the state lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Embedded,
    PostgresRedis,
}

/// A running `voxgate`.
#[derive(Debug)]
pub(crate) struct TestServer {
    process: Process,
    /// `http://127.0.0.1:<port>`.
    pub(crate) addr: String,
    pub(crate) admin_port: u16,
    /// A key with every scope.
    pub(crate) admin_key: String,
    /// Another one on the live side of the sandbox fence; the same where `admin_key` is there already.
    pub(crate) live_key: String,
    /// The database and its key ring, where they are not in its folder.
    stores: Option<(String, String)>,
}

/// A machine that is shared with others may stop for seconds. What a sick store does to callers is the subject of tests
/// with servers of their own; to all others it is a mistake of the test.
pub(crate) const PATIENT: &str = "[database]\nacquire_timeout_ms = 20_000\nstatement_timeout_ms = 20_000\n\
    [redis]\ncommand_timeout_ms = 10_000\nconnect_timeout_ms = 10_000\n";

static EMBEDDED: LazyLock<TestServer> = LazyLock::new(|| outside_of_any_runtime(TestServer::embedded));
static POSTGRES_REDIS: LazyLock<TestServer> = LazyLock::new(|| {
    outside_of_any_runtime(|| {
        let Prepared { database_url, redis_url, admin_key } = Prepared::fresh();
        let dir = configured(PATIENT, &[]);
        let stores = stores(&database_url, &redis_url);
        TestServer::start(dir, &["serve", "--config", CONFIG_FILE], &stores, admin_key)
    })
});

/// The harness may start runtimes of its own, which must not happen inside a test's.
pub(crate) fn outside_of_any_runtime<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl TestServer {
    /// The server of `backend` that tests share which kill nothing.
    pub(crate) fn shared(backend: Backend) -> &'static Self {
        match backend {
            Backend::Embedded => &EMBEDDED,
            Backend::PostgresRedis => &POSTGRES_REDIS,
        }
    }

    /// `voxgate dev`: everything in one process and one folder.
    pub(crate) fn embedded() -> Self {
        Self::embedded_in(&[])
    }

    /// The same with these in its environment.
    pub(crate) fn embedded_in(env: &[(&str, &str)]) -> Self {
        Self::dev(Process::folder("dev"), &["dev"], env)
    }

    fn dev(dir: PathBuf, args: &[&str], env: &[(&str, &str)]) -> Self {
        let key_file = dir.join("data/dev-key");
        let mut server = Self::start(dir, args, env, String::new());
        let key = wait_for("the dev key", START_PATIENCE, || std::fs::read_to_string(&key_file).ok());
        key.trim().clone_into(&mut server.admin_key);
        server.live_key = new_operator_key(server.process.dir(), &[]);
        server
    }

    /// `voxgate dev` once more, on the files of one that was killed.
    pub(crate) fn embedded_after(killed: &Self) -> Self {
        let dir = Process::folder("dev");
        std::fs::rename(killed.data_dir(), dir.join("data")).expect("moved");
        Self::dev(dir, &["dev"], &[])
    }

    /// `voxgate dev` under the limits of a TOML file.
    pub(crate) fn embedded_with(limits: &str) -> Self {
        let dir = Process::folder("dev");
        let file = dir.join("voxgate.toml");
        std::fs::write(&file, limits).expect("written");
        Self::dev(dir, &["dev", "--config", file.to_str().expect("UTF-8")], &[])
    }

    /// `voxgate serve` on stores that others may share, migrated and with an operator's key.
    pub(crate) fn production(database_url: &str, redis_url: &str) -> Self {
        let stores = stores(database_url, redis_url);
        let key = operator_key(&stores);
        Self::production_with_key(database_url, redis_url, key)
    }

    /// The same under a configuration of its own.
    pub(crate) fn production_under(database_url: &str, redis_url: &str, config: &str) -> Self {
        let key = operator_key(&stores(database_url, redis_url));
        Self::configured(database_url, redis_url, key, config)
    }

    /// Another replica on the same stores, whose operator's key is known already.
    pub(crate) fn production_with_key(database_url: &str, redis_url: &str, key: String) -> Self {
        Self::configured(database_url, redis_url, key, PATIENT)
    }

    /// Another replica under a configuration of its own.
    pub(crate) fn configured(database_url: &str, redis_url: &str, key: String, config: &str) -> Self {
        let stores = stores(database_url, redis_url);
        Self::start(configured(config, &[]), &["serve", "--config", CONFIG_FILE], &stores, key)
    }

    /// `voxgate serve` under the limits of a TOML file.
    pub(crate) fn production_with(database_url: &str, redis_url: &str, limits: &str) -> Self {
        let stores = stores(database_url, redis_url);
        let key = operator_key(&stores);
        Self::configured(database_url, redis_url, key, &format!("{limits}{PATIENT}"))
    }

    /// A number that `/metrics` tells; 0 where nothing was counted yet.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let metrics = self.get("/metrics").expect("the metrics");
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// The same under another key ring.
    pub(crate) fn production_with_ring(database_url: &str, redis_url: &str, key: &str, ring: &str) -> Self {
        let mut stores = stores(database_url, redis_url);
        stores[2].1 = ring;
        let dir = configured(PATIENT, &[]);
        Self::start(dir, &["serve", "--config", CONFIG_FILE], &stores, key.to_owned())
    }

    /// A server of its own for a test that kills things.
    pub(crate) fn private(backend: Backend) -> Self {
        outside_of_any_runtime(|| match backend {
            Backend::Embedded => Self::embedded(),
            Backend::PostgresRedis => {
                Self::production(&postgres::fresh_database(), redis::PrivateRedis::shared().url().expose_secret())
            }
        })
    }

    /// `voxgate serve` that is not waited for: it may never be ready.
    pub(crate) fn unready(database_url: &str, redis_url: &str, config: &str) -> Self {
        let stores = stores(database_url, redis_url);
        let key = operator_key(&stores);
        Self::launch(configured(config, &[]), &["serve", "--config", CONFIG_FILE], &stores, key)
    }

    fn start(dir: PathBuf, args: &[&str], env: &[(&str, &str)], admin_key: String) -> Self {
        let server = Self::launch(dir, args, env, admin_key);
        server.wait_until_ready();
        server
    }

    pub(crate) fn wait_until_ready(&self) {
        wait_for("readiness", START_PATIENCE, || {
            assert!(self.process.is_running(), "the server exited:\n{}", self.log());
            self.is_ready().then_some(())
        });
    }

    fn launch(dir: PathBuf, args: &[&str], env: &[(&str, &str)], admin_key: String) -> Self {
        let (grpc_port, admin_port) = (free_port(), free_port());
        let mut command = voxgate(&dir, env);
        command.args(args).current_dir(&dir);
        command.env("VOXGATE_GRPC_ADDR", format!("127.0.0.1:{grpc_port}"));
        command.env("VOXGATE_ADMIN_ADDR", format!("127.0.0.1:{admin_port}"));
        let process = Process::start(dir, &command);
        let addr = format!("http://127.0.0.1:{grpc_port}");
        let live_key = admin_key.clone();
        let named = |name| env.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
        let stores = named("VOXGATE_DATABASE_URL").zip(named("VOXGATE_KEY_RING"));
        Self { process, addr, admin_port, admin_key, live_key, stores }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// The whole HTTP answer of the admin port.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.admin_port)).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// Where the embedded stores keep their files.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.process.dir().join("data")
    }

    /// What it signs callback tokens with, for those that it would not sign.
    pub(crate) async fn token_key(&self) -> TokenKey {
        let (database, ring) = match &self.stores {
            Some((url, ring)) => (Ok(postgres::patient(url)), ring.clone()),
            None => {
                let ring = std::fs::read_to_string(self.data_dir().join("key-ring")).expect("a key ring");
                (Database::sqlite(&self.data_dir().join("voxgate.db")), ring)
            }
        };
        let kept = SqlTenantStore::new(database.expect("a database")).kept_token_key().await.expect("an answer");
        kept.expect("a key").open(&KeyRing::parse(&ring.into()).expect("a key ring")).expect("its own key")
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Sends a signal by name: `KILL`, `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(&self) {
        self.signal("KILL");
        self.wait_for_exit(Duration::from_secs(10));
    }

    pub(crate) fn wait_for_exit(&self, patience: Duration) {
        wait_for("the server's exit", patience, || (!self.process.is_running()).then_some(()));
    }
}

/// The stores of a server that is yet to start: its configuration may name what they hold.
#[derive(Debug)]
pub(crate) struct Prepared {
    database_url: String,
    redis_url: String,
    pub(crate) admin_key: String,
}

impl Prepared {
    /// Migrated, with an operator's key.
    pub(crate) fn fresh() -> Self {
        outside_of_any_runtime(|| {
            let database_url = postgres::fresh_database();
            let redis_url = redis::PrivateRedis::shared().url().expose_secret().to_owned();
            let admin_key = operator_key(&stores(&database_url, &redis_url));
            Self { database_url, redis_url, admin_key }
        })
    }

    /// A new tenant's id.
    pub(crate) fn tenant(&self) -> String {
        let dir = tempfile::tempdir().expect("a temporary folder");
        new_tenant(dir.path(), &stores(&self.database_url, &self.redis_url), "prepared")
    }

    /// `voxgate serve` on them, by a configuration with TLS that names `files` in its folder.
    pub(crate) fn serve_tls(&self, config: &str, files: &[(&str, &str)]) -> TestServer {
        let dir = configured(&format!("{config}\n{PATIENT}"), files);
        let args = ["serve", "--config", CONFIG_FILE];
        let stores = stores(&self.database_url, &self.redis_url);
        let mut server = TestServer::start(dir, &args, &stores, self.admin_key.clone());
        server.addr = server.addr.replace("http://", "https://");
        server
    }

    /// What `voxgate serve` says when this configuration does not let it start.
    pub(crate) fn refusal(&self, config: &str, files: &[(&str, &str)]) -> String {
        let dir = configured(config, files);
        let mut command = voxgate(&dir, &stores(&self.database_url, &self.redis_url));
        let output = command.current_dir(&dir).args(["serve", "--config", CONFIG_FILE]).output().expect("voxgate runs");
        std::fs::remove_dir_all(dir).expect("removed");
        assert!(!output.status.success(), "the server started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

fn stores<'a>(database_url: &'a str, redis_url: &'a str) -> [(&'static str, &'a str); 3] {
    [("VOXGATE_DATABASE_URL", database_url), ("VOXGATE_REDIS_URL", redis_url), ("VOXGATE_KEY_RING", KEY_RING)]
}

/// A server's folder with its configuration and what that one names.
fn configured(config: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = Process::folder("serve");
    for (name, text) in files.iter().chain(&[(CONFIG_FILE, config)]) {
        std::fs::write(dir.join(name), text).expect("written");
    }
    dir
}

/// The key of an operator on stores that are yet to be migrated.
pub(crate) fn operator_key_of(database_url: &str, redis_url: &str) -> String {
    operator_key(&stores(database_url, redis_url))
}

/// Migrates the stores and makes a tenant with a key that may do everything.
fn operator_key(stores: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().expect("a temporary folder");
    run(dir.path(), stores, &["migrate"]);
    new_operator_key(dir.path(), stores)
}

fn new_operator_key(dir: &Path, stores: &[(&str, &str)]) -> String {
    let tenant = new_tenant(dir, stores, "operators");
    // What a key is limited to is another test's subject.
    let most = ["--rate-limit-per-min", "100000"];
    let key = ["key", "create", "--tenant", &tenant, "--name", "operator", "--scopes", "all"];
    run(dir, stores, &[&key[..], &most].concat())
}

fn new_tenant(dir: &Path, stores: &[(&str, &str)], name: &str) -> String {
    let created = run(dir, stores, &["tenant", "create", "--name", name]);
    created.split_whitespace().next().expect("the tenant's id comes first").to_owned()
}

/// Runs a one-off command and answers its stdout, trimmed.
fn run(dir: &Path, stores: &[(&str, &str)], args: &[&str]) -> String {
    let output = voxgate(dir, stores).args(args).output().expect("voxgate runs");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "voxgate {args:?} failed: {text}\n{errors}");
    text
}

/// The binary with nothing of the test's own environment that configures it.
pub(crate) fn voxgate(dir: &Path, stores: &[(&str, &str)]) -> Command {
    let mut command = Command::new(BINARY);
    for name in [
        "VOXGATE_DATABASE_URL",
        "VOXGATE_REDIS_URL",
        "VOXGATE_CONFIG",
        "VOXGATE_KEY_RING",
        "VOXGATE_KEY_RING_FILE",
        "VOXGATE_TRACES_ENDPOINT",
    ] {
        command.env_remove(name);
    }
    command.env("VOXGATE_DATA_DIR", dir.join("data")).envs(stores.iter().copied());
    command
}
