//! What a replica has borrowed of one subject's rate, and how much it asks for next.
//!
//! A loan doubles while the one before was spent in time, up to a quarter of a second's worth, and halves when it was
//! not: a busy key costs a round trip in some hundred requests, and one that is used now and then takes nothing away from
//! the other replicas.

use std::time::{Duration, Instant};

use crate::domain::rate::{Borrowed, Rate};

/// How long borrowed requests may be spent. What all replicas together let through in a window exceeds the rate by no
/// more than this.
const LOAN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Purse {
    credits: u32,
    /// Of the last loan; none before the first.
    good_until: Option<Instant>,
    denied_until: Option<Instant>,
    /// What the last loan was asked for.
    asked: u32,
}

impl Purse {
    /// Lets a request through, or says when to try again; nothing if that is not known here.
    pub(super) fn spend(&mut self, now: Instant) -> Option<Result<(), Duration>> {
        if self.credits > 0 && self.is_good(now) {
            self.credits -= 1;
            return Some(Ok(()));
        }
        let wait = self.denied_until.and_then(|until| until.checked_duration_since(now));
        wait.filter(|wait| !wait.is_zero()).map(Err)
    }

    /// How much to ask for, when `waiting` requests are at hand that will each spend one.
    pub(super) fn want(&mut self, rate: Rate, waiting: u32, now: Instant) -> u32 {
        let spent_in_time = self.credits == 0 && self.is_good(now);
        let next = if spent_in_time { self.asked.saturating_mul(2) } else { self.asked / 2 };
        self.asked = next.clamp(1, rate.loan());
        self.asked.max(waiting).min(rate.burst())
    }

    /// Takes note of what was answered to a question of `asked_at`, and answers the one who asked.
    pub(super) fn settle(
        &mut self,
        borrowed: Borrowed,
        rate: Rate,
        asked_at: Instant,
        now: Instant,
    ) -> Result<(), Duration> {
        match borrowed {
            Borrowed::Granted(count) => {
                self.credits = count.min(rate.burst()).saturating_sub(1);
                // From before the question: what was granted later is not spent later than it may be.
                self.good_until = Some(asked_at + LOAN);
                self.denied_until = None;
                Ok(())
            }
            Borrowed::Denied { retry_after } => {
                self.denied_until = Some(now + retry_after);
                Err(retry_after)
            }
        }
    }

    /// Whether there is nothing to remember.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        !self.is_good(now) && self.denied_until.is_none_or(|until| until <= now)
    }

    fn is_good(&self, now: Instant) -> bool {
        self.good_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::per_minute(100_000);

    /// Borrows what is wanted, all of it granted, and answers how much that was.
    fn borrow(purse: &mut Purse, now: Instant) -> u32 {
        let want = purse.want(RATE, 1, now);
        assert_eq!(purse.settle(Borrowed::Granted(want), RATE, now, now), Ok(()));
        want
    }

    fn spend_all(purse: &mut Purse, now: Instant) -> u32 {
        std::iter::from_fn(|| purse.spend(now)).take_while(Result::is_ok).map(|_| 1).sum()
    }

    #[test]
    fn a_busy_keys_loans_grow_to_a_quarter_of_a_seconds_worth_and_an_idle_ones_shrink() {
        let (mut purse, mut now) = (Purse::default(), Instant::now());
        let mut loans = Vec::new();
        for _ in 0..10 {
            let loan = borrow(&mut purse, now);
            assert_eq!(spend_all(&mut purse, now), loan - 1, "the one who borrowed had the first");
            loans.push(loan);
        }
        assert_eq!(loans, [1, 2, 4, 8, 16, 32, 64, 128, 256, 416]);
        for _ in 0..10 {
            now += Duration::from_secs(2);
            loans.push(borrow(&mut purse, now));
        }
        assert_eq!(loans[10..], [208, 104, 52, 26, 13, 6, 3, 1, 1, 1]);
    }

    #[test]
    fn what_is_not_spent_in_time_is_lost() {
        let (mut purse, now) = (Purse::default(), Instant::now());
        assert_eq!(purse.settle(Borrowed::Granted(100), RATE, now, now), Ok(()));
        assert_eq!(purse.spend(now + Duration::from_millis(999)), Some(Ok(())));
        assert!(!purse.is_idle(now) && purse.is_idle(now + LOAN));
        assert_eq!(purse.spend(now + LOAN), None);
    }

    #[test]
    fn a_denial_is_remembered_until_it_is_over() {
        let (mut purse, now) = (Purse::default(), Instant::now());
        let wait = Duration::from_secs(6);
        assert_eq!(purse.settle(Borrowed::Denied { retry_after: wait }, RATE, now, now), Err(wait));
        assert_eq!(purse.spend(now + Duration::from_secs(2)), Some(Err(Duration::from_secs(4))));
        assert!(!purse.is_idle(now));
        assert_eq!(purse.spend(now + wait), None);
    }

    #[test]
    fn a_crowd_that_waits_shares_one_loan_of_at_most_the_burst() {
        let (mut purse, now, rate) = (Purse::default(), Instant::now(), Rate::per_minute(600));
        assert_eq!(purse.want(rate, 7, now), 7);
        assert_eq!(purse.want(rate, 1_000, now), rate.burst());
    }
}
