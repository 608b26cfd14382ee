//! What replicas tell at `/metrics`, of all tenants: whether they are ready, what they carry, and what they deny and why.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use http::Uri;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::view::News;

/// How often a replica is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Of one answer: a hundred times what a replica tells today.
const ANSWER_MAX_BYTES: usize = 16 << 20;
/// What is counted there and is no denial.
const TAKEN: [&str; 3] = ["GRANTED", "VALIDATED", "CANCELLED"];

/// What one replica told, and when.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) ready: bool,
    pub(super) slots: f64,
    pub(super) queued: f64,
    pub(super) nodes: f64,
    pub(super) granted: f64,
    /// By reason, and the limit that binds where one does; since the replica's start.
    pub(super) denied: BTreeMap<String, f64>,
}

/// Asks the replica number `replica`, at `admin`, until nobody listens.
pub(super) async fn follow(replica: usize, admin: Uri, news: mpsc::Sender<News>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut turns = interval(LOOK_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let told = match timeout(ANSWER_WITHIN, ask(&client, admin.clone())).await {
            // What is at the bottom of it, such as "Connection refused".
            Ok(told) => told.map_err(|error| error.root_cause().to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        if news.send(News::Replica { replica, told }).await.is_err() {
            return;
        }
    }
}

/// Where `/metrics` of the admin port at `url` is.
pub(super) fn address(url: &str) -> anyhow::Result<Uri> {
    let wrong = || format!("--admin: {url:?} is not http://host:port");
    let parts = url.parse::<Uri>().with_context(wrong)?.into_parts();
    let is_bare = parts.path_and_query.as_ref().is_none_or(|path| path == "/");
    let is_http = parts.scheme.as_ref().is_some_and(|scheme| scheme.as_str() == "http");
    let authority = parts.authority.filter(|_| is_bare && is_http).with_context(wrong)?;
    Ok(Uri::builder().scheme("http").authority(authority).path_and_query("/metrics").build()?)
}

async fn ask(client: &Client<HttpConnector, Empty<Bytes>>, metrics: Uri) -> anyhow::Result<Sample> {
    let answer = client.get(metrics).await?;
    anyhow::ensure!(answer.status().is_success(), "answered {}", answer.status().as_u16());
    let body = Limited::new(answer.into_body(), ANSWER_MAX_BYTES).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("what it tells cannot be read: {error}"))?.to_bytes();
    Ok(read(std::str::from_utf8(&body)?, Instant::now()))
}

/// Of the text format of Prometheus, <https://prometheus.io/docs/instrumenting/exposition_formats/>, what a view shows.
fn read(text: &str, at: Instant) -> Sample {
    let mut sample =
        Sample { at, ready: false, slots: 0.0, queued: 0.0, nodes: 0.0, granted: 0.0, denied: BTreeMap::new() };
    for (name, labels, value) in text.lines().filter_map(series) {
        match name {
            "voxgate_ready" => sample.ready = value > 0.0,
            "voxgate_slots_in_flight" => sample.slots = value,
            "voxgate_queue_waiting" => sample.queued = value,
            "voxgate_nodes_connected" => sample.nodes = value,
            "voxgate_admissions_total" | "voxgate_queue_waits_total" => match label(labels, "outcome") {
                Some("GRANTED") => sample.granted += value,
                Some(outcome) if !TAKEN.contains(&outcome) => {
                    let scope = label(labels, "scope").filter(|scope| !scope.is_empty());
                    let reason = scope.map_or_else(|| outcome.to_owned(), |scope| format!("{outcome} ({scope})"));
                    *sample.denied.entry(reason).or_default() += value;
                }
                _ => {}
            },
            _ => {}
        }
    }
    sample
}

/// Its name, its labels as they stand, and its value. What the service writes needs no more: no label of these has a quote
/// or a comma in its value.
fn series(line: &str) -> Option<(&str, &str, f64)> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some((name, labels.trim_end_matches('}'), value.parse().ok()?))
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let value = |label: &'a str| label.split_once('=').filter(|(it, _)| *it == name).map(|(_, value)| value);
    labels.split(',').find_map(value).map(|value| value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_replica_tells_is_read() {
        let text = "# HELP voxgate_ready 1 if ready\n# TYPE voxgate_ready gauge\nvoxgate_ready 1\n\n\
            voxgate_slots_in_flight 12\nvoxgate_nodes_connected 2\nvoxgate_queue_waiting 3\n\
            voxgate_admissions_total{outcome=\"GRANTED\",scope=\"\"} 100\n\
            voxgate_admissions_total{outcome=\"MAX_CONCURRENT_EXCEEDED\",scope=\"agent\"} 7\n\
            voxgate_admissions_total{outcome=\"VALIDATED\",scope=\"\"} 9\n\
            voxgate_queue_waits_total{outcome=\"GRANTED\"} 20\nvoxgate_queue_waits_total{outcome=\"QUEUE_FULL\"} 1\n\
            voxgate_other_total{outcome=\"FAILED\"} 5\nnonsense\n";
        let at = Instant::now();
        let denied = [("MAX_CONCURRENT_EXCEEDED (agent)", 7.0), ("QUEUE_FULL", 1.0)];
        let denied = denied.map(|(reason, count)| (reason.to_owned(), count)).into();
        let expected = Sample { at, ready: true, slots: 12.0, queued: 3.0, nodes: 2.0, granted: 120.0, denied };
        assert_eq!(read(text, at), expected);
        assert!(!read("", at).ready);
    }

    #[test]
    fn an_admin_port_is_a_host_and_a_port() {
        for url in ["http://127.0.0.1:9090", "http://voxgate-0:9090/"] {
            assert!(address(url).expect("an address").path() == "/metrics", "{url}");
        }
        for url in ["", "127.0.0.1:9090", "https://a:9090", "http://a:9090/metrics", "http://a?x=y"] {
            let error = address(url).expect_err(url).to_string();
            assert!(error.contains("--admin"), "{error}");
        }
    }
}
