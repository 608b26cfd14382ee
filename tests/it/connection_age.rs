//! What becomes of a connection that has reached its age, and of what is in hand on it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use tonic::{Code, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use voxgate::{
    node_sim::Behaviour,
    proto::v1::{
        AwaitSlotRequest, HoldRequest, SessionStatus, UnholdRequest, WatchEventsRequest, WatchUsageRequest,
        await_slot_response::Update, control_message::Message as Told,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, granted},
    raw_node::{RawNode, hello},
    server::TestServer,
    world::{World, eventually, seconds, unique},
};

const PATIENCE: Duration = Duration::from_secs(30);
const AGED: &str = "voxgate_connections_aged_total";

/// Connections of a second, whose streams go on for so long.
fn server(grace_ms: u64) -> TestServer {
    let ages = format!("max_connection_age_ms = 1_000\nmax_connection_age_grace_ms = {grace_ms}");
    TestServer::embedded_with(&format!("[listen]\n{ages}"))
}

/// The kind, the flags and the payload of the next frame of HTTP/2; nothing at the end of the connection.
fn next_frame(connection: &mut TcpStream) -> Option<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    match connection.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        read => read.expect("the connection speaks"),
    }
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload).expect("the rest of the frame");
    Some((head[3], head[4], payload))
}

/// An empty SETTINGS, or the acknowledgement of one.
fn settings(flags: u8) -> [u8; 9] {
    [0, 0, 0, 4, flags, 0, 0, 0, 0]
}

#[test]
fn a_connection_of_its_age_is_sent_goaway_and_closed_once_nothing_is_in_hand() {
    const ACK: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let server = server(60_000);
    let mut connection = TcpStream::connect(server.addr.strip_prefix("http://").expect("http")).expect("accepted");
    connection.set_read_timeout(Some(PATIENCE)).expect("set");
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("said");
    connection.write_all(&settings(0)).expect("said");
    let mut goodbyes = Vec::new();
    while let Some((kind, flags, payload)) = next_frame(&mut connection) {
        match kind {
            SETTINGS if flags & ACK == 0 => connection.write_all(&settings(ACK)).expect("said"),
            PING if flags & ACK == 0 => {
                let answer = [&[0, 0, 8, PING, ACK, 0, 0, 0, 0], payload.as_slice()].concat();
                connection.write_all(&answer).expect("said");
            }
            GOAWAY => goodbyes.push(payload),
            _ => {}
        }
    }
    let last_stream = |payload: &[u8]| u32::from_be_bytes(payload[..4].try_into().expect("four bytes"));
    let error = |payload: &[u8]| u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
    // First that no more should come, and then, when what was on its way has come, which was the last.
    assert_eq!(goodbyes.iter().map(|it| (last_stream(it), error(it))).collect::<Vec<_>>(), [(0x7fff_ffff, 0), (0, 0)]);
    assert!(server.metric(AGED) >= 1.0);
}

/// How a stream ends, whatever it says before.
async fn end_of<T>(mut stream: Streaming<T>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended as if there were no more to come"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("the stream goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_outlast_the_age_by_the_grace_and_end_as_what_may_be_tried_again() {
    let server = server(500);
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(1).await;
    // Each on a connection of its own: what is opened late on one that is old would go elsewhere.
    let caller = || Caller::new(&server.addr, &world.key);
    let watched = WatchUsageRequest { voice_agent_id: Some(agent.id) };
    let usage = granted(caller().calls().watch_usage(watched).await);
    let events = granted(caller().sessions().watch_events(WatchEventsRequest::default()).await);
    for status in [end_of(usage).await, end_of(events).await] {
        assert_eq!((status.code(), status.reason().as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{status:?}");
        assert!(status.retry_delay().is_some(), "{status:?}");
    }
    let endpoint = tonic::transport::Endpoint::from_shared(server.addr.clone()).expect("an address");
    let request = HealthCheckRequest { service: String::new() };
    let health = granted(HealthClient::new(endpoint.connect_lazy()).watch(request).await);
    assert_eq!(end_of(health).await.reason(), "SHUTTING_DOWN");

    let (mut node, _) = RawNode::welcomed(&world, hello(&world, "old")).await;
    match node.hear().await {
        Ok(Some(Told::Drain(drain))) => assert!(drain.deadline.is_some()),
        other => panic!("expected a drain, heard {other:?}"),
    }
    let status = node.hear().await.expect_err("the end");
    assert_eq!((status.code(), status.reason().as_str()), (Code::Unavailable, "SHUTTING_DOWN"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_hand_when_a_connection_reaches_its_age_is_finished() {
    let server = server(60_000);
    let world = World::on(&server.addr, &server.admin_key).await;
    let (held, full) = (world.agent(1).await, world.agent(1).await);
    let node = world.node(Behaviour { ack_delay: Duration::from_secs(3), ..Behaviour::default() }).await;
    let slot = world.admit(&held.id).await;
    assert_eq!(slot.node_id.as_deref(), Some(node.id.as_str()));
    let last = world.admit(&full.id).await;

    let (of_verb, of_wait) = (Caller::new(&server.addr, &world.key), Caller::new(&server.addr, &world.key));
    // A unary request that takes three ages, and a stream that waits for longer than that.
    let verb =
        async { of_verb.calls().hold(HoldRequest { call_id: slot.call_id.clone(), ..HoldRequest::default() }).await };
    let wait = async {
        let request = AwaitSlotRequest {
            call_id: unique("call"),
            voice_agent_id: Some(full.id.clone()),
            lease_ttl: Some(seconds(60)),
            max_wait: Some(seconds(60)),
            ..AwaitSlotRequest::default()
        };
        let mut waiting = granted(of_wait.calls().await_slot(request).await);
        loop {
            let update = waiting.message().await.expect("no error").expect("no end").update;
            if let Some(Update::Slot(slot)) = update {
                return slot;
            }
        }
    };
    let release = async {
        let held = granted(verb.await);
        assert!(server.metric(AGED) >= 2.0, "both connections are old by now");
        assert!(world.release(&last).await);
        held
    };
    let (held, granted) = tokio::time::timeout(PATIENCE, async { tokio::join!(release, wait) }).await.expect("in time");
    assert_eq!(held.call_id, slot.call_id);
    assert_eq!(granted.voice_agent_id, full.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_connections_grow_old_keeps_its_calls() {
    let server = server(200);
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(5).await;
    let node = world.node(Behaviour::default()).await;
    let mut slots = Vec::new();
    for _ in 0..5 {
        slots.push(world.admit(&agent.id).await);
    }
    let connected =
        || server.log().lines().filter(|line| line.contains("media node connected") && line.contains(&node.id)).count();
    let before = connected();
    eventually("five more streams of the node", async || (connected() >= before + 5).then_some(())).await;
    for slot in &slots {
        let session = world.session(slot).await;
        assert_eq!((session.id.as_str(), session.status()), (slot.session_id.as_str(), SessionStatus::Active));
        assert_eq!(session.node_id, node.id);
    }
    assert_eq!(world.usage(&agent.id).await.used, 5);
    // Between two of its streams the node is nowhere for a moment, which says so and may be tried again.
    for slot in &slots {
        let call_id = slot.call_id.clone();
        let tried_again = |status: Status| assert_eq!(status.reason(), "NODE_UNREACHABLE", "{status:?}");
        eventually("a hold", async || {
            let idempotency_key = format!("{call_id}-hold");
            let request = HoldRequest { call_id: call_id.clone(), idempotency_key, ..HoldRequest::default() };
            world.caller.calls().hold(request).await.map_err(tried_again).ok()
        })
        .await;
        eventually("the end of the hold", async || {
            let idempotency_key = format!("{call_id}-unhold");
            let request = UnholdRequest { call_id: call_id.clone(), idempotency_key };
            world.caller.calls().unhold(request).await.map_err(tried_again).ok()
        })
        .await;
    }
}
