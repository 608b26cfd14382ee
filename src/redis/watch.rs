//! Whether Redis may be trusted with what it is given, and the alarms before it may not.
//!
//! A Redis that evicts forgets live leases by itself, so one of another policy than `noeviction` is refused. One that is
//! nearly full will refuse grants; one whose clock steps back keeps leases longer, and forward ends them early. Each is a
//! line in the log when it begins, and a metric.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use deadpool_redis::redis::{cmd, from_redis_value};
use tokio::time::Instant;

use super::{
    identity::field,
    link::{Link, Trouble},
    map::NODES_MAX,
};

/// Of `maxmemory`, from where on it is an alarm: a fifth is left for people to act.
const FULL: f64 = 0.8;
/// By how much the server's clock may differ in pace from ours between two looks: a busy machine's pauses, not a step.
const PACE_MICROS: i64 = 2_000_000;

#[derive(Debug, Default)]
pub(super) struct Watch {
    /// By server.
    before: Mutex<HashMap<String, Before>>,
}

/// What the look before has found.
#[derive(Debug, Default)]
struct Before {
    /// When we looked and what the server's clock said, in microseconds.
    time: Option<(Instant, i64)>,
    nearly_full: bool,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) policy: Option<String>,
    used: u64,
    /// 0: the machine's own memory is the limit.
    most: u64,
    micros: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Back(i64),
    Forward(i64),
}

/// For servers whose INFO keeps it to itself. Nothing where CONFIG is forbidden too.
async fn configured_policy(link: &Link, deadline: Instant) -> Result<Option<String>, Trouble> {
    let mut question = cmd("CONFIG");
    match link.send(question.arg("GET").arg("maxmemory-policy"), false, deadline).await {
        Ok(pair) => Ok(from_redis_value::<(String, String)>(pair).ok().map(|(_, policy)| policy)),
        Err(Trouble::Failed(error)) if !error.is_io_error() => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

impl Said {
    pub(super) async fn by(link: &Link, deadline: Instant) -> Result<Self, Trouble> {
        let time = link.send(&cmd("TIME"), false, deadline).await?;
        let (secs, micros): (i64, i64) = from_redis_value(time).map_err(|error| Trouble::Failed(error.into()))?;
        let mut question = cmd("INFO");
        let info = match link.send(question.arg("memory"), false, deadline).await {
            Ok(info) => from_redis_value(info).map_err(|error| Trouble::Failed(error.into()))?,
            // INFO is forbidden: CONFIG GET may not be.
            Err(Trouble::Failed(error)) if !error.is_io_error() => String::new(),
            Err(trouble) => return Err(trouble),
        };
        let number = |name| field(&info, name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let policy = match field(&info, "maxmemory_policy") {
            Some(policy) => Some(policy.to_owned()),
            None => configured_policy(link, deadline).await?,
        };
        Ok(Self { policy, used: number("used_memory"), most: number("maxmemory"), micros: secs * 1_000_000 + micros })
    }

    /// Why this server must not be used, if it must not.
    pub(super) fn refusal(&self) -> Option<String> {
        match self.policy.as_deref() {
            Some("noeviction") => None,
            Some(policy) => {
                Some(format!("maxmemory-policy is {policy}: it would evict live leases; noeviction is needed"))
            }
            None => Some("it does not tell its maxmemory-policy, by INFO or by CONFIG GET".to_owned()),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a share that people look at")]
    fn share(&self) -> f64 {
        if self.most == 0 { 0.0 } else { self.used as f64 / self.most as f64 }
    }
}

impl Watch {
    /// Compares with the look before and raises the alarms; answers how full it is.
    pub(super) fn note(&self, server: &str, said: &Said, looked: Instant) -> f64 {
        let mut all = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > NODES_MAX {
            // Servers that have long gone.
            all.clear();
        }
        let before = all.entry(server.to_owned()).or_default();
        let nearly_full = said.share() >= FULL;
        if nearly_full && !before.nearly_full {
            tracing::warn!(memory.used = said.used, memory.most = said.most, "Redis is nearly full");
        }
        before.nearly_full = nearly_full;
        let step = before.time.and_then(|(then, micros)| step(micros, said.micros, looked.duration_since(then)));
        if let Some(step) = step {
            let (direction, micros) = match step {
                Step::Back(micros) => ("back", micros),
                Step::Forward(micros) => ("forward", micros),
            };
            tracing::warn!(clock.step = direction, clock.micros = micros, "the clock of Redis was set");
            metrics::counter!("voxgate_slot_store_clock_steps_total", "direction" => direction).increment(1);
        }
        before.time = Some((looked, said.micros));
        said.share()
    }
}

/// How far the server's clock moved beyond the time that passed here.
fn step(before: i64, now: i64, passed: std::time::Duration) -> Option<Step> {
    let moved = now.saturating_sub(before);
    let passed = i64::try_from(passed.as_micros()).unwrap_or(i64::MAX);
    if moved < 0 {
        Some(Step::Back(moved.saturating_neg()))
    } else if moved.saturating_sub(passed) > PACE_MICROS {
        Some(Step::Forward(moved - passed))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_steps_when_it_goes_back_or_runs_far_ahead() {
        let second = Duration::from_secs(1);
        assert_eq!(step(10, 1_000_010, second), None);
        assert_eq!(step(10, 2_900_000, second), None, "a slow answer is no step");
        assert_eq!(step(10, 9, second), Some(Step::Back(1)));
        assert_eq!(step(0, 301_000_000, second), Some(Step::Forward(300_000_000)));
        assert_eq!(step(0, 100_000, Duration::from_mins(1)), None, "we were the ones who slept");
    }

    #[test]
    fn only_noeviction_is_accepted() {
        let said = |policy: Option<&str>| Said { policy: policy.map(str::to_owned), used: 0, most: 0, micros: 0 };
        assert_eq!(said(Some("noeviction")).refusal(), None);
        assert!(said(Some("allkeys-lru")).refusal().is_some_and(|why| why.contains("allkeys-lru")));
        assert!(said(Some("volatile-ttl")).refusal().is_some() && said(None).refusal().is_some());
    }
}
