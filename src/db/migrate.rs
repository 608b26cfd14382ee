//! Migrations, inside the binary: `migrations/postgres` and `migrations/sqlite` say the same in two dialects.
//!
//! On Postgres they run under an advisory lock: of eight replicas that start at once, one migrates and seven find
//! nothing left to do. The previous binary may still run against the new schema, so a migration expands, and
//! a later release contracts. (000003 is the exception: no release ran against what it drops.)

use diesel::result::Error as Failure;
use diesel_async::{SimpleAsyncConnection as _, async_connection_wrapper::AsyncConnectionWrapper};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::{
    Connection, Database,
    connection::{EVERYONE, Manager, PgSession, connect},
    error::unavailable,
};
use crate::domain::{Error, Result};

pub(super) const POSTGRES: EmbeddedMigrations = embed_migrations!("migrations/postgres");
pub(super) const SQLITE: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// The lock's name, in all databases of a server: any number that nobody else uses ("voxgate" in ASCII).
const LOCK: i64 = 0x0076_6f78_6761_7465;
/// A replica waits this long for another one's migrations.
const WAIT_FOR_OTHERS: &str = "60s";
/// A migration waits this long for a table; while it waits, every query on that table waits behind it.
const WAIT_FOR_TABLE: &str = "5s";

pub(super) async fn run(database: &Database) -> Result<()> {
    match database.pool.manager() {
        Manager::Postgres { server, .. } => {
            // Not a pooled one: its statements may take longer than a call's.
            postgres(connect(server).await.map_err(unavailable)?).await
        }
        Manager::Sqlite { .. } => sqlite(database).await,
    }
}

async fn postgres(connection: PgSession) -> Result<()> {
    let mut session = connection.session;
    let lock = format!("SET lock_timeout = '{WAIT_FOR_OTHERS}'; SELECT pg_advisory_lock({LOCK})");
    session.batch_execute(&lock).await?;
    // A migration that fills a column is about the rows of all tenants.
    let reach = format!("SET lock_timeout = '{WAIT_FOR_TABLE}'; SET voxgate.tenant = '{EVERYONE}'");
    session.batch_execute(&reach).await?;
    // diesel's migrations are synchronous and would block a runtime's thread. The lock ends with the connection,
    // which ends here.
    let migrate = move || apply(&mut AsyncConnectionWrapper::<_>::from(session), POSTGRES).map_err(Error::internal);
    tokio::task::spawn_blocking(migrate).await.map_err(Error::internal)?
}

async fn sqlite(database: &Database) -> Result<()> {
    database
        .task(|conn| {
            Box::pin(async move {
                let Connection::Sqlite(session) = conn else {
                    return Err(Error::internal("a pool of SQLite held a connection to Postgres"));
                };
                // One transaction around all of it: another process with the same file waits for its end.
                let migrate = |c: &mut diesel::SqliteConnection| {
                    c.immediate_transaction(|c| apply(c, SQLITE).map_err(Failure::QueryBuilderError))
                };
                Ok(session.spawn_blocking(migrate).await?)
            })
        })
        .await
}

fn apply<DB: diesel::backend::Backend>(
    harness: &mut impl MigrationHarness<DB>,
    migrations: EmbeddedMigrations,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    EmbeddedMigrations: diesel::migration::MigrationSource<DB>,
{
    for version in harness.run_pending_migrations(migrations)? {
        tracing::info!(migration = %version, "migrated the database");
    }
    Ok(())
}
