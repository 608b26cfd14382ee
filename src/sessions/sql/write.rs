//! Many sessions at once: what the journal writes behind.
//!
//! On Postgres three statements take a whole batch (ends, beginnings, and the events of both), each of one text whatever
//! the number of rows, so that it is prepared once. SQLite is in the process: a statement a row costs it little.

use std::collections::{HashMap, HashSet};

use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult, QueryableByName, SelectableHelper as _,
    SqliteConnection,
    sql_types::{Array, BigInt, Bool, Nullable, Text},
};
use diesel_async::RunQueryDsl as _;

use super::{
    super::{Entry, Written},
    change::{OPEN_ATTEMPTS, end_others, hold_agent},
    events::{self, EventRow, OF_END, Pen, Subject},
    row::SessionRow,
};
use crate::{
    db::{
        Connection, Prepared, query,
        schema::{sessions, voice_agents},
        types::{At, Document, Id, Json, Moment, Uid},
    },
    domain::{
        Error, Result,
        clock::Timestamp,
        error::Dependency,
        event::Event,
        ids::{SessionId, TenantId, VoiceAgentId},
        journal::Ending,
        session::{Outcome, Session, SessionStatus},
    },
};

/// In the order of the table's columns, of which the tenant is the first.
const INSERT: &str = "INSERT INTO sessions (tenant_id, id, call_id, voice_agent_id, voice_agent_revision, lease_id, \
    fence, direction, node_id, sandbox, routing, metadata, state, status, outcome, started_at, answered_at, ended_at, \
    lease_expires_at, version, lease_ttl_ms, record, ends_at, events, direct) \
    SELECT $1, * FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25) \
    ON CONFLICT DO NOTHING RETURNING id";

const END: &str = "UPDATE sessions SET status = e.status, outcome = e.outcome, ended_at = e.ended_at, \
    version = version + 1, events = events + 2 FROM unnest($2, $3, $4, $5) AS e (id, status, outcome, ended_at) \
    WHERE sessions.tenant_id = $1 AND sessions.id = e.id AND sessions.status = 'ACTIVE' \
    RETURNING sessions.id, call_id, voice_agent_id, sandbox, sessions.outcome, sessions.ended_at, events";

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Id)]
    id: Uid,
}

pub(super) async fn write(
    conn: &mut Connection,
    pen: &Pen,
    tenant: TenantId,
    entries: Vec<Entry>,
    now: Timestamp,
) -> Result<Vec<Written>> {
    one_at_a_time(conn, tenant).await?;
    let mut told = Vec::new();
    // Ends first: the call of one may have been admitted again in the same batch.
    let alone = |entry: &&Entry| entry.opening.is_none();
    let mut known = end_all(conn, pen, tenant, endings(entries.iter().filter(alone)), &mut told).await?;

    let agents = hold_agents(conn, tenant, &entries).await?;
    let mut begun = Vec::with_capacity(entries.len());
    let mut orphaned = HashSet::new();
    for (entry, opening) in entries.iter().filter_map(|entry| Some((entry, entry.opening.as_ref()?))) {
        let ending = entry.ending.or_else(|| {
            let deleted = !agents.contains(&opening.agent);
            deleted.then(|| {
                orphaned.insert(entry.session);
                Ending { outcome: Outcome::AgentDeleted, at: now }
            })
        });
        begun.push(as_it_is(opening, ending));
    }
    let inserted = insert_all(conn, pen, tenant, &begun, &mut told).await?;
    known.extend(&inserted);

    // What is neither new nor ended now was there before, or is kept out by another session of its call.
    let left: Vec<&Entry> = entries.iter().filter(|entry| !known.contains(&entry.session)).collect();
    let there = existing(conn, tenant, &left).await?;
    let begun = |entry: &&&Entry| entry.opening.is_some() && there.contains(&entry.session);
    end_all(conn, pen, tenant, endings(left.iter().filter(begun).copied()), &mut told).await?;
    events::insert(conn, told).await?;
    let keep_out = active_of_calls(conn, tenant, left.iter().filter(|entry| !there.contains(&entry.session))).await?;

    let fate = |entry: &Entry| match &entry.opening {
        _ if inserted.contains(&entry.session) && orphaned.contains(&entry.session) => Written::AgentDeleted,
        _ if known.contains(&entry.session) || there.contains(&entry.session) => Written::Done,
        Some(opening) => Written::Blocked { by: keep_out.get(opening.call.as_str()).copied() },
        None => Written::Missing,
    };
    Ok(entries.iter().map(fate).collect())
}

/// See [`History::displace`](super::super::History::displace).
pub(super) async fn displace(
    conn: &mut Connection,
    pen: &Pen,
    tenant: TenantId,
    entry: Entry,
    now: Timestamp,
) -> Result<Written> {
    let Some(opening) = entry.opening.clone() else { return Ok(Written::Missing) };
    one_at_a_time(conn, tenant).await?;
    for _ in 0..OPEN_ATTEMPTS {
        let others = sessions::table
            .filter(sessions::tenant_id.eq(tenant))
            .filter(sessions::call_id.eq(opening.call.as_str()))
            .filter(sessions::status.eq(SessionStatus::Active.as_str()))
            .filter(sessions::id.ne(opening.id));
        let other = others.select((sessions::fence, sessions::started_at));
        let other = query!(conn, c => other.first::<(i64, At)>(c).await).optional()?;
        let mut ending = entry.ending;
        let mut written = Written::Done;
        if ending.is_none() && !hold_agent(conn, tenant.into(), opening.agent.into()).await? {
            ending = Some(Ending { outcome: Outcome::AgentDeleted, at: now });
            written = Written::AgentDeleted;
        }
        match other {
            _ if ending.is_some() => {}
            // Every grant takes its fence from the store's clock, so the greater one is the later one.
            Some((fence, At(at))) if fence > opening.fence => {
                ending = Some(Ending { outcome: Outcome::LeaseExpired, at });
            }
            _ => {
                end_others(conn, pen, tenant, opening.call.as_str(), opening.id, opening.started_at).await?;
            }
        }
        let (session, mut told) = (as_it_is(&opening, ending), Vec::new());
        if !insert_all(conn, pen, tenant, &[session], &mut told).await?.is_empty() {
            events::insert(conn, told).await?;
            return Ok(written);
        }
        if existing(conn, tenant, &[&entry]).await?.contains(&entry.session) {
            end_all(conn, pen, tenant, endings(std::iter::once(&entry)), &mut told).await?;
            events::insert(conn, told).await?;
            return Ok(Written::Done);
        }
        // Somebody opened another one in between: look again, and see theirs.
    }
    Err(Error::unavailable(Dependency::Database, "a session was overtaken again and again while it was written"))
}

fn as_it_is(opening: &Session, ending: Option<Ending>) -> Session {
    match ending {
        Some(ending) => ending.applied_to(opening.clone()),
        None => opening.clone(),
    }
}

fn endings<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<(SessionId, Ending)> {
    entries.filter_map(|entry| Some((entry.session, entry.ending?))).collect()
}

/// Nobody else writes the tenant's history until the transaction ends. Who finds what another one is about to write writes
/// the same sessions, and each would wait for rows of the other's.
async fn one_at_a_time(conn: &mut Connection, tenant: TenantId) -> Result<()> {
    // SQLite's transactions exclude each other from their beginning.
    if let Connection::Postgres(pg) = conn {
        // Tenants that share these bits wait for each other without need.
        let (_, bits) = Uid::from(tenant).0.as_u64_pair();
        let lock = diesel::sql_query("SELECT pg_advisory_xact_lock($1)").bind::<BigInt, _>(bits.cast_signed());
        Prepared(lock).execute(&mut pg.session).await?;
    }
    Ok(())
}

/// Which of the agents exist that sessions are to be active of. Until the transaction ends nobody removes them.
async fn hold_agents(conn: &mut Connection, tenant: TenantId, entries: &[Entry]) -> Result<HashSet<VoiceAgentId>> {
    let active = entries.iter().filter(|entry| entry.ending.is_none()).filter_map(|entry| entry.opening.as_ref());
    let wanted: HashSet<VoiceAgentId> = active.map(|session| session.agent).collect();
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let mut wanted: Vec<Uid> = wanted.into_iter().map(Uid::from).collect();
    wanted.sort_unstable_by_key(|id| id.0);
    let held: Vec<Uid> = match conn {
        Connection::Postgres(pg) => {
            let text = "SELECT id FROM voice_agents WHERE tenant_id = $1 AND id = ANY($2) ORDER BY id FOR KEY SHARE";
            let query = diesel::sql_query(text).bind::<Id, _>(Uid::from(tenant)).bind::<Array<Id>, _>(wanted);
            let found: Vec<Found> = Prepared(query).load(&mut pg.session).await?;
            found.into_iter().map(|found| found.id).collect()
        }
        // Its transactions exclude each other from their beginning.
        Connection::Sqlite(sqlite) => {
            let found = voice_agents::table.filter(voice_agents::tenant_id.eq(tenant));
            found.filter(voice_agents::id.eq_any(wanted)).select(voice_agents::id).load(sqlite).await?
        }
    };
    Ok(held.into_iter().map(Into::into).collect())
}

/// Ends what of these is active, and answers which that were; what is to be told of it goes to `told`.
async fn end_all(
    conn: &mut Connection,
    pen: &Pen,
    tenant: TenantId,
    endings: Vec<(SessionId, Ending)>,
    told: &mut Vec<EventRow>,
) -> Result<HashSet<SessionId>> {
    if endings.is_empty() {
        return Ok(HashSet::new());
    }
    let ended: Vec<Subject> = match conn {
        Connection::Postgres(pg) => {
            let outcomes = || endings.iter().map(|(_, ending)| ending.outcome);
            let query = diesel::sql_query(END)
                .bind::<Id, _>(Uid::from(tenant))
                .bind::<Array<Id>, _>(endings.iter().map(|(id, _)| Uid::from(*id)).collect::<Vec<_>>())
                .bind::<Array<Text>, _>(outcomes().map(|outcome| outcome.status().as_str()).collect::<Vec<_>>())
                .bind::<Array<Text>, _>(outcomes().map(Outcome::as_str).collect::<Vec<_>>())
                .bind::<Array<Moment>, _>(endings.iter().map(|(_, ending)| At(ending.at)).collect::<Vec<_>>());
            Prepared(query).load(&mut pg.session).await?
        }
        Connection::Sqlite(sqlite) => {
            let mut ended = Vec::new();
            for (id, Ending { outcome, at }) in endings {
                let target =
                    sessions::table.find((tenant, id)).filter(sessions::status.eq(SessionStatus::Active.as_str()));
                let update = diesel::update(target).set((
                    sessions::status.eq(outcome.status().as_str()),
                    sessions::outcome.eq(outcome.as_str()),
                    sessions::ended_at.eq(at),
                    sessions::version.eq(sessions::version + 1),
                    sessions::events.eq(sessions::events + OF_END),
                ));
                let update = Prepared(update.returning(Subject::as_returning()));
                ended.extend(update.get_result(&mut *sqlite).await.optional()?);
            }
            ended
        }
    };
    for subject in &ended {
        told.extend(subject.end(pen, tenant)?);
    }
    Ok(ended.into_iter().map(|subject| subject.id.into()).collect())
}

/// Writes sessions, whether their agents exist or not, and answers which are new: not those whose session, lease or
/// active call is there already. What is to be told of them goes to `told`.
async fn insert_all(
    conn: &mut Connection,
    pen: &Pen,
    tenant: TenantId,
    begun: &[Session],
    told: &mut Vec<EventRow>,
) -> Result<HashSet<SessionId>> {
    if begun.is_empty() {
        return Ok(HashSet::new());
    }
    let mut rows = Vec::with_capacity(begun.len());
    for session in begun {
        rows.push(SessionRow::of(tenant, session)?);
    }
    let subjects: Vec<Subject> = rows.iter().map(Subject::from).collect();
    let inserted = insert_rows(conn, tenant, rows).await?;
    for (session, subject) in begun.iter().zip(subjects) {
        if inserted.contains(&session.id) {
            told.extend(subject.rows(pen, tenant, Event::of_life(session))?);
        }
    }
    Ok(inserted)
}

async fn insert_rows(
    conn: &mut Connection,
    tenant: TenantId,
    rows: Vec<SessionRow>,
) -> QueryResult<HashSet<SessionId>> {
    let mut inserted = HashSet::new();
    match conn {
        Connection::Postgres(pg) => {
            macro_rules! column {
                ($field:ident: $value:ty) => {
                    rows.iter().map(|row| row.$field.clone()).collect::<Vec<$value>>()
                };
            }
            let query = diesel::sql_query(INSERT)
                .bind::<Id, _>(Uid::from(tenant))
                .bind::<Array<Id>, _>(column!(id: Uid))
                .bind::<Array<Text>, _>(column!(call_id: String))
                .bind::<Array<Id>, _>(column!(voice_agent_id: Uid))
                .bind::<Array<BigInt>, _>(column!(voice_agent_revision: i64))
                .bind::<Array<Text>, _>(column!(lease_id: String))
                .bind::<Array<BigInt>, _>(column!(fence: i64))
                .bind::<Array<Text>, _>(column!(direction: String))
                .bind::<Array<Nullable<Text>>, _>(column!(node_id: Option<String>))
                .bind::<Array<Bool>, _>(column!(sandbox: bool))
                .bind::<Array<Document>, _>(column!(routing: Json))
                .bind::<Array<Document>, _>(column!(metadata: Json))
                .bind::<Array<Document>, _>(column!(state: Json))
                .bind::<Array<Text>, _>(column!(status: String))
                .bind::<Array<Nullable<Text>>, _>(column!(outcome: Option<String>))
                .bind::<Array<Moment>, _>(column!(started_at: At))
                .bind::<Array<Nullable<Moment>>, _>(column!(answered_at: Option<At>))
                .bind::<Array<Nullable<Moment>>, _>(column!(ended_at: Option<At>))
                .bind::<Array<Moment>, _>(column!(lease_expires_at: At))
                .bind::<Array<BigInt>, _>(column!(version: i64))
                .bind::<Array<BigInt>, _>(column!(lease_ttl_ms: i64))
                .bind::<Array<Document>, _>(column!(record: Json))
                .bind::<Array<Nullable<Moment>>, _>(column!(ends_at: Option<At>))
                .bind::<Array<BigInt>, _>(column!(events: i64))
                .bind::<Array<Nullable<Document>>, _>(column!(direct: Option<Json>));
            let found: Vec<Found> = Prepared(query).load(&mut pg.session).await?;
            inserted.extend(found.into_iter().map(|found| SessionId::from(found.id)));
        }
        Connection::Sqlite(sqlite) => {
            // Diesel's own connection knows an insert by its type, and makes no text of it.
            let insert = move |c: &mut SqliteConnection| {
                for row in rows {
                    let id = SessionId::from(row.id);
                    let insert = diesel::insert_into(sessions::table).values(row).on_conflict_do_nothing();
                    if diesel::RunQueryDsl::execute(insert, c)? == 1 {
                        inserted.insert(id);
                    }
                }
                Ok(inserted)
            };
            inserted = sqlite.spawn_blocking(insert).await?;
        }
    }
    Ok(inserted)
}

/// Which of the entries' sessions have a row.
async fn existing(conn: &mut Connection, tenant: TenantId, entries: &[&Entry]) -> Result<HashSet<SessionId>> {
    if entries.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<Uid> = entries.iter().map(|entry| Uid::from(entry.session)).collect();
    let found = sessions::table.filter(sessions::tenant_id.eq(tenant)).filter(sessions::id.eq_any(ids));
    let found: Vec<Uid> = query!(conn, c => found.select(sessions::id).load(c).await)?;
    Ok(found.into_iter().map(Into::into).collect())
}

/// The active session of each call of the entries that has one.
async fn active_of_calls<'e>(
    conn: &mut Connection,
    tenant: TenantId,
    entries: impl Iterator<Item = &'e &'e Entry>,
) -> Result<HashMap<String, SessionId>> {
    let calls = entries.filter_map(|entry| Some(entry.opening.as_ref()?.call.as_str().to_owned()));
    let calls: Vec<String> = calls.collect();
    if calls.is_empty() {
        return Ok(HashMap::new());
    }
    let active = sessions::table
        .filter(sessions::tenant_id.eq(tenant))
        .filter(sessions::call_id.eq_any(calls))
        .filter(sessions::status.eq(SessionStatus::Active.as_str()));
    let found: Vec<(String, Uid)> = query!(conn, c => active.select((sessions::call_id, sessions::id)).load(c).await)?;
    Ok(found.into_iter().map(|(call, id)| (call, id.into())).collect())
}
