//! How long units of work on the database take, as whoever asks for one waits for it: the pool included.
//!
//! The handle of each time series is kept once it was found: to find it by its labels takes longer than to measure.

use std::{sync::OnceLock, time::Instant};

use metrics::Histogram;

use crate::domain::{Error, Result};

pub(super) static QUERY: Meter = Meter::new("query");
pub(super) static TRANSACTION: Meter = Meter::new("transaction");

pub(super) struct Meter {
    operation: &'static str,
    /// One an outcome.
    durations: [OnceLock<Histogram>; 3],
}

impl Meter {
    const fn new(operation: &'static str) -> Self {
        Self { operation, durations: [const { OnceLock::new() }; 3] }
    }

    pub(super) fn note<T>(&self, answer: &Result<T>, began: Instant) {
        let (place, outcome) = match answer {
            Err(Error::Unavailable(..)) => (1, "unavailable"),
            Err(Error::Internal(_)) => (2, "failed"),
            // That there is no such row is an answer too.
            Ok(_) | Err(_) => (0, "answered"),
        };
        let found = || {
            metrics::histogram!(
                "voxgate_store_duration_seconds",
                "store" => "database", "operation" => self.operation, "outcome" => outcome
            )
        };
        self.durations[place].get_or_init(found).record(began.elapsed().as_secs_f64());
    }
}
