//! Redis of `voxgate serve`, in each of its three forms.

use std::collections::BTreeMap;

use secrecy::SecretString;

use super::report::{Finding, Outcome};
use crate::{
    config::Config,
    domain::{Clock, clock::ClockDifference, violations::Violations},
    redis::examine::{self, CLUSTER_SLOTS, RedisForm, RedisFound, RedisServer},
};

const CHECK: &str = "redis";
/// Of `maxmemory`, from where on it is an alarm, as in the service.
const FULL_PER_CENT: u64 = 80;
/// As README has it.
const OLDEST: (u32, u32) = (6, 2);

/// What one server deserves, and why.
type Verdict = (Outcome, String, &'static str);

pub(super) fn absent() -> Finding {
    let found = "VOXGATE_REDIS_URL is not set, and VOXGATE_DATABASE_URL is";
    Finding::fault(CHECK, found, "set it to redis://…: `voxgate serve` needs both, `voxgate dev` neither")
}

/// What was found, and the clocks of the servers that answer.
pub(super) async fn examine(
    url: &SecretString,
    config: &Config,
    clock: &dyn Clock,
) -> (Vec<Finding>, Vec<(String, ClockDifference)>) {
    match examine::redis(url, &config.redis, clock).await {
        Ok(found) => {
            let clocks = answering(&found).map(|(name, server)| (name.to_owned(), server.clock)).collect();
            (judge(&found), clocks)
        }
        Err(wrong) => (vec![unusable(&wrong)], Vec::new()),
    }
}

fn unusable(wrong: &Violations) -> Finding {
    let faults: Vec<_> = wrong.iter().map(|it| format!("{} {}", it.field, it.fault.description)).collect();
    let advice = "mend VOXGATE_REDIS_URL and [redis]; README, Configuration, shows the three forms of the URL";
    Finding::fault(CHECK, faults.join("; "), advice)
}

fn answering(found: &RedisFound) -> impl Iterator<Item = (&str, &RedisServer)> {
    found.servers.iter().filter_map(|(name, server)| Some((name.as_str(), server.as_ref().ok()?)))
}

fn judge(found: &RedisFound) -> Vec<Finding> {
    let mut findings = vec![reached(found)];
    match &found.form {
        RedisForm::One => {}
        RedisForm::Sentinels(words) => findings.push(sentinels(words)),
        RedisForm::Cluster { lost_seeds, seeds, state, owned } => {
            findings.push(cluster(lost_seeds, *seeds, state.as_deref(), *owned));
        }
    }
    let of_each = [
        of_all("redis.policy", found, policy),
        of_all("redis.memory", found, memory),
        of_all("redis.persistence", found, persistence),
        of_all("redis.replication", found, replication),
    ];
    findings.extend(of_each.into_iter().flatten());
    findings
}

/// One line for all servers: those that say the same are named together. Nothing where none answers.
fn of_all(check: &'static str, found: &RedisFound, verdict: impl Fn(&RedisServer) -> Verdict) -> Option<Finding> {
    let mut said: BTreeMap<Verdict, Vec<&str>> = BTreeMap::new();
    for (name, server) in answering(found) {
        said.entry(verdict(server)).or_default().push(name);
    }
    let worst = said.keys().map(|(outcome, ..)| *outcome).max()?;
    let is_one = said.len() == 1;
    let told: Vec<_> = said
        .iter()
        .rev()
        .map(|((_, text, _), names)| if is_one { text.clone() } else { format!("{}: {text}", names.join(", ")) })
        .collect();
    let advice: Vec<_> =
        said.keys().rev().filter(|(outcome, ..)| *outcome != Outcome::Ok).map(|(.., advice)| *advice).collect();
    let advice = (worst != Outcome::Ok).then(|| advice.join("; "));
    Some(Finding { check, outcome: worst, found: told.join("; "), advice })
}

fn reached(found: &RedisFound) -> Finding {
    let lost: Vec<_> =
        found.servers.iter().filter_map(|(name, told)| Some(format!("{name}: {}", told.as_ref().err()?))).collect();
    let advice =
        "see that Redis runs and listens there, and that user, password and TLS of VOXGATE_REDIS_URL are its own";
    if found.servers.is_empty() {
        return Finding::fault(CHECK, "no server of the cluster is known, so none was looked at", advice);
    }
    if !lost.is_empty() {
        let found = format!("{} cannot be asked: {}; nothing else of it was looked at", lost.len(), lost.join("; "));
        return Finding::fault(CHECK, found, advice);
    }
    let mut versions: Vec<_> = answering(found).map(|(_, server)| server.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    let names: Vec<_> = answering(found).map(|(name, _)| name).collect();
    let told = format!("{} answers, version {}", names.join(", "), versions.join(", "));
    if versions.iter().any(|version| version.is_empty()) {
        let advice = "give the login +info: without it losses by failover go unnoticed";
        return Finding::warning(CHECK, "it answers, and does not tell its version", advice);
    }
    if versions.iter().any(|version| is_too_old(version)) {
        return Finding::fault(CHECK, told, format!("upgrade it to {}.{} or newer", OLDEST.0, OLDEST.1));
    }
    Finding::ok(CHECK, told)
}

fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { return false };
    (major, minor) < OLDEST
}

fn sentinels(words: &[(String, Result<String, String>)]) -> Finding {
    const CHECK: &str = "redis.sentinels";
    let silent: Vec<_> =
        words.iter().filter_map(|(name, word)| Some(format!("{name}: {}", word.as_ref().err()?))).collect();
    let mut named: Vec<_> = words.iter().filter_map(|(_, word)| word.as_ref().ok()).collect();
    let answers = named.len();
    named.sort_unstable();
    named.dedup();
    let masters: Vec<_> = named.iter().map(|name| name.as_str()).collect();
    let mut found = format!("{answers} of {} name the master {}", words.len(), masters.join(" or "));
    if !silent.is_empty() {
        found = format!("{found}; {}", silent.join("; "));
    }
    let advice =
        "bring the sentinels back, and see that each knows this master; without a majority there is no failover";
    if answers <= words.len() / 2 {
        Finding::fault(CHECK, found, advice)
    } else if !silent.is_empty() || named.len() > 1 || words.len() < 3 {
        let found = if words.len() < 3 { format!("{found}; a majority that outlives one needs 3") } else { found };
        Finding::warning(CHECK, found, advice)
    } else {
        Finding::ok(CHECK, found)
    }
}

fn cluster(lost_seeds: &[(String, String)], seeds: usize, state: Option<&str>, owned: usize) -> Finding {
    const CHECK: &str = "redis.cluster";
    let mut found = format!("state {}, {owned} of {CLUSTER_SLOTS} slots are owned", state.unwrap_or("not told"));
    if !lost_seeds.is_empty() {
        let lost: Vec<_> = lost_seeds.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        found = format!("{found}; {} of {seeds} hosts of the URL do not answer: {}", lost.len(), lost.join("; "));
    }
    if owned < CLUSTER_SLOTS || state.is_some_and(|state| state != "ok") {
        let advice = "give every slot an owner (`redis-cli --cluster check`, `--cluster fix`): tenants of the others cannot be served";
        return Finding::fault(CHECK, found, advice);
    }
    if !lost_seeds.is_empty() {
        return Finding::warning(CHECK, found, "bring them back, or name others in the URL: a replica starts by them");
    }
    Finding::ok(CHECK, found)
}

fn policy(server: &RedisServer) -> Verdict {
    let set = "set `maxmemory-policy noeviction` in redis.conf, and now by CONFIG SET; a replica is not ready before";
    match server.policy.as_deref() {
        Some("noeviction") => (Outcome::Ok, "maxmemory-policy is noeviction".to_owned(), ""),
        Some(other) => (Outcome::Fault, format!("maxmemory-policy is {other}: it would evict live leases"), set),
        None => {
            let found = "it does not tell its maxmemory-policy, by INFO or by CONFIG GET".to_owned();
            (Outcome::Fault, found, "give the login +info: a replica is not ready before")
        }
    }
}

fn memory(server: &RedisServer) -> Verdict {
    let memory = server.memory;
    let (most, of) =
        if memory.most > 0 { (memory.most, "maxmemory") } else { (memory.machine, "the machine's memory") };
    let found = match memory.used.saturating_mul(100).checked_div(most) {
        Some(per_cent) => format!("{} MiB are used, {per_cent} % of {of}", memory.used >> 20),
        None => format!("{} MiB are used, of how many it does not tell", memory.used >> 20),
    };
    if most > 0 && memory.used.saturating_mul(100) >= most.saturating_mul(FULL_PER_CENT) {
        let advice = "raise maxmemory, or find who else keeps keys there: at its limit nobody is admitted";
        return (Outcome::Warning, found, advice);
    }
    (Outcome::Ok, found, "")
}

/// What is lost when the server ends: leases come back by renewal, and what only Redis held yet does not.
fn persistence(server: &RedisServer) -> Verdict {
    let persistence = &server.persistence;
    if persistence.is_failing {
        let found =
            "its last attempt to write to its disk failed; it may refuse writes, and a restart loses what it holds";
        return (Outcome::Fault, found.to_owned(), "see Redis's log, and its disk's room and rights");
    }
    let lost = "new calls then wait for one lease while live ones come back by renewal, and what the database had not \
        yet been given of calls that began or ended is lost";
    let on = "set `appendonly yes` (with `appendfsync everysec`) in redis.conf";
    match (persistence.aof, persistence.snapshots) {
        (Some(true), _) => {
            let most = match persistence.fsync.as_deref() {
                Some("always") => "a crash of the machine loses nothing that was answered",
                Some("no") => "a crash of the machine loses what its system had not written, some 30 s",
                _ => "a crash of the machine loses a second at most",
            };
            (Outcome::Ok, format!("the append-only file is on: {most}"), "")
        }
        (Some(false), Some(true)) => {
            (Outcome::Warning, format!("it takes snapshots alone: a restart loses all since the last; {lost}"), on)
        }
        (Some(false), Some(false)) => (Outcome::Warning, format!("it keeps nothing: a restart loses all; {lost}"), on),
        (Some(false), None) => {
            (Outcome::Warning, format!("it has no append-only file: a restart loses what it holds; {lost}"), on)
        }
        (None, _) => {
            let found = "it does not tell whether it keeps anything".to_owned();
            (Outcome::Warning, found, "give the login +info, or see `appendonly` in redis.conf")
        }
    }
}

fn replication(server: &RedisServer) -> Verdict {
    let it = server.replication;
    if it.is_replica {
        let advice = "name its master, or the sentinels by redis+sentinel://…/master";
        return (Outcome::Fault, "it is a replica, which cannot be written".to_owned(), advice);
    }
    let has = format!("it is a master with {} replicas", it.replicas);
    let fence = "set `min-replicas-to-write 1` and `min-replicas-max-lag 2`";
    match (it.replicas, it.needed) {
        (_, Some(needed)) if needed > 0 && it.good < needed => {
            let found =
                format!("{has}, {} of them near enough, and refuses to write with fewer than {needed}", it.good);
            (Outcome::Fault, found, "bring its replicas back, and see their lag")
        }
        (0, _) => (Outcome::Ok, has, ""),
        (_, Some(0)) => {
            let found = format!("{has}; one that is cut off from them goes on granting until it notices");
            (Outcome::Warning, found, fence)
        }
        (_, Some(needed)) => (Outcome::Ok, format!("{has}, and writes only with {needed} of them"), ""),
        (_, None) => (Outcome::Ok, format!("{has}; min-replicas-to-write is not told to this login"), ""),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::redis::examine::{Memory, Persistence, Replication};

    fn a_server() -> RedisServer {
        RedisServer {
            version: "7.0.15".to_owned(),
            policy: Some("noeviction".to_owned()),
            memory: Memory { used: 10, most: 100, machine: 1_000 },
            persistence: Persistence { aof: Some(true), fsync: None, snapshots: None, is_failing: false },
            replication: Replication { is_replica: false, replicas: 0, needed: Some(0), good: 0 },
            clock: ClockDifference { micros: 0, give_or_take: Duration::ZERO },
        }
    }

    fn outcomes(server: RedisServer) -> Vec<Outcome> {
        let found = RedisFound { form: RedisForm::One, servers: vec![("h:1".to_owned(), Ok(server))] };
        judge(&found).into_iter().map(|finding| finding.outcome).collect()
    }

    #[test]
    fn each_trait_of_a_server_is_judged_by_itself() {
        use Outcome::{Fault, Ok, Warning};
        let replication = |replicas, needed, good| Replication { is_replica: false, replicas, needed, good };
        let keeps = |aof, snapshots| Persistence { aof, snapshots, fsync: None, is_failing: false };
        let cases = [
            (a_server(), [Ok, Ok, Ok, Ok, Ok]),
            (RedisServer { version: "6.0.16".to_owned(), ..a_server() }, [Fault, Ok, Ok, Ok, Ok]),
            (RedisServer { version: String::new(), ..a_server() }, [Warning, Ok, Ok, Ok, Ok]),
            (RedisServer { policy: None, ..a_server() }, [Ok, Fault, Ok, Ok, Ok]),
            (
                RedisServer { memory: Memory { used: 80, most: 100, machine: 0 }, ..a_server() },
                [Ok, Ok, Warning, Ok, Ok],
            ),
            (
                RedisServer { memory: Memory { used: 80, most: 0, machine: 90 }, ..a_server() },
                [Ok, Ok, Warning, Ok, Ok],
            ),
            (RedisServer { memory: Memory { used: 80, most: 0, machine: 0 }, ..a_server() }, [Ok, Ok, Ok, Ok, Ok]),
            (RedisServer { persistence: keeps(Some(false), Some(true)), ..a_server() }, [Ok, Ok, Ok, Warning, Ok]),
            (RedisServer { persistence: keeps(None, None), ..a_server() }, [Ok, Ok, Ok, Warning, Ok]),
            (RedisServer { replication: replication(2, Some(0), 0), ..a_server() }, [Ok, Ok, Ok, Ok, Warning]),
            (RedisServer { replication: replication(2, Some(1), 2), ..a_server() }, [Ok, Ok, Ok, Ok, Ok]),
            (RedisServer { replication: replication(0, Some(1), 0), ..a_server() }, [Ok, Ok, Ok, Ok, Fault]),
        ];
        for (server, expected) in cases {
            let described = format!("{server:?}");
            assert_eq!(outcomes(server), expected, "{described}");
        }
    }

    #[test]
    fn servers_that_differ_are_named() {
        let other = RedisServer { policy: Some("allkeys-lru".to_owned()), ..a_server() };
        let servers = vec![("h:1".to_owned(), Ok(a_server())), ("h:2".to_owned(), Ok(other))];
        let found = RedisFound { form: RedisForm::One, servers };
        let finding = of_all("redis.policy", &found, policy).expect("servers answer");
        assert_eq!(finding.outcome, Outcome::Fault);
        assert!(finding.found.starts_with("h:2: maxmemory-policy is allkeys-lru"), "{finding:?}");
        assert!(finding.found.contains("h:1: maxmemory-policy is noeviction"), "{finding:?}");
    }

    #[test]
    fn sentinels_need_a_majority_that_agrees() {
        let word = |word: Result<&str, &str>| ("s".to_owned(), word.map(str::to_owned).map_err(str::to_owned));
        let of =
            |words: &[Result<&str, &str>]| sentinels(&words.iter().map(|it| word(*it)).collect::<Vec<_>>()).outcome;
        assert_eq!(of(&[Ok("a"); 3]), Outcome::Ok);
        assert_eq!(of(&[Ok("a"), Ok("a"), Err("away")]), Outcome::Warning);
        assert_eq!(of(&[Ok("a"), Ok("a"), Ok("b")]), Outcome::Warning);
        assert_eq!(of(&[Ok("a"); 2]), Outcome::Warning);
        assert_eq!(of(&[Ok("a"), Err("away"), Err("away")]), Outcome::Fault);
    }

    #[test]
    fn a_cluster_needs_an_owner_of_every_slot() {
        let lost = [("s:1".to_owned(), "away".to_owned())];
        assert_eq!(cluster(&[], 3, Some("ok"), CLUSTER_SLOTS).outcome, Outcome::Ok);
        assert_eq!(cluster(&lost, 3, None, CLUSTER_SLOTS).outcome, Outcome::Warning);
        assert_eq!(cluster(&[], 3, Some("fail"), CLUSTER_SLOTS).outcome, Outcome::Fault);
        assert_eq!(cluster(&[], 3, Some("ok"), CLUSTER_SLOTS - 1).outcome, Outcome::Fault);
    }
}
