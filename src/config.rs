//! Configuration: defaults, then the file, then the environment.
//!
//! A key of the file that is not one of ours is an error, so that a misspelt limit is not a silent default. Secrets
//! redact themselves. Limits live in one struct a concern, beside the code that they limit.

mod limits;
mod tls;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use figment::{
    Figment,
    providers::{Env, Format as _, Toml},
};
use secrecy::SecretString;
use serde::Deserialize;

pub use self::tls::{ClientCerts, TlsSettings};
use crate::{
    calls::CallSettings,
    db::{CacheSettings, PoolSettings, RetentionSettings},
    grpc::layers::RpcSettings,
    redis::RedisSettings,
    sessions::JournalSettings,
    tenants::MeshSettings,
    traces::TraceSettings,
    webhooks::WebhookSettings,
};

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "VOXGATE_CONFIG";
/// The variable that holds the API key of `voxgate node-sim` and `voxgate top`.
pub const KEY_VARIABLE: &str = "VOXGATE_KEY";

/// The variables that set a key of the file, by that key. All others are left alone.
const VARIABLES: [(&str, &str); 10] = [
    ("VOXGATE_GRPC_ADDR", "grpc_addr"),
    ("VOXGATE_ADMIN_ADDR", "admin_addr"),
    ("VOXGATE_DATA_DIR", "data_dir"),
    ("VOXGATE_DATABASE_URL", "database_url"),
    ("VOXGATE_REDIS_URL", "redis_url"),
    ("VOXGATE_KEY_RING", "secrets.key_ring"),
    ("VOXGATE_KEY_RING_FILE", "secrets.key_ring_file"),
    ("VOXGATE_LOG", "log"),
    ("VOXGATE_LOG_FORMAT", "log_format"),
    ("VOXGATE_TRACES_ENDPOINT", "traces.endpoint"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Limits of the listener.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSettings {
    /// Threads that serve requests, each its own connections (default 0: one a core).
    pub threads: usize,
    /// Connections at once; more are closed at accept (default 10,000: each idle one costs some 16 KiB).
    pub max_connections: usize,
    /// Requests at once on one connection (default 200; the library's own default has no limit).
    pub max_streams_per_connection: u32,
    /// From accept to the last byte of the HTTP/2 preface (default 5,000 ms: some retransmissions); a connection that
    /// says nothing is closed then, since it counts.
    pub handshake_timeout_ms: u64,
    /// How often an idle connection is asked whether it lives (default 20,000 ms): a partition that closes no socket
    /// is found out within this and `keepalive_timeout_ms`.
    pub keepalive_interval_ms: u64,
    /// How long the answer may take (default 10,000 ms).
    pub keepalive_timeout_ms: u64,
    /// Age at which a client is told to connect again, by a tenth more or less, so that those that balance by themselves
    /// find replicas that were added (default 1,800,000 ms: a fleet is even again half an hour later, and connecting costs
    /// nothing by then); 0: never.
    pub max_connection_age_ms: u64,
    /// From then on how long streams go on, which would not end by themselves (default 120,000 ms: as long as a call may
    /// wait in AwaitSlot).
    pub max_connection_age_grace_ms: u64,
    /// Whether whoever reaches the port may ask what is served (default true: the descriptions are no secret, and grpcurl needs
    /// them or the files).
    pub reflection: bool,
    /// From NOT_SERVING to refusing work, so that balancers look away first (default 2,000 ms; none under `dev`).
    pub drain_notice_ms: u64,
    /// From refusing work to the end of the process, whatever is still running (default 20,000 ms).
    pub drain_cap_ms: u64,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            threads: 0,
            max_connections: 10_000,
            max_streams_per_connection: 200,
            handshake_timeout_ms: 5_000,
            keepalive_interval_ms: 20_000,
            keepalive_timeout_ms: 10_000,
            max_connection_age_ms: 1_800_000,
            max_connection_age_grace_ms: 120_000,
            reflection: true,
            drain_notice_ms: 2_000,
            drain_cap_ms: 20_000,
        }
    }
}

impl ListenSettings {
    /// As many as the machine, or its control group, lets run at once.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// What `/metrics` tells beyond the ordinary.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Voice agents whose usage and limit are told, those with most leases on this replica (default 0, at most 100: each
    /// costs two series, by its id, and a question to the slot store every 5 s).
    pub top_agents: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where gRPC is served; absent: 127.0.0.1:50051 under `dev`, 0.0.0.0:50051 under `serve`.
    pub grpc_addr: Option<SocketAddr>,
    /// Where `/livez`, `/readyz` and `/metrics` are served; absent: port 9090 of the same addresses.
    pub admin_addr: Option<SocketAddr>,
    /// Where the embedded default keeps its files.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// `postgres://…`, for `serve` and the one-off commands.
    pub database_url: Option<SecretString>,
    /// `redis://…`, `redis+sentinel://…` or `redis+cluster://…`, each also as `rediss…`; for `serve`.
    pub redis_url: Option<SecretString>,
    /// Which log lines, as `tracing-subscriber` filters them (default `info`).
    #[serde(default = "default_log")]
    pub log: String,
    /// Absent: text under `dev` and at the command line, JSON under `serve`.
    pub log_format: Option<LogFormat>,
    #[serde(default)]
    pub listen: ListenSettings,
    #[serde(default)]
    pub tls: TlsSettings,
    #[serde(default)]
    pub mesh: MeshSettings,
    #[serde(default)]
    pub rpc: RpcSettings,
    #[serde(default)]
    pub calls: CallSettings,
    #[serde(default)]
    pub journal: JournalSettings,
    #[serde(default)]
    pub database: PoolSettings,
    #[serde(default)]
    pub redis: RedisSettings,
    #[serde(default)]
    pub cache: CacheSettings,
    #[serde(default)]
    pub retention: RetentionSettings,
    #[serde(default)]
    pub secrets: SecretSettings,
    #[serde(default)]
    pub webhooks: WebhookSettings,
    #[serde(default)]
    pub metrics: MetricsSettings,
    #[serde(default)]
    pub traces: TraceSettings,
}

/// The keys under which secrets are kept. Lines or commas of `id:key`, each key 32 bytes in base64; the first seals, all
/// open. One of the two is needed by `serve`; the embedded default makes a ring of its own.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSettings {
    pub key_ring: Option<SecretString>,
    pub key_ring_file: Option<PathBuf>,
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("./voxgate-data")
}

fn default_log() -> String {
    "info".to_owned()
}

impl Config {
    /// Reads `file` if there is one, then the environment.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let (config, faults) = Self::read(file)?;
        config
            .filter(|_| faults.is_empty())
            .with_context(|| format!("the configuration is refused: {}", faults.join("; ")))
    }

    /// The same, beside all that cannot work of it; without a value where that keeps it from being one.
    pub fn read(file: Option<&Path>) -> anyhow::Result<(Option<Self>, Vec<String>)> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            anyhow::ensure!(file.is_file(), "the configuration file {} does not exist", file.display());
            figment = figment.merge(Toml::file_exact(file));
        }
        for (variable, key) in VARIABLES {
            // `raw` reads one variable whole; an empty one counts as not set.
            let value = Env::raw().only(&[variable]).iter().next().map(|(_, value)| value);
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                figment = figment.merge((key, value));
            }
        }
        // A number that is out of its range may be no number of its type either, so that is told first.
        let mut faults = limits::faults(&figment);
        let config = match figment.extract::<Self>() {
            Err(error) if faults.is_empty() => return Err(error.into()),
            extracted => extracted.ok(),
        };
        if let Some(Self { tls, mesh, traces, .. }) = &config {
            faults.extend(tls.faults());
            faults.extend(tls.mesh_faults(mesh));
            faults.extend(traces.faults());
        }
        Ok((config, faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn load(text: &str) -> anyhow::Result<Config> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        Config::load(Some(file.path()))
    }

    #[test]
    fn keys_that_are_not_ours_are_refused_by_name() {
        for text in ["grpc_adr = '127.0.0.1:1'", "[calls]\nsweep = 1", "[listen]\nmax = 1", "[redis]\nx = 1"] {
            let error = load(text).expect_err("refused").to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn a_file_sets_limits_and_leaves_the_others_at_their_defaults() {
        let config = load("data_dir = '/tmp/x'\n[calls]\nsweep_interval_ms = 7").expect("valid");
        assert_eq!((config.calls.sweep_interval_ms, config.calls.verb_timeout_ms), (7, 10_000));
        assert_eq!(config.data_dir, Path::new("/tmp/x"));
    }

    #[test]
    fn limits_that_cannot_work_are_refused_by_name_and_all_at_once() {
        let text = format!(
            "[listen]\nmax_connections = 0\nmax_streams_per_connection = 0\nkeepalive_interval_ms = 0\n\
             drain_cap_ms = {most}\n[rpc]\nmax_in_flight = {most}\n[calls]\nsweep_interval_ms = 0\n\
             idempotency_hours = {most}\n[database]\nmax_connections = 0\n[redis]\ncommand_timeout_ms = 0\n\
             clock_step_ms = 999",
            most = i64::MAX
        );
        let error = load(&text).expect_err("refused").to_string();
        for key in [
            "listen.max_connections must be from 1 to 1000000, not 0",
            "listen.max_streams_per_connection must",
            "listen.keepalive_interval_ms must",
            "listen.drain_cap_ms must be from 0 to 86400000, not 9223372036854775807",
            "rpc.max_in_flight must",
            "calls.sweep_interval_ms must",
            "calls.idempotency_hours must",
            "database.max_connections must",
            "redis.command_timeout_ms must",
            "redis.clock_step_ms must be 0, or from 1000 to 86400000, not 999",
        ] {
            assert!(error.contains(key), "{key}: {error}");
        }
        assert_eq!(error.matches(" must be ").count(), 10, "{error}");
    }

    #[test]
    fn numbers_and_files_that_cannot_work_are_told_together() {
        let text = "[calls]\nverbs_per_second = 0\nreconcile_interval_ms = -1\n[tls]\ncert_file = 'a'";
        let error = load(text).expect_err("refused").to_string();
        for fault in [
            "calls.verbs_per_second must be from 1 to 1000, not 0",
            "calls.reconcile_interval_ms must be from 1 to 86400000, not -1",
        ] {
            assert!(error.contains(fault), "{fault}: {error}");
        }
        let text = text.replace("-1", "0");
        let error = load(&text).expect_err("refused").to_string();
        assert!(error.contains("tls.key_file is required beside tls.cert_file"), "{error}");
        assert!(error.contains("calls.reconcile_interval_ms must be"), "{error}");
    }

    #[test]
    fn secrets_do_not_print() {
        let config = load("database_url = 'postgres://u:hunter2@h/d'").expect("valid");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
