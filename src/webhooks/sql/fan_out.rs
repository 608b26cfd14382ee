//! From events to deliveries.

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, JoinOnDsl as _, OptionalExtension as _, QueryDsl as _,
    QueryResult, SelectableHelper as _,
    prelude::{Insertable, Queryable, Selectable},
};
use diesel_async::RunQueryDsl as _;

use super::{
    deliveries::{locked, reschedule},
    rows::EndpointRow,
};
use crate::{
    db::{
        Connection, corrupt, query,
        schema::{event_sequences, events, webhook_deliveries as deliveries, webhook_endpoints as endpoints},
        types::{At, Json, Uid},
    },
    domain::{
        Env, Error, Result,
        clock::Timestamp,
        ids::{DeliveryId, EventId, TenantId, WebhookEndpointId},
        webhook::{PostedEvent, WebhookEndpoint},
    },
    webhooks::store::{EndpointKey, FAN_OUT_MAX, FannedOut, Redelivered, Redelivery},
};

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = events)]
struct EventRow {
    tenant_id: Uid,
    id: Uid,
    kind: String,
    created_at: At,
    call_id: String,
    session_sequence: i64,
    data: Json,
    sequence: Option<i64>,
}

impl TryFrom<EventRow> for PostedEvent {
    type Error = Error;

    fn try_from(row: EventRow) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            kind: row.kind,
            created_at: row.created_at.into(),
            tenant_id: row.tenant_id.into(),
            sequence: row.sequence.ok_or_else(|| corrupt("events.sequence"))?,
            call_id: row.call_id,
            session_sequence: row.session_sequence,
            data: row.data.read("events.data")?,
        })
    }
}

#[derive(Debug, Insertable)]
#[diesel(table_name = deliveries)]
struct NewDelivery {
    tenant_id: Uid,
    endpoint_id: Uid,
    event_id: Uid,
    id: Uid,
    event: Json,
    made_at: At,
    next_attempt_at: At,
}

impl NewDelivery {
    fn of((tenant, endpoint): EndpointKey, event: &PostedEvent, env: &Env) -> Result<Self> {
        let now = At(env.now());
        Ok(Self {
            tenant_id: tenant.into(),
            endpoint_id: endpoint.into(),
            event_id: event.id.into(),
            id: DeliveryId::new(env).into(),
            event: Json::of(event)?,
            made_at: now,
            next_attempt_at: now,
        })
    }
}

/// The newest of the tenant's events that has its position.
pub(super) async fn newest(conn: &mut Connection, tenant: TenantId) -> QueryResult<i64> {
    let last = event_sequences::table.find(tenant).select(event_sequences::last);
    Ok(query!(conn, c => last.first(c).await).optional()?.unwrap_or(0))
}

pub(super) async fn fan_out(conn: &mut Connection, (tenant, id): EndpointKey, env: &Env) -> Result<FannedOut> {
    let row = endpoints::table.find((tenant, id)).filter(endpoints::enabled.eq(true));
    let found: Option<(EndpointRow, i64, Option<At>)> = match conn {
        Connection::Postgres(pg) => {
            let row = row.select((EndpointRow::as_select(), endpoints::position, endpoints::due_at));
            row.for_no_key_update().skip_locked().first(&mut pg.session).await
        }
        Connection::Sqlite(sqlite) => {
            let row = row.select((EndpointRow::as_select(), endpoints::position, endpoints::due_at));
            row.first(sqlite).await
        }
    }
    .optional()?;
    let Some((endpoint, position, due_at)) = found else { return Ok(FannedOut::default()) };
    let endpoint = WebhookEndpoint::try_from(endpoint)?;
    // Before the events are read: what comes in between is not passed over.
    let newest = newest(conn, tenant).await?;
    let next = events::table
        .filter(events::tenant_id.eq(tenant))
        .filter(events::sequence.gt(position))
        .order(events::sequence)
        .limit(FAN_OUT_MAX.into());
    let rows: Vec<EventRow> = query!(conn, c => next.select(EventRow::as_select()).load(c).await)?;
    let Some(reached) = rows.last().and_then(|last| last.sequence) else {
        // What was there is gone: its time of retention has passed.
        moved(conn, (tenant, id), newest.max(position), due_at.map(Timestamp::from)).await?;
        return Ok(FannedOut::default());
    };
    let more = rows.len() == usize::from(FAN_OUT_MAX);
    let wanted = |event: &PostedEvent| {
        endpoint.event_types.matches(&event.kind) && (!endpoint.sandbox || event.is_of_the_sandbox())
    };
    let mut made = Vec::new();
    for row in rows {
        let event = PostedEvent::try_from(row)?;
        if wanted(&event) {
            made.push(NewDelivery::of((tenant, id), &event, env)?);
        }
    }
    let count = made.len();
    let due = if made.is_empty() { due_at.map(Timestamp::from) } else { Some(env.now()) };
    insert(conn, made).await?;
    moved(conn, (tenant, id), reached, due).await?;
    Ok(FannedOut { made: count, more })
}

/// Sets position and time of the endpoint, whose row is held. With as much in flight as may be, a claimant finds out.
async fn moved(
    conn: &mut Connection,
    (tenant, id): EndpointKey,
    position: i64,
    due: Option<Timestamp>,
) -> QueryResult<()> {
    let target = endpoints::table.find((tenant, id));
    let moved = (endpoints::position.eq(position), endpoints::due_at.eq(due.map(At)));
    query!(conn, c => diesel::update(target).set(moved).execute(c).await)?;
    Ok(())
}

/// An event that was delivered again before its turn came is on its way already.
async fn insert(conn: &mut Connection, rows: Vec<NewDelivery>) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    match conn {
        Connection::Postgres(pg) => {
            let all = diesel::insert_into(deliveries::table).values(&rows).on_conflict_do_nothing();
            all.execute(&mut pg.session).await?;
        }
        Connection::Sqlite(sqlite) => {
            for row in &rows {
                let one = diesel::insert_into(deliveries::table).values(row).on_conflict_do_nothing();
                one.execute(sqlite).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn redeliver(conn: &mut Connection, redelivery: Redelivery, env: &Env) -> Result<Redelivered> {
    let Redelivery { tenant, event, endpoint: named, sandbox } = redelivery;
    let found = kept(conn, tenant, event).await?;
    let Some(event) = found.filter(|event| !sandbox || event.is_of_the_sandbox()) else {
        return Ok(Redelivered::UnknownEvent);
    };
    let endpoints = match named {
        Some(id) => match named_endpoint(conn, tenant, id, sandbox).await? {
            None => return Ok(Redelivered::UnknownEndpoint),
            Some(endpoint) if !endpoint.enabled => return Ok(Redelivered::EndpointDisabled),
            Some(endpoint) if endpoint.sandbox && !event.is_of_the_sandbox() => return Ok(Redelivered::EventIsLive),
            Some(endpoint) => vec![endpoint.id],
        },
        None => wanting(conn, tenant, &event, sandbox).await?,
    };
    let mut to = Vec::new();
    // In the order of their ids, as everyone who holds several.
    for id in endpoints {
        let key = (tenant, id);
        let Some((failures, true)) = locked(conn, key).await? else { continue };
        let before = deliveries::table.find((tenant, id, event.id));
        query!(conn, c => diesel::delete(before).execute(c).await)?;
        insert(conn, vec![NewDelivery::of(key, &event, env)?]).await?;
        reschedule(conn, key, failures, env.now()).await?;
        to.push(id);
    }
    Ok(Redelivered::To(to))
}

/// The event as long as it is retained, or else as it is kept with a delivery.
async fn kept(conn: &mut Connection, tenant: TenantId, id: EventId) -> Result<Option<PostedEvent>> {
    let retained = events::table.find((tenant, id)).filter(events::sequence.is_not_null());
    let row: Option<EventRow> = query!(conn, c => retained.select(EventRow::as_select()).first(c).await).optional()?;
    if let Some(row) = row {
        return PostedEvent::try_from(row).map(Some);
    }
    let with_delivery = endpoints::table
        .inner_join(
            deliveries::table
                .on(deliveries::tenant_id.eq(endpoints::tenant_id).and(deliveries::endpoint_id.eq(endpoints::id))),
        )
        .filter(endpoints::tenant_id.eq(tenant))
        .filter(deliveries::event_id.eq(id))
        .select(deliveries::event);
    let event: Option<Json> = query!(conn, c => with_delivery.first(c).await).optional()?;
    event.map(|event| event.read("webhook_deliveries.event")).transpose()
}

async fn named_endpoint(
    conn: &mut Connection,
    tenant: TenantId,
    id: WebhookEndpointId,
    sandbox: bool,
) -> Result<Option<WebhookEndpoint>> {
    let found = endpoints::table.find((tenant, id));
    let row = query!(conn, c => found.select(EndpointRow::as_select()).first(c).await).optional()?;
    let endpoint = row.map(WebhookEndpoint::try_from).transpose()?;
    Ok(endpoint.filter(|endpoint| endpoint.sandbox || !sandbox))
}

/// The enabled endpoints that the event is for, in the order of their ids.
async fn wanting(
    conn: &mut Connection,
    tenant: TenantId,
    event: &PostedEvent,
    sandbox: bool,
) -> Result<Vec<WebhookEndpointId>> {
    let enabled = endpoints::table
        .filter(endpoints::tenant_id.eq(tenant))
        .filter(endpoints::enabled.eq(true))
        .order(endpoints::id);
    let rows: Vec<EndpointRow> = query!(conn, c => enabled.select(EndpointRow::as_select()).load(c).await)?;
    let mut wanting = Vec::new();
    for row in rows {
        let endpoint = WebhookEndpoint::try_from(row)?;
        let reached = endpoint.sandbox || !sandbox;
        let side = !endpoint.sandbox || event.is_of_the_sandbox();
        if reached && side && endpoint.event_types.matches(&event.kind) {
            wanting.push(endpoint.id);
        }
    }
    Ok(wanting)
}
