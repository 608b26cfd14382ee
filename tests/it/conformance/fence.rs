//! Postgres fences tenants once more than the queries do: the service's role sees what its transaction says, and nothing
//! without saying.

use diesel::{
    QueryableByName,
    sql_types::{BigInt, Text},
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};

use super::Stores;
use crate::harness::postgres::{as_superuser, execute, fresh_database, patient};

#[derive(QueryableByName)]
struct Table {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    tenant_column: String,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

async fn connect(url: &str) -> AsyncPgConnection {
    AsyncPgConnection::establish(url).await.expect("a connection")
}

/// Every table of the schema that has rows of tenants, whoever added it.
async fn tables(connection: &mut AsyncPgConnection) -> Vec<Table> {
    let sql = "SELECT table_name::text AS name, column_name::text AS tenant_column FROM information_schema.columns \
        WHERE table_schema = 'public' AND (column_name = 'tenant_id' OR (table_name, column_name) = ('tenants', 'id'))";
    diesel::sql_query(sql).load(connection).await.expect("tables")
}

async fn count(connection: &mut AsyncPgConnection, condition: &str, table: &Table) -> i64 {
    let sql = format!("SELECT count(*) AS count FROM {} WHERE {}", table.name, condition);
    diesel::sql_query(sql).get_result::<Count>(connection).await.expect("a count").count
}

/// One row of each kind, of two tenants.
async fn filled() -> (String, String, String) {
    let url = fresh_database();
    let database = patient(&url);
    let stores = Stores::of(database, None);
    let (ours, theirs) = (stores.tenant().await, stores.tenant().await);
    for tenant in [ours, theirs] {
        stores.session(tenant, "call").await;
    }
    (url, ours.to_string(), theirs.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_sql_without_a_tenant_sees_no_row_and_with_one_its_rows_alone() {
    let (url, ours, theirs) = filled().await;
    let mut service = connect(&url).await;
    let tables = tables(&mut service).await;
    assert!(tables.len() >= 7, "the tables are found");
    for table in &tables {
        assert_eq!(count(&mut service, "true", table).await, 0, "{}", table.name);
    }
    service.batch_execute(&format!("BEGIN; SET LOCAL voxgate.tenant = '{ours}'")).await.expect("begun");
    let mut seen = 0;
    for table in &tables {
        seen += count(&mut service, "true", table).await;
        assert_eq!(count(&mut service, &format!("{} = '{theirs}'", table.tenant_column), table).await, 0);
    }
    assert!(seen >= 4, "a tenant, an agent, its revision and a session; not {seen}");
    service.batch_execute("COMMIT").await.expect("ended");
    for table in &tables {
        assert_eq!(count(&mut service, "true", table).await, 0, "the reach ends with its transaction: {}", table.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_reach_writes_no_row_of_another() {
    let (url, ours, theirs) = filled().await;
    let mut service = connect(&url).await;
    let within = |sql: String| format!("BEGIN; SET LOCAL voxgate.tenant = '{ours}'; {sql}");
    let stolen = within(format!("UPDATE voice_agents SET tenant_id = '{theirs}' WHERE tenant_id = '{ours}'"));
    let error = service.batch_execute(&stolen).await.expect_err("refused").to_string();
    assert!(error.contains("row-level security"), "{error}");
    service.batch_execute("ROLLBACK").await.expect("rolled back");
    let harmless = within(format!("UPDATE voice_agents SET name = 'x' WHERE tenant_id = '{theirs}'; COMMIT"));
    service.batch_execute(&harmless).await.expect("it finds nothing to change");
    let check = "DO $$ BEGIN ASSERT (SELECT count(*) FROM voice_agents WHERE name = 'x') = 0; END $$";
    execute(&as_superuser(&url), check).expect("nothing changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_bypasses_the_fence_is_refused() {
    let url = as_superuser(&fresh_database());
    let database = patient(&url);
    let error = database.ping().await.expect_err("refused");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("bypasses row-level security"), "{cause}");
}
