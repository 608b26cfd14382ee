//! Rows that are read far more often than they change, kept in memory.
//!
//! What a caller is answered is never older than [`Freshness::fresh`] while the database answers, and mostly far younger:
//! a change made here is forgotten here at once, one made elsewhere when its notice comes (`changes`). A load that a
//! change overtakes is not kept.
//!
//! Shortly before an answer grows too old, one caller loads it anew while the others go on with it: rows that were
//! first wanted together do not make everybody wait together ever after.
//!
//! While the database is away, or slower than [`LOAD_PATIENCE`], what is known goes on being answered, for
//! [`Freshness::outage`]. What was forgotten because it changed is not known any longer.
//!
//! Absent on purpose: remembering that something does not exist. A row that is made a moment later must be found.

use std::{
    fmt,
    hash::{BuildHasher as _, Hash, RandomState},
    sync::{
        Arc, Mutex as StdMutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::{Weighter, sync};
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use crate::domain::{Error, Result, error::Dependency};

/// Keys that share a turn to load.
const STRIPES: usize = 256;
/// How long the database gets when there is an older answer at hand.
const LOAD_PATIENCE: Duration = Duration::from_millis(300);
/// After a load that failed or took longer, older answers are given for this long without asking again.
const LOAD_PAUSE: Duration = Duration::from_millis(500);

/// What a replica keeps in memory of rows that it reads at every call.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheSettings {
    /// Voice agents, in bytes (default 64 MiB: some 60,000 small ones, or 200 with the largest behavior).
    pub agents_max_bytes: usize,
    /// Tenants and API keys, in bytes each (default 16 MiB: some 16,000).
    pub tenants_max_bytes: usize,
    /// Age at which an agent or a tenant is read again although no notice of a change came (default 5,000 ms).
    pub fresh_ms: u64,
    /// The same of an API key (default 800 ms: a revoked key is refused within a second
    /// by every replica that reaches the database).
    pub key_fresh_ms: u64,
    /// How long agents and tenants that are known are used while the database is away (default 3,600,000 ms).
    pub outage_ms: u64,
    /// The same of API keys (default 300,000 ms: for as long a replica that is cut off may not hear that one was revoked).
    pub key_outage_ms: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            agents_max_bytes: 64 << 20,
            tenants_max_bytes: 16 << 20,
            fresh_ms: 5_000,
            key_fresh_ms: 800,
            outage_ms: 3_600_000,
            key_outage_ms: 300_000,
        }
    }
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freshness {
    /// At most, while the database answers.
    pub(crate) fresh: Duration,
    /// At most, while it does not.
    pub(crate) outage: Duration,
}

struct Entry<V> {
    value: Arc<V>,
    loaded_at: Instant,
}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), loaded_at: self.loaded_at }
    }
}

/// Bytes that a value takes, about.
type Weigh<V> = fn(&V) -> usize;

struct ByWeight<V>(Weigh<V>);

impl<V> Clone for ByWeight<V> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<K, V> Weighter<K, Entry<V>> for ByWeight<V> {
    fn weight(&self, _: &K, entry: &Entry<V>) -> u64 {
        u64::try_from((self.0)(&entry.value)).unwrap_or(u64::MAX)
    }
}

/// Of the keys whose hash falls on it.
struct Stripe {
    /// Counts what was forgotten. Held while an entry is put in or forgotten, so that a load which was overtaken is not
    /// put in behind its change.
    forgotten: StdMutex<u64>,
    /// One loads, and those who want the same wait for what it finds.
    turn: Mutex<()>,
}

impl Stripe {
    fn forgotten(&self) -> MutexGuard<'_, u64> {
        self.forgotten.lock().expect("nobody panics while holding it")
    }
}

pub(crate) struct Cache<K, V> {
    name: &'static str,
    entries: sync::Cache<K, Entry<V>, ByWeight<V>>,
    stripes: Box<[Stripe]>,
    hasher: RandomState,
    freshness: Freshness,
    born: Instant,
    /// Nanoseconds after `born`: what was loaded before is to be loaded again.
    fresh_from: AtomicU64,
    /// Nanoseconds after `born`: until then the database is taken to be away,
    away_until: AtomicU64,
    /// or too slow for those who have an older answer at hand. Who has none waits for it.
    slow_until: AtomicU64,
}

impl<K: Hash + Eq + Clone, V> Cache<K, V> {
    /// Keeps values of `max_bytes` together, those that are asked for.
    pub(crate) fn new(name: &'static str, max_bytes: usize, freshness: Freshness, weigh: Weigh<V>) -> Self {
        let max_bytes = u64::try_from(max_bytes).unwrap_or(u64::MAX);
        let items = usize::try_from(max_bytes / 1_024).unwrap_or(usize::MAX).max(1);
        let stripe = |_| Stripe { forgotten: StdMutex::default(), turn: Mutex::new(()) };
        Self {
            name,
            entries: sync::Cache::with_weighter(items, max_bytes, ByWeight(weigh)),
            stripes: (0..STRIPES).map(stripe).collect(),
            hasher: RandomState::new(),
            freshness,
            born: Instant::now(),
            fresh_from: AtomicU64::new(0),
            away_until: AtomicU64::new(0),
            slow_until: AtomicU64::new(0),
        }
    }

    /// The value of `key`, by `load` where it is not known well enough.
    pub(crate) async fn get<F>(&self, key: &K, load: impl FnOnce() -> F) -> Result<Option<Arc<V>>>
    where
        F: Future<Output = Result<Option<V>>>,
    {
        let known = self.entries.get(key);
        if let Some(entry) = &known
            && self.is_young(entry)
        {
            return Ok(Some(entry.value.clone()));
        }
        let stripe = self.stripe(key);
        let _turn = match known.filter(|entry| self.outlives_outage(entry)) {
            None => stripe.turn.lock().await,
            Some(entry) if self.is_fresh(&entry) => match stripe.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(Some(entry.value)),
            },
            // Somebody else's load may hang, and this answer is good enough to go on with.
            Some(entry) => match tokio::time::timeout(LOAD_PATIENCE, stripe.turn.lock()).await {
                Ok(turn) => turn,
                Err(_) => return Ok(Some(self.outage_answer(entry))),
            },
        };
        let forgotten = *stripe.forgotten();
        let loaded_at = Instant::now();
        let answer = match self.entries.get(key) {
            Some(entry) if self.is_young(&entry) => return Ok(Some(entry.value)),
            Some(entry) => match self.load_again(&entry, load).await {
                Some(answer) => answer?,
                None => return Ok(Some(self.outage_answer(entry))),
            },
            None => self.load_first(load).await?,
        };
        let Some(value) = answer else {
            self.entries.remove(key);
            return Ok(None);
        };
        let value = Arc::new(value);
        let now = stripe.forgotten();
        if *now == forgotten {
            self.entries.insert(key.clone(), Entry { value: value.clone(), loaded_at });
        }
        Ok(Some(value))
    }

    /// Forgets `key`, which has changed.
    pub(crate) fn forget(&self, key: &K) {
        let mut forgotten = self.stripe(key).forgotten();
        *forgotten += 1;
        self.entries.remove(key);
    }

    /// Trusts nothing that was loaded until now: notices of changes may have been lost.
    pub(crate) fn doubt_everything(&self) {
        self.fresh_from.fetch_max(self.nanos(Instant::now()) + 1, Ordering::AcqRel);
    }

    /// What the database says. Where it was found away a moment ago, callers who wait for a turn need not find that out
    /// one by one.
    async fn load_first<F>(&self, load: impl FnOnce() -> F) -> Result<Option<V>>
    where
        F: Future<Output = Result<Option<V>>>,
    {
        if self.is_before(&self.away_until) {
            return Err(Error::unavailable(Dependency::Database, "the database was away a moment ago"));
        }
        let answer = load().await;
        if matches!(answer, Err(Error::Unavailable(Dependency::Database, _))) {
            self.pause(&self.away_until);
        }
        answer
    }

    /// What the database says now; nothing where it is away and the older answer will do.
    async fn load_again<F>(&self, entry: &Entry<V>, load: impl FnOnce() -> F) -> Option<Result<Option<V>>>
    where
        F: Future<Output = Result<Option<V>>>,
    {
        if !self.outlives_outage(entry) {
            return Some(self.load_first(load).await);
        }
        if self.is_before(&self.away_until) || self.is_before(&self.slow_until) {
            return None;
        }
        match tokio::time::timeout(LOAD_PATIENCE, load()).await {
            Ok(Err(Error::Unavailable(Dependency::Database, _))) => self.pause(&self.away_until),
            Err(_) => self.pause(&self.slow_until),
            Ok(answer) => return Some(answer),
        }
        None
    }

    fn outage_answer(&self, entry: Entry<V>) -> Arc<V> {
        if !self.is_fresh(&entry) {
            metrics::counter!("voxgate_cache_outage_answers_total", "cache" => self.name).increment(1);
        }
        entry.value
    }

    fn outlives_outage(&self, entry: &Entry<V>) -> bool {
        entry.loaded_at.elapsed() <= self.freshness.outage
    }

    fn is_before(&self, until: &AtomicU64) -> bool {
        self.nanos(Instant::now()) < until.load(Ordering::Acquire)
    }

    fn pause(&self, until: &AtomicU64) {
        until.store(self.nanos(Instant::now() + LOAD_PAUSE), Ordering::Release);
    }

    /// It is fresh, and will be for a while.
    fn is_young(&self, entry: &Entry<V>) -> bool {
        self.is_fresh(entry) && entry.loaded_at.elapsed() < self.freshness.fresh / 4 * 3
    }

    fn is_fresh(&self, entry: &Entry<V>) -> bool {
        entry.loaded_at.elapsed() < self.freshness.fresh
            && self.nanos(entry.loaded_at) >= self.fresh_from.load(Ordering::Acquire)
    }

    fn stripe(&self, key: &K) -> &Stripe {
        let hash = usize::try_from(self.hasher.hash_one(key) % 256).unwrap_or(0);
        &self.stripes[hash]
    }

    fn nanos(&self, moment: Instant) -> u64 {
        u64::try_from(moment.duration_since(self.born).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
