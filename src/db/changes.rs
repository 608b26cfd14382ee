//! What other replicas changed, as Postgres tells it.
//!
//! Triggers of the migrations notify with the commit, so a notice never comes before its change can be read, and no
//! writer can forget it. A connection of its own listens. While it is away notices are lost; when it is back, whoever
//! keeps rows in memory is told to doubt everything. SQLite has one process that serves, which knows what it changed;
//! what the command line changes there is noticed by age.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;

use super::{
    Database,
    connection::{Manager, Server},
};
use crate::domain::{
    Result,
    error::Internal,
    hash::Sha256,
    ids::{TenantId, VoiceAgentId},
};

/// Between two attempts to listen again.
const PAUSE: Duration = Duration::from_millis(250);
/// A partition closes no socket, so the connection is asked this often whether it lives.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Notices between the socket and whoever is told; beyond these everything is doubted.
const BUFFER: usize = 1_024;

/// Something that a replica may keep in memory has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    VoiceAgent(TenantId, VoiceAgentId),
    Tenant(TenantId),
    /// By the hash of the secret that opened it.
    ApiKey(Sha256),
    /// Perhaps anything: notices may have been lost.
    Anything,
}

/// Whoever keeps rows in memory, to be told what has changed.
#[derive(Clone)]
pub struct Listener(Arc<dyn Fn(Change) + Send + Sync>);

impl Listener {
    pub fn new(hear: impl Fn(Change) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// For one-off work, which keeps nothing.
    pub fn nobody() -> Self {
        Self::new(|_| {})
    }

    pub fn tell(&self, change: Change) {
        (self.0)(change);
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}

impl Change {
    fn parse(payload: &str) -> Option<Self> {
        let mut words = payload.split(' ');
        let change = match (words.next()?, words.next()?) {
            ("voice_agent", tenant) => Self::VoiceAgent(tenant.parse().ok()?, words.next()?.parse().ok()?),
            ("tenant", id) => Self::Tenant(id.parse().ok()?),
            ("api_key", hash) => Self::ApiKey(Sha256::from_hex(hash)?),
            _ => return None,
        };
        words.next().is_none().then_some(change)
    }
}

impl Database {
    /// Tells `listener` of every change until `stop`.
    pub async fn tell_changes(&self, listener: Listener, stop: CancellationToken) {
        let Manager::Postgres { server, .. } = self.pool.manager() else { return };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Err(error) = listen(server, &listener) => {
                    tracing::warn!(error = %error, "changes by other replicas are noticed late: not listening");
                    metrics::counter!("voxgate_change_listeners_lost_total").increment(1);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

async fn listen(server: &Server, listener: &Listener) -> Result<(), Internal> {
    let connecting = tokio::time::timeout(ANSWER_WITHIN, server.dial()).await;
    let (client, mut connection) = connecting.map_err(Internal::new)??;
    let (hand_over, mut notices) = mpsc::channel(BUFFER);
    let lost = Arc::new(AtomicBool::new(false));
    let lost_some = lost.clone();
    // Ends with the connection, and the connection with the client.
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            let AsyncMessage::Notification(notice) = message else { continue };
            match hand_over.try_send(notice) {
                Ok(()) => {}
                // Waiting would keep the answers of the connection waiting too. What is lost is doubted.
                Err(TrySendError::Full(_)) => lost_some.store(true, Ordering::Release),
                Err(TrySendError::Closed(_)) => return,
            }
        }
    });
    answers(&client, "LISTEN voxgate").await?;
    listener.tell(Change::Anything);
    let mut ask = tokio::time::interval_at(tokio::time::Instant::now() + ASK_EVERY, ASK_EVERY);
    loop {
        tokio::select! {
            notice = notices.recv() => {
                let notice = notice.ok_or_else(|| Internal::new("the connection was lost"))?;
                // A word that this binary does not know is a newer one's.
                listener.tell(Change::parse(notice.payload()).unwrap_or(Change::Anything));
            }
            _ = ask.tick() => answers(&client, "SELECT 1").await?,
        }
        if lost.swap(false, Ordering::AcqRel) {
            listener.tell(Change::Anything);
        }
    }
}

async fn answers(client: &Client, sql: &str) -> Result<(), Internal> {
    let answer = tokio::time::timeout(ANSWER_WITHIN, client.batch_execute(sql)).await;
    answer.map_err(Internal::new)?.map_err(Internal::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Env, hash::hex};

    #[test]
    fn notices_are_read_as_the_triggers_write_them() {
        let env = Env::system();
        let (tenant, agent) = (TenantId::new(&env), VoiceAgentId::new(&env));
        let hash = Sha256::of("key");
        let known = [
            (format!("voice_agent {tenant} {agent}"), Change::VoiceAgent(tenant, agent)),
            (format!("tenant {tenant}"), Change::Tenant(tenant)),
            (format!("api_key {}", hex(hash.as_bytes())), Change::ApiKey(hash)),
        ];
        for (payload, change) in known {
            assert_eq!(Change::parse(&payload), Some(change));
        }
        for unknown in ["", "tenant", "tenant x", "api_key 00", "voice_agent x y", &format!("tenant {tenant} more")] {
            assert_eq!(Change::parse(unknown), None, "{unknown:?}");
        }
    }
}
