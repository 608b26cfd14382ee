//! Waiting for a slot: a ticket in an agent's queue, and where it stands.

use std::{fmt, time::Duration};

use super::{
    clock::{Env, Timestamp},
    ids::{CallId, LeaseId, TenantId, VoiceAgentId, in_json_as_printed},
    lease::{Acquire, Limits},
    violations::Fault,
};

/// The highest precedence. One of it is worth a second of waiting.
pub const PRIORITY_MAX: u8 = 100;
pub const MAX_WAIT_MAX: Duration = Duration::from_mins(2);
pub const MAX_WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Tickets in one look at them.
pub const TEND_MAX: usize = 1_000;
/// A replica that has not tended its tickets for so long is taken for dead, and they with it.
pub const REPLICA_ALIVE: Duration = Duration::from_secs(3);
/// For how long a slot is kept for a waiter to which it was granted, until its replica claims it.
pub const OFFER_TTL: Duration = Duration::from_secs(5);

/// One process of the service, for as long as it runs: whose ticket it is, and who is to be woken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplicaId([u8; 8]);

impl ReplicaId {
    pub fn new(env: &Env) -> Self {
        Self(env.bytes())
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl std::str::FromStr for ReplicaId {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        let is_ours = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| is_ours);
        id.map(|id| Self(id.to_be_bytes())).ok_or_else(|| Fault::new("must be 16 hexadecimal digits"))
    }
}

in_json_as_printed!(ReplicaId);

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A call that is to wait for the slot that it asks for.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// What is granted in the end, under these names.
    pub acquire: Acquire,
    pub replica: ReplicaId,
    /// When it began to wait, by the store's clock, if the store has lost the ticket since.
    pub since: Option<Timestamp>,
    /// How many may wait for the agent.
    pub depth: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enqueued {
    /// The call holds a lease, its own from before or one granted by this; to acquire claims it.
    Held,
    Waiting(Place),
    /// As many wait as may.
    Full {
        queued: u32,
    },
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// 1 is next.
    pub position: u32,
    /// By the rate at which slots have come free; absent while there is nothing to go by.
    pub estimate: Option<Duration>,
    /// When the wait began, by the store's clock.
    pub since: Timestamp,
}

/// What a replica says of the tickets that it has for one agent.
#[derive(Debug, Clone)]
pub struct Tend {
    pub replica: ReplicaId,
    pub agent: VoiceAgentId,
    pub limits: Limits,
    /// The tickets to look at, at most `TEND_MAX`. All others of the replica live on too.
    pub calls: Vec<CallId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tended {
    /// One a call, in the order asked.
    pub standings: Vec<Standing>,
    /// Of the whole tenant: wakes that may have been told before, and were not if the message was lost.
    pub wakes: Vec<(CallId, Wake)>,
    /// There was more to do than one look does.
    pub more: bool,
    /// When the next lease runs out that may make room.
    pub next_expiry_in: Duration,
}

/// Where a ticket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Waiting(Place),
    /// The call holds a lease; to acquire claims it.
    Held,
    /// Another replica's ticket by now.
    TakenOver,
    /// Lost, or never there.
    Gone,
}

/// Why a waiter is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// It was granted a slot, or holds one.
    Granted,
    /// Its ticket is another replica's now.
    TakenOver,
}

/// What a replica hears about its tickets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Wake(TenantId, CallId, Wake),
    /// Messages may have been lost: look at everything.
    Missed,
}

/// What leaving gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// A place in the queue.
    Ticket,
    /// A slot that was granted and not claimed; the next has it.
    Offer,
    /// Nothing: the ticket is another's by now, or the slot was claimed.
    Nothing,
}

/// Which ticket leaves.
#[derive(Debug, Clone)]
pub struct Leave {
    pub replica: ReplicaId,
    pub call: CallId,
    pub lease: LeaseId,
}
