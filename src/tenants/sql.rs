//! Tenants and their keys in SQL.

mod revocations;
mod rows;

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, NullableExpressionMethods as _, OptionalExtension as _,
    QueryDsl as _, QueryResult, SelectableHelper as _,
};
use diesel_async::RunQueryDsl as _;

use self::rows::{ApiKeyRow, TenantRow, TokenKeyRow};
use super::{Changed, Revocation, Rotation, SealedTokenKey, TenantStore};
use crate::{
    db::{
        Connection, Database, missing, query,
        schema::{api_keys, tenants, token_keys, voice_agents},
        types::{At, Uid},
    },
    domain::{
        Error, Result,
        clock::Timestamp,
        error::Resource,
        hash::Sha256,
        ids::{ApiKeyId, TenantId, VoiceAgentId},
        keyring::Sealed,
        page::{Cursor, Page, PageRequest},
        tenant::{ApiKey, Tenant},
        voice_agent::Status,
    },
};

#[derive(Debug, Clone)]
pub struct SqlTenantStore {
    db: Database,
}

impl SqlTenantStore {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }
}

#[async_trait]
impl TenantStore for SqlTenantStore {
    async fn create(&self, tenant: &Tenant) -> Result<()> {
        let row = TenantRow::of(tenant)?;
        self.db
            .of(tenant.id)
            .run(move |conn| {
                Box::pin(async move {
                    query!(conn, c => diesel::insert_into(tenants::table).values(row).execute(c).await)?;
                    Ok(())
                })
            })
            .await
    }

    async fn get(&self, id: TenantId) -> Result<Option<Tenant>> {
        self.db
            .of(id)
            .run(move |conn| {
                Box::pin(async move {
                    let found = tenants::table.find(id);
                    let row = query!(conn, c => found.select(TenantRow::as_select()).first(c).await).optional()?;
                    row.map(Tenant::try_from).transpose()
                })
            })
            .await
    }

    async fn by_name(&self, name: &str) -> Result<Option<Tenant>> {
        let name = name.to_owned();
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let oldest =
                        tenants::table.filter(tenants::name.eq(name)).order((tenants::created_at, tenants::id));
                    let row = query!(conn, c => oldest.select(TenantRow::as_select()).first(c).await).optional()?;
                    row.map(Tenant::try_from).transpose()
                })
            })
            .await
    }

    async fn list(&self, page: PageRequest) -> Result<Page<Tenant>> {
        let (rows, total_size) = self
            .db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    query!(conn, c => {
                        let mut rows = tenants::table.select(TenantRow::as_select()).into_boxed();
                        if let Some(Cursor { created_at, id }) = page.after {
                            rows = rows.filter(tenants::created_at.le(created_at));
                            rows = rows.filter(tenants::created_at.lt(created_at).or(tenants::id.lt(Uid(id))));
                        }
                        let rows = rows
                            .order((tenants::created_at.desc(), tenants::id.desc()))
                            .limit(i64::from(page.size) + 1)
                            .load(c)
                            .await?;
                        Ok((rows, tenants::table.count().get_result::<i64>(c).await?))
                    })
                })
            })
            .await?;
        let found = rows.into_iter().map(Tenant::try_from).collect::<Result<Vec<_>>>()?;
        let cursor = |tenant: &Tenant| Cursor { created_at: tenant.created_at, id: *tenant.id.as_uuid() };
        Ok(Page::of(found, page.size, total_size, cursor))
    }

    async fn update(&self, tenant: &Tenant, read: &Tenant, pinned: Option<VoiceAgentId>) -> Result<Changed> {
        let (row, id, read) = (TenantRow::of(tenant)?, tenant.id, read.clone());
        self.db
            .of(tenant.id)
            .transaction(move |conn| {
                Box::pin(async move {
                    if let Some(agent) = pinned {
                        check_pin(conn, id, agent).await?;
                    }
                    // All of it is compared: a deleted agent is unpinned without a time of change.
                    let current = locked_tenant(conn, id).await?.map(Tenant::try_from).transpose()?;
                    if current != Some(read) {
                        return Ok(Changed::Stale);
                    }
                    query!(conn, c => diesel::update(tenants::table.find(id)).set(row).execute(c).await)?;
                    Ok(Changed::Done)
                })
            })
            .await
    }

    async fn create_key(&self, key: &ApiKey) -> Result<()> {
        let row = ApiKeyRow::of(key)?;
        let tenant = key.tenant;
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    query!(conn, c => diesel::insert_into(api_keys::table).values(row).execute(c).await)
                        .map_err(missing(Resource::Tenant, tenant))?;
                    Ok(())
                })
            })
            .await
    }

    async fn key_by_hash(&self, hash: Sha256) -> Result<Option<ApiKey>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let hash = hash.as_bytes().to_vec();
                    let current = api_keys::table.filter(api_keys::hash.eq(hash.clone()));
                    let row = query!(conn, c => current.select(ApiKeyRow::as_select()).first(c).await).optional()?;
                    if let Some(row) = row {
                        return row.try_into().map(Some);
                    }
                    // In this order none is missed: a secret goes from the one column to the other and never back.
                    let previous = api_keys::table.filter(api_keys::previous_hash.eq(hash));
                    let row = query!(conn, c => previous.select(ApiKeyRow::as_select()).first(c).await).optional()?;
                    row.map(ApiKey::try_from).transpose()
                })
            })
            .await
    }

    async fn key(&self, id: ApiKeyId) -> Result<Option<ApiKey>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let found = api_keys::table.filter(api_keys::id.eq(id));
                    let row = query!(conn, c => found.select(ApiKeyRow::as_select()).first(c).await).optional()?;
                    row.map(ApiKey::try_from).transpose()
                })
            })
            .await
    }

    async fn keys(&self, tenant: TenantId, page: PageRequest) -> Result<Page<ApiKey>> {
        let (rows, total_size) = self
            .db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let of_tenant = api_keys::table.filter(api_keys::tenant_id.eq(tenant));
                    query!(conn, c => {
                        let mut rows = of_tenant.select(ApiKeyRow::as_select()).into_boxed();
                        if let Some(Cursor { created_at, id }) = page.after {
                            rows = rows.filter(api_keys::created_at.le(created_at));
                            rows = rows.filter(api_keys::created_at.lt(created_at).or(api_keys::id.lt(Uid(id))));
                        }
                        let rows = rows
                            .order((api_keys::created_at.desc(), api_keys::id.desc()))
                            .limit(i64::from(page.size) + 1)
                            .load(c)
                            .await?;
                        Ok((rows, of_tenant.count().get_result::<i64>(c).await?))
                    })
                })
            })
            .await?;
        let keys = rows.into_iter().map(ApiKey::try_from).collect::<Result<Vec<_>>>()?;
        Ok(Page::of(keys, page.size, total_size, |key| Cursor { created_at: key.created_at, id: *key.id.as_uuid() }))
    }

    async fn revoke_key(&self, tenant: TenantId, id: ApiKeyId, now: Timestamp) -> Result<Option<ApiKey>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let key = api_keys::table.find((tenant, id));
                    let valid = key.filter(api_keys::revoked_at.is_null());
                    let revoked = api_keys::revoked_at.eq(now);
                    query!(conn, c => diesel::update(valid).set(revoked).execute(c).await)?;
                    let row = query!(conn, c => key.select(ApiKeyRow::as_select()).first(c).await).optional()?;
                    row.map(ApiKey::try_from).transpose()
                })
            })
            .await
    }

    async fn rotate_key(&self, tenant: TenantId, id: ApiKeyId, rotation: Rotation) -> Result<Option<ApiKey>> {
        let Rotation { hash, prefix, previous_expires_at, now } = rotation;
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let alive = api_keys::table
                        .find((tenant, id))
                        .filter(api_keys::revoked_at.is_null())
                        .filter(api_keys::expires_at.is_null().or(api_keys::expires_at.gt(now)));
                    let renewed = (api_keys::hash.eq(hash.as_bytes().to_vec()), api_keys::prefix.eq(prefix));
                    let row = match previous_expires_at {
                        Some(expiry) => {
                            let kept = api_keys::previous_hash.eq(api_keys::hash.nullable());
                            let kept = (kept, api_keys::previous_expires_at.eq(expiry));
                            let change = diesel::update(alive).set((kept, renewed));
                            query!(conn, c => change.returning(ApiKeyRow::as_returning()).get_result(c).await)
                        }
                        None => {
                            let dropped = api_keys::previous_hash.eq(None::<Vec<u8>>);
                            let dropped = (dropped, api_keys::previous_expires_at.eq(None::<At>));
                            let change = diesel::update(alive).set((dropped, renewed));
                            query!(conn, c => change.returning(ApiKeyRow::as_returning()).get_result(c).await)
                        }
                    };
                    row.optional()?.map(ApiKey::try_from).transpose()
                })
            })
            .await
    }

    async fn keys_used(&self, keys: &[(TenantId, ApiKeyId)], moment: Timestamp) -> Result<()> {
        // Ids are unique over all tenants; these are named for the index's sake.
        let uids = |(tenant, id): &(TenantId, ApiKeyId)| (Uid::from(*tenant), Uid::from(*id));
        let (of, ids): (Vec<Uid>, Vec<Uid>) = keys.iter().map(uids).unzip();
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let earlier = api_keys::last_used_at.is_null().or(api_keys::last_used_at.lt(moment));
                    let used = api_keys::table
                        .filter(api_keys::tenant_id.eq_any(of))
                        .filter(api_keys::id.eq_any(ids))
                        .filter(earlier);
                    let noted = api_keys::last_used_at.eq(moment);
                    query!(conn, c => diesel::update(used).set(noted).execute(c).await)?;
                    Ok(())
                })
            })
            .await
    }

    async fn revoke_token(&self, revocation: &Revocation) -> Result<()> {
        let revocation = *revocation;
        self.db.of(revocation.tenant).run(move |conn| Box::pin(revocations::revoke(conn, revocation))).await
    }

    async fn revocations(&self, only_new: bool) -> Result<Vec<Revocation>> {
        self.db.of_everyone().run(move |conn| Box::pin(revocations::read(conn, only_new))).await
    }

    async fn token_key(&self, proposed: &SealedTokenKey) -> Result<SealedTokenKey> {
        let row = TokenKeyRow::first(proposed);
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    query!(conn, c => diesel::insert_into(token_keys::table)
                        .values(row)
                        .on_conflict_do_nothing()
                        .execute(c)
                        .await)?;
                    let newest = token_keys::table.order(token_keys::generation.desc());
                    Ok(query!(conn, c => newest.select(TokenKeyRow::as_select()).first(c).await)?.into())
                })
            })
            .await
    }

    async fn kept_token_key(&self) -> Result<Option<SealedTokenKey>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let newest = token_keys::table.order(token_keys::generation.desc());
                    let row = query!(conn, c => newest.select(TokenKeyRow::as_select()).first(c).await).optional()?;
                    Ok(row.map(Into::into))
                })
            })
            .await
    }

    async fn reseal_token_key(&self, old: &SealedTokenKey, sealed: &Sealed) -> Result<bool> {
        let (kid, held, sealed) = (old.kid.clone(), old.sealed.as_bytes().to_vec(), sealed.as_bytes().to_vec());
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let same =
                        token_keys::table.filter(token_keys::kid.eq(kid)).filter(token_keys::sealed_secret.eq(held));
                    let put = token_keys::sealed_secret.eq(sealed);
                    let written = query!(conn, c => diesel::update(same).set(put).execute(c).await)?;
                    Ok(written == 1)
                })
            })
            .await
    }
}

/// Until the transaction ends nobody else changes the row; keys and agents may still be made for it.
async fn locked_tenant(conn: &mut Connection, id: TenantId) -> QueryResult<Option<TenantRow>> {
    let row = tenants::table.find(id);
    match conn {
        Connection::Postgres(pg) => row.select(TenantRow::as_select()).for_no_key_update().first(&mut pg.session).await,
        // Its transactions exclude each other from their beginning.
        Connection::Sqlite(sqlite) => row.select(TenantRow::as_select()).first(sqlite).await,
    }
    .optional()
}

/// Whether the agent may be the tenant's default. Until the transaction ends nobody archives or removes it.
async fn check_pin(conn: &mut Connection, tenant: TenantId, agent: VoiceAgentId) -> Result<()> {
    match locked_status(conn, tenant, agent).await? {
        None => Err(Error::not_found(Resource::VoiceAgent, agent)),
        Some(status) if status == Status::Archived.as_str() => Err(Error::VoiceAgentArchived { agent }),
        Some(_) => Ok(()),
    }
}

async fn locked_status(conn: &mut Connection, tenant: TenantId, agent: VoiceAgentId) -> QueryResult<Option<String>> {
    let status = voice_agents::table.find((tenant, agent)).select(voice_agents::status);
    match conn {
        Connection::Postgres(pg) => status.for_update().first(&mut pg.session).await,
        Connection::Sqlite(sqlite) => status.first(sqlite).await,
    }
    .optional()
}
