//! The release binary, started as an operator would start it.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use secrecy::ExposeSecret as _;
use voxgate::domain::tenant::RATE_LIMIT_PER_MIN_MAX;

use super::{
    harness::{
        postgres::PrivatePostgres,
        process::{Process, free_port},
        redis::PrivateRedis,
    },
    machine,
};

/// A running service and all that it stands on.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) title: String,
    key: String,
    addr: SocketAddr,
    // Ended in this order: the service before its stores.
    service: Process,
    _redis: Option<PrivateRedis>,
    _postgres: Option<PrivatePostgres>,
}

impl Home {
    /// `voxgate dev`: SQLite, and slots in the process.
    pub(crate) fn embedded() -> Self {
        Self::start("Embedded: `voxgate dev`, SQLite, slots in the process".to_owned(), "dev", &[], None, None)
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
        let stores = [
            ("VOXGATE_DATABASE_URL", database),
            ("VOXGATE_REDIS_URL", redis.url().expose_secret().to_owned()),
            ("VOXGATE_KEY_RING", "bench:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".to_owned()),
        ];
        Self::start(title, "serve", &stores, Some(redis), Some(postgres))
    }

    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The resident memory of the service in MiB, now and at most.
    pub(crate) fn memory(&self) -> (u64, u64) {
        machine::memory_mib(self.service.dir())
    }

    fn start(
        title: String,
        command: &str,
        stores: &[(&str, String)],
        redis: Option<PrivateRedis>,
        postgres: Option<PrivatePostgres>,
    ) -> Self {
        let dir = Process::folder("bench");
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (addr, admin) = (local(free_port()), local(free_port()));
        let voxgate = |arguments: &[&str]| {
            let mut voxgate = voxgate(&dir, stores);
            voxgate.env("VOXGATE_GRPC_ADDR", addr.to_string()).env("VOXGATE_ADMIN_ADDR", admin.to_string());
            voxgate.args(arguments);
            voxgate
        };
        answer(voxgate(&["migrate"]));
        answer(voxgate(&["tenant", "create", "--name", "bench"]));
        // Not the sandbox key of `dev`, whose calls the simulated node would host: no home has a node here.
        let most = RATE_LIMIT_PER_MIN_MAX.to_string();
        let key = ["key", "create", "--tenant", "bench", "--name", "bench", "--scopes", "all"];
        let key = answer(voxgate(&[&key[..], &["--rate-limit-per-min", &most]].concat()));
        let serve = voxgate(&[command]);
        Self { title, key, addr, service: Process::start(dir, &serve), _redis: redis, _postgres: postgres }
    }
}

/// The binary under the settings of this home, and none of the caller's.
fn voxgate(dir: &Path, stores: &[(&str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voxgate"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
        command.env_remove(name);
    }
    command.env("VOXGATE_DATA_DIR", dir.join("data")).envs(stores.iter().map(|(name, value)| (name, value)));
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
