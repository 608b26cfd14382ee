//! Tenants and keys as rows.

use diesel::prelude::{AsChangeset, Insertable, Queryable, Selectable};

use crate::{
    db::{
        corrupt,
        schema::{api_keys, tenants, token_keys},
        types::{At, Json, Uid, from_integer, to_integer},
    },
    domain::{
        Error, Result,
        hash::Sha256,
        keyring::Sealed,
        tenant::{ApiKey, PreviousSecret, Scope, Scopes, Tenant},
    },
    tenants::SealedTokenKey,
};

#[derive(Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = tenants, treat_none_as_default_value = false, treat_none_as_null = true)]
pub(super) struct TenantRow {
    id: Uid,
    name: String,
    default_ws_url: Option<String>,
    default_voice_agent_id: Option<Uid>,
    max_concurrent: i32,
    created_at: At,
    updated_at: At,
    destination_policy: Option<Json>,
}

impl TenantRow {
    pub(super) fn of(tenant: &Tenant) -> Result<Self> {
        Ok(Self {
            id: tenant.id.into(),
            name: tenant.name.clone(),
            default_ws_url: tenant.default_ws_url.clone(),
            default_voice_agent_id: tenant.default_voice_agent_id.map(Uid::from),
            max_concurrent: to_integer(tenant.max_concurrent),
            created_at: tenant.created_at.into(),
            updated_at: tenant.updated_at.into(),
            destination_policy: tenant.destination_policy.as_ref().map(Json::of).transpose()?,
        })
    }
}

impl TryFrom<TenantRow> for Tenant {
    type Error = Error;

    fn try_from(row: TenantRow) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            name: row.name,
            default_ws_url: row.default_ws_url,
            default_voice_agent_id: row.default_voice_agent_id.map(Into::into),
            max_concurrent: from_integer(row.max_concurrent, "tenants.max_concurrent")?,
            destination_policy: row
                .destination_policy
                .map(|policy| policy.read("tenants.destination_policy"))
                .transpose()?,
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
        })
    }
}

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = api_keys, treat_none_as_default_value = false)]
pub(super) struct ApiKeyRow {
    tenant_id: Uid,
    id: Uid,
    name: String,
    prefix: String,
    hash: Vec<u8>,
    /// The scopes' words.
    scopes: Json,
    sandbox: bool,
    rate_limit_per_min: i32,
    created_at: At,
    expires_at: Option<At>,
    revoked_at: Option<At>,
    last_used_at: Option<At>,
    previous_hash: Option<Vec<u8>>,
    previous_expires_at: Option<At>,
}

impl ApiKeyRow {
    pub(super) fn of(key: &ApiKey) -> Result<Self> {
        let scopes: Vec<_> = key.scopes.iter().map(Scope::as_str).collect();
        Ok(Self {
            tenant_id: key.tenant.into(),
            id: key.id.into(),
            name: key.name.clone(),
            prefix: key.prefix.clone(),
            hash: key.hash.as_bytes().to_vec(),
            scopes: Json::of(&scopes)?,
            sandbox: key.sandbox,
            rate_limit_per_min: to_integer(key.rate_limit_per_min),
            created_at: key.created_at.into(),
            expires_at: key.expires_at.map(At),
            revoked_at: key.revoked_at.map(At),
            last_used_at: key.last_used_at.map(At),
            previous_hash: key.previous.map(|previous| previous.hash.as_bytes().to_vec()),
            previous_expires_at: key.previous.map(|previous| At(previous.expires_at)),
        })
    }
}

impl TryFrom<ApiKeyRow> for ApiKey {
    type Error = Error;

    fn try_from(row: ApiKeyRow) -> Result<Self> {
        // A word that this binary does not know is a newer one's, written during a rollout: it grants nothing here.
        let scopes: Vec<String> = row.scopes.read("api_keys.scopes")?;
        let scopes: Scopes = scopes.iter().filter_map(|word| Scope::from_word(word)).collect();
        let previous = row.previous_hash.zip(row.previous_expires_at).map(|(hash, At(expires_at))| {
            let hash = Sha256::from_slice(&hash).ok_or_else(|| corrupt("api_keys.previous_hash"))?;
            Ok::<_, Error>(PreviousSecret { hash, expires_at })
        });
        Ok(Self {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            name: row.name,
            prefix: row.prefix,
            hash: Sha256::from_slice(&row.hash).ok_or_else(|| corrupt("api_keys.hash"))?,
            previous: previous.transpose()?,
            scopes,
            sandbox: row.sandbox,
            rate_limit_per_min: from_integer(row.rate_limit_per_min, "api_keys.rate_limit_per_min")?,
            created_at: row.created_at.into(),
            expires_at: row.expires_at.map(Into::into),
            revoked_at: row.revoked_at.map(Into::into),
            last_used_at: row.last_used_at.map(Into::into),
        })
    }
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = token_keys, treat_none_as_default_value = false)]
pub(super) struct TokenKeyRow {
    generation: i32,
    kid: String,
    sealed_secret: Vec<u8>,
}

impl TokenKeyRow {
    pub(super) fn first(key: &SealedTokenKey) -> Self {
        Self { generation: 1, kid: key.kid.clone(), sealed_secret: key.sealed.as_bytes().to_vec() }
    }
}

impl From<TokenKeyRow> for SealedTokenKey {
    fn from(row: TokenKeyRow) -> Self {
        Self { kid: row.kid, sealed: Sealed::from_bytes(row.sealed_secret) }
    }
}
