//! Traces by OTLP: what a collector is sent of a request, across replicas and down to the node.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tonic::{Code, Request};
use voxgate::proto::v1::{
    GetUsageRequest, HoldRequest, OperationState, Slot, TransferDestination, TransferRequest, UnholdRequest,
    VoiceAgent, transfer_destination::Destination,
};

use crate::harness::{
    collector::{Collector, Exported},
    node::NodeProcess,
    postgres,
    process::free_port,
    raw_node::{RawNode, hello},
    redis::PrivateRedis,
    server::{PATIENT, TestServer},
    world::{World, eventually, minimal_agent, unique},
};

/// The test's own span.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";
/// What no trace may tell.
const CANARY: &str = "canary-7f3a";

/// Nothing is recorded but what its caller asks for, and it is sent at once.
fn recording(endpoint: &str) -> String {
    format!(
        "log = 'info,voxgate=debug'\n{PATIENT}[calls]\nverbs_per_second = 1_000\n[traces]\nendpoint = '{endpoint}'\nsample_ratio = 0.0\nbatch_interval_ms = 20\n"
    )
}

fn parent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{CLIENT}-{flags}")
}

fn traced<T>(message: T, traceparent: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("traceparent", traceparent.parse().expect("ASCII"));
    request
}

fn hold(slot: &Slot) -> HoldRequest {
    HoldRequest {
        call_id: slot.call_id.clone(),
        idempotency_key: unique("key"),
        moh_url: Some(format!("https://music.example.com/{CANARY}.mp3")),
    }
}

struct Stage {
    collector: Collector,
    servers: [TestServer; 2],
    worlds: [World; 2],
    _redis: PrivateRedis,
}

/// Two replicas and a collector.
async fn stage() -> Stage {
    let (collector, redis, database) = (Collector::start().await, PrivateRedis::start(), postgres::fresh_database());
    let config = recording(&collector.endpoint);
    let first = TestServer::production_under(&database, redis.url().expose_secret(), &config);
    let key = first.admin_key.clone();
    let second = TestServer::configured(&database, redis.url().expose_secret(), key, &config);
    let world = World::on(&first.addr, &first.admin_key).await;
    let worlds = [world.clone(), world.through(&second.addr)];
    Stage { collector, servers: [first, second], worlds, _redis: redis }
}

/// A replica on stores that others may share.
fn replica(config: &str) -> TestServer {
    TestServer::production_under(&postgres::fresh_database(), PrivateRedis::shared().url().expose_secret(), config)
}

/// A call that is admitted here for a node which may be connected elsewhere.
async fn given(here: &World, node: &str) -> Slot {
    let agent = VoiceAgent { auth_token: Some(CANARY.into()), max_concurrent: Some(10), ..minimal_agent() };
    let agent = here.create(agent).await;
    eventually("a call for the node", async || {
        let slot = here.admit(&agent.id).await;
        if slot.node_id.as_deref() == Some(node) {
            return Some(slot);
        }
        here.release(&slot).await;
        None
    })
    .await
}

/// The same, and the node has taken it.
async fn admitted(here: &World, node: &str) -> Slot {
    let slot = given(here, node).await;
    eventually("the node's answer", async || here.session(&slot).await.answered_at).await;
    slot
}

/// Each span by its name, after it was made sure that all hang together under the client's.
fn tree(spans: &[Exported]) -> BTreeMap<&str, &Exported> {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).chain([CLIENT]).collect();
    assert_eq!(ids.len(), spans.len() + 1, "each span once: {spans:#?}");
    for span in spans {
        assert!(ids.contains(span.parent.as_str()), "no parent: {span:#?}");
    }
    spans.iter().map(|span| (span.name.as_str(), span)).collect()
}

/// Name, kind and the parent's name, in the order of the way.
const WAY: [(&str, SpanKind, &str); 7] = [
    ("voxgate.v1.AdmissionService/Hold", SpanKind::Server, ""),
    ("record operation", SpanKind::Internal, "voxgate.v1.AdmissionService/Hold"),
    ("send command", SpanKind::Producer, "voxgate.v1.AdmissionService/Hold"),
    ("receive command", SpanKind::Consumer, "send command"),
    ("dispatch command", SpanKind::Client, "receive command"),
    ("carry out command", SpanKind::Server, "dispatch command"),
    ("record answer", SpanKind::Internal, "dispatch command"),
];

fn assert_way(spans: &BTreeMap<&str, &Exported>) {
    assert_eq!(spans.len(), WAY.len(), "{:?}", spans.keys());
    for (name, kind, parent) in WAY {
        let span = spans.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        let parent = spans.get(parent).map_or(CLIENT, |parent| parent.id.as_str());
        assert_eq!((span.kind, span.parent.as_str()), (kind, parent), "{span:#?}");
        assert!(!span.failed, "{span:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_is_one_tree_from_its_client_through_redis_to_the_node_at_another_replica() {
    let Stage { collector, servers, worlds: [here, there], _redis } = stage().await;
    let node = NodeProcess::start_traced(&there, unique("node"), &collector.endpoint);
    let slot = admitted(&here, &node.id).await;
    let service = here.caller.with(&slot.callback_token);
    let mut request = traced(hold(&slot), &parent(TRACE, "01"));
    request.metadata_mut().insert("tracestate", "vendor=told".parse().expect("ASCII"));
    let held = service.calls().hold(request).await.expect("held").into_inner();
    assert_eq!(held.state(), OperationState::Succeeded);

    let spans = collector.trace(TRACE, WAY.len()).await;
    let by_name = tree(&spans);
    assert_way(&by_name);
    let process = |name: &str, key: &str| by_name[name].process[key].clone();
    for (name, _, _) in WAY {
        let service = if name == "carry out command" { "voxgate-node-sim" } else { "voxgate" };
        assert_eq!(process(name, "service.name"), service);
        assert_eq!(process(name, "service.version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(by_name[name].state, "vendor=told");
    }
    let at = |name: &str| process(name, "service.instance.id");
    let [asked, received] = [at("voxgate.v1.AdmissionService/Hold"), at("receive command")];
    assert_eq!([at("record operation"), at("send command")], [asked.clone(), asked.clone()]);
    assert_eq!([at("dispatch command"), at("record answer")], [received.clone(), received.clone()]);
    assert!(asked != received && asked != at("carry out command") && received != at("carry out command"));

    let rpc = &by_name["voxgate.v1.AdmissionService/Hold"].attributes;
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.service", "voxgate.v1.AdmissionService"),
        ("rpc.method", "Hold"),
        ("rpc.grpc.status_code", "0"),
        ("voxgate.tenant.id", &here.tenant),
    ] {
        assert_eq!(rpc[key], value, "{rpc:?}");
    }
    for name in ["send command", "dispatch command", "carry out command"] {
        let attributes = &by_name[name].attributes;
        assert_eq!(attributes["voxgate.operation.id"], held.operation_id, "{attributes:?}");
        assert_eq!((&attributes["voxgate.call.id"], attributes["voxgate.verb"].as_str()), (&slot.call_id, "HOLD"));
    }
    assert_eq!(by_name["send command"].attributes["messaging.system"], "redis");

    eventually("the id in the node's log", async || {
        node.said_of(&slot.call_id).iter().any(|line| line.contains(TRACE)).then_some(())
    })
    .await;
    let answered = servers[0].log().lines().any(|line| line.contains("rpc answered") && line.contains(TRACE));
    assert!(answered, "the id in the replica's log");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_callers_send_and_hold_is_in_no_span() {
    let Stage { collector, servers: _servers, worlds: [here, there], _redis } = stage().await;
    let node = NodeProcess::start_traced(&there, unique("node"), &collector.endpoint);
    let slot = admitted(&here, &node.id).await;
    let service = here.caller.with(&slot.callback_token);
    service.calls().hold(traced(hold(&slot), &parent(TRACE, "01"))).await.expect("held");
    let denied = TransferRequest {
        call_id: slot.call_id.clone(),
        destination: Some(TransferDestination { destination: Some(Destination::E164("+4930123456789".into())) }),
        ..TransferRequest::default()
    };
    // Allowed or not, it names a number.
    let _ = service.calls().transfer(traced(denied, &parent(TRACE, "01"))).await;
    let wrong = TransferRequest { call_id: CANARY.into(), ..TransferRequest::default() };
    let status = service.calls().transfer(traced(wrong, &parent(TRACE, "01"))).await.expect_err("another call");
    let spans = eventually("the third request", async || {
        let spans = collector.trace(TRACE, WAY.len() + 2).await;
        let code = (status.code() as i32).to_string();
        let is_it = |span: &Exported| span.attributes.get("rpc.grpc.status_code") == Some(&code);
        spans.iter().any(is_it).then_some(spans)
    })
    .await;
    for span in spans {
        for secret in [CANARY, "4930123456789", &here.key, &slot.callback_token, &slot.lease_id, "vg_", "Bearer"] {
            assert!(!span.whole.contains(secret), "{secret}: {}", span.whole);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sampled_is_sent_to_nobody_and_its_id_still_reaches_the_node() {
    let Stage { collector, servers, worlds: [here, there], _redis } = stage().await;
    let name = unique("node");
    let (mut raw, _) = RawNode::welcomed(&there, hello(&there, &name)).await;
    let slot = given(&here, &name).await;
    raw.assigned().await;
    let service = here.caller.with(&slot.callback_token);
    let huge = format!("01-{TRACE}-{CLIENT}-01-{}", "x".repeat(4_000));
    let malformed =
        [huge, format!("00-{}-{CLIENT}-01", "0".repeat(32)), format!("00-{TRACE}-{CLIENT}"), "?".to_owned()];
    let unsampled = parent(TRACE, "00");
    let mut told = Vec::new();
    for traceparent in malformed.iter().chain([&unsampled]) {
        let (service, request) = (service.clone(), traced(hold(&slot), traceparent));
        let asked = tokio::spawn(async move { service.calls().hold(request).await });
        let command = raw.command().await;
        raw.succeed(&command).await;
        asked.await.expect("no panic").expect("held");
        told.push(command.traceparent);
        let unhold = UnholdRequest { call_id: slot.call_id.clone(), ..UnholdRequest::default() };
        let service = here.caller.with(&slot.callback_token);
        let asked = tokio::spawn(async move { service.calls().unhold(unhold).await });
        let command = raw.command().await;
        raw.succeed(&command).await;
        asked.await.expect("no panic").expect("unheld");
        assert_eq!(command.traceparent, None, "it belongs to no trace");
    }
    assert_eq!(told, [None, None, None, None, Some(unsampled)]);
    assert!(servers[0].log().lines().any(|line| line.contains("rpc answered") && line.contains(TRACE)));

    // What came before this was sent before it, had it been recorded.
    let sampled = "a".repeat(32);
    here.caller.calls().get_usage(traced(GetUsageRequest::default(), &parent(&sampled, "01"))).await.expect("a usage");
    collector.trace(&sampled, 1).await;
    let others: Vec<_> = collector.all().into_iter().filter(|span| span.trace != sampled).collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_faults_of_ours_are_errors_and_strangers_have_nothing_recorded() {
    let collector = Collector::start().await;
    let server = replica(&recording(&collector.endpoint));
    let world = World::on(&server.addr, &server.admin_key).await;
    let stranger = world.caller.with("vg_live_nobody");
    let ask = || traced(GetUsageRequest::default(), &parent(TRACE, "01"));
    assert_eq!(stranger.calls().get_usage(ask()).await.expect_err("a stranger").code(), Code::Unauthenticated);
    let narrow = world.caller_with(&["voice_agents:read"]).await;
    assert_eq!(narrow.calls().get_usage(ask()).await.expect_err("the scope").code(), Code::PermissionDenied);
    world.caller.calls().get_usage(ask()).await.expect("a usage");
    let mut codes: Vec<_> = collector.trace(TRACE, 2).await;
    codes.sort_by_key(|span| span.attributes["rpc.grpc.status_code"].clone());
    let codes: Vec<_> = codes.iter().map(|it| (it.attributes["rpc.grpc.status_code"].as_str(), it.failed)).collect();
    assert_eq!(codes, [("0", false), ("7", false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_service_traces_a_verb_to_its_own_node() {
    let collector = Collector::start().await;
    let server = TestServer::embedded_with(&recording(&collector.endpoint).replace(PATIENT, ""));
    let world = World::on(&server.addr, &server.admin_key).await;
    let node = NodeProcess::start_traced(&world, unique("node"), &collector.endpoint);
    let slot = admitted(&world, &node.id).await;
    world.caller.calls().hold(traced(hold(&slot), &parent(TRACE, "01"))).await.expect("held");
    let spans = collector.trace(TRACE, WAY.len()).await;
    let by_name = tree(&spans);
    assert_way(&by_name);
    assert_eq!(by_name["send command"].attributes["messaging.system"], "memory");
}

/// Requests that are all recorded, while one message of one span may be on its way.
const REQUESTS: usize = 30;
const QUEUE: usize = 4;

async fn drive_without_a_collector(endpoint: &str) {
    let config = format!(
        "{PATIENT}[listen]\ndrain_notice_ms = 0\n[traces]\nendpoint = '{endpoint}'\nsample_ratio = 1.0\n\
         queue_max_spans = {QUEUE}\nbatch_max_spans = 1\nbatch_interval_ms = 1\ntimeout_ms = 1_000\n"
    );
    let server = replica(&config);
    let world = World::on(&server.addr, &server.admin_key).await;
    let node = NodeProcess::start(&world, unique("node"));
    let slot = admitted(&world, &node.id).await;
    let held = world.caller.calls().hold(hold(&slot)).await.expect("held").into_inner();
    assert_eq!(held.state(), OperationState::Succeeded);
    let asked = (0..REQUESTS).map(|_| {
        let mut calls = world.caller.calls();
        async move { calls.get_usage(GetUsageRequest::default()).await }
    });
    assert!(join_all(asked).await.iter().all(Result::is_ok));
    // All but what may wait is dropped at once, and that one when the collector has had its time; nothing was taken.
    let counted = |outcome: &str| server.metric(&format!("voxgate_spans_total{{outcome=\"{outcome}\"}}"));
    let bound = u32::try_from(REQUESTS - QUEUE - 1).expect("few");
    eventually("spans that were dropped", async || {
        let dropped = counted("queue_full") + counted("not_taken");
        (dropped >= f64::from(bound) && counted("not_taken") > 0.5).then_some(())
    })
    .await;
    assert!(counted("sent") < 0.5 && counted("queue_full") > 0.5, "nothing was taken, and what may wait is bounded");
    assert!(server.log().contains("spans are dropped"), "{}", server.log());
    server.signal("TERM");
    server.wait_for_exit(std::time::Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_changes_no_answer_and_holds_up_no_stop() {
    drive_without_a_collector(&format!("http://127.0.0.1:{}", free_port())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_changes_no_answer_and_holds_up_no_stop() {
    // Connections are accepted by the system, and nobody reads.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    drive_without_a_collector(&format!("http://{}", silent.local_addr().expect("an address"))).await;
}
