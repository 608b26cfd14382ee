//! One multiplexed connection that everybody shares, found again when it breaks.
//!
//! A pool checkout sends UNWATCH and PING, which halves throughput or worse; a multiplexed connection needs no
//! checkout. It does not reconnect by itself either, so that is done here: whoever finds it broken forgets it,
//! and the next caller makes a new one, alone. While Redis is known to be down everyone else fails at once, and
//! one caller in each [`BACKOFF`] tries again.

use std::{
    fmt,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use deadpool_redis::{
    Connection, Manager, Pool, PoolError, Runtime,
    redis::{AsyncConnectionConfig, RedisError, ServerErrorKind, aio::MultiplexedConnection},
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::Instant;

use super::{Failure, RedisSettings};
use crate::domain::{Error, Result, error::Internal};

/// Between two attempts to connect: long against a refused connection, short against a person's patience.
const BACKOFF: Duration = Duration::from_millis(100);

/// A connection and which one it is, so that only its own failure ends it.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) connection: MultiplexedConnection,
    serial: u64,
}

enum State {
    /// Never connected, or broken a moment ago: the next caller connects.
    Idle,
    Up(Shared),
    Down {
        retry_at: Instant,
        why: String,
    },
}

pub(super) struct SharedConnection {
    /// Only makes connections; none is ever given back to it.
    pool: Pool,
    state: Mutex<State>,
    /// Held by the one who connects.
    connecting: tokio::sync::Mutex<u64>,
}

impl SharedConnection {
    /// Fails only on a URL that cannot be one: Redis itself may be down just now.
    pub(super) fn new(url: &SecretString, settings: &RedisSettings) -> Result<Self> {
        let connect_timeout = settings.connect_timeout();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_timeout))
            .set_response_timeout(Some(settings.command_timeout()));
        let pool = Manager::new_with_config(url.expose_secret(), config)
            .map_err(|error| Error::invalid("redis_url", format!("must be a Redis URL: {}", error.category())))
            .and_then(|manager| {
                let pool = Pool::builder(manager).max_size(1).runtime(Runtime::Tokio1);
                pool.create_timeout(Some(connect_timeout)).build().map_err(Error::internal)
            })?;
        Ok(Self { pool, state: Mutex::new(State::Idle), connecting: tokio::sync::Mutex::new(0) })
    }

    pub(super) async fn get(&self) -> Result<Shared, Failure> {
        if let Some(shared) = self.known()? {
            return Ok(shared);
        }
        let is_down = matches!(*self.state(), State::Down { .. });
        let mut serial = match self.connecting.try_lock() {
            Ok(serial) => serial,
            Err(_) if is_down => return Err(unavailable("another caller is connecting")),
            Err(_) => self.connecting.lock().await,
        };
        // Whoever held the lock before may have connected, or failed a moment ago.
        if let Some(shared) = self.known()? {
            return Ok(shared);
        }
        match self.pool.get().await {
            Ok(pooled) => {
                *serial += 1;
                let shared = Shared { connection: Connection::take(pooled), serial: *serial };
                *self.state() = State::Up(shared.clone());
                Ok(shared)
            }
            Err(error) => {
                let why = why(&error);
                *self.state() = State::Down { retry_at: Instant::now() + BACKOFF, why: why.clone() };
                Err(unavailable(why))
            }
        }
    }

    /// The connection if there is one, and the refusal while it is too early for another attempt.
    fn known(&self) -> Result<Option<Shared>, Failure> {
        match &*self.state() {
            State::Up(shared) => Ok(Some(shared.clone())),
            State::Down { retry_at, why } if Instant::now() < *retry_at => Err(unavailable(why.clone())),
            State::Idle | State::Down { .. } => Ok(None),
        }
    }

    /// Notes a command's failure and says it in our words. A timeout gives the connection up as well: its peer
    /// may be gone for good without a word.
    pub(super) fn failed(&self, shared: &Shared, error: RedisError) -> Failure {
        if error.is_unrecoverable_error() || error.is_io_error() {
            let mut state = self.state();
            if matches!(&*state, State::Up(current) if current.serial == shared.serial) {
                *state = State::Idle;
            }
        }
        if is_our_bug(&error) { Failure::OurBug(Internal::new(error)) } else { unavailable(error) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

impl fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &*self.state() {
            State::Idle => "idle",
            State::Up(_) => "up",
            State::Down { .. } => "down",
        };
        f.debug_struct("SharedConnection").field("state", &state).finish_non_exhaustive()
    }
}

/// `ERR` comes from a script's own check, `WRONGTYPE` from a key that is not what we made it; every other code
/// (LOADING, READONLY, NOREPLICAS, OOM…) says that Redis cannot serve now.
fn is_our_bug(error: &RedisError) -> bool {
    error.kind() == ServerErrorKind::ResponseError.into() || error.code() == Some("WRONGTYPE")
}

fn why(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn unavailable(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::Unavailable(Internal::new(why))
}
