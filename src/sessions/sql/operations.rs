//! Operations in SQL, and their effect.
//!
//! Whoever brings an effect to a session holds its row first: effects of one call are one after the other, each built on
//! what the one before has left.

use async_trait::async_trait;
use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _, dsl::sql, sql_types::Bool,
};
use diesel_async::RunQueryDsl as _;

use super::{
    events::{self as journal, EventRow, Pen, Subject, Told},
    operation_row::{Ending, LogRow, OperationRow},
    row::SessionRow,
};
use crate::{
    db::{
        Connection, Database, Prepared, query,
        schema::{events, operations, session_log, sessions},
        types::{At, Json},
    },
    domain::{
        Env, Error, Result,
        clock::Timestamp,
        error::{Dependency, Resource},
        event::Event,
        ids::{CallId, IdempotencyKey, OperationId, SessionId, TenantId},
        lease::Usage,
        operation::{Acknowledgement, Operation, OperationState},
        session::{LogEntry, Outcome, Session},
        verb::{Done, Effect, NodeResult, Scene, VerbResult},
    },
    sessions::{Begun, Carried, EventNews, OperationStore, Settled, WrittenEvent},
};

/// A key that is forgotten and taken again this often while we look is not a race but a fault.
const BEGIN_ATTEMPTS: usize = 8;

#[derive(Debug, Clone)]
pub struct SqlOperationStore {
    db: Database,
    told: Told,
}

impl SqlOperationStore {
    /// `news` hears whose events can be given their positions.
    pub fn new(db: Database, env: Env, news: EventNews) -> Self {
        Self { told: Told::new(db.clone(), env, news), db }
    }
}

#[async_trait]
impl OperationStore for SqlOperationStore {
    async fn begin(&self, tenant: TenantId, operation: &Operation, remembered_since: Timestamp) -> Result<Begun> {
        let row = OperationRow::of(tenant, operation)?;
        self.db.of(tenant).run(move |conn| Box::pin(begin(conn, row, remembered_since))).await
    }

    async fn find(
        &self,
        tenant: TenantId,
        call: &CallId,
        key: &IdempotencyKey,
        remembered_since: Timestamp,
    ) -> Result<Option<Operation>> {
        let (call, key) = (call.as_str().to_owned(), key.as_str().to_owned());
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let of_key = operations::table
                        .filter(operations::tenant_id.eq(tenant))
                        .filter(operations::call_id.eq(call))
                        .filter(operations::idempotency_key.eq(key))
                        .filter(operations::accepted_at.ge(At(remembered_since)));
                    let row = query!(conn, c => of_key.select(OperationRow::as_select()).first(c).await).optional()?;
                    row.map(Operation::try_from).transpose()
                })
            })
            .await
    }

    async fn withdraw(&self, tenant: TenantId, id: OperationId) -> Result<()> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    query!(conn, c => diesel::delete(operations::table.find((tenant, id))).execute(c).await)?;
                    Ok(())
                })
            })
            .await
    }

    async fn settle(
        &self,
        tenant: TenantId,
        id: OperationId,
        answer: Acknowledgement,
        usage: Option<Usage>,
        now: Timestamp,
    ) -> Result<Option<Settled>> {
        self.told
            .transaction(tenant, move |conn, pen| {
                Box::pin(async move {
                    let Some(mut operation) = by_id(conn, tenant, id).await?.filter(|it| !it.state.is_final()) else {
                        return Ok(None);
                    };
                    let session = held(conn, tenant, operation.session).await?;
                    operation.finished_at = Some(now);
                    let taken = match (answer, &session) {
                        (Err(failure), _) => {
                            operation.state = OperationState::Failed;
                            operation.failure = Some(failure);
                            None
                        }
                        (Ok(node), session) => {
                            operation.state = OperationState::Succeeded;
                            session.as_ref().map(|session| take_effect(&mut operation, session, node, usage, now))
                        }
                    };
                    if !write_end(conn, &operation).await? {
                        return Ok(None);
                    }
                    write_effect(conn, &pen, operation, session, taken, now).await.map(Some)
                })
            })
            .await
    }

    async fn carry_out(
        &self,
        tenant: TenantId,
        mut operation: Operation,
        usage: Option<Usage>,
        remembered_since: Timestamp,
    ) -> Result<Carried> {
        self.told
            .transaction(tenant, move |conn, pen| {
                Box::pin(async move {
                    let session = held(conn, tenant, operation.session).await?;
                    let session = session.ok_or_else(|| Error::not_found(Resource::Session, operation.session))?;
                    let now = operation.accepted_at;
                    // The key before the state: a retry is answered what happened, whatever the call has come to since.
                    let begun = begin(conn, OperationRow::of(tenant, &operation)?, remembered_since).await?;
                    if let Begun::Existing(existing) = begun {
                        return Ok(Carried::Existing(existing));
                    }
                    if let Some(outcome) = session.outcome {
                        return Err(Error::AiSessionTerminated { call: session.call, session: session.id, outcome });
                    }
                    operation.verb = operation.verb.prepare(&Scene::alone(&session))?;
                    operation.state = OperationState::Succeeded;
                    operation.finished_at = Some(now);
                    let taken = take_effect(&mut operation, &session, NodeResult::default(), usage, now);
                    write_end(conn, &operation).await?;
                    let settled = write_effect(conn, &pen, operation, Some(session), Some(taken), now).await?;
                    Ok(Carried::Out(Box::new(settled)))
                })
            })
            .await
    }

    async fn lose(&self, tenant: TenantId, id: OperationId) -> Result<()> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let lost = operations::state.eq(OperationState::Unknown.as_str());
                    let unfinished = operations::table
                        .find((tenant, id))
                        .filter(operations::state.ne(OperationState::Succeeded.as_str()))
                        .filter(operations::state.ne(OperationState::Failed.as_str()));
                    query!(conn, c => Prepared(diesel::update(unfinished).set(lost)).execute(c).await)?;
                    Ok(())
                })
            })
            .await
    }

    async fn get(&self, tenant: TenantId, id: OperationId) -> Result<Option<Operation>> {
        self.db.of(tenant).run(move |conn| Box::pin(by_id(conn, tenant, id))).await
    }

    async fn open(&self, from: Timestamp, to: Timestamp, limit: u16) -> Result<Vec<Operation>> {
        self.db
            .of_everyone()
            .run(move |conn| {
                Box::pin(async move {
                    let open = operations::table
                        .filter(operations::accepted_at.between(At(from), At(to)))
                        // As the index says it.
                        .filter(sql::<Bool>("state NOT IN ('SUCCEEDED', 'FAILED')"))
                        .order(operations::accepted_at)
                        .limit(limit.into());
                    let rows = query!(conn, c => open.select(OperationRow::as_select()).load(c).await)?;
                    rows.into_iter().map(Operation::try_from).collect()
                })
            })
            .await
    }

    async fn log(&self, tenant: TenantId, session: SessionId) -> Result<Vec<LogEntry>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let entries = session_log::table
                        .filter(session_log::tenant_id.eq(tenant))
                        .filter(session_log::session_id.eq(session))
                        .order(session_log::entry);
                    let rows = query!(conn, c => entries.select(LogRow::as_select()).load(c).await)?;
                    rows.into_iter().map(LogEntry::try_from).collect()
                })
            })
            .await
    }

    async fn events(&self, tenant: TenantId, session: SessionId) -> Result<Vec<WrittenEvent>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let written = events::table
                        .filter(events::tenant_id.eq(tenant))
                        .filter(events::session_id.eq(session))
                        .order(events::session_sequence);
                    let rows = query!(conn, c => written.select(EventRow::as_select()).load(c).await)?;
                    rows.into_iter().map(WrittenEvent::try_from).collect()
                })
            })
            .await
    }
}

async fn by_id(conn: &mut Connection, tenant: TenantId, id: OperationId) -> Result<Option<Operation>> {
    let found = operations::table.find((tenant, id));
    let row = query!(conn, c => found.select(OperationRow::as_select()).first(c).await).optional()?;
    row.map(Operation::try_from).transpose()
}

/// The session, which nobody else changes until the transaction ends.
pub(super) async fn held(conn: &mut Connection, tenant: TenantId, id: SessionId) -> Result<Option<Session>> {
    let found = sessions::table.find((tenant, id));
    let row = match conn {
        Connection::Postgres(pg) => found.for_update().select(SessionRow::as_select()).first(&mut pg.session).await,
        // Its transactions exclude each other from their beginning.
        Connection::Sqlite(sqlite) => found.select(SessionRow::as_select()).first(sqlite).await,
    }
    .optional()?;
    row.map(Session::try_from).transpose()
}

/// What a verb makes of an active session, and what it leaves behind.
struct Taken {
    after: Session,
    effect: Effect,
}

/// The operation is told its result. Of a session that is over the result alone is real.
fn take_effect(
    operation: &mut Operation,
    session: &Session,
    node: NodeResult,
    usage: Option<Usage>,
    now: Timestamp,
) -> Taken {
    let mut after = session.clone();
    let outcome = operation.verb.ends();
    let mut effect = operation.verb.effect(&mut after, &Done { operation: operation.id, at: now, node });
    // What is free again is nobody's usage.
    let usage = if outcome.is_some() { None } else { usage };
    operation.result = Some(VerbResult { outcome, ..VerbResult::of(&after, usage) }.naming(&effect));
    if let Some(outcome) = outcome {
        (after.status, after.outcome, after.ended_at) = (outcome.status(), Some(outcome), Some(now));
        effect.events.extend(Event::ended(outcome));
    }
    Taken { after, effect }
}

/// False if the operation has come to its end before.
async fn write_end(conn: &mut Connection, operation: &Operation) -> Result<bool> {
    let end = Ending::of(operation)?;
    let unfinished = operations::table
        .find((operation.tenant, operation.id))
        .filter(operations::state.ne(OperationState::Succeeded.as_str()))
        .filter(operations::state.ne(OperationState::Failed.as_str()));
    Ok(query!(conn, c => Prepared(diesel::update(unfinished).set(end)).execute(c).await)? == 1)
}

/// Writes what has been taken, if the session is active.
async fn write_effect(
    conn: &mut Connection,
    pen: &Pen,
    operation: Operation,
    session: Option<Session>,
    taken: Option<Taken>,
    now: Timestamp,
) -> Result<Settled> {
    let active = session.as_ref().is_some_and(Session::is_active);
    let Some(Taken { mut after, effect }) = taken.filter(|_| active) else {
        return Ok(Settled { operation, session, ended: false });
    };
    let told: Vec<_> = effect.events.into_iter().map(|event| (now, event)).collect();
    let target = sessions::table.find((after.tenant, after.id));
    let change = (
        sessions::state.eq(Json::of(&after.state)?),
        sessions::record.eq(Json::of(&after.record)?),
        sessions::status.eq(after.status.as_str()),
        sessions::outcome.eq(after.outcome.map(Outcome::as_str)),
        sessions::ended_at.eq(after.ended_at.map(At)),
        sessions::version.eq(sessions::version + 1),
        sessions::events.eq(sessions::events + i64::try_from(told.len()).unwrap_or(i64::MAX)),
    );
    let subject = query!(conn, c => {
        let update = diesel::update(target).set(change);
        Prepared(update.returning(Subject::as_returning())).get_result(c).await
    })?;
    after.version += 1;
    journal::insert(conn, subject.rows(pen, after.tenant, told)?).await?;
    if let Some(metadata) = effect.log {
        let row = LogRow::of(&after, &metadata, now)?;
        query!(conn, c => diesel::insert_into(session_log::table).values(row.clone()).execute(c).await)?;
    }
    let ended = !after.is_active();
    Ok(Settled { operation, session: Some(after), ended })
}

/// One statement where the key is new. Each statement stands alone: whoever inserts has won, and removing what is
/// forgotten anyway needs no transaction.
async fn begin(conn: &mut Connection, row: OperationRow, remembered_since: Timestamp) -> Result<Begun> {
    for _ in 0..BEGIN_ATTEMPTS {
        let written = query!(conn, c => diesel::insert_into(operations::table)
            .values(row.clone())
            .on_conflict_do_nothing()
            .execute(c)
            .await)?;
        if written == 1 {
            return Ok(Begun::New);
        }
        let of_key = operations::table
            .filter(operations::tenant_id.eq(row.tenant_id))
            .filter(operations::call_id.eq(row.call_id.clone()))
            .filter(operations::idempotency_key.eq(row.idempotency_key.clone()));
        let remembered = of_key.clone().filter(operations::accepted_at.ge(remembered_since));
        let existing = query!(conn, c => remembered.select(OperationRow::as_select()).first(c).await).optional()?;
        if let Some(existing) = existing {
            return Ok(Begun::Existing(Box::new(existing.try_into()?)));
        }
        let forgotten = of_key.filter(operations::accepted_at.lt(At(remembered_since)));
        query!(conn, c => diesel::delete(forgotten).execute(c).await)?;
    }
    Err(Error::unavailable(Dependency::Database, "an operation was overtaken again and again while it began"))
}
