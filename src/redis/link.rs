//! One multiplexed connection that everybody shares, its breaker, and the one task that finds it again.
//!
//! A pool checkout sends UNWATCH and PING, which halves throughput or worse; a multiplexed connection needs no
//! checkout. It does not reconnect by itself either, so that is done here. Nobody who asks ever connects: when the
//! connection breaks, a task of its own looks for the server, and callers wait for it no longer than their command
//! may take. Once it is known that the server cannot be had (a failed attempt, or [`SILENT_MAX`] commands in a row
//! without an answer) the breaker is open: callers are refused at once, until the task has a connection that answers
//! in time. So a server that swallows everything costs the few who were waiting for it one timeout, and all others
//! nothing.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_redis::redis::{
    Cmd, Pipeline, RedisError, Value,
    aio::{ConnectionLike as _, MultiplexedConnection, PubSub},
    cmd, from_redis_value,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    clock::{Clock, ClockWitness},
    dial::{Dialer, Sentinels, Why, ask},
    identity,
    target::Address,
};

/// Between two attempts: long against a refused connection, short against a person's patience.
const BACKOFF: Duration = Duration::from_millis(100);
/// Commands in a row that were not answered in time: one may be bad luck, three are an outage.
const SILENT_MAX: u32 = 3;
/// A connection younger than this that fails again, or whose server still may not write, is not worth a new attempt
/// at once.
const YOUNG: Duration = Duration::from_secs(1);

/// What a link leads to, found anew each time.
#[derive(Debug)]
pub(super) enum Place {
    At(Address, Dialer),
    Master(Sentinels),
}

impl Place {
    fn dialer(&self) -> &Dialer {
        match self {
            Self::At(_, dialer) => dialer,
            Self::Master(sentinels) => &sentinels.server,
        }
    }

    async fn listen(&self) -> Result<PubSub, Why> {
        match self {
            Self::At(address, dialer) => dialer.listen(address).await,
            Self::Master(sentinels) => sentinels.listen().await,
        }
    }

    async fn find(&self) -> Result<MultiplexedConnection, Why> {
        match self {
            Self::At(address, dialer) => dialer.dial(address).await,
            Self::Master(sentinels) => sentinels.find().await,
        }
    }
}

/// Why a command has no answer, or which error is its answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It was not sent.
    Unreachable(Arc<str>),
    /// It may have been carried out.
    Silent,
    /// It may have been carried out if this is an I/O error; otherwise the server says what is wrong.
    Failed(RedisError),
}

/// A connection and which one it is, so that only its own failure ends it.
#[derive(Clone)]
struct Up {
    connection: MultiplexedConnection,
    /// Which process answers.
    server: Arc<str>,
    serial: u64,
    since: Instant,
}

#[derive(Clone)]
enum State {
    /// Nobody has asked yet.
    Idle,
    /// The task is looking. Without a reason to give up hope, callers wait.
    Seeking {
        why: Option<Arc<str>>,
    },
    Up(Up),
}

impl State {
    fn is_settled(&self) -> bool {
        !matches!(self, Self::Idle | Self::Seeking { why: None })
    }
}

/// Clones share the connection.
#[derive(Clone)]
pub(super) struct Link(Arc<Inner>);

struct Inner {
    place: Place,
    state: watch::Sender<State>,
    silent: AtomicU32,
    serials: AtomicU64,
    /// How long one command may take.
    budget: Duration,
    /// Of whatever server the place leads to: another server's clock may be ahead of the one's before it.
    clock: Clock,
}

impl Link {
    pub(super) fn new(place: Place, budget: Duration) -> Self {
        let state = watch::Sender::new(State::Idle);
        let (silent, serials, clock) = (AtomicU32::new(0), AtomicU64::new(0), Clock::default());
        Self(Arc::new(Inner { place, state, silent, serials, budget, clock }))
    }

    /// A connection of its own to listen on.
    pub(super) async fn listen(&self) -> Result<PubSub, Why> {
        self.0.place.listen().await
    }

    /// Sends a command, after ASKING if a cluster wants that, and waits for its answer.
    pub(super) async fn send(&self, command: &Cmd, is_asking: bool, deadline: Instant) -> Result<Value, Trouble> {
        let mut up = self.up(deadline).await?;
        let answer = timeout_at(deadline, async {
            if !is_asking {
                return up.connection.req_packed_command(command).await.and_then(Value::extract_error);
            }
            let mut pipeline = Pipeline::with_capacity(2);
            pipeline.cmd("ASKING").add_command(command.clone());
            let mut answers = up.connection.req_packed_commands(&pipeline, 1, 1).await?;
            answers.pop().unwrap_or(Value::Nil).extract_error()
        });
        match answer.await {
            Ok(Ok(value)) => {
                self.0.has_spoken();
                Ok(value)
            }
            Ok(Err(error)) => {
                self.0.has_failed(&up, &error);
                Err(Trouble::Failed(error))
            }
            Err(_) => {
                self.0.was_silent(&up);
                Err(Trouble::Silent)
            }
        }
    }

    /// Which server the connection leads to, and what is known of its clock.
    pub(super) async fn server(&self, deadline: Instant) -> Result<(Arc<str>, ClockWitness), Trouble> {
        let server = self.up(deadline).await?.server;
        Ok((server, self.0.clock.witness(self.0.place.dialer().settings.clock_step())))
    }

    /// Finds out whether its clock was set.
    pub(super) async fn look_at_clock(&self, deadline: Instant) -> Result<(), Trouble> {
        let asked = Instant::now();
        let time = self.send(&cmd("TIME"), false, deadline).await?;
        self.0.note_time(asked, from_redis_value(time).map_err(|error| Trouble::Failed(error.into()))?);
        Ok(())
    }

    /// The connection: at once if there is one or no hope of one, otherwise when that is settled.
    async fn up(&self, deadline: Instant) -> Result<Up, Trouble> {
        let settled = |state: &State| match state {
            State::Up(up) => Some(Ok(up.clone())),
            State::Seeking { why: Some(why) } => Some(Err(Trouble::Unreachable(why.clone()))),
            State::Idle | State::Seeking { why: None } => None,
        };
        if let Some(known) = settled(&self.0.state.borrow()) {
            return known;
        }
        self.0.leave(|state| matches!(state, State::Idle), None, Duration::ZERO, None);
        let mut watch = self.0.state.subscribe();
        let state = timeout_at(deadline, watch.wait_for(State::is_settled)).await;
        let too_late = || Err(Trouble::Unreachable("the time was over before there was a connection".into()));
        match state {
            Ok(Ok(state)) => settled(&state).unwrap_or_else(too_late),
            _ => too_late(),
        }
    }
}

impl Inner {
    fn has_spoken(&self) {
        if self.silent.load(Ordering::Relaxed) > 0 {
            self.silent.store(0, Ordering::Relaxed);
        }
    }

    fn was_silent(self: &Arc<Self>, up: &Up) {
        if self.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT_MAX {
            self.give_up(up, "silent", Some("it does not answer in time"));
        }
    }

    fn has_failed(self: &Arc<Self>, up: &Up, error: &RedisError) {
        if error.is_io_error() || error.is_unrecoverable_error() {
            self.give_up(up, "broken", None);
            return;
        }
        self.has_spoken();
        // It is no primary, or was cut off from its replicas: another server may be in its place by now.
        if is_without_power(error) && up.since.elapsed() > YOUNG {
            self.give_up(up, "demoted", None);
        }
    }

    fn give_up(self: &Arc<Self>, lost: &Up, cause: &'static str, why: Option<&str>) {
        let is_young = lost.since.elapsed() < YOUNG;
        let (why, pause) = match why {
            None if is_young => (Some("it failed again"), BACKOFF),
            why => (why, if is_young { BACKOFF } else { Duration::ZERO }),
        };
        // One that was silent may speak again, before a new one is made.
        let doubted = (cause == "silent").then(|| lost.connection.clone());
        let is_current = |state: &State| matches!(state, State::Up(up) if up.serial == lost.serial);
        if self.leave(is_current, why.map(Arc::from), pause, doubted) {
            metrics::counter!("voxgate_redis_connections_lost_total", "cause" => cause).increment(1);
            tracing::warn!(redis.cause = cause, "a connection to Redis is given up and sought anew");
        }
    }

    /// Begins to look for the server, first at the end of `doubted`, if the state is still the one that made somebody
    /// call for it.
    fn leave(
        self: &Arc<Self>,
        is_due: impl Fn(&State) -> bool,
        why: Option<Arc<str>>,
        pause: Duration,
        doubted: Option<MultiplexedConnection>,
    ) -> bool {
        let left = self.state.send_if_modified(|state| {
            let due = is_due(state);
            if due {
                *state = State::Seeking { why };
            }
            due
        });
        if left {
            self.place.dialer().spawn(Seeker { link: Arc::downgrade(self), doubted, is_done: false }.seek(pause));
        }
        left
    }

    /// Connects, unless there is a connection left to try, and has it answer within what a command may take.
    async fn attempt(&self, doubted: Option<MultiplexedConnection>) -> Result<(MultiplexedConnection, Arc<str>), Why> {
        let mut connection = match doubted {
            Some(connection) => connection,
            None => self.place.find().await?,
        };
        ask::<Value>(&mut connection, &["PING"], self.budget).await?;
        let limit = self.place.dialer().settings.connect_timeout();
        let server = identity::learn(&mut connection, limit).await?;
        let asked = Instant::now();
        self.note_time(asked, ask(&mut connection, &["TIME"], limit).await?);
        Ok((connection, server))
    }

    /// What TIME answers: seconds, and microseconds.
    fn note_time(&self, asked: Instant, (secs, micros): (i64, i64)) {
        self.clock.look(asked, secs * 1_000_000 + micros, self.place.dialer().settings.clock_step());
    }
}

/// The task that looks for the server. If it is dropped before it has found it, because its runtime has ended, the next
/// caller sends another.
struct Seeker {
    link: Weak<Inner>,
    /// A connection that was silent: it may have been this process that was not given time to listen.
    doubted: Option<MultiplexedConnection>,
    is_done: bool,
}

impl Drop for Seeker {
    fn drop(&mut self) {
        if let Some(inner) = self.link.upgrade().filter(|_| !self.is_done) {
            inner.state.send_if_modified(|state| {
                let is_left = matches!(state, State::Seeking { .. });
                if is_left {
                    *state = State::Idle;
                }
                is_left
            });
        }
    }
}

impl Seeker {
    /// Until the server is found, or nobody wants it any more.
    async fn seek(mut self, mut pause: Duration) {
        loop {
            let doubted = self.doubted.take();
            if doubted.is_none() {
                sleep(std::mem::replace(&mut pause, BACKOFF)).await;
            }
            let Some(inner) = self.link.upgrade() else { return };
            let mut attempt = std::pin::pin!(inner.attempt(doubted));
            let outcome = match timeout(inner.budget, &mut attempt).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    inner.hopeless("there is no connection yet".to_owned());
                    attempt.await
                }
            };
            match outcome {
                Ok((connection, server)) => {
                    self.is_done = true;
                    inner.silent.store(0, Ordering::Relaxed);
                    let serial = inner.serials.fetch_add(1, Ordering::Relaxed);
                    inner.state.send_replace(State::Up(Up { connection, server, serial, since: Instant::now() }));
                    tracing::debug!("connected to Redis");
                    return;
                }
                Err(why) => inner.hopeless(why),
            }
        }
    }
}

impl Inner {
    fn hopeless(&self, why: Why) {
        self.state.send_replace(State::Seeking { why: Some(why.into()) });
    }
}

/// What a server says that is no primary, or one that was cut off from its replicas.
fn is_without_power(error: &RedisError) -> bool {
    matches!(super::code_of(error), Some("READONLY" | "NOREPLICAS" | "MASTERDOWN"))
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.0.state.borrow() {
            State::Idle => "idle",
            State::Seeking { why: None } => "connecting",
            State::Seeking { why: Some(_) } => "down",
            State::Up(_) => "up",
        };
        f.debug_struct("Link").field("place", &self.0.place).field("state", &state).finish_non_exhaustive()
    }
}
