//! A verb to the node and back: through the replica that has the node's stream, and through another, beside an RPC that does
//! nothing and a bare PING of the Redis between them.
//!
//! The node acknowledges at once. Each verb is a new one, of a call's own callback token, and goes the whole way:
//! recorded, dispatched, settled. A call is sent few of them a second, as in life, so its rate is asked of Redis each time.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_redis::redis;
use futures_util::{StreamExt as _, stream};
use tokio::task::JoinSet;
use tonic::{Request, transport::Channel};
use voxgate::proto::v1::{
    AcquireSlotRequest, OperationState, SendDtmfRequest, Slot, Subprotocol,
    admission_service_client::AdmissionServiceClient,
};

use super::{
    ROUNDS, Span,
    closed::{self, Work},
    figures::{Figures, Rounds, histogram, record},
    home::Home,
    node::Node,
    report,
    subject::{Key, Subject, bearer},
};

const IN_FLIGHT: [usize; 3] = [1, 16, 64];
/// 10 verbs a second may be sent to each, so all take more than two cores answer.
const CALLS: usize = 2_000;
const CAPACITY: i32 = 10_000;
/// What follows from the coming of so many calls is over by then, and no part of what is measured.
const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// Calls that come or go at once.
const AT_ONCE: usize = 32;
/// The longest lease: none may run out in a cell.
const LEASE_SECONDS: i64 = 300;
/// Until a replica knows of a node at another, and the node of its calls.
const PATIENCE: Duration = Duration::from_secs(20);
/// The target: no more than the no-op and so many PINGs.
const PINGS: f64 = 4.0;

/// Where the node of the calls is connected, and the calls, which its heartbeats keep.
struct Place {
    name: &'static str,
    node: &'static str,
    agent: String,
    stream: Node,
    slots: Vec<Slot>,
    rounds: [Rounds; IN_FLIGHT.len()],
}

pub(crate) async fn measure(home: &Home, subject: &Arc<Subject>, span: Span) -> String {
    let replica = home.redis_url().map(|_| home.another_replica());
    let here = subject.another_channel(home.addr()).await;
    let mut places = vec![Place::at(subject, &here, "same replica", Subprotocol::AudioDrachtioOrg).await];
    if let Some((_, addr)) = replica {
        // Waits until it serves.
        drop(subject.lane_to(addr).await);
        let there = subject.another_channel(addr).await;
        places.push(Place::at(subject, &there, "other replica", Subprotocol::AudioJambonzOrg).await);
    }
    let lanes = subject.channels();
    for place in &mut places {
        place.admit_all(subject, &lanes).await;
    }
    tokio::time::sleep(SETTLED_AFTER).await;
    let (mut noops, mut pings) = (<[Rounds; IN_FLIGHT.len()]>::default(), Rounds::default());
    for round in 0..=ROUNDS {
        // The first one warms up.
        let counts = round > 0;
        for (index, in_flight) in IN_FLIGHT.into_iter().enumerate() {
            let noop = closed::run(subject, Work::Noop, in_flight, span).await;
            counts.then(|| noops[index].add(noop));
            for place in &mut places {
                let found = place.cell(subject, &lanes, in_flight, span).await;
                counts.then(|| place.rounds[index].add(found));
            }
        }
        if let Some(url) = home.redis_url() {
            let found = ping(url, span).await;
            counts.then(|| pings.add(found));
        }
    }
    for place in &places {
        let releasing = stream::iter(&place.slots).map(|slot| subject.release(&lanes[0], slot));
        releasing.buffer_unordered(AT_ONCE).for_each(std::future::ready).await;
    }
    render(&noops, home.redis_url().map(|_| &pings), &places)
}

impl Place {
    async fn at(subject: &Subject, lane: &Channel, name: &'static str, subprotocol: Subprotocol) -> Self {
        let agent = subject.agent_that_speaks(subprotocol).await;
        let node = subprotocol.as_str_name();
        let stream = Node::connect(subject, lane, node, (subprotocol, CAPACITY)).await.expect("the node is welcomed");
        Self { name, node, agent, stream, slots: Vec::new(), rounds: Default::default() }
    }

    async fn admit_all(&mut self, subject: &Subject, lanes: &[Channel]) {
        self.until_chosen(subject, &lanes[0]).await;
        let told = self.stream.assigned();
        let admitting = stream::iter(0..CALLS).map(|number| self.admit(subject, &lanes[number % lanes.len()]));
        let slots: Vec<Slot> = admitting.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
        self.until_told(told + slots.len()).await;
        self.slots = slots;
    }

    /// Verbs of so many workers, each with calls of its own, that were answered within the measured span.
    async fn cell(&self, subject: &Arc<Subject>, lanes: &[Channel], in_flight: usize, span: Span) -> Figures {
        let from = Instant::now() + span.warm_up;
        let until = from + span.measured;
        let mut workers = JoinSet::new();
        for index in 0..in_flight {
            let (subject, lane) = (subject.clone(), lanes[index % lanes.len()].clone());
            let own = self.slots.iter().skip(index).step_by(in_flight);
            let calls: Vec<(String, Key)> =
                own.map(|slot| (slot.call_id.clone(), bearer(&slot.callback_token))).collect();
            workers.spawn(async move {
                let mut latencies = histogram();
                for (call, token) in calls.iter().cycle() {
                    let sent = Instant::now();
                    if sent >= until {
                        break;
                    }
                    send_dtmf(&subject, &lane, call, token).await;
                    let done = Instant::now();
                    if (from..until).contains(&done) {
                        record(&mut latencies, done - sent);
                    }
                }
                latencies
            });
        }
        let latencies = closed::sum(workers.join_all().await.iter());
        if latencies.is_empty() {
            subject.tally.error(&format!("{}, {in_flight} in flight: no verb was answered in time", self.name));
        }
        Figures::of(&latencies, span.measured)
    }

    /// Whoever drives a call before its node knows it waits for that.
    async fn until_told(&self, of_calls: usize) {
        let since = Instant::now();
        while self.stream.assigned() < of_calls {
            assert!(since.elapsed() < PATIENCE, "{} is not told of all its calls", self.node);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The replica hears of a node elsewhere a moment after it has come.
    async fn until_chosen(&self, subject: &Subject, lane: &Channel) {
        let since = Instant::now();
        loop {
            if let Some(slot) = self.try_admit(subject, lane).await {
                let is_chosen = slot.node_id.as_deref() == Some(self.node);
                subject.release(lane, &slot).await;
                if is_chosen {
                    return;
                }
            }
            assert!(since.elapsed() < PATIENCE, "no call is given to {}", self.node);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn admit(&self, subject: &Subject, lane: &Channel) -> Option<Slot> {
        let slot = self.try_admit(subject, lane).await?;
        if slot.node_id.as_deref() != Some(self.node) {
            subject.tally.error(&format!("AcquireSlot: the call is not on {}", self.node));
        }
        Some(slot)
    }

    async fn try_admit(&self, subject: &Subject, lane: &Channel) -> Option<Slot> {
        let request = AcquireSlotRequest {
            call_id: subject.new_call(),
            voice_agent_id: Some(self.agent.clone()),
            lease_ttl: Some(prost_types::Duration { seconds: LEASE_SECONDS, nanos: 0 }),
            ..AcquireSlotRequest::default()
        };
        let answer = AdmissionServiceClient::new(lane.clone()).acquire_slot(subject.signed(request)).await;
        subject.tally.granted(answer)
    }
}

async fn send_dtmf(subject: &Subject, lane: &Channel, call: &str, token: &Key) {
    let message = SendDtmfRequest { call_id: call.to_owned(), digits: "1".to_owned(), ..SendDtmfRequest::default() };
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", token.clone());
    let answer = AdmissionServiceClient::new(lane.clone()).send_dtmf(request).await;
    subject.tally.verb(answer.map(|answer| answer.get_ref().state() == OperationState::Succeeded));
}

/// One after the other, on a connection that nobody else uses.
async fn ping(url: &str, span: Span) -> Figures {
    let client = redis::Client::open(url).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis answers");
    let mut latencies = histogram();
    let until = Instant::now() + span.measured;
    loop {
        let sent = Instant::now();
        if sent >= until {
            return Figures::of(&latencies, span.measured);
        }
        let () = redis::cmd("PING").exec_async(&mut connection).await.expect("Redis answers");
        record(&mut latencies, sent.elapsed());
    }
}

fn render(noops: &[Rounds], pings: Option<&Rounds>, places: &[Place]) -> String {
    let mut out = "| in flight | closed loop | a second | p50 ms | p99 ms |\n|---:|---|---:|---:|---:|\n".to_owned();
    let mut row = |in_flight, what: &str, rounds: &Rounds| {
        writeln!(out, "| {in_flight} | {what} | {} |", report::cells(rounds)).expect("a string takes it");
    };
    if let Some(pings) = pings {
        row(1, "bare PING of Redis", pings);
    }
    for (index, in_flight) in IN_FLIGHT.into_iter().enumerate() {
        row(in_flight, "no-op", &noops[index]);
        for place in places {
            row(in_flight, &format!("verb, {}", place.name), &place.rounds[index]);
        }
    }
    let (Some(pings), Some(verbs)) = (pings, places.last()) else { return out };
    let (noop, ping, verb) = (noops[0].median().p50, pings.median().p50, verbs.rounds[0].median().p50);
    let target = PINGS.mul_add(ping, noop);
    let met = if verb <= target { "met" } else { "NOT MET" };
    writeln!(
        out,
        "\np50 of a verb at the {}: {verb:.2} ms; no-op + {PINGS:.0} PINGs: {target:.2} ms: {met}",
        verbs.name
    )
    .expect("a string takes it");
    out
}
