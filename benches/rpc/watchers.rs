//! Events told live: how soon after they happened, and what many who watch cost those whose calls are told of.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tokio::task::JoinHandle;
use tonic::{Streaming, transport::Channel};
use voxgate::proto::v1::{Event, WatchEventsRequest, session_service_client::SessionServiceClient};

use super::{
    ROUNDS, Span,
    figures::{Figures, Rounds, histogram, record},
    home::Home,
    open,
    subject::Subject,
    tally::count,
};

const WATCHERS: [usize; 4] = [0, 1, 100, 1_000];
/// As many as the service takes on one connection.
const STREAMS: usize = 200;
/// Calls that begin and end each second.
const CALLS: f64 = 10.0;
const EVENTS_OF_A_CALL: u64 = 4;
/// For what is still on its way to all of them.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);
const TARGET_MS: f64 = 100.0;

#[derive(Debug, Default)]
struct Row {
    told: Rounds,
    calls: Rounds,
}

/// What all watchers of a cell have been told.
struct Told {
    count: AtomicU64,
    /// From when an event happened, by the service's clock, until it was read.
    after: Mutex<Histogram<u64>>,
}

pub(crate) async fn measure(home: &Home, subject: &Arc<Subject>, span: Span) -> String {
    let mut lanes = Vec::new();
    for _ in 0..WATCHERS[WATCHERS.len() - 1] / STREAMS {
        lanes.push(subject.another_channel(home.addr()).await);
    }
    lives(subject, span).await;
    let mut rows: [Row; WATCHERS.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (row, watchers) in rows.iter_mut().zip(WATCHERS) {
            let (told, calls) = cell(subject, &lanes, watchers, span).await;
            row.told.add(told);
            row.calls.add(calls);
        }
    }
    table(&rows)
}

async fn cell(subject: &Arc<Subject>, lanes: &[Channel], watchers: usize, span: Span) -> (Figures, Figures) {
    all_told(subject, &lanes[0]).await;
    let told = Arc::new(Told { count: AtomicU64::new(0), after: Mutex::new(histogram()) });
    let streams = join_all((0..watchers).map(|number| watch(subject, &lanes[number / STREAMS]))).await;
    let read = |stream| tokio::spawn(read(stream, told.clone(), subject.clone()));
    let readers: Vec<JoinHandle<()>> = streams.into_iter().map(read).collect();
    let before = subject.tally.counts().released;
    let begun = Instant::now();
    let calls = lives(subject, span).await;
    let within = begun.elapsed();
    let lived = subject.tally.counts().released - before;
    let expected = lived * EVENTS_OF_A_CALL * u64::try_from(watchers).expect("at most 64 bits");
    let patience = Instant::now();
    while told.count.load(Ordering::Relaxed) < expected && patience.elapsed() < ARRIVES_WITHIN {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for reader in readers {
        reader.abort();
    }
    let found = told.count.load(Ordering::Relaxed);
    if found != expected {
        subject.tally.error(&format!("WatchEvents: {watchers} watchers were told {found} events of {expected}"));
    }
    let after = told.after.lock().expect("nobody panics while holding it");
    (Figures::of(&after, within), calls)
}

/// Waits until whatever happened has been told, of which this call is the last.
async fn all_told(subject: &Subject, lane: &Channel) {
    let mut stream = watch(subject, lane).await;
    let (mut last, mut told) = (subject.lane(0), 0);
    let hold = last.acquire().await.expect("a slot");
    let call = hold.call().to_owned();
    last.release(hold).await;
    let telling = async {
        while told < EVENTS_OF_A_CALL {
            let event = stream.message().await.expect("it goes on").expect("an event");
            told += u64::from(event.call_id == call);
        }
    };
    tokio::time::timeout(ARRIVES_WITHIN, telling).await.expect("all that happened is told");
}

/// Calls that are admitted and given back, at a constant rate.
async fn lives(subject: &Arc<Subject>, span: Span) -> Figures {
    let subject = subject.clone();
    let live = move |number| {
        let subject = subject.clone();
        async move {
            let mut lane = subject.lane(usize::try_from(number).expect("at least 32 bits"));
            if let Some(hold) = lane.acquire().await {
                lane.release(hold).await;
            }
            Instant::now()
        }
    };
    open::at_rate(CALLS, span, live).await
}

/// It has begun once this is answered.
async fn watch(subject: &Subject, lane: &Channel) -> Streaming<Event> {
    let request = subject.signed(WatchEventsRequest::default());
    let answer = SessionServiceClient::new(lane.clone()).watch_events(request).await;
    answer.expect("as many may watch").into_inner()
}

async fn read(mut stream: Streaming<Event>, told: Arc<Told>, subject: Arc<Subject>) {
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                let after = since(&event);
                record(&mut told.after.lock().expect("nobody panics while holding it"), after);
                count(&told.count);
            }
            Ok(None) => return subject.tally.error("WatchEvents: it ended"),
            Err(status) => return subject.tally.failure("WatchEvents", &status),
        }
    }
}

/// How long ago it happened.
#[expect(clippy::disallowed_methods, reason = "by the clock that the service runs by too")]
fn since(event: &Event) -> Duration {
    let happened = event.created_at.and_then(|at| SystemTime::try_from(at).ok()).expect("a moment");
    SystemTime::now().duration_since(happened).unwrap_or_default()
}

fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| who watch all events | told a second | read p50 ms after it happened | p99 ms | a call's acquire + release p50 ms \
         | p99 ms |\n|---:|---:|---:|---:|---:|---:|\n",
    );
    for (row, watchers) in rows.iter().zip(WATCHERS) {
        let (told, calls) = (row.told.median(), row.calls.median());
        writeln!(
            table,
            "| {watchers} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
            told.rate, told.p50, told.p99, calls.p50, calls.p99
        )
        .expect("a string takes it");
    }
    let told = rows[1].told.median();
    let met = if told.rate > 0.0 && told.p99 <= TARGET_MS { "met" } else { "NOT MET" };
    writeln!(
        table,
        "\n{CALLS} calls a second, four events each. Target: one that watches is told within {TARGET_MS} ms p99: {met}."
    )
    .expect("a string takes it");
    table
}
