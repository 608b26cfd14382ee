//! What goes wrong, one thing at a time and no two alike.

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use super::{REPLICAS, Stage};
use crate::harness::{chaos::Way, process::pause, redis::ask};

#[derive(Debug)]
pub(super) struct Nemesis {
    random: SmallRng,
    done: Faults,
}

/// How often each was done.
#[derive(Debug, Default)]
pub(super) struct Faults(BTreeMap<&'static str, u32>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(|(fault, times)| format!("{times} {fault}")).collect();
        f.write_str(&all.join(", "))
    }
}

impl Nemesis {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(!seed), done: Faults::default() }
    }

    /// Until the run is over. What was broken is whole again then.
    pub(super) fn haunt(mut self, stage: &Stage) -> Faults {
        while !stage.is_over() {
            self.wait(50..700);
            let replica = self.random.random_range(0..REPLICAS);
            let fault = match self.random.random_range(0..16) {
                0 => self.kill(stage, replica),
                1 | 2 => self.stop(stage, replica),
                3..=5 => {
                    let _: () = ask(&stage.redis_url, &["SCRIPT", "FLUSH"]).expect("flushed");
                    "script flushes"
                }
                6..=8 => {
                    stage.replicas[replica].read().expect("nobody panicked").proxy.reset();
                    "resets"
                }
                9..=11 => self.mistreat(stage, replica, Way::Cut, 5..80, "spells of lost replies"),
                12 | 13 => {
                    self.mistreat(stage, replica, Way::Delay(Duration::from_millis(30)), 50..500, "spells of delay")
                }
                _ => self.mistreat(stage, replica, Way::Hold, 50..1_200, "silences"),
            };
            *self.done.0.entry(fault).or_default() += 1;
        }
        self.done
    }

    fn wait(&mut self, millis: std::ops::Range<u64>) {
        pause(Duration::from_millis(self.random.random_range(millis)));
    }

    fn mistreat(
        &mut self,
        stage: &Stage,
        replica: usize,
        way: Way,
        millis: std::ops::Range<u64>,
        name: &'static str,
    ) -> &'static str {
        let proxy = stage.replicas[replica].read().expect("nobody panicked").proxy.clone();
        // A request that never arrives is no reply that is lost, though it looks the same.
        if way != Way::Cut && self.random.random_bool(0.5) {
            proxy.to_server(way);
        } else {
            proxy.to_client(way);
        }
        self.wait(millis);
        proxy.heal();
        name
    }

    fn stop(&mut self, stage: &Stage, replica: usize) -> &'static str {
        stage.replicas[replica].read().expect("nobody panicked").server.signal("STOP");
        self.wait(100..1_500);
        stage.replicas[replica].read().expect("nobody panicked").server.signal("CONT");
        "pauses"
    }

    /// Another process takes the place of the killed one.
    fn kill(&mut self, stage: &Stage, replica: usize) -> &'static str {
        let proxy = {
            let killed = stage.replicas[replica].read().expect("nobody panicked");
            killed.server.kill();
            killed.proxy.clone()
        };
        self.wait(0..300);
        let started = Stage::replica(&stage.database, proxy, &stage.operator_key, &stage.key);
        *stage.replicas[replica].write().expect("nobody panicked") = started;
        "kills"
    }
}
