//! A private Postgres: one for the whole test process, or one of a test's own that it may stop and start.
//!
//! A test gets a database of its own, copied from a migrated template, which takes milliseconds.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use voxgate::db::{Database, PoolSettings};

use super::{
    pki::Pair,
    process::{Process, find_program, free_port, wait_for},
};

const INSTALL: &str = "apt-get install postgresql";
const PATIENCE: Duration = Duration::from_mins(1);
const TEMPLATE: &str = "voxgate_template";
/// What a test's server keeps is gone with the test: no need to see it safe on disk.
const DISPOSABLE: &[&str] = &["fsync=off", "synchronous_commit=off", "full_page_writes=off"];
const TLS: &[&str] = &["fsync=off", "synchronous_commit=off", "full_page_writes=off", "ssl=on"];

static SHARED: LazyLock<PrivatePostgres> = LazyLock::new(|| {
    let server = PrivatePostgres::start();
    server.create(TEMPLATE, "template0");
    let template = server.url(TEMPLATE);
    blocking(async move {
        patient(&template).migrate().await.expect("the template is migrated");
    });
    server
});
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// For a machine that is shared with others and may stop for seconds.
pub(crate) const PATIENT: PoolSettings = PoolSettings {
    max_connections: 16,
    acquire_timeout_ms: 20_000,
    statement_timeout_ms: 20_000,
    tls_ca_file: None,
    tls_cert_file: None,
    tls_key_file: None,
};

/// The database of a URL, by a caller who has time.
pub(crate) fn patient(url: &str) -> Database {
    Database::postgres(&url.to_owned().into(), &PATIENT).expect("a url")
}

/// The URL of a migrated database that nobody else uses.
pub(crate) fn fresh_database() -> String {
    SHARED.another(TEMPLATE)
}

/// The URL of a database without any table.
pub(crate) fn empty_database() -> String {
    SHARED.another("template0")
}

/// A server with a folder of its own; both are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    /// Present while the server runs. Dropped before `home`, which holds the data.
    again: Option<Process>,
    home: Process,
    port: u16,
    settings: &'static [&'static str],
}

impl PrivatePostgres {
    pub(crate) fn start() -> Self {
        Self::start_with(DISPOSABLE)
    }

    /// On these settings besides Postgres's own defaults, under which what was committed is on disk.
    pub(crate) fn start_with(settings: &'static [&'static str]) -> Self {
        Self::start_prepared(settings, |_| {})
    }

    /// One that has TLS, under this certificate, and plain text for who asks for it.
    pub(crate) fn start_tls(pair: &Pair) -> Self {
        Self::start_prepared(TLS, |data| {
            for (name, text) in [("server.crt", &pair.cert), ("server.key", &pair.key)] {
                let file = data.join(name);
                fs::write(&file, text).expect("written");
                fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
                give_away(&file);
            }
        })
    }

    fn start_prepared(settings: &'static [&'static str], prepare: impl FnOnce(&Path)) -> Self {
        let home = Process::folder("postgres");
        give_away(&home);
        let mut initdb = unprivileged(&program("initdb"));
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        let made = initdb.arg("--pgdata").arg(data(&home)).output().expect("initdb runs");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        prepare(&data(&home));
        let port = free_port();
        let command = serve(&home, port, settings);
        let server = Self { again: None, home: Process::start(home, &command), port, settings };
        server.wait_until_ready();
        // As an installation has it: neither superuser nor BYPASSRLS, and the owner of its databases.
        execute(&server.superuser_url("postgres"), "CREATE ROLE voxgate LOGIN").expect("the service's role");
        server
    }

    /// The URL of one of its databases, for the service's role.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://voxgate@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn superuser_url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The URL of a new, empty database.
    pub(crate) fn database(&self) -> String {
        self.another("template0")
    }

    /// Shuts the server down as an operator would: open transactions are aborted, connections closed.
    pub(crate) fn stop(&mut self) {
        let server = self.again.as_ref().unwrap_or(&self.home);
        server.signal("INT");
        wait_for("the end of Postgres", PATIENCE, || (!server.is_running()).then_some(()));
        self.again = None;
    }

    /// Sends a signal to all of its processes: after `STOP` it takes connections and answers nothing until `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        self.again.as_ref().unwrap_or(&self.home).signal_family(name);
    }

    /// Starts it again, on the same port and the same data.
    pub(crate) fn start_again(&mut self) {
        let folder = Process::folder("postgres-again");
        give_away(&folder);
        self.again = Some(Process::start(folder, &serve(self.home.dir(), self.port, self.settings)));
        self.wait_until_ready();
    }

    fn another(&self, template: &str) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        self.create(&name, template);
        self.url(&name)
    }

    fn create(&self, name: &str, template: &str) {
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template} OWNER voxgate");
        // A template that was just migrated may have a connection for another moment.
        wait_for("a database", PATIENCE, || execute(&self.superuser_url("postgres"), &sql).ok());
    }

    fn wait_until_ready(&self) {
        let url = self.superuser_url("postgres");
        wait_for("Postgres", PATIENCE, || {
            let server = self.again.as_ref().unwrap_or(&self.home);
            assert!(server.is_running(), "Postgres did not start: {}", server.log());
            execute(&url, "SELECT 1").ok()
        });
    }
}

fn data(home: &Path) -> PathBuf {
    home.join("data")
}

fn serve(home: &Path, port: u16, settings: &[&str]) -> Command {
    let mut server = unprivileged(&program("postgres"));
    server.arg("-D").arg(data(home)).arg("-p").arg(port.to_string()).arg("-k").arg(home);
    let always = ["listen_addresses=127.0.0.1", "max_connections=300"];
    server.args(always.iter().chain(settings).flat_map(|setting| ["-c", setting]));
    server
}

fn program(name: &str) -> PathBuf {
    // Debian keeps the server's programs off the PATH, a folder for each version.
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    find_program(&[name], &folders, INSTALL)
}

/// Postgres refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
    command
}

fn give_away(folder: &Path) {
    if is_root() {
        let status = Command::new("chown").arg("nobody:nogroup").arg(folder).status();
        assert!(status.expect("chown runs").success());
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc is mounted").uid() == 0
}

/// The URL of the same database for its superuser.
pub(crate) fn as_superuser(url: &str) -> String {
    url.replacen("voxgate@", "postgres@", 1)
}

/// A connection for what a test asks itself.
pub(crate) async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("Postgres runs");
    tokio::spawn(connection);
    client
}

/// Runs statements on a connection of their own.
pub(crate) fn execute(url: &str, sql: &str) -> Result<(), String> {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    blocking(async move {
        let mut connection = AsyncPgConnection::establish(&url).await.map_err(|error| error.to_string())?;
        connection.batch_execute(&sql).await.map_err(|error| error.to_string())
    })
}

/// Lets `table` be read and not written until what is answered leaves scope.
pub(crate) async fn withhold_writes(url: &str, table: &str) -> impl Sized {
    let mut connection = AsyncPgConnection::establish(url).await.expect("a connection");
    let lock = format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE");
    connection.batch_execute(&lock).await.expect("the lock");
    connection
}

/// Waits for `work` on a thread of its own, since the caller may be in a runtime or not.
fn blocking<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work)
    });
    thread.join().expect("the work does not panic")
}
