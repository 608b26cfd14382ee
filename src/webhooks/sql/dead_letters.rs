//! What was given up.

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult,
    SelectableHelper as _,
    prelude::{Queryable, Selectable},
};
use diesel_async::RunQueryDsl as _;

use crate::{
    db::{
        Connection, corrupt, query,
        schema::{webhook_deliveries as deliveries, webhook_endpoints as endpoints},
        types::{At, Json, Uid, from_integer},
    },
    domain::{
        Error, Result,
        clock::Timestamp,
        ids::{TenantId, WebhookEndpointId},
        page::{Cursor, Page, PageRequest},
        webhook::DeadLetter,
    },
};

/// Of what was never posted: its endpoint is too slow for its events, or was disabled.
const NEVER_TRIED: &str = "not tried: the endpoint was disabled, or too slow for all its events";

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = deliveries)]
struct DeadRow {
    id: Uid,
    endpoint_id: Uid,
    event: Json,
    attempts: i32,
    first_attempt_at: Option<At>,
    last_attempt_at: Option<At>,
    last_status: i32,
    last_error: String,
    dead_at: Option<At>,
}

impl TryFrom<DeadRow> for DeadLetter {
    type Error = Error;

    fn try_from(row: DeadRow) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            endpoint: row.endpoint_id.into(),
            event: row.event.read("webhook_deliveries.event")?,
            attempts: from_integer(row.attempts, "webhook_deliveries.attempts")?,
            first_attempt_at: row.first_attempt_at.map(Into::into),
            last_attempt_at: row.last_attempt_at.map(Into::into),
            last_status: u16::try_from(row.last_status).map_err(|_| corrupt("webhook_deliveries.last_status"))?,
            last_error: row.last_error,
            dead_at: row.dead_at.ok_or_else(|| corrupt("webhook_deliveries.dead_at"))?.into(),
        })
    }
}

pub(super) async fn list(
    conn: &mut Connection,
    tenant: TenantId,
    endpoint: Option<WebhookEndpointId>,
    sandbox: bool,
    page: PageRequest,
) -> Result<Page<DeadLetter>> {
    let rows: Vec<DeadRow> = query!(conn, c => {
        let mut rows = deliveries::table
            .filter(deliveries::tenant_id.eq(tenant))
            .filter(deliveries::dead_at.is_not_null())
            .select(DeadRow::as_select())
            .into_boxed();
        if let Some(endpoint) = endpoint {
            rows = rows.filter(deliveries::endpoint_id.eq(endpoint));
        }
        if sandbox {
            let of_sandbox = endpoints::table
                .filter(endpoints::tenant_id.eq(tenant))
                .filter(endpoints::sandbox.eq(true))
                .select(endpoints::id);
            rows = rows.filter(deliveries::endpoint_id.eq_any(of_sandbox));
        }
        if let Some(Cursor { created_at, id }) = page.after {
            rows = rows.filter(deliveries::dead_at.le(created_at));
            rows = rows.filter(deliveries::dead_at.lt(created_at).or(deliveries::id.lt(Uid(id))));
        }
        rows.order((deliveries::dead_at.desc(), deliveries::id.desc())).limit(i64::from(page.size) + 1).load(c).await
    })?;
    let letters = rows.into_iter().map(DeadLetter::try_from).collect::<Result<Vec<_>>>()?;
    let cursor = |letter: &DeadLetter| Cursor { created_at: letter.dead_at, id: *letter.id.as_uuid() };
    Ok(Page::of(letters, page.size, 0, cursor))
}

pub(super) async fn give_up(
    conn: &mut Connection,
    made_before: Timestamp,
    now: Timestamp,
    limit: u16,
) -> Result<usize> {
    macro_rules! overdue {
        ($until:expr) => {
            deliveries::table
                .filter(deliveries::dead_at.is_null())
                .filter(deliveries::made_at.lt($until))
                .filter(deliveries::claim.is_null().or(deliveries::next_attempt_at.le(now)))
        };
    }
    let some = overdue!(made_before).select(deliveries::made_at).order(deliveries::made_at).offset(limit.into());
    let until: Option<At> = query!(conn, c => some.first(c).await).optional()?;
    let until = until.map_or(made_before, |At(moment)| moment.plus(std::time::Duration::from_micros(1)));
    let silent = overdue!(until).filter(deliveries::last_error.eq(""));
    let told = deliveries::last_error.eq(NEVER_TRIED);
    query!(conn, c => diesel::update(silent).set(told).execute(c).await)?;
    let dead = (deliveries::dead_at.eq(now), deliveries::claim.eq(None::<Uid>));
    Ok(query!(conn, c => diesel::update(overdue!(until)).set(dead).execute(c).await)?)
}

pub(super) async fn forget(conn: &mut Connection, dead_before: Timestamp, limit: u16) -> Result<usize> {
    let dead = deliveries::table.filter(deliveries::dead_at.lt(dead_before));
    let some = dead.select(deliveries::dead_at).order(deliveries::dead_at).offset(limit.into());
    let until: Option<Option<At>> = query!(conn, c => some.first(c).await).optional()?;
    let until = until.flatten().map_or(dead_before, |At(moment)| moment.plus(std::time::Duration::from_micros(1)));
    let target = deliveries::table.filter(deliveries::dead_at.lt(until));
    let removed: QueryResult<usize> = query!(conn, c => diesel::delete(target).execute(c).await);
    Ok(removed?)
}
