//! The life of a call: admitted, hosted, driven, ended.
//!
//! The rooms below each keep one thing; here they are joined, one operation a file. Two orders hold throughout, so that
//! a crash between any two steps leaves nothing that the journal, the sweep or a lease's expiry does not heal:
//! - at the start: the lease, and with it how the session begins; the session's row follows, by whoever writes it;
//! - at the end: the session, then the lease (the sweep frees what an ended session still holds). A release by the
//!   lease's name is the exception: one step frees the slot and keeps how the session ended.

mod acknowledge;
mod admission;
mod admit;
mod attributes;
mod audit;
mod authorize;
mod await_slot;
mod complete_session;
mod control;
mod credential;
mod delete_agent;
mod direct;
mod finish;
mod in_flight;
mod inquire;
mod lanes;
mod list_sessions;
mod mail;
mod node_events;
mod node_stream;
mod reconcile;
mod recovery;
mod renew;
mod session;
mod sweep;
mod usage;
mod waiters;
mod watch_events;
mod watch_usage;
mod watchers;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio_util::task::TaskTracker;

pub use self::{
    admission::{Admission, Admit},
    await_slot::{AwaitSlot, Update, Waited},
    control::{Executed, Instruction},
    direct::{CreateSession, Created},
    node_stream::{NodeStream, Welcome},
    recovery::SessionLiveCalls,
    renew::Presented,
    session::{Target, Whole},
    watch_events::{EventWatch, WatchFrom},
    watch_usage::UsageWatch,
};
use self::{in_flight::Kept, waiters::Waiters, watch_usage::Watches, watchers::Watchers};
use crate::{
    admission::SlotStore,
    agents::VoiceAgents,
    control::{BusTimes, CommandBus},
    domain::{
        Env,
        lease_token::{LeaseSigner, LeaseToken},
        queue::ReplicaId,
        session::Session,
        text::MediaUrls,
    },
    nodes::NodeRegistry,
    sessions::{AuditLog, EventLog, Journal, OperationStore, SessionStore},
    tenants::{Directory, RateLimits, Revocations, TokenSigner},
};

/// Limits of calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallSettings {
    /// Time that a node has to acknowledge a verb when the caller names no deadline, and at most
    /// (default 10,000 ms: a transfer through a slow carrier answers within it).
    pub verb_timeout_ms: u64,
    /// Verbs that one call may be asked a second, on all replicas together (default 10: more than a conversation needs,
    /// and as many as a runaway loop may cost).
    pub verbs_per_second: u32,
    /// How often a node is asked to send its heartbeat (default 3,000 ms: three of them fit into the shortest lease).
    pub heartbeat_interval_ms: u64,
    /// Life of a lease that a heartbeat renews (default 30,000 ms: how long a call outlives its node).
    pub heartbeat_lease_ms: u64,
    /// How often overdue sessions are looked for (default 2,000 ms).
    pub sweep_interval_ms: u64,
    /// How often leases, sessions and nodes are compared (default 30,000 ms: what two looks have seen is no request in
    /// hand, which lasts 30 s at most).
    pub reconcile_interval_ms: u64,
    /// How long the answer to an idempotency key is kept (default 24 h).
    pub idempotency_hours: u64,
    /// Calls that may wait for one agent's slots, on all replicas together (default 10,000: an agent's largest limit).
    pub queue_depth: u32,
    /// Calls that may wait on this replica (default 50,000: some 10 KiB each).
    pub queue_max_waiters: usize,
    /// Streams of WatchUsage that this replica serves at once (default 10,000).
    pub usage_max_watches: usize,
    /// Streams of WatchEvents that this replica serves at once (default 10,000: some 10 KiB each).
    pub event_max_watches: usize,
    /// How long a stream of WatchEvents waits for its client to take an event (default 60,000 ms: longer than a client
    /// that lives is away).
    pub event_stall_ms: u64,
    /// Whether `moh_url` and `audio_url` may be http and of private addresses (default false: whoever drives a call
    /// would have the media nodes fetch from inside the network; true where the audio itself is inside).
    pub media_url_allow_private: bool,
}

impl Default for CallSettings {
    fn default() -> Self {
        Self {
            verb_timeout_ms: 10_000,
            verbs_per_second: 10,
            heartbeat_interval_ms: 3_000,
            heartbeat_lease_ms: 30_000,
            sweep_interval_ms: 2_000,
            reconcile_interval_ms: 30_000,
            idempotency_hours: 24,
            queue_depth: 10_000,
            queue_max_waiters: 50_000,
            usage_max_watches: 10_000,
            event_max_watches: 10_000,
            event_stall_ms: 60_000,
            media_url_allow_private: false,
        }
    }
}

impl CallSettings {
    const fn verb_timeout(&self) -> Duration {
        Duration::from_millis(self.verb_timeout_ms)
    }

    /// How long a node and its mail last on the way.
    pub const fn bus_times(&self) -> BusTimes {
        // Three heartbeats, of which two may be lost, and what one takes.
        let alive = Duration::from_millis(3 * self.heartbeat_interval_ms + 1_000);
        BusTimes { alive, grace: Duration::from_millis(self.heartbeat_lease_ms) }
    }

    /// Which URLs media nodes are sent to.
    pub const fn media_urls(&self) -> MediaUrls {
        if self.media_url_allow_private { MediaUrls::Any } else { MediaUrls::Public }
    }

    const fn idempotency_memory(&self) -> Duration {
        Duration::from_secs(self.idempotency_hours * 3_600)
    }
}

/// What the operations stand on.
#[derive(Debug)]
pub struct Rooms {
    pub agents: VoiceAgents,
    pub tenants: Arc<Directory>,
    pub slots: Arc<dyn SlotStore>,
    pub sessions: Arc<dyn SessionStore>,
    /// Takes what `sessions` is told without anyone waiting for the database.
    pub journal: Arc<Journal>,
    pub operations: Arc<dyn OperationStore>,
    pub events: Arc<EventLog>,
    pub audit: Arc<AuditLog>,
    pub bus: Arc<dyn CommandBus>,
    pub nodes: Arc<NodeRegistry>,
    /// Of verbs on one call.
    pub rates: RateLimits,
    pub tokens: Arc<TokenSigner>,
    pub revocations: Arc<Revocations>,
    pub leases: LeaseSigner,
    pub settings: CallSettings,
    pub env: Env,
}

/// The operations on calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Calls {
    rooms: Arc<Rooms>,
    /// Work that must finish although its caller has gone; the shutdown waits for it.
    tasks: TaskTracker,
    /// The workers of the nodes' streams, which end after their streams; and those who wait for a slot.
    workers: TaskTracker,
    waiters: Arc<Waiters>,
    watches: Arc<Watches>,
    kept: Arc<Kept>,
    event_watchers: Watchers,
}

impl std::ops::Deref for Calls {
    type Target = Rooms;

    fn deref(&self) -> &Rooms {
        &self.rooms
    }
}

impl Calls {
    pub fn new(rooms: Rooms) -> Self {
        Self {
            waiters: Arc::new(Waiters::new(ReplicaId::new(&rooms.env))),
            watches: Arc::default(),
            kept: Arc::default(),
            event_watchers: Watchers::default(),
            rooms: Arc::new(rooms),
            tasks: TaskTracker::new(),
            workers: TaskTracker::new(),
        }
    }

    /// What the holder of the session's lease names it by.
    fn lease_token(&self, session: &Session) -> LeaseToken {
        self.leases.sign(session.tenant, &session.call, session.claim())
    }

    /// Waits until nothing that a caller began is left undone.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits until all that the nodes said is worked off, once their streams have ended.
    pub async fn worked_off(&self) {
        self.workers.close();
        self.workers.wait().await;
        self.finished().await;
    }

    /// Runs `work` to its end, whatever becomes of the caller: the server drops a handler whose client has gone, and
    /// half an operation is worse than one that nobody waits for.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = crate::domain::Result<T>> + Send + 'static,
    ) -> crate::domain::Result<T> {
        use tracing::Instrument as _;
        let task = self.tasks.spawn(work.in_current_span());
        task.await.map_err(crate::domain::Error::internal)?
    }
}
