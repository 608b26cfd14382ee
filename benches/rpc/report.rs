//! The tables.

use std::fmt::Write as _;

use super::{
    CROWD,
    figures::{Figures, Rounds},
    home::Home,
    tally::Counts,
};

/// By requests in flight: what is compared with, and what is compared.
#[derive(Debug, Default)]
pub(crate) struct Versus(Vec<(usize, Rounds, Rounds)>);

impl Versus {
    pub(crate) fn add(&mut self, in_flight: usize, base: Figures, ours: Figures) {
        if !self.0.iter().any(|(known, ..)| *known == in_flight) {
            self.0.push((in_flight, Rounds::default(), Rounds::default()));
        }
        for (_, bases, ourss) in self.0.iter_mut().filter(|(known, ..)| *known == in_flight) {
            bases.add(base);
            ourss.add(ours);
        }
    }

    /// The greatest median rate of each.
    pub(crate) fn peaks(&self) -> (f64, f64) {
        let medians = self.0.iter().map(|(_, base, ours)| (base.median().rate, ours.median().rate));
        medians.fold((1.0, 1.0), |(bases, ourss), (base, ours)| (base.max(bases), ours.max(ourss)))
    }
}

/// Everything about admission that was measured on one home.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// The no-op, and slots.
    pub(crate) closed: Versus,
    pub(crate) grants: Rounds,
    pub(crate) denials: Rounds,
    /// Half of the peak: the no-op's own, and that of slots.
    pub(crate) open_rates: (f64, f64),
    pub(crate) open_slots: Rounds,
    pub(crate) open_noop: Rounds,
    pub(crate) open_noop_own: Rounds,
}

pub(crate) fn admission(measured: &Measured) -> String {
    let mut out = versus("no-op", "acquire + release", "share of no-op", &measured.closed);
    line(&mut out, "");
    grants_and_denials(&mut out, measured);
    constant_rate(&mut out, measured);
    out
}

/// What was counted and checked, at the end.
pub(crate) fn verdict(home: &Home, counts: Counts, faults: &[String]) -> String {
    let mut out = String::new();
    let Counts { noops, granted, released, denied, bare_reads, reads, pages, changes, creates, verbs, errors } = counts;
    line(
        &mut out,
        &format!(
            "counted: {noops} no-ops, {granted} granted, {released} released, {denied} denied, {reads} agents read, \
             {bare_reads} from the bare server, {pages} pages, {changes} changes, {creates} created, \
             {verbs} verbs, {errors} errors"
        ),
    );
    let (now, most) = home.memory();
    line(&mut out, &format!("the server's resident memory: {now} MiB, {most} MiB at most"));
    if faults.is_empty() {
        line(&mut out, "checked: every grant was released, nothing failed, and the usage at the end is 0");
    }
    for fault in faults {
        line(&mut out, &format!("FAILED: {fault}"));
    }
    out
}

/// A table of what was compared in the closed loop.
pub(crate) fn versus(base: &str, ours: &str, share: &str, of: &Versus) -> String {
    let mut out = String::new();
    line(
        &mut out,
        &format!(
            "| closed loop, in flight | {base} req/s | p50 ms | p99 ms | {ours} req/s | p50 ms | p99 ms | {share} |"
        ),
    );
    line(&mut out, "|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (in_flight, bases, ourss) in &of.0 {
        let row = format!("| {in_flight} | {} | {} | {} |", cells(bases), cells(ourss), percent(ourss.share(bases)));
        line(&mut out, &row);
    }
    out
}

/// Two rates beside each other, and the share of the second in the first.
pub(crate) fn rates((base, bases): (&str, &Rounds), (ours, ourss): (&str, &Rounds), what: &str) -> String {
    let mut out = String::new();
    let rate = |rounds: &Rounds| {
        let (median, least, greatest) = rounds.spread(|it| it.rate);
        format!("{} ({}–{})", thousands(median), thousands(least), thousands(greatest))
    };
    line(&mut out, &format!("| {what} | a second | share |"));
    line(&mut out, "|---|---:|---:|");
    line(&mut out, &format!("| {base} | {} | |", rate(bases)));
    line(&mut out, &format!("| {ours} | {} | {} |", rate(ourss), percent(ourss.share(bases))));
    out
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
pub(crate) fn cells(rounds: &Rounds) -> String {
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
