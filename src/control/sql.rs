//! Operations in SQL.

mod row;

use async_trait::async_trait;
use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::RunQueryDsl as _;

use self::row::{OperationRow, Outcome};
use super::{Begun, Operation, OperationState, OperationStore};
use crate::{
    db::{Connection, Database, Prepared, query, schema::operations, types::At},
    domain::{
        Error, Result,
        clock::Timestamp,
        error::Dependency,
        ids::{CallId, IdempotencyKey, OperationId, TenantId},
    },
};

/// A key that is forgotten and taken again this often while we look is not a race but a fault.
const BEGIN_ATTEMPTS: usize = 8;

#[derive(Debug, Clone)]
pub struct SqlOperationStore {
    db: Database,
}

impl SqlOperationStore {
    pub const fn new(db: Database) -> Self {
        Self { db }
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

    async fn record(&self, tenant: TenantId, operation: &Operation) -> Result<bool> {
        let change = Outcome::of(operation)?;
        let id = operation.id;
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let unfinished = operations::table
                        .find((tenant, id))
                        .filter(operations::state.ne(OperationState::Succeeded.as_str()))
                        .filter(operations::state.ne(OperationState::Failed.as_str()));
                    let written = query!(conn, c => Prepared(diesel::update(unfinished).set(change)).execute(c).await)?;
                    Ok(written == 1)
                })
            })
            .await
    }

    async fn get(&self, tenant: TenantId, id: OperationId) -> Result<Option<Operation>> {
        self.db
            .of(tenant)
            .run(move |conn| {
                Box::pin(async move {
                    let found = operations::table.find((tenant, id));
                    let row = query!(conn, c => found.select(OperationRow::as_select()).first(c).await).optional()?;
                    row.map(Operation::try_from).transpose()
                })
            })
            .await
    }
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
