//! Connections: how they are made, when the pool throws one away, and how one query text serves both kinds.
//!
//! A pooled Postgres connection is not asked whether it lives before it is used, which would double the number of
//! round trips. Instead the task that drives its socket notes that the socket has closed, and the pool looks at that
//! note: after a restart of Postgres no caller is handed a connection from before it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use diesel::{QueryResult, SqliteConnection, sql_types::Bool};
use diesel_async::{
    AnsiTransactionManager, AsyncConnection, AsyncPgConnection, SimpleAsyncConnection as _, TransactionManager,
    sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper},
};
use futures_util::future::{BoxFuture, ready};
use tokio::{runtime::Handle, task::JoinError};
use tokio_postgres::{Client, Socket};
use tower::BoxError;
use tracing::Span;

use super::{
    PoolSettings, Reach,
    tls::{Protected, Tls},
};
use crate::domain::{Error, Result, error::Internal, violations::Violations};

/// The word for all tenants in `voxgate.tenant`, as the policies of the migrations know it.
pub(super) const EVERYONE: &str = "everyone";

pub(crate) type SqliteSession = SyncConnectionWrapper<SqliteConnection, InPlace>;
type PgTransactions = <AsyncPgConnection as AsyncConnection>::TransactionManager;
type SqliteTransactions = <SqliteSession as AsyncConnection>::TransactionManager;

/// Does SQLite's `work` on a thread that may block: all of it, since the way there and back takes longer than a statement.
pub(super) async fn where_it_may_block<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, JoinError> {
    let (span, runtime) = (Span::current(), Handle::current());
    tokio::task::spawn_blocking(move || span.in_scope(|| runtime.block_on(work))).await
}

/// Each statement where it is asked for.
#[derive(Debug)]
pub(crate) struct InPlace;

impl SpawnBlocking for InPlace {
    fn spawn_blocking<'a, R: Send + 'static>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, BoxError>> {
        Box::pin(ready(Ok(task())))
    }

    fn get_runtime() -> Self {
        Self
    }
}

pub(crate) enum Connection {
    Postgres(Box<PgSession>),
    Sqlite(SqliteSession),
}

pub(crate) struct PgSession {
    pub(crate) session: AsyncPgConnection,
    /// Set when the socket has closed.
    closed: Arc<AtomicBool>,
}

/// Runs one diesel expression on either kind of connection: `query!(conn, c => agents.load::<Row>(c).await)`.
macro_rules! query {
    ($conn:expr, $c:ident => $query:expr) => {
        match &mut *$conn {
            $crate::db::Connection::Postgres(postgres) => {
                let $c = &mut postgres.session;
                $query
            }
            $crate::db::Connection::Sqlite($c) => $query,
        }
    };
}
pub(crate) use query;

impl Connection {
    pub(super) async fn begin(&mut self, reach: Reach) -> QueryResult<()> {
        match self {
            // One round trip for both. The setting ends with the transaction, so no tenant's reach is left behind on
            // a pooled connection.
            Self::Postgres(pg) => {
                let whose = match reach {
                    Reach::Tenant(tenant) => tenant.to_string(),
                    Reach::Everyone => EVERYONE.to_owned(),
                };
                let begin = format!("BEGIN; SET LOCAL voxgate.tenant = '{whose}'");
                AnsiTransactionManager::begin_transaction_sql(&mut pg.session, &begin).await
            }
            // IMMEDIATE: a transaction that took the write lock only at its first write could find that another
            // process has written since its first read, and fail.
            Self::Sqlite(sqlite) => {
                let begin = |c: &mut SqliteConnection| {
                    diesel::connection::AnsiTransactionManager::begin_transaction_sql(c, "BEGIN IMMEDIATE")
                };
                sqlite.spawn_blocking(begin).await
            }
        }
    }

    pub(super) async fn commit(&mut self) -> QueryResult<()> {
        match self {
            Self::Postgres(pg) => PgTransactions::commit_transaction(&mut pg.session).await,
            Self::Sqlite(sqlite) => SqliteTransactions::commit_transaction(sqlite).await,
        }
    }

    pub(super) async fn rollback(&mut self) -> QueryResult<()> {
        match self {
            Self::Postgres(pg) => PgTransactions::rollback_transaction(&mut pg.session).await,
            Self::Sqlite(sqlite) => SqliteTransactions::rollback_transaction(sqlite).await,
        }
    }

    fn is_broken(&mut self) -> bool {
        match self {
            Self::Postgres(pg) => {
                pg.closed.load(Ordering::Acquire)
                    || AnsiTransactionManager::is_broken_transaction_manager(&mut pg.session)
            }
            Self::Sqlite(sqlite) => SqliteTransactions::is_broken_transaction_manager(sqlite),
        }
    }
}

/// Five seconds, as busy_timeout.
const BUSY_TRIES: u32 = 100;
const BUSY_WAIT: Duration = Duration::from_millis(50);

/// Makes connections for the pool.
pub(crate) enum Manager {
    Postgres { server: Box<Server>, statement_timeout: Duration },
    Sqlite { path: String },
}

impl Manager {
    pub(super) fn postgres(url: &str, settings: &PoolSettings) -> Result<Self> {
        let connect_timeout = Duration::from_millis(settings.acquire_timeout_ms);
        let statement_timeout = Duration::from_millis(settings.statement_timeout_ms);
        let mut violations = Violations::default();
        let parsed = Tls::parse(url, settings, &mut violations);
        let (mut config, tls) = violations.into_result(parsed)?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(connect_timeout);
        }
        if config.get_application_name().is_none() {
            config.application_name("voxgate");
        }
        Ok(Self::Postgres { server: Box::new(Server { config, tls }), statement_timeout })
    }

    pub(super) fn sqlite(path: &Path) -> Result<Self> {
        let path = path.to_str().ok_or_else(|| Error::internal("the path of the SQLite file is not UTF-8"))?;
        Ok(Self::Sqlite { path: path.to_owned() })
    }
}

impl managed::Manager for Manager {
    type Type = Connection;
    type Error = Internal;

    async fn create(&self) -> Result<Connection, Internal> {
        match self {
            Self::Postgres { server, statement_timeout } => {
                // A transaction that nobody continues (our machine froze) must not hold its locks for long.
                let millis = statement_timeout.as_millis();
                let limits =
                    format!("SET statement_timeout = {millis}; SET idle_in_transaction_session_timeout = {millis}");
                let mut session = connect(server).await?;
                session.session.batch_execute(&limits).await.map_err(Internal::new)?;
                must_be_fenced(&mut session.session).await?;
                Ok(Connection::Postgres(Box::new(session)))
            }
            Self::Sqlite { path } => {
                let path = path.clone();
                where_it_may_block(async move { open(&path).await })
                    .await
                    .map_err(Internal::new)?
                    .map(Connection::Sqlite)
            }
        }
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<Internal> {
        if connection.is_broken() { Err(RecycleError::message("the connection is broken")) } else { Ok(()) }
    }
}

/// Row-level security holds nobody back who may bypass it, and a fence that does not hold must not look like one.
async fn must_be_fenced(session: &mut AsyncPgConnection) -> Result<(), Internal> {
    use diesel_async::RunQueryDsl as _;
    let sql = "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user";
    let bypasses = diesel::dsl::sql::<Bool>(sql).get_result::<bool>(session).await.map_err(Internal::new)?;
    if bypasses {
        return Err(Internal::new(
            "this Postgres role bypasses row-level security: connect as one that is neither SUPERUSER nor BYPASSRLS",
        ));
    }
    Ok(())
}

/// Where Postgres is, and how the way there is protected.
pub(crate) struct Server {
    config: tokio_postgres::Config,
    tls: Tls,
}

impl Server {
    /// The one way to a connection: none goes round what `sslmode` asks for.
    pub(super) async fn dial(
        &self,
    ) -> Result<(Client, tokio_postgres::Connection<Socket, Protected<Socket>>), Internal> {
        let connector = self.tls.connector().await?;
        self.config.connect(connector).await.map_err(Internal::new)
    }
}

/// A new connection to Postgres, without limits yet.
pub(super) async fn connect(server: &Server) -> Result<PgSession, Internal> {
    let (client, driver) = server.dial().await?;
    let closed = Arc::new(AtomicBool::new(false));
    let note = closed.clone();
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::warn!(error = %error, "a connection to Postgres was lost");
        }
        note.store(true, Ordering::Release);
    });
    // `error` tells a timeout by its text, which would otherwise be in the server's language. Where the setting is
    // reserved to superusers this fails, and that language has to be English.
    let _ = client.batch_execute("SET lc_messages = 'C'").await;
    let session = AsyncPgConnection::try_from(client).await.map_err(Internal::new)?;
    Ok(PgSession { session, closed })
}

async fn open(path: &str) -> Result<SqliteSession, Internal> {
    let mut session = SqliteSession::establish(path).await.map_err(Internal::new)?;
    // NORMAL syncs at checkpoints: a power cut may take the last commits with it, never the file.
    let settings = "PRAGMA busy_timeout = 5000; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON";
    session.batch_execute(settings).await.map_err(Internal::new)?;
    // WAL lets the command line read while the service writes; busy_timeout above is for when both write. The change
    // itself takes the whole file and does not wait for another that is at it.
    for _ in 0..BUSY_TRIES {
        match session.batch_execute("PRAGMA journal_mode = WAL").await {
            Err(error) if error.to_string().contains("locked") => tokio::time::sleep(BUSY_WAIT).await,
            done => return done.map(|()| session).map_err(Internal::new),
        }
    }
    Err(Internal::new("the SQLite file is kept locked by another process"))
}
