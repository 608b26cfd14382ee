//! One tenant's leases, and the decisions about them. Pure: the time is an argument.
//!
//! Everything that ends by time stands in a set ordered by it, so counting is the length of a set and removing
//! what is over costs each lease once.

mod limits;
mod line;
mod queue;
mod recovery;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use self::{
    line::{Pace, Queues},
    queue::Served,
    recovery::Books,
};
use crate::domain::{
    Result, Timestamp,
    ids::{CallId, LeaseId, SessionId, VoiceAgentId},
    lease::{
        Acquire, Acquired, BindingScope, Denial, Direction, LEASE_TTL_MAX, Lease, Released, Renewal, Renewed, Usage,
    },
};

/// How long a renewal is told RELEASED instead of LOST.
const TOMBSTONE_MS: i64 = 300_000;
/// How long limits are remembered unused, and from when on a use prolongs that: as in the other back-end, so
/// that nobody can tell the two apart.
pub(super) const KEEP_MS: i64 = 720_000;
const KEEP_AGAIN_MS: i64 = 60_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    micros: i64,
    /// Leases are kept to the millisecond, as in the other back-end.
    pub(super) ms: i64,
}

impl From<Timestamp> for Now {
    fn from(now: Timestamp) -> Self {
        Self { micros: now.as_micros(), ms: now.as_millis() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Take,
    /// The same answer, and nothing changes.
    Probe,
}

/// Calls by the moment at which they leave the set.
type Ends = BTreeSet<(i64, CallId)>;

#[derive(Debug, Default)]
pub(super) struct Ledger {
    calls: HashMap<CallId, Record>,
    live: Ends,
    /// What is over and not yet forgotten.
    past: Ends,
    books: Option<Books>,
    agents: HashMap<VoiceAgentId, Agent>,
    cap: Option<Cap>,
    cap_kept_until_ms: i64,
    queues: Queues,
}

#[derive(Debug, Clone)]
struct Record {
    lease: LeaseId,
    session: SessionId,
    direction: Direction,
    fence: i64,
    /// Granted to one who waits, and not claimed yet.
    offered: bool,
    /// Answered to another request than the one that it was granted to.
    shared: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Live {
        expiry_ms: i64,
    },
    /// Remembered until then, or until the call is admitted again.
    Released {
        forget_ms: i64,
    },
    /// The same of one that ran out, while it must be told from one that is missing.
    Expired {
        forget_ms: i64,
    },
}

#[derive(Debug, Default)]
struct Agent {
    inbound: Ends,
    outbound: Ends,
    limits: Option<AgentLimits>,
    fence: i64,
    kept_at_ms: i64,
    kept_until_ms: i64,
    pace: Pace,
}

#[derive(Debug, Clone, Copy)]
struct AgentLimits {
    limit: u32,
    reserved: u32,
    version: i64,
}

#[derive(Debug, Clone, Copy)]
struct Cap {
    limit: u32,
    version: i64,
}

impl Agent {
    fn ends(&mut self, direction: Direction) -> &mut Ends {
        match direction {
            Direction::Inbound => &mut self.inbound,
            Direction::Outbound => &mut self.outbound,
        }
    }

    fn usage(&self, limits: Option<AgentLimits>) -> Usage {
        Usage {
            used: count(&self.inbound).saturating_add(count(&self.outbound)),
            used_outbound: count(&self.outbound),
            limit: limits.map_or(0, |limits| limits.limit),
            reserved_inbound: limits.map_or(0, |limits| limits.reserved),
            ..Usage::default()
        }
    }

    fn known_limits(&self, now: Now) -> Option<AgentLimits> {
        self.limits.filter(|_| self.kept_until_ms > now.ms)
    }

    fn is_idle(&self, now: Now) -> bool {
        self.inbound.is_empty() && self.outbound.is_empty() && self.kept_until_ms <= now.ms
    }
}

impl Ledger {
    /// Removes what is over.
    pub(super) fn settle(&mut self, now: Now) {
        let remember = self.known_books(now).filter(|books| books.misses(now));
        while let Some((_, call)) = pop_until(&mut self.live, now.ms) {
            let Some(record) = self.calls.get_mut(&call) else { continue };
            let State::Live { expiry_ms } = record.state else { continue };
            if let Some(agent) = self.agents.get_mut(&record.lease.agent()) {
                agent.ends(record.direction).remove(&(expiry_ms, call.clone()));
            }
            if let Some(books) = remember {
                let forget_ms = books.recovering_ms();
                record.state = State::Expired { forget_ms };
                self.past.insert((forget_ms, call));
            } else {
                self.calls.remove(&call);
            }
        }
        while let Some((_, call)) = pop_until(&mut self.past, now.ms) {
            self.calls.remove(&call);
        }
    }

    pub(super) fn forget_idle(&mut self, now: Now) {
        self.forget_dead(now);
        self.agents.retain(|_, agent| !agent.is_idle(now));
        self.agents.shrink_to_fit();
        self.calls.shrink_to_fit();
        self.cap = self.known_cap(now);
        self.books = self.known_books(now);
    }

    pub(super) fn is_empty(&self) -> bool {
        let is_forgotten = self.cap.is_none() && self.books.is_none();
        self.calls.is_empty() && self.agents.is_empty() && self.queues.is_empty() && is_forgotten
    }

    pub(super) fn acquire(&mut self, now: Now, request: &Acquire, mode: Mode) -> Result<Acquired> {
        let books = self.books(now)?;
        let held = self.lease(&request.call);
        if let Some(held) = &held
            && held.id.agent() != request.agent
        {
            return Ok(Acquired::OtherAgent { agent: held.id.agent() });
        }
        if held.is_none() {
            books.admits(now)?;
        }
        let limits = self.newest_limits(now, request);
        let cap = self.newest_cap(now, request);
        let ahead = match held {
            Some(_) => Served::default(),
            None => self.serve_before(now, request, limits, cap, mode),
        };
        let usage = self
            .agents
            .get(&request.agent)
            .map_or_else(|| Agent::default().usage(Some(limits)), |agent| agent.usage(Some(limits)));
        let usage = Usage {
            used: usage.used + ahead.inbound + ahead.outbound,
            used_outbound: usage.used_outbound + ahead.outbound,
            ..self.with_queue(now, request.agent, usage)
        };
        let expiry_ms = now.ms.saturating_add(millis(request.ttl));
        let tenant_used = count(&self.live) + ahead.all;
        let denial = if held.is_some() { None } else { self.denial(now, request, usage, (tenant_used, cap)) };
        if mode == Mode::Take {
            let is_first = held.is_none() && denial.is_none() && usage.used == 0;
            self.learn(now, request.agent, limits, cap, is_first);
        }
        if let Some(held) = held {
            let lease = self.extend(held, expiry_ms, mode);
            if let Some(record) = self.calls.get_mut(&request.call).filter(|_| mode == Mode::Take) {
                record.offered = false;
                record.shared |= record.lease != request.lease;
            }
            return Ok(Acquired::Existing { lease, usage });
        }
        if let Some(denial) = denial {
            return Ok(Acquired::Denied(denial));
        }
        let usage = Usage {
            used: usage.used + 1,
            used_outbound: usage.used_outbound + u32::from(request.direction == Direction::Outbound),
            ..usage
        };
        let fence = match mode {
            Mode::Take => {
                self.queues.admitted(&request.call);
                self.grant(now, request, expiry_ms)
            }
            Mode::Probe => 0,
        };
        let expires_at = Timestamp::from_millis(expiry_ms);
        let lease =
            Lease { id: request.lease, call: request.call.clone(), session: request.session, fence, expires_at };
        Ok(Acquired::Granted { lease, usage })
    }

    fn denial(&self, now: Now, request: &Acquire, usage: Usage, tenant: (u32, Cap)) -> Option<Denial> {
        let (tenant_used, cap) = tenant;
        let agent = self.agents.get(&request.agent);
        let inbound = agent.and_then(|agent| agent.inbound.first());
        let outbound = agent.and_then(|agent| agent.outbound.first());
        let for_outbound = usage.limit.saturating_sub(usage.reserved_inbound);
        let (binding, first) = if usage.used >= usage.limit {
            (BindingScope::Agent, inbound.into_iter().chain(outbound).min())
        } else if request.direction == Direction::Outbound && usage.used_outbound >= for_outbound {
            (BindingScope::InboundReserve, outbound)
        } else if cap.limit > 0 && tenant_used >= cap.limit {
            (BindingScope::Tenant, self.live.first())
        } else {
            return None;
        };
        // Nothing is held: the limit itself is zero, and no expiry will help.
        let next_expiry_ms = first.map_or(now.ms + millis(LEASE_TTL_MAX), |(expiry_ms, _)| *expiry_ms);
        let next_expiry_in = Timestamp::from_millis(next_expiry_ms).since(Timestamp::from_millis(now.ms));
        Some(Denial { binding, usage, tenant_used, tenant_limit: cap.limit, next_expiry_in })
    }

    fn grant(&mut self, now: Now, request: &Acquire, expiry_ms: i64) -> i64 {
        let agent = self.agents.entry(request.agent).or_default();
        agent.fence = now.micros.max(agent.fence + 1);
        let fence = agent.fence;
        agent.ends(request.direction).insert((expiry_ms, request.call.clone()));
        self.live.insert((expiry_ms, request.call.clone()));
        let state = State::Live { expiry_ms };
        let (lease, session, direction) = (request.lease, request.session, request.direction);
        let before = {
            let record = Record { lease, session, direction, fence, offered: false, shared: false, state };
            self.calls.insert(request.call.clone(), record)
        };
        // Its older leases are lost from now on, whatever became of them.
        if let Some(State::Released { forget_ms } | State::Expired { forget_ms }) = before.map(|record| record.state) {
            self.past.remove(&(forget_ms, request.call.clone()));
        }
        fence
    }

    /// Moves the expiry of a live lease out, never in.
    fn extend(&mut self, lease: Lease, expiry_ms: i64, mode: Mode) -> Lease {
        let held_ms = lease.expires_at.as_millis();
        if expiry_ms <= held_ms {
            return lease;
        }
        if mode == Mode::Take
            && let Some(record) = self.calls.get_mut(&lease.call)
        {
            record.state = State::Live { expiry_ms };
            self.live.remove(&(held_ms, lease.call.clone()));
            self.live.insert((expiry_ms, lease.call.clone()));
            let ends = self.agents.entry(lease.id.agent()).or_default().ends(record.direction);
            ends.remove(&(held_ms, lease.call.clone()));
            ends.insert((expiry_ms, lease.call.clone()));
        }
        Lease { expires_at: Timestamp::from_millis(expiry_ms), ..lease }
    }

    pub(super) fn renew(&mut self, now: Now, renewal: &Renewal) -> Result<Renewed> {
        let fate = self.fate(now, &renewal.call, renewal.lease)?;
        let (Renewed::Renewed { .. }, Some(held)) = (fate, self.lease(&renewal.call)) else { return Ok(fate) };
        let lease = self.extend(held, now.ms.saturating_add(millis(renewal.ttl)), Mode::Take);
        // Limits are remembered for as long as leases live under them.
        self.agents.entry(renewal.lease.agent()).or_default().kept_until_ms = now.ms + KEEP_MS;
        self.cap_kept_until_ms = now.ms + KEEP_MS;
        Ok(Renewed::Renewed { expires_at: lease.expires_at })
    }

    pub(super) fn release(&mut self, now: Now, call: &CallId, lease: LeaseId) -> Result<Released> {
        let books = self.books(now)?;
        let (mut released, forget_ms) = (false, now.ms + TOMBSTONE_MS);
        if books.misses(now) && !self.calls.contains_key(call) {
            self.bury(call, lease, forget_ms);
        } else if let Some(record) = self.calls.get_mut(call).filter(|record| record.lease == lease)
            && let State::Live { expiry_ms } = record.state
        {
            record.state = State::Released { forget_ms };
            self.past.insert((forget_ms, call.clone()));
            self.live.remove(&(expiry_ms, call.clone()));
            self.agents.entry(lease.agent()).or_default().ends(record.direction).remove(&(expiry_ms, call.clone()));
            released = true;
        }
        if released {
            self.serve_all(now, lease.agent());
        }
        Ok(Released { released, usage: self.usage(now, lease.agent()) })
    }

    /// Whether the lease is nobody's but that of the request which it was granted to.
    pub(super) fn is_unshared(&self, call: &CallId, lease: LeaseId) -> bool {
        self.calls.get(call).is_some_and(|record| record.lease == lease && !record.shared)
    }

    pub(super) fn lease(&self, call: &CallId) -> Option<Lease> {
        let record = self.calls.get(call)?;
        let State::Live { expiry_ms } = record.state else { return None };
        Some(Lease {
            id: record.lease,
            call: call.clone(),
            session: record.session,
            fence: record.fence,
            expires_at: Timestamp::from_millis(expiry_ms),
        })
    }

    pub(super) fn live_leases(&self, most: usize) -> Vec<Lease> {
        self.live.iter().take(most).filter_map(|(_, call)| self.lease(call)).collect()
    }

    pub(super) fn usage(&self, now: Now, agent: VoiceAgentId) -> Usage {
        let known = self.agents.get(&agent);
        let usage = known.map_or_else(Usage::default, |agent| agent.usage(agent.known_limits(now)));
        self.with_queue(now, agent, usage)
    }

    pub(super) fn tenant_usage(&mut self, now: Now) -> Usage {
        let limit = self.known_cap(now).map_or(0, |cap| cap.limit);
        self.with_all_queues(now, Usage { used: count(&self.live), limit, ..Usage::default() })
    }
}

/// The first of `ends` whose moment has come.
fn pop_until(ends: &mut Ends, now_ms: i64) -> Option<(i64, CallId)> {
    if ends.first()?.0 <= now_ms { ends.pop_first() } else { None }
}

fn count(ends: &Ends) -> u32 {
    u32::try_from(ends.len()).unwrap_or(u32::MAX)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
