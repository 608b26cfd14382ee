//! Redis: one connection that all rooms of this replica share, and how a script is run on it.
//!
//! What a failure means is for the room to say: [`Failure`] tells a server that cannot serve now from a mistake of
//! ours, and names nobody's store. The scripts and their keys are in the rooms too.
//!
//! Deliberately absent: retries. Only the caller knows whether the same may be asked twice.

mod connection;

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::{ScriptInvocation, Value, cmd};
use secrecy::SecretString;

use self::connection::SharedConnection;
use crate::domain::{Error, Result, error::Internal};

/// How long Redis may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisSettings {
    /// Milliseconds that one command may take, default 500. A healthy Redis answers in one; longer than this and
    /// the caller is better served by UNAVAILABLE while it can still try again.
    pub command_timeout_ms: u64,
    /// Milliseconds that connecting may take, default 1,000: name resolution and one lost packet's retransmission.
    pub connect_timeout_ms: u64,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self { command_timeout_ms: 500, connect_timeout_ms: 1_000 }
    }
}

impl RedisSettings {
    const fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms)
    }

    const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}

/// Why a command has no answer.
#[derive(Debug)]
pub enum Failure {
    /// Redis could not be reached, did not answer in time, or cannot serve now.
    Unavailable(Internal),
    /// The command was wrong.
    OurBug(Internal),
}

impl Failure {
    /// The failure of a room whose store is `unavailable` without Redis.
    pub fn or_else(self, unavailable: impl FnOnce(Internal) -> Error) -> Error {
        match self {
            Self::Unavailable(why) => unavailable(why),
            Self::OurBug(why) => Error::Internal(why),
        }
    }
}

/// One Redis (6.2 or later) of policy `noeviction`. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Redis {
    connection: Arc<SharedConnection>,
}

impl Redis {
    /// Connects with the first command, and again whenever that is necessary: a Redis that is down just now is no
    /// error here, only a URL that cannot be one.
    pub fn connect(url: &SecretString, settings: RedisSettings) -> Result<Self> {
        Ok(Self { connection: Arc::new(SharedConnection::new(url, &settings)?) })
    }

    /// Runs a script, also one that the server has forgotten.
    pub async fn invoke(&self, script: &ScriptInvocation<'_>) -> Result<Value, Failure> {
        let mut shared = self.connection.get().await?;
        match script.invoke_async(&mut shared.connection).await {
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.connection.failed(&shared, error)),
        }
    }

    pub async fn ping(&self) -> Result<(), Failure> {
        let mut shared = self.connection.get().await?;
        match cmd("PING").query_async::<Value>(&mut shared.connection).await {
            Ok(_pong) => Ok(()),
            Err(error) => Err(self.connection.failed(&shared, error)),
        }
    }
}
