//! Sessions in SQL.

mod audit;
mod list;
mod operation_row;
mod operations;
mod row;
mod write;

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, IntoSql as _, OptionalExtension as _, QueryDsl as _,
    QueryResult, SelectableHelper as _,
    dsl::{case_when, max},
    sql_types::BigInt,
};
use diesel_async::RunQueryDsl as _;

use self::row::{ActiveRow, SessionRow, insert};
pub use self::{audit::SqlAuditStore, operations::SqlOperationStore};
use super::{ActiveCall, Entry, History, Opened, SessionPage, SessionStore, Written};
use crate::{
    db::{
        Connection, Database, Prepared, corrupt, query,
        schema::{sessions, tenants, voice_agents},
        types::{At, Json, Uid},
    },
    domain::{
        Error, Result,
        clock::Timestamp,
        error::{Dependency, Resource},
        ids::{CallId, SessionId, TenantId, VoiceAgentId},
        page::PageRequest,
        session::{Outcome, Session, SessionStatus},
        session_filter::SessionFilter,
    },
};

/// Openings of one call that overtake each other this often are not a race but a fault.
const OPEN_ATTEMPTS: usize = 8;

#[derive(Debug, Clone)]
pub struct SqlSessionStore {
    db: Database,
}

impl SqlSessionStore {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }
}

#[async_trait]
impl SessionStore for SqlSessionStore {
    async fn open(&self, tenant: TenantId, session: &Session) -> Result<Opened> {
        let row = SessionRow::of(tenant, session)?;
        let first = row.clone();
        // Nearly always the agent is there and the call has no other session: one statement is all it takes.
        if self.db.of(tenant).run(move |conn| Box::pin(async move { Ok(insert(conn, first).await?) })).await? {
            return Ok(Opened::New);
        }
        self.db.of(tenant).transaction(move |conn| Box::pin(replace(conn, row))).await
    }

    async fn get(&self, tenant: TenantId, id: SessionId) -> Result<Option<Session>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let found = sessions::table.find((tenant, id));
                    let row = query!(conn, c => found.select(SessionRow::as_select()).first(c).await).optional()?;
                    row.map(Session::try_from).transpose()
                })
            })
            .await
    }

    async fn of_call(&self, tenant: TenantId, call: &CallId) -> Result<Option<Session>> {
        let call = call.as_str().to_owned();
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let of_call = sessions::table
                        .filter(sessions::tenant_id.eq(tenant))
                        .filter(sessions::call_id.eq(call))
                        .order((
                            sessions::status.eq(SessionStatus::Active.as_str()).desc(),
                            sessions::started_at.desc(),
                            sessions::id.desc(),
                        ));
                    let row = query!(conn, c => of_call.select(SessionRow::as_select()).first(c).await).optional()?;
                    row.map(Session::try_from).transpose()
                })
            })
            .await
    }

    async fn update(&self, tenant: TenantId, session: &Session) -> Result<bool> {
        let change = (
            sessions::node_id.eq(session.node.as_ref().map(|node| node.as_str().to_owned())),
            sessions::state.eq(Json::of(&session.state)?),
            sessions::answered_at.eq(session.answered_at.map(At)),
            sessions::version.eq(sessions::version + 1),
        );
        let (id, version) = (session.id, session.version);
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let target = sessions::table
                        .find((tenant, id))
                        .filter(sessions::version.eq(version))
                        .filter(sessions::status.eq(SessionStatus::Active.as_str()));
                    let written = query!(conn, c => Prepared(diesel::update(target).set(change)).execute(c).await)?;
                    Ok(written == 1)
                })
            })
            .await
    }

    async fn end(&self, tenant: TenantId, id: SessionId, outcome: Outcome, now: Timestamp) -> Result<Option<Session>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let target =
                        sessions::table.find((tenant, id)).filter(sessions::status.eq(SessionStatus::Active.as_str()));
                    let row = query!(conn, c => {
                        let update = diesel::update(target).set((
                            sessions::status.eq(outcome.status().as_str()),
                            sessions::outcome.eq(outcome.as_str()),
                            sessions::ended_at.eq(now),
                            sessions::version.eq(sessions::version + 1),
                        ));
                        Prepared(update.returning(SessionRow::as_returning())).get_result(c).await
                    })
                    .optional()?;
                    row.map(Session::try_from).transpose()
                })
            })
            .await
    }

    async fn active_of_agent(&self, tenant: TenantId, agent: VoiceAgentId, limit: u16) -> Result<Vec<Session>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let active = sessions::table
                        .filter(sessions::tenant_id.eq(tenant))
                        .filter(sessions::voice_agent_id.eq(agent))
                        .filter(sessions::status.eq(SessionStatus::Active.as_str()))
                        .order((sessions::started_at, sessions::id))
                        .limit(limit.into());
                    let rows = query!(conn, c => active.select(SessionRow::as_select()).load(c).await)?;
                    rows.into_iter().map(Session::try_from).collect()
                })
            })
            .await
    }

    async fn list(&self, tenant: TenantId, filter: SessionFilter, page: PageRequest) -> Result<SessionPage> {
        list::list(&self.db, tenant, filter, page).await
    }

    async fn due(&self, moment: Timestamp, limit: u16) -> Result<Vec<Session>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let due = sessions::table
                        .filter(sessions::status.eq(SessionStatus::Active.as_str()))
                        .filter(sessions::lease_expires_at.lt(moment))
                        .order(sessions::lease_expires_at)
                        .limit(limit.into());
                    let rows = query!(conn, c => due.select(SessionRow::as_select()).load(c).await)?;
                    rows.into_iter().map(Session::try_from).collect()
                })
            })
            .await
    }

    async fn over(&self, moment: Timestamp, limit: u16) -> Result<Vec<Session>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let over = sessions::table
                        .filter(sessions::status.eq(SessionStatus::Active.as_str()))
                        .filter(sessions::ends_at.lt(At(moment)))
                        .order(sessions::ends_at)
                        .limit(limit.into());
                    let rows = query!(conn, c => over.select(SessionRow::as_select()).load(c).await)?;
                    rows.into_iter().map(Session::try_from).collect()
                })
            })
            .await
    }

    async fn ended_since(&self, from: Timestamp, limit: u16) -> Result<Vec<Session>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let ended = sessions::table
                        .filter(sessions::status.ne(SessionStatus::Active.as_str()))
                        .filter(sessions::ended_at.ge(At(from)))
                        .order(sessions::ended_at)
                        .limit(limit.into());
                    let rows = query!(conn, c => ended.select(SessionRow::as_select()).load(c).await)?;
                    rows.into_iter().map(Session::try_from).collect()
                })
            })
            .await
    }

    async fn lease_known_until(
        &self,
        tenant: TenantId,
        id: SessionId,
        expires_at: Timestamp,
        life: Duration,
    ) -> Result<()> {
        let life_ms = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let target =
                        sessions::table.find((tenant, id)).filter(sessions::status.eq(SessionStatus::Active.as_str()));
                    let longer = case_when(sessions::lease_ttl_ms.lt(life_ms), life_ms.into_sql::<BigInt>())
                        .otherwise(sessions::lease_ttl_ms);
                    let known = (sessions::lease_expires_at.eq(expires_at), sessions::lease_ttl_ms.eq(longer));
                    query!(conn, c => Prepared(diesel::update(target).set(known)).execute(c).await)?;
                    Ok(())
                })
            })
            .await
    }

    async fn longest_lease(&self, tenant: TenantId) -> Result<Option<Duration>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let longest = sessions::table
                        .filter(sessions::tenant_id.eq(tenant))
                        .filter(sessions::status.eq(SessionStatus::Active.as_str()))
                        .select(max(sessions::lease_ttl_ms));
                    let longest: Option<i64> = query!(conn, c => longest.first(c).await)?;
                    Ok(longest.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
                })
            })
            .await
    }

    async fn tenants_with_calls(&self) -> Result<Vec<TenantId>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let tenants = sessions::table
                        .filter(sessions::status.eq(SessionStatus::Active.as_str()))
                        .select(sessions::tenant_id)
                        .distinct();
                    let tenants: Vec<Uid> = query!(conn, c => tenants.load(c).await)?;
                    Ok(tenants.into_iter().map(TenantId::from).collect())
                })
            })
            .await
    }

    async fn active_calls(&self, tenant: TenantId, most: usize) -> Result<Vec<ActiveCall>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let active = sessions::table
                        .filter(sessions::tenant_id.eq(tenant))
                        .filter(sessions::status.eq(SessionStatus::Active.as_str()))
                        .limit(most);
                    let rows = query!(conn, c => active.select(ActiveRow::as_select()).load(c).await)?;
                    rows.into_iter().map(ActiveCall::try_from).collect()
                })
            })
            .await
    }

    async fn statuses(&self, tenant: TenantId, ids: &[SessionId]) -> Result<HashMap<SessionId, SessionStatus>> {
        let ids: Vec<Uid> = ids.iter().map(|id| Uid::from(*id)).collect();
        self.db
            .of(tenant)
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
}

#[async_trait]
impl History for SqlSessionStore {
    async fn write(&self, tenant: TenantId, entries: Vec<Entry>, now: Timestamp) -> Result<Vec<Written>> {
        self.db.of(tenant).transaction(move |conn| Box::pin(write::write(conn, tenant, entries, now))).await
    }

    async fn displace(&self, tenant: TenantId, entry: Entry, now: Timestamp) -> Result<Written> {
        self.db.of(tenant).transaction(move |conn| Box::pin(write::displace(conn, tenant, entry, now))).await
    }

    async fn tenants(&self, after: Option<TenantId>, limit: u16) -> Result<Vec<TenantId>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let from = after.map_or(Uid(uuid::Uuid::nil()), Uid::from);
                    let next = tenants::table.filter(tenants::id.gt(from)).order(tenants::id).limit(limit.into());
                    let ids: Vec<Uid> = query!(conn, c => next.select(tenants::id).load(c).await)?;
                    Ok(ids.into_iter().map(Into::into).collect())
                })
            })
            .await
    }
}

/// Whether the agent exists. Until the transaction ends nobody removes it; changing it stays possible.
async fn hold_agent(conn: &mut Connection, tenant: Uid, agent: Uid) -> QueryResult<bool> {
    let found = voice_agents::table.find((tenant, agent)).select(voice_agents::id);
    let id: Option<Uid> = match conn {
        Connection::Postgres(pg) => found.for_key_share().first(&mut pg.session).await,
        // Its transactions exclude each other from their beginning.
        Connection::Sqlite(sqlite) => found.first(sqlite).await,
    }
    .optional()?;
    Ok(id.is_some())
}

/// Writes the session in place of the call's active one, unless its lease has one already.
async fn replace(conn: &mut Connection, row: SessionRow) -> Result<Opened> {
    for _ in 0..OPEN_ATTEMPTS {
        let of_lease = sessions::table
            .filter(sessions::tenant_id.eq(row.tenant_id))
            .filter(sessions::lease_id.eq(row.lease_id.clone()));
        if let Some(existing) = query!(conn, c => of_lease.select(SessionRow::as_select()).first(c).await).optional()? {
            return Ok(Opened::Existing(Box::new(existing.try_into()?)));
        }
        if !hold_agent(conn, row.tenant_id, row.voice_agent_id).await? {
            return Err(Error::not_found(Resource::VoiceAgent, VoiceAgentId::from(row.voice_agent_id)));
        }
        let active = sessions::table
            .filter(sessions::tenant_id.eq(row.tenant_id))
            .filter(sessions::call_id.eq(row.call_id.clone()))
            .filter(sessions::status.eq(SessionStatus::Active.as_str()));
        // A fence rises strictly for an agent: we are the ones who come late, with a lease that ran out.
        let newer = active
            .clone()
            .filter(sessions::voice_agent_id.eq(row.voice_agent_id).and(sessions::fence.gt(row.fence)))
            .select(sessions::fence);
        if query!(conn, c => newer.first::<i64>(c).await).optional()?.is_some() {
            return Err(Error::LeaseLost { call: row.call_id.parse().map_err(|_| corrupt("call_id"))? });
        }
        let outcome = Outcome::LeaseExpired;
        query!(conn, c => diesel::update(active)
            .set((
                sessions::status.eq(outcome.status().as_str()),
                sessions::outcome.eq(outcome.as_str()),
                sessions::ended_at.eq(row.started_at),
                sessions::version.eq(sessions::version + 1),
            ))
            .execute(c)
            .await)?;
        if insert(conn, row.clone()).await? {
            return Ok(Opened::New);
        }
        // Somebody opened another one in between: look again, and see theirs.
    }
    Err(Error::unavailable(Dependency::Database, "a session was overtaken again and again while it was opened"))
}
