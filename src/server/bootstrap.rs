//! The first tenant and the first key: at the command line, and for `voxgate dev`.

use std::{io::Write as _, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::{Service, Stores, rooms::Rooms, secrets};
use crate::{
    agents::Filter,
    config::Config,
    db::{CacheSettings, Database, Listener},
    domain::{
        Env,
        keyring::Rewrapped,
        page::PageRequest,
        tenant::{ApiKeyDraft, KeySecret, RATE_LIMIT_PER_MIN_MAX, Scope, Scopes, Tenant, TenantDraft},
        voice_agent::{Draft, Spec},
    },
    node_sim,
    sessions::JournalSettings,
    tenants::{SqlTenantStore, TenantStore, Tenants},
};

const DEMO: &str = "demo";
/// Who made the demo agent, in the record of its revisions.
const DEV: &str = "voxgate";
/// What a person at the command line most often forgot.
const HINT: &str = "it was not done; if the database is new, run `voxgate migrate` first";
const LINES: &str = include_str!("dev_lines.txt");

/// One-off work on the configured stores.
#[derive(Debug)]
pub struct Tools {
    database: Database,
    tenants: Tenants,
}

impl Tools {
    /// On `VOXGATE_DATABASE_URL`, or else on the embedded default in the data folder.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let database = match &config.database_url {
            Some(url) => Database::postgres(url, &config.database).context("VOXGATE_DATABASE_URL")?,
            None => Stores::embedded(config)?.database,
        };
        let tenants = Tenants::new(Arc::new(SqlTenantStore::new(database.clone())), Listener::nobody(), Env::system());
        Ok(Self { database, tenants })
    }

    pub async fn migrate(&self) -> anyhow::Result<()> {
        Ok(self.database.migrate().await?)
    }

    pub async fn create_tenant(&self, draft: TenantDraft) -> anyhow::Result<Tenant> {
        self.tenants.create(draft).await.context(HINT)
    }

    /// A key of the tenant that has this id, or else this name.
    pub async fn create_key(&self, tenant: &str, draft: ApiKeyDraft) -> anyhow::Result<KeySecret> {
        let tenant = self.tenants.find(tenant).await.context(HINT)?;
        let (_, secret) = self.tenants.create_key(tenant.id, draft, Scopes::all()).await?;
        Ok(secret)
    }

    /// Brings every sealed secret under the first key of the key ring.
    pub async fn rewrap(&self, config: &Config) -> anyhow::Result<Rewrapped> {
        let ring = match config.database_url {
            Some(_) => secrets::required(config)?,
            None => secrets::embedded(config)?,
        };
        secrets::rewrap(&self.database, &ring).await
    }
}

/// Everything on the embedded default, with a tenant, a key, an agent and a node to play with.
pub async fn dev(mut config: Config, metrics: PrometheusHandle, stop: CancellationToken) -> anyhow::Result<()> {
    anyhow::ensure!(
        !config.tls.is_on(),
        "`voxgate dev` serves this machine in plain text: [tls] is for `voxgate serve`"
    );
    config.listen.drain_notice_ms = 0;
    let stores = Stores::embedded(&config)?;
    stores.database.migrate().await?;
    let key_file = config.data_dir.join("dev-key");
    let key = demo(&stores, &key_file).await?;
    let service = Service::bind(config, stores, metrics, [127, 0, 0, 1]).await?;
    let addr = service.grpc_addr()?;

    let node_stop = CancellationToken::new();
    let node = tokio::spawn(node_sim::run(simulated_node(addr, key), node_stop.clone()));
    let nodes = service.nodes();
    let serving = tokio::spawn(service.run(stop.clone()));
    // The lines are for a service that answers them, node and all.
    while nodes.connected() == 0 && !serving.is_finished() && !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if nodes.connected() > 0 {
        print_lines(addr, &key_file)?;
    }
    let served = serving.await?;
    node_stop.cancel();
    node.await??;
    served
}

fn simulated_node(addr: SocketAddr, key: SecretString) -> node_sim::Options {
    node_sim::Options {
        endpoint: format!("http://{addr}"),
        key: Some(key),
        tls: None,
        node_id: "sim-1".to_owned(),
        subprotocol: crate::proto::v1::Subprotocol::AudioDrachtioOrg,
        sandbox: true,
        capacity: 100,
        behavior: node_sim::Behaviour::default(),
    }
}

/// The demo tenant with its key and its agent, made when they are not there yet.
async fn demo(stores: &Stores, key_file: &Path) -> anyhow::Result<SecretString> {
    let env = Env::system();
    let rooms = Rooms::on(stores, &CacheSettings::default(), JournalSettings::default(), &env);
    let Rooms { agents, tenants, tenant_store: store, .. } = rooms;
    let tenant = match store.by_name(DEMO).await? {
        Some(tenant) => tenant,
        None => tenants.create(TenantDraft { name: Some(DEMO.to_owned()), ..TenantDraft::default() }).await?,
    };
    let any = agents.list(tenant.id, &Filter::default(), PageRequest { size: 1, after: None }).await?;
    if any.items.is_empty() {
        let draft = Draft {
            name: Some("Demo agent".to_owned()),
            ws_url: Some("wss://ai.example.com/calls".to_owned()),
            ..Draft::default()
        };
        let spec = Spec::parse(draft).map_err(crate::domain::Error::from)?;
        let agent = agents.create(tenant.id, spec, None, DEV.to_owned()).await?;
        agents.set_default(tenant.id, Some(agent.id)).await?;
    }
    if let Some(kept) = kept_key(&store, key_file).await? {
        return Ok(kept);
    }
    let draft = ApiKeyDraft {
        name: "dev".to_owned(),
        scopes: Scopes::all().iter().map(Scope::as_str).map(str::to_owned).collect(),
        sandbox: true,
        // To be played with, and measured.
        rate_limit_per_min: i32::try_from(RATE_LIMIT_PER_MIN_MAX).ok(),
        ..ApiKeyDraft::default()
    };
    let (_, secret) = tenants.create_key(tenant.id, draft, Scopes::all()).await?;
    write_secret(key_file, secret.reveal())?;
    Ok(SecretString::from(secret.reveal()))
}

/// The key of an earlier run, if it still opens anything.
async fn kept_key(store: &Arc<dyn TenantStore>, key_file: &Path) -> anyhow::Result<Option<SecretString>> {
    let Ok(text) = std::fs::read_to_string(key_file) else { return Ok(None) };
    let Some(secret) = KeySecret::parse(text.trim()) else { return Ok(None) };
    let (key, now) = (store.key_by_hash(secret.hash()).await?, Env::system().now());
    Ok(key.filter(|key| key.check(secret.hash(), now).is_ok()).map(|_| SecretString::from(secret.reveal())))
}

/// Readable by its owner alone, from its first byte on.
fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    writeln!(file.with_context(|| format!("{} cannot be written", path.display()))?, "{secret}")?;
    Ok(())
}

fn print_lines(addr: SocketAddr, key_file: &Path) -> anyhow::Result<()> {
    let key_file = key_file.canonicalize()?;
    let lines = LINES.replace("{ADDR}", &addr.to_string()).replace("{KEY_FILE}", &key_file.display().to_string());
    let mut out = std::io::stdout().lock();
    writeln!(out, "Voxgate serves gRPC on {addr}, on the embedded default.")?;
    writeln!(out, "The key of tenant demo is in {}. Two calls, a denial, a transfer, a hangup:", key_file.display())?;
    writeln!(out, "\n# --- paste these ---\n{}\n# --- end ---", lines.trim_end())?;
    Ok(out.flush()?)
}
