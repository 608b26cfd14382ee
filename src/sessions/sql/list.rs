//! Pages of sessions, newest first.
//!
//! Each status is asked for by itself, so that one index serves a filter by status as well as none, and a filter by agent
//! with either: whatever the filter, the rows that are read are those of the page, thrice at most. Routings, which hold
//! behaviors of 150 KiB, are not read.

use std::collections::{HashMap, HashSet};

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _, QueryResult, SelectableHelper as _,
    prelude::{Queryable, Selectable},
};
use diesel_async::RunQueryDsl as _;

use super::row::SessionRow;
use crate::{
    db::{
        Connection, Database, corrupt, query,
        schema::sessions,
        types::{At, Json, Uid},
    },
    domain::{
        Error, Result,
        ids::{SessionId, TenantId},
        page::{Cursor, PageRequest},
        session::{Routing, Session, SessionStatus},
        session_filter::SessionFilter,
    },
    sessions::SessionPage,
};

/// See [`SessionStore::list`](super::super::SessionStore::list).
pub(super) async fn list(
    db: &Database,
    tenant: TenantId,
    filter: SessionFilter,
    page: PageRequest,
) -> Result<SessionPage> {
    let rows = db
        .of(tenant)
        .run(move |conn| {
            Box::pin(async move {
                let mut rows = Vec::new();
                for status in filter.statuses() {
                    rows.extend(select(conn, tenant, filter, *status, page).await?);
                }
                Ok(rows)
            })
        })
        .await?;
    let mut listed = rows.into_iter().map(Session::try_from).collect::<Result<Vec<_>>>()?;
    // Of one that was seen twice, as it is now.
    listed.reverse();
    let mut seen = HashSet::<SessionId>::with_capacity(listed.len());
    listed.retain(|session| seen.insert(session.id));
    listed.sort_unstable_by_key(|session| std::cmp::Reverse((session.started_at, *session.id.as_uuid())));
    let more = listed.len() > usize::from(page.size);
    listed.truncate(usize::from(page.size));
    let next = listed.last().filter(|_| more).map(Session::cursor);
    Ok(SessionPage { sessions: listed, next })
}

async fn select(
    conn: &mut Connection,
    tenant: TenantId,
    filter: SessionFilter,
    status: SessionStatus,
    page: PageRequest,
) -> QueryResult<Vec<ListedRow>> {
    query!(conn, c => {
        let of_status = sessions::table
            .filter(sessions::tenant_id.eq(tenant))
            .filter(sessions::status.eq(status.as_str()));
        let mut rows = of_status.select(ListedRow::as_select()).into_boxed();
        if let Some(agent) = filter.agent {
            rows = rows.filter(sessions::voice_agent_id.eq(agent));
        }
        if let Some(from) = filter.from {
            rows = rows.filter(sessions::started_at.ge(from));
        }
        if let Some(before) = filter.before {
            rows = rows.filter(sessions::started_at.lt(before));
        }
        if let Some(Cursor { created_at, id }) = page.after {
            rows = rows.filter(sessions::started_at.le(created_at));
            rows = rows.filter(sessions::started_at.lt(created_at).or(sessions::id.lt(Uid(id))));
        }
        rows.order((sessions::started_at.desc(), sessions::id.desc())).limit(i64::from(page.size) + 1).load(c).await
    })
}

/// See [`SessionStore::statuses`](super::super::SessionStore::statuses).
pub(super) async fn statuses(
    db: &Database,
    tenant: TenantId,
    ids: &[SessionId],
) -> Result<HashMap<SessionId, SessionStatus>> {
    let ids: Vec<Uid> = ids.iter().map(|id| Uid::from(*id)).collect();
    db.of(tenant)
        .run(move |conn| {
            Box::pin(async move {
                let named = sessions::table
                    .filter(sessions::tenant_id.eq(tenant))
                    .filter(sessions::id.eq_any(ids))
                    .select((sessions::id, sessions::status));
                let rows: Vec<(Uid, String)> = query!(conn, c => named.load(c).await)?;
                let read = |(id, status): (Uid, String)| {
                    let status = SessionStatus::from_word(&status).ok_or_else(|| corrupt("sessions.status"))?;
                    Ok((SessionId::from(id), status))
                };
                rows.into_iter().map(read).collect()
            })
        })
        .await
}

/// All of a [`SessionRow`] but its routing.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = sessions)]
struct ListedRow {
    tenant_id: Uid,
    id: Uid,
    call_id: String,
    voice_agent_id: Uid,
    voice_agent_revision: i64,
    lease_id: String,
    fence: i64,
    direction: String,
    node_id: Option<String>,
    sandbox: bool,
    metadata: Json,
    state: Json,
    status: String,
    outcome: Option<String>,
    started_at: At,
    answered_at: Option<At>,
    ended_at: Option<At>,
    lease_expires_at: At,
    version: i64,
    lease_ttl_ms: i64,
    record: Json,
    ends_at: Option<At>,
    events: i64,
    direct: Option<Json>,
}

impl TryFrom<ListedRow> for Session {
    type Error = Error;

    fn try_from(row: ListedRow) -> Result<Self> {
        SessionRow {
            tenant_id: row.tenant_id,
            id: row.id,
            call_id: row.call_id,
            voice_agent_id: row.voice_agent_id,
            voice_agent_revision: row.voice_agent_revision,
            lease_id: row.lease_id,
            fence: row.fence,
            direction: row.direction,
            node_id: row.node_id,
            sandbox: row.sandbox,
            routing: Json::of(&Routing::unknown())?,
            metadata: row.metadata,
            state: row.state,
            status: row.status,
            outcome: row.outcome,
            started_at: row.started_at,
            answered_at: row.answered_at,
            ended_at: row.ended_at,
            lease_expires_at: row.lease_expires_at,
            version: row.version,
            lease_ttl_ms: row.lease_ttl_ms,
            record: row.record,
            ends_at: row.ends_at,
            events: row.events,
            direct: row.direct,
        }
        .try_into()
    }
}
