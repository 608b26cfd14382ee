//! How long the calls of a script take, as whoever makes one waits for it.
//!
//! The handle of each time series is kept once it was found: to find it by its labels takes longer than to measure.

use std::{sync::OnceLock, time::Duration};

use metrics::Histogram;

use super::Failure;

#[derive(Debug)]
pub(super) struct Meter {
    operation: &'static str,
    /// One an outcome.
    durations: [OnceLock<Histogram>; 3],
}

impl Meter {
    pub(super) fn new(operation: &'static str) -> Self {
        Self { operation, durations: Default::default() }
    }

    pub(super) fn note<T>(&self, answer: &Result<T, Failure>, took: Duration) {
        let (place, outcome) = match answer {
            Ok(_) => (0, "answered"),
            Err(Failure::Unsent(_) | Failure::Unavailable(_)) => (1, "unavailable"),
            Err(Failure::OurBug(_)) => (2, "failed"),
        };
        let found = || {
            metrics::histogram!(
                "voxgate_store_duration_seconds",
                "store" => "redis", "operation" => self.operation, "outcome" => outcome
            )
        };
        self.durations[place].get_or_init(found).record(took.as_secs_f64());
    }
}
