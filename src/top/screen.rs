//! The terminal: taken over, drawn to, and given back however this ends.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    draw::draw,
    view::{News, View},
};

/// As often as the service tells at most.
const FRAME: Duration = Duration::from_millis(100);
/// Waiting times go on although nothing is told.
const REDRAW: Duration = Duration::from_secs(1);
/// How soon the thread that reads keys notices that nobody wants them any more.
const KEY_WITHIN: Duration = Duration::from_millis(100);
const PAGE: usize = 10;

/// How it ended.
pub(super) enum Ended {
    /// Whoever looked has seen enough.
    Left,
    NoMoreNews,
}

/// Draws what is told until somebody leaves. A panic gives the terminal back too: that is what `try_init` sees to.
pub(super) async fn show(view: View, news: mpsc::Receiver<News>, stop: CancellationToken) -> anyhow::Result<Ended> {
    let mut terminal =
        ratatui::try_init().context("this terminal cannot be drawn to; there is `voxgate top --once`")?;
    let ended = turn(&mut terminal, view, news, stop).await;
    ratatui::restore();
    Ok(ended?)
}

async fn turn(
    terminal: &mut DefaultTerminal,
    mut view: View,
    mut news: mpsc::Receiver<News>,
    stop: CancellationToken,
) -> io::Result<Ended> {
    let mut keys = Keys::read();
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut first, mut drawn, mut is_new) = (0_usize, None::<Instant>, true);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(Ended::Left),
            told = news.recv() => match told {
                Some(told) => {
                    view.take_in(told, Instant::now());
                    is_new = true;
                }
                None => return Ok(Ended::NoMoreNews),
            },
            Some(event) = keys.events.recv() => {
                match wish(&event?) {
                    Some(Wish::Leave) => return Ok(Ended::Left),
                    Some(Wish::Down(by)) => first = first.saturating_add(by),
                    Some(Wish::Up(by)) => first = first.saturating_sub(by),
                    None => {}
                }
                first = first.min(view.agents(Instant::now()).len().saturating_sub(1));
                is_new = true;
            }
            _ = frames.tick() => {
                let now = Instant::now();
                if is_new || drawn.is_none_or(|at| now.saturating_duration_since(at) >= REDRAW) {
                    terminal.draw(|frame| draw(frame, &view, now, first))?;
                    (drawn, is_new) = (Some(now), false);
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Leave,
    Up(usize),
    Down(usize),
}

/// What a key asks for. In raw mode Ctrl-C is a key like any other.
fn wish(event: &Event) -> Option<Wish> {
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press | KeyEventKind::Repeat, .. }) = event else {
        return None;
    };
    match code {
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Wish::Leave),
        KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Leave),
        KeyCode::Down | KeyCode::Char('j') => Some(Wish::Down(1)),
        KeyCode::Up | KeyCode::Char('k') => Some(Wish::Up(1)),
        KeyCode::PageDown => Some(Wish::Down(PAGE)),
        KeyCode::PageUp => Some(Wish::Up(PAGE)),
        KeyCode::Home => Some(Wish::Up(usize::MAX)),
        KeyCode::End => Some(Wish::Down(usize::MAX)),
        _ => None,
    }
}

/// What is typed, read by a thread that may wait for it.
struct Keys {
    events: mpsc::UnboundedReceiver<io::Result<Event>>,
    is_over: Arc<AtomicBool>,
}

impl Keys {
    fn read() -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let event = match event::poll(KEY_WITHIN) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let is_last = event.is_err();
                if sender.send(event).is_err() || is_last {
                    return;
                }
            }
        });
        Self { events, is_over }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressed(code: KeyCode, modifiers: KeyModifiers) -> Option<Wish> {
        wish(&Event::Key(KeyEvent::new(code, modifiers)))
    }

    #[test]
    fn q_and_ctrl_c_leave_and_a_plain_c_does_not() {
        assert_eq!(pressed(KeyCode::Char('q'), KeyModifiers::NONE), Some(Wish::Leave));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Leave));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(pressed(KeyCode::PageDown, KeyModifiers::NONE), Some(Wish::Down(PAGE)));
    }
}
