//! The audit log in SQL. On Postgres one statement takes a whole batch, as `write` does it.

use async_trait::async_trait;
use diesel::{
    BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _, SelectableHelper as _, SqliteConnection,
    prelude::{Insertable, Queryable, Selectable},
    sql_types::{Array, Nullable, Text},
};
use diesel_async::RunQueryDsl as _;

use crate::{
    db::{
        Connection, Database, Prepared, corrupt, query,
        schema::audit_entries,
        types::{At, Document, Id, Json, Moment, Uid},
    },
    domain::{
        Error, Result,
        audit::{AuditEntry, AuditFilter},
        ids::{CallId, TenantId},
        page::{Cursor, PageRequest},
    },
    sessions::{AuditPage, AuditStore},
};

/// In the order of the table's columns, of which the tenant is the first.
const INSERT: &str = "INSERT INTO audit_entries \
    (tenant_id, id, created_at, actor, action, target, call_id, session_id, error_reason, details) \
    SELECT $1, * FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING";

#[derive(Debug, Clone)]
pub struct SqlAuditStore {
    db: Database,
}

impl SqlAuditStore {
    pub const fn new(db: Database) -> Self {
        Self { db }
    }
}

#[async_trait]
impl AuditStore for SqlAuditStore {
    async fn append(&self, tenant: TenantId, entries: &[AuditEntry]) -> Result<()> {
        let rows = entries.iter().map(|entry| AuditRow::of(tenant, entry)).collect::<Result<Vec<_>>>()?;
        self.db.of(tenant).transaction(move |conn| Box::pin(insert(conn, tenant, rows))).await
    }

    async fn list(&self, tenant: TenantId, filter: &AuditFilter, page: PageRequest) -> Result<AuditPage> {
        let filter = filter.clone();
        let rows = self.db.of(tenant).run(move |conn| Box::pin(select(conn, tenant, filter, page))).await?;
        let mut entries = rows.into_iter().map(AuditEntry::try_from).collect::<Result<Vec<_>>>()?;
        let more = entries.len() > usize::from(page.size);
        entries.truncate(usize::from(page.size));
        let next = entries.last().filter(|_| more).map(AuditEntry::cursor);
        Ok(AuditPage { entries, next })
    }
}

async fn insert(conn: &mut Connection, tenant: TenantId, rows: Vec<AuditRow>) -> Result<()> {
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
                .bind::<Array<Moment>, _>(column!(created_at: At))
                .bind::<Array<Text>, _>(column!(actor: String))
                .bind::<Array<Text>, _>(column!(action: String))
                .bind::<Array<Text>, _>(column!(target: String))
                .bind::<Array<Text>, _>(column!(call_id: String))
                .bind::<Array<Nullable<Id>>, _>(column!(session_id: Option<Uid>))
                .bind::<Array<Text>, _>(column!(error_reason: String))
                .bind::<Array<Document>, _>(column!(details: Json));
            Prepared(query).execute(&mut pg.session).await?;
        }
        Connection::Sqlite(sqlite) => {
            let insert = move |c: &mut SqliteConnection| {
                for row in rows {
                    let insert = diesel::insert_into(audit_entries::table).values(row).on_conflict_do_nothing();
                    diesel::RunQueryDsl::execute(insert, c)?;
                }
                Ok(())
            };
            sqlite.spawn_blocking(insert).await?;
        }
    }
    Ok(())
}

async fn select(
    conn: &mut Connection,
    tenant: TenantId,
    filter: AuditFilter,
    page: PageRequest,
) -> Result<Vec<AuditRow>> {
    Ok(query!(conn, c => {
        let of_tenant = audit_entries::table.filter(audit_entries::tenant_id.eq(tenant));
        let mut rows = of_tenant.select(AuditRow::as_select()).into_boxed();
        if let Some(call) = &filter.call {
            rows = rows.filter(audit_entries::call_id.eq(call.as_str().to_owned()));
        }
        if let Some(session) = filter.session {
            rows = rows.filter(audit_entries::session_id.eq(session));
        }
        if let Some(action) = filter.action.clone() {
            rows = rows.filter(audit_entries::action.eq(action));
        }
        if let Some(from) = filter.from {
            rows = rows.filter(audit_entries::created_at.ge(from));
        }
        if let Some(before) = filter.before {
            rows = rows.filter(audit_entries::created_at.lt(before));
        }
        if let Some(Cursor { created_at, id }) = page.after {
            rows = rows.filter(audit_entries::created_at.le(created_at));
            rows = rows.filter(audit_entries::created_at.lt(created_at).or(audit_entries::id.lt(Uid(id))));
        }
        rows.order((audit_entries::created_at.desc(), audit_entries::id.desc()))
            .limit(i64::from(page.size) + 1)
            .load(c)
            .await
    })?)
}

#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = audit_entries, treat_none_as_default_value = false)]
struct AuditRow {
    tenant_id: Uid,
    id: Uid,
    created_at: At,
    actor: String,
    action: String,
    target: String,
    call_id: String,
    session_id: Option<Uid>,
    error_reason: String,
    details: Json,
}

impl AuditRow {
    fn of(tenant: TenantId, entry: &AuditEntry) -> Result<Self> {
        Ok(Self {
            tenant_id: tenant.into(),
            id: entry.id.into(),
            created_at: entry.at.into(),
            actor: entry.actor.clone(),
            action: entry.action.clone(),
            target: entry.target.clone(),
            call_id: entry.call.as_ref().map(CallId::as_str).unwrap_or_default().to_owned(),
            session_id: entry.session.map(Into::into),
            error_reason: entry.error_reason.clone(),
            details: Json::of(&entry.details)?,
        })
    }
}

impl TryFrom<AuditRow> for AuditEntry {
    type Error = Error;

    fn try_from(row: AuditRow) -> Result<Self> {
        let call = Some(row.call_id).filter(|call| !call.is_empty()).map(|call| call.parse()).transpose();
        Ok(Self {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            at: row.created_at.into(),
            actor: row.actor,
            action: row.action,
            target: row.target,
            call: call.map_err(|_| corrupt("audit_entries.call_id"))?,
            session: row.session_id.map(Into::into),
            error_reason: row.error_reason,
            details: row.details.read("audit_entries.details")?,
        })
    }
}
