//! Child processes that end with the test process, even when that one is killed.
//!
//! A small shell stands between: it holds the read end of a pipe from us and ends its child, then deletes the
//! folder, when the pipe closes. `Drop` and process death look the same to it.

use std::{
    fs,
    net::TcpListener,
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const GUARD: &str = r#"
dir=$1; shift
"$@" >"$dir/log" 2>&1 </dev/null &
pid=$!
echo "$pid" >"$dir/pid.new" && mv "$dir/pid.new" "$dir/pid"
cat >/dev/null
kill -CONT "$pid" 2>/dev/null
kill -TERM "$pid" 2>/dev/null
n=0
while kill -0 "$pid" 2>/dev/null && [ "$n" -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
kill -KILL "$pid" 2>/dev/null
rm -rf "$dir"
"#;

/// A running server with a folder of its own.
#[derive(Debug)]
pub(crate) struct Process {
    guard: Child,
    dir: PathBuf,
    pid: u32,
}

impl Process {
    /// A fresh folder for a process that is about to start.
    pub(crate) fn folder(name: &str) -> PathBuf {
        tempfile::Builder::new().prefix(&format!("voxgate-{name}-")).tempdir().expect("a temporary folder").keep()
    }

    /// Starts `command` (its stdout and stderr go to `dir/log`); `dir` is deleted with the process.
    pub(crate) fn start(dir: PathBuf, command: &Command) -> Self {
        let mut guard = Command::new("sh");
        guard.arg("-c").arg(GUARD).arg("guard").arg(&dir).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guard.env(key, value),
                None => guard.env_remove(key),
            };
        }
        if let Some(current) = command.get_current_dir() {
            guard.current_dir(current);
        }
        let guard = guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh starts");
        let pid = wait_for("the process id", Duration::from_secs(30), || {
            fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()
        });
        Self { guard, dir, pid }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Sends a signal by name: `KILL`, `STOP`, `CONT`, `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status();
        assert!(status.expect("kill runs").success(), "process {} took no {name}", self.pid);
    }

    /// The same, also to all processes that it has started.
    pub(crate) fn signal_family(&self, name: &str) {
        let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let is_child = |pid: &String| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            parent == Some(self.pid)
        };
        let children = processes.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_child);
        // A child may end of itself in between.
        let _ = Command::new("kill").arg(format!("-{name}")).args(children).status();
        self.signal(name);
    }

    pub(crate) fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Below those from which the system serves outgoing connections: none of these is taken before its server listens.
const PORTS: Range<u32> = 10_000..32_000;

/// A port that nobody listens on, and that this process has not been given before.
pub(crate) fn free_port() -> u16 {
    // Where another run on this machine is unlikely to begin.
    static GIVEN: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(997)));
    let next = || PORTS.start + GIVEN.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
    let mut ports = PORTS.map(|_| u16::try_from(next()).expect("a port"));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

/// Asks `probe` until it answers; panics with `what` after `patience`.
#[expect(clippy::disallowed_methods, reason = "the harness waits outside of any runtime")]
pub(crate) fn wait_for<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < patience, "{what} did not come within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Lets time pass outside of any runtime.
#[expect(clippy::disallowed_methods, reason = "the harness waits outside of any runtime")]
pub(crate) fn pause(span: Duration) {
    std::thread::sleep(span);
}

/// The first of `names` that is on the PATH or in one of `folders`, or a panic that says how to install it.
pub(crate) fn find_program(names: &[&str], folders: &[PathBuf], install: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let everywhere = folders.iter().cloned().chain(std::env::split_paths(&path));
    everywhere
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("none of {names:?} is installed; install it with: {install}"))
}
