//! `make bench`: what admission costs beside an RPC of the same server that does nothing, and agents beside a server that
//! does nothing else, a database alone, and themselves; history beside a database alone; and
//! verbs to a media node beside both.
//!
//! The client is this process. The server is the release binary in a process of its own, once on its embedded stores
//! and once on a private Postgres and a private Redis. Throughput is measured in a closed loop, latency under a
//! constant rate from the moment at which a request was meant to be sent. What is compared runs interleaved, round by
//! round, and every answer is counted: one that is not what was asked for fails the run, so no error looks like speed.
//! Each topic has a service and stores of its own: what one leaves behind burdens no other.
//!
//! `VOXGATE_BENCH_SECONDS` sets the seconds of a cell. Only `cargo bench` measures: `cargo test --benches` runs this
//! file too, and it returns at once.

mod bare;
mod changes;
mod closed;
mod creates;
mod figures;
mod growth;
#[expect(dead_code, reason = "shared with the tests, which need more of it")]
mod harness;
mod home;
mod journal;
mod lists;
mod machine;
mod node;
mod open;
mod queue;
mod reads;
mod report;
mod streams;
mod subject;
mod tally;
mod verbs;
mod watchers;

use std::{process::ExitCode, sync::Arc, time::Duration};

use self::{closed::Work, home::Home, report::Measured, subject::Subject};

/// In this order; `cargo bench --bench rpc -- reads lists` measures some.
const TOPICS: [&str; 11] =
    ["admission", "queue", "reads", "changes", "lists", "creates", "journal", "watchers", "growth", "verbs", "streams"];
/// Requests in flight of the closed loop.
const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];
/// In flight where grants and denials are compared.
const CROWD: usize = 64;
/// Everything is measured this often, and the median is printed.
const ROUNDS: usize = 3;
const SECONDS_DEFAULT: u64 = 3;
/// A holder's lease must outlive its cell.
const SECONDS_MAX: u64 = 60;

/// How long a cell lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// What happens in it is not counted.
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
}

fn main() -> ExitCode {
    bare::serve_if_asked();
    if !std::env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let (span, wanted) = (span(), wanted());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("{}", machine::describe(span));
    let mut failed = false;
    for start in [Home::embedded, Home::production] {
        for topic in &wanted {
            failed |= runtime.block_on(measure(&start(), topic, span)) == Outcome::Failed;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The topics that were named, or all.
fn wanted() -> Vec<&'static str> {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    for name in &named {
        assert!(TOPICS.contains(&name.as_str()), "{name} is none of {TOPICS:?}");
    }
    TOPICS.into_iter().filter(|topic| named.is_empty() || named.iter().any(|name| name == topic)).collect()
}

#[expect(clippy::disallowed_methods, reason = "a setting of this program, not of the service")]
fn span() -> Span {
    let seconds = std::env::var("VOXGATE_BENCH_SECONDS").map_or(SECONDS_DEFAULT, |text| {
        let seconds = text.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
        seconds.unwrap_or_else(|| panic!("VOXGATE_BENCH_SECONDS must be 1 to {SECONDS_MAX}, not {text:?}"))
    });
    let measured = Duration::from_secs(seconds);
    Span { warm_up: measured / 10, measured }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Clean,
    Failed,
}

/// Prints a topic, unless this home has nothing to measure of it.
async fn measure(home: &Home, topic: &str, span: Span) -> Outcome {
    let subject = Arc::new(Subject::connect(home.addr(), home.key()).await);
    let table = match (topic, home.postgres_url()) {
        ("admission", _) => report::admission(&admission(&subject, span).await),
        ("queue", _) => queue::measure(home, &subject).await,
        ("reads", _) => reads::measure(&subject, span).await,
        ("lists", _) => lists::measure(home, &subject, span).await,
        ("changes", Some(_)) => changes::measure(home, &subject, span).await,
        ("journal", Some(_)) => journal::measure(home, &subject, span).await,
        ("watchers", _) => watchers::measure(home, &subject, span).await,
        ("growth", Some(_)) => growth::measure(span).await,
        ("verbs", _) => verbs::measure(home, &subject, span).await,
        ("streams", _) => streams::measure(home, &subject).await,
        ("creates", Some(postgres)) => creates::measure(postgres, &subject, span).await,
        // Those need a second replica, or a Postgres to compare with.
        _ => return Outcome::Clean,
    };
    println!("\n## {topic}. {}\n\n{table}", home.title);
    let faults = subject.faults().await;
    println!("{}", report::verdict(home, subject.tally.counts(), &faults));
    if faults.is_empty() { Outcome::Clean } else { Outcome::Failed }
}

async fn admission(subject: &Arc<Subject>, span: Span) -> Measured {
    // Pools filled, statements prepared, scripts loaded, pages faulted in: before anything is measured.
    closed::run(subject, Work::Slots, CROWD, span).await;

    let mut measured = Measured::default();
    for _ in 0..ROUNDS {
        for in_flight in IN_FLIGHT {
            let noop = closed::run(subject, Work::Noop, in_flight, span).await;
            let slots = closed::run(subject, Work::Slots, in_flight, span).await;
            measured.closed.add(in_flight, noop, slots);
        }
        measured.grants.add(closed::grants(subject, CROWD, span).await);
        let holder = subject.fill().await;
        measured.denials.add(closed::run(subject, Work::Denials, CROWD, span).await);
        subject.lane(0).release(holder).await;
    }

    let (noop_peak, slots_peak) = measured.closed.peaks();
    measured.open_rates = (noop_peak / 2.0, slots_peak / 2.0);
    for _ in 0..ROUNDS {
        measured.open_slots.add(open::run(subject, Work::Slots, slots_peak / 2.0, span).await);
        measured.open_noop.add(open::run(subject, Work::Noop, slots_peak / 2.0, span).await);
        measured.open_noop_own.add(open::run(subject, Work::Noop, noop_peak / 2.0, span).await);
    }
    measured
}
