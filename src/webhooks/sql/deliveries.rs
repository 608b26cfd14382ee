//! Deliveries in SQL: who may do what of them at once.
//!
//! Whoever changes what waits for an endpoint holds the endpoint's row, and it before any delivery's. Its `due_at` then says
//! when there is something to do for it, so that nobody looks through what waits to find out.

use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, JoinOnDsl as _, NullableExpressionMethods as _, OptionalExtension as _, QueryDsl as _,
    QueryResult, SelectableHelper as _, sql_types::Nullable,
};
use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use super::{SqlWebhookStore, dead_letters, fan_out, rows::EndpointRow};
use crate::{
    db::{
        Connection, query,
        schema::{event_sequences, webhook_deliveries as deliveries, webhook_endpoints as endpoints},
        types::{At, Json, Moment, Uid, from_integer},
    },
    domain::{
        Env, Result,
        clock::Timestamp,
        ids::{EventId, TenantId, WebhookEndpointId},
        page::{Page, PageRequest},
        webhook::{Attempt, DeadLetter, Taken, WebhookEndpoint},
    },
    webhooks::store::{
        Backlog, Claim, Claimed, Claims, DeliveryStore, EndpointKey, FannedOut, IN_FLIGHT_OF_FAILING,
        IN_FLIGHT_OF_SOUND, Lane, Next, Redelivered, Redelivery, Settlement,
    },
};

diesel::define_sql_function! {
    fn coalesce(value: Nullable<Moment>, other: Moment) -> Moment;
}

#[async_trait]
impl DeliveryStore for SqlWebhookStore {
    async fn lagging(&self, limit: u16) -> Result<Vec<EndpointKey>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let of_tenant = event_sequences::tenant_id.eq(endpoints::tenant_id);
                    let lagging = endpoints::table
                        .inner_join(event_sequences::table.on(of_tenant))
                        .filter(endpoints::enabled.eq(true))
                        .filter(endpoints::position.lt(event_sequences::last))
                        .select((endpoints::tenant_id, endpoints::id))
                        .limit(limit.into());
                    Ok(keys(query!(conn, c => lagging.load(c).await)?))
                })
            })
            .await
    }

    async fn fan_out(&self, endpoint: EndpointKey, env: &Env) -> Result<FannedOut> {
        let env = env.clone();
        self.db
            .of(endpoint.0)
            .transaction(move |conn| Box::pin(async move { fan_out::fan_out(conn, endpoint, &env).await }))
            .await
    }

    async fn due(&self, lane: Lane, now: Timestamp, limit: u16) -> Result<Vec<EndpointKey>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let due = endpoints::table
                        .filter(endpoints::enabled.eq(true))
                        .filter(endpoints::due_at.le(now))
                        .order(endpoints::due_at)
                        .select((endpoints::tenant_id, endpoints::id))
                        .limit(limit.into());
                    Ok(keys(match lane {
                        Lane::Sound => query!(conn, c => due.filter(endpoints::failures.eq(0)).load(c).await)?,
                        Lane::Failing => query!(conn, c => due.filter(endpoints::failures.gt(0)).load(c).await)?,
                    }))
                })
            })
            .await
    }

    async fn claim(&self, endpoint: EndpointKey, claim: Claim) -> Result<Option<Claims>> {
        self.db.of(endpoint.0).transaction(move |conn| Box::pin(claimed(conn, endpoint, claim))).await
    }

    async fn settle(&self, endpoint: EndpointKey, settlement: Settlement) -> Result<bool> {
        self.db.of(endpoint.0).transaction(move |conn| Box::pin(settle(conn, endpoint, settlement))).await
    }

    async fn give_up(&self, made_before: Timestamp, now: Timestamp, limit: u16) -> Result<usize> {
        self.db
            .of_everyone()
            .transaction(move |conn| Box::pin(dead_letters::give_up(conn, made_before, now, limit)))
            .await
    }

    async fn forget(&self, dead_before: Timestamp, limit: u16) -> Result<usize> {
        self.db.of_everyone().run(move |conn| Box::pin(dead_letters::forget(conn, dead_before, limit))).await
    }

    async fn backlog(&self) -> Result<Backlog> {
        self.db
            .of_everyone()
            .run(|conn| {
                Box::pin(async move {
                    let pending = deliveries::table.filter(deliveries::dead_at.is_null());
                    let dead = deliveries::table.filter(deliveries::dead_at.is_not_null());
                    let oldest = pending.select(deliveries::made_at).order(deliveries::made_at);
                    query!(conn, c => {
                        let count: i64 = pending.count().get_result(c).await?;
                        let dead: i64 = dead.count().get_result(c).await?;
                        let oldest: Option<At> = oldest.first(c).await.optional()?;
                        let counted = |count: i64| u64::try_from(count).unwrap_or(0);
                        let oldest = oldest.map(Timestamp::from);
                        Ok(Backlog { pending: counted(count), oldest, dead: counted(dead) })
                    })
                })
            })
            .await
    }

    async fn dead_letters(
        &self,
        tenant: TenantId,
        endpoint: Option<WebhookEndpointId>,
        sandbox: bool,
        page: PageRequest,
    ) -> Result<Page<DeadLetter>> {
        self.db.of(tenant).run(move |conn| Box::pin(dead_letters::list(conn, tenant, endpoint, sandbox, page))).await
    }

    async fn redeliver(&self, redelivery: Redelivery, env: &Env) -> Result<Redelivered> {
        let env = env.clone();
        self.db
            .of(redelivery.tenant)
            .transaction(move |conn| Box::pin(async move { fan_out::redeliver(conn, redelivery, &env).await }))
            .await
    }
}

fn keys(rows: Vec<(Uid, Uid)>) -> Vec<EndpointKey> {
    rows.into_iter().map(|(tenant, endpoint)| (tenant.into(), endpoint.into())).collect()
}

/// What waits for the endpoint, under whichever claim.
macro_rules! pending {
    ($tenant:expr, $endpoint:expr) => {
        deliveries::table
            .filter(deliveries::tenant_id.eq($tenant))
            .filter(deliveries::endpoint_id.eq($endpoint))
            .filter(deliveries::dead_at.is_null())
    };
}

async fn claimed(conn: &mut Connection, (tenant, id): EndpointKey, claim: Claim) -> Result<Option<Claims>> {
    let due =
        endpoints::table.find((tenant, id)).filter(endpoints::enabled.eq(true)).filter(endpoints::due_at.le(claim.now));
    let found: Option<(EndpointRow, i32)> = match conn {
        Connection::Postgres(pg) => {
            let row = due.select((EndpointRow::as_select(), endpoints::failures));
            row.for_no_key_update().skip_locked().first(&mut pg.session).await
        }
        // Its transactions exclude each other from their beginning.
        Connection::Sqlite(sqlite) => due.select((EndpointRow::as_select(), endpoints::failures)).first(sqlite).await,
    }
    .optional()?;
    let Some((endpoint, failures)) = found else { return Ok(None) };
    let room = room(failures).saturating_sub(in_flight(conn, tenant, id, claim.now).await?).min(claim.at_most);
    let ready = pending!(tenant, id)
        .filter(deliveries::next_attempt_at.le(claim.now))
        .order(deliveries::next_attempt_at)
        .select((deliveries::event_id, deliveries::event, deliveries::attempts, deliveries::made_at))
        .limit(room.into());
    let rows: Vec<(Uid, Json, i32, At)> = query!(conn, c => ready.load(c).await)?;
    let events: Vec<Uid> = rows.iter().map(|(event, ..)| *event).collect();
    let taken = (
        deliveries::claim.eq(Some(Uid(claim.id))),
        deliveries::next_attempt_at.eq(claim.until),
        deliveries::attempts.eq(deliveries::attempts + 1),
        deliveries::first_attempt_at.eq(coalesce(deliveries::first_attempt_at, At(claim.now)).nullable()),
        deliveries::last_attempt_at.eq(claim.now),
    );
    let target = pending!(tenant, id).filter(deliveries::event_id.eq_any(events));
    query!(conn, c => diesel::update(target).set(taken).execute(c).await)?;
    reschedule(conn, (tenant, id), failures, claim.now).await?;
    let read = |(_, event, attempts, made_at): (Uid, Json, i32, At)| {
        Ok(Claimed {
            event: event.read("webhook_deliveries.event")?,
            attempts: from_integer(attempts, "webhook_deliveries.attempts")?.saturating_add(1),
            made_at: made_at.into(),
        })
    };
    let claimed = rows.into_iter().map(read).collect::<Result<_>>()?;
    Ok(Some(Claims { endpoint: WebhookEndpoint::try_from(endpoint)?, deliveries: claimed }))
}

async fn settle(conn: &mut Connection, (tenant, id): EndpointKey, settlement: Settlement) -> Result<bool> {
    let Settlement { event, claim, attempt, next, now } = settlement;
    let Some((failures, enabled)) = locked(conn, (tenant, id)).await? else { return Ok(false) };
    if !end(conn, (tenant, id), (event, claim), &attempt, next, now).await? {
        return Ok(false);
    }
    let failures = if attempt.taken == Taken::Yes { 0 } else { failures.saturating_add(1) };
    let target = endpoints::table.find((tenant, id));
    if next == Next::Disabled {
        let disabled = (
            endpoints::failures.eq(failures),
            endpoints::enabled.eq(false),
            endpoints::due_at.eq(None::<At>),
            endpoints::updated_at.eq(now),
        );
        query!(conn, c => diesel::update(target).set(disabled).execute(c).await)?;
        return Ok(true);
    }
    query!(conn, c => diesel::update(target).set(endpoints::failures.eq(failures)).execute(c).await)?;
    if enabled {
        reschedule(conn, (tenant, id), failures, now).await?;
    }
    Ok(true)
}

/// Of the delivery alone. False where it is claimed by another by now.
async fn end(
    conn: &mut Connection,
    (tenant, id): EndpointKey,
    (event, claim): (EventId, Uuid),
    attempt: &Attempt,
    next: Next,
    now: Timestamp,
) -> QueryResult<bool> {
    let target = deliveries::table.find((tenant, id, event)).filter(deliveries::claim.eq(Uid(claim)));
    let told = (
        deliveries::claim.eq(None::<Uid>),
        deliveries::last_status.eq(i32::from(attempt.status)),
        deliveries::last_error.eq(attempt.error.clone()),
    );
    let changed = match next {
        Next::Done => query!(conn, c => diesel::delete(target).execute(c).await),
        Next::TriedAgain(at) => {
            let again = (told, deliveries::next_attempt_at.eq(at));
            query!(conn, c => diesel::update(target).set(again).execute(c).await)
        }
        Next::GivenUp | Next::Disabled => {
            let dead = (told, deliveries::dead_at.eq(now));
            query!(conn, c => diesel::update(target).set(dead).execute(c).await)
        }
    };
    Ok(changed? == 1)
}

/// Its failures, and whether it is enabled. Until the transaction ends nobody else changes what waits for it.
pub(super) async fn locked(conn: &mut Connection, (tenant, id): EndpointKey) -> QueryResult<Option<(i32, bool)>> {
    let row = endpoints::table.find((tenant, id)).select((endpoints::failures, endpoints::enabled));
    match conn {
        Connection::Postgres(pg) => row.for_no_key_update().first(&mut pg.session).await,
        Connection::Sqlite(sqlite) => row.first(sqlite).await,
    }
    .optional()
}

const fn room(failures: i32) -> u32 {
    if failures > 0 { IN_FLIGHT_OF_FAILING } else { IN_FLIGHT_OF_SOUND }
}

async fn in_flight(conn: &mut Connection, tenant: TenantId, id: WebhookEndpointId, now: Timestamp) -> QueryResult<u32> {
    let claimed = pending!(tenant, id)
        .filter(deliveries::claim.is_not_null())
        .filter(deliveries::next_attempt_at.gt(now))
        .count();
    let count: i64 = query!(conn, c => claimed.get_result(c).await)?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Says when there is something to do for the endpoint, whose row is held: while as much is in flight as may be, that is
/// when the first claim ends.
pub(super) async fn reschedule(
    conn: &mut Connection,
    (tenant, id): EndpointKey,
    failures: i32,
    now: Timestamp,
) -> QueryResult<()> {
    let moments = pending!(tenant, id).order(deliveries::next_attempt_at).select(deliveries::next_attempt_at);
    let due: Option<At> = if in_flight(conn, tenant, id, now).await? < room(failures) {
        query!(conn, c => moments.first(c).await).optional()?
    } else {
        let ends = moments.filter(deliveries::claim.is_not_null()).filter(deliveries::next_attempt_at.gt(now));
        query!(conn, c => ends.first(c).await).optional()?
    };
    let target = endpoints::table.find((tenant, id));
    query!(conn, c => diesel::update(target).set(endpoints::due_at.eq(due)).execute(c).await)?;
    Ok(())
}
