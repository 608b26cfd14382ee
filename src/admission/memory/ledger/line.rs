//! Who waits for a tenant's slots, by agent and in order, and on which replica.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use super::{Now, millis};
use crate::domain::{
    ids::{CallId, VoiceAgentId},
    lease::{Acquire, Direction},
    queue::{REPLICA_ALIVE, ReplicaId, Wake},
};

/// One of priority is a second of waiting.
const AGE_US: i64 = 1_000_000;
const BURIED_MAX: usize = 100;
/// Wakes that nobody fetched, of one replica: its calls are looked at one by one all the same.
const WOKEN_KEPT_MAX: usize = 10_000;

/// Calls in their order: score, arrival, call.
pub(super) type Queue = BTreeSet<(i64, i64, CallId)>;

#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) tickets: HashMap<CallId, Waiting>,
    pub(super) lines: HashMap<VoiceAgentId, Line>,
    pub(super) replicas: HashMap<ReplicaId, Replica>,
    pub(super) last_arrived_us: i64,
    /// Since they were last taken.
    pub(super) wakes: Vec<(ReplicaId, CallId, Wake)>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) acquire: Acquire,
    pub(super) replica: ReplicaId,
    pub(super) arrived_us: i64,
}

#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) inbound: Queue,
    pub(super) outbound: Queue,
}

/// When slots come free for those who wait, as an agent remembers it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pace {
    pub(super) freed_at_us: Option<i64>,
    freed_every_us: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) alive_until_ms: i64,
    pub(super) woken: Vec<(CallId, Wake)>,
}

impl Waiting {
    pub(super) fn score(&self) -> i64 {
        score(self.arrived_us, self.acquire.priority)
    }

    pub(super) fn key(&self) -> (i64, i64, CallId) {
        (self.score(), self.arrived_us, self.acquire.call.clone())
    }
}

impl Line {
    pub(super) fn queue(&mut self, direction: Direction) -> &mut Queue {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.inbound.len() + self.outbound.len()
    }

    pub(super) fn first(&self) -> Option<&(i64, i64, CallId)> {
        self.inbound.first().into_iter().chain(self.outbound.first()).min()
    }

    /// Of one who comes, or has come, with this score.
    pub(super) fn position(&self, score: i64, arrived_us: i64) -> u32 {
        let is_ahead =
            |(its_score, its_arrival, _): &&(i64, i64, CallId)| (*its_score, *its_arrival) < (score, arrived_us);
        let ahead = |queue: &Queue| queue.iter().take_while(is_ahead).count();
        u32::try_from(1 + ahead(&self.inbound) + ahead(&self.outbound)).unwrap_or(u32::MAX)
    }

    /// Everyone in order.
    pub(super) fn walk(&self) -> impl Iterator<Item = &CallId> {
        let (mut inbound, mut outbound) = (self.inbound.iter().peekable(), self.outbound.iter().peekable());
        std::iter::from_fn(move || {
            let order = match (inbound.peek(), outbound.peek()) {
                (Some(one), Some(other)) => one.cmp(other),
                (one, _) => one.map_or(Ordering::Greater, |_| Ordering::Less),
            };
            let next = if order == Ordering::Less { inbound.next() } else { outbound.next() };
            next.map(|(_, _, call)| call)
        })
    }
}

impl Pace {
    pub(super) fn note_freed(&mut self, now: Now) {
        let span = self.freed_at_us.map_or(0, |freed_at| (now.micros - freed_at).max(0));
        self.freed_every_us = Some(self.freed_every_us.map_or(span, |every| every + (span - every).div_euclid(8)));
        self.freed_at_us = Some(now.micros);
    }

    /// A slot that is overdue counts.
    pub(super) fn estimate(&self, now: Now, position: u32) -> Option<Duration> {
        let (every, freed_at) = self.freed_every_us.zip(self.freed_at_us)?;
        let since = now.micros - freed_at;
        let interval = if since > every { every + (since - every).div_euclid(8) } else { every };
        u64::try_from(interval.saturating_mul(i64::from(position)) / 1_000).ok().map(Duration::from_millis)
    }
}

impl Queues {
    pub(super) fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    pub(super) fn is_alive(&self, now: Now, replica: ReplicaId) -> bool {
        self.replicas.get(&replica).is_some_and(|replica| replica.alive_until_ms > now.ms)
    }

    pub(super) fn see(&mut self, now: Now, replica: ReplicaId) {
        let alive_until_ms = now.ms + millis(REPLICA_ALIVE);
        let seen = self.replicas.entry(replica).or_insert(Replica { alive_until_ms, woken: Vec::new() });
        seen.alive_until_ms = alive_until_ms;
    }

    /// The call was admitted by another request.
    pub(super) fn admitted(&mut self, call: &CallId) {
        if let Some(waiting) = self.remove(call) {
            self.wake(waiting.replica, call, Wake::Granted);
        }
    }

    pub(super) fn wake(&mut self, replica: ReplicaId, call: &CallId, wake: Wake) {
        self.wakes.push((replica, call.clone(), wake));
        if let Some(replica) = self.replicas.get_mut(&replica)
            && replica.woken.len() < WOKEN_KEPT_MAX
        {
            replica.woken.push((call.clone(), wake));
        }
    }

    pub(super) fn remove(&mut self, call: &CallId) -> Option<Waiting> {
        let waiting = self.tickets.remove(call)?;
        let agent = waiting.acquire.agent;
        if let Some(line) = self.lines.get_mut(&agent) {
            line.queue(waiting.acquire.direction).remove(&waiting.key());
            if line.len() == 0 {
                self.lines.remove(&agent);
            }
        }
        Some(waiting)
    }

    /// Some of one dead replica's tickets; answers whether there was one.
    pub(super) fn bury(&mut self, now: Now) -> bool {
        let dead = self.replicas.iter().find(|(_, replica)| replica.alive_until_ms <= now.ms).map(|(id, _)| *id);
        let Some(dead) = dead else { return false };
        let tickets = self.tickets.iter().filter(|(_, waiting)| waiting.replica == dead);
        let left: Vec<CallId> = tickets.take(BURIED_MAX).map(|(call, _)| call.clone()).collect();
        for call in &left {
            self.remove(call);
        }
        if left.len() < BURIED_MAX {
            self.replicas.remove(&dead);
        }
        true
    }
}

pub(super) fn score(arrived_us: i64, priority: u8) -> i64 {
    arrived_us - AGE_US * i64::from(priority)
}
