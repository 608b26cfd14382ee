//! What was posted of a session, in a table of its own.

use diesel::{
    ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _,
    prelude::{Insertable, Queryable, Selectable},
    upsert::excluded,
};
use diesel_async::RunQueryDsl as _;

use super::operations::held;
use crate::{
    db::{
        Connection, Database, Prepared, query,
        schema::{session_results, sessions},
        types::{Json, Uid},
    },
    domain::{
        Error, Result,
        ids::{SessionId, TenantId},
        session::Session,
        transcript::{Completion, Posted},
    },
};

/// See [`SessionStore::post`](super::super::SessionStore::post).
pub(super) async fn post(db: &Database, tenant: TenantId, id: SessionId, posted: &Posted) -> Result<Option<Session>> {
    let row = ResultsRow::of(tenant, id, posted)?;
    db.of(tenant).transaction(move |conn| Box::pin(write(conn, tenant, id, row))).await
}

async fn write(conn: &mut Connection, tenant: TenantId, id: SessionId, row: ResultsRow) -> Result<Option<Session>> {
    // Whoever else writes the session's record waits, and so does who posts at the same time.
    let Some(mut session) = held(conn, tenant, id).await? else { return Ok(None) };
    query!(conn, c => diesel::insert_into(session_results::table)
        .values(row.clone())
        .on_conflict((session_results::tenant_id, session_results::session_id))
        .do_update()
        .set((
            session_results::transcript.eq(excluded(session_results::transcript)),
            session_results::results.eq(excluded(session_results::results)),
            session_results::warnings.eq(excluded(session_results::warnings)),
        ))
        .execute(c)
        .await)?;
    if !session.record.posted {
        session.record.posted = true;
        session.version += 1;
        let target = sessions::table.find((tenant, id));
        let change = (sessions::record.eq(Json::of(&session.record)?), sessions::version.eq(session.version));
        query!(conn, c => Prepared(diesel::update(target).set(change)).execute(c).await)?;
    }
    Ok(Some(session))
}

/// See [`SessionStore::posted`](super::super::SessionStore::posted).
pub(super) async fn read(db: &Database, tenant: TenantId, id: SessionId) -> Result<Option<Posted>> {
    db.of(tenant)
        .run(move |conn| {
            Box::pin(async move {
                let found = session_results::table.find((tenant, id));
                let row = query!(conn, c => found.select(ResultsRow::as_select()).first(c).await).optional()?;
                row.map(Posted::try_from).transpose()
            })
        })
        .await
}

#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = session_results, treat_none_as_default_value = false)]
struct ResultsRow {
    tenant_id: Uid,
    session_id: Uid,
    transcript: Json,
    results: Option<Json>,
    warnings: Json,
}

impl ResultsRow {
    fn of(tenant: TenantId, session: SessionId, posted: &Posted) -> Result<Self> {
        Ok(Self {
            tenant_id: tenant.into(),
            session_id: session.into(),
            transcript: Json::of(&posted.completion.transcript)?,
            results: posted.completion.results.as_ref().map(Json::of).transpose()?,
            warnings: Json::of(&posted.warnings)?,
        })
    }
}

impl TryFrom<ResultsRow> for Posted {
    type Error = Error;

    fn try_from(row: ResultsRow) -> Result<Self> {
        Ok(Self {
            completion: Completion {
                transcript: row.transcript.read("session_results.transcript")?,
                results: row.results.map(|results| results.read("session_results.results")).transpose()?,
            },
            warnings: row.warnings.read("session_results.warnings")?,
        })
    }
}
