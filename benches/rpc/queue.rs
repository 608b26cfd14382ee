//! Ten thousand calls that wait for one slot: what each costs, and how long after a release the next has it.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};
use tonic::transport::Channel;
use voxgate::proto::v1::{
    AwaitSlotRequest, GetUsageRequest, Slot, admission_service_client::AdmissionServiceClient,
    await_slot_response::Update,
};

use super::{
    figures::{Figures, histogram, record},
    home::Home,
    subject::Subject,
};

const WAITERS: usize = 10_000;
const RELEASES: usize = 1_000;
/// As many as the service takes on one connection.
const STREAMS: usize = 200;
/// Come at once.
const AT_ONCE: usize = 32;
const LONGEST_WAIT_SECONDS: i64 = 120;
const LEASE_SECONDS: i64 = 300;

/// A waiter that was granted its slot, and the place that it was told first.
struct Grant {
    place: usize,
    at: Instant,
    slot: Slot,
}

pub(crate) async fn measure(home: &Home, subject: &Arc<Subject>) -> String {
    let agent = subject.lone_agent().await;
    let mut lanes = Vec::new();
    for _ in 0..=WAITERS.div_ceil(STREAMS) {
        lanes.push(subject.another_channel(home.addr()).await);
    }
    // Waits fill the others to their limit of streams.
    let desk = lanes.pop().expect("some");
    let mut holder = wait(subject, &desk, &agent, 0, &AtomicUsize::new(0)).await.expect("the slot is free").slot;
    let (memory, redis) = (home.resident_kib(), home.redis_bytes());
    let (granted, mut grants) = mpsc::channel(16);
    let (waiting, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut waiters = JoinSet::new();
    for number in 0..WAITERS {
        while number - waiting.load(Ordering::Relaxed) >= AT_ONCE {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (subject, lane, agent) = (subject.clone(), lanes[number / STREAMS].clone(), agent.clone());
        let (granted, waiting) = (granted.clone(), waiting.clone());
        waiters.spawn(async move {
            if let Some(grant) = wait(&subject, &lane, &agent, number + 1, &waiting).await {
                let _ = granted.send(grant).await;
            }
        });
    }
    while waiting.load(Ordering::Relaxed) < WAITERS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let queued = began.elapsed();
    let (memory, redis) = (home.resident_kib() - memory, home.redis_bytes().zip(redis).map(|(now, then)| now - then));

    let mut latencies = histogram();
    let began = Instant::now();
    for place in 1..=RELEASES {
        let released = Instant::now();
        subject.release(&desk, &holder).await;
        let next = tokio::time::timeout(Duration::from_secs(10), grants.recv()).await;
        let Ok(Some(next)) = next else {
            subject.tally.error("AwaitSlot: nobody was granted the slot that was released");
            break;
        };
        record(&mut latencies, next.at - released);
        if next.place != place {
            subject.tally.error(&format!("AwaitSlot: the waiter at {} was served as number {place}", next.place));
        }
        holder = next.slot;
    }
    let figures = Figures::of(&latencies, began.elapsed());
    waiters.shutdown().await;
    until_nobody_waits(subject, &desk, &agent).await;
    subject.release(&desk, &holder).await;
    render(figures, queued, memory, redis)
}

/// Waits to the end, and counts itself among those who wait once it is told its place.
async fn wait(subject: &Subject, lane: &Channel, agent: &str, number: usize, waiting: &AtomicUsize) -> Option<Grant> {
    let request = AwaitSlotRequest {
        call_id: format!("wait-{agent}-{number}"),
        voice_agent_id: Some(agent.to_owned()),
        lease_ttl: Some(prost_types::Duration { seconds: LEASE_SECONDS, nanos: 0 }),
        max_wait: Some(prost_types::Duration { seconds: LONGEST_WAIT_SECONDS, nanos: 0 }),
        ..AwaitSlotRequest::default()
    };
    let told = async {
        let mut client = AdmissionServiceClient::new(lane.clone());
        let mut updates = client.await_slot(subject.signed(request)).await?.into_inner();
        let mut first = None;
        loop {
            match updates.message().await?.and_then(|message| message.update) {
                Some(Update::Waiting(told)) => {
                    if first.is_none() {
                        first = usize::try_from(told.position).ok();
                        waiting.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Some(Update::Slot(slot)) => {
                    subject.tally.grant();
                    return Ok(Some(Grant { place: first.unwrap_or(0), at: Instant::now(), slot }));
                }
                None => return Ok::<_, tonic::Status>(None),
            }
        }
    };
    told.await.unwrap_or_else(|status| {
        subject.tally.error(&format!("AwaitSlot: {:?}: {}", status.code(), status.message()));
        None
    })
}

async fn until_nobody_waits(subject: &Subject, lane: &Channel, agent: &str) {
    for _ in 0..600 {
        let request = GetUsageRequest { voice_agent_id: Some(agent.to_owned()) };
        let usage = AdmissionServiceClient::new(lane.clone()).get_usage(subject.signed(request)).await;
        if usage.is_ok_and(|usage| usage.get_ref().queued == 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    subject.tally.error("AwaitSlot: tickets are left of those who hung up");
}

fn render(figures: Figures, queued: Duration, memory_kib: u64, redis_bytes: Option<u64>) -> String {
    let waiters = u64::try_from(WAITERS).expect("a small number");
    let mut table = format!("### {WAITERS} calls wait for one slot, which is released {RELEASES} times\n\n");
    table.push_str("| what | found |\n|---|---|\n");
    let mut row = |what: &str, found: String| writeln!(table, "| {what} | {found} |").expect("a string takes it");
    row("release to grant, p50", format!("{:.1} ms", figures.p50));
    row("release to grant, p99", format!("{:.1} ms", figures.p99));
    row("all have their place after", format!("{:.1} s", queued.as_secs_f64()));
    row("memory of the service, a waiter and its stream", format!("{} bytes", memory_kib * 1_024 / waiters));
    if let Some(bytes) = redis_bytes {
        row("memory of Redis, a waiter", format!("{} bytes", bytes / waiters));
    }
    table
}
