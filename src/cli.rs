//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::{
    client::TlsOptions,
    config::{CONFIG_VARIABLE, Config, KEY_VARIABLE, LogFormat},
    domain::{
        clock::Timestamp,
        keyring::Rewrapped,
        tenant::{ApiKeyDraft, Scope, TenantDraft},
    },
    node_sim, proto,
    server::{self, Service, Stores, Tools, doctor},
    telemetry, top,
    traces::TraceSettings,
};

/// The gRPC control plane that a voice platform trusts with its live calls.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    /// A TOML file; the environment wins over it.
    #[arg(long, global = true, env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything on the embedded default, with a demo tenant, a key and a simulated node (what no command does).
    Dev,
    /// The production service, on Postgres and Redis.
    Serve,
    /// Bring the database's schema up to this version.
    Migrate,
    /// Tenants.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// What is kept sealed.
    #[command(subcommand)]
    Secrets(SecretsCommand),
    /// Check the installation and say what to mend; exit code 1 where there is a fault.
    Doctor {
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// A simulated media node on a running service.
    NodeSim(NodeSim),
    /// A live view of how full a tenant and its voice agents are, on a running service.
    Top(Top),
}

#[derive(Debug, Subcommand)]
enum SecretsCommand {
    /// Bring every sealed secret under the first key of the key ring, while the service goes on.
    Rewrap,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Create a tenant; prints its id and its name.
    Create {
        #[arg(long)]
        name: String,
        /// Where calls go that name no voice agent.
        #[arg(long)]
        default_ws_url: Option<String>,
        /// Cap over all of its voice agents; 0 means none.
        #[arg(long)]
        max_concurrent: Option<i32>,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Create an API key; prints its secret, this once.
    Create {
        /// The tenant's id or name.
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        name: String,
        /// Separated by commas, or `all`.
        #[arg(long, value_delimiter = ',')]
        scopes: Vec<String>,
        /// A `vg_test_` key, whose calls only ever reach sandbox nodes.
        #[arg(long)]
        sandbox: bool,
        #[arg(long)]
        rate_limit_per_min: Option<i32>,
        /// RFC 3339, such as 2027-01-31T12:00:00Z.
        #[arg(long)]
        expires_at: Option<Timestamp>,
    },
}

/// A running service, and who we are to it.
#[derive(Debug, Args)]
struct Remote {
    /// An API key: `node-sim` needs `nodes:connect`; `top` needs `slots:acquire` and, for the names of agents,
    /// `voice_agents:read`. None where the client is known by its certificate.
    #[arg(long, env = KEY_VARIABLE, hide_env_values = true, required_unless_present = "tls_cert")]
    key: Option<SecretString>,
    /// The service; absent: at `VOXGATE_GRPC_ADDR`.
    #[arg(long, value_name = "http[s]://HOST:PORT")]
    endpoint: Option<String>,
    /// The authorities of the service's certificate, PEM; with it, the service is spoken to by TLS.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The client's own certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_ca", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the client's own certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Top {
    #[command(flatten)]
    remote: Remote,
    /// Only this agent, by id; may be given again.
    #[arg(long = "agent", value_name = "ID")]
    agents: Vec<String>,
    /// The admin port of a replica, such as `http://127.0.0.1:9090`: shows its nodes and denials, of all tenants; may be
    /// given again.
    #[arg(long = "admin", value_name = "URL")]
    admins: Vec<String>,
    /// Print one table to stdout and end; needs no terminal.
    #[arg(long)]
    once: bool,
}

#[derive(Debug, Args)]
struct NodeSim {
    #[command(flatten)]
    remote: Remote,
    #[arg(long, default_value = "sim-1")]
    node_id: String,
    /// Carry the calls of sandbox keys, and no others.
    #[arg(long)]
    sandbox: bool,
    /// Calls it hosts at once.
    #[arg(long, default_value_t = 100)]
    capacity: i32,
    /// Speak audio.jambonz.org instead of audio.drachtio.org.
    #[arg(long)]
    jambonz: bool,
    /// What it does with the verbs of which no --fail says anything.
    #[arg(long, value_enum, default_value = "accept")]
    verbs: Verbs,
    /// Milliseconds between carrying a verb out and acknowledging it; an hour at most.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=SLOWEST_MS))]
    ack_delay_ms: u64,
    /// A failure with the commands of a verb; may be given again.
    ///
    /// VERB is one that nodes carry out, such as transfer or send_dtmf, or * for each of them.
    ///
    /// FAILURE is one of: slow=MS (acknowledged so many milliseconds late), reject (refused), ignore (neither carried
    /// out nor acknowledged), disconnect (carried out, and the stream dropped before it is acknowledged; the node
    /// connects again and acknowledges it when it comes again), duplicate-ack (acknowledged twice).
    ///
    /// N is for how many commands; without it, for all. The first --fail decides that names the verb and is not used
    /// up. A command that comes again is acknowledged as it was, whatever is said here.
    #[arg(long, value_name = "VERB:FAILURE[:N]")]
    fail: Vec<node_sim::Rule>,
}

/// As a flag takes it.
const SLOWEST_MS: u64 = node_sim::SLOWEST.as_secs() * 1_000;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Verbs {
    Accept,
    Reject,
    Ignore,
}

impl Cli {
    pub async fn run(self) -> anyhow::Result<()> {
        // Set and empty counts as unset, as with every other variable.
        let file = self.config.as_deref().filter(|file| !file.as_os_str().is_empty());
        if let Some(Command::Doctor { json }) = self.command {
            return Box::pin(doctor(file, json)).await;
        }
        let config = Config::load(file)?;
        let command = self.command.unwrap_or(Command::Dev);
        let format = if matches!(command, Command::Serve) { LogFormat::Json } else { LogFormat::Text };
        // Across a screen that is drawn to nothing else may be written.
        if !matches!(command, Command::Top(_)) {
            telemetry::log_to_stderr(&config.log, config.log_format.unwrap_or(format))?;
        }
        match command {
            Command::Dev => {
                let metrics = telemetry::record_metrics()?;
                let traces = config.traces.clone();
                traced(&traces, "voxgate", Box::pin(server::dev(config, metrics, stop_signal()?))).await
            }
            Command::Serve => {
                let (stores, metrics) = (Stores::production(&config)?, telemetry::record_metrics()?);
                let traces = config.traces.clone();
                let service = Service::bind(config, stores, metrics, [0, 0, 0, 0]).await?;
                tracing::info!(grpc.addr = %service.grpc_addr()?, admin.addr = %service.admin_addr()?, "starting");
                traced(&traces, "voxgate", service.run(stop_signal()?)).await
            }
            Command::Migrate => Tools::new(&config)?.migrate().await,
            Command::Tenant(command) => tenant(&config, command).await,
            Command::Key(command) => key(&config, command).await,
            Command::Secrets(SecretsCommand::Rewrap) => rewrap(&config).await,
            Command::Doctor { json } => doctor(file, json).await,
            Command::Top(options) => options.run(&config).await,
            Command::NodeSim(options) => {
                traced(&config.traces, "voxgate-node-sim", node_sim::run(options.on(&config), stop_signal()?)).await
            }
        }
    }
}

/// A configuration that stops every other command is for this one to explain; and it keeps no log.
async fn doctor(file: Option<&Path>, json: bool) -> anyhow::Result<()> {
    use std::io::Write as _;
    let report = Box::pin(doctor::examine(file)).await;
    let text = if json { report.json()? } else { report.text() };
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    // A name that nobody resolves or a disk that hangs holds a thread which cannot be ended otherwise.
    std::process::exit(i32::from(!report.is_ok()))
}

/// Sends what is traced of `work`, also what is left in the end.
async fn traced(
    settings: &TraceSettings,
    service: &'static str,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let export = telemetry::export_traces(settings, service)?;
    let done = work.await;
    if let Some(export) = export {
        export.finish().await;
    }
    done
}

async fn tenant(config: &Config, command: TenantCommand) -> anyhow::Result<()> {
    let TenantCommand::Create { name, default_ws_url, max_concurrent } = command;
    let draft = TenantDraft { name: Some(name), default_ws_url, max_concurrent, ..TenantDraft::default() };
    let tenant = Tools::new(config)?.create_tenant(draft).await?;
    say(&format!("{} {}", tenant.id, tenant.name))
}

async fn rewrap(config: &Config) -> anyhow::Result<()> {
    let Rewrapped { rewrapped, unopened, done } = Tools::new(config)?.rewrap(config).await?;
    say(&format!("rewrapped {rewrapped} secrets"))?;
    anyhow::ensure!(unopened == 0, "{unopened} secrets do not open under this key ring; the log names their rows");
    anyhow::ensure!(done, "secrets are still being written under an older key: give every replica this key ring first");
    Ok(())
}

async fn key(config: &Config, command: KeyCommand) -> anyhow::Result<()> {
    let KeyCommand::Create { tenant, name, scopes, sandbox, rate_limit_per_min, expires_at } = command;
    let all = || Scope::ALL.iter().map(|scope| scope.as_str().to_owned()).collect();
    let scopes = if scopes == ["all"] { all() } else { scopes };
    let draft = ApiKeyDraft { name, scopes, rate_limit_per_min, expires_at, sandbox };
    let secret = Tools::new(config)?.create_key(&tenant, draft).await?;
    say(secret.reveal())
}

impl Remote {
    /// The endpoint, the key and the files.
    fn on(self, config: &Config) -> (String, Option<SecretString>, Option<TlsOptions>) {
        let addr = config.grpc_addr.unwrap_or(([127, 0, 0, 1], 50_051).into());
        let scheme = if self.tls_ca.is_some() { "https" } else { "http" };
        let endpoint = self.endpoint.unwrap_or_else(|| format!("{scheme}://{addr}"));
        let tls = self.tls_ca.map(|ca| TlsOptions { ca, identity: self.tls_cert.zip(self.tls_key) });
        (endpoint, self.key, tls)
    }
}

impl Top {
    async fn run(self, config: &Config) -> anyhow::Result<()> {
        let (endpoint, key, tls) = self.remote.on(config);
        let options = top::Options { endpoint, key, tls, agents: self.agents, admins: self.admins };
        if self.once { top::once(options).await } else { top::run(options, stop_signal()?).await }
    }
}

impl NodeSim {
    fn on(self, config: &Config) -> node_sim::Options {
        let (endpoint, key, tls) = self.remote.on(config);
        node_sim::Options {
            endpoint,
            key,
            tls,
            node_id: self.node_id,
            subprotocol: if self.jambonz {
                proto::v1::Subprotocol::AudioJambonzOrg
            } else {
                proto::v1::Subprotocol::AudioDrachtioOrg
            },
            sandbox: self.sandbox,
            capacity: self.capacity,
            behavior: node_sim::Behaviour {
                ack_delay: std::time::Duration::from_millis(self.ack_delay_ms),
                policy: match self.verbs {
                    Verbs::Accept => node_sim::Policy::Accept,
                    Verbs::Reject => node_sim::Policy::Reject,
                    Verbs::Ignore => node_sim::Policy::Ignore,
                },
                script: self.fail.into(),
            },
        }
    }
}

/// What a command answers goes to stdout, alone.
fn say(line: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Cancelled by SIGTERM or Ctrl-C.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["voxgate", "node-sim"].iter().chain(args))
    }

    #[test]
    fn a_node_with_a_certificate_needs_no_key_and_a_certificate_needs_all_its_files() {
        let all = ["--tls-ca", "ca", "--tls-cert", "crt", "--tls-key", "key"];
        assert!(parse(&all).is_ok());
        assert!(parse(&["--key", "x", "--tls-ca", "ca"]).is_ok());
        for lacking in [&all[..4], &all[2..], &all[2..4]] {
            assert!(parse(lacking).is_err(), "{lacking:?}");
            assert!(parse(&[lacking, &["--key", "x"]].concat()).is_err(), "{lacking:?}");
        }
    }

    #[test]
    fn failures_are_told_one_by_one_and_a_faulty_one_says_what_is_allowed() {
        assert!(parse(&["--key", "x", "--fail", "transfer:reject", "--fail", "*:duplicate-ack:2"]).is_ok());
        for (rule, told) in [
            ("dance:reject", "or one of barge, conference_add"),
            ("hold:explode", "slow=MS, reject, ignore, disconnect, duplicate-ack"),
            ("hold", "VERB:FAILURE:N"),
        ] {
            let error = parse(&["--key", "x", "--fail", rule]).expect_err(rule).to_string();
            assert!(error.contains(told) && error.contains("--fail"), "{error}");
        }
        assert!(parse(&["--key", "x", "--ack-delay-ms", "3600001"]).is_err());
    }

    #[test]
    fn a_node_that_trusts_an_authority_speaks_tls() {
        let Some(Command::NodeSim(options)) = parse(&["--key", "x", "--tls-ca", "ca"]).expect("valid").command else {
            panic!("another command")
        };
        let options = options.on(&Config::load(None).expect("the defaults"));
        assert!(options.endpoint.starts_with("https://"), "{}", options.endpoint);
        assert!(options.tls.is_some_and(|tls| tls.identity.is_none()));
    }
}
