//! Tells other replicas through Redis that a tenant has new events.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{EventSignal, Heard};
use crate::{
    domain::{ids::TenantId, queue::ReplicaId},
    redis::{Message, Redis, Script},
};

const CHANNEL: &str = "vg:events";

#[derive(Debug)]
pub struct RedisEventSignal {
    redis: Redis,
    replica: ReplicaId,
    tell: Script,
}

impl RedisEventSignal {
    pub fn new(redis: Redis, replica: ReplicaId) -> Self {
        Self { redis, replica, tell: Script::new("tell", include_str!("tell.lua")) }
    }
}

#[async_trait]
impl EventSignal for RedisEventSignal {
    async fn tell(&self, tenant: TenantId) {
        // Nothing lies under the key: it says by which of a cluster's servers to speak.
        let mut script = self.tell.key(format!("vg:{{{tenant}}}:events"));
        script.arg(self.replica.to_string());
        if let Err(failure) = self.redis.invoke(&script).await {
            tracing::debug!(tenant.id = %tenant, failure = ?failure, "other replicas find new events by themselves");
        }
    }

    fn listen(&self) -> mpsc::Receiver<Heard> {
        let own = self.replica.to_string();
        self.redis.subscribe(CHANNEL.to_owned(), move |message| match message {
            Message::Missed => Some(Heard::Missed),
            Message::Text(text) => {
                let (replica, tenant) = text.split_once('|')?;
                let tenant = tenant.parse().ok().filter(|_| replica != own)?;
                Some(Heard::Events(tenant))
            }
        })
    }
}
