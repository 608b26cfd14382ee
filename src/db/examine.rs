//! What an operator is told about a database before anything relies on it.
//!
//! Nothing is changed: no file is made, no mode mended, no table of migrations set up. On Postgres it is asked over a
//! connection of its own, which is had also where the pool would refuse the role.

use std::{collections::BTreeSet, path::Path};

use diesel::{
    Connection as _, QueryableByName, RunQueryDsl as _, SqliteConnection,
    migration::{Migration, MigrationSource},
    pg::Pg,
    sql_query,
    sql_types::{BigInt, Bool, Integer, Nullable, Text},
    sqlite::Sqlite,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Database, PoolSettings, SQLITE_ACQUIRE_TIMEOUT, SQLITE_CONNECTIONS,
    connection::{Manager, PgSession, connect},
    migrate::{POSTGRES, SQLITE},
    pool,
    tls::Tls,
};
use crate::domain::{Clock, Result, Timestamp, clock::ClockDifference, error::Internal, violations::Violations};

/// What diesel keeps of the migrations that have run.
const MIGRATIONS: &str = "__diesel_schema_migrations";
/// Of the damage that SQLite finds, as much is told.
const DAMAGE_MAX: u8 = 3;

/// A Postgres that answers.
#[derive(Debug)]
pub(crate) struct PostgresFound {
    pub(crate) server: PostgresServer,
    pub(crate) schema: Schema,
    pub(crate) clock: ClockDifference,
}

/// As it describes itself.
#[derive(Debug, QueryableByName)]
pub(crate) struct PostgresServer {
    #[diesel(sql_type = Text)]
    pub(crate) version: String,
    /// Such as 150013.
    #[diesel(sql_type = Integer)]
    pub(crate) version_num: i32,
    #[diesel(sql_type = Text)]
    pub(crate) role: String,
    /// Row-level security does not hold this role.
    #[diesel(sql_type = Bool)]
    pub(crate) bypasses_rls: bool,
    /// It follows another server and cannot be written.
    #[diesel(sql_type = Bool)]
    pub(crate) is_standby: bool,
    #[diesel(sql_type = Integer)]
    pub(crate) max_connections: i32,
    /// Of those, kept for others than us.
    #[diesel(sql_type = Integer)]
    pub(crate) reserved: i32,
    #[diesel(sql_type = BigInt)]
    pub(crate) used: i64,
    /// Of those used, our role's to this database.
    #[diesel(sql_type = BigInt)]
    pub(crate) ours: i64,
    /// That our role may have at most; absent: no limit of its own.
    #[diesel(sql_type = Nullable<Integer>)]
    pub(crate) role_limit: Option<i32>,
    /// The same of the database.
    #[diesel(sql_type = Nullable<Integer>)]
    pub(crate) database_limit: Option<i32>,
}

const SERVER: &str = "SELECT current_setting('server_version') AS version, \
    current_setting('server_version_num')::int AS version_num, current_user::text AS role, \
    (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user) AS bypasses_rls, \
    pg_is_in_recovery() AS is_standby, current_setting('max_connections')::int AS max_connections, \
    current_setting('superuser_reserved_connections')::int \
        + coalesce(nullif(current_setting('reserved_connections', true), '')::int, 0) AS reserved, \
    coalesce((SELECT sum(numbackends) FROM pg_stat_database), 0)::bigint AS used, \
    (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user AND datname = current_database()) AS ours, \
    (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user) AS role_limit, \
    (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()) AS database_limit";

/// How the schema of a database stands to the migrations of this binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Schema {
    /// Migrations of this binary.
    pub(crate) known: usize,
    /// Those that have not run, by name.
    pub(crate) missing: Vec<String>,
    /// Those that have run and that this binary does not know, by version.
    pub(crate) foreign: Vec<String>,
}

impl Schema {
    fn of(known: &[(String, String)], applied: Vec<String>) -> Self {
        let applied: BTreeSet<_> = applied.into_iter().collect();
        let missing = known.iter().filter(|(version, _)| !applied.contains(version)).map(|(_, name)| name.clone());
        let is_foreign = |version: &String| known.iter().all(|(known, _)| known != version);
        let foreign = applied.iter().filter(|version| is_foreign(version)).cloned();
        Self { known: known.len(), missing: missing.collect(), foreign: foreign.collect() }
    }
}

/// A SQLite file that opens.
#[derive(Debug)]
pub(crate) struct SqliteFound {
    pub(crate) version: String,
    pub(crate) schema: Schema,
}

#[derive(QueryableByName)]
struct Answer {
    #[diesel(sql_type = Text)]
    answer: String,
}

/// A line of the pragma of this name.
#[derive(QueryableByName)]
struct Checked {
    #[diesel(sql_type = Text)]
    quick_check: String,
}

#[derive(QueryableByName)]
struct Micros {
    #[diesel(sql_type = BigInt)]
    micros: i64,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Asks the Postgres of `url`. It does not limit its time beyond that of connecting.
pub(crate) async fn postgres(
    url: &SecretString,
    settings: &PoolSettings,
    clock: &dyn Clock,
) -> Result<PostgresFound, Internal> {
    let manager = Manager::postgres(url.expose_secret(), settings).map_err(Internal::new)?;
    let Manager::Postgres { server, .. } = manager else {
        return Err(Internal::new("a URL of Postgres led to another database"));
    };
    let mut session = connect(&server).await?;
    let server = row::<PostgresServer>(&mut session, SERVER).await?;
    let there = format!("SELECT count(*) AS count FROM pg_class WHERE oid = to_regclass('{MIGRATIONS}')");
    let applied = match row::<Count>(&mut session, &there).await?.count {
        0 => Vec::new(),
        _ => rows::<Answer>(&mut session, &applied()).await?,
    };
    let known = known::<Pg>(&POSTGRES).map_err(|error| Internal::new(error.to_string()))?;
    let asked = clock.now();
    let time = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS micros";
    let theirs = Timestamp::from_micros(row::<Micros>(&mut session, time).await?.micros);
    let clock = ClockDifference::found(asked, clock.now(), theirs);
    let schema = Schema::of(&known, applied.into_iter().map(|it| it.answer).collect());
    Ok(PostgresFound { server, schema, clock })
}

/// What keeps `url`, and the files of TLS beside it, from being used. None shows a part of the URL.
pub(crate) fn faults(url: &SecretString, settings: &PoolSettings) -> Vec<String> {
    let mut violations = Violations::default();
    let _parsed = Tls::parse(url.expose_secret(), settings, &mut violations);
    violations.iter().map(|found| format!("{} {}", found.field, found.fault.description)).collect()
}

/// Opens the SQLite file at `path`, which is there. Blocks.
pub(crate) fn sqlite(path: &Path) -> Result<SqliteFound, Internal> {
    let mut file = open(path)?;
    let version = ask(&mut file, "SELECT sqlite_version() AS answer")?.pop().unwrap_or_default();
    let there = format!("SELECT name AS answer FROM sqlite_master WHERE name = '{MIGRATIONS}'");
    let applied = if ask(&mut file, &there)?.is_empty() { Vec::new() } else { ask(&mut file, &applied())? };
    let known = known::<Sqlite>(&SQLITE).map_err(|error| Internal::new(error.to_string()))?;
    Ok(SqliteFound { version, schema: Schema::of(&known, applied) })
}

/// What is damaged in the SQLite file at `path`, which is there; nothing where all is well. Blocks for as long as the
/// file is large.
pub(crate) fn sqlite_damage(path: &Path) -> Result<Vec<String>, Internal> {
    let check = sql_query(format!("PRAGMA quick_check({DAMAGE_MAX})"));
    let found = check.load::<Checked>(&mut open(path)?).map_err(Internal::new)?;
    Ok(found.into_iter().map(|line| line.quick_check).filter(|line| line != "ok").collect())
}

impl Database {
    /// The SQLite file at `path`, which is there, under the mode that it has.
    pub(crate) fn sqlite_as_it_is(path: &Path) -> Result<Self> {
        let pool = pool(Manager::sqlite(path)?, SQLITE_CONNECTIONS, SQLITE_ACQUIRE_TIMEOUT)?;
        Ok(Self { pool, patience: None })
    }
}

fn open(path: &Path) -> Result<SqliteConnection, Internal> {
    let name = path.to_str().ok_or_else(|| Internal::new("its path is not UTF-8"))?;
    let mut file = SqliteConnection::establish(name).map_err(Internal::new)?;
    sql_query("PRAGMA busy_timeout = 5000").execute(&mut file).map_err(Internal::new)?;
    Ok(file)
}

fn ask(file: &mut SqliteConnection, sql: &str) -> Result<Vec<String>, Internal> {
    let rows = sql_query(sql).load::<Answer>(file).map_err(Internal::new)?;
    Ok(rows.into_iter().map(|row| row.answer).collect())
}

fn applied() -> String {
    format!("SELECT version AS answer FROM {MIGRATIONS} ORDER BY version")
}

async fn row<T: QueryableByName<Pg> + Send + 'static>(session: &mut PgSession, sql: &str) -> Result<T, Internal> {
    let result = diesel_async::RunQueryDsl::get_result(sql_query(sql), &mut session.session).await;
    result.map_err(Internal::new)
}

async fn rows<T: QueryableByName<Pg> + Send + 'static>(session: &mut PgSession, sql: &str) -> Result<Vec<T>, Internal> {
    let result = diesel_async::RunQueryDsl::load(sql_query(sql), &mut session.session).await;
    result.map_err(Internal::new)
}

/// Versions and names of a binary's migrations.
fn known<DB: diesel::backend::Backend>(
    migrations: &impl MigrationSource<DB>,
) -> diesel::migration::Result<Vec<(String, String)>> {
    let named = |it: Box<dyn Migration<DB>>| (it.name().version().to_string(), it.name().to_string());
    Ok(migrations.migrations()?.into_iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(applied: &[&str]) -> Schema {
        let known = [("1", "1_initial"), ("2", "2_more")].map(|(version, name)| (version.to_owned(), name.to_owned()));
        Schema::of(&known, applied.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_schema_is_equal_behind_ahead_or_another() {
        let (behind, ahead, other) = (schema(&["1"]), schema(&["2", "3", "1"]), schema(&["4"]));
        assert_eq!(schema(&["2", "1"]), Schema { known: 2, missing: vec![], foreign: vec![] });
        assert_eq!((behind.missing, behind.foreign), (vec!["2_more".to_owned()], vec![]));
        assert_eq!((ahead.missing, ahead.foreign), (vec![], vec!["3".to_owned()]));
        assert_eq!((other.missing.len(), other.foreign.len()), (2, 1));
    }

    #[test]
    fn a_url_that_is_none_is_told_without_a_word_of_it() {
        let faults = |url: &str| faults(&url.to_owned().into(), &PoolSettings::default()).join("; ");
        for text in ["postgress://u:hunter2@h/d?sslmode=disable", "hunter2", "hunter2=1", "postgres://u@h/d?hunter2=1"]
        {
            let told = faults(text);
            assert!(told.contains("database_url") && !told.contains("hunter2"), "{text}: {told}");
        }
        assert_eq!(faults("postgres://u@h/d"), "");
    }
}
