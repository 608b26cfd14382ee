//! Where events are read, and where they get their positions.

use std::collections::HashMap;

use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult, SelectableHelper as _,
    dsl::{min, sql},
    prelude::{Queryable, Selectable},
    sql_types::{Array, BigInt, Bool, Integer, Text},
};
use diesel_async::RunQueryDsl as _;

use crate::{
    db::{
        Connection, Database, Prepared, corrupt, query,
        schema::{event_sequences, events},
        types::{At, Id, Json, Uid},
    },
    domain::{
        Error, Result,
        event::EventFilter,
        ids::{EventId, TenantId},
    },
    sessions::{EventPage, EventStore, Position, TenantEvent},
};

/// Positions that one look for events goes through: what a filter lets through may be rare, and a look must end.
const LOOK: i64 = 20_000;
/// The lock that one sequencer of a tenant holds; any number that no other lock of two numbers has ("even" in ASCII).
const LOCK: i32 = 0x6576_656e;

const PLACE: &str = "UPDATE events SET sequence = e.sequence FROM unnest($2, $3) AS e (id, sequence) \
    WHERE events.tenant_id = $1 AND events.id = e.id";

#[derive(Debug, Clone)]
pub struct SqlEventStore {
    db: Database,
}

impl SqlEventStore {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }
}

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = events)]
struct PlacedRow {
    tenant_id: Uid,
    id: Uid,
    kind: String,
    created_at: At,
    call_id: String,
    session_sequence: i64,
    data: Json,
    sequence: Option<i64>,
}

impl TryFrom<PlacedRow> for TenantEvent {
    type Error = Error;

    fn try_from(row: PlacedRow) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            sequence: row.sequence.map(position).ok_or_else(|| corrupt("events.sequence"))?,
            kind: row.kind,
            at: row.created_at.into(),
            call: row.call_id.parse().map_err(|_| corrupt("events.call_id"))?,
            session_sequence: position(row.session_sequence),
            data: row.data.read("events.data")?,
        })
    }
}

/// The columns check that it is not below zero.
fn position(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

fn column(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

#[async_trait]
impl EventStore for SqlEventStore {
    async fn sequence(&self, tenant: TenantId, limit: u16) -> Result<usize> {
        self.db.of(tenant).transaction(move |conn| Box::pin(sequence(conn, tenant, limit))).await
    }

    async fn unsequenced(&self) -> Result<Vec<TenantId>> {
        self.db
            .of_everyone()
            .run(|conn| {
                Box::pin(async move {
                    let waiting = events::table.filter(events::sequence.is_null());
                    let tenants = waiting.select(events::tenant_id).distinct();
                    let tenants: Vec<Uid> = query!(conn, c => tenants.load(c).await)?;
                    Ok(tenants.into_iter().map(Into::into).collect())
                })
            })
            .await
    }

    async fn last(&self, tenant: TenantId) -> Result<u64> {
        self.db.of(tenant).run(move |conn| Box::pin(async move { Ok(position(last(conn, tenant).await?)) })).await
    }

    async fn heads(&self, tenants: &[TenantId]) -> Result<Vec<(TenantId, u64)>> {
        let tenants: Vec<Uid> = tenants.iter().copied().map(Uid::from).collect();
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let heads = event_sequences::table.filter(event_sequences::tenant_id.eq_any(tenants));
                    let heads = heads.select((event_sequences::tenant_id, event_sequences::last));
                    let heads: Vec<(Uid, i64)> = query!(conn, c => heads.load(c).await)?;
                    Ok(heads.into_iter().map(|(tenant, last)| (tenant.into(), position(last))).collect())
                })
            })
            .await
    }

    async fn position(&self, tenant: TenantId, id: EventId) -> Result<Option<Position>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let found = events::table.find((tenant, id)).select(events::sequence);
                    let found: Option<Option<i64>> = query!(conn, c => found.first(c).await).optional()?;
                    Ok(found.map(|at| at.map_or(Position::Unsequenced, |at| Position::At(position(at)))))
                })
            })
            .await
    }

    async fn after(&self, tenant: TenantId, after: u64, filter: &EventFilter, limit: u16) -> Result<EventPage> {
        let filter = filter.clone();
        self.db
            .of(tenant)
            .run(move |conn| Box::pin(async move { page(conn, tenant, column(after), &filter, limit).await }))
            .await
    }
}

async fn last(conn: &mut Connection, tenant: TenantId) -> QueryResult<i64> {
    let last = event_sequences::table.find(tenant).select(event_sequences::last);
    Ok(query!(conn, c => last.first(c).await).optional()?.unwrap_or(0))
}

/// The last position is read first: all events up to it can be seen by then.
async fn page(
    conn: &mut Connection,
    tenant: TenantId,
    after: i64,
    filter: &EventFilter,
    limit: u16,
) -> Result<EventPage> {
    let last = last(conn, tenant).await?;
    if last <= after {
        return Ok(EventPage { through: position(after), is_last: true, ..EventPage::default() });
    }
    let end = last.min(after.saturating_add(LOOK));
    let rows = select(conn, tenant, (after, end), filter, limit).await?;
    let is_full = rows.len() == usize::from(limit);
    let events = rows.into_iter().map(TenantEvent::try_from).collect::<Result<Vec<_>>>()?;
    let through = match events.last() {
        Some(event) if is_full => event.sequence,
        Some(_) => position(end),
        None if end == last => position(end),
        // What is not retained any more leaves a gap, which may be long.
        None => {
            let next = events::table.filter(events::tenant_id.eq(tenant)).filter(events::sequence.gt(end));
            let next: Option<i64> = query!(conn, c => next.select(min(events::sequence)).first(c).await)?;
            position(next.map_or(last, |next| next - 1))
        }
    };
    Ok(EventPage { events, is_last: through >= position(last), through })
}

async fn select(
    conn: &mut Connection,
    tenant: TenantId,
    (after, end): (i64, i64),
    filter: &EventFilter,
    limit: u16,
) -> QueryResult<Vec<PlacedRow>> {
    query!(conn, c => {
        let of_tenant = events::table.filter(events::tenant_id.eq(tenant));
        let within = of_tenant.filter(events::sequence.gt(after)).filter(events::sequence.le(end));
        let mut rows = within.select(PlacedRow::as_select()).into_boxed();
        if let Some(call) = &filter.call {
            rows = rows.filter(events::call_id.eq(call.as_str().to_owned()));
        }
        if let Some(kinds) = &filter.kinds {
            rows = rows.filter(events::kind.eq_any(kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()));
        }
        if let Some(agent) = filter.agent {
            rows = rows.filter(sql::<Bool>("data ->> 'voice_agent_id' = ").bind::<Text, _>(agent.to_string()));
        }
        rows.order(events::sequence).limit(limit.into()).load(c).await
    })
}

async fn sequence(conn: &mut Connection, tenant: TenantId, limit: u16) -> Result<usize> {
    // SQLite's transactions exclude each other from their beginning.
    if let Connection::Postgres(pg) = conn {
        let (_, bits) = Uid::from(tenant).0.as_u64_pair();
        // Tenants that share these bits wait for each other without need.
        let [.., a, b, c, d] = bits.to_be_bytes();
        let lock = diesel::sql_query("SELECT pg_advisory_xact_lock($1, $2)")
            .bind::<Integer, _>(LOCK)
            .bind::<Integer, _>(i32::from_be_bytes([a, b, c, d]));
        Prepared(lock).execute(&mut pg.session).await?;
    }
    // A session's events are taken from its first on, so none of them is left behind a later one.
    let waiting = events::table
        .filter(events::tenant_id.eq(tenant))
        .filter(events::sequence.is_null())
        .order((events::session_id, events::session_sequence))
        .limit(limit.into())
        .select((events::id, events::session_id, events::created_at));
    let waiting: Vec<(Uid, Uid, At)> = query!(conn, c => waiting.load(c).await)?;
    let count = waiting.len();
    if count == 0 {
        return Ok(0);
    }
    let added = i64::try_from(count).unwrap_or(i64::MAX);
    let counted = diesel::insert_into(event_sequences::table)
        .values((event_sequences::tenant_id.eq(tenant), event_sequences::last.eq(added)))
        .on_conflict(event_sequences::tenant_id)
        .do_update()
        .set(event_sequences::last.eq(event_sequences::last + added))
        .returning(event_sequences::last);
    let last: i64 = match conn {
        Connection::Postgres(pg) => counted.get_result(&mut pg.session).await?,
        Connection::Sqlite(sqlite) => counted.get_result(sqlite).await?,
    };
    place(conn, tenant, (last - added + 1..).zip(in_order(waiting)).collect()).await?;
    Ok(count)
}

/// By time, where that does not turn a session's own order round: its events are given in that.
fn in_order(waiting: Vec<(Uid, Uid, At)>) -> Vec<Uid> {
    let mut latest = HashMap::new();
    let mut timed: Vec<_> = waiting
        .into_iter()
        .map(|(id, session, At(at))| {
            let latest = latest.entry(session.0).or_insert(at);
            *latest = at.max(*latest);
            ((*latest, session.0), id)
        })
        .collect();
    timed.sort_by_key(|(key, _)| *key);
    timed.into_iter().map(|(_, id)| id).collect()
}

async fn place(conn: &mut Connection, tenant: TenantId, places: Vec<(i64, Uid)>) -> QueryResult<()> {
    match conn {
        Connection::Postgres(pg) => {
            let (sequences, ids): (Vec<i64>, Vec<Uid>) = places.into_iter().unzip();
            let query = diesel::sql_query(PLACE)
                .bind::<Id, _>(Uid::from(tenant))
                .bind::<Array<Id>, _>(ids)
                .bind::<Array<BigInt>, _>(sequences);
            Prepared(query).execute(&mut pg.session).await?;
        }
        Connection::Sqlite(sqlite) => {
            for (sequence, id) in places {
                let target = events::table.find((tenant, id));
                let place = diesel::update(target).set(events::sequence.eq(sequence));
                Prepared(place).execute(&mut *sqlite).await?;
            }
        }
    }
    Ok(())
}
