//! The screen: a head, the tenant, its agents with a bar each, a foot.

use std::time::Instant;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line as Text, Span},
    widgets::{Cell, Paragraph, Row, Table},
};

use super::{
    table::{HEAD, REPLICA_HEAD, cells, replica_cells},
    view::{Line, ReplicaLine, View},
};

/// Cells of a bar.
const BAR: u64 = 20;
const NAME_LEAST: u16 = 12;
/// From here on somebody should know.
const NEARLY_FULL: u64 = 80;

/// Draws `view` as of `now`, its agents from the one at `first` on.
pub fn draw(frame: &mut Frame<'_>, view: &View, now: Instant, first: usize) {
    let replicas = view.replicas();
    // With a blank line above and its own head.
    let height = if replicas.is_empty() { 0 } else { u16::try_from(replicas.len() + 2).unwrap_or(u16::MAX) };
    let rows = [Constraint::Length(2), Constraint::Min(3), Constraint::Length(height), Constraint::Length(1)];
    let [head, body, below, foot] = Layout::vertical(rows).areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let state_style = if view.is_old() { Style::new().fg(Color::Red) } else { Style::new().fg(Color::Green) };
    let title = Text::from_iter([
        Span::styled("voxgate top", bold),
        Span::raw(format!("  {}  ", view.endpoint())),
        Span::styled(view.state(now), state_style),
    ]);
    frame.render_widget(Paragraph::new(title), head);

    let agents = view.agents(now);
    let rows = std::iter::once(row(&view.tenant(now), true, view.is_old()).style(bold))
        .chain(agents.iter().skip(first).map(|line| row(line, false, view.is_old())));
    let widths = [
        Constraint::Min(NAME_LEAST),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(20),
        Constraint::Length(6),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Length(8),
    ];
    let [name, used, limit, numbers @ .., status] = HEAD;
    let names = [Cell::new(name), right(used), right(limit), Cell::new("")].into_iter();
    let names = names.chain(numbers.map(right)).chain([Cell::new(status)]);
    let table = Table::new(rows, widths).header(Row::new(names).style(bold)).column_spacing(1);
    let style = if view.is_old() { Style::new().fg(Color::DarkGray) } else { Style::new() };
    frame.render_widget(table.style(style), body);

    if !replicas.is_empty() {
        draw_replicas(frame, below, &replicas, bold);
    }

    let keys = format!("agents: {}   q: quit   up, down: scroll", agents.len());
    let told = view.note().map_or(keys.clone(), |note| format!("{keys}   {note}"));
    frame.render_widget(Paragraph::new(told).style(Style::new().fg(Color::DarkGray)), foot);
}

fn draw_replicas(frame: &mut Frame<'_>, area: Rect, replicas: &[ReplicaLine], bold: Style) {
    let rows = replicas.iter().map(|line| {
        let color = match &line.told {
            Some(told) if told.ready => Color::Reset,
            _ => Color::Red,
        };
        let [name, numbers @ .., why] = replica_cells(line);
        let cells = std::iter::once(Cell::new(name)).chain(numbers.map(right)).chain([Cell::new(format!(" {why}"))]);
        Row::new(cells).style(Style::new().fg(color))
    });
    let [name, why] = [Constraint::Min(NAME_LEAST), Constraint::Fill(2)];
    let numbers = [5, 6, 6, 6, 10, 8].map(Constraint::Length);
    let widths = std::iter::once(name).chain(numbers).chain([why]);
    let [first, heads @ .., last] = REPLICA_HEAD;
    let heads = std::iter::once(Cell::new(first)).chain(heads.map(right)).chain([Cell::new(format!(" {last}"))]);
    let head = Row::new(heads).style(bold).top_margin(1);
    frame.render_widget(Table::new(rows, widths).header(head).column_spacing(1), area);
}

fn row(line: &Line, is_tenant: bool, is_old: bool) -> Row<'static> {
    let [name, used, limit, rest @ ..] = cells(line, is_tenant);
    let per_cent = line.usage.and_then(|usage| usage.per_cent());
    let color = match per_cent {
        _ if is_old => Color::DarkGray,
        Some(100..) => Color::Red,
        Some(NEARLY_FULL..) => Color::Yellow,
        _ => Color::Green,
    };
    let bar = Cell::new(bar(per_cent)).style(Style::new().fg(color));
    let [reserved_to_oldest @ .., status] = rest;
    let before = [Cell::new(name), right(used), right(limit), bar].into_iter();
    Row::new(before.chain(reserved_to_oldest.map(right)).chain([Cell::new(status)]))
}

/// Numbers stand below each other, and below their heads.
fn right<'a>(number: impl Into<Text<'a>>) -> Cell<'a> {
    Cell::new(number.into().right_aligned())
}

/// Full from 100 per cent on; a slot that is taken is always seen.
fn bar(per_cent: Option<u64>) -> String {
    let Some(per_cent) = per_cent else { return String::new() };
    let full = (per_cent.min(100) * BAR).div_ceil(100);
    (0..BAR).map(|cell| if cell < full { '█' } else { '░' }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ratatui::{Terminal, backend::TestBackend};

    use super::{
        super::view::{
            News,
            tests::{usage, view_of, view_of_replicas},
        },
        *,
    };

    fn drawn(view: &View, now: Instant, first: usize) -> Terminal<TestBackend> {
        let height = if view.replicas().is_empty() { 8 } else { 12 };
        let mut terminal = Terminal::new(TestBackend::new(110, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, view, now, first)).expect("drawn");
        terminal
    }

    #[test]
    fn agents_are_drawn_with_the_fullest_on_top() {
        let now = Instant::now();
        let agents = [
            ("sales", "paused", usage(1, 200, 0)),
            ("support", "", usage(10, 10, 12)),
            ("night desk", "", usage(9, 10, 0)),
        ];
        insta::assert_snapshot!(drawn(&view_of(&agents, now), now, 0).backend());
    }

    #[test]
    fn a_lost_connection_greys_what_was_told_last() {
        let now = Instant::now();
        let mut view = view_of(&[("support", "", usage(10, 10, 0))], now);
        view.take_in(News::Lost { why: "Connection refused".to_owned(), again_in: Duration::from_secs(2) }, now);
        let terminal = drawn(&view, now, 0);
        insta::assert_snapshot!(terminal.backend());
        let cell = terminal.backend().buffer().cell((0, 4)).expect("the agent's line");
        assert_eq!((cell.symbol(), cell.fg), ("s", Color::DarkGray));
    }

    #[test]
    fn the_agents_are_scrolled_and_the_tenant_stays() {
        let now = Instant::now();
        let view = view_of(&[("a", "", usage(2, 2, 0)), ("b", "", usage(1, 2, 0)), ("c", "", usage(0, 2, 0))], now);
        insta::assert_snapshot!(drawn(&view, now, 2).backend());
    }

    #[test]
    fn replicas_stand_below_the_agents() {
        let now = Instant::now();
        insta::assert_snapshot!(drawn(&view_of_replicas(now), now, 0).backend());
    }

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let full = |per_cent| bar(per_cent).chars().filter(|it| *it == '█').count();
        assert_eq!(
            [full(Some(0)), full(Some(1)), full(Some(50)), full(Some(100)), full(Some(900))],
            [0, 1, 10, 20, 20]
        );
        assert_eq!(bar(None), "");
    }
}
