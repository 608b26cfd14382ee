//! The audit log: one entry an attempt, written in batches, before the attempt is answered.
//!
//! What is noted at one moment is written together, in one transaction a tenant, and whoever noted it waits for the
//! commit, though not for long: while the database is away an attempt is answered all the same, and its entry waits
//! here. What finds no room, or has waited too long, is lost; that is counted and logged.
//!
//! A flood costs one entry a second: denials for the rate that are alike are counted, and nobody waits for them.
//! Entries are in this process alone until they are committed; a replica that is killed takes them along, and with
//! them what was never answered, a second of a flood, and what waited for a database that was away.

mod floods;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::floods::Floods;
use crate::domain::{
    Error, Result,
    audit::{AuditEntry, AuditFilter},
    ids::TenantId,
    page::{Cursor, PageRequest},
};

/// Entries that wait on this replica: some KiB each, and seconds of a busy one.
const WAITING_MAX: usize = 20_000;
/// Entries that are written at a time.
const BATCH_MAX: usize = 500;
/// Tenants that are written for at once: a quarter of the pool, which has other work too.
const TENANTS_AT_ONCE: usize = 4;
/// How long an attempt waits for its entry. A commit takes milliseconds.
pub const AUDIT_PATIENCE: Duration = Duration::from_secs(1);
/// How long an entry waits for the database: a failover.
const KEPT_FOR: Duration = Duration::from_mins(1);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Entries, newest first, and where the next page starts.
#[derive(Debug, Clone)]
pub struct AuditPage {
    pub entries: Vec<AuditEntry>,
    pub next: Option<Cursor>,
}

#[async_trait]
pub trait AuditStore: Send + Sync + std::fmt::Debug {
    /// Writes all of them or none. One that is there already stays as it is.
    async fn append(&self, tenant: TenantId, entries: &[AuditEntry]) -> Result<()>;

    /// Newest first.
    async fn list(&self, tenant: TenantId, filter: &AuditFilter, page: PageRequest) -> Result<AuditPage>;
}

#[derive(Debug)]
pub struct AuditLog {
    store: Arc<dyn AuditStore>,
    state: Mutex<State>,
    wake: Notify,
    /// The last write has failed for want of the database: nobody waits for the next.
    is_away: AtomicBool,
    /// Nothing was written since a loss was logged: it is not logged again.
    has_told: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    floods: Floods,
}

#[derive(Debug)]
struct Waiting {
    entry: AuditEntry,
    since: Instant,
    written: Option<oneshot::Sender<()>>,
}

impl Waiting {
    fn new(entry: AuditEntry) -> Self {
        Self { entry, since: Instant::now(), written: None }
    }
}

impl AuditLog {
    pub fn new(store: Arc<dyn AuditStore>) -> Self {
        Self {
            store,
            state: Mutex::default(),
            wake: Notify::new(),
            is_away: AtomicBool::new(false),
            has_told: AtomicBool::new(false),
        }
    }

    pub async fn list(&self, tenant: TenantId, filter: &AuditFilter, page: PageRequest) -> Result<AuditPage> {
        self.store.list(tenant, filter, page).await
    }

    /// Takes the entry, and waits until it is written or has to wait too long. A caller that leaves meanwhile has left
    /// its entry here.
    pub async fn note(&self, entry: AuditEntry) {
        let written = self.take(entry);
        self.wake.notify_one();
        if let Some(written) = written
            && !self.is_away.load(Ordering::Acquire)
        {
            let _ = tokio::time::timeout(AUDIT_PATIENCE, written).await;
        }
    }

    fn take(&self, entry: AuditEntry) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state();
        if entry.is_of_a_flood() {
            state.floods.take(entry);
            return None;
        }
        if state.waiting.len() >= WAITING_MAX {
            drop(state);
            self.lose(1, "too many wait");
            return None;
        }
        let (told, written) = oneshot::channel();
        state.waiting.push_back(Waiting { written: Some(told), ..Waiting::new(entry) });
        Some(written)
    }

    /// Writes what is noted until everybody has `said_all`, and then what is left.
    pub async fn write_until(&self, said_all: CancellationToken) {
        loop {
            let is_last = said_all.is_cancelled();
            let next_flood = self.end_floods(is_last);
            let batch = self.next_batch();
            if batch.is_empty() {
                if is_last {
                    return;
                }
                let flood_ends = async {
                    match next_flood {
                        Some(end) => tokio::time::sleep_until(end).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = flood_ends => {}
                    () = said_all.cancelled() => {}
                }
                continue;
            }
            let left = self.write(batch).await;
            self.is_away.store(!left.is_empty(), Ordering::Release);
            if !left.is_empty() {
                let give_up = if is_last { Duration::ZERO } else { KEPT_FOR };
                self.keep(left, give_up);
                said_all.run_until_cancelled(tokio::time::sleep(TRY_AGAIN_AFTER)).await;
            }
        }
    }

    /// Lets floods that have ended wait to be written; answers when the next one ends.
    fn end_floods(&self, all: bool) -> Option<Instant> {
        let mut state = self.state();
        let mut ended = state.floods.end(all);
        let room = WAITING_MAX.saturating_sub(state.waiting.len());
        let without_room = ended.split_off(room.min(ended.len()));
        state.waiting.extend(ended.into_iter().map(Waiting::new));
        let next = state.floods.next_end();
        drop(state);
        self.lose(without_room.len(), "too many wait");
        next
    }

    fn next_batch(&self) -> Vec<Waiting> {
        let mut state = self.state();
        let many = state.waiting.len().min(BATCH_MAX);
        state.waiting.drain(..many).collect()
    }

    /// Writes one transaction a tenant; answers what could not be written for want of the database.
    async fn write(&self, batch: Vec<Waiting>) -> Vec<Waiting> {
        let mut by_tenant: BTreeMap<TenantId, Vec<Waiting>> = BTreeMap::new();
        for waiting in batch {
            by_tenant.entry(waiting.entry.tenant).or_default().push(waiting);
        }
        let (mut left, mut parts) = (Vec::new(), by_tenant.into_iter().peekable());
        while parts.peek().is_some() {
            let some = parts.by_ref().take(TENANTS_AT_ONCE);
            let written = join_all(some.map(|(tenant, part)| self.write_of(tenant, part))).await;
            left.extend(written.into_iter().flatten());
            if !left.is_empty() {
                // Each try takes as long as a connection is waited for.
                left.extend(parts.by_ref().flat_map(|(_, part)| part).map(unawaited));
            }
        }
        left
    }

    async fn write_of(&self, tenant: TenantId, part: Vec<Waiting>) -> Vec<Waiting> {
        let entries: Vec<AuditEntry> = part.iter().map(|waiting| waiting.entry.clone()).collect();
        match self.store.append(tenant, &entries).await {
            Ok(()) => {
                self.has_told.store(false, Ordering::Release);
                for waiting in part {
                    // Who has gone need not be told.
                    waiting.written.map(|written| written.send(()));
                }
                Vec::new()
            }
            Err(Error::Unavailable(..)) => part.into_iter().map(unawaited).collect(),
            Err(error) => {
                tracing::error!(tenant.id = %tenant, error = &error as &dyn std::error::Error, "audit entries are refused");
                self.lose(part.len(), "the database refuses them");
                Vec::new()
            }
        }
    }

    /// Puts back what may still be written.
    fn keep(&self, left: Vec<Waiting>, give_up: Duration) {
        let (young, old): (Vec<_>, Vec<_>) = left.into_iter().partition(|waiting| waiting.since.elapsed() < give_up);
        let mut state = self.state();
        young.into_iter().rev().for_each(|waiting| state.waiting.push_front(waiting));
        drop(state);
        self.lose(old.len(), "the database is away");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }

    fn lose(&self, many: usize, why: &'static str) {
        if many > 0 {
            metrics::counter!("voxgate_audit_entries_lost_total").increment(many as u64);
            if !self.has_told.swap(true, Ordering::AcqRel) {
                tracing::error!(entries = many, why, "audit entries are lost");
            }
        }
    }
}

/// Whoever waits for it is answered now.
fn unawaited(waiting: Waiting) -> Waiting {
    Waiting { written: None, ..waiting }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::{
        floods::{FLOOD, KINDS_MAX},
        *,
    };
    use crate::domain::{
        Env,
        audit::Attempt,
        error::Dependency,
        ids::SessionId,
        principal::{CallPrincipal, Principal},
        rate::{Rate, RateScope},
    };

    /// Takes as long as a commit, or is away. By the clock of the tests, which is paused: none of them waits.
    #[derive(Debug, Default)]
    struct Fake {
        is_away: AtomicBool,
        appends: AtomicUsize,
        written: Mutex<Vec<AuditEntry>>,
    }

    impl Fake {
        fn written(&self) -> Vec<AuditEntry> {
            self.written.lock().expect("no panic").clone()
        }
    }

    #[async_trait]
    impl AuditStore for Fake {
        async fn append(&self, _: TenantId, entries: &[AuditEntry]) -> Result<()> {
            self.appends.fetch_add(1, Ordering::Relaxed);
            if self.is_away.load(Ordering::Relaxed) {
                // As long as the pool waits for a connection.
                tokio::time::sleep(Duration::from_secs(2)).await;
                return Err(Error::Unavailable(Dependency::Database, None));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.written.lock().expect("no panic").extend_from_slice(entries);
            Ok(())
        }

        async fn list(&self, _: TenantId, _: &AuditFilter, _: PageRequest) -> Result<AuditPage> {
            Ok(AuditPage { entries: self.written(), next: None })
        }
    }

    struct Noting {
        store: Arc<Fake>,
        log: Arc<AuditLog>,
        said_all: CancellationToken,
        writer: tokio::task::JoinHandle<()>,
        tenant: TenantId,
    }

    impl Noting {
        fn start() -> Self {
            let (store, said_all) = (Arc::new(Fake::default()), CancellationToken::new());
            let log = Arc::new(AuditLog::new(store.clone()));
            let writer = tokio::spawn({
                let (log, said_all) = (log.clone(), said_all.clone());
                async move { log.write_until(said_all).await }
            });
            Self { store, log, said_all, writer, tenant: TenantId::new(&Env::system()) }
        }

        fn entry(&self, call: &str, error: &Error) -> AuditEntry {
            let env = Env::system();
            let bearer = CallPrincipal {
                tenant: self.tenant,
                call: "call".parse().expect("a call id"),
                session: SessionId::new(&env),
                fence: 1,
                jti: uuid::Uuid::nil(),
                issued_at: env.now(),
                sandbox: false,
            };
            Attempt::new(&Principal::Call(bearer), "Hold").on(call).under("k-1").refused(&env, error)
        }

        async fn stop(self) -> Vec<AuditEntry> {
            self.said_all.cancel();
            self.writer.await.expect("no panic");
            self.store.written()
        }
    }

    fn limited() -> Error {
        Error::RateLimited { scope: RateScope::Call, rate: Rate::per_second(10), retry_after: FLOOD }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_noted_at_one_moment_is_written_together_and_waited_for() {
        let noting = Noting::start();
        let notes = (0..400).map(|n| noting.log.note(noting.entry(&format!("call-{n}"), &Error::DeadlineExceeded)));
        join_all(notes).await;
        assert_eq!(noting.store.written().len(), 400);
        assert!(noting.store.appends.load(Ordering::Relaxed) <= 2);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_database_is_away_attempts_are_answered_and_their_entries_kept() {
        let noting = Noting::start();
        noting.store.is_away.store(true, Ordering::Relaxed);
        let started = Instant::now();
        noting.log.note(noting.entry("first", &Error::DeadlineExceeded)).await;
        assert_eq!(started.elapsed(), AUDIT_PATIENCE);
        // On the paused clock, so that nobody waits: the writer's turn comes.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let started = Instant::now();
        noting.log.note(noting.entry("second", &Error::DeadlineExceeded)).await;
        assert_eq!(started.elapsed(), Duration::ZERO, "it is known to be away");
        noting.store.is_away.store(false, Ordering::Relaxed);
        // On the paused clock, so that nobody waits: the writer's turn comes.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let calls: Vec<_> =
            noting.stop().await.into_iter().map(|entry| entry.call.expect("a call").to_string()).collect();
        assert_eq!(calls, ["first", "second"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_waited_too_long_or_finds_no_room_is_lost() {
        let noting = Noting::start();
        noting.store.is_away.store(true, Ordering::Relaxed);
        noting.log.note(noting.entry("first", &Error::DeadlineExceeded)).await;
        tokio::time::sleep(KEPT_FOR + Duration::from_secs(5)).await;
        for n in 0..=WAITING_MAX {
            noting.log.note(noting.entry(&format!("call-{n}"), &Error::DeadlineExceeded)).await;
        }
        assert!(noting.log.state().waiting.len() <= WAITING_MAX);
        noting.store.is_away.store(false, Ordering::Relaxed);
        let written = noting.stop().await;
        assert!(written.iter().all(|entry| entry.call.as_ref().is_some_and(|call| call.as_str() != "first")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_and_costs_a_few_entries_a_second_whatever_it_names() {
        let noting = Noting::start();
        for n in 0..1_000 {
            noting.log.note(noting.entry(if n < 500 { "same" } else { "other" }, &limited())).await;
        }
        for n in 0..1_000 {
            noting.log.note(noting.entry(&format!("call-{n}"), &limited())).await;
        }
        assert_eq!(noting.store.written().len(), 0);
        tokio::time::sleep(FLOOD * 2).await;
        let written = noting.store.written();
        assert_eq!(written.len(), KINDS_MAX + 1, "and all others of the action");
        let count = |entry: &AuditEntry| entry.details["count"].as_u64().expect("a count");
        assert_eq!(written.iter().map(count).sum::<u64>(), 2_000);
        let same = written.iter().find(|entry| entry.call.as_ref().is_some_and(|call| call.as_str() == "same"));
        assert_eq!(same.map(count), Some(500));
        noting.log.note(noting.entry("same", &limited())).await;
        assert_eq!(noting.stop().await.len(), KINDS_MAX + 2, "the last one is not forgotten at the end");
    }
}
