//! How much may be asked in a while, and the arithmetic that every limiter shares.
//!
//! A [`Bucket`] is the generic cell rate algorithm (ITU-T I.371): all that is kept of a subject is the moment at which
//! its bucket is full again. In any window, however placed, it lets through at most what the window's share of the
//! limit is and [`Rate::burst`]; so at most 1.1 times the limit in a window of the limit's own length (for limits of
//! 100 and more).

use std::time::Duration;

use uuid::Uuid;

use super::{clock::Timestamp, words::words};

words!(
    /// What a rate is of.
    RateScope {
        ApiKey = "api_key",
        MeshIdentity = "mesh_identity",
        /// Verbs on one call.
        Call = "call",
    }
);

impl RateScope {
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::ApiKey => "API key",
            Self::MeshIdentity => "mesh identity",
            Self::Call => "call",
        }
    }
}

/// Who is limited: any principal that has an id of 128 bits, or a digest of that many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    pub scope: RateScope,
    pub id: Uuid,
}

/// So many requests in a window of so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    limit: u32,
    window_s: u32,
}

/// A burst that a person or a page would call usual, whatever the rate.
const BURST_MIN: u32 = 10;
/// A tenth of the limit may come at once.
const BURST_SHARE: u32 = 10;
/// A replica borrows at most a quarter of a second's worth at once,
const LOANS_A_SECOND: u32 = 4;
/// and after a denial comes back when a tenth of a second's worth is there.
const CHUNKS_A_SECOND: u32 = 10;

impl Rate {
    /// At least one: what may do nothing is not limited but refused.
    pub const fn per_minute(limit: u32) -> Self {
        Self { limit: if limit == 0 { 1 } else { limit }, window_s: 60 }
    }

    /// At least one, as [`Self::per_minute`].
    pub const fn per_second(limit: u32) -> Self {
        Self { limit: if limit == 0 { 1 } else { limit }, window_s: 1 }
    }

    pub const fn limit(self) -> u32 {
        self.limit
    }

    pub const fn window(self) -> Duration {
        Duration::from_secs(self.window_s as u64)
    }

    /// How many may come at once after a rest: a tenth of the limit, but at least 10, or all of a limit below that.
    pub fn burst(self) -> u32 {
        (self.limit / BURST_SHARE).max(BURST_MIN.min(self.limit))
    }

    /// How many a replica borrows at once at most, while they are spent in time.
    pub fn loan(self) -> u32 {
        (self.limit / (self.window_s * LOANS_A_SECOND)).max(1)
    }

    /// How many must be there before it is worth while to ask again, after a denial.
    pub fn chunk(self) -> u32 {
        (self.limit / (self.window_s * CHUNKS_A_SECOND)).max(1)
    }

    pub const fn window_us(self) -> i64 {
        self.window_s as i64 * 1_000_000
    }

    /// How long the bucket takes to fill up by `requests`. Rounded up: a limit is never exceeded by rounding.
    fn cost_us(self, requests: u32) -> i64 {
        let limit = i64::from(self.limit);
        (i64::from(requests) * self.window_us() + limit - 1) / limit
    }
}

/// What a limiter answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Borrowed {
    /// Some of what was wanted, at least one.
    Granted(u32),
    /// None, and when to ask again.
    Denied { retry_after: Duration },
}

/// One subject's bucket; at first it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    full_at: Timestamp,
}

impl Bucket {
    pub const fn full() -> Self {
        Self { full_at: Timestamp::from_micros(i64::MIN) }
    }

    /// One that is full need not be kept.
    pub fn is_full(&self, now: Timestamp) -> bool {
        self.full_at <= now
    }

    /// Takes `want` (at least one, at most the burst), or as many as are there.
    pub fn take(&mut self, rate: Rate, want: u32, now: Timestamp) -> Borrowed {
        let (now, want) = (now.as_micros(), want.clamp(1, rate.burst()));
        let room = rate.cost_us(rate.burst());
        let empty = now.saturating_add(room);
        // Emptier than empty: the clock was set back, which must refuse nobody.
        let full_at = Some(self.full_at.as_micros()).filter(|full_at| *full_at <= empty).map_or(now, |it| it.max(now));
        let free = empty - full_at;
        let there = u32::try_from(free * i64::from(rate.limit) / rate.window_us()).unwrap_or(u32::MAX);
        let granted = want.min(there);
        self.full_at = Timestamp::from_micros(full_at + rate.cost_us(granted));
        if granted == 0 {
            // Until there is enough for a whole loan: a crowd that comes back for one each would be as dear again.
            let lacking = rate.cost_us(want.min(rate.chunk())) - free;
            let retry_after = Duration::from_micros(u64::try_from(lacking).unwrap_or(0).max(1));
            return Borrowed::Denied { retry_after };
        }
        Borrowed::Granted(granted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bursts_and_chunks_grow_with_the_rate_and_never_beyond_it() {
        let figures = |limit| (Rate::per_minute(limit).burst(), Rate::per_minute(limit).chunk());
        assert_eq!([0, 1, 5, 60, 600, 100_000].map(figures), [(1, 1), (1, 1), (5, 1), (10, 1), (60, 1), (10_000, 166)]);
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let (rate, now) = (Rate::per_minute(600), Timestamp::from_millis(1_000_000));
        let mut bucket = Bucket::full();
        assert_eq!(bucket.take(rate, 60, now), Borrowed::Granted(60));
        let earlier = now.minus(Duration::from_hours(1));
        assert_eq!(bucket.take(rate, 60, earlier), Borrowed::Granted(60));
        assert_eq!(bucket.take(rate, 1, earlier), Borrowed::Denied { retry_after: Duration::from_millis(100) });
    }

    proptest! {
        #[test]
        fn no_window_lets_more_through_than_its_share_and_a_burst(
            limit in 1_u32..=100_000,
            asked in prop::collection::vec((0_u64..200_000, 1_u32..500), 1..200),
        ) {
            let rate = Rate::per_minute(limit);
            let (mut bucket, mut now) = (Bucket::full(), Timestamp::from_millis(1_700_000_000_000));
            let mut granted = Vec::new();
            for (pause_us, want) in asked {
                now = now.plus(Duration::from_micros(pause_us));
                match bucket.take(rate, want, now) {
                    Borrowed::Granted(count) => granted.push((now, count)),
                    Borrowed::Denied { retry_after } => {
                        let there = now.plus(retry_after);
                        prop_assert!(matches!(bucket.clone().take(rate, 1, there), Borrowed::Granted(_)));
                        prop_assert!(retry_after <= Duration::from_micros(u64::try_from(rate.cost_us(rate.chunk())).unwrap()));
                    }
                }
            }
            for start in 0..granted.len() {
                let mut through = 0;
                for (moment, count) in &granted[start..] {
                    through += u64::from(*count);
                    let window = u64::try_from(moment.since(granted[start].0).as_micros()).unwrap();
                    // What fills the bucket is rounded up to a microsecond.
                    let most = u64::from(rate.burst()) + (window + 1) * u64::from(limit) / 60_000_000;
                    prop_assert!(through <= most, "{through} of {most} in {window} µs at {limit}");
                }
            }
        }
    }
}
