//! The open loop: requests at a constant rate, whether or not earlier ones were answered.
//!
//! Latency counts from the moment at which a request was meant to be sent, so a server that stalls is charged for
//! everyone who would have waited meanwhile.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::runtime::Handle;

use super::{
    Span,
    closed::Work,
    figures::{Figures, histogram, record},
    subject::{Hold, Subject},
};

/// Slots held from the start, so that there is always one to release.
const STOCK: usize = 256;
/// More than this are not sent at once: they wait here, and their clocks run.
const OUTSTANDING_MAX: usize = 2_048;

/// What the requests of one run share.
struct Run {
    subject: Arc<Subject>,
    work: Work,
    held: Mutex<VecDeque<Hold>>,
}

/// Sends `rate` requests a second; of slots, every other one is a release.
pub(crate) async fn run(subject: &Arc<Subject>, work: Work, rate: f64, span: Span) -> Figures {
    let run = Arc::new(Run { subject: subject.clone(), work, held: Mutex::default() });
    if matches!(work, Work::Slots) {
        let mut lane = subject.lane(0);
        for _ in 0..STOCK {
            let hold = lane.acquire().await;
            run.held().extend(hold);
        }
    }
    let sender = run.clone();
    let send = move |number| {
        let run = sender.clone();
        async move {
            run.send(number).await;
            Instant::now()
        }
    };
    let figures = at_rate(rate, span, send).await;
    loop {
        let Some(hold) = run.held().pop_front() else { break };
        subject.lane(0).release(hold).await;
    }
    figures
}

/// Has `send` do something `rate` times a second; it answers when that was done.
pub(crate) async fn at_rate<F>(rate: f64, span: Span, send: impl Fn(u32) -> F + Send + 'static) -> Figures
where
    F: Future<Output = Instant> + Send + 'static,
{
    let meter = Arc::new(Meter { latencies: Mutex::new(histogram()), outstanding: AtomicUsize::new(0) });
    let (pacer, handle) = (meter.clone(), Handle::current());
    let sent_all = tokio::task::spawn_blocking(move || pacer.pace(&handle, rate, span, send));
    sent_all.await.expect("the pacer does not panic");
    while meter.outstanding.load(Ordering::Acquire) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let latencies = meter.latencies.lock().expect("nobody panics while holding it");
    Figures::of(&latencies, span.measured)
}

struct Meter {
    latencies: Mutex<Histogram<u64>>,
    outstanding: AtomicUsize,
}

impl Meter {
    /// A thread of its own: the runtime's timer counts in milliseconds, which is longer than what is measured.
    #[expect(clippy::disallowed_methods, reason = "it must wait more precisely than tokio's timer does")]
    fn pace<F>(self: &Arc<Self>, handle: &Handle, rate: f64, span: Span, send: impl Fn(u32) -> F)
    where
        F: Future<Output = Instant> + Send + 'static,
    {
        let started = Instant::now();
        let counted = started + span.warm_up;
        let end = counted + span.measured;
        let mut number = 0_u32;
        loop {
            let due = started + Duration::from_secs_f64(f64::from(number) / rate);
            if due >= end {
                return;
            }
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            while self.outstanding.load(Ordering::Acquire) >= OUTSTANDING_MAX {
                std::thread::sleep(Duration::from_micros(200));
            }
            self.outstanding.fetch_add(1, Ordering::AcqRel);
            let (meter, done) = (self.clone(), send(number));
            handle.spawn(async move {
                let latency = done.await.saturating_duration_since(due);
                if due >= counted {
                    record(&mut meter.latencies.lock().expect("nobody panics while holding it"), latency);
                }
                meter.outstanding.fetch_sub(1, Ordering::AcqRel);
            });
            number += 1;
        }
    }
}

impl Run {
    fn held(&self) -> std::sync::MutexGuard<'_, VecDeque<Hold>> {
        self.held.lock().expect("nobody panics while holding it")
    }

    async fn send(&self, number: u32) {
        let mut lane = self.subject.lane(usize::try_from(number).expect("at least 32 bits"));
        match self.work {
            Work::Noop => lane.noop().await,
            Work::Denials => lane.be_denied().await,
            Work::Read => lane.read().await,
            Work::BareRead => lane.read_bare().await,
            Work::Create => drop(lane.create().await),
            Work::Slots => {
                // Connections are dealt in turn, so the turn of acquire and release is that of the fours.
                let hold = if (number / 4).is_multiple_of(2) { None } else { self.held().pop_front() };
                if let Some(hold) = hold {
                    lane.release(hold).await;
                } else {
                    let hold = lane.acquire().await;
                    self.held().extend(hold);
                }
            }
        }
    }
}
