//! What every `RateLimiter` promises, on Redis and in the process.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use uuid::Uuid;
use voxgate::{
    domain::{
        Env, Error,
        rate::{Borrowed, Rate, RateScope, Subject},
    },
    redis::{Redis as SharedRedis, RedisSettings},
    tenants::{MemoryRateLimiter, RateLimiter, RedisRateLimiter},
};

use super::{
    all_at_once,
    slot_fixture::{SteppedClock, secs},
    slot_redis::raw,
};
use crate::harness::redis::PrivateRedis;

/// One in ten seconds, and six at once: far slower than a test runs.
const SLOW: Rate = Rate::per_minute(6);

/// A back-end and its clock.
trait Fixture {
    fn start() -> Self;
    fn limiter(&self) -> Arc<dyn RateLimiter>;
    fn advance(&self, span: Duration);
    fn rewind(&self, span: Duration);
}

struct Redis {
    server: PrivateRedis,
    limiter: Arc<RedisRateLimiter>,
}

impl Fixture for Redis {
    fn start() -> Self {
        let server = PrivateRedis::start_with_still_clock();
        // Patient: a busy machine must not fail a test that is about something else.
        let settings =
            RedisSettings { command_timeout_ms: 30_000, connect_timeout_ms: 30_000, ..RedisSettings::default() };
        let redis = SharedRedis::connect(&server.url(), settings).expect("a URL");
        Self { server, limiter: Arc::new(RedisRateLimiter::new(redis)) }
    }

    fn limiter(&self) -> Arc<dyn RateLimiter> {
        self.limiter.clone()
    }

    fn advance(&self, span: Duration) {
        self.server.advance(span);
    }

    fn rewind(&self, span: Duration) {
        self.server.rewind(span);
    }
}

struct Memory {
    clock: Arc<SteppedClock>,
    limiter: Arc<MemoryRateLimiter>,
}

impl Fixture for Memory {
    fn start() -> Self {
        let clock = Arc::new(SteppedClock::start());
        Self { limiter: Arc::new(MemoryRateLimiter::new(clock.clone())), clock }
    }

    fn limiter(&self) -> Arc<dyn RateLimiter> {
        self.limiter.clone()
    }

    fn advance(&self, span: Duration) {
        self.clock.0.fetch_add(i64::try_from(span.as_micros()).expect("a test's span"), Ordering::SeqCst);
    }

    fn rewind(&self, span: Duration) {
        self.clock.0.fetch_sub(i64::try_from(span.as_micros()).expect("a test's span"), Ordering::SeqCst);
    }
}

macro_rules! on_every_backend {
    ($($test:ident),+ $(,)?) => {
        mod redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&<super::Redis as super::Fixture>::start()).await;
            })+
        }

        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(&<super::Memory as super::Fixture>::start()).await;
            })+
        }
    };
}

on_every_backend![
    a_rested_subject_has_its_burst_and_then_its_rate,
    a_loan_is_never_larger_than_the_burst,
    subjects_do_not_pay_for_each_other,
    racers_are_granted_the_burst_and_no_more,
    after_a_denial_there_is_enough_when_it_said_so,
    a_clock_that_is_set_back_locks_nobody_out,
];

fn subject() -> Subject {
    Subject { scope: RateScope::ApiKey, id: Env::system().uuid() }
}

async fn borrow(limiter: &Arc<dyn RateLimiter>, subject: Subject, rate: Rate, want: u32) -> Borrowed {
    limiter.borrow(subject, rate, want).await.expect("an answer")
}

fn wait(borrowed: Borrowed) -> Duration {
    match borrowed {
        Borrowed::Denied { retry_after } => retry_after,
        Borrowed::Granted(count) => panic!("{count} were granted"),
    }
}

async fn a_rested_subject_has_its_burst_and_then_its_rate(home: &impl Fixture) {
    let (limiter, subject) = (home.limiter(), subject());
    assert_eq!(borrow(&limiter, subject, SLOW, 4).await, Borrowed::Granted(4));
    assert_eq!(borrow(&limiter, subject, SLOW, 4).await, Borrowed::Granted(2), "as many as are there");
    let denied = wait(borrow(&limiter, subject, SLOW, 1).await);
    assert!(denied > secs(5) && denied <= secs(10), "{denied:?}");
    for _ in 0..3 {
        home.advance(secs(10));
        assert_eq!(borrow(&limiter, subject, SLOW, 4).await, Borrowed::Granted(1));
        wait(borrow(&limiter, subject, SLOW, 1).await);
    }
    home.advance(secs(600));
    assert_eq!(borrow(&limiter, subject, SLOW, 6).await, Borrowed::Granted(6), "rest gives the burst, and no more");
    wait(borrow(&limiter, subject, SLOW, 1).await);
}

async fn a_loan_is_never_larger_than_the_burst(home: &impl Fixture) {
    let limiter = home.limiter();
    for limit in [1, 7, 600, 99_991, 100_000] {
        let (subject, rate) = (subject(), Rate::per_minute(limit));
        assert_eq!(borrow(&limiter, subject, rate, u32::MAX).await, Borrowed::Granted(rate.burst()), "{limit}");
    }
}

async fn subjects_do_not_pay_for_each_other(home: &impl Fixture) {
    let (limiter, one, other) = (home.limiter(), subject(), subject());
    assert_eq!(borrow(&limiter, one, SLOW, 6).await, Borrowed::Granted(6));
    wait(borrow(&limiter, one, SLOW, 1).await);
    assert_eq!(borrow(&limiter, other, SLOW, 6).await, Borrowed::Granted(6));
}

async fn racers_are_granted_the_burst_and_no_more(home: &impl Fixture) {
    let (limiter, subject) = (home.limiter(), subject());
    let answers = all_at_once(64, |_| {
        let limiter = limiter.clone();
        async move { borrow(&limiter, subject, SLOW, 4).await }
    });
    let granted: u32 =
        answers.await.into_iter().map(|answer| if let Borrowed::Granted(n) = answer { n } else { 0 }).sum();
    assert_eq!(granted, 6);
}

async fn after_a_denial_there_is_enough_when_it_said_so(home: &impl Fixture) {
    let (limiter, subject, rate) = (home.limiter(), subject(), Rate::per_minute(1));
    assert_eq!(borrow(&limiter, subject, rate, 1).await, Borrowed::Granted(1));
    let denied = wait(borrow(&limiter, subject, rate, 1).await);
    assert!(denied > secs(50) && denied <= secs(60), "{denied:?}");
    home.advance(secs(40));
    let later = wait(borrow(&limiter, subject, rate, 1).await);
    assert!(later > secs(10) && later <= secs(20), "{later:?}");
    home.advance(later);
    assert_eq!(borrow(&limiter, subject, rate, 1).await, Borrowed::Granted(1));
}

async fn a_clock_that_is_set_back_locks_nobody_out(home: &impl Fixture) {
    let (limiter, subject) = (home.limiter(), subject());
    assert_eq!(borrow(&limiter, subject, SLOW, 6).await, Borrowed::Granted(6));
    home.rewind(Duration::from_hours(1));
    assert_eq!(borrow(&limiter, subject, SLOW, 1).await, Borrowed::Granted(1));
    assert_eq!(borrow(&limiter, subject, SLOW, 6).await, Borrowed::Granted(5), "and it is limited again");
}

#[tokio::test]
async fn a_bucket_is_one_key_that_ends_when_it_is_full_again() {
    let home = <Redis as Fixture>::start();
    let (limiter, subject) = (home.limiter(), subject());
    borrow(&limiter, subject, SLOW, 2).await;
    let keys: Vec<String> = raw(&home.server, &["KEYS", "*"]).await;
    assert_eq!(keys, [format!("vg:{{{}}}:api_key:rate", subject.id)]);
    let ttl_ms: i64 = raw(&home.server, &["PTTL", &keys[0]]).await;
    assert!((10_000..=20_001).contains(&ttl_ms), "two of one in ten seconds: {ttl_ms} ms");
}

#[tokio::test]
async fn a_forgotten_script_is_invisible_and_a_bug_is_no_outage() {
    let home = <Redis as Fixture>::start();
    let (limiter, subject) = (home.limiter(), subject());
    for _ in 0..3 {
        raw::<()>(&home.server, &["SCRIPT", "FLUSH"]).await;
        assert_eq!(borrow(&limiter, subject, SLOW, 1).await, Borrowed::Granted(1));
    }
    let strange = Subject { id: Uuid::nil(), ..subject };
    raw::<()>(&home.server, &["LPUSH", &format!("vg:{{{}}}:api_key:rate", strange.id), "not a moment"]).await;
    let error = limiter.borrow(strange, SLOW, 1).await.expect_err("it cannot work");
    assert!(matches!(error, Error::Internal(_)), "{error:?}");
}
