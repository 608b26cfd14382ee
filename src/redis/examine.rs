//! What an operator is told about Redis before anything relies on it: each server by itself, over connections of their
//! own, so that what stands between us and one of them is told in its own words.
//!
//! Only questions are asked. What a login may not ask is told as not known.

use std::collections::HashMap;

use deadpool_redis::redis::{Value, aio::MultiplexedConnection};
use futures_util::future::join_all;
use secrecy::SecretString;

use super::{
    RedisSettings,
    dial::{Dialer, Sentinels, Why, ask, word_of},
    identity::field,
    map::SlotMap,
    slots::SLOTS,
    target::{Address, Home, Target},
};
use crate::domain::{Clock, Timestamp, clock::ClockDifference, violations::Violations};

/// What stands at a URL.
#[derive(Debug)]
pub(crate) struct RedisFound {
    pub(crate) form: RedisForm,
    /// The servers that hold keys, by address; why one could not be asked.
    pub(crate) servers: Vec<(String, Result<RedisServer, String>)>,
}

#[derive(Debug)]
pub(crate) enum RedisForm {
    One,
    /// What each sentinel names as the master, or why it names none.
    Sentinels(Vec<(String, Result<String, String>)>),
    Cluster {
        /// Why those seeds of the URL that do not answer do not.
        lost_seeds: Vec<(String, String)>,
        seeds: usize,
        /// As `CLUSTER INFO` says it; absent where the login may not ask.
        state: Option<String>,
        /// Slots that a server owns.
        owned: usize,
    },
}

/// All slots of a cluster.
pub(crate) const CLUSTER_SLOTS: usize = SLOTS;

/// What a server says of itself.
#[derive(Debug)]
pub(crate) struct RedisServer {
    /// Empty where it does not say.
    pub(crate) version: String,
    pub(crate) policy: Option<String>,
    pub(crate) memory: Memory,
    pub(crate) persistence: Persistence,
    pub(crate) replication: Replication,
    pub(crate) clock: ClockDifference,
}

/// In bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) used: u64,
    /// 0: the machine's own memory is the limit.
    pub(crate) most: u64,
    /// Of the machine; 0 where it does not say.
    pub(crate) machine: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Persistence {
    /// Absent where it does not say.
    pub(crate) aof: Option<bool>,
    /// `always`, `everysec` or `no`; absent where it does not say.
    pub(crate) fsync: Option<String>,
    /// Snapshots are taken by themselves; absent where it does not say.
    pub(crate) snapshots: Option<bool>,
    /// The last attempt to write either of them failed.
    pub(crate) is_failing: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Replication {
    pub(crate) is_replica: bool,
    pub(crate) replicas: u64,
    /// Without as many of them it refuses to write; absent where it does not say.
    pub(crate) needed: Option<u64>,
    /// Those that are near enough to count.
    pub(crate) good: u64,
}

/// Asks what stands at `url`. The error names all that is wrong with the URL and with the files beside it.
pub(crate) async fn redis(
    url: &SecretString,
    settings: &RedisSettings,
    clock: &dyn Clock,
) -> Result<RedisFound, Violations> {
    let Target { home, is_tls, login, sentinel_login } = super::target(url, settings)?;
    let server = Dialer { login, is_tls, settings: settings.clone(), runtime: None };
    Ok(match home {
        Home::One(address) => {
            let told = async { server_at(&server, server.dial(&address).await?, clock).await }.await;
            RedisFound { form: RedisForm::One, servers: vec![(name(&address), told)] }
        }
        Home::Sentinels { addresses, master } => {
            let sentinel = Dialer { login: sentinel_login, ..server.clone() };
            of_sentinels(Sentinels { addresses, master, sentinel, server }, clock).await
        }
        Home::Cluster(seeds) => of_cluster(&server, seeds, clock).await,
    })
}

async fn of_sentinels(sentinels: Sentinels, clock: &dyn Clock) -> RedisFound {
    let asked = sentinels.addresses.iter().map(async |address| {
        let word = word_of(&sentinels.sentinel, address, &sentinels.master).await;
        (name(address), word.map(|told| name(&told.address)))
    });
    let words = join_all(asked).await;
    let found = async { server_at(&sentinels.server, sentinels.find().await?, clock).await }.await;
    let master = words.iter().find_map(|(_, word)| word.clone().ok());
    let master = master.unwrap_or_else(|| sentinels.master.clone());
    RedisFound { form: RedisForm::Sentinels(words), servers: vec![(master, found)] }
}

async fn of_cluster(dialer: &Dialer, seeds: Vec<Address>, clock: &dyn Clock) -> RedisFound {
    let limit = dialer.settings.connect_timeout();
    let asked = seeds.iter().map(async |seed| {
        let mut connection = dialer.dial(seed).await?;
        let map = SlotMap::parse(ask(&mut connection, &["CLUSTER", "SLOTS"], limit).await?, seed);
        let map = map.ok_or_else(|| "it knows of no owner of a slot: it is in no cluster".to_owned())?;
        let info = ask::<String>(&mut connection, &["CLUSTER", "INFO"], limit).await.unwrap_or_default();
        Ok::<_, Why>((map, field(&info, "cluster_state").map(str::to_owned)))
    });
    let answers = join_all(asked).await;
    let (mut known, mut lost_seeds) = (None, Vec::new());
    for (seed, answer) in seeds.iter().zip(answers) {
        match answer {
            Ok(told) => known = known.or(Some(told)),
            Err(why) => lost_seeds.push((name(seed), why)),
        }
    }
    let (map, state) = known.unwrap_or_default();
    let slots = u16::try_from(SLOTS).unwrap_or(u16::MAX);
    let owned = (0..slots).filter(|slot| map.owner(*slot).is_some()).count();
    let servers = map.owners().map(async |address| {
        let told = async { server_at(dialer, dialer.dial(address).await?, clock).await }.await;
        (name(address), told)
    });
    let servers = join_all(servers).await;
    RedisFound { form: RedisForm::Cluster { lost_seeds, seeds: seeds.len(), state, owned }, servers }
}

async fn server_at(
    dialer: &Dialer,
    mut connection: MultiplexedConnection,
    clock: &dyn Clock,
) -> Result<RedisServer, Why> {
    let limit = dialer.settings.connect_timeout();
    // Names whoever may not even be asked that, such as one that is still loading.
    ask::<Value>(&mut connection, &["PING"], limit).await?;
    let asked = clock.now();
    let (secs, micros): (i64, i64) = ask(&mut connection, &["TIME"], limit).await?;
    let theirs = Timestamp::from_micros(secs.saturating_mul(1_000_000).saturating_add(micros));
    let clock = ClockDifference::found(asked, clock.now(), theirs);
    let mut info = String::new();
    for section in ["server", "memory", "persistence", "replication"] {
        info.push_str(&ask::<String>(&mut connection, &["INFO", section], limit).await.unwrap_or_default());
        info.push('\n');
    }
    let mut settings = HashMap::new();
    for name in ["maxmemory-policy", "save", "appendfsync", "min-replicas-to-write"] {
        let pair: Option<(String, String)> = ask(&mut connection, &["CONFIG", "GET", name], limit).await.ok();
        settings.extend(pair);
    }
    Ok(read(&info, &settings, clock))
}

/// Of its INFO and of what CONFIG GET tells.
fn read(info: &str, settings: &HashMap<String, String>, clock: ClockDifference) -> RedisServer {
    let number = |name| field(info, name).and_then(|text| text.parse::<u64>().ok());
    let is_not_ok = |name| field(info, name).is_some_and(|outcome| outcome != "ok");
    let setting = |name: &str| settings.get(name).map(String::as_str);
    RedisServer {
        version: field(info, "redis_version").unwrap_or_default().to_owned(),
        policy: field(info, "maxmemory_policy").or_else(|| setting("maxmemory-policy")).map(str::to_owned),
        memory: Memory {
            used: number("used_memory").unwrap_or(0),
            most: number("maxmemory").unwrap_or(0),
            machine: number("total_system_memory").unwrap_or(0),
        },
        persistence: Persistence {
            aof: number("aof_enabled").map(|on| on == 1),
            fsync: setting("appendfsync").map(str::to_owned),
            snapshots: setting("save").map(|rules| !rules.is_empty()),
            is_failing: is_not_ok("aof_last_write_status") || is_not_ok("rdb_last_bgsave_status"),
        },
        replication: Replication {
            is_replica: field(info, "role").is_some_and(|role| role != "master"),
            replicas: number("connected_slaves").unwrap_or(0),
            needed: setting("min-replicas-to-write").and_then(|text| text.parse().ok()),
            good: number("min_slaves_good_slaves").unwrap_or(0),
        },
        clock,
    }
}

fn name(address: &Address) -> String {
    format!("{}:{}", address.host, address.port)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: ClockDifference = ClockDifference { micros: 0, give_or_take: Duration::ZERO };

    #[test]
    fn a_server_is_read_by_what_it_says_of_itself() {
        let info = "redis_version:7.0.15\r\nused_memory:80\r\nmaxmemory:100\r\nmaxmemory_policy:noeviction\r\n\
                    aof_enabled:1\r\naof_last_write_status:ok\r\nrdb_last_bgsave_status:err\r\nrole:slave\r\n\
                    connected_slaves:2\r\n";
        let settings = [("min-replicas-to-write", "1"), ("save", "")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let told = read(info, &settings, NOW);
        assert_eq!((told.version.as_str(), told.policy.as_deref()), ("7.0.15", Some("noeviction")));
        assert_eq!((told.memory.used, told.memory.most), (80, 100));
        assert_eq!((told.persistence.aof, told.persistence.snapshots), (Some(true), Some(false)));
        assert!(told.persistence.is_failing && told.replication.is_replica);
        assert_eq!((told.replication.replicas, told.replication.needed), (2, Some(1)));
    }

    #[test]
    fn what_a_login_may_not_ask_is_not_known() {
        let told = read("", &HashMap::new(), NOW);
        assert_eq!((told.policy, told.persistence.aof, told.persistence.snapshots), (None, None, None));
        assert!(!told.persistence.is_failing && !told.replication.is_replica && told.replication.needed.is_none());
    }
}
