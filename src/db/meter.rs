//! How long units of work on the database take, as whoever asks for one waits for it: the pool included.
//!
//! The handle of each time series is kept once it was found: to find it by its labels takes longer than to measure.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

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

    pub(super) async fn measure<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let began = Instant::now();
        let answer = work.await;
        self.note(&answer, began.elapsed());
        answer
    }

    fn note<T>(&self, answer: &Result<T>, took: Duration) {
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
        self.durations[place].get_or_init(found).record(took.as_secs_f64());
    }
}
