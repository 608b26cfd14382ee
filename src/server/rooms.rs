//! The rooms that stand on the two homes of state.

use std::{sync::Arc, time::Duration};

use super::Stores;
use crate::{
    admission::SteadySlots,
    agents::{AgentCache, SqlVoiceAgentStore, VoiceAgents},
    calls::SessionHistory,
    db::{CacheSettings, Change, Listener},
    domain::Env,
    sessions::{SessionStore, SqlSessionStore},
    tenants::{Directory, DirectoryLimits, KeyUses, SqlTenantStore, TenantStore, Tenants},
};

pub(super) struct Rooms {
    pub(super) agents: VoiceAgents,
    pub(super) tenants: Tenants,
    pub(super) directory: Arc<Directory>,
    pub(super) tenant_store: Arc<dyn TenantStore>,
    pub(super) uses: Arc<KeyUses>,
    pub(super) sessions: Arc<dyn SessionStore>,
    pub(super) slots: Arc<SteadySlots>,
    /// To be told what another replica has changed.
    pub(super) changes: Listener,
}

impl Rooms {
    pub(super) fn on(stores: &Stores, settings: &CacheSettings, env: &Env) -> Self {
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
        let sessions: Arc<dyn SessionStore> = Arc::new(SqlSessionStore::new(stores.database.clone()));
        let history = Arc::new(SessionHistory(sessions.clone()));
        let changes = listener(agent_cache.clone(), directory.clone());
        Self {
            agents: VoiceAgents::new(agent_store, agent_cache, stores.ring.clone(), env.clone()),
            tenants: Tenants::new(tenant_store.clone(), changes.clone(), env.clone()),
            directory,
            uses: Arc::new(KeyUses::new(tenant_store.clone())),
            tenant_store,
            slots: Arc::new(SteadySlots::new(stores.slots.clone(), history, env.clock.clone())),
            sessions,
            changes,
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
