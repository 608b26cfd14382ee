//! Random lives of a few calls that wait, lived by a small model and by both back-ends at once; all three must agree.
//!
//! As `slot_model.rs`, with tickets: the model has the queue written down in the plainest way, a list that is sorted
//! whenever somebody asks who is next. There is one replica, which tends all its tickets after each step of the clock,
//! as a replica does that lives; what becomes of those that do not is for `slot_queue.rs`. Priorities and steps of the
//! clock are such that no two scores come nearer to each other than half a second.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use proptest::{prelude::*, test_runner::Config};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::runtime::Runtime;
use voxgate::{
    admission::SlotStore,
    domain::{
        Env,
        ids::{CallId, LeaseId, SessionId, TenantId, VoiceAgentId},
        lease::{Acquire, Acquired, BindingScope, Direction, Limits, Renewal, Renewed, Usage},
        queue::{Enqueued, Leave, Left, ReplicaId, Standing, Tend, Ticket},
    },
};

use super::slot_fixture::{Fixture, Memory, Redis};

const AGENTS: usize = 2;
const CALLS: usize = 6;
const STEP_MS: u64 = 2_500;
const OFFER_MS: u64 = 5_000;
const TOMBSTONE_MS: u64 = 300_000;
const DEPTH: usize = 3;
const PRIORITIES: [u8; 3] = [0, 7, 14];

/// Who asks, and as what.
#[derive(Debug, Clone, Copy)]
struct Ask {
    agent: usize,
    call: usize,
    outbound: bool,
    priority: u8,
    ttl_ms: u64,
}

/// What is done. A lease is named by the order in which it was asked for.
#[derive(Debug, Clone)]
enum Step {
    Acquire {
        ask: Ask,
        probe: bool,
    },
    Enqueue(Ask),
    /// The replica acquires what the call waits for, by the names in its ticket.
    Claim(usize),
    Leave(usize),
    Renew(usize, u64),
    Release(usize),
    Tend(usize),
    Limits {
        agent: usize,
        limit: u32,
        reserved: u32,
    },
    Cap(u32),
    Advance(u64),
}

#[derive(Debug, Clone)]
struct Held {
    lease: usize,
    ask: Ask,
    expiry_ms: u64,
    offer: bool,
    released_ms: Option<u64>,
}

#[derive(Debug, Clone)]
struct Waiting {
    lease: usize,
    ask: Ask,
    /// The moment in milliseconds, and the order within it.
    arrived: (u64, usize),
}

/// Who is first: milliseconds, and the order of arrival.
type Score = (i64, usize);

impl Waiting {
    fn score(&self) -> Score {
        (self.arrived.0.cast_signed() - 1_000 * i64::from(self.ask.priority), self.arrived.1)
    }
}

/// The queue in its plainest form.
#[derive(Debug, Clone, Default)]
struct Model {
    now_ms: u64,
    asked: Vec<Ask>,
    arrivals: usize,
    /// By call: its last lease, and its ticket.
    calls: BTreeMap<usize, Held>,
    tickets: BTreeMap<usize, Waiting>,
    /// What the configuration says, (limit, reserved) and each change counted, and what the store has heard of it.
    limits: [(u32, u32, i64); AGENTS],
    cap: (u32, i64),
    known: [Option<(u32, u32)>; AGENTS],
    known_cap: u32,
    expected: Expected,
}

/// used, used_outbound, limit, reserved
type Figures = (u32, u32, u32, u32);

#[derive(Debug, Clone, Default, PartialEq)]
enum Expected {
    #[default]
    Nothing,
    Granted(usize, Figures),
    Existing(usize, Figures),
    OtherAgent(usize),
    Denied(BindingScope, Figures, u32),
    Held,
    Waiting(u32),
    Full(u32),
    Left(Left),
    Renewed(Fate),
    Released(bool, Figures),
    Tended,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Renewed,
    Lost,
    Released,
}

/// For whom slots are handed out.
struct Task {
    agent: usize,
    limits: Option<(u32, u32)>,
    cap: u32,
    bound: Option<i64>,
    call: Option<usize>,
}

impl Model {
    fn held(&self, call: usize) -> Option<&Held> {
        self.calls.get(&call).filter(|held| held.released_ms.is_none() && held.expiry_ms > self.now_ms)
    }

    fn live(&self) -> impl Iterator<Item = &Held> {
        (0..CALLS).filter_map(|call| self.held(call))
    }

    fn tenant_used(&self) -> u32 {
        u32::try_from(self.live().count()).expect("few")
    }

    fn used(&self, agent: usize) -> (u32, u32) {
        let count = |outbound_only: bool| {
            self.live().filter(|held| held.ask.agent == agent && (held.ask.outbound || !outbound_only)).count()
        };
        (u32::try_from(count(false)).expect("few"), u32::try_from(count(true)).expect("few"))
    }

    fn figures(&self, agent: usize) -> Figures {
        let ((used, out), (limit, reserved)) = (self.used(agent), self.known[agent].unwrap_or_default());
        (used, out, limit, reserved)
    }

    /// An agent's tickets in their order.
    fn line(&self, agent: usize) -> Vec<&Waiting> {
        let mut line: Vec<_> = self.tickets.values().filter(|waiting| waiting.ask.agent == agent).collect();
        line.sort_unstable_by_key(|waiting| waiting.score());
        line
    }

    fn queued(&self, agent: usize) -> u32 {
        u32::try_from(self.line(agent).len()).expect("few")
    }

    fn position(&self, call: usize) -> u32 {
        let ticket = &self.tickets[&call];
        let ahead = self.line(ticket.ask.agent).into_iter().filter(|other| other.score() < ticket.score()).count();
        u32::try_from(ahead).expect("few") + 1
    }

    fn learn(&mut self, agent: usize) {
        let (limit, reserved, _) = self.limits[agent];
        self.known[agent] = Some((limit, reserved));
        self.known_cap = self.cap.0;
    }

    /// Hands out what is free in turn, and answers who had some.
    fn serve(&mut self, task: &Task) -> Vec<Ask> {
        let mut served = Vec::new();
        let lines: Vec<usize> = if task.cap > 0 { (0..AGENTS).collect() } else { vec![task.agent] };
        while task.cap == 0 || self.tenant_used() < task.cap {
            let next = |agent: usize| {
                let own = task.limits.filter(|_| agent == task.agent);
                let (limit, reserved) = own.or(self.known[agent]).unwrap_or_default();
                let (used, out) = self.used(agent);
                let may = |waiting: &&Waiting| {
                    used < limit
                        && (!waiting.ask.outbound || out < limit.saturating_sub(reserved))
                        && task.bound.is_none_or(|bound| waiting.score().0 <= bound)
                };
                self.line(agent).into_iter().find(may)
            };
            let first = lines.iter().filter_map(|agent| next(*agent)).min_by_key(|waiting| waiting.score());
            let Some(Waiting { lease, ask, .. }) = first.filter(|first| task.call != Some(first.ask.call)).cloned()
            else {
                break;
            };
            let expiry_ms = self.now_ms + OFFER_MS;
            self.tickets.remove(&ask.call);
            self.calls.insert(ask.call, Held { lease, ask, expiry_ms, offer: true, released_ms: None });
            served.push(ask);
        }
        served
    }

    fn serve_all(&mut self, agent: usize) {
        self.serve(&Task { agent, limits: None, cap: self.known_cap, bound: None, call: None });
    }

    fn acquire(&mut self, ask: Ask, lease: usize, probe: bool) -> Expected {
        let Ask { agent, call, outbound, priority, ttl_ms } = ask;
        let (limit, reserved, _) = self.limits[agent];
        let cap = self.cap.0;
        if let Some(held) = self.held(call).cloned() {
            if held.ask.agent != agent {
                return Expected::OtherAgent(held.ask.agent);
            }
            let (used, out) = self.used(agent);
            if !probe {
                self.learn(agent);
                let expiry_ms = held.expiry_ms.max(self.now_ms + ttl_ms);
                self.calls.insert(call, Held { expiry_ms, offer: false, ..held });
            }
            return Expected::Existing(held.lease, (used, out, limit, reserved));
        }
        // What a probe would change, it changes in a life of its own.
        let mut after = self.clone();
        let bound = Some(self.now_ms.cast_signed() - 1_000 * i64::from(priority));
        after.serve(&Task { agent, limits: Some((limit, reserved)), cap, bound, call: Some(call) });
        let (used, out) = after.used(agent);
        let queued = if probe { self.queued(agent) } else { after.queued(agent) };
        let scope = if used >= limit {
            Some(BindingScope::Agent)
        } else if outbound && out >= limit.saturating_sub(reserved) {
            Some(BindingScope::InboundReserve)
        } else if cap > 0 && after.tenant_used() >= cap {
            Some(BindingScope::Tenant)
        } else {
            None
        };
        after.learn(agent);
        let expected = match scope {
            Some(scope) => Expected::Denied(scope, (used, out, limit, reserved), queued),
            None => {
                let expiry_ms = self.now_ms + ttl_ms;
                after.tickets.remove(&call);
                after.calls.insert(call, Held { lease, ask, expiry_ms, offer: false, released_ms: None });
                Expected::Granted(lease, (used + 1, out + u32::from(outbound), limit, reserved))
            }
        };
        if !probe {
            *self = after;
        }
        expected
    }

    fn enqueue(&mut self, ask: Ask, lease: usize) -> Expected {
        if self.held(ask.call).is_some() {
            return Expected::Held;
        }
        let former = self.tickets.get(&ask.call).filter(|former| former.ask.agent == ask.agent);
        let former = former.map(|former| former.arrived);
        if former.is_none() && self.queued(ask.agent) as usize >= DEPTH {
            return Expected::Full(self.queued(ask.agent));
        }
        self.arrivals += 1;
        let arrived = former.unwrap_or((self.now_ms, self.arrivals));
        self.tickets.insert(ask.call, Waiting { lease, ask, arrived });
        self.learn(ask.agent);
        self.serve_all(ask.agent);
        if self.held(ask.call).is_some() { Expected::Held } else { Expected::Waiting(self.position(ask.call)) }
    }

    fn leave(&mut self, lease: usize) -> Expected {
        let Ask { call, agent, .. } = self.asked[lease];
        if self.tickets.get(&call).is_some_and(|waiting| waiting.lease == lease) {
            self.tickets.remove(&call);
            return Expected::Left(Left::Ticket);
        }
        if self.held(call).is_some_and(|held| held.lease == lease && held.offer) {
            self.calls.remove(&call);
            self.serve_all(agent);
            return Expected::Left(Left::Offer);
        }
        Expected::Left(Left::Nothing)
    }

    fn renew(&mut self, lease: usize, ttl_ms: u64) -> Expected {
        let now_ms = self.now_ms;
        let held = self.calls.get_mut(&self.asked[lease].call).filter(|held| held.lease == lease);
        Expected::Renewed(match held {
            Some(held) if held.released_ms.is_some_and(|released_ms| released_ms + TOMBSTONE_MS > now_ms) => {
                Fate::Released
            }
            Some(held) if held.released_ms.is_none() && held.expiry_ms > now_ms => {
                held.expiry_ms = held.expiry_ms.max(now_ms + ttl_ms);
                Fate::Renewed
            }
            _ => Fate::Lost,
        })
    }

    fn release(&mut self, lease: usize) -> Expected {
        let Ask { call, agent, .. } = self.asked[lease];
        let released = self.held(call).is_some_and(|held| held.lease == lease);
        if released {
            let now_ms = self.now_ms;
            self.calls.entry(call).and_modify(|held| held.released_ms = Some(now_ms));
            self.serve_all(agent);
        }
        Expected::Released(released, self.figures(agent))
    }

    fn tend(&mut self, agent: usize) -> Expected {
        self.learn(agent);
        self.serve_all(agent);
        Expected::Tended
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let limits = prop::array::uniform2((0_u32..3, 0_u32..2));
        (limits, prop_oneof![Just(0_u32), 1_u32..4])
            .prop_map(|(limits, cap)| Self {
                limits: limits.map(|(limit, reserved)| (limit, reserved.min(limit), 1)),
                cap: (cap, 1),
                ..Self::default()
            })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Step> {
        let ttl = || (4_u64..16).prop_map(|steps| steps * STEP_MS);
        let ask = (0..AGENTS, 0..CALLS, any::<bool>(), prop::sample::select(PRIORITIES.to_vec()), ttl())
            .prop_map(|(agent, call, outbound, priority, ttl_ms)| Ask { agent, call, outbound, priority, ttl_ms });
        let acquire = (ask.clone(), prop::bool::weighted(0.2)).prop_map(|(ask, probe)| Step::Acquire { ask, probe });
        let limits = (0..AGENTS, 0_u32..4, 0_u32..2).prop_map(|(agent, limit, reserved)| Step::Limits {
            agent,
            limit,
            reserved: reserved.min(limit),
        });
        let others = prop_oneof![
            3 => (1_u64..8).prop_map(|steps| Step::Advance(steps * STEP_MS)),
            2 => (0..AGENTS).prop_map(Step::Tend),
            1 => limits,
            1 => (0_u32..4).prop_map(Step::Cap),
        ];
        if state.asked.is_empty() {
            return prop_oneof![2 => acquire, 2 => ask.prop_map(Step::Enqueue), 1 => others].boxed();
        }
        let asked = state.asked.len();
        let lease = move || prop_oneof![3 => asked.saturating_sub(6)..asked, 1 => 0..asked];
        prop_oneof![
            3 => acquire,
            6 => ask.prop_map(Step::Enqueue),
            3 => (0..CALLS).prop_map(Step::Claim),
            2 => lease().prop_map(Step::Leave),
            1 => (lease(), ttl()).prop_map(|(lease, ttl_ms)| Step::Renew(lease, ttl_ms)),
            5 => lease().prop_map(Step::Release),
            5 => others,
        ]
        .boxed()
    }

    fn preconditions(state: &Self, step: &Step) -> bool {
        match step {
            Step::Leave(lease) | Step::Renew(lease, _) | Step::Release(lease) => *lease < state.asked.len(),
            Step::Claim(call) => state.tickets.contains_key(call) || state.held(*call).is_some_and(|held| held.offer),
            _ => true,
        }
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.expected = match step {
            Step::Acquire { ask, .. } | Step::Enqueue(ask) => {
                let lease = state.asked.len();
                state.asked.push(*ask);
                match step {
                    Step::Acquire { probe, .. } => state.acquire(*ask, lease, *probe),
                    _ => state.enqueue(*ask, lease),
                }
            }
            Step::Claim(call) => {
                let lease = state.waited_for(*call);
                state.acquire(state.asked[lease], lease, false)
            }
            Step::Leave(lease) => state.leave(*lease),
            Step::Renew(lease, ttl_ms) => state.renew(*lease, *ttl_ms),
            Step::Release(lease) => state.release(*lease),
            Step::Tend(agent) => state.tend(*agent),
            Step::Limits { agent, limit, reserved } => {
                let version = state.limits[*agent].2 + 1;
                state.limits[*agent] = (*limit, *reserved, version);
                Expected::Nothing
            }
            Step::Cap(cap) => {
                state.cap = (*cap, state.cap.1 + 1);
                Expected::Nothing
            }
            Step::Advance(span_ms) => {
                for _ in 0..span_ms / STEP_MS {
                    state.now_ms += STEP_MS;
                    for agent in 0..AGENTS {
                        state.tend(agent);
                    }
                }
                Expected::Tended
            }
        };
        state
    }
}

impl Model {
    /// The lease that the call's ticket or its offer names.
    fn waited_for(&self, call: usize) -> usize {
        let offered = self.held(call).filter(|held| held.offer).map(|held| held.lease);
        offered.or_else(|| Some(self.tickets.get(&call)?.lease)).expect("it waits")
    }
}

/// What all cases share: the servers are started once, and their clocks only move on.
struct Stage {
    runtime: Runtime,
    redis: Redis,
    memory: Memory,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| Stage {
    runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
    redis: Redis::start(),
    memory: Memory::start(),
});

/// Both back-ends, a fresh tenant and fresh ids for each case.
struct Lives {
    stage: &'static Stage,
    /// Each with the last fence that each agent gave.
    witnesses: [(&'static str, Arc<dyn SlotStore>, [i64; AGENTS]); 2],
    env: Env,
    names: Names,
}

struct Names {
    tenant: TenantId,
    replica: ReplicaId,
    agents: [VoiceAgentId; AGENTS],
    calls: [CallId; CALLS],
    asked: Vec<(LeaseId, SessionId)>,
}

impl std::fmt::Debug for Lives {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lives").field("tenant", &self.names.tenant).finish_non_exhaustive()
    }
}

fn figures(usage: Usage) -> Figures {
    (usage.used, usage.used_outbound, usage.limit, usage.reserved_inbound)
}

impl Names {
    fn limits(model: &Model, agent: usize) -> Limits {
        let ((agent_limit, reserved_inbound, agent_version), (tenant_limit, tenant_version)) =
            (model.limits[agent], model.cap);
        Limits { agent_limit, reserved_inbound, agent_version, tenant_limit, tenant_version }
    }

    fn request(&self, model: &Model, ask: Ask, lease: usize) -> Acquire {
        let (id, session) = self.asked[lease];
        Acquire {
            agent: self.agents[ask.agent],
            call: self.calls[ask.call].clone(),
            lease: id,
            session,
            direction: if ask.outbound { Direction::Outbound } else { Direction::Inbound },
            priority: ask.priority,
            ttl: Duration::from_millis(ask.ttl_ms),
            limits: Self::limits(model, ask.agent),
            draft: None,
        }
    }

    /// What the store answers, in the model's words.
    async fn acquire(&self, store: &dyn SlotStore, request: &Acquire, probe: bool, fence: &mut i64) -> Expected {
        let answer = if probe { store.probe(self.tenant, request) } else { store.acquire(self.tenant, request) };
        let named = |id: LeaseId| self.asked.iter().position(|(asked, _)| *asked == id).expect("somebody asked for it");
        match answer.await.expect("it is up") {
            Acquired::Granted { lease, usage } => {
                if !probe {
                    assert!(lease.fence > *fence, "fences rise");
                    *fence = lease.fence;
                }
                Expected::Granted(named(lease.id), figures(usage))
            }
            Acquired::Existing { lease, usage } => {
                *fence = lease.fence.max(*fence);
                Expected::Existing(named(lease.id), figures(usage))
            }
            Acquired::OtherAgent { agent } => {
                Expected::OtherAgent(self.agents.iter().position(|it| *it == agent).expect("one of them"))
            }
            Acquired::Denied(denial) => Expected::Denied(denial.binding, figures(denial.usage), denial.usage.queued),
        }
    }

    async fn enqueue(&self, store: &dyn SlotStore, acquire: Acquire) -> Expected {
        let depth = u32::try_from(DEPTH).expect("small");
        let ticket = Ticket { acquire, replica: self.replica, since: None, depth };
        match store.enqueue(self.tenant, &ticket).await.expect("it is up") {
            Enqueued::Held => Expected::Held,
            Enqueued::Waiting(place) => Expected::Waiting(place.position),
            Enqueued::Full { queued } => Expected::Full(queued),
        }
    }

    async fn tend(&self, store: &dyn SlotStore, model: &Model, agent: usize) -> Vec<(usize, Standing)> {
        let elsewhere = |call: &usize| model.tickets.get(call).is_some_and(|waiting| waiting.ask.agent != agent);
        let calls: Vec<usize> = (0..CALLS).filter(|call| !elsewhere(call)).collect();
        let tend = Tend {
            replica: self.replica,
            agent: self.agents[agent],
            limits: Self::limits(model, agent),
            calls: calls.iter().map(|call| self.calls[*call].clone()).collect(),
        };
        let tended = store.tend(self.tenant, &tend).await.expect("it is up");
        calls.into_iter().zip(tended.standings).collect()
    }

    /// Compares everything that can be seen.
    async fn look(&self, name: &str, store: &dyn SlotStore, model: &Model) {
        for agent in 0..AGENTS {
            let told = store.usage(self.tenant, self.agents[agent]).await.expect("it is up");
            assert_eq!((figures(told), told.queued), (model.figures(agent), model.queued(agent)), "{name}");
        }
        let told = store.leases(self.tenant, &self.calls).await.expect("it is up");
        for (call, told) in told.into_iter().enumerate() {
            let expected = model.held(call).map(|held| self.asked[held.lease].0);
            assert_eq!(told.map(|lease| lease.id), expected, "{name}: call {call}");
        }
    }

    fn compare(name: &str, model: &Model, standings: Vec<(usize, Standing)>) {
        for (call, standing) in standings {
            match standing {
                Standing::Held => assert!(model.held(call).is_some(), "{name}: call {call} holds nothing"),
                Standing::Waiting(place) => {
                    assert!(model.tickets.contains_key(&call), "{name}: call {call} does not wait");
                    assert_eq!(place.position, model.position(call), "{name}: call {call}");
                }
                Standing::Gone => {
                    let is_gone = model.held(call).is_none() && !model.tickets.contains_key(&call);
                    assert!(is_gone, "{name}: call {call} is gone");
                }
                Standing::TakenOver => panic!("{name}: there is one replica"),
            }
        }
    }
}

impl StateMachineTest for Lives {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let (stage, env) = (&*STAGE, Env::system());
        let names = Names {
            tenant: TenantId::new(&env),
            replica: ReplicaId::new(&env),
            agents: std::array::from_fn(|_| VoiceAgentId::new(&env)),
            calls: std::array::from_fn(|call| format!("call-{call}").parse().expect("a call id")),
            asked: Vec::new(),
        };
        let witnesses = [("redis", stage.redis.store(), [0; AGENTS]), ("memory", stage.memory.store(), [0; AGENTS])];
        Self { stage, witnesses: witnesses.map(|(name, store, fences)| (name, store as _, fences)), env, names }
    }

    fn apply(mut lives: Self, model: &Model, step: Step) -> Self {
        if let Step::Acquire { ask, .. } | Step::Enqueue(ask) = step {
            let id = LeaseId::new(&lives.env, lives.names.agents[ask.agent]);
            lives.names.asked.push((id, SessionId::new(&lives.env)));
        }
        let (names, stage) = (&lives.names, lives.stage);
        stage.runtime.block_on(async {
            if let Step::Advance(span_ms) = step {
                for _ in 0..span_ms / STEP_MS {
                    stage.redis.advance(Duration::from_millis(STEP_MS));
                    stage.memory.advance(Duration::from_millis(STEP_MS));
                    for (_, store, _) in &lives.witnesses {
                        for agent in 0..AGENTS {
                            names.tend(&**store, model, agent).await;
                        }
                    }
                }
            }
            for (name, store, fences) in &mut lives.witnesses {
                let told = live_through(names, &**store, model, &step, (name, fences)).await;
                assert_eq!(told, model.expected, "{name}");
                names.look(name, &**store, model).await;
            }
        });
        lives
    }
}

/// One step of one back-end, and what it answered.
async fn live_through(
    names: &Names,
    store: &dyn SlotStore,
    model: &Model,
    step: &Step,
    (name, fences): (&str, &mut [i64; AGENTS]),
) -> Expected {
    let id = |lease: usize| (names.calls[model.asked[lease].call].clone(), names.asked[lease].0);
    match step {
        Step::Acquire { ask, probe } => {
            let request = names.request(model, *ask, names.asked.len() - 1);
            names.acquire(store, &request, *probe, &mut fences[ask.agent]).await
        }
        Step::Enqueue(ask) => names.enqueue(store, names.request(model, *ask, names.asked.len() - 1)).await,
        Step::Claim(call) => {
            let lease = match model.expected {
                Expected::Granted(lease, _) | Expected::Existing(lease, _) => lease,
                _ => model.tickets[call].lease,
            };
            let ask = model.asked[lease];
            names.acquire(store, &names.request(model, ask, lease), false, &mut fences[ask.agent]).await
        }
        Step::Leave(lease) => {
            let (call, id) = id(*lease);
            let ticket = Leave { replica: names.replica, call, lease: id };
            Expected::Left(store.leave(names.tenant, &ticket).await.expect("it is up"))
        }
        Step::Renew(lease, ttl_ms) => {
            let (call, id) = id(*lease);
            let renewal = Renewal { call, lease: id, ttl: Duration::from_millis(*ttl_ms) };
            Expected::Renewed(match store.renew(names.tenant, &[renewal]).await.expect("it is up")[0] {
                Renewed::Renewed { .. } => Fate::Renewed,
                Renewed::Lost => Fate::Lost,
                Renewed::Released => Fate::Released,
                other => panic!("{name}: nothing was lost: {other:?}"),
            })
        }
        Step::Release(lease) => {
            let (call, id) = id(*lease);
            let told = store.release(names.tenant, &call, id).await.expect("it is up");
            Expected::Released(told.released, figures(told.usage))
        }
        Step::Tend(agent) => {
            Names::compare(name, model, names.tend(store, model, *agent).await);
            Expected::Tended
        }
        Step::Advance(_) => {
            let mut standings = Vec::new();
            for agent in 0..AGENTS {
                standings = names.tend(store, model, agent).await;
            }
            Names::compare(name, model, standings);
            Expected::Tended
        }
        Step::Limits { .. } | Step::Cap(_) => Expected::Nothing,
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: 500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_model_redis_and_memory_wait_in_the_same_order(sequential 1..30 => Lives);
}
