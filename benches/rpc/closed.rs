//! The closed loop: so many workers, each of which sends its next request when the last one was answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::{
    Span,
    figures::{Figures, histogram, record},
    subject::{AGENT_LIMIT, Hold, Lane, Subject},
};

/// What a worker asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    Noop,
    /// In turn: a slot for a new call, and its release. Each is one request.
    Slots,
    Denials,
    Read,
    BareRead,
    Create,
}

impl Work {
    /// One request; what it left to release comes back.
    async fn step(self, lane: &mut Lane<'_>, last: Option<Hold>) -> Option<Hold> {
        match (self, last) {
            (Self::Noop, _) => lane.noop().await,
            (Self::Denials, _) => lane.be_denied().await,
            (Self::Read, _) => lane.read().await,
            (Self::BareRead, _) => lane.read_bare().await,
            (Self::Create, _) => drop(lane.create().await),
            (Self::Slots, Some(hold)) => lane.release(hold).await,
            (Self::Slots, None) => return lane.acquire().await,
        }
        None
    }
}

/// Keeps `in_flight` requests in flight, and answers for those that were answered within the measured span.
pub(crate) async fn run(subject: &Arc<Subject>, work: Work, in_flight: usize, span: Span) -> Figures {
    let from = Instant::now() + span.warm_up;
    let until = from + span.measured;
    let mut workers = JoinSet::new();
    for index in 0..in_flight {
        let subject = subject.clone();
        workers.spawn(async move {
            let mut lane = subject.lane(index);
            let (mut latencies, mut held) = (histogram(), None);
            loop {
                let sent = Instant::now();
                if sent >= until {
                    break;
                }
                held = work.step(&mut lane, held).await;
                let done = Instant::now();
                if (from..until).contains(&done) {
                    record(&mut latencies, done - sent);
                }
            }
            if let Some(hold) = held {
                lane.release(hold).await;
            }
            latencies
        });
    }
    Figures::of(&sum(workers.join_all().await.iter()), span.measured)
}

/// Acquires alone: batches that fit below the agent's limit are timed, and their release is not.
pub(crate) async fn grants(subject: &Arc<Subject>, in_flight: usize, span: Span) -> Figures {
    let share = usize::try_from(AGENT_LIMIT).expect("positive") / in_flight;
    let mut latencies = histogram();
    let mut spent = Duration::ZERO;
    while spent < span.measured {
        let started = Instant::now();
        let until = started + span.measured.saturating_sub(spent);
        let mut workers = JoinSet::new();
        for index in 0..in_flight {
            workers.spawn(acquire_some(subject.clone(), index, share, until));
        }
        let batches = workers.join_all().await;
        spent += started.elapsed();
        latencies += sum(batches.iter().map(|(latencies, _)| latencies));

        let mut workers = JoinSet::new();
        for (index, (_, holds)) in batches.into_iter().enumerate() {
            let subject = subject.clone();
            workers.spawn(async move {
                let mut lane = subject.lane(index);
                for hold in holds {
                    lane.release(hold).await;
                }
            });
        }
        workers.join_all().await;
    }
    Figures::of(&latencies, spent)
}

async fn acquire_some(subject: Arc<Subject>, index: usize, most: usize, until: Instant) -> (Histogram<u64>, Vec<Hold>) {
    let mut lane = subject.lane(index);
    let (mut latencies, mut holds) = (histogram(), Vec::new());
    for _ in 0..most {
        let sent = Instant::now();
        if sent >= until {
            break;
        }
        let hold = lane.acquire().await;
        record(&mut latencies, sent.elapsed());
        holds.extend(hold);
    }
    (latencies, holds)
}

pub(crate) fn sum<'h>(parts: impl Iterator<Item = &'h Histogram<u64>>) -> Histogram<u64> {
    let mut all = histogram();
    for part in parts {
        all += part;
    }
    all
}
