//! Tenants and their keys in SQL.

mod rows;

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _,
};
use diesel_async::RunQueryDsl as _;

use self::rows::{ApiKeyRow, TenantRow, TokenKeyRow};
use super::{SealedTokenKey, TenantStore};
use crate::{
    db::{
        Database, missing, query,
        schema::{api_keys, tenants, token_keys},
        types::Uid,
    },
    domain::{
        Result,
        clock::Timestamp,
        error::Resource,
        hash::Sha256,
        ids::{ApiKeyId, TenantId},
        keyring::Sealed,
        page::{Cursor, Page, PageRequest},
        tenant::{ApiKey, Tenant},
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
        let row = TenantRow::of(tenant);
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
                    let found = api_keys::table.filter(api_keys::hash.eq(hash.as_bytes().to_vec()));
                    let row = query!(conn, c => found.select(ApiKeyRow::as_select()).first(c).await).optional()?;
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
