//! The composition root: concrete back-ends are chosen here and nowhere else.
//!
//! Order of a start: stores, the token key (waited for while the database is away), listeners, readiness. Order of a
//! stop: NOT_SERVING, a moment for balancers to look away, no new work and the end of streams, a cap, exit.

mod admin;
mod bootstrap;
mod connections;
pub mod doctor;
mod health;
mod rooms;
mod samples;
mod secrets;
mod serving;
mod streams;
mod tls;
mod upkeep;
mod workers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::{LayerExt as _, Routes};
use tonic_health::{
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

pub use self::bootstrap::{Tools, dev};
use self::{
    health::{none_serves, report_health},
    rooms::{Rooms, bus, deliverer, webhooks},
    samples::{AgentSample, sample_until},
    serving::Serving,
    upkeep::{sweep, tend, upkeep, write},
    workers::Workers,
};
use crate::{
    admission::{MemorySlotStore, RedisSlotStore, SlotStore},
    calls::{self, Calls},
    config::{Config, ListenSettings},
    db::Database,
    domain::{
        Env,
        clock::{SystemClock, UnsetClock},
        keyring::KeyRing,
        lease_token::LeaseSigner,
        node::ToNode,
    },
    grpc::{Api, layers::Gate},
    nodes::NodeRegistry,
    proto::DESCRIPTOR_SET,
    redis::Redis,
    sessions::{Place, SqlOperationStore},
    tenants::{
        Authenticator, MemoryRateLimiter, MeshIdentities, RateLimiter, RateLimits, RedisRateLimiter, TenantStore,
        TokenKey, TokenSigner,
    },
};

/// The two homes of state.
#[derive(Debug, Clone)]
pub struct Stores {
    pub database: Database,
    pub slots: Arc<dyn SlotStore>,
    /// Where history is kept until it is in the database.
    pub place: Place,
    /// Opens what the database keeps sealed.
    pub ring: Arc<KeyRing>,
    pub rates: Arc<dyn RateLimiter>,
    /// What replicas share besides; none where there is one alone.
    pub redis: Option<Redis>,
}

impl Stores {
    /// SQLite in the data folder; slots and rates in this process.
    pub fn embedded(config: &Config) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        // One that is there already has the mode that its owner chose.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&config.data_dir)
            .with_context(|| format!("the data folder {} cannot be made", config.data_dir.display()))?;
        let database = Database::sqlite(&config.data_dir.join("voxgate.db"))?;
        let clock = Arc::new(UnsetClock::default());
        let slots = Arc::new(MemorySlotStore::new(clock.clone()));
        let rates = Arc::new(MemoryRateLimiter::new(clock));
        Ok(Self { database, slots, place: Place::Database, rates, ring: secrets::embedded(config)?, redis: None })
    }

    /// Postgres and Redis.
    pub fn production(config: &Config) -> anyhow::Result<Self> {
        let (database, redis) = match (&config.database_url, &config.redis_url) {
            (Some(database), Some(redis)) => (database, redis),
            (database, redis) => {
                let missing = [("VOXGATE_DATABASE_URL", database), ("VOXGATE_REDIS_URL", redis)];
                let names: Vec<_> =
                    missing.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
                anyhow::bail!("serve needs {}; for a service without servers run `voxgate dev`", names.join(" and "))
            }
        };
        Self::at(database, redis, config)
    }

    fn at(database: &SecretString, redis: &SecretString, config: &Config) -> anyhow::Result<Self> {
        let redis = Redis::connect(redis, config.redis.clone()).context("VOXGATE_REDIS_URL and [redis]")?;
        let slots = Arc::new(RedisSlotStore::new(redis.clone()));
        Ok(Self {
            ring: secrets::required(config)?,
            database: Database::postgres(database, &config.database).context("VOXGATE_DATABASE_URL")?,
            place: Place::Spool(slots.clone()),
            slots,
            rates: Arc::new(RedisRateLimiter::new(redis.clone())),
            redis: Some(redis),
        })
    }
}

/// A service that is about to start.
#[derive(Debug)]
pub struct Service {
    config: Config,
    stores: Stores,
    metrics: PrometheusHandle,
    grpc: TcpListener,
    tls: Option<tls::Tls>,
    admin: TcpListener,
    nodes: Arc<NodeRegistry>,
}

impl Service {
    /// Reads its certificates and takes its ports.
    pub async fn bind(
        config: Config,
        stores: Stores,
        metrics: PrometheusHandle,
        host: [u8; 4],
    ) -> anyhow::Result<Self> {
        let tls = tls::Tls::load(&config.tls, Arc::new(SystemClock)).context("the configuration is refused")?;
        let grpc = listen("VOXGATE_GRPC_ADDR", config.grpc_addr.unwrap_or((host, 50_051).into())).await?;
        let admin = listen("VOXGATE_ADMIN_ADDR", config.admin_addr.unwrap_or((host, 9_090).into())).await?;
        Ok(Self { config, stores, metrics, grpc, tls, admin, nodes: Arc::default() })
    }

    pub fn grpc_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.grpc.local_addr()?)
    }

    pub fn admin_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.admin.local_addr()?)
    }

    /// The media nodes that are connected, also once it runs.
    pub fn nodes(&self) -> Arc<NodeRegistry> {
        self.nodes.clone()
    }

    /// Serves until `stop`, and then until what is in hand is done.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { config, stores, metrics, grpc, tls, admin, nodes } = self;
        let (closing, admin_stop) = (CancellationToken::new(), CancellationToken::new());
        let readiness = admin::Readiness::new(stores.clone(), closing.clone());
        let agents = AgentSample::default();
        let admin = admin::serve(admin, readiness.clone(), metrics.clone(), agents.clone(), admin_stop.clone());
        let admin = tokio::spawn(admin);

        let env = Env::system();
        let rooms = Rooms::on(&stores, &config.cache, config.journal, &env);
        if let Some(key) = token_key(&rooms.tenant_store, &stores.ring, &env, &stop).await? {
            rooms.revocations.load().await.context("the revoked tokens cannot be read")?;
            let upkeep = upkeep(&stores, &rooms, metrics, config.retention, &closing);
            let deliverer = tokio::spawn(deliverer(&config, &stores, &rooms)?.deliver_until(closing.clone()));
            let (history, said_all) = (rooms.journal.clone(), CancellationToken::new());
            let writer = tokio::spawn(write(history.clone(), rooms.audit.clone(), said_all.clone()));
            let (api, gate) = assemble(&config, &stores, rooms, &nodes, &key, &closing)?;
            let calls = api.calls.clone();
            let (reporter, health) = tonic_health::server::health_reporter();
            // The library says that the server serves, until the first look has found out.
            none_serves(&reporter).await;
            let routes = routes(api, health, config.listen.reflection, &closing)?;
            let mut workers = workers(&config, tls, &gate, routes, &closing)?;
            workers.deal(grpc, config.listen.max_connections, closing.clone());
            let sweep = tokio::spawn(sweep(calls.clone(), closing.clone()));
            let tend = tokio::spawn(tend(calls.clone(), closing.clone()));
            let sample = tokio::spawn(sample_until(calls.clone(), config.metrics, agents, closing.clone()));
            let watch =
                tokio::spawn(report_health(reporter.clone(), readiness.clone(), nodes.clone(), closing.clone()));
            readiness.started(history);

            tokio::select! {
                () = stop.cancelled() => {}
                ended = workers.served() => {
                    ended?;
                    anyhow::bail!("the server ended by itself");
                }
            }
            announce_drain(&config.listen, &readiness, &reporter, &nodes).await;
            let in_hand = async {
                // The nodes' streams come last: a verb in hand needs its node's answer.
                gate.close().await;
                calls.finished().await;
                closing.cancel();
                workers.served().await?;
                calls.worked_off().await;
                sweep.await?;
                tend.await?;
                sample.await?;
                upkeep.await?;
                deliverer.await?;
                said_all.cancel();
                writer.await?;
                anyhow::Ok(watch.await?)
            };
            let cap = Duration::from_millis(config.listen.drain_cap_ms);
            match tokio::time::timeout(cap, in_hand).await {
                Ok(done) => done?,
                Err(_) => tracing::warn!(drain.cap_ms = cap.as_millis(), "not all work was done within the cap"),
            }
            closing.cancel();
        }
        admin_stop.cancel();
        admin.await??;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Tells balancers and nodes, and gives them time to look away.
async fn announce_drain(
    listen: &ListenSettings,
    readiness: &admin::Readiness,
    reporter: &HealthReporter,
    nodes: &NodeRegistry,
) {
    tracing::info!("draining");
    readiness.draining();
    none_serves(reporter).await;
    let deadline = Env::system().now().plus(Duration::from_millis(listen.drain_notice_ms + listen.drain_cap_ms));
    nodes.broadcast(&ToNode::Drain { deadline });
    tokio::time::sleep(Duration::from_millis(listen.drain_notice_ms)).await;
}

/// The threads that serve `routes`, under TLS if it is configured, whose certificate is renewed until `closing`.
fn workers(
    config: &Config,
    tls: Option<tls::Tls>,
    gate: &Gate,
    routes: Routes,
    closing: &CancellationToken,
) -> anyhow::Result<Workers> {
    let acceptor = tls.as_ref().map(tls::Tls::acceptor);
    if let Some(tls) = tls {
        tokio::spawn(tls.reload_until(closing.clone()));
    }
    let listen = config.listen.clone();
    let in_hand = Duration::from_millis(config.rpc.max_deadline_ms);
    let serving = Serving::new(&listen, in_hand, gate, routes, closing);
    Workers::start(listen.threads(), move |dealt| {
        let handshake = Duration::from_millis(listen.handshake_timeout_ms);
        let incoming = connections::shaken(dealt, listen.max_connections, handshake, acceptor.clone());
        serving.clone().serve(incoming)
    })
}

fn assemble(
    config: &Config,
    stores: &Stores,
    rooms: Rooms,
    nodes: &Arc<NodeRegistry>,
    key: &TokenKey,
    closing: &CancellationToken,
) -> anyhow::Result<(Api, Gate)> {
    let env = Env::system();
    let tokens = Arc::new(TokenSigner::new(key, env.clone()));
    let rates = RateLimits::new(stores.rates.clone());
    let mesh = MeshIdentities::parse(&config.mesh).map_err(crate::domain::Error::from)?;
    let authenticator = Authenticator::new(
        rooms.directory.clone(),
        tokens.clone(),
        rooms.revocations.clone(),
        mesh,
        rooms.uses,
        env.clone(),
    );
    let calls = Calls::new(calls::Rooms {
        agents: rooms.agents.clone(),
        tenants: rooms.directory,
        slots: rooms.slots,
        sessions: rooms.journal.clone(),
        journal: rooms.journal,
        operations: Arc::new(SqlOperationStore::new(stores.database.clone(), env.clone(), rooms.news)),
        events: rooms.events,
        audit: rooms.audit.clone(),
        bus: bus(config, stores, nodes, &env, closing),
        nodes: nodes.clone(),
        rates: rates.clone(),
        tokens,
        revocations: rooms.revocations,
        leases: LeaseSigner::derived_from(&key.secret),
        settings: config.calls.clone(),
        env,
    });
    let (orphaned, of_calls) = (rooms.without_agent, calls.clone());
    let dismissing = async move { of_calls.dismiss_without_agent(orphaned).await };
    tokio::spawn(closing.clone().run_until_cancelled_owned(dismissing));
    let webhooks = webhooks(config, stores);
    let api = Api { agents: rooms.agents, calls, tenants: rooms.tenants, webhooks };
    Ok((api, Gate::new(authenticator, rates, rooms.audit, config.rpc.clone())))
}

fn routes(
    api: Api,
    health: HealthServer<impl Health>,
    reflects: bool,
    closing: &CancellationToken,
) -> anyhow::Result<Routes> {
    let end = streams::EndStreams(closing.clone());
    let mut routes = Routes::new(end.named_layer(health));
    if reflects {
        routes =
            routes.add_service(end.named_layer(reflection_v1()?)).add_service(end.named_layer(reflection_v1alpha()?));
    }
    Ok(api.add_to(routes))
}

async fn listen(name: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("{name}: {addr} cannot be listened on"))
}

/// The key that signs callback tokens: no token can be made or read without it, so the service waits for the database.
async fn token_key(
    tenants: &Arc<dyn TenantStore>,
    ring: &KeyRing,
    env: &Env,
    stop: &CancellationToken,
) -> anyhow::Result<Option<TokenKey>> {
    let proposed = TokenKey::generate(env).sealed(ring, env)?;
    loop {
        match tenants.token_key(&proposed).await {
            // What another replica wrote under a key that this ring lacks will not open by waiting.
            Ok(key) => return key.open(ring).map(Some).context("the key that signs callback tokens cannot be opened"),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "waiting for the database (was `voxgate migrate` run?)"
            ),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

macro_rules! reflection {
    ($name:ident, $build:ident, $server:ty) => {
        fn $name() -> anyhow::Result<$server> {
            Ok(tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .$build()?)
        }
    };
}

reflection!(
    reflection_v1,
    build_v1,
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>
);
reflection!(
    reflection_v1alpha,
    build_v1alpha,
    tonic_reflection::server::v1alpha::ServerReflectionServer<impl tonic_reflection::server::v1alpha::ServerReflection>
);
