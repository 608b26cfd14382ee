//! The database: one handle for Postgres and for SQLite, and one query text for both.
//!
//! Stores write a plain diesel expression once, inside [`query!`], which expands it for each kind of connection.
//! What they write runs in a task of its own (on SQLite, on a thread that may block): a caller who goes away (tonic drops
//! the handlers of cancelled calls) neither leaves a transaction open on a pooled connection nor costs the pool one.
//!
//! Absent on purpose: libpq, a check of every connection before it is used (its closing is noticed as it happens,
//! see `connection`).

pub(crate) mod cache;
mod changes;
mod connection;
mod error;
pub(crate) mod examine;
mod meter;
mod migrate;
mod prepared;
mod retention;
pub(crate) mod schema;
mod tls;
pub(crate) mod types;

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, Instant},
};

use deadpool::{
    Runtime,
    managed::{Object, Pool},
};
use diesel::{IntoSql as _, sql_types::Integer};
use diesel_async::RunQueryDsl as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::task::JoinError;
use tracing::Instrument as _;

pub use self::{
    cache::CacheSettings,
    changes::{Change, Listener},
    retention::{Removed, RetentionSettings},
};
pub(crate) use self::{
    connection::{Connection, query},
    error::{corrupt, missing},
    prepared::Prepared,
};
use self::{
    connection::{Manager, where_it_may_block},
    error::unavailable,
};
use crate::domain::{Error, Result, ids::TenantId};

/// How many connections a replica holds to Postgres, how long it waits for one and on one, and which certificates are
/// between the two.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    /// Connections of this replica. Default 16: eight replicas then need 128, which a Postgres of ordinary size
    /// grants, and one statement takes about a millisecond, so 16 carry thousands of calls a second.
    pub max_connections: usize,
    /// Milliseconds until a caller who waits for a connection, new or pooled, is told UNAVAILABLE. Default 2,000:
    /// long enough for a failover of the pool, short enough that callers still have time to try elsewhere.
    pub acquire_timeout_ms: u64,
    /// Milliseconds until Postgres gives a statement up. Default 5,000: ours take milliseconds, so one that takes
    /// seconds waits for a lock or for a sick disk, and should give its connection back.
    pub statement_timeout_ms: u64,
    /// The authorities of the server's certificate, PEM; absent: those of the machine. Only where `sslmode` asks for TLS.
    pub tls_ca_file: Option<PathBuf>,
    /// Our own certificate and what leads to its authority, PEM, for a server that asks for one.
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key_file: Option<PathBuf>,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 16,
            acquire_timeout_ms: 2_000,
            statement_timeout_ms: 5_000,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

/// How much longer than its own timeout Postgres gets to say that a statement has failed. After that it is taken
/// for dead: a machine that vanished never closes its connections.
const STATEMENT_GRACE: Duration = Duration::from_secs(1);

/// SQLite has one writer; a second connection would wait for the first, and a third for the second.
const SQLITE_CONNECTIONS: usize = 1;
/// Behind a slow disk, callers of the one connection queue up; within the deadline of a request they still have time to
/// be served, and there is no other replica to turn to.
const SQLITE_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a store does with a connection.
pub(crate) type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'c>>;

/// A pool of connections to one database. Clones share it.
#[derive(Clone)]
pub struct Database {
    pool: Pool<Manager>,
    /// How long one piece of work may take; unlimited on SQLite, whose work cannot be abandoned half-way.
    patience: Option<Duration>,
}

impl Database {
    /// Connects when first used, so that a replica can start, and say that it is not ready, while Postgres is away.
    pub fn postgres(url: &SecretString, settings: &PoolSettings) -> Result<Self> {
        let statement_timeout = Duration::from_millis(settings.statement_timeout_ms);
        let acquire_timeout = Duration::from_millis(settings.acquire_timeout_ms);
        let manager = Manager::postgres(url.expose_secret(), settings)?;
        let pool = pool(manager, settings.max_connections, acquire_timeout)?;
        Ok(Self { pool, patience: Some(statement_timeout + STATEMENT_GRACE) })
    }

    /// A file; it is made if it does not exist. Not `:memory:`, which would vanish with its connection. It holds the
    /// key that signs tokens, so its owner alone may read it.
    pub fn sqlite(path: &Path) -> Result<Self> {
        private(path).map_err(Error::internal)?;
        let pool = pool(Manager::sqlite(path)?, SQLITE_CONNECTIONS, SQLITE_ACQUIRE_TIMEOUT)?;
        Ok(Self { pool, patience: None })
    }

    /// Brings the schema up to this binary's. Any number of replicas may do so at once.
    pub async fn migrate(&self) -> Result<()> {
        migrate::run(self).await
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        self.of_everyone()
            .run(|conn| {
                Box::pin(async move {
                    query!(conn, c => diesel::select(1.into_sql::<Integer>()).get_result::<i32>(c).await)?;
                    Ok(())
                })
            })
            .await
    }

    /// The rows of one tenant. Every query says so itself; on Postgres row-level security says it once more.
    pub(crate) const fn of(&self, tenant: TenantId) -> Rows<'_> {
        Rows { database: self, reach: Reach::Tenant(tenant) }
    }

    /// The rows of all tenants: for work that belongs to no tenant's request, such as the sweep, or that has yet to
    /// find out whose it is, such as a presented key.
    pub(crate) const fn of_everyone(&self) -> Rows<'_> {
        Rows { database: self, reach: Reach::Everyone }
    }

    /// Does `work` in a task of its own.
    async fn task<T, W>(&self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send + 'static,
    {
        // Waited for by the caller, so that one who goes away leaves the queue.
        let mut conn = self.acquire().await?;
        let Some(patience) = self.patience else {
            return finished(where_it_may_block(async move { work(&mut conn).await }).await);
        };
        let task = async move {
            match tokio::time::timeout(patience, work(&mut conn)).await {
                Ok(result) => result,
                Err(elapsed) => {
                    drop(Object::take(conn));
                    Err(unavailable(elapsed))
                }
            }
        };
        finished(tokio::spawn(task.in_current_span()).await)
    }

    async fn acquire(&self) -> Result<Object<Manager>> {
        self.pool.get().await.map_err(unavailable)
    }
}

/// Whose rows a piece of work reaches.
#[derive(Debug, Clone, Copy)]
enum Reach {
    Tenant(TenantId),
    Everyone,
}

/// The rows within reach, and what may be done with them.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'d> {
    database: &'d Database,
    reach: Reach,
}

impl Rows<'_> {
    /// Does `work` on a connection. It is finished even if the caller goes away. Several statements need not see or
    /// change the same state: that is what [`Rows::transaction`] is for.
    pub(crate) async fn run<T, W>(self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send + 'static,
    {
        let reach = self.reach;
        let task = self.database.task(move |conn| {
            Box::pin(async move {
                match conn {
                    // Row-level security asks for a transaction even around one statement: its setting ends with it.
                    Connection::Postgres(_) => within(conn, reach, work).await,
                    Connection::Sqlite(_) => work(conn).await,
                }
            })
        });
        let began = Instant::now();
        let answer = task.await;
        meter::QUERY.note(&answer, began);
        answer
    }

    /// Does `work` in one transaction: an error rolls it back.
    pub(crate) async fn transaction<T, W>(self, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send + 'static,
    {
        let reach = self.reach;
        let began = Instant::now();
        let answer = self.database.task(move |conn| Box::pin(within(conn, reach, work))).await;
        meter::TRANSACTION.note(&answer, began);
        answer
    }
}

async fn within<T, W>(conn: &mut Connection, reach: Reach, work: W) -> Result<T>
where
    W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T>,
{
    conn.begin(reach).await?;
    match work(&mut *conn).await {
        Ok(value) => {
            conn.commit().await?;
            Ok(value)
        }
        Err(error) => {
            // Where even this fails, the pool finds the transaction open and discards the connection.
            let _ = conn.rollback().await;
            Err(error)
        }
    }
}

fn finished<T>(task: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    task.unwrap_or_else(|panic| Err(Error::internal(panic)))
}

/// Makes the file if there is none, and takes it and its companions from everyone but their owner. SQLite gives new
/// companions the mode of the file.
fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    for companion in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(companion);
        match std::fs::metadata(&name) {
            Ok(found) if found.permissions().mode() & 0o077 != 0 => {
                std::fs::set_permissions(&name, std::fs::Permissions::from_mode(0o600))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn pool(manager: Manager, connections: usize, timeout: Duration) -> Result<Pool<Manager>> {
    Pool::builder(manager)
        .max_size(connections)
        .wait_timeout(Some(timeout))
        .create_timeout(Some(timeout))
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(Error::internal)
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.pool.manager() {
            Manager::Postgres { .. } => "Postgres",
            Manager::Sqlite { .. } => "SQLite",
        };
        f.debug_struct("Database").field("kind", &kind).field("pool", &self.pool.status()).finish_non_exhaustive()
    }
}
