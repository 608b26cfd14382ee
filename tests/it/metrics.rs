//! What `/metrics` tells of a service that has done some work.

use std::collections::{BTreeMap, BTreeSet};

use voxgate::{
    node_sim::Behaviour,
    proto::v1::{HangupRequest, LeaseRenewal, RenewSlotsRequest},
    telemetry::{Kind, METRICS},
};

use crate::harness::{
    client::granted,
    server::{Backend, TestServer},
    world::World,
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
const BY_WORK: [&str; 8] = [
    "voxgate_rpcs_total",
    "voxgate_rpc_duration_seconds",
    "voxgate_admissions_total",
    "voxgate_lease_renewals_total",
    "voxgate_journal_entries",
    "voxgate_sessions_ended_total",
    "voxgate_operations_total",
    "voxgate_nodes_connected",
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
