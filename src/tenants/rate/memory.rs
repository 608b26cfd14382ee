//! Rates in the process: for one replica alone, and for each while Redis is away.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;

use super::RateLimiter;
use crate::domain::{
    Clock, Result,
    rate::{Borrowed, Bucket, Rate, Subject},
};

/// Buckets that are not full. Beyond it all are forgotten, which gives each subject one burst too many: there are as
/// many only where that many keys are in use within a minute.
const BUCKETS_MAX: usize = 65_536;
/// Fewer are not worth the look.
const SWEEP_FROM: usize = 1_024;

/// [`RateLimiter`] on this process's clock and memory.
#[derive(Debug)]
pub struct MemoryRateLimiter {
    clock: Arc<dyn Clock>,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    known: HashMap<Subject, Bucket>,
    /// How many there must be for the next look for full ones: twice of what was left by the last, so that looking
    /// costs little a bucket.
    sweep_at: usize,
}

impl MemoryRateLimiter {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, buckets: Mutex::new(Buckets { known: HashMap::new(), sweep_at: SWEEP_FROM }) }
    }

    pub(super) fn take(&self, subject: Subject, rate: Rate, want: u32) -> Borrowed {
        let now = self.clock.now();
        let mut buckets = self.buckets.lock().expect("nobody panics while holding it");
        let Buckets { known, sweep_at } = &mut *buckets;
        if known.len() >= *sweep_at {
            known.retain(|_, bucket| !bucket.is_full(now));
            if known.len() >= BUCKETS_MAX {
                known.clear();
            }
            *sweep_at = (2 * known.len()).clamp(SWEEP_FROM, BUCKETS_MAX);
        }
        known.entry(subject).or_insert_with(Bucket::full).take(rate, want, now)
    }
}

#[async_trait]
impl RateLimiter for MemoryRateLimiter {
    async fn borrow(&self, subject: Subject, rate: Rate, want: u32) -> Result<Borrowed> {
        Ok(self.take(subject, rate, want))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::{
        clock::{ManualClock, Timestamp},
        rate::RateScope,
    };

    #[test]
    fn what_is_kept_is_bounded_and_full_buckets_are_forgotten() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_000)));
        let limiter = MemoryRateLimiter::new(clock.clone());
        let kept = || limiter.buckets.lock().expect("nobody panicked").known.len();
        let take = |number: usize| {
            let subject = Subject { scope: RateScope::ApiKey, id: Uuid::from_u128(number as u128) };
            limiter.take(subject, Rate::per_minute(600), 1)
        };
        for number in 0..3 * BUCKETS_MAX {
            assert_eq!(take(number), Borrowed::Granted(1));
            assert!(kept() <= BUCKETS_MAX);
        }
        for number in 0..2 * BUCKETS_MAX {
            take(20 * BUCKETS_MAX + number);
            clock.advance(Duration::from_secs(1));
        }
        assert!(kept() <= SWEEP_FROM, "{}", kept());
    }
}
