//! How long to wait before connecting again: twice as long each time, and never in step with other clients.

use std::time::Duration;

use crate::domain::Env;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(crate) struct Delay {
    attempts: u32,
}

impl Delay {
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Between half of the step and all of it, so that those who lost one replica do not return in one wave.
    pub(crate) fn next(&mut self, env: &Env) -> Duration {
        let step = FIRST.saturating_mul(1 << self.attempts.min(10)).min(LONGEST);
        self.attempts += 1;
        let [byte] = env.bytes::<1>();
        (step / 2 + step / 2 * u32::from(byte) / 255).max(FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_to_its_limit_and_starts_anew_after_a_reset() {
        let (env, mut delay) = (Env::system(), Delay::default());
        let waits: Vec<_> = (0..20).map(|_| delay.next(&env)).collect();
        assert!(waits.iter().all(|wait| (FIRST..=LONGEST).contains(wait)), "{waits:?}");
        assert!(waits[0] == FIRST && waits[19] >= LONGEST / 2, "{waits:?}");
        delay.reset();
        assert_eq!(delay.next(&env), FIRST);
    }
}
