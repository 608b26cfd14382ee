//! A session as a row.

use std::time::Duration;

use diesel::{
    IntoSql as _, QueryDsl as _, QueryResult,
    prelude::{Insertable, Queryable, Selectable},
    sql_types::{BigInt, Bool, Nullable, Text},
};
use diesel_async::RunQueryDsl as _;

use crate::{
    db::{
        Connection, corrupt,
        schema::{sessions, voice_agents},
        types::{At, Document, Id, Json, Moment, Uid},
    },
    domain::{
        Error, Result,
        event::Event,
        ids::TenantId,
        lease::Direction,
        session::{CallState, Outcome, Session, SessionStatus},
    },
    sessions::ActiveCall,
};

#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = sessions, treat_none_as_default_value = false)]
pub(super) struct SessionRow {
    pub(super) tenant_id: Uid,
    pub(super) id: Uid,
    pub(super) call_id: String,
    pub(super) voice_agent_id: Uid,
    pub(super) voice_agent_revision: i64,
    pub(super) lease_id: String,
    pub(super) fence: i64,
    pub(super) direction: String,
    pub(super) node_id: Option<String>,
    pub(super) sandbox: bool,
    pub(super) routing: Json,
    pub(super) metadata: Json,
    pub(super) state: Json,
    pub(super) status: String,
    pub(super) outcome: Option<String>,
    pub(super) started_at: At,
    pub(super) answered_at: Option<At>,
    pub(super) ended_at: Option<At>,
    pub(super) lease_expires_at: At,
    pub(super) version: i64,
    pub(super) lease_ttl_ms: i64,
    pub(super) record: Json,
    pub(super) ends_at: Option<At>,
    pub(super) events: i64,
    pub(super) direct: Option<Json>,
}

impl SessionRow {
    /// As the session is written when it has no row yet, with the events of [`Event::of_life`].
    pub(super) fn of(tenant: TenantId, session: &Session) -> Result<Self> {
        Ok(Self {
            tenant_id: tenant.into(),
            id: session.id.into(),
            call_id: session.call.as_str().to_owned(),
            voice_agent_id: session.agent.into(),
            voice_agent_revision: session.agent_revision,
            lease_id: session.lease.to_string(),
            fence: session.fence,
            direction: session.direction.as_str().to_owned(),
            node_id: session.node.as_ref().map(|node| node.as_str().to_owned()),
            sandbox: session.sandbox,
            routing: Json::of(&session.routing)?,
            metadata: Json::of(&session.metadata)?,
            state: Json::of(&session.state)?,
            status: session.status.as_str().to_owned(),
            outcome: session.outcome.map(|outcome| outcome.as_str().to_owned()),
            started_at: session.started_at.into(),
            answered_at: session.answered_at.map(At),
            ended_at: session.ended_at.map(At),
            lease_expires_at: session.lease_expires_at.into(),
            version: session.version,
            lease_ttl_ms: i64::try_from(session.lease_ttl.as_millis()).unwrap_or(i64::MAX),
            record: Json::of(&session.record)?,
            ends_at: session.ends_at.map(At),
            events: i64::try_from(Event::of_life(session).len()).unwrap_or(i64::MAX),
            direct: session.direct.as_ref().map(Json::of).transpose()?,
        })
    }
}

impl TryFrom<SessionRow> for Session {
    type Error = Error;

    fn try_from(row: SessionRow) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            call: row.call_id.parse().map_err(|_| corrupt("sessions.call_id"))?,
            agent: row.voice_agent_id.into(),
            agent_revision: row.voice_agent_revision,
            lease: row.lease_id.parse().map_err(|_| corrupt("sessions.lease_id"))?,
            fence: row.fence,
            direction: word(Direction::from_word(&row.direction), "sessions.direction")?,
            node: row.node_id.map(|id| id.parse()).transpose().map_err(|_| corrupt("sessions.node_id"))?,
            sandbox: row.sandbox,
            routing: row.routing.read("sessions.routing")?,
            metadata: row.metadata.read("sessions.metadata")?,
            state: row.state.read("sessions.state")?,
            record: row.record.read("sessions.record")?,
            ends_at: row.ends_at.map(Into::into),
            direct: row.direct.map(|direct| direct.read("sessions.direct")).transpose()?,
            status: word(SessionStatus::from_word(&row.status), "sessions.status")?,
            outcome: row.outcome.map(|outcome| word(Outcome::from_word(&outcome), "sessions.outcome")).transpose()?,
            started_at: row.started_at.into(),
            answered_at: row.answered_at.map(Into::into),
            ended_at: row.ended_at.map(Into::into),
            lease_expires_at: row.lease_expires_at.into(),
            version: row.version,
            lease_ttl: Duration::from_millis(u64::try_from(row.lease_ttl_ms).unwrap_or(0)),
        })
    }
}

/// The columns of an [`ActiveCall`].
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = sessions)]
pub(super) struct ActiveRow {
    id: Uid,
    call_id: String,
    lease_id: String,
    node_id: Option<String>,
    sandbox: bool,
    state: Json,
}

impl TryFrom<ActiveRow> for ActiveCall {
    type Error = Error;

    fn try_from(row: ActiveRow) -> Result<Self> {
        let state: CallState = row.state.read("sessions.state")?;
        Ok(Self {
            session: row.id.into(),
            call: row.call_id.parse().map_err(|_| corrupt("sessions.call_id"))?,
            lease: row.lease_id.parse().map_err(|_| corrupt("sessions.lease_id"))?,
            node: row.node_id.map(|id| id.parse()).transpose().map_err(|_| corrupt("sessions.node_id"))?,
            sandbox: row.sandbox,
            ws_connected: state.ws_connected,
        })
    }
}

/// Writes `row` if its agent exists. False if it does not, if the lease has a session, or the call an active one.
///
/// The agent is looked for and kept from being removed in the same statement: a deletion that has the agent's row is
/// waited for and then seen, and one that comes later waits for this session and counts it.
pub(super) async fn insert(conn: &mut Connection, row: SessionRow) -> QueryResult<bool> {
    let agent = voice_agents::table.find((row.tenant_id, row.voice_agent_id));
    // In the order of the table's columns.
    let values = agent.select((
        row.tenant_id.into_sql::<Id>(),
        row.id.into_sql::<Id>(),
        row.call_id.into_sql::<Text>(),
        row.voice_agent_id.into_sql::<Id>(),
        row.voice_agent_revision.into_sql::<BigInt>(),
        row.lease_id.into_sql::<Text>(),
        row.fence.into_sql::<BigInt>(),
        row.direction.into_sql::<Text>(),
        row.node_id.into_sql::<Nullable<Text>>(),
        row.sandbox.into_sql::<Bool>(),
        row.routing.into_sql::<Document>(),
        row.metadata.into_sql::<Document>(),
        row.state.into_sql::<Document>(),
        row.status.into_sql::<Text>(),
        row.outcome.into_sql::<Nullable<Text>>(),
        row.started_at.into_sql::<Moment>(),
        row.answered_at.into_sql::<Nullable<Moment>>(),
        row.ended_at.into_sql::<Nullable<Moment>>(),
        row.lease_expires_at.into_sql::<Moment>(),
        row.version.into_sql::<BigInt>(),
        row.lease_ttl_ms.into_sql::<BigInt>(),
        row.record.into_sql::<Document>(),
        row.ends_at.into_sql::<Nullable<Moment>>(),
        row.events.into_sql::<BigInt>(),
        row.direct.into_sql::<Nullable<Document>>(),
    ));
    let into = diesel::insert_into(sessions::table);
    let written = match conn {
        Connection::Postgres(pg) => {
            into.values(values.for_key_share()).on_conflict_do_nothing().execute(&mut pg.session).await?
        }
        Connection::Sqlite(sqlite) => into.values(values).on_conflict_do_nothing().execute(sqlite).await?,
    };
    Ok(written == 1)
}

fn word<T>(known: Option<T>, column: &'static str) -> Result<T> {
    known.ok_or_else(|| corrupt(column))
}
