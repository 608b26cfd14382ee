//! The rooms that stand on the two homes of state.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Stores;
use crate::{
    admission::SteadySlots,
    agents::{AgentCache, SqlVoiceAgentStore, VoiceAgents},
    calls::SessionLiveCalls,
    config::Config,
    control::{CommandBus, MemoryBus, RedisBus},
    db::{CacheSettings, Change, Listener},
    domain::{
        Env, Error, Result,
        ids::{TenantId, VoiceAgentId},
        queue::ReplicaId,
        session::{Routing, Session},
        text::MediaUrls,
    },
    nodes::NodeRegistry,
    sessions::{
        AuditLog, EventLog, EventNews, EventSignal, Journal, JournalSettings, RedisEventSignal, Routings,
        SqlAuditStore, SqlEventStore, SqlSessionStore,
    },
    tenants::{Directory, DirectoryLimits, KeyUses, Revocations, SqlTenantStore, TenantStore, Tenants},
    webhooks::{Deliverer, SqlWebhookStore, Webhooks},
};

pub(super) struct Rooms {
    pub(super) agents: VoiceAgents,
    pub(super) tenants: Tenants,
    pub(super) directory: Arc<Directory>,
    pub(super) tenant_store: Arc<dyn TenantStore>,
    pub(super) uses: Arc<KeyUses>,
    pub(super) revocations: Arc<Revocations>,
    pub(super) slots: Arc<SteadySlots>,
    pub(super) journal: Arc<Journal>,
    pub(super) events: Arc<EventLog>,
    /// To be told of events that are committed.
    pub(super) news: EventNews,
    pub(super) audit: Arc<AuditLog>,
    /// Sessions that the journal had to end because their agent is gone.
    pub(super) without_agent: mpsc::Receiver<Session>,
    /// To be told what another replica has changed.
    pub(super) changes: Listener,
}

impl Rooms {
    pub(super) fn on(stores: &Stores, settings: &CacheSettings, behind: JournalSettings, env: &Env) -> Self {
        let agent_store = Arc::new(SqlVoiceAgentStore::new(stores.database.clone()));
        let agent_cache = Arc::new(AgentCache::new(agent_store.clone(), settings));
        let tenant_store: Arc<dyn TenantStore> = Arc::new(SqlTenantStore::new(stores.database.clone()));
        let limits = DirectoryLimits {
            max_bytes: settings.tenants_max_bytes,
            tenant_fresh: Duration::from_millis(settings.fresh_ms),
            key_fresh: Duration::from_millis(settings.key_fresh_ms),
            outage: Duration::from_millis(settings.outage_ms),
            key_outage: Duration::from_millis(settings.key_outage_ms),
        };
        let directory = Arc::new(Directory::new(tenant_store.clone(), limits));
        let changes = listener(agent_cache.clone(), directory.clone());
        let agents = VoiceAgents::new(agent_store, agent_cache, stores.ring.clone(), env.clone());
        let news = EventNews::default();
        let sessions = Arc::new(SqlSessionStore::new(stores.database.clone(), env.clone(), news.clone()));
        let events = Arc::new(SqlEventStore::new(stores.database.clone()));
        let routings = Arc::new(Revisions(agents.clone()));
        let (journal, without_agent) = Journal::new(sessions, routings, stores.place.clone(), behind, env.clone());
        let live_calls = Arc::new(SessionLiveCalls(journal.clone()));
        Self {
            agents,
            tenants: Tenants::new(tenant_store.clone(), changes.clone(), env.clone()),
            directory,
            uses: Arc::new(KeyUses::new(tenant_store.clone())),
            revocations: Arc::new(Revocations::new(tenant_store.clone(), env.clone())),
            tenant_store,
            slots: Arc::new(SteadySlots::new(stores.slots.clone(), live_calls, env.clock.clone())),
            journal,
            events: EventLog::new(events, news.clone(), event_signal(stores, env)),
            news,
            audit: Arc::new(AuditLog::new(Arc::new(SqlAuditStore::new(stores.database.clone())))),
            without_agent,
            changes,
        }
    }
}

/// How other replicas hear of new events, where there are others.
fn event_signal(stores: &Stores, env: &Env) -> Option<Arc<dyn EventSignal>> {
    let redis = stores.redis.clone()?;
    Some(Arc::new(RedisEventSignal::new(redis, ReplicaId::new(env))))
}

/// The way to nodes: through Redis where replicas share it.
pub(super) fn bus(
    config: &Config,
    stores: &Stores,
    nodes: &Arc<NodeRegistry>,
    env: &Env,
    closing: &CancellationToken,
) -> Arc<dyn CommandBus> {
    let (replica, times) = (ReplicaId::new(env), config.calls.bus_times());
    match &stores.redis {
        Some(redis) => {
            let registry = nodes.clone();
            let changed = move |tenant| registry.forget_elsewhere(tenant);
            RedisBus::start(redis.clone(), replica, times, changed, closing.clone())
        }
        None => Arc::new(MemoryBus::new(replica, times, env.clock.clone())),
    }
}

pub(super) fn webhooks(config: &Config, stores: &Stores) -> Webhooks {
    let urls = if config.webhooks.allow_private { MediaUrls::Any } else { MediaUrls::Public };
    let store = Arc::new(SqlWebhookStore::new(stores.database.clone()));
    Webhooks::new(store.clone(), store, stores.ring.clone(), urls, Env::system())
}

/// What posts events.
pub(super) fn deliverer(config: &Config, stores: &Stores, rooms: &Rooms) -> anyhow::Result<Arc<Deliverer>> {
    let (store, sequenced) = (Arc::new(SqlWebhookStore::new(stores.database.clone())), rooms.events.sequenced());
    let made = Deliverer::new(store, stores.ring.clone(), &config.webhooks, sequenced, Env::system());
    made.context("[webhooks]")
}

/// Agents as they were when they admitted a call: nearly always as they are, which is in memory.
#[derive(Debug)]
struct Revisions(VoiceAgents);

#[async_trait]
impl Routings for Revisions {
    async fn at(&self, tenant: TenantId, agent: VoiceAgentId, revision: i64) -> Result<Option<Routing>> {
        if let Ok(now) = self.0.get(tenant, agent).await
            && now.revision == revision
        {
            return Ok(Some(Routing::from(&now.spec)));
        }
        match self.0.at(tenant, agent, revision).await {
            Ok(then) => Ok(Some(Routing::from(&then.spec))),
            Err(Error::RevisionNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn listener(agents: Arc<AgentCache>, directory: Arc<Directory>) -> Listener {
    Listener::new(move |change| match change {
        Change::VoiceAgent(tenant, agent) => agents.forget(tenant, agent),
        Change::Tenant(tenant) => {
            agents.forget_fallback(tenant);
            directory.forget_tenant(tenant);
        }
        Change::ApiKey(hash) => directory.forget_key(hash),
        Change::Anything => {
            agents.doubt_everything();
            directory.doubt_everything();
        }
    })
}
