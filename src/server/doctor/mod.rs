//! `voxgate doctor`: looks at an installation as the service would find it, and says what to mend.
//!
//! One check, one line, each in a file of its concern. Nothing is changed, made or waited for beyond [`WITHIN`], and a
//! check that fails hides no other: what could not be looked at because of it is named in its line. Which home of
//! state is looked at is what the configuration says: with no URL of a server it is the embedded one. No line shows a
//! secret (`report`).
//!
//! Deliberately absent: anything that only a running service knows. That is what `/readyz`, `/metrics` and the log say.

mod certificates;
mod clocks;
mod configuration;
mod postgres;
mod redis;
mod report;
mod sealed;
mod sqlite;

use std::{path::Path, sync::Arc, time::Duration};

use secrecy::SecretString;
use tokio::{task::spawn_blocking, time::timeout};

pub use self::report::Report;
use self::report::{Finding, Redacted};
use crate::{
    config::Config,
    domain::{Clock, clock::SystemClock},
};

/// Far beyond a server that is well, and within a person's patience.
const WITHIN: Duration = Duration::from_secs(15);

/// Looks at the installation that `file` and the environment describe.
pub async fn examine(file: Option<&Path>) -> Report {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (config, mut findings) = configuration::examine(file);
    let Some(config) = config else { return Report::new(findings, &Redacted::default()) };
    let certificates = async { limited_blocking("tls", &config, &clock, certificates::examine).await };
    let stores = async {
        match (&config.database_url, &config.redis_url) {
            (None, None) => embedded(&config).await,
            (database, redis) => production(&config, database.as_ref(), redis.as_ref(), &clock).await,
        }
    };
    let (certificates, stores) = tokio::join!(certificates, stores);
    findings.extend(stores);
    findings.extend(certificates);
    Report::new(findings, &Redacted::of(&config))
}

/// Postgres and Redis, as `voxgate serve` needs them.
async fn production(
    config: &Config,
    database: Option<&SecretString>,
    redis: Option<&SecretString>,
    clock: &Arc<dyn Clock>,
) -> Vec<Finding> {
    let of_database = async {
        let Some(url) = database else { return (vec![postgres::absent()], None) };
        let (mut findings, found) = match limited("database", postgres::examine(url, config, &**clock)).await {
            Ok((findings, found)) => (findings, found),
            Err(late) => (vec![late], None),
        };
        let opened = sealed::on_postgres(config, url, found.as_ref());
        findings.extend(limited("key_ring.database", opened).await.unwrap_or_else(|late| vec![late]));
        (findings, found.map(|found| found.clock))
    };
    let of_redis = async {
        let Some(url) = redis else { return (vec![redis::absent()], Vec::new()) };
        limited("redis", redis::examine(url, config, &**clock)).await.unwrap_or_else(|late| (vec![late], Vec::new()))
    };
    let ((mut findings, database_clock), (of_redis, redis_clocks)) = tokio::join!(of_database, of_redis);
    findings.extend(of_redis);
    findings.extend(clocks::compare(database_clock, redis_clocks));
    findings
}

/// SQLite in the data folder, as `voxgate dev` keeps it.
async fn embedded(config: &Config) -> Vec<Finding> {
    let folder = config.data_dir.clone();
    let (mut findings, file) = match limited("database", join(spawn_blocking(move || sqlite::examine(&folder)))).await {
        Ok(found) => found,
        Err(late) => (vec![late], None),
    };
    if let Some(file) = &file {
        let damaged = file.clone();
        let integrity = join(spawn_blocking(move || sqlite::integrity(&damaged)));
        findings.push(limited("database.integrity", integrity).await.unwrap_or_else(|late| late));
    }
    let opened = sealed::on_sqlite(config, file.as_deref());
    findings.extend(limited("key_ring.database", opened).await.unwrap_or_else(|late| vec![late]));
    findings
}

/// What `work` answers, or that it took too long.
async fn limited<T>(check: &'static str, work: impl Future<Output = T>) -> Result<T, Finding> {
    timeout(WITHIN, work).await.map_err(|_| {
        let found = format!("it was not looked at to its end, which did not come within {} s", WITHIN.as_secs());
        Finding::fault(check, found, "see what keeps it: the network, the disk, or the server itself")
    })
}

async fn limited_blocking(
    check: &'static str,
    config: &Config,
    clock: &Arc<dyn Clock>,
    work: impl FnOnce(&Config, &Arc<dyn Clock>) -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    let (config, clock) = (config.clone(), clock.clone());
    let work = join(spawn_blocking(move || work(&config, &clock)));
    limited(check, work).await.unwrap_or_else(|late| vec![late])
}

async fn join<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
