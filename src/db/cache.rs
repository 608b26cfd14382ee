//! Rows that are read far more often than they change, kept in memory.
//!
//! What a caller is answered is never older than [`Freshness::fresh`] while the database answers, and mostly far younger:
//! a change made here is forgotten here at once, one made elsewhere when its notice comes (`changes`). A load that a
//! change overtakes is not kept.
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
            && self.is_fresh(entry)
        {
            return Ok(Some(entry.value.clone()));
        }
        let stripe = self.stripe(key);
        let _turn = match known.filter(|entry| self.outlives_outage(entry)) {
            None => stripe.turn.lock().await,
            // Somebody else's load may hang, and this answer is good enough to go on with.
            Some(entry) => match tokio::time::timeout(LOAD_PATIENCE, stripe.turn.lock()).await {
                Ok(turn) => turn,
                Err(_) => return Ok(Some(self.outage_answer(entry))),
            },
        };
        let forgotten = *stripe.forgotten();
        let loaded_at = Instant::now();
        let answer = match self.entries.get(key) {
            Some(entry) if self.is_fresh(&entry) => return Ok(Some(entry.value)),
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
        metrics::counter!("voxgate_cache_outage_answers_total", "cache" => self.name).increment(1);
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
mod tests {
    use std::{
        future::{Ready, ready},
        sync::atomic::AtomicUsize,
    };

    use tokio::sync::oneshot;

    use super::*;

    const FRESHNESS: Freshness = Freshness { fresh: Duration::from_secs(5), outage: Duration::from_hours(1) };

    fn cache() -> Cache<u32, String> {
        Cache::new("test", 1 << 20, FRESHNESS, String::len)
    }

    type Answer = Ready<Result<Option<String>>>;

    fn found(text: &str) -> Answer {
        ready(Ok(Some(text.to_owned())))
    }

    fn away() -> Answer {
        ready(Err(Error::unavailable(Dependency::Database, "away")))
    }

    /// An answer that differs from what is known.
    fn must_not_load() -> Answer {
        found("it was loaded")
    }

    async fn value(cache: &Cache<u32, String>, load: impl Future<Output = Result<Option<String>>>) -> Option<String> {
        cache.get(&1, || load).await.expect("an answer").map(|value| String::clone(&value))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_never_older_than_it_may_be() {
        let cache = cache();
        assert_eq!(value(&cache, found("old")).await.as_deref(), Some("old"));
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert_eq!(value(&cache, must_not_load()).await.as_deref(), Some("old"));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(value(&cache, found("new")).await.as_deref(), Some("new"));
        cache.doubt_everything();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(value(&cache, found("newer")).await.as_deref(), Some("newer"));
        assert_eq!(value(&cache, must_not_load()).await.as_deref(), Some("newer"));
    }

    #[tokio::test]
    async fn a_load_that_a_change_overtakes_is_not_kept() {
        let cache = Arc::new(cache());
        let (go, gone) = oneshot::channel::<()>();
        let (loading, is_loading) = oneshot::channel::<()>();
        let reader = tokio::spawn({
            let cache = cache.clone();
            async move {
                let load = async {
                    loading.send(()).expect("waited for");
                    gone.await.expect("told");
                    found("before the change").await
                };
                value(&cache, load).await
            }
        });
        is_loading.await.expect("it loads");
        cache.forget(&1);
        go.send(()).expect("it waits");
        assert_eq!(reader.await.expect("no panic").as_deref(), Some("before the change"));
        assert_eq!(value(&cache, found("after")).await.as_deref(), Some("after"));
    }

    #[tokio::test]
    async fn many_who_want_the_same_load_it_once() {
        let (cache, loads) = (Arc::new(cache()), Arc::new(AtomicUsize::new(0)));
        let readers = (0..100).map(|_| {
            let (cache, loads) = (cache.clone(), loads.clone());
            tokio::spawn(async move {
                let load = async {
                    loads.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    found("it").await
                };
                value(&cache, load).await
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            assert_eq!(reader.await.expect("no panic").as_deref(), Some("it"));
        }
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_outlives_the_database_but_not_a_change() {
        let cache = cache();
        assert!(cache.get(&1, away).await.is_err(), "nothing is known yet");
        assert!(cache.get(&1, || found("it")).await.is_err(), "it is not asked again at once");
        tokio::time::advance(LOAD_PAUSE).await;
        assert_eq!(value(&cache, found("known")).await.as_deref(), Some("known"));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(value(&cache, away()).await.as_deref(), Some("known"));
        // It is not asked again at once, so that callers are not slow while it is away.
        assert_eq!(value(&cache, must_not_load()).await.as_deref(), Some("known"));
        tokio::time::advance(LOAD_PAUSE).await;
        let hangs = async {
            std::future::pending::<()>().await;
            found("never").await
        };
        assert_eq!(value(&cache, hangs).await.as_deref(), Some("known"));
        cache.forget(&1);
        tokio::time::advance(LOAD_PAUSE).await;
        assert!(cache.get(&1, away).await.is_err());
        tokio::time::advance(LOAD_PAUSE).await;
        assert_eq!(value(&cache, found("again")).await.as_deref(), Some("again"));
        tokio::time::advance(FRESHNESS.outage + Duration::from_secs(1)).await;
        assert!(cache.get(&1, away).await.is_err(), "too old even for an outage");
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_is_slow_is_not_away_for_those_who_know_nothing_yet() {
        let cache = cache();
        assert_eq!(value(&cache, found("known")).await.as_deref(), Some("known"));
        tokio::time::advance(Duration::from_secs(10)).await;
        let slow = async {
            tokio::time::sleep(2 * LOAD_PATIENCE).await;
            found("late").await
        };
        assert_eq!(value(&cache, slow).await.as_deref(), Some("known"));
        let first = cache.get(&2, || async {
            tokio::time::sleep(2 * LOAD_PATIENCE).await;
            found("first").await
        });
        assert_eq!(first.await.expect("it is waited for").as_deref().map(String::as_str), Some("first"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_load_that_hangs_holds_up_nobody_who_is_known() {
        let cache = Arc::new(cache());
        assert_eq!(value(&cache, found("known")).await.as_deref(), Some("known"));
        tokio::time::advance(Duration::from_secs(10)).await;
        let same_stripe =
            (2..100_000).find(|key| std::ptr::eq(cache.stripe(key), cache.stripe(&1))).expect("one of many");
        let hangs = tokio::spawn({
            let cache = cache.clone();
            async move { cache.get(&same_stripe, std::future::pending).await }
        });
        tokio::task::yield_now().await;
        let asked = Instant::now();
        assert_eq!(value(&cache, must_not_load()).await.as_deref(), Some("known"));
        assert!(asked.elapsed() <= LOAD_PATIENCE);
        hangs.abort();
    }

    #[tokio::test]
    async fn what_does_not_exist_is_looked_for_again_and_what_is_too_much_goes() {
        let cache = cache();
        assert_eq!(value(&cache, async { Ok(None) }).await, None);
        assert_eq!(value(&cache, found("made since")).await.as_deref(), Some("made since"));
        for key in 0..10_000 {
            cache.get(&key, || async { Ok(Some("x".repeat(1_000))) }).await.expect("found");
        }
        assert!(cache.entries.weight() <= 1 << 20, "{}", cache.entries.weight());
        assert!(cache.entries.len() > 500);
    }
}
