//! Tenants, their keys, and the tokens that calls carry.
//!
//! A key is found by the hash of its secret, or of the secret before, and by nothing else; whether it has expired or was
//! revoked is for the caller to decide, who knows the time. [`TokenSigner`] makes and reads tokens,
//! [`MeshIdentities`] knows the services that need neither, [`RateLimits`] bounds what a caller may ask, and [`KeyUses`]
//! remembers when a key last did.

mod authenticator;
mod directory;
mod key_uses;
mod mesh;
mod rate;
mod revocations;
mod service;
mod sql;
mod token;
mod token_key;

use async_trait::async_trait;

pub use self::{
    authenticator::Authenticator,
    directory::{Directory, DirectoryLimits},
    key_uses::KeyUses,
    mesh::{IdentitySettings, MeshIdentities, MeshSettings},
    rate::{MemoryRateLimiter, RateLimiter, RateLimits, RedisRateLimiter},
    revocations::{Revocation, Revocations, Revoked},
    service::{TenantPatch, Tenants},
    sql::SqlTenantStore,
    token::{SignedToken, TokenKind, TokenSigner},
    token_key::{SealedTokenKey, TokenKey},
};
use crate::domain::{
    Result,
    clock::Timestamp,
    hash::Sha256,
    ids::{ApiKeyId, TenantId, VoiceAgentId},
    keyring::Sealed,
    page::{Page, PageRequest},
    tenant::{ApiKey, Tenant},
};

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Done,
    /// The tenant is not any more what the change was made on.
    Stale,
}

/// A key's new secret, and what becomes of the one that it has.
#[derive(Debug, Clone)]
pub struct Rotation {
    pub hash: Sha256,
    pub prefix: String,
    /// Until when the secret of before works on; absent: it is dead at once.
    pub previous_expires_at: Option<Timestamp>,
    pub now: Timestamp,
}

#[async_trait]
pub trait TenantStore: Send + Sync + std::fmt::Debug {
    async fn create(&self, tenant: &Tenant) -> Result<()>;

    async fn get(&self, id: TenantId) -> Result<Option<Tenant>>;

    /// The tenant of that name, the oldest if several have it: for the command line.
    async fn by_name(&self, name: &str) -> Result<Option<Tenant>>;

    /// All tenants, newest first.
    async fn list(&self, page: PageRequest) -> Result<Page<Tenant>>;

    /// Writes `tenant` over `read`, if that still is what is there. `pinned` is the default agent where the change names
    /// one: it must be the tenant's (`NotFound(VoiceAgent)`) and not archived (`VoiceAgentArchived`).
    async fn update(&self, tenant: &Tenant, read: &Tenant, pinned: Option<VoiceAgentId>) -> Result<Changed>;

    /// `NotFound(Tenant)` if the key's tenant does not exist.
    async fn create_key(&self, key: &ApiKey) -> Result<()>;

    /// The key whose secret has this hash, or whose secret before the last rotation had it: which of them, and whether
    /// it still counts, the key says.
    async fn key_by_hash(&self, hash: Sha256) -> Result<Option<ApiKey>>;

    /// A key of whichever tenant: for operators, who know it by its id alone.
    async fn key(&self, id: ApiKeyId) -> Result<Option<ApiKey>>;

    /// Newest first.
    async fn keys(&self, tenant: TenantId, page: PageRequest) -> Result<Page<ApiKey>>;

    /// Revokes the tenant's key, once: a second time answers it unchanged. Nothing if it does not exist.
    async fn revoke_key(&self, tenant: TenantId, id: ApiKeyId, now: Timestamp) -> Result<Option<ApiKey>>;

    /// Gives the tenant's key another secret; the one before the last is gone. Nothing if the key does not exist, or is
    /// revoked or expired at `rotation.now`. Of rotations at once each is carried out, one after the other.
    async fn rotate_key(&self, tenant: TenantId, id: ApiKeyId, rotation: Rotation) -> Result<Option<ApiKey>>;

    /// Notes that these keys were used at `moment`. Where a later use is known, that one stays.
    async fn keys_used(&self, keys: &[(TenantId, ApiKeyId)], moment: Timestamp) -> Result<()>;

    /// Revokes a token, of the side that is named at least.
    async fn revoke_token(&self, revocation: &Revocation) -> Result<()>;

    /// The revocations of all tenants that still matter, or those of the last ten seconds; by the database's clock.
    async fn revocations(&self, only_new: bool) -> Result<Vec<Revocation>>;

    /// The key that signs callback tokens, shared by all replicas: `proposed` is kept if there is none yet.
    async fn token_key(&self, proposed: &SealedTokenKey) -> Result<SealedTokenKey>;

    /// The key that is kept, if there is one yet.
    async fn kept_token_key(&self) -> Result<Option<SealedTokenKey>>;

    /// Puts `sealed` in the place of `old`. False where another is kept by now.
    async fn reseal_token_key(&self, old: &SealedTokenKey, sealed: &Sealed) -> Result<bool>;
}
