//! The tables.

use std::fmt::Write as _;

use super::{CROWD, Figures, Rounds, home::Home, subject::Counts};

/// Everything that was measured on one home.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// By requests in flight: the no-op, and slots.
    closed: Vec<(usize, Rounds, Rounds)>,
    pub(crate) grants: Rounds,
    pub(crate) denials: Rounds,
    /// Half of the peak: the no-op's own, and that of slots.
    pub(crate) open_rates: (f64, f64),
    pub(crate) open_slots: Rounds,
    pub(crate) open_noop: Rounds,
    pub(crate) open_noop_own: Rounds,
    pub(crate) counts: Counts,
    pub(crate) faults: Vec<String>,
}

impl Measured {
    pub(crate) fn closed(&mut self, in_flight: usize, noop: Figures, slots: Figures) {
        if !self.closed.iter().any(|(known, ..)| *known == in_flight) {
            self.closed.push((in_flight, Rounds::default(), Rounds::default()));
        }
        for (_, noops, slotss) in self.closed.iter_mut().filter(|(known, ..)| *known == in_flight) {
            noops.add(noop);
            slotss.add(slots);
        }
    }

    /// The greatest median rate: the no-op's, and that of slots.
    pub(crate) fn peaks(&self) -> (f64, f64) {
        let medians = self.closed.iter().map(|(_, noop, slots)| (noop.median().rate, slots.median().rate));
        medians.fold((1.0, 1.0), |(noops, slotss), (noop, slots)| (noop.max(noops), slots.max(slotss)))
    }
}

pub(crate) fn render(home: &Home, measured: &Measured) -> String {
    let mut out = format!("\n## {}\n\n", home.title);
    throughput(&mut out, measured);
    grants_and_denials(&mut out, measured);
    constant_rate(&mut out, measured);
    let Counts { noops, granted, released, denied, errors } = measured.counts;
    line(
        &mut out,
        &format!("counted: {noops} no-ops, {granted} granted, {released} released, {denied} denied, {errors} errors"),
    );
    let (now, most) = home.memory();
    line(&mut out, &format!("the server's resident memory: {now} MiB, {most} MiB at most"));
    if measured.faults.is_empty() {
        line(&mut out, "checked: every grant was released, nothing failed, and the usage at the end is 0");
    }
    for fault in &measured.faults {
        line(&mut out, &format!("FAILED: {fault}"));
    }
    out
}

fn throughput(out: &mut String, measured: &Measured) {
    line(
        out,
        "| closed loop, in flight | no-op req/s | p50 ms | p99 ms \
         | acquire + release req/s | p50 ms | p99 ms | share of no-op |",
    );
    line(out, "|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (in_flight, noop, slots) in &measured.closed {
        line(out, &format!("| {in_flight} | {} | {} | {} |", cells(noop), cells(slots), percent(slots.share(noop))));
    }
    line(out, "");
}

fn grants_and_denials(out: &mut String, measured: &Measured) {
    line(out, &format!("| AcquireSlot alone, {CROWD} in flight | req/s | p50 ms | p99 ms | share of grants |"));
    line(out, "|---|---:|---:|---:|---:|");
    for (name, rounds) in [("granted", &measured.grants), ("denied", &measured.denials)] {
        line(out, &format!("| {name} | {} | {} |", cells(rounds), percent(rounds.share(&measured.grants))));
    }
    line(out, "");
}

fn constant_rate(out: &mut String, measured: &Measured) {
    line(
        out,
        "| constant rate | sent req/s | answered req/s | p50 ms | p99 ms (min–max) \
         | p99 of acquire + release beside it |",
    );
    line(out, "|---|---:|---:|---:|---:|---:|");
    let (noop_rate, slots_rate) = measured.open_rates;
    let p99 = measured.open_slots.median().p99;
    let rows = [
        ("acquire + release, half of its peak", slots_rate, &measured.open_slots),
        ("no-op, the same rate", slots_rate, &measured.open_noop),
        ("no-op, half of its own peak", noop_rate, &measured.open_noop_own),
    ];
    for (name, rate, rounds) in rows {
        let (median, (_, least, greatest)) = (rounds.median(), rounds.spread(|it| it.p99));
        line(
            out,
            &format!(
                "| {name} | {} | {} | {:.2} | {:.2} ({least:.2}–{greatest:.2}) | {:.1} × |",
                thousands(rate),
                thousands(median.rate),
                median.p50,
                median.p99,
                p99 / median.p99
            ),
        );
    }
    line(out, "");
}

/// Rate with its range, p50 and p99.
fn cells(rounds: &Rounds) -> String {
    let (median, (_, least, greatest)) = (rounds.median(), rounds.spread(|it| it.rate));
    let rate = format!("{} ({}–{})", thousands(median.rate), thousands(least), thousands(greatest));
    format!("{rate} | {:.2} | {:.2}", median.p50, median.p99)
}

fn percent((median, least, greatest): (f64, f64, f64)) -> String {
    format!("{:.1} % ({:.1}–{:.1})", 100.0 * median, 100.0 * least, 100.0 * greatest)
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a String takes all");
}
