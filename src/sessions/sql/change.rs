//! One session at a time: begun, changed, ended. Each with its events, in the transaction that it is called in.

use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult,
    SelectableHelper as _,
};
use diesel_async::RunQueryDsl as _;

use super::{
    events::{self, OF_END, Pen, Subject},
    row::{SessionRow, insert},
};
use crate::{
    db::{
        Connection, Prepared, corrupt, query,
        schema::{sessions, voice_agents},
        types::{At, Json, Uid},
    },
    domain::{
        Error, Result,
        clock::Timestamp,
        error::{Dependency, Resource},
        event::Event,
        ids::{SessionId, TenantId, VoiceAgentId},
        session::{Outcome, Session, SessionStatus},
    },
    sessions::Opened,
};

/// Openings of one call that overtake each other this often are not a race but a fault.
pub(super) const OPEN_ATTEMPTS: usize = 8;

/// See [`SessionStore::open`](super::super::SessionStore::open).
pub(super) async fn open(conn: &mut Connection, pen: &Pen, tenant: TenantId, session: &Session) -> Result<Opened> {
    let row = SessionRow::of(tenant, session)?;
    let told = Subject::from(&row).rows(pen, tenant, Event::of_life(session))?;
    // Nearly always the agent is there and the call has no other session: one statement is all it takes.
    if !insert(conn, row.clone()).await?
        && let Some(existing) = replace(conn, pen, tenant, row).await?
    {
        return Ok(Opened::Existing(Box::new(existing)));
    }
    events::insert(conn, told).await?;
    Ok(Opened::New)
}

/// Writes the session in place of the call's active one, unless its lease has one already.
async fn replace(conn: &mut Connection, pen: &Pen, tenant: TenantId, row: SessionRow) -> Result<Option<Session>> {
    for _ in 0..OPEN_ATTEMPTS {
        let of_lease =
            sessions::table.filter(sessions::tenant_id.eq(tenant)).filter(sessions::lease_id.eq(row.lease_id.clone()));
        if let Some(existing) = query!(conn, c => of_lease.select(SessionRow::as_select()).first(c).await).optional()? {
            return existing.try_into().map(Some);
        }
        if !hold_agent(conn, row.tenant_id, row.voice_agent_id).await? {
            return Err(Error::not_found(Resource::VoiceAgent, VoiceAgentId::from(row.voice_agent_id)));
        }
        // A fence rises strictly for an agent: we are the ones who come late, with a lease that ran out.
        let newer = sessions::table
            .filter(sessions::tenant_id.eq(tenant))
            .filter(sessions::call_id.eq(row.call_id.clone()))
            .filter(sessions::status.eq(SessionStatus::Active.as_str()))
            .filter(sessions::voice_agent_id.eq(row.voice_agent_id).and(sessions::fence.gt(row.fence)))
            .select(sessions::fence);
        if query!(conn, c => newer.first::<i64>(c).await).optional()?.is_some() {
            return Err(Error::LeaseLost { call: row.call_id.parse().map_err(|_| corrupt("call_id"))? });
        }
        end_others(conn, pen, tenant, &row.call_id, row.id.into(), row.started_at.into()).await?;
        if insert(conn, row.clone()).await? {
            return Ok(None);
        }
        // Somebody opened another one in between: look again, and see theirs.
    }
    Err(Error::unavailable(Dependency::Database, "a session was overtaken again and again while it was opened"))
}

/// Whether the agent exists. Until the transaction ends nobody removes it; changing it stays possible.
pub(super) async fn hold_agent(conn: &mut Connection, tenant: Uid, agent: Uid) -> QueryResult<bool> {
    let found = voice_agents::table.find((tenant, agent)).select(voice_agents::id);
    let id: Option<Uid> = match conn {
        Connection::Postgres(pg) => found.for_key_share().first(&mut pg.session).await,
        // Its transactions exclude each other from their beginning.
        Connection::Sqlite(sqlite) => found.first(sqlite).await,
    }
    .optional()?;
    Ok(id.is_some())
}

/// Ends the call's active session, unless it is this one: its lease ran out.
pub(super) async fn end_others(
    conn: &mut Connection,
    pen: &Pen,
    tenant: TenantId,
    call: &str,
    this: SessionId,
    at: Timestamp,
) -> Result<()> {
    let outcome = Outcome::LeaseExpired;
    let others = sessions::table
        .filter(sessions::tenant_id.eq(tenant))
        .filter(sessions::call_id.eq(call))
        .filter(sessions::status.eq(SessionStatus::Active.as_str()))
        .filter(sessions::id.ne(this));
    let ended: Option<Subject> = query!(conn, c => {
        let update = diesel::update(others).set((
            sessions::status.eq(outcome.status().as_str()),
            sessions::outcome.eq(outcome.as_str()),
            sessions::ended_at.eq(at),
            sessions::version.eq(sessions::version + 1),
            sessions::events.eq(sessions::events + OF_END),
        ));
        Prepared(update.returning(Subject::as_returning())).get_result(c).await
    })
    .optional()?;
    match ended {
        Some(ended) => Ok(events::insert(conn, ended.end(pen, tenant)?).await?),
        None => Ok(()),
    }
}

/// See [`SessionStore::update`](super::super::SessionStore::update).
pub(super) async fn update(conn: &mut Connection, pen: &Pen, tenant: TenantId, session: &Session) -> Result<bool> {
    let change = (
        sessions::node_id.eq(session.node.as_ref().map(|node| node.as_str().to_owned())),
        sessions::state.eq(Json::of(&session.state)?),
        sessions::answered_at.eq(session.answered_at.map(At)),
        sessions::ends_at.eq(session.ends_at.map(At)),
        sessions::version.eq(sessions::version + 1),
    );
    let target = sessions::table
        .find((tenant, session.id))
        .filter(sessions::version.eq(session.version))
        .filter(sessions::status.eq(SessionStatus::Active.as_str()));
    let Some(answered_at) = session.answered_at else {
        return Ok(query!(conn, c => Prepared(diesel::update(target).set(change)).execute(c).await)? == 1);
    };
    let before = target.filter(sessions::answered_at.is_not_null());
    if query!(conn, c => Prepared(diesel::update(before).set(change.clone())).execute(c).await)? == 1 {
        return Ok(true);
    }
    let now = target.filter(sessions::answered_at.is_null());
    let subject: Option<Subject> = query!(conn, c => {
        let update = diesel::update(now).set((change, sessions::events.eq(sessions::events + 1)));
        Prepared(update.returning(Subject::as_returning())).get_result(c).await
    })
    .optional()?;
    let Some(subject) = subject else { return Ok(false) };
    events::insert(conn, subject.rows(pen, tenant, vec![(answered_at, Event::answered())])?).await?;
    Ok(true)
}

/// See [`SessionStore::end`](super::super::SessionStore::end).
pub(super) async fn end(
    conn: &mut Connection,
    pen: &Pen,
    tenant: TenantId,
    id: SessionId,
    outcome: Outcome,
    now: Timestamp,
) -> Result<Option<Session>> {
    let target = sessions::table.find((tenant, id)).filter(sessions::status.eq(SessionStatus::Active.as_str()));
    let row: Option<SessionRow> = query!(conn, c => {
        let update = diesel::update(target).set((
            sessions::status.eq(outcome.status().as_str()),
            sessions::outcome.eq(outcome.as_str()),
            sessions::ended_at.eq(now),
            sessions::version.eq(sessions::version + 1),
            sessions::events.eq(sessions::events + OF_END),
        ));
        Prepared(update.returning(SessionRow::as_returning())).get_result(c).await
    })
    .optional()?;
    let Some(row) = row else { return Ok(None) };
    events::insert(conn, Subject::from(&row).end(pen, tenant)?).await?;
    row.try_into().map(Some)
}
