//! Tenants and keys as every call needs them, in memory.
//!
//! What is answered may be as old as the settings say, and a key far less than a tenant: one that is revoked must be
//! refused within a second even where no notice of it comes.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::TenantStore;
use crate::{
    db::cache::{Cache, Freshness},
    domain::{
        Result,
        destination::DestinationPolicy,
        hash::Sha256,
        ids::TenantId,
        tenant::{ApiKey, Tenant},
    },
};

/// Bytes that a tenant without rules for destinations, or a key, takes, about: short texts and what holds them.
const ITEM_BYTES: usize = 1_024;
/// Keys that are looked up at once: a quarter of the connections that a replica has by default.
const LOOKUPS_AT_ONCE: usize = 4;

/// How much is kept, and how old it may be.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryLimits {
    pub max_bytes: usize,
    pub tenant_fresh: Duration,
    pub key_fresh: Duration,
    /// While the database is away.
    pub outage: Duration,
    pub key_outage: Duration,
}

#[derive(Debug)]
pub struct Directory {
    store: Arc<dyn TenantStore>,
    tenants: Cache<TenantId, Tenant>,
    keys: Cache<Sha256, ApiKey>,
    /// Anyone can ask for keys that do not exist, and must not take every connection to the database by that.
    lookups: Semaphore,
}

impl Directory {
    pub fn new(store: Arc<dyn TenantStore>, limits: DirectoryLimits) -> Self {
        let DirectoryLimits { max_bytes, tenant_fresh, key_fresh, outage, key_outage } = limits;
        Self {
            store,
            tenants: Cache::new("tenants", max_bytes, Freshness { fresh: tenant_fresh, outage }, weight_bytes),
            keys: Cache::new("api_keys", max_bytes, Freshness { fresh: key_fresh, outage: key_outage }, |_| ITEM_BYTES),
            lookups: Semaphore::new(LOOKUPS_AT_ONCE),
        }
    }

    pub async fn tenant(&self, id: TenantId) -> Result<Option<Arc<Tenant>>> {
        self.tenants.get(&id, || self.store.get(id)).await
    }

    pub async fn key_by_hash(&self, hash: Sha256) -> Result<Option<Arc<ApiKey>>> {
        let load = || async move {
            // Never closed.
            let _permit = self.lookups.acquire().await;
            self.store.key_by_hash(hash).await
        };
        self.keys.get(&hash, load).await
    }

    pub fn forget_tenant(&self, id: TenantId) {
        self.tenants.forget(&id);
    }

    pub fn forget_key(&self, hash: Sha256) {
        self.keys.forget(&hash);
    }

    pub fn doubt_everything(&self) {
        self.tenants.doubt_everything();
        self.keys.doubt_everything();
    }
}

/// A tenant's rules for destinations may be far longer than all else about it.
fn weight_bytes(tenant: &Tenant) -> usize {
    ITEM_BYTES + tenant.destination_policy.as_ref().map_or(0, DestinationPolicy::weight_bytes)
}
