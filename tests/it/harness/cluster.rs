//! A Redis cluster of three servers, whose slots are moved by hand.

use std::time::Duration;

use deadpool_redis::redis::FromRedisValue;

use super::{
    process::{free_port, wait_for},
    redis::{PrivateRedis, ask},
};

const SLOTS: u16 = 16_384;

#[derive(Debug)]
pub(crate) struct ClusterSet {
    servers: Vec<PrivateRedis>,
}

impl ClusterSet {
    pub(crate) fn start() -> Self {
        let server = |_| {
            // The bus has a port of its own; by default it is 10,000 above, which may be none.
            let bus = free_port().to_string();
            PrivateRedis::start_with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus,
                "--cluster-node-timeout",
                "2000",
                "--cluster-require-full-coverage",
                "no",
            ])
        };
        let cluster = Self { servers: (0..3).map(server).collect() };
        let share = SLOTS / 3 + 1;
        for (place, server) in (0..).zip(&cluster.servers) {
            let (first, last) = ((place * share).to_string(), ((place + 1) * share - 1).min(SLOTS - 1).to_string());
            cluster.tell(place.into(), &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            cluster.tell(place.into(), &["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
            let (port, bus) = (server.port().to_string(), cluster.bus_port(place.into()));
            cluster.tell(0, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        wait_for("the cluster to be in order", Duration::from_secs(30), || {
            let agree = (0..3).all(|place| {
                let info: String = cluster.ask(place, &["CLUSTER", "INFO"]);
                let slots: Vec<deadpool_redis::redis::Value> = cluster.ask(place, &["CLUSTER", "SLOTS"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3") && slots.len() == 3
            });
            agree.then_some(())
        });
        cluster
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    pub(crate) fn servers(&self) -> &[PrivateRedis] {
        &self.servers
    }

    pub(crate) fn ask<T: FromRedisValue>(&self, place: usize, words: &[&str]) -> T {
        let url = format!("redis://127.0.0.1:{}", self.servers[place].port());
        ask(&url, words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn tell(&self, place: usize, words: &[&str]) {
        let _: deadpool_redis::redis::Value = self.ask(place, words);
    }

    fn bus_port(&self, place: usize) -> String {
        self.ask::<Vec<String>>(place, &["CONFIG", "GET", "cluster-port"]).pop().expect("it is told")
    }

    /// The place of the slot's owner, by that owner's own word.
    pub(crate) fn owner(&self, slot: u16) -> usize {
        let owns = |place: &usize| {
            let nodes: String = self.ask(*place, &["CLUSTER", "NODES"]);
            let mine = nodes.lines().find(|line| line.contains("myself")).expect("it knows itself");
            mine.split_whitespace().skip(8).filter(|word| !word.starts_with('[')).any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let number = |text: &str| text.parse::<u16>().expect("a slot");
                (number(first)..=number(last)).contains(&slot)
            })
        };
        (0..self.servers.len()).find(owns).expect("somebody owns it")
    }

    /// Waits until a server has heard of every epoch. It takes the next one when it takes a slot over; if that were none,
    /// a message that is on its way would take the slot back, which servers that are told one move after the other see.
    fn wait_for_epochs(&self, place: usize) {
        let epoch = |place: usize, name: &str| -> u64 {
            let info: String = self.ask(place, &["CLUSTER", "INFO"]);
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("it is told");
            line.trim().parse().expect("a number")
        };
        wait_for("epochs to be known", Duration::from_secs(30), || {
            let newest = (0..self.servers.len()).map(|other| epoch(other, "cluster_my_epoch")).max();
            (Some(epoch(place, "cluster_current_epoch")) >= newest).then_some(())
        });
    }

    /// Moves a slot with its keys, a few keys at a time, as `redis-cli --cluster reshard` does.
    pub(crate) fn move_slot(&self, slot: u16, to: usize) -> usize {
        let from = self.owner(slot);
        self.wait_for_epochs(to);
        let id = |place| self.ask::<String>(place, &["CLUSTER", "MYID"]);
        let (source, target, number) = (id(from), id(to), slot.to_string());
        self.tell(to, &["CLUSTER", "SETSLOT", &number, "IMPORTING", &source]);
        self.tell(from, &["CLUSTER", "SETSLOT", &number, "MIGRATING", &target]);
        let port = self.servers[to].port().to_string();
        let mut moved = 0;
        loop {
            let keys: Vec<String> = self.ask(from, &["CLUSTER", "GETKEYSINSLOT", &number, "2"]);
            if keys.is_empty() {
                break;
            }
            moved += keys.len();
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            self.tell(from, &migrate);
        }
        // The target first: if it did not hear of it, nobody would own the slot.
        for place in [to, from].into_iter().chain((0..self.servers.len()).filter(|place| ![to, from].contains(place))) {
            self.tell(place, &["CLUSTER", "SETSLOT", &number, "NODE", &target]);
        }
        moved
    }
}
