//! What the node has said lately of its calls, and says again on its next stream.
//!
//! Nothing acknowledges an answer or an event: of what was said just before a stream broke, nobody knows whether it was
//! heard. It may be said again, for the service takes each but once.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{
    client::{KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT},
    proto::v1::node_message::Message as Said,
};

/// A stream whose other end has vanished is given up after so long; what was said before then was heard.
const LATELY: Duration = KEEPALIVE_INTERVAL.saturating_add(KEEPALIVE_TIMEOUT);
/// Far less than a stream's outbox takes at once. The oldest are dropped first; their commands come again, if they are not
/// settled.
const AT_MOST: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Instant, Said)>);

impl Recent {
    pub(super) fn keep(&mut self, message: Said, now: Instant) {
        self.0.push_back((now, message));
        self.drop_heard(now);
    }

    /// The stream is over: what it may not have brought there is left.
    pub(super) fn drop_heard(&mut self, now: Instant) {
        while self.0.len() > AT_MOST || self.0.front().is_some_and(|(said, _)| now.duration_since(*said) > LATELY) {
            self.0.pop_front();
        }
    }

    /// All that is left, as said anew at `now`.
    pub(super) fn again(&mut self, now: Instant) -> Vec<Said> {
        self.0.iter_mut().for_each(|(said, _)| *said = now);
        self.0.iter().map(|(_, message)| message.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::CommandResult;

    fn answer(operation: usize) -> Said {
        Said::CommandResult(CommandResult { operation_id: operation.to_string(), result: None })
    }

    #[test]
    fn what_was_said_within_the_time_in_which_a_dead_stream_is_noticed_is_said_again() {
        let (mut recent, start) = (Recent::default(), Instant::now());
        recent.keep(answer(1), start);
        recent.keep(answer(2), start + LATELY / 2);
        let broken = start + LATELY * 5 / 4;
        recent.drop_heard(broken);
        // However long it takes to find another stream.
        let back = broken + LATELY * 3;
        assert_eq!(recent.again(back), [answer(2)]);
        recent.drop_heard(back + LATELY / 2);
        assert_eq!(recent.again(back + LATELY / 2), [answer(2)], "the next stream broke too");
        recent.drop_heard(back + LATELY * 2);
        assert_eq!(recent.again(back + LATELY * 2), []);
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_oldest_goes_first() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        (0..=AT_MOST).for_each(|number| recent.keep(answer(number), now));
        let again = recent.again(now);
        assert_eq!((again.len(), &again[0]), (AT_MOST, &answer(1)));
    }
}
