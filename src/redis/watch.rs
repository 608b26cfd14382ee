//! Whether Redis may be trusted with what it is given, and the alarms before it may not.
//!
//! A Redis that evicts forgets live leases by itself, so one of another policy than `noeviction` is refused. One that is
//! nearly full will refuse grants. Each is a line in the log when it begins, and a metric. Its clock is looked at in
//! passing (`clock`).

use std::{
    collections::HashSet,
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

/// The servers that the look before has found nearly full.
#[derive(Debug, Default)]
pub(super) struct Watch {
    nearly_full: Mutex<HashSet<String>>,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) policy: Option<String>,
    used: u64,
    /// 0: the machine's own memory is the limit.
    most: u64,
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
        link.look_at_clock(deadline).await?;
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
        Ok(Self { policy, used: number("used_memory"), most: number("maxmemory") })
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
    /// Raises the alarm where the look before found it in order; answers how full it is.
    pub(super) fn note(&self, server: &str, said: &Said) -> f64 {
        let mut all = self.nearly_full.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > NODES_MAX {
            // Servers that have long gone.
            all.clear();
        }
        if said.share() < FULL {
            all.remove(server);
        } else if all.insert(server.to_owned()) {
            tracing::warn!(memory.used = said.used, memory.most = said.most, "Redis is nearly full");
        }
        said.share()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_noeviction_is_accepted() {
        let said = |policy: Option<&str>| Said { policy: policy.map(str::to_owned), used: 0, most: 0 };
        assert_eq!(said(Some("noeviction")).refusal(), None);
        assert!(said(Some("allkeys-lru")).refusal().is_some_and(|why| why.contains("allkeys-lru")));
        assert!(said(Some("volatile-ttl")).refusal().is_some() && said(None).refusal().is_some());
    }
}
