//! What the figures were measured on, and with.

use std::{fs, path::Path, process::Command};

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use voxgate::domain::Env;

use super::{ROUNDS, Span, subject::CONNECTIONS};

/// Machine, versions, commit and date.
pub(crate) fn describe(span: Span) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let memory = memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / (1024 * 1024);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let size = fs::metadata(env!("CARGO_BIN_EXE_voxgate")).map_or(0, |file| file.len() / (1024 * 1024));
    [
        format!("# Voxgate {}, commit {}, {}", env!("CARGO_PKG_VERSION"), commit(), Env::system().now()),
        String::new(),
        format!(
            "- machine: {cores} cores ({model}), {memory} GiB, Linux {kernel}, load {load} at the start; \
             client, server and stores share it"
        ),
        format!("- built by {}; the server's binary has {size} MiB", said("rustc", &["--version"])),
        format!(
            "- a cell: {:.1} s of warm-up, {:.1} s measured; median of {ROUNDS} interleaved rounds (min–max), a share by the round; \
             {CONNECTIONS} connections",
            span.warm_up.as_secs_f64(),
            span.measured.as_secs_f64()
        ),
        "- the no-op is grpc.health.v1.Health/Check of the same server: same listener, HTTP/2 and routing, \
         but neither\n  credential, deadline nor metrics, which admission pays for"
            .to_owned(),
        "- one AcquireSlot or one ReleaseSlot is one request; every call is new; no media node hosts it".to_owned(),
    ]
    .join("\n")
}

pub(crate) fn redis_version() -> String {
    let said = said("redis-server", &["--version"]);
    said.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or("of unknown version").to_owned()
}

pub(crate) fn postgres_version(url: &str) -> String {
    let url = url.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let version = runtime.block_on(async move {
        let mut connection = AsyncPgConnection::establish(&url).await.expect("Postgres runs");
        let setting = diesel::dsl::sql::<diesel::sql_types::Text>("SELECT current_setting('server_version')");
        setting.get_result::<String>(&mut connection).await.expect("Postgres has a version")
    });
    version.split(' ').next().unwrap_or_default().to_owned()
}

/// Resident memory of the process that the harness runs in this folder, now and at most.
pub(crate) fn memory_mib(dir: &Path) -> (u64, u64) {
    (memory_kib(dir, "VmRSS") / 1024, memory_kib(dir, "VmHWM") / 1024)
}

/// The resident memory alone, now.
pub(crate) fn resident_kib(dir: &Path) -> u64 {
    memory_kib(dir, "VmRSS")
}

fn memory_kib(dir: &Path, name: &str) -> u64 {
    let pid = fs::read_to_string(dir.join("pid")).unwrap_or_default();
    let status = format!("/proc/{}/status", pid.trim());
    let text = field(&status, name).unwrap_or_default();
    text.trim_end_matches(" kB").parse().unwrap_or(0)
}

fn commit() -> String {
    let commit = said("git", &["rev-parse", "--short", "HEAD"]);
    let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    if changed { format!("{commit} with changes") } else { commit }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The value of the first line that has this name.
fn field(path: &str, name: &str) -> Option<String> {
    let text = read(path);
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}
