//! Who waits for a tenant's slots, and the grant to the one whose turn it is: the rules of `queue.lua`, for one process.

use std::{collections::HashMap, time::Duration};

use super::{
    AgentLimits, Cap, Ledger, Mode, Now, State, count,
    line::{Line, Queue, Waiting, score},
    millis,
};
use crate::domain::{
    Result, Timestamp,
    ids::{CallId, VoiceAgentId},
    lease::{Acquire, Direction, LEASE_TTL_MAX, Usage},
    queue::{Enqueued, Leave, Left, MAX_WAIT_MAX, OFFER_TTL, Place, ReplicaId, Standing, Tend, Tended, Ticket, Wake},
};

/// In one step; what is left waits for another.
const GRANTS_MAX: u32 = 50;
const WOKEN_MAX: usize = 100;

/// For whom slots are handed out, and how far.
#[derive(Debug, Clone, Copy)]
struct Task<'a> {
    agent: VoiceAgentId,
    limits: Option<AgentLimits>,
    /// With one, those who wait for the tenant's other agents are candidates too.
    cap: Option<Cap>,
    /// The last score whose turn it may be.
    bound: i64,
    mode: Mode,
    /// One that asks for itself: it ends there when its turn has come.
    call: Option<&'a CallId>,
}

/// How many were granted a slot, or would be.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Served {
    pub(super) all: u32,
    pub(super) inbound: u32,
    pub(super) outbound: u32,
    more: bool,
}

#[derive(Debug, Clone)]
struct Turn {
    score: i64,
    arrived_us: i64,
    agent: VoiceAgentId,
    direction: Direction,
    call: CallId,
}

/// What was granted so far, where it is only counted.
type Counted = HashMap<VoiceAgentId, (u32, u32)>;

impl Ledger {
    pub(in crate::admission) fn enqueue(&mut self, now: Now, ticket: &Ticket, mode: Mode) -> Result<Enqueued> {
        self.books(now)?;
        let acquire = &ticket.acquire;
        if self.lease(&acquire.call).is_some() {
            return Ok(Enqueued::Held);
        }
        let former = self.queues.tickets.get(&acquire.call).filter(|former| former.acquire.agent == acquire.agent);
        let since = former.map(|former| former.arrived_us).or_else(|| {
            let oldest = now.micros - 1_000 * millis(MAX_WAIT_MAX + Duration::from_secs(30));
            ticket.since.map(|since| since.as_micros().max(oldest).min(now.micros))
        });
        let queued = self.queues.lines.get(&acquire.agent).map_or(0, Line::len);
        let queued = u32::try_from(queued).unwrap_or(u32::MAX);
        if since.is_none() && queued >= ticket.depth {
            return Ok(Enqueued::Full { queued });
        }
        // Rises strictly, so that no two came at once.
        let arrived_us = since.unwrap_or_else(|| now.micros.max(self.queues.last_arrived_us + 1));
        if mode == Mode::Probe {
            return Ok(Enqueued::Waiting(self.place(now, acquire, arrived_us)));
        }
        if let Some(former) = self.queues.remove(&acquire.call)
            && former.replica != ticket.replica
        {
            self.queues.wake(former.replica, &acquire.call, Wake::TakenOver);
        }
        let (limits, cap) = (self.newest_limits(now, acquire), self.newest_cap(now, acquire));
        self.learn(now, acquire.agent, limits, cap, false);
        self.queues.last_arrived_us = self.queues.last_arrived_us.max(arrived_us);
        if queued == 0 {
            self.agents.entry(acquire.agent).or_default().pace.freed_at_us = Some(now.micros);
        }
        self.queues.see(now, ticket.replica);
        let waiting = Waiting { acquire: acquire.clone(), replica: ticket.replica, arrived_us };
        self.queues.lines.entry(acquire.agent).or_default().queue(acquire.direction).insert(waiting.key());
        self.queues.tickets.insert(acquire.call.clone(), waiting);
        self.serve_all(now, acquire.agent);
        if self.lease(&acquire.call).is_some() {
            return Ok(Enqueued::Held);
        }
        Ok(Enqueued::Waiting(self.place(now, acquire, arrived_us)))
    }

    fn place(&self, now: Now, acquire: &Acquire, arrived_us: i64) -> Place {
        let line = self.queues.lines.get(&acquire.agent);
        let position = line.map_or(1, |line| line.position(score(arrived_us, acquire.priority), arrived_us));
        self.place_at(now, acquire.agent, position, arrived_us)
    }

    fn place_at(&self, now: Now, agent: VoiceAgentId, position: u32, arrived_us: i64) -> Place {
        let estimate = self.agents.get(&agent).and_then(|agent| agent.pace.estimate(now, position));
        Place { position, estimate, since: Timestamp::from_micros(arrived_us) }
    }

    pub(in crate::admission) fn tend(&mut self, now: Now, tend: &Tend) -> Tended {
        self.queues.see(now, tend.replica);
        let (limits, cap) = (self.newest_of(now, tend.agent, &tend.limits), self.newest_cap_of(now, &tend.limits));
        self.learn(now, tend.agent, limits, cap, false);
        let buried = self.queues.bury(now);
        let served = self.serve_all(now, tend.agent);
        let replica = self.queues.replicas.get_mut(&tend.replica);
        let mut wakes = replica.map(|replica| std::mem::take(&mut replica.woken)).unwrap_or_default();
        let kept = wakes.split_off(wakes.len().min(WOKEN_MAX));
        let more = served.more || buried || !kept.is_empty();
        if let Some(replica) = self.queues.replicas.get_mut(&tend.replica) {
            replica.woken = kept;
        }
        let agent = self.agents.get(&tend.agent);
        let ends = agent.and_then(|agent| agent.inbound.first().into_iter().chain(agent.outbound.first()).min());
        let of_tenant = self.live.first().filter(|_| cap.limit > 0);
        let next_ms = ends.into_iter().chain(of_tenant).map(|(expiry_ms, _)| *expiry_ms).min();
        let next_expiry_in =
            next_ms.map_or(LEASE_TTL_MAX, |ms| Duration::from_millis(u64::try_from(ms - now.ms).unwrap_or(0)));
        Tended { standings: self.standings(now, tend), wakes, more, next_expiry_in }
    }

    fn standings(&self, now: Now, tend: &Tend) -> Vec<Standing> {
        let mut positions = HashMap::new();
        if let Some(line) = self.queues.lines.get(&tend.agent).filter(|_| !tend.calls.is_empty()) {
            positions.extend(line.walk().zip(1_u32..));
        }
        let standing = |call: &CallId| {
            if self.lease(call).is_some() {
                return Standing::Held;
            }
            match self.queues.tickets.get(call) {
                Some(waiting) if waiting.replica == tend.replica => {
                    let position = positions.get(call).copied().unwrap_or(1);
                    Standing::Waiting(self.place_at(now, tend.agent, position, waiting.arrived_us))
                }
                Some(_) => Standing::TakenOver,
                None => Standing::Gone,
            }
        };
        tend.calls.iter().map(standing).collect()
    }

    pub(in crate::admission) fn leave(&mut self, now: Now, leave: &Leave) -> Left {
        let ours = |waiting: &Waiting| waiting.acquire.lease == leave.lease && waiting.replica == leave.replica;
        if self.queues.tickets.get(&leave.call).is_some_and(ours) {
            self.queues.remove(&leave.call);
            return Left::Ticket;
        }
        let offered = |record: &&super::Record| record.lease == leave.lease && record.offered;
        let Some(record) = self.calls.get(&leave.call).filter(offered) else { return Left::Nothing };
        let State::Live { expiry_ms } = record.state else { return Left::Nothing };
        let end = (expiry_ms, leave.call.clone());
        let direction = record.direction;
        self.live.remove(&end);
        self.agents.entry(leave.lease.agent()).or_default().ends(direction).remove(&end);
        self.calls.remove(&leave.call);
        self.serve_all(now, leave.lease.agent());
        Left::Offer
    }

    /// What is free goes to those who wait and whose turn is before the request's. Counted, where nothing is taken.
    pub(super) fn serve_before(
        &mut self,
        now: Now,
        request: &Acquire,
        limits: AgentLimits,
        cap: Cap,
        mode: Mode,
    ) -> Served {
        // Whoever waits came before, whatever the clock was set to since.
        let bound = score(now.micros.max(self.queues.last_arrived_us), request.priority);
        let served = self.serve(
            now,
            Task { agent: request.agent, limits: Some(limits), cap: Some(cap), bound, mode, call: Some(&request.call) },
        );
        if mode == Mode::Take { Served::default() } else { served }
    }

    /// Grants everything that is free, as far as limits are known.
    pub(super) fn serve_all(&mut self, now: Now, agent: VoiceAgentId) -> Served {
        let cap = self.known_cap(now);
        self.serve(now, Task { agent, limits: None, cap, bound: i64::MAX, mode: Mode::Take, call: None })
    }

    fn serve(&mut self, now: Now, task: Task<'_>) -> Served {
        let mut served = Served::default();
        // While the tenant's leases cannot be known, nobody is granted anything.
        let is_open = self.known_books(now).is_some_and(|books| books.admits(now).is_ok());
        if self.queues.is_empty() || !is_open {
            return served;
        }
        let cap = task.cap.filter(|cap| cap.limit > 0);
        let room = cap.map_or(GRANTS_MAX, |cap| GRANTS_MAX.min(cap.limit.saturating_sub(count(&self.live))));
        let agents: Vec<VoiceAgentId> = match cap {
            Some(_) => self.queues.lines.keys().copied().collect(),
            None => vec![task.agent],
        };
        let mut counted = Counted::new();
        while served.all < room {
            let turns = agents.iter().filter_map(|agent| self.next_of(now, *agent, &task, &counted));
            let first = turns.min_by_key(|turn| (turn.score, turn.arrived_us));
            let Some(turn) = first.filter(|turn| task.call != Some(&turn.call)) else { break };
            let outbound = u32::from(turn.direction == Direction::Outbound);
            served.all += 1;
            if turn.agent == task.agent {
                (served.inbound, served.outbound) = (served.inbound + 1 - outbound, served.outbound + outbound);
            }
            match task.mode {
                Mode::Take => self.offer(now, &turn.call),
                Mode::Probe => {
                    let of_agent = counted.entry(turn.agent).or_default();
                    *of_agent = (of_agent.0 + 1 - outbound, of_agent.1 + outbound);
                }
            }
        }
        served.more = served.all >= GRANTS_MAX;
        served
    }

    /// Whose turn it is at the agent, if it has room for them. Who is dead is passed over.
    fn next_of(&self, now: Now, agent: VoiceAgentId, task: &Task<'_>, counted: &Counted) -> Option<Turn> {
        let line = self.queues.lines.get(&agent)?;
        let known = self.agents.get(&agent);
        let own_limits = task.limits.filter(|_| agent == task.agent);
        let limits = own_limits.or_else(|| known.and_then(|agent| agent.known_limits(now)))?;
        let usage = known.map_or_else(Usage::default, |agent| agent.usage(None));
        let (inbound, outbound) = counted.get(&agent).copied().unwrap_or_default();
        if usage.used + inbound + outbound >= limits.limit {
            return None;
        }
        let first = |queue: &Queue, direction: Direction, passed: u32| {
            let mut waits = queue.iter().take_while(|(score, ..)| *score <= task.bound).filter(|(_, _, call)| {
                let waiting = self.queues.tickets.get(call);
                waiting.is_some_and(|waiting| self.queues.is_alive(now, waiting.replica))
            });
            waits.nth(usize::try_from(passed).unwrap_or(usize::MAX)).map(|(score, arrived_us, call)| Turn {
                score: *score,
                arrived_us: *arrived_us,
                agent,
                direction,
                call: call.clone(),
            })
        };
        let open = limits.limit.saturating_sub(limits.reserved);
        let may_go_out = usage.used_outbound + outbound < open;
        let outbound = may_go_out.then(|| first(&line.outbound, Direction::Outbound, outbound)).flatten();
        let inbound = first(&line.inbound, Direction::Inbound, inbound);
        inbound.into_iter().chain(outbound).min_by_key(|turn| (turn.score, turn.arrived_us))
    }

    fn offer(&mut self, now: Now, call: &CallId) {
        let Some(waiting) = self.queues.remove(call) else { return };
        let agent = waiting.acquire.agent;
        self.grant(now, &waiting.acquire, now.ms + millis(OFFER_TTL));
        if let Some(record) = self.calls.get_mut(call) {
            record.offered = true;
        }
        self.agents.entry(agent).or_default().pace.note_freed(now);
        self.queues.wake(waiting.replica, call, Wake::Granted);
    }

    /// The same with how many wait.
    pub(super) fn with_queue(&self, now: Now, agent: VoiceAgentId, usage: Usage) -> Usage {
        let Some(line) = self.queues.lines.get(&agent).filter(|_| self.anyone_is_alive(now)) else { return usage };
        let queued = u32::try_from(line.len()).unwrap_or(u32::MAX);
        Usage { queued, oldest_waiter: line.first().map(|first| waited(now, first)), ..usage }
    }

    pub(super) fn with_all_queues(&self, now: Now, usage: Usage) -> Usage {
        if !self.anyone_is_alive(now) {
            return usage;
        }
        let alive = self.queues.tickets.values().filter(|waiting| self.queues.is_alive(now, waiting.replica)).count();
        let first = self.queues.lines.values().filter_map(Line::first).min();
        Usage {
            queued: u32::try_from(alive).unwrap_or(u32::MAX),
            oldest_waiter: first.map(|first| waited(now, first)),
            ..usage
        }
    }

    fn anyone_is_alive(&self, now: Now) -> bool {
        self.queues.replicas.values().any(|replica| replica.alive_until_ms > now.ms)
    }

    pub(in crate::admission) fn take_wakes(&mut self) -> Vec<(ReplicaId, CallId, Wake)> {
        std::mem::take(&mut self.queues.wakes)
    }

    /// What dead replicas left.
    pub(super) fn forget_dead(&mut self, now: Now) {
        while self.queues.bury(now) {}
    }
}

/// To the millisecond, as in the other back-end.
fn waited(now: Now, (_, arrived_us, _): &(i64, i64, CallId)) -> Duration {
    Duration::from_millis(u64::try_from((now.micros - arrived_us) / 1_000).unwrap_or(0))
}
