//! Webhook endpoints in SQL.

mod dead_letters;
mod deliveries;
mod fan_out;
mod rows;

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, NullableExpressionMethods as _, OptionalExtension as _,
    QueryDsl as _, QueryResult, SelectableHelper as _,
};
use diesel_async::RunQueryDsl as _;

use self::rows::{EndpointChange, EndpointRow, SecretsRow};
use super::{Changed, Created, EndpointKey, NewSecret, SealedSecrets, WebhookStore};
use crate::{
    db::{
        Connection, Database, query,
        schema::{tenants, webhook_deliveries, webhook_endpoints as endpoints},
        types::{At, Uid},
    },
    domain::{
        Error, Result,
        clock::Timestamp,
        error::Resource,
        ids::{TenantId, WebhookEndpointId},
        page::{Cursor, Page, PageRequest},
        webhook::{ENDPOINTS_MAX, EndpointSecrets, WebhookEndpoint},
    },
};

/// Deliveries that one statement removes.
const REMOVED_AT_ONCE: i64 = 5_000;

#[derive(Debug, Clone)]
pub struct SqlWebhookStore {
    db: Database,
}

impl SqlWebhookStore {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }
}

#[async_trait]
impl WebhookStore for SqlWebhookStore {
    async fn create(&self, endpoint: &WebhookEndpoint) -> Result<Created> {
        let (row, tenant) = (EndpointRow::of(endpoint)?, endpoint.tenant);
        self.db
            .of(tenant)
            .transaction(move |conn| {
                Box::pin(async move {
                    if !locked_tenant(conn, tenant).await? {
                        return Err(Error::not_found(Resource::Tenant, tenant));
                    }
                    let of_tenant = endpoints::table.filter(endpoints::tenant_id.eq(tenant)).count();
                    let count: i64 = query!(conn, c => of_tenant.get_result(c).await)?;
                    if count >= ENDPOINTS_MAX.into() {
                        return Ok(Created::TooMany);
                    }
                    // It gets what happens from now on.
                    let row = (row, endpoints::position.eq(fan_out::newest(conn, tenant).await?));
                    query!(conn, c => diesel::insert_into(endpoints::table).values(row).execute(c).await)?;
                    Ok(Created::Done)
                })
            })
            .await
    }

    async fn get(&self, id: WebhookEndpointId) -> Result<Option<WebhookEndpoint>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let found = endpoints::table.filter(endpoints::id.eq(id));
                    let row = query!(conn, c => found.select(EndpointRow::as_select()).first(c).await).optional()?;
                    row.map(WebhookEndpoint::try_from).transpose()
                })
            })
            .await
    }

    async fn list(&self, tenant: TenantId, sandbox: bool, page: PageRequest) -> Result<Page<WebhookEndpoint>> {
        let (rows, total_size) = self
            .db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let shown = endpoints::table
                        .filter(endpoints::tenant_id.eq(tenant))
                        .filter(endpoints::sandbox.eq(true).or(endpoints::sandbox.eq(sandbox)));
                    query!(conn, c => {
                        let mut rows = shown.select(EndpointRow::as_select()).into_boxed();
                        if let Some(Cursor { created_at, id }) = page.after {
                            rows = rows.filter(endpoints::created_at.le(created_at));
                            rows = rows.filter(endpoints::created_at.lt(created_at).or(endpoints::id.lt(Uid(id))));
                        }
                        let rows = rows
                            .order((endpoints::created_at.desc(), endpoints::id.desc()))
                            .limit(i64::from(page.size) + 1)
                            .load(c)
                            .await?;
                        Ok((rows, shown.count().get_result::<i64>(c).await?))
                    })
                })
            })
            .await?;
        let found = rows.into_iter().map(WebhookEndpoint::try_from).collect::<Result<Vec<_>>>()?;
        let cursor =
            |endpoint: &WebhookEndpoint| Cursor { created_at: endpoint.created_at, id: *endpoint.id.as_uuid() };
        Ok(Page::of(found, page.size, total_size, cursor))
    }

    async fn update(&self, endpoint: &WebhookEndpoint, read: &WebhookEndpoint) -> Result<Changed> {
        let (change, read) = (EndpointChange::of(endpoint)?, read.clone());
        let (tenant, id, enabled, now) = (endpoint.tenant, endpoint.id, endpoint.enabled, endpoint.updated_at);
        self.db
            .of(tenant)
            .transaction(move |conn| {
                Box::pin(async move {
                    let current = locked(conn, tenant, id).await?.map(WebhookEndpoint::try_from).transpose()?;
                    if current.as_ref() != Some(&read) {
                        return Ok(Changed::Stale);
                    }
                    let target = endpoints::table.find((tenant, id));
                    query!(conn, c => diesel::update(target).set(change).execute(c).await)?;
                    match (read.enabled, enabled) {
                        (true, false) => paused(conn, (tenant, id)).await?,
                        (false, true) => resumed(conn, (tenant, id), now).await?,
                        _ => {}
                    }
                    Ok(Changed::Done)
                })
            })
            .await
    }

    async fn rotate(
        &self,
        tenant: TenantId,
        id: WebhookEndpointId,
        secret: NewSecret,
    ) -> Result<Option<WebhookEndpoint>> {
        let NewSecret { sealed, previous_expires_at, now } = secret;
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let target = endpoints::table.find((tenant, id));
                    let renewed =
                        (endpoints::sealed_secret.eq(sealed.as_bytes().to_vec()), endpoints::updated_at.eq(now));
                    let row = match previous_expires_at {
                        Some(expiry) => {
                            let kept = endpoints::sealed_previous_secret.eq(endpoints::sealed_secret.nullable());
                            let kept = (kept, endpoints::previous_secret_expires_at.eq(expiry));
                            let change = diesel::update(target).set((kept, renewed));
                            query!(conn, c => change.returning(EndpointRow::as_returning()).get_result(c).await)
                        }
                        None => {
                            let dropped = endpoints::sealed_previous_secret.eq(None::<Vec<u8>>);
                            let dropped = (dropped, endpoints::previous_secret_expires_at.eq(None::<At>));
                            let change = diesel::update(target).set((dropped, renewed));
                            query!(conn, c => change.returning(EndpointRow::as_returning()).get_result(c).await)
                        }
                    };
                    row.optional()?.map(WebhookEndpoint::try_from).transpose()
                })
            })
            .await
    }

    async fn delete(&self, tenant: TenantId, id: WebhookEndpointId) -> Result<bool> {
        // Bit by bit: of all that may wait for an endpoint in trouble, no one statement could remove everything in time.
        while self.db.of(tenant).run(move |conn| Box::pin(remove_some(conn, tenant, id))).await? {}
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let target = endpoints::table.find((tenant, id));
                    Ok(query!(conn, c => diesel::delete(target).execute(c).await)? == 1)
                })
            })
            .await
    }

    async fn sealed_secrets(&self, after: Option<&SealedSecrets>, limit: u16) -> Result<Vec<SealedSecrets>> {
        let after = after.map(|held| (held.tenant, held.endpoint));
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let rows = query!(conn, c => {
                        let mut rows = endpoints::table.select(SecretsRow::as_select()).into_boxed();
                        if let Some((tenant, endpoint)) = after {
                            let same = endpoints::tenant_id.eq(tenant).and(endpoints::id.gt(endpoint));
                            rows = rows.filter(endpoints::tenant_id.gt(tenant).or(same));
                        }
                        rows.order((endpoints::tenant_id, endpoints::id)).limit(limit.into()).load(c).await
                    })?;
                    Ok(rows.into_iter().map(SealedSecrets::from).collect())
                })
            })
            .await
    }

    async fn reseal(&self, old: &SealedSecrets, secrets: &EndpointSecrets) -> Result<bool> {
        let bytes = |of: &EndpointSecrets| {
            let previous = of.previous.as_ref().map(|previous| previous.sealed.as_bytes().to_vec());
            (of.current.as_bytes().to_vec(), previous)
        };
        let (tenant, id, (held, held_previous), (put, put_previous)) =
            (old.tenant, old.endpoint, bytes(&old.secrets), bytes(secrets));
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    // The one before changes with the one in use, never alone.
                    let none = endpoints::sealed_previous_secret.is_null();
                    let previous = endpoints::sealed_previous_secret.eq(held_previous.unwrap_or_default());
                    let same = endpoints::table
                        .find((tenant, id))
                        .filter(endpoints::sealed_secret.eq(held))
                        .filter(none.or(previous));
                    let put = (endpoints::sealed_secret.eq(put), endpoints::sealed_previous_secret.eq(put_previous));
                    Ok(query!(conn, c => diesel::update(same).set(put).execute(c).await)? == 1)
                })
            })
            .await
    }
}

/// Whether there is such a tenant. Until the transaction ends nobody else makes an endpoint for it.
async fn locked_tenant(conn: &mut Connection, id: TenantId) -> QueryResult<bool> {
    let row = tenants::table.find(id).select(tenants::id);
    let found: Option<Uid> = match conn {
        Connection::Postgres(pg) => row.for_no_key_update().first(&mut pg.session).await,
        // Its transactions exclude each other from their beginning.
        Connection::Sqlite(sqlite) => row.first(sqlite).await,
    }
    .optional()?;
    Ok(found.is_some())
}

/// Until the transaction ends nobody else changes the row.
async fn locked(conn: &mut Connection, tenant: TenantId, id: WebhookEndpointId) -> QueryResult<Option<EndpointRow>> {
    let row = endpoints::table.find((tenant, id));
    match conn {
        Connection::Postgres(pg) => {
            row.select(EndpointRow::as_select()).for_no_key_update().first(&mut pg.session).await
        }
        Connection::Sqlite(sqlite) => row.select(EndpointRow::as_select()).first(sqlite).await,
    }
    .optional()
}

/// What waits goes on waiting, until it is a day old.
async fn paused(conn: &mut Connection, (tenant, id): EndpointKey) -> QueryResult<()> {
    let target = endpoints::table.find((tenant, id));
    query!(conn, c => diesel::update(target).set(endpoints::due_at.eq(None::<At>)).execute(c).await)?;
    Ok(())
}

/// What happened meanwhile is passed over; what still waits is posted. How it failed before counts no more.
async fn resumed(conn: &mut Connection, (tenant, id): EndpointKey, now: Timestamp) -> QueryResult<()> {
    let newest = fan_out::newest(conn, tenant).await?;
    let target = endpoints::table.find((tenant, id));
    let renewed = (endpoints::position.eq(newest), endpoints::failures.eq(0));
    query!(conn, c => diesel::update(target).set(renewed).execute(c).await)?;
    deliveries::reschedule(conn, (tenant, id), 0, now).await
}

/// Whether there may be more.
async fn remove_some(conn: &mut Connection, tenant: TenantId, id: WebhookEndpointId) -> Result<bool> {
    let waiting = webhook_deliveries::table
        .filter(webhook_deliveries::tenant_id.eq(tenant))
        .filter(webhook_deliveries::endpoint_id.eq(id));
    let some = waiting.select(webhook_deliveries::event_id).limit(REMOVED_AT_ONCE);
    let some: Vec<Uid> = query!(conn, c => some.load(c).await)?;
    let full = i64::try_from(some.len()).is_ok_and(|found| found == REMOVED_AT_ONCE);
    let target = waiting.filter(webhook_deliveries::event_id.eq_any(some));
    query!(conn, c => diesel::delete(target).execute(c).await)?;
    Ok(full)
}
