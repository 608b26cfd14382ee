//! An operation as a row, and what it leaves behind.

use diesel::prelude::{AsChangeset, Insertable, Queryable, Selectable};

use crate::{
    db::{
        corrupt,
        schema::{operations, session_log},
        types::{At, Json, Uid},
    },
    domain::{
        Error, Result,
        clock::Timestamp,
        hash::Sha256,
        ids::TenantId,
        operation::{Failure, Operation, OperationState},
        session::{LogEntry, Session},
        verb::JsonObject,
    },
};

#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = operations, treat_none_as_default_value = false)]
pub(super) struct OperationRow {
    pub(super) tenant_id: Uid,
    id: Uid,
    session_id: Uid,
    pub(super) call_id: String,
    verb: String,
    request: Json,
    pub(super) idempotency_key: String,
    digest: Vec<u8>,
    state: String,
    accepted_at: At,
    dispatched_at: Option<At>,
    finished_at: Option<At>,
    result: Option<Json>,
    failure: Option<Json>,
}

impl OperationRow {
    pub(super) fn of(tenant: TenantId, operation: &Operation) -> Result<Self> {
        let end = Ending::of(operation)?;
        Ok(Self {
            tenant_id: tenant.into(),
            id: operation.id.into(),
            session_id: operation.session.into(),
            call_id: operation.call.as_str().to_owned(),
            verb: operation.verb.name().as_str().to_owned(),
            request: Json::of(&operation.verb)?,
            idempotency_key: operation.key.as_str().to_owned(),
            digest: operation.digest.as_bytes().to_vec(),
            state: end.state,
            accepted_at: operation.accepted_at.into(),
            dispatched_at: end.dispatched_at,
            finished_at: end.finished_at,
            result: end.result,
            failure: end.failure,
        })
    }
}

impl TryFrom<OperationRow> for Operation {
    type Error = Error;

    fn try_from(row: OperationRow) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            session: row.session_id.into(),
            call: row.call_id.parse().map_err(|_| corrupt("operations.call_id"))?,
            verb: row.request.read("operations.request")?,
            key: row.idempotency_key.parse().map_err(|_| corrupt("operations.idempotency_key"))?,
            digest: Sha256::from_slice(&row.digest).ok_or_else(|| corrupt("operations.digest"))?,
            state: OperationState::from_word(&row.state).ok_or_else(|| corrupt("operations.state"))?,
            accepted_at: row.accepted_at.into(),
            dispatched_at: row.dispatched_at.map(Into::into),
            finished_at: row.finished_at.map(Into::into),
            result: row.result.map(|json| json.read("operations.result")).transpose()?,
            failure: row.failure.map(|json| json.read("operations.failure")).transpose()?,
        })
    }
}

/// What becomes of an operation.
#[derive(Debug, AsChangeset)]
#[diesel(table_name = operations, treat_none_as_null = true)]
pub(super) struct Ending {
    state: String,
    dispatched_at: Option<At>,
    finished_at: Option<At>,
    result: Option<Json>,
    failure: Option<Json>,
}

impl Ending {
    pub(super) fn of(operation: &Operation) -> Result<Self> {
        Ok(Self {
            state: operation.state.as_str().to_owned(),
            dispatched_at: operation.dispatched_at.map(At),
            finished_at: operation.finished_at.map(At),
            result: operation.result.as_ref().map(Json::of).transpose()?,
            failure: operation.failure.as_ref().map(|failure| Json::of(&storable(failure))).transpose()?,
        })
    }
}

/// A node's words may be anything; Postgres takes no NUL.
fn storable(failure: &Failure) -> Failure {
    let without_nul = |text: &str| text.replace('\0', "\u{fffd}");
    Failure { reason: without_nul(&failure.reason), message: without_nul(&failure.message) }
}

/// An entry of a session's log.
#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = session_log)]
pub(super) struct LogRow {
    tenant_id: Uid,
    session_id: Uid,
    entry: i64,
    logged_at: At,
    metadata: Json,
}

impl LogRow {
    /// The newest of `session`, whose count is told already.
    pub(super) fn of(session: &Session, metadata: &JsonObject, now: Timestamp) -> Result<Self> {
        Ok(Self {
            tenant_id: session.tenant.into(),
            session_id: session.id.into(),
            entry: i64::try_from(session.record.log_entries).unwrap_or(i64::MAX),
            logged_at: now.into(),
            metadata: Json::of(metadata)?,
        })
    }
}

impl TryFrom<LogRow> for LogEntry {
    type Error = Error;

    fn try_from(row: LogRow) -> Result<Self> {
        Ok(Self { at: row.logged_at.into(), metadata: row.metadata.read("session_log.metadata")? })
    }
}
