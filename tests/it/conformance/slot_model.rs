//! Random lives of a few calls, lived by a small model and by both back-ends at once; all three must agree.
//!
//! The model is the contract written down in the plainest way: a list of leases and a clock, no sets, no cleaning
//! up. Time moves in whole steps of 5 s and every ttl is such a step, so the little that Redis's clock runs on by
//! itself can never decide an answer: at an exact boundary a lease is over, on every clock.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proptest::{prelude::*, test_runner::Config};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use tokio::runtime::Runtime;
use voxgate::{
    admission::SlotStore,
    domain::{
        Env, Error, Timestamp,
        ids::{CallId, LeaseId, SessionId, TenantId, VoiceAgentId},
        lease::{Acquire, Acquired, BindingScope, Direction, Lease, Limits, Proven, Renewal, Renewed, Usage},
        lease_token::LeaseClaim,
    },
};

use super::slot_fixture::{Fixture, Memory, Redis, secs};

const AGENTS: usize = 3;
const CALLS: usize = 6;
const STEP_S: u64 = 5;
const KEEP_S: u64 = 720;
const KEEP_AGAIN_S: u64 = 60;
const TOMBSTONE_S: u64 = 300;
const LONGEST_S: u64 = 300;
const SURE_S: u64 = 600;
const DEFAULT_S: u64 = 60;
const SHORTEST_S: u64 = 10;
/// More than a case can run for, less than a step.
const DRIFT: Duration = Duration::from_secs(4);

/// What is done. Agents, calls and leases are named by small numbers; a lease by the order of its acquire.
#[derive(Debug, Clone)]
enum Step {
    Acquire {
        probe: bool,
        agent: usize,
        call: usize,
        outbound: bool,
        ttl_s: u64,
        old_agent: bool,
        old_tenant: bool,
    },
    Renew(Vec<(usize, u64)>),
    Release(usize),
    /// Leases presented for readmission, by whoever was ever asked for one.
    Readmit(Vec<(usize, u64)>),
    /// The store's data is gone.
    Lose,
    Limits {
        agent: usize,
        limit: u32,
        reserved: u32,
    },
    Cap(u32),
    Advance(u64),
    Look,
}

/// The contract in its plainest form.
#[derive(Debug, Clone, Default)]
struct Model {
    now_s: u64,
    /// Every acquire ever asked, granted or not: (agent, call, outbound).
    asked: Vec<(usize, usize, bool)>,
    /// Until when the tenant's books are open, and until when they recover.
    books_until_s: u64,
    recovering_until_s: u64,
    /// When the replica last used the tenant, and the longest lease that it has given since it knows it.
    sight: Option<(u64, u64)>,
    /// By call: its last lease.
    calls: BTreeMap<usize, Held>,
    /// What the service's configuration says: (limit, reserved), and each agent's earlier ones.
    limits: [Vec<(u32, u32)>; AGENTS],
    caps: Vec<u32>,
    /// What the store has heard of: the version, and until when it remembers.
    known: [Option<(usize, u64)>; AGENTS],
    /// When an acquire last prolonged that; not every one does.
    kept_s: [u64; AGENTS],
    known_cap: Option<usize>,
    expected: Expected,
}

#[derive(Debug, Clone)]
struct Held {
    lease: usize,
    agent: usize,
    outbound: bool,
    expiry_s: u64,
    released_s: Option<u64>,
}

/// What the last step must have answered.
#[derive(Debug, Clone, Default, PartialEq)]
enum Expected {
    #[default]
    Nothing,
    Granted {
        lease: usize,
        expiry_s: u64,
        usage: Figures,
    },
    Existing {
        lease: usize,
        expiry_s: u64,
        usage: Figures,
    },
    OtherAgent(usize),
    Recovering(u64),
    Denied {
        scope: BindingScope,
        usage: Figures,
        tenant: (u32, u32),
        wait_s: u64,
    },
    Renewed(Vec<Fate>),
    Released(bool, Figures),
    Seen {
        agents: Vec<Figures>,
        tenant: (u32, u32),
        leases: Vec<Option<(usize, u64)>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Renewed(u64),
    Readmitted(u64),
    Missing,
    Lost,
    Released,
}

/// used, used_outbound, limit, reserved
type Figures = (u32, u32, u32, u32);

impl Model {
    fn live(&self) -> impl Iterator<Item = &Held> {
        self.calls.values().filter(|held| held.released_s.is_none() && held.expiry_s > self.now_s)
    }

    fn held(&self, call: usize) -> Option<&Held> {
        self.calls.get(&call).filter(|held| held.released_s.is_none() && held.expiry_s > self.now_s)
    }

    fn tenant_used(&self) -> u32 {
        u32::try_from(self.live().count()).expect("few")
    }

    fn used(&self, agent: usize) -> (u32, u32) {
        let count = |outbound_only: bool| {
            self.live().filter(|held| held.agent == agent && (held.outbound || !outbound_only)).count()
        };
        (u32::try_from(count(false)).expect("few"), u32::try_from(count(true)).expect("few"))
    }

    fn known(&self, agent: usize) -> Option<usize> {
        self.known[agent].filter(|(_, until_s)| *until_s > self.now_s).map(|(version, _)| version)
    }

    fn known_cap(&self) -> Option<usize> {
        self.known_cap.filter(|_| self.books_until_s > self.now_s)
    }

    fn figures(&self, agent: usize) -> Figures {
        let (used, out) = self.used(agent);
        let (limit, reserved) = self.known(agent).map_or((0, 0), |version| self.limits[agent][version]);
        (used, out, limit, reserved)
    }

    fn tenant_figures(&self) -> (u32, u32) {
        (self.tenant_used(), self.known_cap().map_or(0, |version| self.caps[version]))
    }

    /// The versions that a replica brings: the newest, or the one before it.
    fn brought(&self, agent: usize, old_agent: bool, old_tenant: bool) -> (usize, usize) {
        let newest = |versions: usize, old: bool| (versions - 1).saturating_sub(usize::from(old));
        (newest(self.limits[agent].len(), old_agent), newest(self.caps.len(), old_tenant))
    }

    /// A replica that finds the books closed opens them, by what it has seen.
    fn open(&mut self) {
        if self.books_until_s > self.now_s {
            return;
        }
        let seen = self.sight.filter(|(at_s, _)| self.now_s - at_s < SURE_S).map(|(_, longest_s)| longest_s);
        let span_s = seen.map(|longest_s| if longest_s == 0 { DEFAULT_S } else { longest_s });
        self.recovering_until_s = span_s.map_or(0, |span_s| self.now_s + span_s.clamp(SHORTEST_S, LONGEST_S));
        self.books_until_s = self.now_s + KEEP_S;
        self.known_cap = None;
    }

    fn note(&mut self, life_s: u64) {
        let before = self.sight.filter(|(at_s, _)| self.now_s - at_s < SURE_S);
        self.sight = Some((self.now_s, before.map_or(life_s, |(_, longest_s)| longest_s.max(life_s))));
    }

    fn misses(&self) -> bool {
        self.recovering_until_s > self.now_s
    }

    fn lose(&mut self) -> Expected {
        self.calls.clear();
        self.known = [None; AGENTS];
        self.kept_s = [0; AGENTS];
        self.known_cap = None;
        self.books_until_s = 0;
        Expected::Nothing
    }

    fn acquire(&mut self, step: &Step) -> Expected {
        self.open();
        let expected = self.acquire_in_books(step);
        let Step::Acquire { probe, ttl_s, .. } = *step else { unreachable!("it is called with this step only") };
        match &expected {
            _ if probe => {}
            Expected::Granted { .. } | Expected::Existing { .. } => self.note(ttl_s),
            Expected::Recovering(_) => {}
            _ => self.note(0),
        }
        expected
    }

    fn acquire_in_books(&mut self, step: &Step) -> Expected {
        let Step::Acquire { probe, agent, call, outbound, ttl_s, old_agent, old_tenant } = *step else {
            unreachable!("it is called with this step only")
        };
        let lease = self.asked.len();
        self.asked.push((agent, call, outbound));
        let held = self.held(call).cloned();
        if let Some(held) = held.as_ref().filter(|held| held.agent != agent) {
            return Expected::OtherAgent(held.agent);
        }
        if held.is_none() && self.misses() {
            return Expected::Recovering(self.recovering_until_s - self.now_s);
        }
        let (version, cap_version) = self.brought(agent, old_agent, old_tenant);
        let version = self.known(agent).map_or(version, |known| known.max(version));
        let cap_version = self.known_cap().map_or(cap_version, |known| known.max(cap_version));
        let ((limit, reserved), cap) = (self.limits[agent][version], self.caps[cap_version]);
        let (used, out) = self.used(agent);
        let was_known = self.known(agent).is_some();
        if !probe {
            self.known[agent] = Some((version, self.known[agent].map_or(0, |(_, until_s)| until_s)));
            self.known_cap = Some(cap_version);
            if !was_known || self.now_s >= self.kept_s[agent] + KEEP_AGAIN_S {
                self.keep(agent);
            }
        }
        let expiry_s = self.now_s + ttl_s;
        if let Some(mut held) = held {
            held.expiry_s = held.expiry_s.max(expiry_s);
            let usage = (used, out, limit, reserved);
            let answer = Expected::Existing { lease: held.lease, expiry_s: held.expiry_s, usage };
            if !probe {
                self.calls.insert(call, held);
            }
            return answer;
        }
        let scope = if used >= limit {
            Some(BindingScope::Agent)
        } else if outbound && out >= limit.saturating_sub(reserved) {
            Some(BindingScope::InboundReserve)
        } else if cap > 0 && self.tenant_used() >= cap {
            Some(BindingScope::Tenant)
        } else {
            None
        };
        if let Some(scope) = scope {
            let binds = |held: &&Held| match scope {
                BindingScope::Agent => held.agent == agent,
                BindingScope::InboundReserve => held.agent == agent && held.outbound,
                BindingScope::Tenant => true,
            };
            let wait_s = self.live().filter(binds).map(|held| held.expiry_s - self.now_s).min().unwrap_or(LONGEST_S);
            let usage = (used, out, limit, reserved);
            return Expected::Denied { scope, usage, tenant: (self.tenant_used(), cap), wait_s };
        }
        if !probe {
            if used == 0 {
                self.keep(agent);
            }
            self.calls.insert(call, Held { lease, agent, outbound, expiry_s, released_s: None });
        }
        let usage = (used + 1, out + u32::from(outbound), limit, reserved);
        Expected::Granted { lease, expiry_s, usage }
    }

    fn keep(&mut self, agent: usize) {
        let until_s = self.now_s + KEEP_S;
        self.kept_s[agent] = self.now_s;
        self.known[agent] = self.known[agent].map(|(version, _)| (version, until_s));
        self.books_until_s = until_s;
    }

    fn renew(&mut self, leases: &[(usize, u64)]) -> Expected {
        self.open();
        let (now_s, misses) = (self.now_s, self.misses());
        let (mut fates, mut longest_s) = (Vec::new(), None);
        for &(lease, ttl_s) in leases {
            let (agent, call, _) = self.asked[lease];
            if misses && !self.calls.contains_key(&call) {
                fates.push(Fate::Missing);
                continue;
            }
            let fate = match self.calls.get_mut(&call).filter(|held| held.lease == lease) {
                Some(held) if held.released_s.is_some_and(|released_s| released_s + TOMBSTONE_S > now_s) => {
                    Fate::Released
                }
                Some(held) if held.released_s.is_none() && held.expiry_s > now_s => {
                    held.expiry_s = held.expiry_s.max(now_s + ttl_s);
                    let expiry_s = held.expiry_s;
                    self.known[agent] = self.known[agent].map(|(version, _)| (version, now_s + KEEP_S));
                    self.books_until_s = now_s + KEEP_S;
                    longest_s = longest_s.max(Some(ttl_s));
                    Fate::Renewed(expiry_s)
                }
                _ => Fate::Lost,
            };
            fates.push(fate);
        }
        if let Some(longest_s) = longest_s {
            self.note(longest_s);
        }
        Expected::Renewed(fates)
    }

    fn readmit(&mut self, leases: &[(usize, u64)]) -> Expected {
        self.open();
        let (now_s, misses) = (self.now_s, self.misses());
        let (mut fates, mut longest_s) = (Vec::new(), None);
        for &(lease, ttl_s) in leases {
            let (agent, call, outbound) = self.asked[lease];
            let expiry_s = now_s + ttl_s;
            let fate = match self.calls.get_mut(&call) {
                None if misses => {
                    self.calls.insert(call, Held { lease, agent, outbound, expiry_s, released_s: None });
                    Fate::Readmitted(expiry_s)
                }
                Some(held) if held.lease == lease => match held.released_s {
                    Some(released_s) if released_s + TOMBSTONE_S > now_s => Fate::Released,
                    None if held.expiry_s > now_s => {
                        held.expiry_s = held.expiry_s.max(expiry_s);
                        Fate::Renewed(held.expiry_s)
                    }
                    _ => Fate::Lost,
                },
                _ => Fate::Lost,
            };
            if matches!(fate, Fate::Readmitted(_) | Fate::Renewed(_)) {
                longest_s = longest_s.max(Some(ttl_s));
            }
            self.known[agent] = self.known[agent].filter(|(_, until_s)| *until_s > now_s);
            self.known[agent] = self.known[agent].map(|(version, _)| (version, now_s + KEEP_S));
            fates.push(fate);
        }
        self.books_until_s = now_s + KEEP_S;
        if let Some(longest_s) = longest_s {
            self.note(longest_s);
        }
        Expected::Renewed(fates)
    }

    fn release(&mut self, lease: usize) -> Expected {
        self.open();
        let ((agent, call, _), now_s) = (self.asked[lease], self.now_s);
        if self.misses() && !self.calls.contains_key(&call) {
            let buried = Held { lease, agent, outbound: false, expiry_s: 0, released_s: Some(now_s) };
            self.calls.insert(call, buried);
        }
        let live = |held: &&mut Held| held.lease == lease && held.released_s.is_none() && held.expiry_s > now_s;
        let released = self.calls.get_mut(&call).filter(live).map(|held| held.released_s = Some(now_s)).is_some();
        Expected::Released(released, self.figures(agent))
    }

    fn look(&self) -> Expected {
        let leases = (0..CALLS).map(|call| self.held(call).map(|held| (held.lease, held.expiry_s))).collect();
        let agents = (0..AGENTS).map(|agent| self.figures(agent)).collect();
        Expected::Seen { agents, tenant: self.tenant_figures(), leases }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let limits = proptest::collection::vec((0_u32..4, 0_u32..3), AGENTS);
        (limits, prop_oneof![Just(0_u32), 1_u32..6])
            .prop_map(|(limits, cap)| {
                let limits: [(u32, u32); AGENTS] = limits.try_into().expect("one an agent");
                Self {
                    limits: limits.map(|(limit, reserved)| vec![(limit, reserved.min(limit))]),
                    caps: vec![cap],
                    ..Self::default()
                }
            })
            .boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Step> {
        let ttl = || (2_u64..=60).prop_map(|steps| steps * STEP_S);
        let short = || prop_oneof![3 => (2_u64..8).prop_map(|steps| steps * STEP_S), 1 => ttl()];
        let acquire = (
            prop::bool::weighted(0.15),
            0..AGENTS,
            0..CALLS,
            any::<bool>(),
            short(),
            prop::bool::weighted(0.2),
            prop::bool::weighted(0.2),
        );
        let acquire = acquire.prop_map(|(probe, agent, call, outbound, ttl_s, old_agent, old_tenant)| Step::Acquire {
            probe,
            agent,
            call,
            outbound,
            ttl_s,
            old_agent,
            old_tenant,
        });
        let span = prop_oneof![
            6 => (1_u64..10).prop_map(|steps| steps * STEP_S),
            2 => (10_u64..80).prop_map(|steps| steps * STEP_S),
            1 => Just(KEEP_S),
            1 => Just(TOMBSTONE_S),
        ];
        let limits = (0..AGENTS, 0_u32..5, 0_u32..3).prop_map(|(agent, limit, reserved)| Step::Limits {
            agent,
            limit,
            reserved: reserved.min(limit),
        });
        let others = prop_oneof![
            4 => span.prop_map(Step::Advance),
            2 => limits,
            1 => (0_u32..6).prop_map(Step::Cap),
            2 => Just(Step::Look),
            1 => Just(Step::Lose),
        ];
        if state.asked.is_empty() {
            return prop_oneof![3 => acquire, 1 => others].boxed();
        }
        // Mostly recent leases: the old ones are lost in the same way each.
        let asked = state.asked.len();
        let lease = move || prop_oneof![3 => asked.saturating_sub(6)..asked, 1 => 0..asked];
        let renew = proptest::collection::vec((lease(), short()), 1..5).prop_map(Step::Renew);
        let readmit = proptest::collection::vec((lease(), short()), 1..4).prop_map(Step::Readmit);
        prop_oneof![8 => acquire, 4 => renew, 3 => readmit, 4 => lease().prop_map(Step::Release), 8 => others].boxed()
    }

    fn preconditions(state: &Self, step: &Step) -> bool {
        match step {
            Step::Renew(leases) | Step::Readmit(leases) => leases.iter().all(|(lease, _)| *lease < state.asked.len()),
            Step::Release(lease) => *lease < state.asked.len(),
            _ => true,
        }
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        state.expected = match step {
            Step::Acquire { .. } => state.acquire(step),
            Step::Renew(leases) => state.renew(leases),
            Step::Readmit(leases) => state.readmit(leases),
            Step::Lose => state.lose(),
            Step::Release(lease) => state.release(*lease),
            Step::Look => state.look(),
            Step::Limits { agent, limit, reserved } => {
                state.limits[*agent].push((*limit, *reserved));
                Expected::Nothing
            }
            Step::Cap(cap) => {
                state.caps.push(*cap);
                Expected::Nothing
            }
            Step::Advance(span_s) => {
                state.now_s += span_s;
                Expected::Nothing
            }
        };
        state
    }
}

/// One back-end living the same life.
#[derive(Debug)]
struct Witness {
    name: &'static str,
    store: Arc<dyn SlotStore>,
    /// The store's time at the model's second 0, learned from the first expiry that it tells.
    epoch: Option<Timestamp>,
    /// By agent: the last fence given.
    fences: [i64; AGENTS],
}

/// Both back-ends, a fresh tenant and fresh ids for each case.
struct Lives {
    runtime: &'static Runtime,
    stage: &'static Stage,
    witnesses: [Witness; 2],
    env: Env,
    tenant: TenantId,
    agents: [VoiceAgentId; AGENTS],
    calls: [CallId; CALLS],
    asked: Vec<(LeaseId, SessionId)>,
}

impl std::fmt::Debug for Lives {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lives").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// What all cases share: the servers are started once, and their clocks only move on.
struct Stage {
    runtime: Runtime,
    redis: Redis,
    memory: Memory,
}

static STAGE: std::sync::LazyLock<Stage> = std::sync::LazyLock::new(|| Stage {
    runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"),
    redis: Redis::start(),
    memory: Memory::start(),
});

impl Witness {
    /// Whether the store means the model's second.
    fn agrees(&mut self, told: Timestamp, expected_s: u64) {
        let epoch = *self.epoch.get_or_insert(told.minus(secs(expected_s)));
        let expected = epoch.plus(secs(expected_s));
        let apart = told.since(expected).max(expected.since(told));
        assert!(apart < DRIFT, "{}: {told} is {apart:?} from {expected}", self.name);
    }

    fn lease(&mut self, lives: &Names<'_>, told: &Lease, lease: usize, expiry_s: u64) {
        let (id, session) = lives.asked[lease];
        assert_eq!((told.id, told.session), (id, session), "{}", self.name);
        self.agrees(told.expires_at, expiry_s);
    }
}

/// The names of a case, apart from the witnesses that are compared by them.
struct Names<'a> {
    tenant: TenantId,
    agents: &'a [VoiceAgentId; AGENTS],
    calls: &'a [CallId; CALLS],
    asked: &'a [(LeaseId, SessionId)],
}

fn figures(usage: Usage) -> Figures {
    (usage.used, usage.used_outbound, usage.limit, usage.reserved_inbound)
}

impl Names<'_> {
    async fn acquire(&self, witness: &mut Witness, model: &Model, step: &Step) {
        let Step::Acquire { probe, agent, call, outbound, ttl_s, old_agent, old_tenant } = *step else {
            unreachable!("it is called with this step only")
        };
        let (version, cap_version) = model.brought(agent, old_agent, old_tenant);
        let (agent_limit, reserved_inbound) = model.limits[agent][version];
        let (lease, session) = *self.asked.last().expect("this one's names");
        let request = Acquire {
            agent: self.agents[agent],
            call: self.calls[call].clone(),
            lease,
            session,
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            priority: 0,
            ttl: secs(ttl_s),
            limits: Limits {
                agent_limit,
                reserved_inbound,
                agent_version: i64::try_from(version).expect("small"),
                tenant_limit: model.caps[cap_version],
                tenant_version: i64::try_from(cap_version).expect("small"),
            },
            draft: None,
        };
        let store = witness.store.clone();
        let answer = if probe { store.probe(self.tenant, &request) } else { store.acquire(self.tenant, &request) };
        let answer = match (&model.expected, answer.await) {
            (Expected::Recovering(left_s), Err(Error::Recovering { left })) => {
                assert!(left.abs_diff(secs(*left_s)) < DRIFT, "{}: {left:?}, expected {left_s} s", witness.name);
                return;
            }
            (_, answer) => {
                answer.unwrap_or_else(|error| panic!("{}: {error:?}, expected {:?}", witness.name, model.expected))
            }
        };
        match (&model.expected, answer) {
            (Expected::Granted { lease, expiry_s, usage }, Acquired::Granted { lease: told, usage: told_usage }) => {
                assert_eq!(figures(told_usage), *usage, "{}", witness.name);
                witness.lease(self, &told, *lease, *expiry_s);
                if probe {
                    assert_eq!(told.fence, 0, "{}", witness.name);
                } else {
                    assert!(told.fence > witness.fences[agent], "{}: fences rise", witness.name);
                    witness.fences[agent] = told.fence;
                }
            }
            (Expected::Existing { lease, expiry_s, usage }, Acquired::Existing { lease: told, usage: told_usage }) => {
                assert_eq!(figures(told_usage), *usage, "{}", witness.name);
                witness.lease(self, &told, *lease, *expiry_s);
            }
            (Expected::OtherAgent(agent), Acquired::OtherAgent { agent: told }) => {
                assert_eq!(told, self.agents[*agent], "{}", witness.name);
            }
            (Expected::Denied { scope, usage, tenant, wait_s }, Acquired::Denied(told)) => {
                assert_eq!((told.binding, figures(told.usage)), (*scope, *usage), "{}", witness.name);
                assert_eq!((told.tenant_used, told.tenant_limit), *tenant, "{}", witness.name);
                let apart = told.next_expiry_in.abs_diff(secs(*wait_s));
                assert!(apart < DRIFT, "{}: {told:?}, expected {wait_s} s", witness.name);
            }
            (expected, told) => panic!("{}: {told:?}, expected {expected:?}", witness.name),
        }
    }

    async fn renew(&self, witness: &mut Witness, model: &Model, leases: &[(usize, u64)]) {
        let renewal = |&(lease, ttl_s): &(usize, u64)| Renewal {
            call: self.calls[model.asked[lease].1].clone(),
            lease: self.asked[lease].0,
            ttl: secs(ttl_s),
        };
        let renewals: Vec<_> = leases.iter().map(renewal).collect();
        let told = witness.store.renew(self.tenant, &renewals).await.expect("it is up");
        Self::compare(witness, model, told);
    }

    async fn readmit(&self, witness: &mut Witness, model: &Model, leases: &[(usize, u64)]) {
        let proven = |&(lease, ttl_s): &(usize, u64)| {
            let (agent, call, outbound) = model.asked[lease];
            let (id, session) = self.asked[lease];
            debug_assert_eq!(id.agent(), self.agents[agent]);
            // Each its own, and lower than any that a store gives.
            let fence = i64::try_from(lease).expect("few") + 1;
            let direction = if outbound { Direction::Outbound } else { Direction::Inbound };
            let claim = LeaseClaim { lease: id, session, fence, direction, sandbox: false };
            Proven { call: self.calls[call].clone(), claim, ttl: secs(ttl_s) }
        };
        let proven: Vec<_> = leases.iter().map(proven).collect();
        let told = witness.store.readmit(self.tenant, &proven).await.expect("it is up");
        Self::compare(witness, model, told);
    }

    fn compare(witness: &mut Witness, model: &Model, told: Vec<Renewed>) {
        let Expected::Renewed(fates) = &model.expected else { unreachable!("the model renewed") };
        assert_eq!(told.len(), fates.len(), "{}", witness.name);
        for (told, fate) in told.into_iter().zip(fates) {
            match (told, fate) {
                (Renewed::Renewed { expires_at }, Fate::Renewed(expiry_s)) => witness.agrees(expires_at, *expiry_s),
                (Renewed::Readmitted { expires_at }, Fate::Readmitted(expiry_s)) => {
                    witness.agrees(expires_at, *expiry_s);
                }
                (Renewed::Lost, Fate::Lost)
                | (Renewed::Missing, Fate::Missing)
                | (Renewed::Released, Fate::Released) => {}
                (told, fate) => panic!("{}: {told:?}, expected {fate:?}", witness.name),
            }
        }
    }

    async fn release(&self, witness: &mut Witness, model: &Model, lease: usize) {
        let call = &self.calls[model.asked[lease].1];
        let told = witness.store.release(self.tenant, call, self.asked[lease].0).await.expect("it is up");
        let told = Expected::Released(told.released, figures(told.usage));
        assert_eq!(told, model.expected, "{}", witness.name);
    }

    async fn look(&self, witness: &mut Witness, model: &Model) {
        let Expected::Seen { agents, tenant, leases } = model.look() else { unreachable!("the model looked") };
        for (agent, expected) in self.agents.iter().zip(agents) {
            let told = witness.store.usage(self.tenant, *agent).await.expect("it is up");
            assert_eq!(figures(told), expected, "{}", witness.name);
        }
        let told = witness.store.tenant_usage(self.tenant).await.expect("it is up");
        assert_eq!((told.used, told.limit), tenant, "{}", witness.name);
        let told = witness.store.leases(self.tenant, self.calls).await.expect("it is up");
        for (told, expected) in told.iter().zip(leases) {
            match (told, expected) {
                (Some(told), Some((lease, expiry_s))) => witness.lease(self, told, lease, expiry_s),
                (None, None) => {}
                (told, expected) => panic!("{}: {told:?}, expected {expected:?}", witness.name),
            }
        }
    }
}

impl StateMachineTest for Lives {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let (stage, env) = (&*STAGE, Env::system());
        let witness = |name, store| Witness { name, store, epoch: None, fences: [0; AGENTS] };
        Self {
            runtime: &stage.runtime,
            stage,
            witnesses: [witness("redis", stage.redis.store()), witness("memory", stage.memory.store())],
            tenant: TenantId::new(&env),
            agents: std::array::from_fn(|_| VoiceAgentId::new(&env)),
            calls: std::array::from_fn(|call| format!("call-{call}").parse().expect("a call id")),
            asked: Vec::new(),
            env,
        }
    }

    fn apply(mut lives: Self, model: &Model, step: Step) -> Self {
        if let Step::Acquire { agent, .. } = step {
            lives.asked.push((LeaseId::new(&lives.env, lives.agents[agent]), SessionId::new(&lives.env)));
        }
        if let Step::Advance(span_s) = step {
            lives.stage.redis.advance(secs(span_s));
            lives.stage.memory.advance(secs(span_s));
        }
        if let Step::Lose = step {
            lives.stage.redis.lose_everything();
            lives.stage.memory.lose_everything();
        }
        let names = Names { tenant: lives.tenant, agents: &lives.agents, calls: &lives.calls, asked: &lives.asked };
        lives.runtime.block_on(async {
            for witness in &mut lives.witnesses {
                match &step {
                    Step::Acquire { .. } => names.acquire(witness, model, &step).await,
                    Step::Renew(leases) => names.renew(witness, model, leases).await,
                    Step::Readmit(leases) => names.readmit(witness, model, leases).await,
                    Step::Release(lease) => names.release(witness, model, *lease).await,
                    Step::Look | Step::Advance(_) | Step::Lose => names.look(witness, model).await,
                    Step::Limits { .. } | Step::Cap(_) => {}
                }
            }
        });
        lives
    }

    /// Ends with a look at everything, so that no step goes unseen.
    fn teardown(mut lives: Self, model: Model) {
        let names = Names { tenant: lives.tenant, agents: &lives.agents, calls: &lives.calls, asked: &lives.asked };
        lives.runtime.block_on(async {
            for witness in &mut lives.witnesses {
                names.look(witness, &model).await;
            }
        });
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: 2_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_model_redis_and_memory_live_the_same_life(sequential 1..24 => Lives);
}
