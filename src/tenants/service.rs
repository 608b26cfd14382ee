//! What may be done with tenants and their keys.

use std::sync::Arc;

use super::{Directory, TenantStore};
use crate::domain::{
    Env, Error, Result,
    error::Resource,
    ids::{ApiKeyId, TenantId},
    page::{Page, PageRequest},
    principal::Principal,
    tenant::{ApiKey, ApiKeyDraft, KeySecret, Scopes, Tenant, TenantDraft},
};

#[derive(Debug, Clone)]
pub struct Tenants {
    store: Arc<dyn TenantStore>,
    directory: Arc<Directory>,
    env: Env,
}

impl Tenants {
    pub fn new(store: Arc<dyn TenantStore>, directory: Arc<Directory>, env: Env) -> Self {
        Self { store, directory, env }
    }

    pub async fn create(&self, draft: TenantDraft) -> Result<Tenant> {
        let tenant = Tenant::create(&self.env, draft)?;
        self.store.create(&tenant).await?;
        Ok(tenant)
    }

    pub async fn get(&self, id: TenantId) -> Result<Tenant> {
        self.store.get(id).await?.ok_or_else(|| Error::not_found(Resource::Tenant, id))
    }

    /// By id, or else by name: what a person at the command line has at hand.
    pub async fn find(&self, id_or_name: &str) -> Result<Tenant> {
        let by_id = match id_or_name.parse() {
            Ok(id) => self.store.get(id).await?,
            Err(_) => None,
        };
        match by_id {
            Some(tenant) => Ok(tenant),
            None => self.store.by_name(id_or_name).await?.ok_or_else(|| Error::not_found(Resource::Tenant, id_or_name)),
        }
    }

    /// Mints a key; `granter` gives no scope that it lacks itself.
    pub async fn create_key(
        &self,
        tenant: TenantId,
        draft: ApiKeyDraft,
        granter: Scopes,
    ) -> Result<(ApiKey, KeySecret)> {
        let (key, secret) = ApiKey::mint(&self.env, tenant, &draft)?;
        if let Some(scope) = key.scopes.iter().find(|scope| !granter.contains(*scope)) {
            return Err(Error::ScopeRequired(scope));
        }
        self.store.create_key(&key).await?;
        Ok((key, secret))
    }

    pub async fn keys(&self, tenant: TenantId, page: PageRequest) -> Result<Page<ApiKey>> {
        self.get(tenant).await?;
        self.store.keys(tenant, page).await
    }

    /// An operator made the key for whichever tenant, and revokes it for whichever.
    pub async fn revoke_key(&self, principal: &Principal, id: ApiKeyId) -> Result<ApiKey> {
        let unknown = || Error::not_found(Resource::ApiKey, id);
        // A sandbox key's hands do not reach a live key.
        let reached = |key: &ApiKey| key.sandbox || !principal.sandbox();
        let key = self.store.key(id).await?.filter(reached).ok_or_else(unknown)?;
        let revoked = self.store.revoke_key(key.tenant, id, self.env.now()).await;
        self.directory.forget_key(key.hash);
        revoked?.ok_or_else(unknown)
    }
}
