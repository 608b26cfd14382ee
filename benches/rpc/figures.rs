//! Latencies counted, and the median of rounds.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies in microseconds, to three digits, up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds")
}

pub(crate) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

/// What one cell found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Figures {
    pub(crate) fn of(latencies: &Histogram<u64>, within: Duration) -> Self {
        let count = u32::try_from(latencies.len()).map_or(f64::INFINITY, f64::from);
        let millis = |quantile| {
            let micros = latencies.value_at_quantile(quantile);
            u32::try_from(micros).map_or(f64::INFINITY, f64::from) / 1_000.0
        };
        Self { rate: count / within.as_secs_f64(), p50: millis(0.50), p99: millis(0.99) }
    }
}

/// The same cell, measured some times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rounds(Vec<Figures>);

impl Rounds {
    pub(crate) fn add(&mut self, figures: Figures) {
        self.0.push(figures);
    }

    /// Each figure's own median.
    pub(crate) fn median(&self) -> Figures {
        Figures { rate: self.spread(|it| it.rate).0, p50: self.spread(|it| it.p50).0, p99: self.spread(|it| it.p99).0 }
    }

    /// Median, least and greatest.
    pub(crate) fn spread(&self, of: fn(&Figures) -> f64) -> (f64, f64, f64) {
        spread(self.0.iter().map(of))
    }

    /// These rates by those of `whole`, round by round: what slows the machine for a while slows both of a round.
    pub(crate) fn share(&self, whole: &Self) -> (f64, f64, f64) {
        self.ratio(whole, |it| it.rate)
    }

    /// The same of any figure.
    pub(crate) fn ratio(&self, whole: &Self, of: fn(&Figures) -> f64) -> (f64, f64, f64) {
        spread(self.0.iter().zip(&whole.0).map(|(part, whole)| of(part) / of(whole)))
    }
}

fn spread(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "a cell was measured before it is read");
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}
