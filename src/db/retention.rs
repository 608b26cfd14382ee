//! How long rows are kept, and the removal of what is older.
//!
//! Rows go in batches, each in a transaction of its own with a pause behind it: locks last for moments, and calls come
//! first. One replica removes at a time: who finds another one at it comes back at the next round.

use std::time::Duration;

use diesel::{QueryableByName, sql_types::Bool};
use diesel_async::RunQueryDsl as _;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{
    Connection, Database, query,
    types::{At, Moment},
};
use crate::domain::{Env, Result, clock::Timestamp};

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSettings {
    /// Days that a session is kept after its end, with its log, its operations and what was posted of it (default 90).
    pub sessions_days: u64,
    /// Days that an event can be read (default 7: what WatchEvents promises).
    pub events_days: u64,
    /// Days that an entry of the audit log is kept (default 90; at least 30: the database refuses to remove younger ones).
    pub audit_days: u64,
    /// How often a replica looks for what is to go (default 600,000 ms).
    pub interval_ms: u64,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { sessions_days: 90, events_days: 7, audit_days: 90, interval_ms: 600_000 }
    }
}

/// Rows that go in one transaction: some tens of milliseconds.
const BATCH: u64 = 1_000;
/// After each batch, for those who wait: less than half of the time is spent on removal.
const PAUSE: Duration = Duration::from_millis(100);
/// What is removed is older by this than it has to be: the clocks of replicas and database differ.
const MARGIN: Duration = Duration::from_hours(1);
/// How long a request id of CreateVoiceAgent is known (contract, section 2).
const CREATE_REQUESTS: Duration = Duration::from_hours(24);

/// The lock of the one who removes. Two numbers are a space of their own: no tenant's lock is in it.
const LOCK: &str = "SELECT pg_try_advisory_xact_lock(1986618484, 1) AS got";

/// What is removed by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sessions,
    Events,
    AuditEntries,
    CreateRequests,
    RevokedTokens,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Sessions, Self::Events, Self::AuditEntries, Self::CreateRequests, Self::RevokedTokens];

    const fn table(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Events => "events",
            Self::AuditEntries => "audit_entries",
            Self::CreateRequests => "voice_agent_create_requests",
            Self::RevokedTokens => "revoked_tokens",
        }
    }

    /// Which of its rows are old, where `$1` is the moment before which they are.
    const fn is_old(self) -> &'static str {
        match self {
            Self::Sessions => "status <> 'ACTIVE' AND ended_at < $1",
            Self::Events | Self::AuditEntries | Self::CreateRequests => "created_at < $1",
            Self::RevokedTokens => "until < $1",
        }
    }

    const fn kept_for(self, settings: RetentionSettings) -> Duration {
        match self {
            Self::Sessions => days(settings.sessions_days),
            Self::Events => days(settings.events_days),
            Self::AuditEntries => days(settings.audit_days),
            Self::CreateRequests => CREATE_REQUESTS,
            // Its moment is that from which on it is of no use.
            Self::RevokedTokens => Duration::ZERO,
        }
    }
}

const fn days(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

/// Rows that were removed, by table.
pub type Removed = Vec<(&'static str, u64)>;

#[derive(QueryableByName)]
struct Got {
    #[diesel(sql_type = Bool)]
    got: bool,
}

impl Database {
    /// Removes what is too old, now and then, until `closing`.
    pub async fn retain_until(&self, settings: RetentionSettings, env: Env, closing: CancellationToken) {
        let work = async {
            loop {
                tokio::time::sleep(Duration::from_millis(settings.interval_ms)).await;
                match self.remove_old(settings, env.now()).await {
                    Ok(removed) if !removed.is_empty() => tracing::info!(?removed, "old rows were removed"),
                    Ok(_) => {}
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(error, "old rows are removed at the next look");
                    }
                }
            }
        };
        closing.run_until_cancelled(Box::pin(work)).await;
    }

    /// Removes all that is too old at `now`, unless another replica is at it.
    pub async fn remove_old(&self, settings: RetentionSettings, now: Timestamp) -> Result<Removed> {
        let mut removed = Removed::new();
        for kind in Kind::ALL {
            let before = now.minus(kind.kept_for(settings) + MARGIN);
            let mut rows = 0;
            loop {
                let Some(batch) = self.remove_batch(kind, before).await? else { return Ok(removed) };
                metrics::counter!("voxgate_rows_removed_total", "table" => kind.table()).increment(batch);
                rows += batch;
                if batch < BATCH {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            if rows > 0 {
                removed.push((kind.table(), rows));
            }
        }
        Ok(removed)
    }

    /// How many went; nothing if another replica removes.
    async fn remove_batch(&self, kind: Kind, before: Timestamp) -> Result<Option<u64>> {
        self.of_everyone()
            .transaction(move |conn| {
                Box::pin(async move {
                    if !alone(conn).await? {
                        return Ok(None);
                    }
                    if kind == Kind::Sessions {
                        remove_with_sessions(conn, before).await?;
                    }
                    let (table, old) = (kind.table(), kind.is_old());
                    let place = place(conn);
                    let (order, alone) = if kind == Kind::Sessions { (SESSION_ORDER, ALONE) } else { ("", "") };
                    let text = format!(
                        "DELETE FROM {table} WHERE {place} IN \
                         (SELECT {place} FROM {table} WHERE {old} {order} LIMIT {BATCH}) {alone}"
                    );
                    execute(conn, text, before).await.map(Some)
                })
            })
            .await
    }
}

/// The same sessions for each of the statements of a batch.
const SESSION_ORDER: &str = "ORDER BY ended_at, tenant_id, id";

/// To Postgres each statement sees what was committed before it: a session that has become old since the others' was looked
/// at still has what is its own, and goes with it in the next batch.
const ALONE: &str = "AND NOT EXISTS (SELECT 1 FROM session_log \
     WHERE session_log.tenant_id = sessions.tenant_id AND session_log.session_id = sessions.id) \
     AND NOT EXISTS (SELECT 1 FROM operations WHERE operations.tenant_id = sessions.tenant_id \
     AND operations.call_id = sessions.call_id AND operations.session_id = sessions.id)";

/// What is known of the sessions that go next. What was posted of them goes by its foreign key.
async fn remove_with_sessions(conn: &mut Connection, before: Timestamp) -> Result<()> {
    let old = Kind::Sessions.is_old();
    for (table, of_session, session) in [
        ("session_log", "tenant_id, session_id", "tenant_id, id"),
        // By call, which has an index.
        ("operations", "tenant_id, call_id, session_id", "tenant_id, call_id, id"),
    ] {
        let text = format!(
            "DELETE FROM {table} WHERE ({of_session}) IN \
             (SELECT {session} FROM sessions WHERE {old} {SESSION_ORDER} LIMIT {BATCH})"
        );
        execute(conn, text, before).await?;
    }
    Ok(())
}

async fn execute(conn: &mut Connection, text: String, before: Timestamp) -> Result<u64> {
    let statement = diesel::sql_query(text).bind::<Moment, _>(At(before));
    let rows = query!(conn, c => statement.execute(c).await)?;
    Ok(rows as u64)
}

/// Where a row lies: the quickest way back to it.
const fn place(conn: &Connection) -> &'static str {
    match conn {
        Connection::Postgres(_) => "ctid",
        Connection::Sqlite(_) => "rowid",
    }
}

/// Whether nobody else removes, until the transaction ends. SQLite's transactions exclude each other.
async fn alone(conn: &mut Connection) -> Result<bool> {
    let Connection::Postgres(pg) = conn else { return Ok(true) };
    let found: Got = diesel::sql_query(LOCK).get_result(&mut pg.session).await?;
    Ok(found.got)
}
