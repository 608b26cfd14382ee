//! What `/metrics` tells of a service that has done some work.

use std::collections::{BTreeMap, BTreeSet};

use voxgate::{
    node_sim::Behaviour,
    proto::v1::{AcquireSlotRequest, HangupRequest, LeaseRenewal, RenewSlotsRequest},
    telemetry::{Kind, METRICS},
};

use crate::harness::{
    client::granted,
    pair::Pair,
    server::{Backend, TestServer},
    world::{World, acquire, eventually, seconds, unique},
};

/// What one metric was told as.
#[derive(Debug, Default)]
struct Told {
    kind: String,
    helped: bool,
    /// The labels of each of its series, without those that Prometheus adds to a histogram.
    labels: BTreeSet<Vec<String>>,
}

/// The exposition format, as far as a scraper reads it.
fn told(text: &str) -> BTreeMap<String, Told> {
    let mut all = BTreeMap::<String, Told>::new();
    for line in text.lines() {
        if let Some((name, _)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            all.entry(name.to_owned()).or_default().helped = true;
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut all.entry(name.to_owned()).or_default().kind);
        } else if line.starts_with("voxgate_") {
            let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a value"));
            let labels = rest.strip_prefix('{').map_or("", |rest| rest.split('}').next().unwrap_or_default());
            let labels = labels.split("\",").filter_map(|pair| pair.split_once('=')).map(|(label, _)| label.to_owned());
            let parts = ["_bucket", "_sum", "_count"];
            let whole = parts.iter().find_map(|part| name.strip_suffix(part)).filter(|it| all.contains_key(*it));
            let told = all.entry(whole.unwrap_or(name).to_owned()).or_default();
            told.labels.insert(labels.filter(|label| label != "le").collect());
        }
    }
    all
}

/// What every service counts that has admitted, renewed and ended a call on a node.
const BY_WORK: [&str; 12] = [
    "voxgate_rpcs_total",
    "voxgate_rpc_duration_seconds",
    "voxgate_admissions_total",
    "voxgate_lease_renewals_total",
    "voxgate_journal_entries",
    "voxgate_sessions_ended_total",
    "voxgate_operations_total",
    "voxgate_nodes_connected",
    "voxgate_ready",
    "voxgate_slots_in_flight",
    "voxgate_store_duration_seconds",
    "voxgate_journal_entries_max",
];

async fn what_is_told_is_what_is_described(backend: Backend) {
    let server = TestServer::shared(backend);
    let world = World::shared(backend).await;
    let _node = world.node(Behaviour::default()).await;
    let agent = world.agent(2).await;
    let slot = world.admit(&agent.id).await;
    let lease =
        LeaseRenewal { call_id: slot.call_id.clone(), lease_id: slot.lease_id.clone(), ..LeaseRenewal::default() };
    granted(world.caller.calls().renew_slots(RenewSlotsRequest { leases: vec![lease] }).await);
    let hangup = HangupRequest { call_id: slot.call_id.clone(), ..HangupRequest::default() };
    granted(world.caller.calls().hangup(hangup).await);

    let text = server.get("/metrics").expect("the metrics");
    let told = told(&text);
    for (name, Told { kind, helped, labels }) in &told {
        let metric = METRICS.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name} is unknown"));
        assert_eq!((kind.as_str(), *helped), (metric.kind.as_str(), true), "{name}");
        let described: Vec<_> = metric.labels.iter().map(ToString::to_string).collect();
        assert!(labels.iter().all(|labels| *labels == described), "{name} of {described:?} has {labels:?}");
    }
    let from_the_start = METRICS.iter().filter(|metric| metric.kind == Kind::Counter && metric.labels.is_empty());
    for name in from_the_start.map(|metric| metric.name).chain(BY_WORK) {
        assert!(told.get(name).is_some_and(|told| !told.labels.is_empty()), "{name} is not told:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_embedded_service_tells_is_what_is_described() {
    what_is_told_is_what_is_described(Backend::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_production_service_tells_is_what_is_described() {
    what_is_told_is_what_is_described(Backend::PostgresRedis).await;
}

/// The series of agents that are told.
fn agents_told(server: &TestServer) -> Vec<String> {
    let text = server.get("/metrics").expect("the metrics");
    let mut series: Vec<_> =
        text.lines().filter(|line| line.starts_with("voxgate_agent_")).map(str::to_owned).collect();
    series.sort();
    series
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_agents_used_most_are_told_and_only_where_they_are_asked_for() {
    let server = TestServer::embedded_with("[metrics]\ntop_agents = 1");
    let world = World::on(&server.addr, &server.admin_key).await;
    let (busy, idle) = (world.agent(7).await, world.agent(8).await);
    let _node = world.node(Behaviour::default()).await;
    let mut slots = vec![world.admit(&busy.id).await, world.admit(&busy.id).await, world.admit(&idle.id).await];
    let of = |what: &str, agent: &str, value: u32| {
        format!("voxgate_agent_slots_{what}{{tenant=\"{}\",voice_agent=\"{agent}\"}} {value}", world.tenant)
    };
    let told = |agent: &str, used, limit| vec![of("limit", agent, limit), of("used", agent, used)];
    let until = async |what: &str, expected: Vec<String>, in_flight: f64| {
        let is_so = async || {
            let told = agents_told(&server) == expected && server.metric("voxgate_slots_in_flight") >= in_flight;
            told.then_some(())
        };
        eventually(what, is_so).await;
    };
    until("the busy agent", told(&busy.id, 2, 7), 3.0).await;
    for slot in slots.drain(..2) {
        assert!(world.release(&slot).await);
    }
    until("the other agent instead", told(&idle.id, 1, 8), 1.0).await;
    assert!(world.release(&slots[0]).await);
    eventually("no agent", async || agents_told(&server).is_empty().then_some(())).await;
    eventually("no lease", async || (server.metric("voxgate_slots_in_flight") < 0.5).then_some(())).await;
    assert!(agents_told(TestServer::shared(Backend::Embedded)).is_empty(), "nobody asked for them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_in_flight_at_the_replica_that_keeps_it_and_nowhere_else() {
    let Pair { servers, worlds, .. } = &Pair::start().await;
    let in_flight = || servers.each_ref().map(|server| server.metric("voxgate_slots_in_flight").to_string());
    let until = async |what: &str, expected: [&str; 2]| {
        eventually(what, async || (in_flight() == expected).then_some(())).await;
    };
    let agent = worlds[0].agent(10).await;
    // Nobody's stream renews it: it is the replica's that granted it.
    let lasting = AcquireSlotRequest { lease_ttl: Some(seconds(300)), ..acquire(&unique("call"), &agent.id) };
    let alone = granted(worlds[0].try_admit(lasting).await);
    until("the lease of the first replica", ["1", "0"]).await;
    // The node is the second replica's, and so are its calls, whichever admits them.
    let node = worlds[1].node(Behaviour::default()).await;
    let hosted = eventually("a call for the node", async || {
        let slot = worlds[0].admit(&agent.id).await;
        if slot.node_id.as_deref() == Some(node.id.as_str()) {
            return Some(slot);
        }
        worlds[0].release(&slot).await;
        None
    })
    .await;
    until("the lease of the second replica", ["1", "1"]).await;
    assert!(worlds[0].release(&hosted).await && worlds[0].release(&alone).await);
    until("no lease", ["0", "0"]).await;
    assert_eq!(servers.each_ref().map(|server| server.metric("voxgate_ready").to_string()), ["1", "1"]);
}
