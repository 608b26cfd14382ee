//! What callers are answered while rows change, the database is slow, and is away.

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
    tokio::time::advance(Duration::from_millis(3_749)).await;
    assert_eq!(value(&cache, must_not_load()).await.as_deref(), Some("old"));
    tokio::time::advance(Duration::from_millis(1_251)).await;
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
async fn one_loads_what_grows_old_and_the_others_need_not_wait() {
    let cache = Arc::new(cache());
    assert_eq!(value(&cache, found("old")).await.as_deref(), Some("old"));
    tokio::time::advance(Duration::from_secs(4)).await;
    let (go, gone) = oneshot::channel::<()>();
    let loader = tokio::spawn({
        let cache = cache.clone();
        async move {
            let load = async {
                gone.await.expect("told");
                found("new").await
            };
            value(&cache, load).await
        }
    });
    tokio::task::yield_now().await;
    let asked = Instant::now();
    assert_eq!(value(&cache, must_not_load()).await.as_deref(), Some("old"));
    assert_eq!(asked.elapsed(), Duration::ZERO, "nobody waits for the load");
    go.send(()).expect("it waits");
    assert_eq!(loader.await.expect("no panic").as_deref(), Some("new"));
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(value(&cache, must_not_load()).await.as_deref(), Some("new"), "it is as young as it was loaded");
}

#[tokio::test(start_paused = true)]
async fn what_is_still_fresh_is_answered_when_its_load_fails_hangs_or_finds_nothing_new() {
    let cache = cache();
    assert_eq!(value(&cache, found("known")).await.as_deref(), Some("known"));
    tokio::time::advance(Duration::from_millis(3_800)).await;
    assert_eq!(value(&cache, away()).await.as_deref(), Some("known"));
    assert_eq!(value(&cache, must_not_load()).await.as_deref(), Some("known"), "it is not asked again at once");
    tokio::time::advance(LOAD_PAUSE).await;
    assert_eq!(value(&cache, std::future::pending()).await.as_deref(), Some("known"));
    tokio::time::advance(LOAD_PAUSE).await;
    assert_eq!(value(&cache, async { Ok(None) }).await, None, "it was deleted, which no notice said");
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
    let same_stripe = (2..100_000).find(|key| std::ptr::eq(cache.stripe(key), cache.stripe(&1))).expect("one of many");
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
