//! `voxgate node-sim` as a child process, which can be stopped and killed as a machine's could.

use super::{process::Process, server::voxgate, world::World};

#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) id: String,
    process: Process,
}

impl NodeProcess {
    pub(crate) fn start(world: &World, id: String) -> Self {
        Self::start_with(world, id, &[])
    }

    /// The same with more on its command line.
    pub(crate) fn start_with(world: &World, id: String, more: &[&str]) -> Self {
        Self::start_in(world, id, more, &[])
    }

    /// The same with a collector for its spans.
    pub(crate) fn start_traced(world: &World, id: String, collector: &str) -> Self {
        Self::start_in(world, id, &[], &[("VOXGATE_TRACES_ENDPOINT", collector)])
    }

    fn start_in(world: &World, id: String, more: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = Process::folder("node");
        let mut command = voxgate(&dir, env);
        command.args(["node-sim", "--endpoint", &world.addr, "--key", &world.key, "--node-id", &id]);
        command.args(world.sandbox.then_some("--sandbox")).args(more);
        command.current_dir(&dir);
        Self { process: Process::start(dir, &command), id }
    }

    /// Sends a signal by name: `KILL`, `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// The operations that it has carried out, once for each time.
    pub(crate) fn carried_out(&self) -> Vec<String> {
        let log = self.process.log();
        let done = log.lines().filter(|line| line.contains("a command was carried out"));
        let operation = |line: &str| line.split_once("operation.id=\"")?.1.split_once('"').map(|(id, _)| id.to_owned());
        done.map(|line| operation(line).expect("its operation")).collect()
    }

    /// What it has said of a call, in order.
    pub(crate) fn said_of(&self, call: &str) -> Vec<String> {
        self.process.log().lines().filter(|line| line.contains(call)).map(str::to_owned).collect()
    }
}
