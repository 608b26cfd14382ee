//! Voice agents in SQL.

mod revisions;
mod rows;

use std::time::Duration;

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult,
    SelectableHelper as _,
};
use diesel_async::RunQueryDsl as _;

use self::rows::{CreateRequestRow, RevisionRow, VoiceAgentRow};
use super::{Changed, CreateRequest, Created, Deleted, Fallback, Filter, SealedToken, VoiceAgentStore};
use crate::{
    db::{
        Connection, Database, Prepared, missing, query,
        schema::{sessions, tenants, voice_agent_create_requests as requests, voice_agents as agents},
        types::{At, Uid},
    },
    domain::{
        Error, Result,
        clock::Timestamp,
        error::Resource,
        ids::{TenantId, VoiceAgentId},
        keyring::Sealed,
        page::{Cursor, Page, PageRequest},
        session::SessionStatus,
        voice_agent::{Status, VoiceAgent},
    },
};

#[derive(Debug, Clone)]
pub struct SqlVoiceAgentStore {
    db: Database,
}

impl SqlVoiceAgentStore {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }
}

#[async_trait]
impl VoiceAgentStore for SqlVoiceAgentStore {
    async fn create(&self, tenant: TenantId, agent: &VoiceAgent, request: Option<CreateRequest>) -> Result<Created> {
        let rows = AgentRows::of(tenant, agent)?;
        self.db
            .of(tenant)
            .transaction(move |conn| {
                Box::pin(async move {
                    if let Some(request) = request
                        && let Some(replay) = remember(conn, tenant, request, &rows.agent).await?
                    {
                        return Ok(replay);
                    }
                    insert(conn, tenant, rows).await?;
                    Ok(Created::New)
                })
            })
            .await
    }

    async fn get(&self, tenant: TenantId, id: VoiceAgentId) -> Result<Option<VoiceAgent>> {
        self.db.of(tenant).run(move |conn| Box::pin(find(conn, tenant, id))).await
    }

    async fn at(&self, tenant: TenantId, id: VoiceAgentId, revision: i64) -> Result<Option<VoiceAgent>> {
        let found = self.revisions(tenant, id, Some(revision.saturating_add(1)), 1).await?;
        Ok(found.into_iter().find(|agent| agent.revision == revision))
    }

    async fn revisions(
        &self,
        tenant: TenantId,
        id: VoiceAgentId,
        before: Option<i64>,
        limit: u16,
    ) -> Result<Vec<VoiceAgent>> {
        self.db.of(tenant).run(move |conn| Box::pin(revisions::select(conn, tenant, id, before, limit))).await
    }

    async fn list(&self, tenant: TenantId, filter: &Filter, page: PageRequest) -> Result<Page<VoiceAgent>> {
        if filter.matches_nothing() {
            return Ok(Page { items: Vec::new(), next: None, total_size: 0 });
        }
        let filter = filter.clone();
        let (rows, total_size) = self
            .db
            .of(tenant)
            .run(move |conn| Box::pin(async move { Ok(select(conn, tenant, filter, page).await?) }))
            .await?;
        let found = rows.into_iter().map(VoiceAgent::try_from).collect::<Result<Vec<_>>>()?;
        Ok(Page::of(found, page.size, total_size, |agent| Cursor {
            created_at: agent.created_at,
            id: *agent.id.as_uuid(),
        }))
    }

    async fn update(&self, tenant: TenantId, agent: &VoiceAgent) -> Result<Changed> {
        let AgentRows { agent: row, revision } = AgentRows::of(tenant, agent)?;
        let (id, before) = (agent.id, agent.revision - 1);
        self.db
            .of(tenant)
            .transaction(move |conn| {
                Box::pin(async move {
                    let target = agents::table.find((tenant, id)).filter(agents::revision.eq(before));
                    let written = query!(conn, c => Prepared(diesel::update(target).set(row)).execute(c).await)?;
                    if written == 0 {
                        return Ok(Changed::Stale);
                    }
                    revisions::keep(conn, revision).await?;
                    Ok(Changed::Done)
                })
            })
            .await
    }

    async fn delete(&self, tenant: TenantId, id: VoiceAgentId, revision: i64) -> Result<Deleted> {
        self.db
            .of(tenant)
            .transaction(move |conn| Box::pin(async move { Ok(remove(conn, tenant, id, revision).await?) }))
            .await
    }

    async fn fallback(&self, tenant: TenantId) -> Result<Fallback> {
        self.db.of(tenant).run(move |conn| Box::pin(async move { fallback(conn, tenant, Lock::No).await })).await
    }

    async fn set_default(&self, tenant: TenantId, id: Option<VoiceAgentId>, now: Timestamp) -> Result<()> {
        self.db
            .of(tenant)
            .transaction(move |conn| {
                Box::pin(async move {
                    if let Some(agent) = id {
                        match lock(conn, tenant, agent).await? {
                            None => return Err(Error::not_found(Resource::VoiceAgent, agent)),
                            Some((_, status)) if status == Status::Archived.as_str() => {
                                return Err(Error::VoiceAgentArchived { agent });
                            }
                            Some(_) => {}
                        }
                    }
                    pin(conn, tenant, id, now).await
                })
            })
            .await
    }

    async fn create_default(&self, tenant: TenantId, agent: &VoiceAgent) -> Result<VoiceAgentId> {
        let (rows, id, now) = (AgentRows::of(tenant, agent)?, agent.id, agent.created_at);
        self.db
            .of(tenant)
            .transaction(move |conn| {
                Box::pin(async move {
                    // Those who race queue up here, and all but the first find a default.
                    if let Some(standing) = fallback(conn, tenant, Lock::Yes).await?.voice_agent {
                        return Ok(standing);
                    }
                    insert(conn, tenant, rows).await?;
                    pin(conn, tenant, Some(id), now).await?;
                    Ok(id)
                })
            })
            .await
    }

    async fn sealed_tokens(&self, after: Option<&SealedToken>, limit: u16) -> Result<Vec<SealedToken>> {
        let after = after.map(|token| (token.tenant, token.agent, token.revision));
        self.db.of_everyone().run(move |conn| Box::pin(revisions::sealed(conn, after, limit))).await
    }

    async fn reseal(&self, old: &SealedToken, sealed: &Sealed) -> Result<bool> {
        let (old, sealed) = (old.clone(), sealed.as_bytes().to_vec());
        self.db.of(old.tenant).transaction(move |conn| Box::pin(revisions::reseal(conn, old, sealed))).await
    }
}

impl Filter {
    /// No text that is kept has a NUL in it, and Postgres takes none in a question either.
    fn matches_nothing(&self) -> bool {
        [&self.external_agent_id, &self.name_prefix].into_iter().flatten().any(|text| text.contains('\0'))
    }
}

async fn find(conn: &mut Connection, tenant: TenantId, id: VoiceAgentId) -> Result<Option<VoiceAgent>> {
    let row = query!(conn, c => agents::table
        .find((tenant, id))
        .select(VoiceAgentRow::as_select())
        .first(c)
        .await)
    .optional()?;
    row.map(VoiceAgent::try_from).transpose()
}

/// An agent as the two rows that it is written as.
struct AgentRows {
    agent: VoiceAgentRow,
    revision: RevisionRow,
}

impl AgentRows {
    fn of(tenant: TenantId, agent: &VoiceAgent) -> Result<Self> {
        Ok(Self { agent: VoiceAgentRow::of(tenant, agent)?, revision: RevisionRow::of(tenant, agent)? })
    }
}

async fn insert(conn: &mut Connection, tenant: TenantId, rows: AgentRows) -> Result<()> {
    let written = query!(conn, c => diesel::insert_into(agents::table).values(rows.agent).execute(c).await);
    written.map_err(missing(Resource::Tenant, tenant))?;
    revisions::keep(conn, rows.revision).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Yes,
    No,
}

async fn fallback(conn: &mut Connection, tenant: TenantId, lock: Lock) -> Result<Fallback> {
    let columns = (tenants::default_voice_agent_id, tenants::default_ws_url);
    let of_tenant = tenants::table.find(tenant).select(columns);
    let found: Option<(Option<Uid>, Option<String>)> = match conn {
        Connection::Postgres(pg) if lock == Lock::Yes => {
            of_tenant.for_no_key_update().first(&mut pg.session).await.optional()?
        }
        // Its transactions exclude each other from their beginning.
        _ => query!(conn, c => of_tenant.first(c).await).optional()?,
    };
    let (voice_agent, ws_url) = found.ok_or_else(|| Error::not_found(Resource::Tenant, tenant))?;
    Ok(Fallback { voice_agent: voice_agent.map(Into::into), ws_url })
}

async fn pin(conn: &mut Connection, tenant: TenantId, id: Option<VoiceAgentId>, now: Timestamp) -> Result<()> {
    let pinned_at = match lock_tenant(conn, tenant).await? {
        // The time of change is the version of the tenant's cap too: it never goes back.
        Some(At(before)) => now.max(before.plus(Duration::from_micros(1))),
        None => return Err(Error::not_found(Resource::Tenant, tenant)),
    };
    let pin = (tenants::default_voice_agent_id.eq(id.map(Uid::from)), tenants::updated_at.eq(pinned_at));
    query!(conn, c => diesel::update(tenants::table.find(tenant)).set(pin).execute(c).await)?;
    Ok(())
}

/// Notes that `request` makes `row`. An answer if an earlier one of the same id has made an agent already; a
/// concurrent one is waited for.
async fn remember(
    conn: &mut Connection,
    tenant: TenantId,
    request: CreateRequest,
    row: &VoiceAgentRow,
) -> Result<Option<Created>> {
    let same = requests::table.find((tenant, Uid(request.id)));
    let forgotten = same.filter(requests::created_at.lt(request.remembered_since));
    query!(conn, c => diesel::delete(forgotten).execute(c).await)?;
    let note = CreateRequestRow {
        tenant_id: tenant.into(),
        request_id: Uid(request.id),
        digest: request.digest.as_bytes().to_vec(),
        voice_agent_id: row.id,
        created_at: row.created_at,
    };
    let noted = query!(conn, c => diesel::insert_into(requests::table)
        .values(note)
        .on_conflict_do_nothing()
        .execute(c)
        .await)
    .map_err(missing(Resource::Tenant, tenant))?;
    if noted == 1 {
        return Ok(None);
    }
    let first = query!(conn, c => same.select(CreateRequestRow::as_select()).first(c).await)?;
    if first.digest != request.digest.as_bytes() {
        return Ok(Some(Created::RequestIdReused));
    }
    // Deleted since: the request was carried out, and a retry of it must not make another agent.
    let id = first.voice_agent_id.into();
    let agent = find(conn, tenant, id).await?.ok_or_else(|| Error::not_found(Resource::VoiceAgent, id))?;
    Ok(Some(Created::Replayed(Box::new(agent))))
}

/// One row more than the page has, and how many there are.
async fn select(
    conn: &mut Connection,
    tenant: TenantId,
    filter: Filter,
    page: PageRequest,
) -> QueryResult<(Vec<VoiceAgentRow>, i64)> {
    /// What the filter matches, as a boxed query of the back-end at hand.
    macro_rules! matching {
        ($query:expr) => {{
            let mut matching = $query.filter(agents::tenant_id.eq(tenant)).into_boxed();
            if let Some(status) = filter.status {
                matching = matching.filter(agents::status.eq(status.as_str()));
            }
            if let Some(external_id) = filter.external_agent_id.clone() {
                matching = matching.filter(agents::external_agent_id.eq(external_id));
            }
            if let Some(prefix) = filter.name_prefix.clone() {
                // Both databases compare byte for byte, so the names with a prefix lie in one range of the index.
                if let Some(end) = after_prefix(&prefix) {
                    matching = matching.filter(agents::name.lt(end));
                }
                matching = matching.filter(agents::name.ge(prefix));
            }
            matching
        }};
    }
    query!(conn, c => {
        let mut rows = matching!(agents::table.select(VoiceAgentRow::as_select()));
        if let Some(Cursor { created_at, id }) = page.after {
            rows = rows.filter(agents::created_at.le(created_at));
            rows = rows.filter(agents::created_at.lt(created_at).or(agents::id.lt(Uid(id))));
        }
        let rows = rows
            .order((agents::created_at.desc(), agents::id.desc()))
            .limit(i64::from(page.size) + 1)
            .load(c)
            .await?;
        Ok((rows, matching!(agents::table.count()).get_result(c).await?))
    })
}

/// The first text after all that begin with `prefix`; none where there is no such.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut kept: Vec<char> = prefix.chars().collect();
    while let Some(last) = kept.pop() {
        // Surrogates are no characters: the one after U+D7FF is U+E000. UTF-8 keeps the order of code points.
        let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(u32::from(last) + 1) };
        if let Some(next) = next {
            kept.push(next);
            return Some(kept.into_iter().collect());
        }
    }
    None
}

/// The agent's revision and status; until the transaction ends nobody else changes or removes the row.
async fn lock(conn: &mut Connection, tenant: TenantId, id: VoiceAgentId) -> QueryResult<Option<(i64, String)>> {
    let standing = agents::table.find((tenant, id)).select((agents::revision, agents::status));
    match conn {
        Connection::Postgres(pg) => standing.for_update().first(&mut pg.session).await,
        // Its transactions exclude each other from their beginning.
        Connection::Sqlite(sqlite) => standing.first(sqlite).await,
    }
    .optional()
}

/// When the tenant was changed last. Until the transaction ends nobody else changes it; agents may still be made for it.
async fn lock_tenant(conn: &mut Connection, tenant: TenantId) -> QueryResult<Option<At>> {
    let changed_at = tenants::table.find(tenant).select(tenants::updated_at);
    match conn {
        Connection::Postgres(pg) => changed_at.for_no_key_update().first(&mut pg.session).await,
        Connection::Sqlite(sqlite) => changed_at.first(sqlite).await,
    }
    .optional()
}

async fn remove(conn: &mut Connection, tenant: TenantId, id: VoiceAgentId, revision: i64) -> QueryResult<Deleted> {
    if lock(conn, tenant, id).await?.is_none_or(|(current, _)| current != revision) {
        return Ok(Deleted::Stale);
    }
    let active = sessions::table
        .filter(sessions::tenant_id.eq(tenant))
        .filter(sessions::voice_agent_id.eq(id))
        .filter(sessions::status.eq(SessionStatus::Active.as_str()));
    let active_sessions = query!(conn, c => active.count().get_result::<i64>(c).await)?;
    if active_sessions > 0 {
        return Ok(Deleted::InUse { active_sessions });
    }
    let pinned = tenants::table.find(tenant).filter(tenants::default_voice_agent_id.eq(id));
    let unpin = tenants::default_voice_agent_id.eq(None::<Uid>);
    query!(conn, c => diesel::update(pinned).set(unpin).execute(c).await)?;
    query!(conn, c => diesel::delete(agents::table.find((tenant, id))).execute(c).await)?;
    Ok(Deleted::Done)
}
