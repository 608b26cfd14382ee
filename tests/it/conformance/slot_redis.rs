//! What only the Redis back-end has: scripts that can be forgotten, keys that must end, a server that can go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::redis::{self, AsyncConnectionConfig, FromRedisValue};
use futures_util::{StreamExt as _, future::join_all, stream};
use secrecy::{ExposeSecret as _, SecretString};
use voxgate::{
    admission::{RedisSlotStore, SlotStore, SteadySlots},
    domain::{
        Error,
        clock::SystemClock,
        error::Dependency,
        ids::TenantId,
        lease::{Acquire, Acquired, Direction, Limits},
    },
    redis::{Redis as SharedRedis, RedisSettings},
};

use super::slot_fixture::{Caller, Fixture as _, Redis, call, limit, renewal, secs, steady, ticket};
use crate::harness::{
    process::free_port,
    redis::{PrivateRedis, patient},
};

pub(crate) async fn raw<T: FromRedisValue>(server: &PrivateRedis, command: &[&str]) -> T {
    let client = redis::Client::open(server.url().expose_secret()).expect("a URL");
    // Some of what tests ask takes a while.
    let patient = AsyncConnectionConfig::new().set_response_timeout(Some(secs(30)));
    let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.expect("it answers");
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.expect("it obeys")
}

fn store_at(url: &SecretString) -> Arc<SteadySlots> {
    let store = RedisSlotStore::new(SharedRedis::connect(url, patient()).expect("a URL"));
    steady(Arc::new(store), Arc::new(SystemClock))
}

fn is_unavailable(error: &Error) -> bool {
    matches!(error, Error::Unavailable(Dependency::SlotStore, Some(_)))
}

/// What is asked for together goes to Redis in few scripts, and what is refused there harms none of the others.
#[tokio::test]
async fn grants_that_are_asked_for_together_go_together_and_succeed_or_fail_one_by_one() {
    let redis = Redis::start();
    let caller = Caller::of(redis.store());
    let agents: Vec<_> = (0..7).map(|_| caller.agent()).collect();
    caller.tenant_used().await;
    raw::<()>(&redis.server, &["CONFIG", "RESETSTAT"]).await;
    let ask = async |n: usize| {
        let request = caller.ask(agents[n % agents.len()], &format!("call-{n}"));
        let limits = Limits { agent_limit: 10, ..request.limits };
        // No lease can be that short: a mistake that the edge would have refused.
        let ttl = if n % 10 == 9 { Duration::ZERO } else { request.ttl };
        caller.store.acquire(caller.tenant, &Acquire { ttl, limits, ..request }).await
    };
    let answers = join_all((0..200).map(ask)).await;
    let (mut leases, mut denied, mut wrong) = (Vec::new(), 0, 0);
    for answer in answers {
        match answer {
            Ok(Acquired::Granted { lease, .. }) => leases.push(lease),
            Ok(Acquired::Denied(_)) => denied += 1,
            Err(Error::Internal(why)) if why.to_string().contains("bad lease_ttl_ms") => wrong += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((leases.len(), denied, wrong), (70, 110, 20));
    let released = join_all(leases.iter().map(|lease| caller.release(lease))).await;
    assert!(released.iter().all(|released| released.released));
    assert_eq!(caller.tenant_used().await, 0);
    let stats: String = raw(&redis.server, &["INFO", "commandstats"]).await;
    let calls = |name: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.map_or(0, |line| line.split(',').next().expect("a number").parse::<u32>().expect("a number"))
    };
    let scripts = calls("eval") + calls("evalsha");
    println!("200 acquires and 70 releases in {scripts} scripts");
    assert!(scripts < 100, "{scripts}");
}

#[tokio::test]
async fn forgotten_scripts_are_invisible() {
    let redis = Redis::start();
    let caller = Caller::of(redis.store());
    let agent = caller.agent();
    for n in 0..20 {
        raw::<()>(&redis.server, &["SCRIPT", "FLUSH"]).await;
        let lease = caller.grant(&caller.ask(agent, &format!("call-{n}"))).await;
        raw::<()>(&redis.server, &["SCRIPT", "FLUSH"]).await;
        caller.renew(&lease, 60).await;
        raw::<()>(&redis.server, &["SCRIPT", "FLUSH"]).await;
        assert!(caller.release(&lease).await.released);
    }
}

#[tokio::test]
async fn every_key_expires() {
    let redis = Redis::start();
    for tenant in 0..5 {
        let caller = Caller::of(redis.store());
        for n in 0..40 {
            let agent = caller.agent();
            let ask = caller.ask(agent, &format!("call-{n}"));
            let direction = if n % 2 == 0 { Direction::Inbound } else { Direction::Outbound };
            let lease = caller.grant(&Acquire { direction, ttl: secs(300), ..ask }).await;
            match n % 4 {
                0 => assert!(caller.release(&lease).await.released),
                1 => drop(caller.renew(&lease, 300).await),
                2 => drop(caller.denial(&Acquire { limits: limit(0), ..caller.ask(caller.agent(), "none") }).await),
                // A set that is made while the agent's other one is long in use.
                _ => drop(caller.grant(&caller.ask(agent, &format!("inbound-{n}"))).await),
            }
        }
        assert!(caller.tenant_used().await > 0, "tenant {tenant}");
    }
    let keys: Vec<String> = raw(&redis.server, &["KEYS", "*"]).await;
    assert!(keys.len() > 200, "{}", keys.len());
    for key in &keys {
        let ttl_ms: i64 = raw(&redis.server, &["PTTL", key]).await;
        assert!(ttl_ms > 0, "{key} never expires");
    }
    redis.advance(secs(800));
    let deadline = Instant::now() + secs(10);
    while raw::<u64>(&redis.server, &["DBSIZE"]).await > 0 {
        assert!(Instant::now() < deadline, "keys are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What there is for long is a tenant's books and its limits, 12 minutes after their last use, and what the database has
/// not got yet of a session, a day; without a draft there is none of that here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_agents_that_had_a_call_leave_no_key_behind() {
    const TENANTS: usize = 100;
    const AGENTS: usize = 1_000;
    const IN_FLIGHT: usize = 256;
    let redis = Redis::start();
    let start = Instant::now();
    let callers: Vec<_> = (0..TENANTS).map(|_| Caller::of(redis.store())).collect();
    let lives = (0..TENANTS * AGENTS).map(|n| {
        let (caller, name) = (callers[n % TENANTS].clone(), format!("call-{n}"));
        async move {
            let agent = caller.agent();
            let direction = if n % 3 == 0 { Direction::Inbound } else { Direction::Outbound };
            let ask = |name: &str| Acquire { direction, limits: limit(1), ..caller.ask(agent, name) };
            let lease = caller.grant(&ask(&name)).await;
            if n % 100 == 0 {
                caller.wait(&ticket(ask(&format!("{name}-waits")), caller.replica())).await;
            }
            // The others' run out.
            if n % 2 == 0 {
                assert!(caller.release(&lease).await.released);
            }
        }
    });
    stream::iter(lives)
        .map(tokio::spawn)
        .buffer_unordered(IN_FLIGHT)
        .for_each(async |life| life.expect("admitted"))
        .await;
    let keys = raw::<u64>(&redis.server, &["DBSIZE"]).await;
    println!("{} agents left {keys} keys in {:?}", TENANTS * AGENTS, start.elapsed());
    // Each has its limits, and those whose lease was not released its set.
    assert!(keys > 150_000, "{keys}");
    let longest = "local longest = 0 for _, key in ipairs(redis.call('KEYS', '*')) do local ttl = redis.call('PTTL', key) \
                   if ttl < 0 then return key .. ' never expires' end longest = math.max(longest, ttl) end \
                   return tostring(longest)";
    let longest: String = raw(&redis.server, &["EVAL", longest, "0"]).await;
    assert!(longest.parse::<u64>().is_ok_and(|ms| ms < 720_000), "{longest}");

    redis.advance(secs(65));
    for caller in &callers {
        assert_eq!(caller.tenant_used().await, 0, "a lease outlived its time");
    }
    redis.advance(secs(720));
    let expiring = Instant::now();
    while raw::<u64>(&redis.server, &["DBSIZE"]).await > 0 {
        assert!(expiring.elapsed() < secs(30), "keys are left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("and all were gone {:?} after their time", expiring.elapsed());
}

#[tokio::test]
async fn all_keys_of_a_tenant_lie_in_one_hash_slot() {
    let server = PrivateRedis::shared();
    let caller = Caller::of(store_at(&server.url()));
    for n in 0..5 {
        let lease = caller.grant(&caller.ask(caller.agent(), &format!("call-{n}"))).await;
        caller.renew(&lease, 60).await;
    }
    let tag = format!("vg:{{{}}}:", caller.tenant);
    let keys: Vec<String> = raw(server, &["KEYS", &format!("*{}*", caller.tenant)]).await;
    assert_eq!(keys.len(), 3 + 5 * 2);
    assert!(keys.iter().all(|key| key.starts_with(&tag)), "{keys:?}");
}

#[tokio::test]
async fn what_has_expired_is_removed_a_bounded_number_a_call() {
    let redis = Redis::start();
    let caller = Caller::of(redis.store());
    let agent = caller.agent();
    let ask = |name: &str| Acquire { limits: limit(1_000), ..caller.ask(agent, name) };
    let asks: Vec<_> = (0..1_000).map(|n| ask(&format!("call-{n}"))).collect();
    join_all(asks.iter().map(|ask| caller.grant(ask))).await;
    redis.advance(secs(60));
    let left = async || raw::<i64>(&redis.server, &["ZCARD", &format!("vg:{{{}}}:leases", caller.tenant)]).await;
    let (mut before, mut calls) = (left().await, 0);
    let nobody = Limits { agent_version: 2, ..limit(0) };
    while before > 0 {
        caller.denial(&Acquire { limits: nobody, ..ask("no") }).await;
        let after = left().await;
        assert!((0..=100).contains(&(before - after)), "{before} became {after}");
        (before, calls) = (after, calls + 1);
        assert!(calls < 2_000, "{after} are left after {calls} calls");
    }
    assert!(calls >= 10, "{calls}");
    assert_eq!(raw::<i64>(&redis.server, &["HLEN", &format!("vg:{{{}}}:calls", caller.tenant)]).await, 0);
}

#[tokio::test]
async fn a_lease_costs_few_bytes() {
    let redis = Redis::start();
    let caller = Caller::of(redis.store());
    let used = async || {
        let info: String = raw(&redis.server, &["INFO", "memory"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("it is told").to_owned();
        line.trim().parse::<u64>().expect("a number")
    };
    caller.grant(&caller.ask(caller.agent(), "warm")).await;
    let before = used().await;
    let (agents, each) = (100, 100);
    for agent in 0..agents {
        let id = caller.agent();
        let asks: Vec<_> = (0..each)
            .map(|n| Acquire { limits: limit(each), ..caller.ask(id, &format!("{agent:08x}-1111-4111-8111-{n:012x}")) })
            .collect();
        join_all(asks.iter().map(|ask| caller.grant(ask))).await;
    }
    let each_lease = (used().await - before) / u64::from(agents * each);
    println!("{each_lease} bytes a lease");
    assert!(each_lease <= 400, "{each_lease} bytes a lease");
}

#[tokio::test]
async fn a_waiter_costs_few_bytes_and_leaves_no_key_that_does_not_expire() {
    let redis = Redis::start();
    let caller = Caller::of(redis.store());
    let (agent, replica) = (caller.agent(), caller.replica());
    let ask = |name: &str| Acquire { limits: limit(1), ..caller.ask(agent, name) };
    let used = async || {
        let info: String = raw(&redis.server, &["INFO", "memory"]).await;
        let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).expect("it is told").to_owned();
        line.trim().parse::<u64>().expect("a number")
    };
    let holder = caller.grant(&ask("holder")).await;
    caller.wait(&ticket(ask("warm"), replica)).await;
    let (before, waiters) = (used().await, 2_000);
    for n in 0..waiters {
        caller.wait(&ticket(ask(&format!("00000000-1111-4111-8111-{n:012x}")), replica)).await;
    }
    let each = (used().await - before) / waiters;
    println!("{each} bytes a waiter");
    assert!(each <= 500, "{each} bytes a waiter");
    // A wake that nobody fetches, too.
    caller.release(&holder).await;
    let keys: Vec<String> = raw(&redis.server, &["KEYS", "*"]).await;
    assert!(keys.iter().any(|key| key.ends_with(":woken")), "{keys:?}");
    for key in &keys {
        let ttl_ms: i64 = raw(&redis.server, &["PTTL", key]).await;
        assert!(ttl_ms > 0, "{key} never expires");
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_one_is_refused_and_not_shown() {
    let error = SharedRedis::connect(&"http://:hunter2@nowhere".to_owned().into(), RedisSettings::default());
    let error = error.expect_err("not a Redis URL");
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn an_unreachable_redis_is_no_error_until_it_is_asked_and_then_a_quick_one() {
    let store = store_at(&format!("redis://127.0.0.1:{}", free_port()).into());
    let start = Instant::now();
    for _ in 0..200 {
        assert!(is_unavailable(&store.ping().await.expect_err("nobody is there")));
    }
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_bug_of_ours_is_not_called_an_outage() {
    let redis = Redis::start();
    let caller = Caller::of(redis.store());
    raw::<()>(&redis.server, &["SET", &format!("vg:{{{}}}:calls", caller.tenant), "not a hash"]).await;
    let request = caller.ask(caller.agent(), "call");
    let error = caller.store.acquire(caller.tenant, &request).await.expect_err("it cannot work");
    assert!(matches!(error, Error::Internal(_)), "{error:?}");
    let zero = Acquire { ttl: Duration::ZERO, ..request };
    let error = caller.store.acquire(TenantId::new(&caller.env), &zero).await;
    assert!(matches!(error, Err(Error::Internal(_))), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_hangs_callers_fail_fast_and_recover_with_it() {
    let server = PrivateRedis::start();
    let settings = RedisSettings { command_timeout_ms: 200, connect_timeout_ms: 200, ..RedisSettings::default() };
    let store = RedisSlotStore::new(SharedRedis::connect(&server.url(), settings).expect("a URL"));
    store.ping().await.expect("it answers");
    server.signal("STOP");
    assert!(is_unavailable(&store.ping().await.expect_err("it hangs")));
    assert!(is_unavailable(&store.ping().await.expect_err("it hangs")));
    let start = Instant::now();
    let pings = join_all((0..50).map(|_| store.ping())).await;
    assert!(pings.iter().all(Result::is_err));
    assert!(start.elapsed() < secs(1), "one after the other would take ten: {:?}", start.elapsed());
    server.signal("CONT");
    let deadline = Instant::now() + secs(2);
    while store.ping().await.is_err() {
        assert!(Instant::now() < deadline, "it was not found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_is_found_again_within_two_seconds_of_its_restart() {
    let server = PrivateRedis::start();
    let caller = Caller::of(store_at(&server.url()));
    let agent = caller.agent();
    // It starts empty, so what it answers from then on is that it recovers.
    let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let worker = async |worker: u32| {
        for round in 0.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let ask = Acquire { limits: limit(1_000), ..caller.ask(agent, &format!("call-{worker}-{round}")) };
            match caller.store.acquire(caller.tenant, &ask).await {
                Ok(Acquired::Granted { lease, .. }) => {
                    answered.fetch_add(1, Ordering::Relaxed);
                    match caller.store.release(caller.tenant, &lease.call, lease.id).await {
                        Ok(_) => {}
                        Err(error) => assert!(is_unavailable(&error), "{error:?}"),
                    }
                }
                Err(Error::Recovering { .. }) => {
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => {
                    assert!(is_unavailable(&error), "{error:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    };
    let restarts = async {
        let answers = async |more: u32| {
            answered.store(0, Ordering::Relaxed);
            let asked = Instant::now();
            while answered.load(Ordering::Relaxed) < more {
                assert!(asked.elapsed() < secs(20), "not found again");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            asked.elapsed()
        };
        let mut took = Vec::new();
        for _ in 0..3 {
            answers(64).await;
            tokio::task::block_in_place(|| server.kill());
            tokio::time::sleep(Duration::from_millis(200)).await;
            tokio::task::block_in_place(|| server.restart());
            took.push(answers(64).await);
        }
        done.store(true, Ordering::Relaxed);
        assert!(took.iter().all(|it| *it < secs(2)), "{took:?}");
    };
    tokio::join!(restarts, join_all((0..64).map(worker)));
    // A tenant that has lost nothing is served at once.
    let caller = Caller::of(caller.store.clone());
    let agent = caller.agent();
    let lease = caller.grant(&caller.ask(agent, "call")).await;
    assert_eq!(caller.leases(&[call("call")]).await, [Some(lease.clone())]);
    caller.renew_all(&[renewal(&lease, 60)]).await;
}
