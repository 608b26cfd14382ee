//! What is recorded, and where it is sent.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

/// Traces by OTLP over gRPC.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TraceSettings {
    /// The collector, `http://host:4317` or `https://…`; absent: nothing is recorded or sent.
    pub endpoint: Option<String>,
    /// The collector's authorities, PEM, under `https://` (default: those of the machine).
    pub ca_file: Option<PathBuf>,
    /// The share of requests without a `traceparent` of which a trace is begun, from 0 to 1 (default 0.01: a busy replica
    /// answers tens of thousands a second).
    pub sample_ratio: f64,
    /// Whether the flag of a caller's `traceparent` has its request recorded (default true). False: no more of them than
    /// `sample_ratio` says. A flag that is not set is always honoured.
    pub trust_callers: bool,
    /// Spans that may wait to be sent; those beyond are dropped and counted (default 8,192: some 10 MiB).
    pub queue_max_spans: usize,
    /// Spans of one message (default 512).
    pub batch_max_spans: usize,
    /// How long the first span of a message waits for others (default 1,000 ms).
    pub batch_interval_ms: u64,
    /// How long the collector has to take a message, tries again included, and at a stop all that waits
    /// (default 5,000 ms). What it has not taken by then is dropped and counted.
    pub timeout_ms: u64,
}

impl Default for TraceSettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            ca_file: None,
            sample_ratio: 0.01,
            trust_callers: true,
            queue_max_spans: 8_192,
            batch_max_spans: 512,
            batch_interval_ms: 1_000,
            timeout_ms: 5_000,
        }
    }
}

impl TraceSettings {
    /// Every value that cannot work, by its name; the range of each whole number is judged before.
    pub fn faults(&self) -> Vec<String> {
        let is_usable = |endpoint: &String| {
            Url::parse(endpoint).is_ok_and(|url| {
                let is_bare = url.username().is_empty() && url.password().is_none() && url.query().is_none();
                matches!(url.scheme(), "http" | "https") && url.has_host() && is_bare && url.path() == "/"
            })
        };
        let is_https = self.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("https://"));
        let endpoint = (!self.endpoint.as_ref().is_none_or(is_usable))
            .then(|| "traces.endpoint must be http[s]://host[:port], without a user, a path or a query".to_owned());
        let authority = (self.ca_file.is_some() && !is_https)
            .then(|| "traces.ca_file is for an endpoint of https://, and for nothing else".to_owned());
        let ratio = (!(0.0..=1.0).contains(&self.sample_ratio))
            .then(|| format!("traces.sample_ratio must be from 0 to 1, not {}", self.sample_ratio));
        let batch = (self.batch_max_spans > self.queue_max_spans)
            .then(|| "traces.batch_max_spans must be at most traces.queue_max_spans".to_owned());
        [endpoint, authority, ratio, batch].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_record_nothing() {
        let settings = TraceSettings::default();
        assert_eq!(settings.faults(), Vec::<String>::new());
        assert!(settings.endpoint.is_none());
    }

    #[test]
    fn every_value_that_cannot_work_is_named_at_once() {
        let settings = TraceSettings {
            endpoint: Some("collector:4317".into()),
            ca_file: Some("ca.pem".into()),
            sample_ratio: f64::NAN,
            batch_max_spans: 8_193,
            ..TraceSettings::default()
        };
        let keys = ["endpoint", "ca_file", "sample_ratio", "batch_max_spans"];
        let faults = settings.faults();
        assert_eq!(faults.len(), keys.len(), "{faults:?}");
        for (fault, key) in faults.iter().zip(keys) {
            assert!(fault.starts_with(&format!("traces.{key} ")), "{fault}");
        }
    }

    #[test]
    fn an_endpoint_is_a_server_and_holds_no_secret() {
        let faults =
            |endpoint: &str| TraceSettings { endpoint: Some(endpoint.into()), ..TraceSettings::default() }.faults();
        for good in ["http://127.0.0.1:4317", "https://collector.example.com", "http://[::1]:4317/"] {
            assert_eq!(faults(good), Vec::<String>::new(), "{good}");
        }
        for wrong in
            ["", "127.0.0.1:4317", "grpc://h:4317", "http://u:p@h:4317", "http://h:4317/v1/traces", "http://h?k=v"]
        {
            assert_eq!(faults(wrong).len(), 1, "{wrong}");
            assert!(!faults(wrong)[0].contains("u:p"), "{wrong}");
        }
    }
}
