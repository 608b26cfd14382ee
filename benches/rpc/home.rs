//! The release binary, started as an operator would start it.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};
use secrecy::ExposeSecret as _;
use voxgate::domain::tenant::RATE_LIMIT_PER_MIN_MAX;

use super::{
    harness::{
        postgres::{self, PrivatePostgres},
        process::{Process, free_port},
        redis::PrivateRedis,
    },
    machine,
};

const DATABASE_URL: &str = "VOXGATE_DATABASE_URL";
const REDIS_URL: &str = "VOXGATE_REDIS_URL";

/// A running service and all that it stands on.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) title: String,
    key: String,
    addr: SocketAddr,
    stores: Vec<(&'static str, String)>,
    // Ended in this order: the service before its stores.
    service: Process,
    redis: Option<PrivateRedis>,
    _postgres: Option<PrivatePostgres>,
}

impl Home {
    /// `voxgate dev`: SQLite, and slots in the process.
    pub(crate) fn embedded() -> Self {
        Self::start("Embedded: `voxgate dev`, SQLite, slots in the process".to_owned(), "dev", Vec::new(), None, None)
    }

    /// `voxgate serve` on a private Postgres and a private Redis.
    pub(crate) fn production() -> Self {
        let (postgres, redis) = (PrivatePostgres::start_with(&[]), PrivateRedis::start());
        let database = postgres.database();
        let title = format!(
            "Redis: `voxgate serve`, PostgreSQL {}, Redis {}",
            machine::postgres_version(&database),
            machine::redis_version()
        );
        let stores = vec![
            (DATABASE_URL, database),
            (REDIS_URL, redis.url().expose_secret().to_owned()),
            ("VOXGATE_KEY_RING", "bench:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned()),
        ];
        Self::start(title, "serve", stores, Some(redis), Some(postgres))
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// One more replica on the same stores, and where it serves.
    pub(crate) fn another_replica(&self) -> (Process, SocketAddr) {
        let (dir, addr) = (Process::folder("bench-replica"), local(free_port()));
        let serve = voxgate(&dir, &self.stores, addr, &["serve"]);
        (Process::start(dir, &serve), addr)
    }

    /// None where the rows are in SQLite.
    pub(crate) fn postgres_url(&self) -> Option<&str> {
        self.stores.iter().find(|(name, _)| *name == DATABASE_URL).map(|(_, url)| url.as_str())
    }

    /// None where the slots are in the process.
    pub(crate) fn redis_url(&self) -> Option<&str> {
        self.stores.iter().find(|(name, _)| *name == REDIS_URL).map(|(_, url)| url.as_str())
    }

    /// Runs statements beside the service.
    pub(crate) fn execute(&self, sql: &str) {
        let done = match self.postgres_url() {
            Some(url) => postgres::execute(url, sql),
            None => {
                let file = self.service.dir().join("data").join("voxgate.db");
                let connection = SqliteConnection::establish(&file.to_string_lossy());
                connection.expect("a database").batch_execute(sql).map_err(|error| error.to_string())
            }
        };
        done.expect("the statements are right");
    }

    /// The resident memory of the service in MiB, now and at most.
    pub(crate) fn memory(&self) -> (u64, u64) {
        machine::memory_mib(self.service.dir())
    }

    /// The resident memory of the service in KiB, now.
    pub(crate) fn resident_kib(&self) -> u64 {
        machine::resident_kib(self.service.dir())
    }

    /// What Redis uses in bytes; none where there is none.
    pub(crate) fn redis_bytes(&self) -> Option<u64> {
        let info = self.redis.as_ref()?.command("INFO memory");
        info.lines().find_map(|line| line.strip_prefix("used_memory:"))?.trim().parse().ok()
    }

    fn start(
        title: String,
        command: &str,
        stores: Vec<(&'static str, String)>,
        redis: Option<PrivateRedis>,
        postgres: Option<PrivatePostgres>,
    ) -> Self {
        let dir = Process::folder("bench");
        let addr = local(free_port());
        let voxgate = |arguments: &[&str]| voxgate(&dir, &stores, addr, arguments);
        answer(voxgate(&["migrate"]));
        answer(voxgate(&["tenant", "create", "--name", "bench"]));
        // Not the sandbox key of `dev`, whose calls the simulated node would host: no home has a node here.
        let most = RATE_LIMIT_PER_MIN_MAX.to_string();
        let key = ["key", "create", "--tenant", "bench", "--name", "bench", "--scopes", "all"];
        let key = answer(voxgate(&[&key[..], &["--rate-limit-per-min", &most]].concat()));
        let serve = voxgate(&[command]);
        Self { title, key, addr, service: Process::start(dir, &serve), stores, redis, _postgres: postgres }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The binary under the settings of this home, and none of the caller's.
fn voxgate(dir: &Path, stores: &[(&str, String)], addr: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voxgate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    command.env("VOXGATE_DATA_DIR", dir.join("data")).envs(stores.iter().map(|(name, value)| (name, value)));
    command.env("VOXGATE_GRPC_ADDR", addr.to_string()).env("VOXGATE_ADMIN_ADDR", local(free_port()).to_string());
    command.args(arguments);
    command
}

fn is_ours(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with("VOXGATE_")
}

fn answer(mut command: Command) -> String {
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
