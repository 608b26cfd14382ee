//! The clocks of this machine, of the database and of Redis, beside each other.
//!
//! Leases go by the clock of Redis alone, and each replica bears witness of it by the time that passes; a difference does
//! no harm to them. Everything else that has a moment does: callback tokens, keys and certificates expire by this
//! machine's clock, commands carry a deadline of it, webhooks its timestamp, and what is old is removed by the
//! database's.

use std::time::Duration;

use super::report::Finding;
use crate::domain::clock::ClockDifference;

const CHECK: &str = "clock";
/// More than clocks that are kept by NTP ever differ by.
const UNKEPT: Duration = Duration::from_secs(2);
/// A callback token is replaced 5 minutes before it expires, and receivers of webhooks refuse a timestamp that is further
/// away (Standard Webhooks).
const HARMFUL: Duration = Duration::from_mins(5);

/// Nothing where no other clock was seen.
pub(super) fn compare(database: Option<ClockDifference>, redis: Vec<(String, ClockDifference)>) -> Option<Finding> {
    let redis = redis.into_iter().map(|(name, clock)| (format!("Redis {name}"), clock));
    let others: Vec<_> = database.map(|clock| ("Postgres".to_owned(), clock)).into_iter().chain(redis).collect();
    if others.is_empty() {
        return None;
    }
    let here = ClockDifference { micros: 0, give_or_take: Duration::ZERO };
    let all: Vec<_> = others.iter().map(|(_, clock)| *clock).chain([here]).collect();
    let widest = all.iter().flat_map(|one| all.iter().map(|other| apart(*one, *other))).max().unwrap_or_default();
    let told: Vec<_> = others.iter().map(|(name, clock)| format!("{name} {}", in_words(*clock))).collect();
    let found = format!("as seen from this machine: {}", told.join(", "));
    let advice = "keep all machines' clocks by NTP (see `chronyc tracking` or `timedatectl` on each)";
    Some(if widest > HARMFUL {
        let harm = "tokens and keys expire at the wrong time, and webhooks' receivers refuse their timestamps";
        Finding::fault(CHECK, format!("{found}; beyond 5 min {harm}"), advice)
    } else if widest > UNKEPT {
        let harm = "leases do not suffer, but commands to nodes, tokens and keys expire early or late by it";
        Finding::warning(CHECK, format!("{found}; {harm}"), advice)
    } else {
        Finding::ok(CHECK, found)
    })
}

/// By as much two clocks differ at least.
fn apart(one: ClockDifference, other: ClockDifference) -> Duration {
    let between = Duration::from_micros(one.micros.abs_diff(other.micros));
    between.saturating_sub(one.give_or_take + other.give_or_take)
}

fn in_words(clock: ClockDifference) -> String {
    let by = Duration::from_micros(clock.micros.unsigned_abs());
    let side = if clock.micros < 0 { "behind" } else { "ahead" };
    format!("{:.3} s {side} (± {:.3} s)", by.as_secs_f64(), clock.give_or_take.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::{super::report::Outcome, *};

    fn outcome(database: i64, redis: i64) -> Outcome {
        let at = |secs: i64| ClockDifference { micros: secs * 1_000_000, give_or_take: Duration::from_millis(100) };
        compare(Some(at(database)), vec![("r:1".to_owned(), at(redis))]).expect("a finding").outcome
    }

    #[test]
    fn three_clocks_are_judged_by_the_two_that_differ_most() {
        assert_eq!(
            [outcome(0, 0), outcome(2, -0), outcome(3, 0), outcome(0, -301)],
            [Outcome::Ok, Outcome::Ok, Outcome::Warning, Outcome::Fault]
        );
        assert_eq!(outcome(-151, 150), Outcome::Fault, "neither is so far from ours");
        assert_eq!(compare(None, Vec::new()), None);
    }
}
