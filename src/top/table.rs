//! The same without a terminal: one table, as plain text.

use std::{fmt::Write as _, time::Instant};

use super::view::{Line, ReplicaLine, View};

pub(super) const HEAD: [&str; 9] =
    ["AGENT", "USED", "LIMIT", "USE", "RESERVED", "OUTBOUND", "QUEUED", "OLDEST", "STATUS"];
pub(super) const REPLICA_HEAD: [&str; 8] =
    ["REPLICA", "READY", "SLOTS", "NODES", "QUEUED", "ADMITTED/S", "DENIED/S", "WHY"];
/// As many reasons are named.
const REASONS: usize = 3;
/// Where nothing is told, or nothing applies.
const NONE: &str = "-";

/// Columns by [`HEAD`].
pub(super) fn cells(line: &Line, is_tenant: bool) -> [String; 9] {
    let none = || NONE.to_owned();
    let status = line.status.to_owned();
    let Some(usage) = line.usage else {
        return [line.name.clone(), none(), none(), none(), none(), none(), none(), none(), status];
    };
    // Of a tenant neither is counted.
    let of_agent = |count: u32| if is_tenant { none() } else { count.to_string() };
    [
        line.name.clone(),
        usage.used.to_string(),
        if usage.limit == 0 { none() } else { usage.limit.to_string() },
        usage.per_cent().map_or_else(none, |per_cent| format!("{per_cent}%")),
        of_agent(usage.reserved_inbound),
        of_agent(usage.used_outbound),
        usage.queued.to_string(),
        usage.oldest.map_or_else(none, |oldest| format!("{}s", oldest.as_secs())),
        status,
    ]
}

/// Columns by [`REPLICA_HEAD`].
pub(super) fn replica_cells(line: &ReplicaLine) -> [String; 8] {
    let none = || NONE.to_owned();
    let admin = line.admin.clone();
    let Some(told) = &line.told else {
        return [admin, none(), none(), none(), none(), none(), none(), line.fault.clone().unwrap_or_default()];
    };
    let rate = |rate: f64| format!("{rate:.1}");
    // Not by `sum`: that of nothing is -0.0.
    let denied = line.granted.map(|_| line.denied.iter().fold(0.0, |all, (_, rate)| all + rate));
    let reasons = line.denied.iter().take(REASONS).map(|(reason, rate)| format!("{rate:.1} {reason}"));
    [
        admin,
        if told.ready { "yes" } else { "no" }.to_owned(),
        told.slots.to_string(),
        told.nodes.to_string(),
        told.queued.to_string(),
        line.granted.map_or_else(none, rate),
        denied.map_or_else(none, rate),
        reasons.collect::<Vec<_>>().join(", "),
    ]
}

/// A head, the tenant and its agents, and then the replicas.
pub(super) fn text(view: &View, now: Instant) -> String {
    let mut rows = vec![HEAD.map(str::to_owned), cells(&view.tenant(now), true)];
    rows.extend(view.agents(now).iter().map(|line| cells(line, false)));
    let mut text = aligned(&rows);
    if let Some(note) = view.note() {
        let _ = writeln!(text, "# {note}");
    }
    let replicas = view.replicas();
    if !replicas.is_empty() {
        let rows: Vec<_> = replicas.iter().map(replica_cells).collect();
        text.push('\n');
        text.push_str(&aligned(&[&[REPLICA_HEAD.map(str::to_owned)], &rows[..]].concat()));
    }
    text
}

/// Names, which come first, and words, which come last, to the left; numbers to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if column == 0 || column == N - 1 {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::view::tests::{usage, view_of, view_of_replicas},
        *,
    };

    #[test]
    fn a_table_has_its_columns_below_each_other() {
        let now = Instant::now();
        let agents = [("support", "", usage(10, 10, 12)), ("sales", "paused", usage(1, 200, 0))];
        insta::assert_snapshot!(text(&view_of(&agents, now), now));
    }

    #[test]
    fn where_nothing_is_denied_the_rate_is_nothing() {
        let mut line = view_of_replicas(Instant::now()).replicas().swap_remove(0);
        line.denied.clear();
        assert_eq!(replica_cells(&line)[6], "0.0");
    }

    #[test]
    fn replicas_have_a_table_of_their_own() {
        insta::assert_snapshot!(text(&view_of_replicas(Instant::now()), Instant::now()));
    }
}
