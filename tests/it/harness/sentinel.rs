//! Three Redis servers, one of them the master, and three sentinels that watch them, all behind passwords.

use std::{fs, process::Command, time::Duration};

use super::{
    process::{Process, find_program, free_port, wait_for},
    redis::{PrivateRedis, ask},
};

const MASTER: &str = "main";
const PASSWORD: &str = "of-the-servers";
const SENTINEL_PASSWORD: &str = "of-the-sentinels";

#[derive(Debug)]
pub(crate) struct SentinelSet {
    servers: Vec<PrivateRedis>,
    sentinels: Vec<(u16, Process)>,
}

impl SentinelSet {
    /// The master writes only while it has `min_replicas` of the two others.
    pub(crate) fn start(min_replicas: usize) -> Self {
        let first = free_port();
        let server = |port: u16| {
            let replicas = min_replicas.to_string();
            let mut args = vec!["--requirepass", PASSWORD, "--masterauth", PASSWORD];
            args.extend(["--min-replicas-to-write", &replicas, "--min-replicas-max-lag", "2"]);
            args.extend(["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]);
            let of = format!("127.0.0.1 {first}");
            if port != first {
                args.extend(["--replicaof", &of]);
            }
            PrivateRedis::start_at(port, &args)
        };
        let servers: Vec<_> = [first, free_port(), free_port()].into_iter().map(server).collect();
        let set = Self { sentinels: (0..3).map(|_| sentinel(first)).collect(), servers };
        wait_for("the sentinels to know each other and both replicas", Duration::from_secs(30), || {
            let all = set.sentinels.iter().all(|(port, _)| {
                let knows = |what: &str| said(*port, what).and_then(|text| text.parse().ok()) == Some(2_usize);
                knows("num-slaves") && knows("num-other-sentinels")
            });
            all.then_some(())
        });
        wait_for("the master to have its replicas", Duration::from_secs(30), || {
            let info: String = Self::ask_server(first, &["INFO", "replication"])?;
            (info.matches("state=online").count() == 2).then_some(())
        });
        set
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        let hosts = hosts.join(",");
        format!("redis+sentinel://:{PASSWORD}@{hosts}/{MASTER}?sentinel_password={SENTINEL_PASSWORD}")
    }

    /// The port of the one that the sentinels call the master.
    pub(crate) fn master(&self) -> u16 {
        let told = said(self.sentinels[0].0, "port").expect("a sentinel answers");
        told.parse().expect("a port")
    }

    pub(crate) fn server(&self, port: u16) -> &PrivateRedis {
        self.servers.iter().find(|server| server.port() == port).expect("one of ours")
    }

    pub(crate) fn ask_server<T: deadpool_redis::redis::FromRedisValue>(port: u16, words: &[&str]) -> Option<T> {
        ask(&format!("redis://:{PASSWORD}@127.0.0.1:{port}"), words).ok()
    }

    /// Has the sentinels make another one the master, in good order.
    pub(crate) fn fail_over(&self) {
        let url = format!("redis://:{SENTINEL_PASSWORD}@127.0.0.1:{}", self.sentinels[0].0);
        let _: () = ask(&url, &["SENTINEL", "FAILOVER", MASTER]).expect("it obeys");
    }

    /// Waits until a server knows that it is a replica.
    pub(crate) fn wait_for_demotion(port: u16) {
        wait_for("a demotion", Duration::from_secs(30), || {
            let info: String = Self::ask_server(port, &["INFO", "replication"])?;
            info.contains("role:slave").then_some(())
        });
    }

    /// Waits until the sentinels name another master than `old`.
    pub(crate) fn wait_for_failover(&self, old: u16) -> u16 {
        wait_for("another master", Duration::from_secs(30), || Some(self.master()).filter(|port| *port != old))
    }
}

/// One field of what a sentinel says of the master.
fn said(sentinel: u16, field: &str) -> Option<String> {
    let url = format!("redis://:{SENTINEL_PASSWORD}@127.0.0.1:{sentinel}");
    let said: std::collections::HashMap<String, String> = ask(&url, &["SENTINEL", "MASTER", MASTER]).ok()?;
    said.get(field).cloned()
}

/// Debian has a package of its own for `redis-sentinel`; the server is the same program.
fn sentinel(master: u16) -> (u16, Process) {
    let (port, dir) = (free_port(), Process::folder("sentinel"));
    let config = format!(
        "port {port}\nbind 127.0.0.1\ndir {folder}\nrequirepass {SENTINEL_PASSWORD}\n\
         sentinel sentinel-pass {SENTINEL_PASSWORD}\n\
         sentinel monitor {MASTER} 127.0.0.1 {master} 2\nsentinel auth-pass {MASTER} {PASSWORD}\n\
         sentinel down-after-milliseconds {MASTER} 1000\nsentinel failover-timeout {MASTER} 5000\n\
         sentinel parallel-syncs {MASTER} 2\n",
        folder = dir.display()
    );
    let file = dir.join("sentinel.conf");
    fs::write(&file, config).expect("written");
    let mut command = Command::new(find_program(&["redis-server"], &[], "apt-get install redis-server"));
    command.arg(&file).arg("--sentinel");
    let process = Process::start(dir, &command);
    wait_for("a sentinel", Duration::from_secs(30), || {
        assert!(process.is_running(), "the sentinel ended: {}", process.log());
        said(port, "port")
    });
    (port, process)
}
