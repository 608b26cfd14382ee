//! What was told, and how it is read: the fullest first.

use std::{
    cmp::Reverse,
    collections::HashMap,
    time::{Duration, Instant},
};

use super::replicas::Sample;
use crate::proto::v1::Usage;

/// The name of the line that is about the tenant.
const TENANT: &str = "(tenant)";

/// What the connection tells.
#[derive(Debug)]
pub(super) enum News {
    /// Whom it watches.
    Agents {
        all: Vec<Agent>,
        /// Of those whom it does not.
        note: Option<String>,
    },
    /// Of an agent, or of the tenant.
    Usage {
        agent: Option<String>,
        usage: Usage,
    },
    /// The agent is no more.
    Gone(String),
    /// What the replica of this number told, or why it told nothing.
    Replica {
        replica: usize,
        told: Result<Sample, String>,
    },
    Lost {
        why: String,
        again_in: Duration,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) name: String,
    /// Empty: it takes calls.
    pub(super) status: &'static str,
}

/// What is known of one agent or of the tenant.
#[derive(Debug)]
struct Known {
    name: String,
    status: &'static str,
    /// What was told last, and when.
    told: Option<(Usage, Instant)>,
}

#[derive(Debug)]
enum State {
    Connecting,
    Live,
    Lost { why: String, since: Instant, again_at: Instant },
}

/// Everything that is shown.
#[derive(Debug)]
pub struct View {
    endpoint: String,
    tenant: Known,
    agents: HashMap<String, Known>,
    note: Option<String>,
    state: State,
    are_listed: bool,
    replicas: Vec<Replica>,
}

/// What is known of one replica.
#[derive(Debug)]
struct Replica {
    admin: String,
    before: Option<Sample>,
    last: Option<Sample>,
    fault: Option<String>,
}

/// One replica, as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ReplicaLine {
    pub(super) admin: String,
    /// Why nothing is known of it now.
    pub(super) fault: Option<String>,
    pub(super) told: Option<Sample>,
    /// Calls that were given a slot, a second; nothing before it was asked twice.
    pub(super) granted: Option<f64>,
    /// Denials a second by reason, the most frequent first.
    pub(super) denied: Vec<(String, f64)>,
}

/// One agent, or the tenant, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) status: &'static str,
    /// Nothing was told of it yet.
    pub(super) usage: Option<Shown>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) used: u32,
    /// 0: none of its own.
    pub(super) limit: u32,
    pub(super) reserved_inbound: u32,
    pub(super) used_outbound: u32,
    pub(super) queued: u32,
    /// How long the first of them has waited by now.
    pub(super) oldest: Option<Duration>,
}

impl Shown {
    fn of(usage: &Usage, for_so_long: Duration) -> Self {
        let count = |it: i32| u32::try_from(it).unwrap_or(0);
        // While it waits on nothing is told, so its time goes on here.
        let oldest = usage.oldest_waiter.map(|it| Duration::try_from(it).unwrap_or_default() + for_so_long);
        Self {
            used: count(usage.used),
            limit: count(usage.limit),
            reserved_inbound: count(usage.reserved_inbound),
            used_outbound: count(usage.used_outbound),
            queued: count(usage.queued),
            oldest,
        }
    }

    /// Of its slots, in per cent; above 100 where a limit was lowered. Nothing without a limit.
    pub(super) fn per_cent(&self) -> Option<u64> {
        (u64::from(self.used) * 100).checked_div(u64::from(self.limit))
    }

    /// In millionths, to sort by.
    fn share(&self) -> u64 {
        (u64::from(self.used) * 1_000_000).checked_div(u64::from(self.limit)).unwrap_or(0)
    }
}

impl Known {
    fn named(name: &str, status: &'static str) -> Self {
        Self { name: without_control(name), status, told: None }
    }

    fn line(&self, now: Instant, stopped: Option<Instant>) -> Line {
        let until = stopped.unwrap_or(now);
        let usage = self.told.as_ref().map(|(usage, at)| Shown::of(usage, until.saturating_duration_since(*at)));
        Line { name: self.name.clone(), status: self.status, usage }
    }
}

impl Replica {
    fn line(&self) -> ReplicaLine {
        let (mut granted, mut denied) = (None, Vec::new());
        if let (Some(before), Some(last)) = (&self.before, &self.last) {
            let passed = last.at.saturating_duration_since(before.at).as_secs_f64().max(f64::EPSILON);
            granted = Some((last.granted - before.granted).max(0.0) / passed);
            // One that has started again counts from 0.
            let more = |(reason, count): (&String, &f64)| (count - before.denied.get(reason).unwrap_or(&0.0)) / passed;
            let rates = last.denied.iter().map(|it| (it.0.clone(), more(it)));
            denied = rates.filter(|(_, rate)| *rate > 0.0).collect();
            denied.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        }
        ReplicaLine { admin: self.admin.clone(), fault: self.fault.clone(), told: self.last.clone(), granted, denied }
    }

    fn take_in(&mut self, told: Result<Sample, String>) {
        match told {
            Ok(sample) => {
                self.before = self.last.replace(sample);
                self.fault = None;
            }
            // What it told is no longer so, and what it tells next has no time before it.
            Err(why) => {
                (self.before, self.last) = (None, None);
                self.fault = Some(without_control(&why));
            }
        }
    }
}

/// A terminal obeys control characters, and what is shown is somebody else's.
fn without_control(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect()
}

impl View {
    /// Of a service that has told nothing yet, and of the replicas with these admin ports.
    pub fn new(endpoint: &str, admins: &[String]) -> Self {
        let replica = |admin: &String| Replica { admin: admin.clone(), before: None, last: None, fault: None };
        Self {
            endpoint: endpoint.to_owned(),
            tenant: Known::named(TENANT, ""),
            agents: HashMap::new(),
            note: None,
            state: State::Connecting,
            are_listed: false,
            replicas: admins.iter().map(replica).collect(),
        }
    }

    pub(super) fn take_in(&mut self, news: News, now: Instant) {
        match news {
            News::Agents { all, note } => {
                let mut before = std::mem::take(&mut self.agents);
                for Agent { id, name, status } in all {
                    let told = before.remove(&id).and_then(|known| known.told);
                    self.agents.insert(id, Known { told, ..Known::named(&name, status) });
                }
                (self.note, self.state, self.are_listed) = (note, State::Live, true);
            }
            News::Usage { agent: None, usage } => self.tenant.told = Some((usage, now)),
            News::Usage { agent: Some(id), usage } => {
                if let Some(known) = self.agents.get_mut(&id) {
                    known.told = Some((usage, now));
                }
            }
            News::Gone(id) => {
                self.agents.remove(&id);
            }
            News::Replica { replica, told } => {
                if let Some(replica) = self.replicas.get_mut(replica) {
                    replica.take_in(told);
                }
            }
            News::Lost { why, again_in } => {
                let since = match self.state {
                    State::Lost { since, .. } => since,
                    _ => now,
                };
                self.state = State::Lost { why: without_control(&why), since, again_at: now + again_in };
            }
        }
    }

    /// Whether everybody who is watched was told of, and of each replica how it goes on or why nobody knows.
    pub(super) fn is_complete(&self) -> bool {
        let are_told = self.agents.values().all(|known| known.told.is_some());
        let are_known = self.replicas.iter().all(|replica| replica.before.is_some() || replica.fault.is_some());
        self.are_listed && self.tenant.told.is_some() && are_told && are_known
    }

    /// Whether anything was told.
    pub(super) fn is_told(&self) -> bool {
        self.tenant.told.is_some() || self.agents.values().any(|known| known.told.is_some())
    }

    /// Whether what is shown is no longer so for sure.
    pub(super) fn is_old(&self) -> bool {
        !matches!(self.state, State::Live)
    }

    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// In words: connected, or since when not and why.
    pub(super) fn state(&self, now: Instant) -> String {
        match &self.state {
            State::Connecting => "connecting".to_owned(),
            State::Live => "connected".to_owned(),
            State::Lost { why, since, again_at } => format!(
                "lost {} s ago ({why}), tried again in {:.1} s",
                now.saturating_duration_since(*since).as_secs(),
                again_at.saturating_duration_since(now).as_secs_f32()
            ),
        }
    }

    fn stopped(&self) -> Option<Instant> {
        match self.state {
            State::Lost { since, .. } => Some(since),
            State::Connecting | State::Live => None,
        }
    }

    pub(super) fn tenant(&self, now: Instant) -> Line {
        self.tenant.line(now, self.stopped())
    }

    /// In the order in which they were named.
    pub(super) fn replicas(&self) -> Vec<ReplicaLine> {
        self.replicas.iter().map(Replica::line).collect()
    }

    /// The fullest first, then the longest queue, then by name.
    pub(super) fn agents(&self, now: Instant) -> Vec<Line> {
        let mut lines: Vec<_> = self.agents.values().map(|known| known.line(now, self.stopped())).collect();
        lines.sort_by_cached_key(|line| {
            let share = line.usage.as_ref().map(Shown::share);
            let queued = line.usage.map(|usage| usage.queued);
            (Reverse(share), Reverse(queued), line.name.clone())
        });
        lines
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn usage(used: i32, limit: i32, queued: i32) -> Usage {
        let oldest_waiter = (queued > 0).then_some(prost_types::Duration { seconds: 2, nanos: 0 });
        Usage { used, limit, queued, oldest_waiter, ..Usage::default() }
    }

    /// A view of these agents, each told of at `at`.
    pub(in super::super) fn view_of(agents: &[(&str, &'static str, Usage)], at: Instant) -> View {
        let mut view = View::new("http://127.0.0.1:50051", &[]);
        let named = |(name, status, _): &(&str, &'static str, Usage)| Agent {
            id: (*name).to_owned(),
            name: (*name).to_owned(),
            status,
        };
        view.take_in(News::Agents { all: agents.iter().map(named).collect(), note: None }, at);
        let used = agents.iter().map(|(.., usage)| usage.used).sum();
        view.take_in(News::Usage { agent: None, usage: usage(used, 0, 0) }, at);
        for (name, _, usage) in agents {
            view.take_in(News::Usage { agent: Some((*name).to_owned()), usage: usage.clone() }, at);
        }
        view
    }

    fn sample(at: tokio::time::Instant, granted: f64, denied: &[(&str, f64)]) -> Sample {
        let denied = denied.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        Sample { at, ready: true, slots: 12.0, queued: 1.0, nodes: 2.0, granted, denied }
    }

    /// One replica that has told twice within two seconds, and one that is away.
    pub(in super::super) fn view_of_replicas(now: Instant) -> View {
        let admins = ["http://10.0.0.1:9090", "http://10.0.0.2:9090"].map(str::to_owned);
        let mut view = View::new("http://127.0.0.1:50051", &admins);
        view.take_in(News::Agents { all: Vec::new(), note: None }, now);
        view.take_in(News::Usage { agent: None, usage: usage(12, 0, 1) }, now);
        let at = tokio::time::Instant::from_std(now);
        let full = "MAX_CONCURRENT_EXCEEDED (agent)";
        let mut told = |replica, told| view.take_in(News::Replica { replica, told }, now);
        told(0, Ok(sample(at, 100.0, &[(full, 7.0)])));
        told(0, Ok(sample(at + Duration::from_secs(2), 150.0, &[(full, 10.0), ("QUEUE_FULL", 1.0)])));
        told(1, Err("connection refused\x1b[2J".to_owned()));
        view
    }

    #[test]
    fn a_replica_that_starts_again_or_comes_back_has_no_rate_below_nothing() {
        let now = Instant::now();
        let mut view = view_of_replicas(now);
        assert!(view.is_complete());
        let at = tokio::time::Instant::from_std(now) + Duration::from_secs(3);
        view.take_in(News::Replica { replica: 0, told: Ok(sample(at, 1.0, &[("QUEUE_FULL", 0.0)])) }, now);
        let line = &view.replicas()[0];
        assert_eq!((line.granted, line.denied.as_slice()), (Some(0.0), &[][..]));
        view.take_in(News::Replica { replica: 1, told: Ok(sample(at, 1.0, &[])) }, now);
        assert_eq!((view.replicas()[1].granted, view.is_complete()), (None, false));
    }

    fn names(view: &View, now: Instant) -> Vec<String> {
        view.agents(now).into_iter().map(|line| line.name).collect()
    }

    #[test]
    fn the_fullest_come_first_then_those_with_the_longest_queue() {
        let now = Instant::now();
        let agents = [
            ("b", "", usage(5, 10, 0)),
            ("c", "", usage(11, 10, 0)),
            ("a", "", usage(1, 2, 3)),
            ("d", "", usage(0, 9, 0)),
        ];
        assert_eq!(names(&view_of(&agents, now), now), ["c", "a", "b", "d"]);
    }

    #[test]
    fn what_was_told_stays_when_the_connection_is_lost_and_its_waiters_wait_no_longer() {
        let now = Instant::now();
        let mut view = view_of(&[("a", "", usage(1, 2, 3))], now);
        let oldest = |view: &View, at| view.agents(at)[0].usage.and_then(|usage| usage.oldest).map(|it| it.as_secs());
        assert_eq!((view.is_old(), oldest(&view, now + Duration::from_secs(3))), (false, Some(5)));
        let lost = |secs| News::Lost { why: "away\u{1b}[2J".to_owned(), again_in: Duration::from_secs(secs) };
        view.take_in(lost(1), now + Duration::from_secs(4));
        view.take_in(lost(5), now + Duration::from_secs(6));
        let later = now + Duration::from_secs(9);
        assert_eq!((view.is_old(), oldest(&view, later)), (true, Some(6)));
        assert_eq!(view.state(later), "lost 5 s ago (away\u{fffd}[2J), tried again in 2.0 s");
        view.take_in(News::Agents { all: Vec::new(), note: None }, later);
        assert!(!view.is_old() && view.agents(later).is_empty());
    }

    #[test]
    fn an_agent_that_is_gone_is_shown_no_longer_and_one_of_which_nothing_was_told_is_last() {
        let now = Instant::now();
        let mut view = view_of(&[("a", "", usage(1, 2, 0)), ("b", "", usage(0, 2, 0))], now);
        assert!(view.is_complete());
        let agent = |name: &str| Agent { id: name.to_owned(), name: name.to_owned(), status: "" };
        view.take_in(News::Agents { all: ["0", "a", "b"].map(agent).into(), note: None }, now);
        assert!(!view.is_complete() && view.is_told());
        assert_eq!(names(&view, now), ["a", "b", "0"]);
        view.take_in(News::Gone("0".to_owned()), now);
        assert!(view.is_complete());
    }

    #[test]
    fn a_terminal_is_given_no_control_characters() {
        let now = Instant::now();
        assert_eq!(names(&view_of(&[("a\x1b[2Jb", "", usage(0, 1, 0))], now), now), ["a\u{fffd}[2Jb"]);
    }
}
