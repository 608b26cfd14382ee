//! Ten thousand nodes that host nothing: what the stream of each takes of the service's memory.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use voxgate::proto::v1::Subprotocol;

use super::{home::Home, node::Node, subject::Subject};

const NODES: usize = 10_000;
/// As many as the service takes on one connection.
const STREAMS: usize = 200;
/// Come at once.
const AT_ONCE: usize = 32;
const CAPACITY: i32 = 100;
/// Long enough for each to have sent heartbeats.
const IDLE: Duration = Duration::from_secs(15);
const TARGET_BYTES: u64 = 16 * 1_024;

pub(crate) async fn measure(home: &Home, subject: &Arc<Subject>) -> String {
    let mut lanes = Vec::new();
    for _ in 0..NODES / STREAMS {
        lanes.push(subject.another_channel(home.addr()).await);
    }
    let (memory, redis) = (home.resident_kib(), home.redis_bytes());
    let connecting = stream::iter(0..NODES).map(|number| {
        let lane = &lanes[number / STREAMS];
        async move {
            let name = format!("idle-{number}");
            Node::connect(subject, lane, &name, (Subprotocol::AudioDrachtioOrg, CAPACITY)).await
        }
    });
    let mut nodes = Vec::new();
    let mut connecting = connecting.buffer_unordered(AT_ONCE);
    while let Some(node) = connecting.next().await {
        match node {
            Ok(node) => nodes.push(node),
            Err(status) => subject.tally.error(&format!("Connect: {:?}: {}", status.code(), status.message())),
        }
    }
    drop(connecting);
    tokio::time::sleep(IDLE).await;
    let dead = nodes.iter().filter(|node| node.is_gone()).count();
    if dead > 0 {
        subject.tally.error(&format!("Connect: {dead} idle streams ended"));
    }
    let nodes = nodes.len() as u64;
    let each = home.resident_kib().saturating_sub(memory) * 1_024 / nodes.max(1);
    let met = if each <= TARGET_BYTES { "met" } else { "NOT MET" };
    let mut table = format!(
        "| {nodes} idle node streams, each with its heartbeats | found | target |\n|---|---:|---|\n\
         | memory of the service, a stream | {each} bytes | ≤ {TARGET_BYTES} bytes: {met} |\n"
    );
    if let Some((now, then)) = home.redis_bytes().zip(redis) {
        let each = now.saturating_sub(then) / nodes.max(1);
        writeln!(table, "| memory of Redis, a node | {each} bytes | |").expect("a string takes it");
    }
    table
}
