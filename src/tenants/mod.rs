//! Tenants, their keys, and the tokens that calls carry.
//!
//! A key is found by the hash of its secret and by nothing else; whether it has expired or was revoked is for the
//! caller to decide, who knows the time. [`TokenSigner`] makes and reads callback tokens, [`MeshIdentities`] knows the
//! services that need neither.

mod authenticator;
mod directory;
mod mesh;
mod service;
mod sql;
mod token;

use async_trait::async_trait;

pub use self::{
    authenticator::Authenticator,
    directory::{Directory, DirectoryLimits},
    mesh::{IdentitySettings, MeshIdentities, MeshSettings},
    service::Tenants,
    sql::SqlTenantStore,
    token::{SealedTokenKey, SignedToken, TokenKey, TokenSigner},
};
use crate::domain::{
    Result,
    clock::Timestamp,
    hash::Sha256,
    ids::{ApiKeyId, TenantId},
    keyring::Sealed,
    page::{Page, PageRequest},
    tenant::{ApiKey, Tenant},
};

#[async_trait]
pub trait TenantStore: Send + Sync + std::fmt::Debug {
    async fn create(&self, tenant: &Tenant) -> Result<()>;

    async fn get(&self, id: TenantId) -> Result<Option<Tenant>>;

    /// The tenant of that name, the oldest if several have it: for the command line.
    async fn by_name(&self, name: &str) -> Result<Option<Tenant>>;

    /// `NotFound(Tenant)` if the key's tenant does not exist.
    async fn create_key(&self, key: &ApiKey) -> Result<()>;

    async fn key_by_hash(&self, hash: Sha256) -> Result<Option<ApiKey>>;

    /// A key of whichever tenant: for operators, who know it by its id alone.
    async fn key(&self, id: ApiKeyId) -> Result<Option<ApiKey>>;

    /// Newest first.
    async fn keys(&self, tenant: TenantId, page: PageRequest) -> Result<Page<ApiKey>>;

    /// Revokes the tenant's key, once: a second time answers it unchanged. Nothing if it does not exist.
    async fn revoke_key(&self, tenant: TenantId, id: ApiKeyId, now: Timestamp) -> Result<Option<ApiKey>>;

    /// The key that signs callback tokens, shared by all replicas: `proposed` is kept if there is none yet.
    async fn token_key(&self, proposed: &SealedTokenKey) -> Result<SealedTokenKey>;

    /// The key that is kept, if there is one yet.
    async fn kept_token_key(&self) -> Result<Option<SealedTokenKey>>;

    /// Puts `sealed` in the place of `old`. False where another is kept by now.
    async fn reseal_token_key(&self, old: &SealedTokenKey, sealed: &Sealed) -> Result<bool>;
}
