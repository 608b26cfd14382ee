//! Machines of a test's own: network namespaces with cables between them, which can be cut.
//!
//! The test runs once more, in a process that has a network of its own ([`in_a_network_of_its_own`]), so nothing is changed
//! on this machine's; what hangs on it ends with that process. It takes root or user namespaces, and `ip`. Where the
//! machine allows neither, the test says so and goes on with what it has.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU8, Ordering},
    },
};

use super::{
    process::{Process, find_program},
    redis::Place,
};

/// Set in the process that has a network of its own.
const INSIDE: &str = "VOXGATE_TEST_NETWORK";

/// How `unshare` makes a network here, if it may.
static MAKING: LazyLock<Option<&'static [&'static str]>> = LazyLock::new(|| {
    let ways: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    let may = |way: &&&[&str]| {
        let cable = ["link", "add", "near", "type", "veth", "peer", "name", "far"];
        let tried = Command::new("unshare").args(**way).arg(ip()).args(cable).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    ways.iter().find(may).copied()
});

fn ip() -> PathBuf {
    find_program(&["ip"], &["/sbin".into(), "/usr/sbin".into()], "apt-get install iproute2")
}

/// Whether this process has a network of its own.
pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs the test of this name in a network of its own and answers true; or false where it is to go on here: it is in there
/// already, or the machine allows no such network.
pub(crate) fn in_a_network_of_its_own(test: &str) -> bool {
    if inside() {
        return false;
    }
    let Some(way) = *MAKING else {
        println!("{test}: this machine allows no network namespaces, so a proxy cuts the network");
        return false;
    };
    let mut command = Command::new("unshare");
    command.args(way).args(["sh", "-c", "\"$0\" link set lo up && exec \"$@\""]).arg(ip());
    command.arg(std::env::current_exe().expect("this test")).args(["--exact", test, "--nocapture"]);
    let ran = command.env(INSIDE, "1").output().expect("unshare runs");
    let (said, faults) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    println!("{said}");
    assert!(ran.status.success() && said.contains("1 passed"), "in a network of its own: {faults}");
    true
}

/// A machine; what it runs ends with the test.
#[derive(Debug)]
pub(crate) struct Host {
    keeper: Process,
}

/// Between two machines, with an address for each.
#[derive(Debug)]
pub(crate) struct Cable {
    end: String,
    host: u32,
    /// Of the first.
    pub(crate) address: String,
}

impl Host {
    pub(crate) fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]);
        Self { keeper: Process::start(Process::folder("host"), &command) }
    }

    /// Where a server runs that is to be on it, reached by a cable to here.
    pub(crate) fn place(&self, cable: &Cable) -> Place {
        let runner = vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.keeper.pid())];
        Place { address: cable.address.clone(), bind: "0.0.0.0".to_owned(), runner }
    }

    /// Lays a cable to another one, or to the test.
    pub(crate) fn cable(&self, other: Option<&Self>) -> Cable {
        static LAID: AtomicU8 = AtomicU8::new(0);
        let number = LAID.fetch_add(1, Ordering::Relaxed);
        let (near, far) = (format!("near{number}"), format!("far{number}"));
        let own = self.keeper.pid();
        let there = other.map_or_else(std::process::id, |other| other.keeper.pid());
        let mut ends = Command::new(ip());
        ends.args(["link", "add", &near, "netns", &own.to_string(), "type", "veth"]);
        run(ends.args(["peer", "name", &far, "netns", &there.to_string()]));
        let address = format!("10.77.{number}.1");
        for (pid, end, address) in [(own, &near, address.clone()), (there, &far, format!("10.77.{number}.2"))] {
            on(pid, &["address", "add", &format!("{address}/30"), "dev", end]);
            on(pid, &["link", "set", end, "up"]);
        }
        Cable { end: near, host: own, address }
    }
}

impl Cable {
    /// Nothing passes any more, and nobody is told.
    pub(crate) fn cut(&self) {
        on(self.host, &["link", "set", &self.end, "down"]);
    }

    pub(crate) fn mend(&self) {
        on(self.host, &["link", "set", &self.end, "up"]);
    }
}

/// `ip` on the machine of a process.
fn on(pid: u32, words: &[&str]) {
    run(Command::new("nsenter").arg(format!("--net=/proc/{pid}/ns/net")).arg(ip()).args(words));
}

fn run(command: &mut Command) {
    let ran = command.output().expect("it runs");
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
