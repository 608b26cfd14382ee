//! Time and randomness, as parameters.
//!
//! Nothing in the house reads the machine's clock or entropy but [`SystemClock`] and [`SystemEntropy`]
//! (`clippy.toml` bans the rest), so a test can stand at minute 25 without waiting for it. The expiry of
//! leases is not decided here: only the slot store's own clock counts for those.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use rand::RngExt as _;
use uuid::Uuid;

/// A moment in microseconds since the Unix epoch: the precision that both databases keep.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    pub const fn as_micros(self) -> i64 {
        self.0
    }

    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Zero when `earlier` is in fact later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(moment) => moment.fmt(f),
            Err(_) => write!(f, "{}µs", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = jiff::Error;

    /// RFC 3339.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>().map(|moment| Self(moment.as_microsecond()))
    }
}

/// In JSON it is RFC 3339 too.
impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How far another machine's clock is from ours, found out by asking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDifference {
    /// Positive: the other one is ahead.
    pub micros: i64,
    /// It may be as much more or less: nobody knows when between question and answer the clock was read.
    pub give_or_take: Duration,
}

impl ClockDifference {
    pub fn found(asked: Timestamp, answered: Timestamp, theirs: Timestamp) -> Self {
        let give_or_take = answered.since(asked) / 2;
        Self { micros: theirs.0.saturating_sub(asked.plus(give_or_take).0), give_or_take }
    }

    /// By as much they differ at least.
    pub fn at_least(self) -> Duration {
        Duration::from_micros(self.micros.unsigned_abs()).saturating_sub(self.give_or_take)
    }
}

pub trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now().as_microsecond())
    }
}

/// The machine's time when it was made, and from then on the time that has passed: setting the machine's clock does not
/// move it.
#[derive(Debug)]
pub struct UnsetClock {
    start: Timestamp,
    made: Instant,
}

impl Default for UnsetClock {
    fn default() -> Self {
        Self { start: SystemClock.now(), made: Instant::now() }
    }
}

impl Clock for UnsetClock {
    fn now(&self) -> Timestamp {
        self.start.plus(self.made.elapsed())
    }
}

/// A clock that stands still until it is told to move.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn at(start: Timestamp) -> Self {
        Self(AtomicI64::new(start.0))
    }

    pub fn advance(&self, span: Duration) {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        self.0.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

pub trait Entropy: Send + Sync + fmt::Debug {
    fn fill(&self, bytes: &mut [u8]);
}

/// The machine's cryptographic randomness.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one place that draws randomness")]
    fn fill(&self, bytes: &mut [u8]) {
        rand::rng().fill(bytes);
    }
}

/// What every operation is handed instead of reaching for the machine.
#[derive(Debug, Clone)]
pub struct Env {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl Env {
    pub fn system() -> Self {
        Self { clock: Arc::new(SystemClock), entropy: Arc::new(SystemEntropy) }
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.entropy.fill(&mut bytes);
        bytes
    }

    /// A UUID v7 (RFC 9562): sorts by the time it was made.
    pub fn uuid(&self) -> Uuid {
        let millis = u64::try_from(self.now().as_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &self.bytes()).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_back_what_it_prints() {
        let moment: Timestamp = "2026-11-21T10:00:00.000001Z".parse().expect("RFC 3339");
        assert_eq!(moment.to_string(), "2026-11-21T10:00:00.000001Z");
    }

    #[test]
    fn a_slow_answer_is_no_difference_of_clocks() {
        let found = |theirs| {
            let at = |secs: i64| Timestamp::from_millis(secs * 1_000);
            ClockDifference::found(at(100), at(110), at(theirs)).at_least().as_secs()
        };
        assert_eq!((found(100), found(110), found(105), found(120), found(80)), (0, 0, 0, 10, 20));
    }

    #[test]
    fn uuids_of_a_later_moment_sort_later() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
        let env = Env { clock: clock.clone(), entropy: Arc::new(SystemEntropy) };
        let earlier = env.uuid();
        clock.advance(Duration::from_millis(1));
        assert!(env.uuid() > earlier);
    }
}
