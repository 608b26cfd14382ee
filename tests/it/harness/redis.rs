//! A Redis of one's own: no persistence, `noeviction`, killed and restarted at will, its clock moved at will.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use deadpool_redis::redis::{Client, FromRedisValue, RedisResult, cmd};
use secrecy::SecretString;
use voxgate::{domain::Env, redis::RedisSettings};

use super::process::{Process, find_program, free_port, wait_for};

const SHIM_SOURCE: &str = include_str!("clock_shim.c");

/// Built once a test process; renamed into place, so that others may build it at the same time.
static SHIM: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, built) = (folder.join("clock_shim.c"), folder.join(format!("clock_shim.{}", std::process::id())));
    fs::write(&source, SHIM_SOURCE).expect("the shim's source is written");
    let cc = find_program(&["cc", "gcc", "clang"], &[], "apt-get install gcc");
    let status = Command::new(cc).args(["-O2", "-shared", "-fPIC", "-o"]).arg(&built).arg(&source).status();
    assert!(status.expect("the compiler runs").success(), "clock_shim.c does not compile");
    let shim = folder.join("clock_shim.so");
    fs::rename(built, &shim).expect("the shim is put in place");
    shim
});

static SHARED: LazyLock<PrivateRedis> = LazyLock::new(PrivateRedis::start);

/// The budget of a command on a machine that runs many tests at once, where 50 ms are not much.
pub(crate) const PATIENT: &str = "[redis]\ncommand_timeout_ms = 3_000\n";

/// The same for a store of a test's own.
pub(crate) fn patient() -> RedisSettings {
    RedisSettings { command_timeout_ms: 500, ..RedisSettings::default() }
}

/// Asks a server one thing, whatever its URL says about logins.
pub(crate) fn ask<T: FromRedisValue>(url: &str, words: &[&str]) -> RedisResult<T> {
    let client = Client::open(url)?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    cmd(words[0]).arg(&words[1..]).query(&mut connection)
}

#[derive(Debug)]
pub(crate) struct PrivateRedis {
    port: u16,
    process: Mutex<Option<Process>>,
    clock: Option<MovedClock>,
    /// Of the command line, beside our own.
    args: Vec<String>,
}

/// The file that the shim reads.
#[derive(Debug)]
struct MovedClock {
    offset: File,
    path: PathBuf,
    micros: AtomicI64,
}

impl PrivateRedis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these on its command line too.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        Self::launch(None, free_port(), args)
    }

    pub(crate) fn start_at(port: u16, args: &[&str]) -> Self {
        Self::launch(None, port, args)
    }

    /// One whose wall clock can be moved.
    pub(crate) fn start_with_clock_shim() -> Self {
        Self::start_at_moment(0)
    }

    /// One whose wall clock stands still unless it is moved, however long the machine takes.
    pub(crate) fn start_with_still_clock() -> Self {
        Self::start_at_moment(Env::system().now().as_micros())
    }

    fn start_at_moment(micros: i64) -> Self {
        let path = Process::folder("clock").join("clock");
        fs::write(&path, [0, micros].map(i64::to_ne_bytes).concat()).expect("the clock is written");
        let offset = File::options().write(true).open(&path).expect("the offset is there");
        Self::launch(Some(MovedClock { offset, path, micros: AtomicI64::new(0) }), free_port(), &[])
    }

    /// For tests that neither kill it, flush it nor move its clock.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    fn launch(clock: Option<MovedClock>, port: u16, args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string).collect();
        let redis = Self { port, process: Mutex::new(None), clock, args };
        redis.restart();
        redis
    }

    pub(crate) fn url(&self) -> SecretString {
        format!("redis://127.0.0.1:{}", self.port).into()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Moves its wall clock on.
    pub(crate) fn advance(&self, span: Duration) {
        self.step_clock(i64::try_from(span.as_micros()).expect("a test's span"));
    }

    /// Moves its wall clock back, as a bad time server would.
    pub(crate) fn rewind(&self, span: Duration) {
        self.step_clock(-i64::try_from(span.as_micros()).expect("a test's span"));
    }

    fn step_clock(&self, span: i64) {
        let clock = self.clock.as_ref().expect("it was started with the clock shim");
        let micros = clock.micros.fetch_add(span, Ordering::SeqCst) + span;
        clock.offset.write_all_at(&micros.to_ne_bytes(), 0).expect("the offset is written");
    }

    /// Ends it as a crash would: nothing is saved.
    pub(crate) fn kill(&self) {
        let process = self.process.lock().expect("no test panicked in here").take().expect("it is running");
        process.signal("KILL");
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.lock().expect("no test panicked in here").as_ref().expect("it is running").signal(name);
    }

    /// Starts it again, empty, on the same port.
    pub(crate) fn restart(&self) {
        self.restart_in(Process::folder("redis"));
    }

    /// Starts it again on the same port with what [`Self::dump`] saved.
    pub(crate) fn restart_from(&self, snapshot: &[u8]) {
        let dir = Process::folder("redis");
        fs::write(dir.join("dump.rdb"), snapshot).expect("written");
        self.restart_in(dir);
    }

    fn restart_in(&self, dir: PathBuf) {
        let server = find_program(&["redis-server"], &[], "apt-get install redis-server");
        let mut command = Command::new(server);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir"]).arg(&dir);
        command.args(&self.args);
        if let Some(clock) = &self.clock {
            command.env("LD_PRELOAD", &*SHIM).env("VOXGATE_CLOCK", &clock.path);
        }
        let process = Process::start(dir, &command);
        wait_for("PONG", Duration::from_secs(10), || {
            assert!(process.is_running(), "redis-server ended: {}", process.log());
            self.answers().then_some(())
        });
        *self.process.lock().expect("no test panicked in here") = Some(process);
    }

    /// All that it holds, as its uncompressed snapshot.
    pub(crate) fn dump(&self) -> Vec<u8> {
        for command in ["CONFIG SET rdbcompression no", "SAVE"] {
            assert!(self.ask(command, "+OK").expect("an answer"), "{command}");
        }
        let process = self.process.lock().expect("no test panicked in here");
        fs::read(process.as_ref().expect("it is running").dir().join("dump.rdb")).expect("the snapshot")
    }

    /// What it answers to an inline command: all of it, as text.
    pub(crate) fn command(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        write!(stream, "{command}\r\nQUIT\r\n").expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers and hangs up");
        answer
    }

    fn answers(&self) -> bool {
        // Without a login it may refuse to answer, which is an answer too.
        ["+PONG", "-NOAUTH"].iter().any(|answer| self.ask("PING", answer).unwrap_or(false))
    }

    /// Whether the answer to an inline command begins so.
    fn ask(&self, command: &str, expected: &str) -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer == expected.as_bytes())
    }
}

impl Drop for MovedClock {
    fn drop(&mut self) {
        if let Some(folder) = self.path.parent() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
