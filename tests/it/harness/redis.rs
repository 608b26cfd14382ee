//! A Redis of one's own: no persistence, `noeviction`, killed and restarted at will, its clock moved at will.

use std::{
    ffi::OsString,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Command,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use deadpool_redis::redis::{Client, FromRedisValue, RedisResult, cmd};
use secrecy::SecretString;
use voxgate::redis::RedisSettings;

use super::{
    clock::MovedClock,
    process::{Process, find_program, free_port, wait_for},
};

static SHARED: LazyLock<PrivateRedis> = LazyLock::new(PrivateRedis::start);

/// A store's budget on a machine that is shared with others and may stop for seconds, where 50 ms are not much.
pub(crate) fn patient() -> RedisSettings {
    RedisSettings { command_timeout_ms: 10_000, connect_timeout_ms: 10_000, ..RedisSettings::default() }
}

/// Where a server falls silent and the test waits for its callers to notice.
pub(crate) fn brisk() -> RedisSettings {
    RedisSettings { command_timeout_ms: 1_500, connect_timeout_ms: 1_500, ..RedisSettings::default() }
}

/// Asks a server one thing, whatever its URL says about logins.
pub(crate) fn ask<T: FromRedisValue>(url: &str, words: &[&str]) -> RedisResult<T> {
    let client = Client::open(url)?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
    // A machine that is busy with more than this test may keep it waiting for seconds.
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    cmd(words[0]).arg(&words[1..]).query(&mut connection)
}

/// Where a server runs.
#[derive(Debug)]
pub(crate) struct Place {
    /// At which it is reached from here.
    pub(crate) address: String,
    /// At which it listens.
    pub(crate) bind: String,
    /// What runs a program there, with its first arguments; empty: nothing has to.
    pub(crate) runner: Vec<String>,
}

impl Default for Place {
    fn default() -> Self {
        let here = "127.0.0.1".to_owned();
        Self { address: here.clone(), bind: here, runner: Vec::new() }
    }
}

#[derive(Debug)]
pub(crate) struct PrivateRedis {
    place: Place,
    port: u16,
    process: Mutex<Option<Process>>,
    clock: Option<MovedClock>,
    /// Of the command line, beside our own.
    args: Vec<String>,
}

impl PrivateRedis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these on its command line too.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        Self::start_at(free_port(), args)
    }

    pub(crate) fn start_at(port: u16, args: &[&str]) -> Self {
        Self::launch(Place::default(), None, port, args)
    }

    /// Elsewhere than here.
    pub(crate) fn start_on(place: Place, args: &[&str]) -> Self {
        Self::launch(place, None, free_port(), args)
    }

    /// One whose wall clock can be moved.
    pub(crate) fn start_with_clock_shim() -> Self {
        Self::launch(Place::default(), Some(MovedClock::running()), free_port(), &[])
    }

    /// One whose wall clock stands still unless it is moved, however long the machine takes.
    pub(crate) fn start_with_still_clock() -> Self {
        Self::launch(Place::default(), Some(MovedClock::still()), free_port(), &[])
    }

    /// For tests that neither kill it, flush it nor move its clock.
    pub(crate) fn shared() -> &'static Self {
        &SHARED
    }

    fn launch(place: Place, clock: Option<MovedClock>, port: u16, args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string).collect();
        let redis = Self { place, port, process: Mutex::new(None), clock, args };
        redis.restart();
        redis
    }

    pub(crate) fn url(&self) -> SecretString {
        format!("redis://{}:{}", self.place.address, self.port).into()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Moves its wall clock on.
    pub(crate) fn advance(&self, span: Duration) {
        self.clock().advance(span);
    }

    /// Moves its wall clock back.
    pub(crate) fn rewind(&self, span: Duration) {
        self.clock().rewind(span);
    }

    fn clock(&self) -> &MovedClock {
        self.clock.as_ref().expect("it was started with a clock that can be moved")
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
        let mut words = self.place.runner.iter().map(OsString::from).chain([server.into()]);
        let mut command = Command::new(words.next().expect("the server at least"));
        command.args(words).args(["--bind", &self.place.bind, "--port", &self.port.to_string()]);
        // Whoever reaches it is the test.
        command.args(["--protected-mode", "no"]);
        command.args(["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir"]).arg(&dir);
        command.args(&self.args);
        if let Some(clock) = &self.clock {
            command.envs(clock.env());
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
        let mut stream = TcpStream::connect((&*self.place.address, self.port)).expect("it listens");
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
        let mut stream = TcpStream::connect((&*self.place.address, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer)?;
        Ok(answer == expected.as_bytes())
    }
}
