//! What a server's clock says, beside what it should say after the time that has passed here.
//!
//! A clock that is set ahead ends every lease at once, and a script cannot tell that from time that has passed while
//! nobody asked. The time that passes here is measured by another clock, one that nobody sets; so each replica bears
//! witness, and what judges by the server's clock is told until when that may be believed ([`ClockWitness`]).
//!
//! A machine that slept bears false witness: to it the server's clock has run ahead. What then follows is careful
//! rather than wrong, and lasts one lease.

use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

/// By how much two clocks may differ in pace between two looks: a busy machine's pauses, not a step.
const PACE: Duration = Duration::from_secs(2);
/// For how long a step is told of: what counted before it has run out by then, of itself or by our word.
const TOLD_FOR: Duration = Duration::from_mins(10);

/// What a replica knows of a server's clock, in milliseconds of that clock; 0 where it does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClockWitness {
    /// The latest that it can say, unless it was set ahead.
    pub latest_ms: u64,
    /// It was set ahead a while ago, and says at least this ever since.
    pub ahead_since_ms: u64,
}

/// One server's clock.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    look: Option<Look>,
    ahead: Option<Ahead>,
}

/// It said so between the two moments.
#[derive(Debug, Clone, Copy)]
struct Look {
    asked: Instant,
    answered: Instant,
    micros: i64,
}

#[derive(Debug, Clone, Copy)]
struct Ahead {
    noticed: Instant,
    since: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Back(i64),
    Forward(i64),
}

impl Clock {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().expect("nobody panics while holding it")
    }

    /// Compares what it says with the look before, and raises the alarm if it was set. Ahead by more than `tolerance`
    /// is what witness is borne of. Of two looks at the same time nobody knows which came first, so one is passed over.
    pub(super) fn look(&self, asked: Instant, micros: i64, tolerance: Option<Duration>) {
        let mut seen = self.seen();
        if seen.look.is_some_and(|before| asked < before.answered) {
            return;
        }
        let answered = Instant::now();
        let Some(before) = seen.look.replace(Look { asked, answered, micros }) else { return };
        let (direction, by) = match step(before, micros, answered) {
            None => return,
            Some(Step::Back(by)) => {
                seen.ahead = None;
                ("back", by)
            }
            Some(Step::Forward(by)) => {
                if tolerance.is_some_and(|tolerance| by > micros_of(tolerance)) {
                    seen.ahead = Some(Ahead { noticed: asked, since: before.micros + by });
                }
                ("forward", by)
            }
        };
        tracing::warn!(clock.step = direction, clock.micros = by, "the clock of Redis was set");
        metrics::counter!("voxgate_slot_store_clock_steps_total", "direction" => direction).increment(1);
    }

    /// Nothing where nobody is to judge by it.
    pub(super) fn witness(&self, tolerance: Option<Duration>) -> ClockWitness {
        let seen = self.seen();
        let (Some(look), Some(tolerance)) = (seen.look, tolerance) else { return ClockWitness::default() };
        let ahead = seen.ahead.filter(|ahead| ahead.noticed.elapsed() < TOLD_FOR);
        ClockWitness {
            latest_ms: millis(look.micros + micros_of(look.asked.elapsed() + tolerance)),
            ahead_since_ms: ahead.map_or(0, |ahead| millis(ahead.since)),
        }
    }
}

/// How far the server's clock moved beyond the time that passed here.
fn step(before: Look, micros: i64, now: Instant) -> Option<Step> {
    let moved = micros.saturating_sub(before.micros);
    let passed = micros_of(now.duration_since(before.asked));
    if moved < 0 {
        Some(Step::Back(moved.saturating_neg()))
    } else if moved.saturating_sub(passed) > micros_of(PACE) {
        Some(Step::Forward(moved - passed))
    } else {
        None
    }
}

fn micros_of(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

fn millis(micros: i64) -> u64 {
    u64::try_from(micros / 1_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const START: i64 = 1_700_000_000_000_000;
    const TOLERANCE: Option<Duration> = Some(Duration::from_secs(5));

    fn looked_at() -> Clock {
        let clock = Clock::default();
        clock.look(Instant::now(), START, TOLERANCE);
        clock
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_steps_when_it_goes_back_or_runs_far_ahead() {
        let before = Look { asked: Instant::now(), answered: Instant::now(), micros: 10 };
        let after = |span| before.asked + span;
        assert_eq!(step(before, 1_000_010, after(SECOND)), None);
        assert_eq!(step(before, 2_900_000, after(SECOND)), None, "a slow answer is no step");
        assert_eq!(step(before, 9, after(SECOND)), Some(Step::Back(1)));
        assert_eq!(step(before, 301_000_010, after(SECOND)), Some(Step::Forward(300_000_000)));
        assert_eq!(step(before, 100_000, after(60 * SECOND)), None, "we were the ones who slept");
    }

    #[tokio::test(start_paused = true)]
    async fn its_latest_moment_goes_on_with_our_time_and_not_with_its_own() {
        let clock = looked_at();
        assert_eq!(clock.witness(TOLERANCE).latest_ms, millis(START) + 5_000);
        tokio::time::advance(40 * SECOND).await;
        assert_eq!(clock.witness(TOLERANCE), ClockWitness { latest_ms: millis(START) + 45_000, ahead_since_ms: 0 });
        assert_eq!(clock.witness(None), ClockWitness::default());
        assert_eq!(Clock::default().witness(TOLERANCE), ClockWitness::default(), "nobody has looked yet");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_ahead_is_told_of_from_its_earliest_moment_on_for_a_while() {
        let clock = looked_at();
        tokio::time::advance(SECOND).await;
        clock.look(Instant::now(), START + 301_000_000, TOLERANCE);
        let told = clock.witness(TOLERANCE);
        assert_eq!((told.latest_ms, told.ahead_since_ms), (millis(START) + 306_000, millis(START) + 300_000));
        tokio::time::advance(TOLD_FOR).await;
        assert_eq!(clock.witness(TOLERANCE).ahead_since_ms, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_is_ahead_no_longer() {
        let clock = looked_at();
        clock.look(Instant::now(), START + 300_000_000, TOLERANCE);
        clock.look(Instant::now(), START + 1, TOLERANCE);
        assert_eq!(clock.witness(TOLERANCE), ClockWitness { latest_ms: millis(START) + 5_000, ahead_since_ms: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn looks_at_the_same_time_are_no_step_whichever_is_heard_of_first() {
        let clock = looked_at();
        let asked = Instant::now() + SECOND;
        tokio::time::advance(2 * SECOND).await;
        clock.look(asked, START + 301_000_000, TOLERANCE);
        let told = clock.witness(TOLERANCE);
        assert!(told.ahead_since_ms > 0);
        // It was asked a little later, carried out a little earlier and heard of last.
        clock.look(asked + SECOND / 2, START + 300_999_999, TOLERANCE);
        assert_eq!(clock.witness(TOLERANCE), told, "that is no step back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_step_and_one_that_nobody_judges_by_are_alarms_alone() {
        for (by, tolerance) in [(4, TOLERANCE), (300, None)] {
            let clock = looked_at();
            clock.look(Instant::now(), START + by * 1_000_000, tolerance);
            assert_eq!(clock.witness(TOLERANCE).ahead_since_ms, 0, "{by} s");
        }
    }
}
