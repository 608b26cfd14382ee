//! Sessions in SQL.

mod audit;
mod change;
mod event_store;
mod events;
mod list;
mod operation_row;
mod operations;
mod results;
mod row;
mod write;

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, IntoSql as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _,
    dsl::{case_when, max},
    sql_types::BigInt,
};
use diesel_async::RunQueryDsl as _;

pub use self::{audit::SqlAuditStore, event_store::SqlEventStore, operations::SqlOperationStore};
use self::{
    events::Told,
    row::{ActiveRow, SessionRow},
};
use super::{ActiveCall, Entry, EventNews, History, Opened, SessionPage, SessionStore, Written};
use crate::{
    db::{
        Database, Prepared, query,
        schema::{sessions, tenants},
        types::{At, Uid},
    },
    domain::{
        Env, Result,
        clock::Timestamp,
        event::Event,
        ids::{CallId, SessionId, TenantId, VoiceAgentId},
        page::PageRequest,
        session::{Outcome, Session, SessionStatus},
        session_filter::SessionFilter,
        transcript::Posted,
    },
};

#[derive(Debug, Clone)]
pub struct SqlSessionStore {
    db: Database,
    told: Told,
}

impl SqlSessionStore {
    /// `news` hears whose events can be given their positions.
    pub fn new(db: Database, env: Env, news: EventNews) -> Self {
        Self { told: Told::new(db.clone(), env, news), db }
    }
}

#[async_trait]
impl SessionStore for SqlSessionStore {
    async fn open(&self, tenant: TenantId, session: &Session) -> Result<Opened> {
        let session = session.clone();
        self.told
            .transaction(tenant, move |conn, pen| {
                Box::pin(async move { change::open(conn, &pen, tenant, &session).await })
            })
            .await
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
        let session = session.clone();
        self.told
            .transaction(tenant, move |conn, pen| {
                Box::pin(async move { change::update(conn, &pen, tenant, &session).await })
            })
            .await
    }

    async fn tell(&self, tenant: TenantId, id: SessionId, event: Event, now: Timestamp) -> Result<bool> {
        self.told
            .transaction(tenant, move |conn, pen| {
                Box::pin(async move { events::tell_of(conn, &pen, tenant, id, event, now).await })
            })
            .await
    }

    async fn end(&self, tenant: TenantId, id: SessionId, outcome: Outcome, now: Timestamp) -> Result<Option<Session>> {
        self.told
            .transaction(tenant, move |conn, pen| {
                Box::pin(async move { change::end(conn, &pen, tenant, id, outcome, now).await })
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

    async fn post(&self, tenant: TenantId, id: SessionId, posted: &Posted) -> Result<Option<Session>> {
        results::post(&self.db, tenant, id, posted).await
    }

    async fn posted(&self, tenant: TenantId, id: SessionId) -> Result<Option<Posted>> {
        results::read(&self.db, tenant, id).await
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
        list::statuses(&self.db, tenant, ids).await
    }
}

#[async_trait]
impl History for SqlSessionStore {
    async fn write(&self, tenant: TenantId, entries: Vec<Entry>, now: Timestamp) -> Result<Vec<Written>> {
        self.told
            .transaction(tenant, move |conn, pen| {
                Box::pin(async move { write::write(conn, &pen, tenant, entries, now).await })
            })
            .await
    }

    async fn displace(&self, tenant: TenantId, entry: Entry, now: Timestamp) -> Result<Written> {
        self.told
            .transaction(tenant, move |conn, pen| {
                Box::pin(async move { write::displace(conn, &pen, tenant, entry, now).await })
            })
            .await
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
