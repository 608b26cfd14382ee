//! Rate limits: so many requests a minute, over all replicas.
//!
//! [`RateLimiter`] is the shared account of each subject, with two homes. [`RateLimits`] stands in front of it, so that
//! a request rarely pays for a round trip: a replica borrows in chunks and spends what it borrowed within a second, a
//! denial is remembered until it is over, and requests that wait for the same account share one loan.
//!
//! The bound, over any number of replicas: in a window of W seconds at most the limit's share of W + 1 seconds and one
//! burst ([`Rate::burst`]) are let through; the second is the life of what was borrowed. What a replica does not spend
//! in time is lost, at most as much again as it did spend.
//!
//! While the shared account cannot be asked, each replica goes by the same rate on its own: with N replicas up to N
//! times as much is let through, which is better than an API that is away with its rate limiter. It is counted in
//! `voxgate_rate_limit_fallbacks_total`.

mod memory;
mod purse;
mod redis;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;

use self::purse::Purse;
pub use self::{memory::MemoryRateLimiter, redis::RedisRateLimiter};
use crate::domain::{
    Error, Result,
    clock::SystemClock,
    rate::{Borrowed, Rate, Subject},
};

#[async_trait]
pub trait RateLimiter: Send + Sync + std::fmt::Debug {
    /// Takes `want` requests (at least one, at most the burst) from the subject's account, or as many as are there.
    async fn borrow(&self, subject: Subject, rate: Rate, want: u32) -> Result<Borrowed>;
}

/// How long a request waits for a loan before it is judged without. A healthy Redis answers in one millisecond.
const PATIENCE: Duration = Duration::from_millis(250);
/// After a failure one request in this time asks again; all others are judged without, and wait for nothing.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Accounts in hand. Beyond it all are put down: what was borrowed is lost and denials are forgotten, both for less
/// than a second.
const ACCOUNTS_MAX: usize = 65_536;
/// Fewer are not worth the look for idle ones.
const SWEEP_FROM: usize = 1_024;

/// What stands in front of the shared accounts. Clones share it.
#[derive(Debug, Clone)]
pub struct RateLimits {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<dyn RateLimiter>,
    /// Judges while the shared accounts cannot be asked.
    fallback: MemoryRateLimiter,
    /// Read at every request, and written once a subject.
    accounts: RwLock<Accounts>,
    /// Until when the shared accounts are not asked; none while they answer.
    away: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Accounts {
    known: HashMap<Subject, Arc<Account>>,
    /// How many there must be for the next look for idle ones.
    sweep_at: usize,
}

/// What this replica holds of one subject.
#[derive(Debug, Default)]
struct Account {
    purse: Mutex<Purse>,
    /// Held by the one who borrows for all.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicU32,
}

impl RateLimits {
    pub fn new(shared: Arc<dyn RateLimiter>) -> Self {
        let fallback = MemoryRateLimiter::new(Arc::new(SystemClock));
        let accounts = RwLock::new(Accounts { known: HashMap::new(), sweep_at: SWEEP_FROM });
        Self { inner: Arc::new(Inner { shared, fallback, accounts, away: Mutex::new(None) }) }
    }

    /// Lets one request through, or answers `RateLimited`.
    pub async fn check(&self, subject: Subject, rate: Rate) -> Result<()> {
        let account = self.inner.account(subject);
        let answer = match account.spend() {
            Some(answer) => answer,
            None => match self.inner.ask(&account, subject, rate).await {
                Some(answer) => answer,
                None => self.inner.judge_alone(subject, rate),
            },
        };
        answer.map_err(|retry_after| Error::RateLimited { scope: subject.scope, rate, retry_after })
    }
}

/// Let through, or when to try again.
type Answer = Result<(), Duration>;

/// Whether the shared accounts may be asked.
#[derive(Debug, Clone, Copy)]
enum Reach {
    There,
    /// They did not answer a while ago, and this one asks for all whether they do now.
    Probe,
    Away,
}

impl Inner {
    fn account(&self, subject: Subject) -> Arc<Account> {
        if let Some(account) = self.accounts.read().expect("nobody panics while holding it").known.get(&subject) {
            return account.clone();
        }
        let mut accounts = self.accounts.write().expect("nobody panics while holding it");
        let Accounts { known, sweep_at } = &mut *accounts;
        if known.len() >= *sweep_at {
            let now = Instant::now();
            // One that somebody else holds is in use.
            known.retain(|_, account| Arc::strong_count(account) > 1 || !account.purse().is_idle(now));
            if known.len() >= ACCOUNTS_MAX {
                known.clear();
            }
            *sweep_at = (2 * known.len()).clamp(SWEEP_FROM, ACCOUNTS_MAX);
        }
        known.entry(subject).or_default().clone()
    }

    /// Asks the shared account, one request for all that wait. Nothing if it does not answer.
    async fn ask(&self, account: &Arc<Account>, subject: Subject, rate: Rate) -> Option<Answer> {
        let probing = match self.reach(Instant::now()) {
            Reach::There => false,
            Reach::Probe => true,
            Reach::Away => return None,
        };
        let waiting = Waiting::on(account);
        let asked = async {
            let _turn = account.turn.lock().await;
            if let Some(answer) = account.spend() {
                // Whoever had the turn before has borrowed for this one too,
                return Ok(Some(answer));
            }
            if !probing && self.away().is_some() {
                // or has found that nobody answers.
                return Ok(None);
            }
            self.borrow(account, subject, rate).await.map(Some)
        };
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        drop(waiting);
        match answer {
            Ok(Ok(Some(answer))) => {
                self.is_back();
                Some(answer)
            }
            Ok(Ok(None)) => None,
            Ok(Err(error)) => {
                self.is_away(&error);
                None
            }
            Err(elapsed) => {
                self.is_away(&elapsed);
                None
            }
        }
    }

    /// In a task of its own: a caller who goes away does not take along what was borrowed for those behind.
    async fn borrow(&self, account: &Arc<Account>, subject: Subject, rate: Rate) -> Result<Answer> {
        let (shared, account) = (self.shared.clone(), account.clone());
        let loan = async move {
            let asked_at = Instant::now();
            let want = account.purse().want(rate, account.waiting.load(Ordering::Relaxed), asked_at);
            let borrowed = shared.borrow(subject, rate, want).await?;
            Ok(account.purse().settle(borrowed, rate, asked_at, Instant::now()))
        };
        tokio::spawn(loan).await.unwrap_or_else(|panic| Err(Error::internal(panic)))
    }

    fn judge_alone(&self, subject: Subject, rate: Rate) -> Answer {
        metrics::counter!("voxgate_rate_limit_fallbacks_total").increment(1);
        match self.fallback.take(subject, rate, 1) {
            Borrowed::Granted(_) => Ok(()),
            Borrowed::Denied { retry_after } => Err(retry_after),
        }
    }

    fn reach(&self, now: Instant) -> Reach {
        let mut away = self.away();
        match *away {
            Some(until) if now < until => Reach::Away,
            Some(_) => {
                *away = Some(now + RETRY_EVERY);
                Reach::Probe
            }
            None => Reach::There,
        }
    }

    fn is_back(&self) {
        if self.away().take().is_some() {
            tracing::info!("rates are limited over all replicas again");
        }
    }

    fn is_away(&self, why: &(dyn std::error::Error + 'static)) {
        // Said once, not with every request.
        if self.away().replace(Instant::now() + RETRY_EVERY).is_none() {
            let error = why.source().unwrap_or(why);
            tracing::warn!(error, "rates cannot be limited over all replicas, each goes by the rate on its own");
        }
    }

    fn away(&self) -> MutexGuard<'_, Option<Instant>> {
        self.away.lock().expect("nobody panics while holding it")
    }
}

impl Account {
    fn spend(&self) -> Option<Answer> {
        self.purse().spend(Instant::now())
    }

    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.purse.lock().expect("nobody panics while holding it")
    }
}

/// One request that waits for a loan, also if it gives up.
struct Waiting<'a>(&'a Account);

impl<'a> Waiting<'a> {
    fn on(account: &'a Account) -> Self {
        account.waiting.fetch_add(1, Ordering::Relaxed);
        Self(account)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{clock::ManualClock, clock::Timestamp, error::Dependency, rate::RateScope};

    const SUBJECT: Subject = Subject { scope: RateScope::ApiKey, id: Uuid::nil() };

    /// Counts how often it is asked.
    #[derive(Debug)]
    struct Counted {
        home: MemoryRateLimiter,
        asked: AtomicU32,
        answers: bool,
    }

    #[async_trait]
    impl RateLimiter for Counted {
        async fn borrow(&self, subject: Subject, rate: Rate, want: u32) -> Result<Borrowed> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            if self.answers {
                self.home.borrow(subject, rate, want).await
            } else {
                Err(Error::unavailable(Dependency::SlotStore, "nobody is there"))
            }
        }
    }

    /// Behind it, an account whose clock stands still.
    fn limits(answers: bool) -> (RateLimits, Arc<Counted>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000)));
        let counted = Arc::new(Counted { home: MemoryRateLimiter::new(clock), asked: AtomicU32::new(0), answers });
        (RateLimits::new(counted.clone()), counted)
    }

    async fn crowd(limits: &RateLimits, rate: Rate, requests: usize) -> usize {
        let answers = join_all((0..requests).map(|_| limits.check(SUBJECT, rate))).await;
        answers.iter().filter(|answer| answer.is_ok()).count()
    }

    #[tokio::test]
    async fn a_crowd_of_one_key_shares_one_loan_and_a_flood_of_denials_asks_nobody() {
        let (limits, counted) = limits(true);
        let rate = Rate::per_minute(600);
        assert_eq!(crowd(&limits, rate, 50).await, 50);
        assert_eq!(counted.asked.load(Ordering::SeqCst), 1);
        assert_eq!(crowd(&limits, rate, 50).await, 10, "the burst is 60");
        let asked = counted.asked.load(Ordering::SeqCst);
        assert_eq!(crowd(&limits, rate, 5_000).await, 0);
        let denied = limits.check(SUBJECT, rate).await.expect_err("the clock stands still");
        assert!(denied.retry_after().is_some_and(|wait| wait <= Duration::from_millis(100)), "{denied:?}");
        assert!(counted.asked.load(Ordering::SeqCst) <= asked + 2, "more only where 100 ms have passed");
    }

    #[tokio::test]
    async fn the_dearest_key_pays_one_round_trip_for_more_than_100_requests() {
        let (limits, counted) = limits(true);
        for _ in 0..10_000 {
            limits.check(SUBJECT, Rate::per_minute(100_000)).await.expect("within the burst");
        }
        assert!(counted.asked.load(Ordering::SeqCst) < 100, "{counted:?}");
    }

    #[tokio::test]
    async fn without_the_shared_accounts_a_replica_goes_by_the_rate_on_its_own_and_asks_once_a_second() {
        let (limits, counted) = limits(false);
        let rate = Rate::per_minute(1_200);
        let through = crowd(&limits, rate, 1_000).await;
        assert!((120..=160).contains(&through), "{through}: the burst is 120, and 20 come each second");
        assert!(counted.asked.load(Ordering::SeqCst) < 5, "{counted:?}");
    }

    #[tokio::test]
    async fn accounts_in_hand_are_bounded() {
        let (limits, _) = limits(true);
        for number in 0..(2 * ACCOUNTS_MAX) as u128 {
            drop(limits.inner.account(Subject { id: Uuid::from_u128(number), ..SUBJECT }));
            assert!(limits.inner.accounts.read().expect("nobody panicked").known.len() <= SWEEP_FROM);
        }
    }
}
