//! The range of each number of the configuration.
//!
//! Each struct is taken apart whole: a number that is added and has no range here does not compile. README's table says
//! the same, as a test of this file holds it to.

use std::{fmt, ops::RangeInclusive};

use figment::Figment;

use super::{ListenSettings, MetricsSettings, TlsSettings};
use crate::{
    calls::CallSettings,
    db::{CacheSettings, PoolSettings, RetentionSettings},
    grpc::layers::RpcSettings,
    redis::RedisSettings,
    sessions::JournalSettings,
    traces::TraceSettings,
    webhooks::WebhookSettings,
};

/// Of connections, streams and requests: far beyond one process, and what a semaphore counts on every machine.
const COUNT_MAX: u64 = 1_000_000;
/// More than any machine has cores.
const THREADS_MAX: u64 = 1_024;
/// Of every interval and timeout: a longer one is a slip of the unit.
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// Of each cache: no machine's memory is larger.
const CACHE_MAX_BYTES: u64 = 1 << 40;
/// Callers are promised that a read is never older than this after a change on another replica.
const FRESH_MAX_MS: u64 = 5_000;
/// Callers are promised that a revoked key is refused everywhere within a second.
const KEY_FRESH_MAX_MS: u64 = 900;
/// Beyond it readers would pay for the writer's patience.
const LINGER_MAX_MS: u64 = 1_000;
const YEAR_HOURS: u64 = 366 * 24;
/// Of what is kept: a century, which is for ever.
const DAYS_MAX: u64 = 36_500;
/// On one call: more is no conversation.
const VERBS_MAX: u64 = 1_000;
/// That wait for a collector: some 100 MiB.
const SPANS_MAX: u64 = 100_000;
/// A collector that is not there for longer gets nothing.
const MINUTE_MS: u64 = 60_000;
/// What a Prometheus is spared.
const TOP_AGENTS_MAX: u64 = 100;

/// What a number may be.
#[derive(Debug, Clone)]
struct Limit {
    key: &'static str,
    default: u64,
    range: RangeInclusive<u64>,
    /// Whether 0, which is below the range, has a meaning of its own.
    or_zero: bool,
}

/// As README writes it.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zero = if self.or_zero { "0, or " } else { "" };
        write!(f, "{zero}from {} to {}", self.range.start(), self.range.end())
    }
}

impl Limit {
    fn or_zero(self) -> Self {
        Self { or_zero: true, ..self }
    }

    fn allows(&self, value: i128) -> bool {
        u64::try_from(value).is_ok_and(|value| self.range.contains(&value) || (self.or_zero && value == 0))
    }
}

fn limit(key: &'static str, default: impl TryInto<u64>, range: RangeInclusive<u64>) -> Limit {
    Limit { key, default: default.try_into().unwrap_or(u64::MAX), range, or_zero: false }
}

/// Each number that is out of its range, by its key: also one that is too large or too small to be read as what it is.
pub(super) fn faults(given: &Figment) -> Vec<String> {
    let fault = |limit: &Limit| {
        let value = given.find_value(limit.key).ok()?.to_i128()?;
        let Limit { key, default, .. } = limit;
        (!limit.allows(value)).then(|| format!("{key} must be {limit}, not {value} (the default is {default})"))
    };
    all().iter().filter_map(fault).collect()
}

fn all() -> Vec<Limit> {
    let rooms = [listen(), tls(), rpc(), calls(), stores(), cache(), retention(), webhooks(), metrics(), traces()];
    rooms.into_iter().flatten().collect()
}

fn listen() -> Vec<Limit> {
    let ListenSettings {
        threads,
        max_connections,
        max_streams_per_connection,
        handshake_timeout_ms,
        keepalive_interval_ms,
        keepalive_timeout_ms,
        max_connection_age_ms,
        max_connection_age_grace_ms,
        reflection: _,
        drain_notice_ms,
        drain_cap_ms,
    } = ListenSettings::default();
    vec![
        limit("listen.threads", threads, 0..=THREADS_MAX),
        limit("listen.max_connections", max_connections, 1..=COUNT_MAX),
        limit("listen.max_streams_per_connection", max_streams_per_connection, 1..=COUNT_MAX),
        limit("listen.handshake_timeout_ms", handshake_timeout_ms, 1..=DAY_MS),
        limit("listen.keepalive_interval_ms", keepalive_interval_ms, 1..=DAY_MS),
        limit("listen.keepalive_timeout_ms", keepalive_timeout_ms, 1..=DAY_MS),
        limit("listen.max_connection_age_ms", max_connection_age_ms, 1_000..=DAY_MS).or_zero(),
        limit("listen.max_connection_age_grace_ms", max_connection_age_grace_ms, 0..=DAY_MS),
        limit("listen.drain_notice_ms", drain_notice_ms, 0..=DAY_MS),
        limit("listen.drain_cap_ms", drain_cap_ms, 0..=DAY_MS),
    ]
}

fn tls() -> Vec<Limit> {
    let TlsSettings { cert_file: _, key_file: _, client_ca_file: _, client_certs: _, reload_interval_ms } =
        TlsSettings::default();
    vec![limit("tls.reload_interval_ms", reload_interval_ms, 1..=DAY_MS)]
}

fn rpc() -> Vec<Limit> {
    let RpcSettings { max_in_flight, max_deadline_ms } = RpcSettings::default();
    vec![
        limit("rpc.max_in_flight", max_in_flight, 1..=COUNT_MAX),
        limit("rpc.max_deadline_ms", max_deadline_ms, 1..=DAY_MS),
    ]
}

fn calls() -> Vec<Limit> {
    let CallSettings {
        verb_timeout_ms,
        verbs_per_second,
        heartbeat_interval_ms,
        heartbeat_lease_ms,
        sweep_interval_ms,
        reconcile_interval_ms,
        idempotency_hours,
        queue_depth,
        queue_max_waiters,
        usage_max_watches,
        event_max_watches,
        event_stall_ms,
        media_url_allow_private: _,
    } = CallSettings::default();
    vec![
        limit("calls.verb_timeout_ms", verb_timeout_ms, 1..=DAY_MS),
        limit("calls.verbs_per_second", verbs_per_second, 1..=VERBS_MAX),
        limit("calls.heartbeat_interval_ms", heartbeat_interval_ms, 1..=DAY_MS),
        limit("calls.heartbeat_lease_ms", heartbeat_lease_ms, 1..=DAY_MS),
        limit("calls.sweep_interval_ms", sweep_interval_ms, 1..=DAY_MS),
        limit("calls.reconcile_interval_ms", reconcile_interval_ms, 1..=DAY_MS),
        limit("calls.idempotency_hours", idempotency_hours, 1..=YEAR_HOURS),
        limit("calls.queue_depth", queue_depth, 1..=COUNT_MAX),
        limit("calls.queue_max_waiters", queue_max_waiters, 1..=COUNT_MAX),
        limit("calls.usage_max_watches", usage_max_watches, 1..=COUNT_MAX),
        limit("calls.event_max_watches", event_max_watches, 1..=COUNT_MAX),
        limit("calls.event_stall_ms", event_stall_ms, 100..=DAY_MS),
    ]
}

fn stores() -> Vec<Limit> {
    let JournalSettings { max_entries, linger_ms, orphan_after_ms } = JournalSettings::default();
    let PoolSettings {
        max_connections,
        acquire_timeout_ms,
        statement_timeout_ms,
        tls_ca_file: _,
        tls_cert_file: _,
        tls_key_file: _,
    } = PoolSettings::default();
    let RedisSettings {
        command_timeout_ms,
        connect_timeout_ms,
        clock_step_ms,
        tls_ca_file: _,
        tls_cert_file: _,
        tls_key_file: _,
    } = RedisSettings::default();
    vec![
        limit("journal.max_entries", max_entries, 1..=COUNT_MAX),
        limit("journal.linger_ms", linger_ms, 0..=LINGER_MAX_MS),
        limit("journal.orphan_after_ms", orphan_after_ms, 1..=DAY_MS),
        limit("database.max_connections", max_connections, 1..=COUNT_MAX),
        limit("database.acquire_timeout_ms", acquire_timeout_ms, 1..=DAY_MS),
        limit("database.statement_timeout_ms", statement_timeout_ms, 1..=DAY_MS),
        limit("redis.command_timeout_ms", command_timeout_ms, 1..=DAY_MS),
        limit("redis.connect_timeout_ms", connect_timeout_ms, 1..=DAY_MS),
        limit("redis.clock_step_ms", clock_step_ms, 1_000..=DAY_MS).or_zero(),
    ]
}

fn cache() -> Vec<Limit> {
    let CacheSettings { agents_max_bytes, tenants_max_bytes, fresh_ms, key_fresh_ms, outage_ms, key_outage_ms } =
        CacheSettings::default();
    vec![
        limit("cache.agents_max_bytes", agents_max_bytes, 1..=CACHE_MAX_BYTES),
        limit("cache.tenants_max_bytes", tenants_max_bytes, 1..=CACHE_MAX_BYTES),
        limit("cache.fresh_ms", fresh_ms, 0..=FRESH_MAX_MS),
        limit("cache.key_fresh_ms", key_fresh_ms, 0..=KEY_FRESH_MAX_MS),
        limit("cache.outage_ms", outage_ms, 0..=DAY_MS),
        limit("cache.key_outage_ms", key_outage_ms, 0..=DAY_MS),
    ]
}

fn retention() -> Vec<Limit> {
    let RetentionSettings { sessions_days, events_days, audit_days, interval_ms } = RetentionSettings::default();
    vec![
        limit("retention.sessions_days", sessions_days, 1..=DAYS_MAX),
        limit("retention.events_days", events_days, 1..=DAYS_MAX),
        limit("retention.audit_days", audit_days, 30..=DAYS_MAX),
        limit("retention.interval_ms", interval_ms, 1..=DAY_MS),
    ]
}

fn webhooks() -> Vec<Limit> {
    let WebhookSettings { allow_private: _, ca_file: _, timeout_ms, max_in_flight } = WebhookSettings::default();
    vec![
        limit("webhooks.timeout_ms", timeout_ms, 1..=DAY_MS),
        limit("webhooks.max_in_flight", max_in_flight, 2..=COUNT_MAX),
    ]
}

fn metrics() -> Vec<Limit> {
    let MetricsSettings { top_agents } = MetricsSettings::default();
    vec![limit("metrics.top_agents", top_agents, 0..=TOP_AGENTS_MAX)]
}

fn traces() -> Vec<Limit> {
    let TraceSettings {
        endpoint: _,
        ca_file: _,
        // From 0 to 1, which is no whole number: the struct judges it itself.
        sample_ratio: _,
        trust_callers: _,
        queue_max_spans,
        batch_max_spans,
        batch_interval_ms,
        timeout_ms,
    } = TraceSettings::default();
    vec![
        limit("traces.queue_max_spans", queue_max_spans, 1..=SPANS_MAX),
        limit("traces.batch_max_spans", batch_max_spans, 1..=SPANS_MAX),
        limit("traces.batch_interval_ms", batch_interval_ms, 1..=MINUTE_MS),
        limit("traces.timeout_ms", timeout_ms, 1..=MINUTE_MS),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::tests::load, *};

    const README: &str = include_str!("../../README.md");

    /// The rows of the table of limits, as key, default and range.
    fn rows() -> BTreeMap<&'static str, (&'static str, &'static str)> {
        let (_, table) = README.split_once("| TOML key | default | range |").expect("the table of limits");
        let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
        let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
        cells.skip(1).map(|cells| (cells[1].trim_matches('`'), (cells[2], cells[3]))).collect()
    }

    /// With a comma behind each three digits.
    fn grouped(number: u64) -> String {
        let digits = number.to_string();
        let first = digits.len() % 3;
        let mut groups: Vec<_> = (first..digits.len()).step_by(3).map(|at| &digits[at..at + 3]).collect();
        if first > 0 {
            groups.insert(0, &digits[..first]);
        }
        groups.join(",")
    }

    #[test]
    fn readme_has_the_default_and_the_range_of_every_number_and_of_no_other() {
        let rows = rows();
        let limits = all();
        for Limit { key, default, range, or_zero } in &limits {
            let zero = if *or_zero { "0; " } else { "" };
            let range = format!("{zero}{}–{}", grouped(*range.start()), grouped(*range.end()));
            let told = rows.get(key).unwrap_or_else(|| panic!("README lacks {key}"));
            assert_eq!(*told, (grouped(*default).as_str(), range.as_str()), "{key}");
        }
        let is_number = |text: &str| text.replace(',', "").parse::<u64>().is_ok();
        let numbers = rows.iter().filter(|(_, (default, _))| is_number(default)).map(|(key, _)| *key);
        let unlimited: Vec<_> = numbers.filter(|key| limits.iter().all(|limit| limit.key != *key)).collect();
        assert!(unlimited.is_empty(), "without a range in the code: {unlimited:?}");
    }

    #[test]
    fn every_number_is_refused_outside_of_its_range_and_all_at_once() {
        let limits = all();
        for beyond in [false, true] {
            let wrong = |limit: &Limit| {
                if beyond { i128::from(*limit.range.end()) + 1 } else { i128::from(*limit.range.start()) - 1 }
            };
            let line = |limit: &Limit| {
                let (room, key) = limit.key.split_once('.').expect("a room");
                format!("{room}.{key} = {}\n", wrong(limit))
            };
            let text: String = limits.iter().map(line).collect();
            let error = load(&text).expect_err("refused").to_string();
            for limit in &limits {
                let fault = format!("{} must be {limit}, not {}", limit.key, wrong(limit));
                assert!(error.contains(&fault), "{fault}: {error}");
            }
            assert_eq!(error.matches(" must be ").count(), limits.len(), "{error}");
        }
    }

    #[test]
    fn the_defaults_are_within_their_ranges() {
        load("").expect("valid");
        for limit in all() {
            assert!(limit.allows(limit.default.into()), "{limit:?}");
        }
    }

    #[test]
    fn a_number_that_may_be_off_is_0_or_within_its_range() {
        for (text, allowed) in [("0", true), ("1", false), ("999", false), ("1_000", true)] {
            assert_eq!(load(&format!("redis.clock_step_ms = {text}")).is_ok(), allowed, "{text}");
        }
    }
}
