//! Events in SQL, written in the transaction of the change that they tell of.
//!
//! A session's row counts its events: the statement that changes the row takes the numbers, so whoever writes next, on
//! whichever replica, waits for the row and takes the next ones. What changes no row tells of nothing: so an entry of the
//! journal that is written again tells nothing again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult, QueryableByName, SelectableHelper as _,
    SqliteConnection,
    prelude::{Insertable, Queryable, Selectable},
    sql_types::{Array, BigInt, Text},
};
use diesel_async::RunQueryDsl as _;

use super::row::SessionRow;
use crate::{
    db::{
        Connection, Database, Prepared, Work, corrupt, query,
        schema::{events, sessions},
        types::{At, Document, Id, Json, Moment, Uid},
    },
    domain::{
        Env, Error, Result,
        clock::Timestamp,
        event::{Event, EventType},
        ids::{EventId, SessionId, TenantId},
        session::Outcome,
    },
    sessions::{EventNews, WrittenEvent},
};

/// Text and order of the columns whatever the number of rows: it is prepared once.
const INSERT: &str = "INSERT INTO events (tenant_id, id, kind, created_at, session_id, call_id, session_sequence, data) \
    SELECT $1, * FROM unnest($2, $3, $4, $5, $6, $7, $8)";

/// What writes events needs, and whether it has.
#[derive(Debug, Clone)]
pub(super) struct Pen {
    env: Env,
    wrote: Arc<AtomicBool>,
}

/// A database whose changes are told of.
#[derive(Debug, Clone)]
pub(super) struct Told {
    db: Database,
    env: Env,
    news: EventNews,
}

impl Told {
    pub(super) const fn new(db: Database, env: Env, news: EventNews) -> Self {
        Self { db, env, news }
    }

    /// Does `work` in one transaction. What it tells can be given its position from then on.
    pub(super) async fn transaction<T, W>(&self, tenant: TenantId, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection, Pen) -> Work<'c, T> + Send + 'static,
    {
        let pen = Pen { env: self.env.clone(), wrote: Arc::default() };
        let wrote = pen.wrote.clone();
        let done = self.db.of(tenant).transaction(move |conn| work(conn, pen)).await?;
        // Diesel would load it otherwise.
        if AtomicBool::load(&wrote, Ordering::Relaxed) {
            self.news.tell(tenant);
        }
        Ok(done)
    }
}

/// An event of a session.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = events, treat_none_as_default_value = false)]
pub(super) struct EventRow {
    tenant_id: Uid,
    id: Uid,
    kind: String,
    created_at: At,
    session_id: Uid,
    call_id: String,
    session_sequence: i64,
    data: Json,
}

impl TryFrom<EventRow> for WrittenEvent {
    type Error = Error;

    fn try_from(row: EventRow) -> Result<Self> {
        let kind = EventType::from_word(&row.kind).ok_or_else(|| corrupt("events.kind"))?;
        Ok(Self {
            id: row.id.into(),
            at: row.created_at.into(),
            call: row.call_id.parse().map_err(|_| corrupt("events.call_id"))?,
            session_sequence: u64::try_from(row.session_sequence).map_err(|_| corrupt("events.session_sequence"))?,
            event: Event { kind, data: row.data.read("events.data")? },
        })
    }
}

/// Whom events tell of: as much of a session's row as goes into each of them, and its count with them.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = sessions)]
pub(super) struct Subject {
    pub(super) id: Uid,
    call_id: String,
    voice_agent_id: Uid,
    sandbox: bool,
    pub(super) outcome: Option<String>,
    pub(super) ended_at: Option<At>,
    events: i64,
}

impl From<&SessionRow> for Subject {
    fn from(row: &SessionRow) -> Self {
        Self {
            id: row.id,
            call_id: row.call_id.clone(),
            voice_agent_id: row.voice_agent_id,
            sandbox: row.sandbox,
            outcome: row.outcome.clone(),
            ended_at: row.ended_at,
            events: row.events,
        }
    }
}

impl Subject {
    /// The rows of `told`, which are the last that are counted.
    pub(super) fn rows(&self, pen: &Pen, tenant: TenantId, told: Vec<(Timestamp, Event)>) -> Result<Vec<EventRow>> {
        pen.wrote.fetch_or(!told.is_empty(), Ordering::Relaxed);
        let before = self.events - i64::try_from(told.len()).unwrap_or(i64::MAX);
        let row = |(session_sequence, (at, Event { kind, mut data }))| {
            data.insert("session_id".to_owned(), SessionId::from(self.id).to_string().into());
            data.insert("voice_agent_id".to_owned(), self.voice_agent_id.0.to_string().into());
            if self.sandbox {
                data.insert("sandbox".to_owned(), true.into());
            }
            Ok(EventRow {
                tenant_id: tenant.into(),
                id: EventId::new(&pen.env).into(),
                kind: kind.as_str().to_owned(),
                created_at: At(at),
                session_id: self.id,
                call_id: self.call_id.clone(),
                session_sequence,
                data: Json::of(&data)?,
            })
        };
        (before + 1..).zip(told).map(row).collect()
    }

    /// Of a session that has ended just now.
    pub(super) fn end(&self, pen: &Pen, tenant: TenantId) -> Result<Vec<EventRow>> {
        let outcome =
            self.outcome.as_deref().and_then(Outcome::from_word).ok_or_else(|| corrupt("sessions.outcome"))?;
        let At(at) = self.ended_at.ok_or_else(|| corrupt("sessions.ended_at"))?;
        self.rows(pen, tenant, Event::ended(outcome).map(|event| (at, event)).into())
    }
}

/// How many events an end has.
pub(super) const OF_END: i64 = 2;

pub(super) async fn insert(conn: &mut Connection, rows: Vec<EventRow>) -> QueryResult<()> {
    let [EventRow { tenant_id: tenant, .. }, ..] = rows[..] else { return Ok(()) };
    match conn {
        Connection::Postgres(pg) => {
            macro_rules! column {
                ($field:ident: $value:ty) => {
                    rows.iter().map(|row| row.$field.clone()).collect::<Vec<$value>>()
                };
            }
            let query = diesel::sql_query(INSERT)
                .bind::<Id, _>(tenant)
                .bind::<Array<Id>, _>(column!(id: Uid))
                .bind::<Array<Text>, _>(column!(kind: String))
                .bind::<Array<Moment>, _>(column!(created_at: At))
                .bind::<Array<Id>, _>(column!(session_id: Uid))
                .bind::<Array<Text>, _>(column!(call_id: String))
                .bind::<Array<BigInt>, _>(column!(session_sequence: i64))
                .bind::<Array<Document>, _>(column!(data: Json));
            Prepared(query).execute(&mut pg.session).await?;
        }
        Connection::Sqlite(sqlite) => {
            // Diesel's own connection knows an insert by its type, and makes no text of it.
            let insert = move |c: &mut SqliteConnection| {
                for row in rows {
                    diesel::RunQueryDsl::execute(diesel::insert_into(events::table).values(row), c)?;
                }
                Ok(())
            };
            sqlite.spawn_blocking(insert).await?;
        }
    }
    Ok(())
}

/// Adds `event` to the session, unless it has one of that kind and `url` already: a node says so again until it is heard.
/// False if there is no such session.
pub(super) async fn tell_of(
    conn: &mut Connection,
    pen: &Pen,
    tenant: TenantId,
    session: SessionId,
    event: Event,
    now: Timestamp,
) -> Result<bool> {
    let counted =
        diesel::update(sessions::table.find((tenant, session))).set(sessions::events.eq(sessions::events + 1));
    let subject = query!(conn, c => Prepared(counted.returning(Subject::as_returning())).get_result(c).await);
    let Some(subject) = subject.optional()? else { return Ok(false) };
    // The row is held: nobody else adds to the session's events before this is done.
    let same = events::table
        .filter(events::tenant_id.eq(tenant))
        .filter(events::session_id.eq(session))
        .filter(events::kind.eq(event.kind.as_str()))
        .select(events::data);
    let same: Vec<Json> = query!(conn, c => same.load(c).await)?;
    for told in same {
        let told: serde_json::Value = told.read("events.data")?;
        if told.get("url") == event.data.get("url") {
            let uncounted = sessions::events.eq(sessions::events - 1);
            let target = sessions::table.find((tenant, session));
            query!(conn, c => Prepared(diesel::update(target).set(uncounted)).execute(c).await)?;
            return Ok(true);
        }
    }
    insert(conn, subject.rows(pen, tenant, vec![(now, event)])?).await?;
    Ok(true)
}
