//! What may be done with tenants and their keys.
//!
//! A change of a tenant is made on what was read and written only if that still is what is there; else it is made
//! again, so no update is lost.

use std::{sync::Arc, time::Duration};

use super::{Changed, Rotation, TenantStore};
use crate::{
    db::{Change, Listener},
    domain::{
        Env, Error, Result,
        error::Resource,
        ids::{ApiKeyId, TenantId},
        page::{Page, PageRequest},
        principal::Principal,
        tenant::{ApiKey, ApiKeyDraft, KeySecret, Scopes, Tenant, TenantDraft, TenantField},
        violations::Violations,
    },
};

#[derive(Debug, Clone)]
pub struct Tenants {
    store: Arc<dyn TenantStore>,
    changes: Listener,
    env: Env,
}

/// A change of some fields, with what was at fault already when it was read: the caller hears of everything at once.
#[derive(Debug, Clone)]
pub struct TenantPatch {
    pub draft: TenantDraft,
    pub fields: Vec<TenantField>,
    pub faults: Violations,
}

impl Tenants {
    /// `changes` hears of each change before the caller does.
    pub fn new(store: Arc<dyn TenantStore>, changes: Listener, env: Env) -> Self {
        Self { store, changes, env }
    }

    pub async fn create(&self, draft: TenantDraft) -> Result<Tenant> {
        let tenant = Tenant::create(&self.env, draft)?;
        self.store.create(&tenant).await?;
        Ok(tenant)
    }

    pub async fn get(&self, id: TenantId) -> Result<Tenant> {
        self.store.get(id).await?.ok_or_else(|| Error::not_found(Resource::Tenant, id))
    }

    pub async fn list(&self, page: PageRequest) -> Result<Page<Tenant>> {
        self.store.list(page).await
    }

    /// Lays the patch over the tenant.
    pub async fn update(&self, id: TenantId, patch: &TenantPatch) -> Result<Tenant> {
        let named = patch.fields.contains(&TenantField::DefaultVoiceAgentId);
        let pinned = patch.draft.default_voice_agent_id.filter(|_| named);
        loop {
            let tenant = self.get(id).await?;
            let mut faults = patch.faults.clone();
            let patched = tenant.patched(&patch.draft, &patch.fields, self.env.now());
            let patched = patched.map_err(|part| faults.absorb("tenant", part)).ok();
            let patched = faults.into_result(patched)?;
            if patch.fields.is_empty() {
                return Ok(tenant);
            }
            let changed = self.store.update(&patched, &tenant, pinned).await;
            self.changes.tell(Change::Tenant(id));
            match changed? {
                Changed::Done => return Ok(patched),
                Changed::Stale => {}
            }
        }
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
        may_hold(granter, key.scopes)?;
        self.store.create_key(&key).await?;
        Ok((key, secret))
    }

    pub async fn keys(&self, tenant: TenantId, page: PageRequest) -> Result<Page<ApiKey>> {
        self.get(tenant).await?;
        self.store.keys(tenant, page).await
    }

    /// Gives a key another secret. Its bearer can do what the key can, so `principal` must be able to do that too.
    ///
    /// A key that opens nothing any more is answered like one that does not exist: there is nothing to rotate, and a
    /// rotation must not bring it back.
    pub async fn rotate_key(
        &self,
        principal: &Principal,
        id: ApiKeyId,
        grace_period: Duration,
    ) -> Result<(ApiKey, KeySecret)> {
        let (key, now) = (self.reached(principal, id).await?, self.env.now());
        let unknown = || Error::not_found(Resource::ApiKey, id);
        key.check_lifetime(now).map_err(|_| unknown())?;
        may_hold(principal.scopes(), key.scopes)?;
        let secret = KeySecret::mint(&self.env, key.sandbox);
        let rotation = Rotation {
            hash: secret.hash(),
            prefix: secret.prefix().to_owned(),
            previous_expires_at: Some(now.plus(grace_period)).filter(|_| !grace_period.is_zero()),
            now,
        };
        let rotated = self.store.rotate_key(key.tenant, id, rotation).await;
        self.forget(&key);
        // Also where it was revoked a moment ago.
        Ok((rotated?.ok_or_else(unknown)?, secret))
    }

    pub async fn revoke_key(&self, principal: &Principal, id: ApiKeyId) -> Result<ApiKey> {
        let key = self.reached(principal, id).await?;
        let revoked = self.store.revoke_key(key.tenant, id, self.env.now()).await;
        self.forget(&key);
        revoked?.ok_or_else(|| Error::not_found(Resource::ApiKey, id))
    }

    /// Also after an error, which may have come after the change.
    fn forget(&self, key: &ApiKey) {
        let previous = key.previous.as_ref().map(|previous| previous.hash);
        for hash in std::iter::once(key.hash).chain(previous) {
            self.changes.tell(Change::ApiKey(hash));
        }
    }

    /// An operator made the key for whichever tenant, and rotates and revokes it for whichever.
    async fn reached(&self, principal: &Principal, id: ApiKeyId) -> Result<ApiKey> {
        // A sandbox key's hands do not reach a live key.
        let reached = |key: &ApiKey| key.sandbox || !principal.sandbox();
        self.store.key(id).await?.filter(reached).ok_or_else(|| Error::not_found(Resource::ApiKey, id))
    }
}

/// Nobody comes into a scope that they lack by making or rotating a key.
fn may_hold(own: Scopes, wanted: Scopes) -> Result<()> {
    match wanted.iter().find(|scope| !own.contains(*scope)) {
        Some(scope) => Err(Error::ScopeRequired(scope)),
        None => Ok(()),
    }
}
