//! Whether a history can be true of a store that keeps its promises.
//!
//! A client knows of a lease from the answer that named it, and until its expiry as last told or the first attempt to
//! release it, whichever comes first. Within that span the lease was live for certain, whatever happened to replies; so
//! what the spans show is real, and every operation without an answer is counted on the store's side. Times are those of
//! the machine that the store's clock is of.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

/// One operation: when it began, when it ended (µs), and what was answered.
#[derive(Debug, Clone)]
pub(super) struct Op {
    pub(super) from: i64,
    pub(super) until: i64,
    pub(super) call: String,
    pub(super) agent: usize,
    /// By AwaitSlot, where it asked for a slot.
    pub(super) waited: bool,
    pub(super) did: Did,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Did {
    Acquired {
        lease: String,
        fence: i64,
        expires: i64,
    },
    Denied,
    /// Waited for as long as it would, in vain.
    TimedOut,
    /// Hung up while it waited: the call is over.
    HungUp,
    /// No answer, or one that says nothing about what was done.
    MayHaveAcquired,
    Renewed {
        lease: String,
        expires: i64,
    },
    Lost {
        lease: String,
    },
    MayHaveRenewed,
    Released {
        lease: String,
        was_held: bool,
    },
    MayHaveReleased {
        lease: String,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Violation {
    AboveTheLimit { of: String, held: usize, limit: u32, at: i64, leases: Vec<String> },
    TwoLeasesOfOneCall { call: String, leases: [String; 2] },
    OneFenceTwice { agent: usize, fence: i64 },
    FenceFell { earlier: (String, i64), later: (String, i64) },
    LiveLeaseCalledLost { lease: String, at: i64, live: (i64, i64) },
    RefusedWhatItHolds { call: String, lease: String, at: i64, live: (i64, i64) },
    ReleasedTwice { lease: String },
}

#[derive(Debug)]
pub(super) struct Found {
    pub(super) violations: Vec<Violation>,
    pub(super) figures: Figures,
}

#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) grants: usize,
    pub(super) waits: Waits,
    denied: usize,
    renewed: usize,
    released: usize,
    lost: usize,
    unanswered: usize,
    most_at_once: BTreeMap<String, usize>,
}

/// How calls of AwaitSlot ended.
#[derive(Debug, Default)]
pub(super) struct Waits {
    pub(super) granted: usize,
    pub(super) timed_out: usize,
    pub(super) hung_up: usize,
    broken: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grants, waits, denied, renewed, released, lost, unanswered, most_at_once } = self;
        let Waits { granted, timed_out, hung_up, broken } = waits;
        write!(
            f,
            "{grants} leases, {denied} denials, {renewed} renewals, {released} releases, {lost} lost, {unanswered} \
             without an answer; of waits {granted} granted, {timed_out} timed out, {hung_up} hung up, {broken} broken; \
             held at once {most_at_once:?}"
        )
    }
}

/// What is certain of one lease.
#[derive(Debug)]
struct Life {
    call: String,
    agent: usize,
    fence: i64,
    /// The first answer that named it.
    known: i64,
    expires: i64,
    let_go: i64,
    releases: usize,
}

impl Life {
    fn ends(&self) -> i64 {
        self.expires.min(self.let_go)
    }
}

pub(super) fn check(history: &[Op], limits: &[u32], cap: u32) -> Found {
    let lives = lives(history);
    let mut figures = figures(history);
    figures.grants = lives.len();
    let mut violations = Vec::new();
    for (agent, limit) in limits.iter().enumerate() {
        let name = format!("agent {agent}");
        let most = above(&lives, |life| life.agent == agent, &name, *limit, &mut violations);
        figures.most_at_once.insert(name, most);
    }
    let most = above(&lives, |_| true, "tenant", cap, &mut violations);
    figures.most_at_once.insert("tenant".to_owned(), most);
    two_of_one_call(&lives, &mut violations);
    fences(history, &lives, limits.len(), &mut violations);
    called_lost(history, &lives, &mut violations);
    let twice = lives.iter().filter(|(_, life)| life.releases > 1);
    violations.extend(twice.map(|(lease, _)| Violation::ReleasedTwice { lease: lease.clone() }));
    refused_what_it_holds(history, &lives, &mut violations);
    Found { violations, figures }
}

fn lives(history: &[Op]) -> HashMap<String, Life> {
    let mut lives: HashMap<String, Life> = HashMap::new();
    for op in history {
        if let Did::Acquired { lease, fence, expires } = &op.did {
            let life = lives.entry(lease.clone()).or_insert_with(|| Life {
                call: op.call.clone(),
                agent: op.agent,
                fence: *fence,
                known: op.until,
                expires: *expires,
                let_go: i64::MAX,
                releases: 0,
            });
            life.known = life.known.min(op.until);
            life.expires = life.expires.max(*expires);
        }
    }
    for op in history {
        match &op.did {
            Did::Renewed { lease, expires } => {
                if let Some(life) = lives.get_mut(lease) {
                    life.expires = life.expires.max(*expires);
                }
            }
            Did::Released { lease, .. } | Did::MayHaveReleased { lease } => {
                if let Some(life) = lives.get_mut(lease) {
                    life.let_go = life.let_go.min(op.from);
                    life.releases += usize::from(matches!(op.did, Did::Released { was_held: true, .. }));
                }
            }
            _ => {}
        }
    }
    lives
}

/// How many leases were live at once, at most; each rise above the limit is a violation.
fn above(
    lives: &HashMap<String, Life>,
    counts: impl Fn(&Life) -> bool,
    of: &str,
    limit: u32,
    violations: &mut Vec<Violation>,
) -> usize {
    let spans = lives.iter().filter(|(_, life)| counts(life) && life.known < life.ends());
    // At one moment, ends come before beginnings.
    let mut events: Vec<_> =
        spans.flat_map(|(lease, life)| [(life.known, true, lease), (life.ends(), false, lease)]).collect();
    events.sort_unstable();
    let (mut held, mut most) = (Vec::new(), 0);
    for (at, begins, lease) in events {
        if !begins {
            held.retain(|it| it != lease);
            continue;
        }
        held.push(lease.clone());
        most = most.max(held.len());
        if held.len() > limit as usize {
            let (of, held, leases) = (of.to_owned(), held.len(), held.clone());
            violations.push(Violation::AboveTheLimit { of, held, limit, at, leases });
        }
    }
    most
}

fn two_of_one_call(lives: &HashMap<String, Life>, violations: &mut Vec<Violation>) {
    let mut by_call: HashMap<&str, Vec<(&String, &Life)>> = HashMap::new();
    for (lease, life) in lives {
        by_call.entry(&life.call).or_default().push((lease, life));
    }
    for (call, mut leases) in by_call {
        leases.sort_unstable_by_key(|(_, life)| life.known);
        for pair in leases.windows(2) {
            let [(first, earlier), (second, later)] = pair else { continue };
            if later.known < earlier.ends() && later.known < later.ends() {
                let leases = [(*first).clone(), (*second).clone()];
                violations.push(Violation::TwoLeasesOfOneCall { call: call.to_owned(), leases });
            }
        }
    }
}

/// A lease whose grant was known before another's was asked for has the smaller fence.
fn fences(history: &[Op], lives: &HashMap<String, Life>, agents: usize, violations: &mut Vec<Violation>) {
    // A lease may have been granted by any try of its call that has no answer, not only by the one that named it; and by a
    // wait that timed out just then, if it could not take its ticket back at once: what it was offered is claimed by the
    // next try.
    let mut asked: HashMap<&str, i64> = HashMap::new();
    for op in history {
        if matches!(op.did, Did::Acquired { .. } | Did::MayHaveAcquired | Did::TimedOut | Did::HungUp) {
            let first = asked.entry(&op.call).or_insert(op.from);
            *first = op.from.min(*first);
        }
    }
    for agent in 0..agents {
        let mut known: Vec<_> = lives.iter().filter(|(_, life)| life.agent == agent).collect();
        let mut seen = std::collections::HashSet::new();
        let again = known.iter().filter(|(_, life)| !seen.insert(life.fence));
        violations.extend(again.map(|(_, life)| Violation::OneFenceTwice { agent, fence: life.fence }));
        known.sort_unstable_by_key(|(_, life)| life.known);
        let mut later: Vec<_> = known.iter().map(|(lease, life)| (asked[life.call.as_str()], *lease, *life)).collect();
        later.sort_unstable_by_key(|(asked, ..)| *asked);
        let (mut earlier, mut highest) = (known.iter().peekable(), None::<(&String, i64)>);
        for (asked, lease, life) in later {
            while let Some((name, before)) = earlier.next_if(|(_, before)| before.known < asked) {
                if highest.is_none_or(|(_, fence)| fence < before.fence) {
                    highest = Some((name, before.fence));
                }
            }
            if let Some((name, fence)) = highest
                && fence >= life.fence
            {
                let (earlier, later) = ((name.clone(), fence), (lease.clone(), life.fence));
                violations.push(Violation::FenceFell { earlier, later });
            }
        }
    }
}

fn called_lost(history: &[Op], lives: &HashMap<String, Life>, violations: &mut Vec<Violation>) {
    for op in history {
        let Did::Lost { lease } = &op.did else { continue };
        let Some(life) = lives.get(lease) else { continue };
        if life.known < op.from && op.until < life.ends() {
            let span = (life.known, life.ends());
            violations.push(Violation::LiveLeaseCalledLost { lease: lease.clone(), at: op.from, live: span });
        }
    }
}

/// Whoever asks again for a call that holds a lease is answered that one, whatever is full and however short the wait.
fn refused_what_it_holds(history: &[Op], lives: &HashMap<String, Life>, violations: &mut Vec<Violation>) {
    let mut by_call: HashMap<&str, Vec<(&String, &Life)>> = HashMap::new();
    for (lease, life) in lives {
        by_call.entry(&life.call).or_default().push((lease, life));
    }
    for op in history.iter().filter(|op| matches!(op.did, Did::Denied | Did::TimedOut)) {
        let held = by_call.get(op.call.as_str()).into_iter().flatten();
        for (lease, life) in held.filter(|(_, life)| life.known < op.from && op.until < life.ends()) {
            let (call, lease, live) = (op.call.clone(), (*lease).clone(), (life.known, life.ends()));
            violations.push(Violation::RefusedWhatItHolds { call, lease, at: op.from, live });
        }
    }
}

fn figures(history: &[Op]) -> Figures {
    let mut figures = Figures::default();
    for op in history {
        match op.did {
            Did::Acquired { .. } if op.waited => figures.waits.granted += 1,
            Did::MayHaveAcquired if op.waited => figures.waits.broken += 1,
            Did::TimedOut => figures.waits.timed_out += 1,
            Did::HungUp => figures.waits.hung_up += 1,
            Did::Acquired { .. } => {}
            Did::Denied => figures.denied += 1,
            Did::Renewed { .. } => figures.renewed += 1,
            Did::Released { .. } => figures.released += 1,
            Did::Lost { .. } => figures.lost += 1,
            Did::MayHaveAcquired | Did::MayHaveRenewed | Did::MayHaveReleased { .. } => figures.unanswered += 1,
        }
    }
    figures
}

/// A checker that finds nothing must be one that can.
mod tests {
    use super::*;

    fn op(from: i64, call: &str, did: Did) -> Op {
        Op { from, until: from + 1, call: call.to_owned(), agent: 0, waited: false, did }
    }

    fn acquired(from: i64, call: &str, lease: &str, fence: i64) -> Op {
        op(from, call, Did::Acquired { lease: lease.to_owned(), fence, expires: 100 })
    }

    fn released(from: i64, call: &str, lease: &str) -> Op {
        op(from, call, Did::Released { lease: lease.to_owned(), was_held: true })
    }

    fn found(history: &[Op]) -> Vec<Violation> {
        check(history, &[1], 10).violations
    }

    #[test]
    fn a_history_that_can_be_true_is_passed() {
        let history = [
            op(0, "a", Did::MayHaveAcquired),
            acquired(5, "a", "L1", 1),
            op(7, "b", Did::Denied),
            op(7, "b", Did::TimedOut),
            op(8, "a", Did::Renewed { lease: "L1".into(), expires: 120 }),
            released(10, "a", "L1"),
            acquired(11, "b", "L2", 2),
            op(120, "b", Did::Lost { lease: "L2".into() }),
        ];
        assert_eq!(found(&history), []);
    }

    #[test]
    fn each_broken_promise_is_found() {
        let above = found(&[acquired(0, "a", "L1", 1), acquired(5, "b", "L2", 2)]);
        assert!(matches!(&above[..], [Violation::AboveTheLimit { held: 2, limit: 1, .. }]), "{above:?}");
        let two = check(&[acquired(0, "a", "L1", 1), acquired(5, "a", "L2", 2)], &[5], 10).violations;
        assert!(matches!(&two[..], [Violation::TwoLeasesOfOneCall { .. }]), "{two:?}");
        let lives = [acquired(0, "a", "L1", 7), released(5, "a", "L1")];
        let twice = found(&[&lives[..], &[acquired(9, "b", "L2", 7)]].concat());
        assert!(twice.iter().any(|it| matches!(it, Violation::OneFenceTwice { fence: 7, .. })), "{twice:?}");
        let fell = found(&[&lives[..], &[acquired(9, "b", "L2", 6)]].concat());
        assert!(matches!(&fell[..], [Violation::FenceFell { .. }]), "{fell:?}");
        let lost = found(&[acquired(0, "a", "L1", 1), op(50, "a", Did::Lost { lease: "L1".into() })]);
        assert!(matches!(&lost[..], [Violation::LiveLeaseCalledLost { .. }]), "{lost:?}");
        for refused in [Did::Denied, Did::TimedOut] {
            let refused = found(&[acquired(0, "a", "L1", 1), op(50, "a", refused)]);
            assert!(matches!(&refused[..], [Violation::RefusedWhatItHolds { .. }]), "{refused:?}");
        }
        let again = found(&[&lives[..], &[released(8, "a", "L1")]].concat());
        assert!(matches!(&again[..], [Violation::ReleasedTwice { .. }]), "{again:?}");
        let cap = check(&[acquired(0, "a", "L1", 1), acquired(5, "b", "L2", 2)], &[5], 1).violations;
        assert!(matches!(&cap[..], [Violation::AboveTheLimit { limit: 1, .. }]), "{cap:?}");
    }

    #[test]
    fn what_an_unanswered_try_may_have_done_is_held_against_nobody() {
        let history = [
            // The release may have happened, and so may the first try of b.
            acquired(0, "a", "L1", 5),
            op(3, "b", Did::MayHaveAcquired),
            op(4, "a", Did::MayHaveReleased { lease: "L1".into() }),
            op(13, "b", Did::TimedOut),
            // What a wait that was hung up may have been granted was nobody's, and its fence may be any since.
            op(15, "c", Did::HungUp),
            acquired(20, "b", "L2", 4),
        ];
        let found = check(&history, &[1], 10).violations;
        assert!(found.iter().all(|it| matches!(it, Violation::FenceFell { .. })), "{found:?}");
        assert_eq!(found.len(), 1, "L1 was known before b was first asked for: {found:?}");
        let offered = [op(0, "b", Did::TimedOut), acquired(2, "a", "L1", 5), acquired(20, "b", "L2", 4)];
        assert_eq!(check(&offered, &[2], 10).violations, []);
    }
}
