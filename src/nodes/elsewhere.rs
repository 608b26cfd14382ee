//! The nodes that are connected to other replicas, as far as choosing one for a call takes.
//!
//! What a replica says of its nodes is a few seconds old. So that many calls at once do not all go to the node that was
//! idle then, each that is sent there counts until its replica has said something new.

use std::{cmp::Ordering, collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::domain::{
    ids::TenantId,
    node::{NodeAddress, NodeProfile},
    voice_agent::Subprotocol,
};

/// A tenant for whose nodes nobody has asked for so long is not looked at.
const WATCHED_FOR: Duration = Duration::from_mins(1);
/// Of a tenant that has no node elsewhere, how old what is known may be: that one has come is told.
const NOBODY_FOR: Duration = Duration::from_secs(10);

/// How much of its capacity a node carries; of two, the less loaded comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) load: usize,
    pub(super) capacity: u32,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        // Compared without dividing.
        let left = self.load as u64 * u64::from(other.capacity);
        let right = other.load as u64 * u64::from(self.capacity);
        left.cmp(&right)
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug, Default)]
pub(super) struct Elsewhere(HashMap<TenantId, Known>);

#[derive(Debug)]
struct Known {
    asked_at: Instant,
    learnt_at: Instant,
    nodes: HashMap<NodeAddress, Node>,
}

#[derive(Debug)]
struct Node {
    profile: NodeProfile,
    /// As its replica last said.
    said: usize,
    /// Calls that were sent there since.
    sent: usize,
}

impl Node {
    const fn share(&self) -> Share {
        Share { load: self.said + self.sent, capacity: self.profile.capacity }
    }

    fn has_room(&self) -> bool {
        self.said + self.sent < self.profile.capacity as usize
    }
}

impl Elsewhere {
    pub(super) fn is_known(&mut self, tenant: TenantId, now: Instant) -> bool {
        let known = self.0.get_mut(&tenant);
        known.is_some_and(|known| {
            known.asked_at = now;
            true
        })
    }

    pub(super) fn learn(&mut self, tenant: TenantId, connected: Vec<(NodeAddress, NodeProfile, usize)>, now: Instant) {
        let (asked_at, mut before) = match self.0.remove(&tenant) {
            Some(known) => (known.asked_at, known.nodes),
            None => (now, HashMap::new()),
        };
        let with_those_sent = |(address, profile, said): (NodeAddress, NodeProfile, usize)| {
            // What was said before counts none of them; what is new counts them all.
            let sent = before.remove(&address).filter(|node| node.said == said).map_or(0, |node| node.sent);
            (address, Node { profile, said, sent })
        };
        let nodes = connected.into_iter().map(with_those_sent).collect();
        self.0.insert(tenant, Known { asked_at, learnt_at: now, nodes });
    }

    pub(super) fn forget(&mut self, tenant: Option<TenantId>) {
        match tenant {
            Some(tenant) => {
                self.0.remove(&tenant);
            }
            None => self.0.clear(),
        }
    }

    pub(super) fn watched(&mut self, now: Instant) -> Vec<TenantId> {
        self.0.retain(|_, known| now.duration_since(known.asked_at) < WATCHED_FOR);
        let is_old = |known: &Known| !known.nodes.is_empty() || now.duration_since(known.learnt_at) >= NOBODY_FOR;
        self.0.iter().filter(|(_, known)| is_old(known)).map(|(tenant, _)| *tenant).collect()
    }

    /// Takes room on the least loaded node that fits, if it is less loaded than `here`.
    pub(super) fn take_room(
        &mut self,
        tenant: TenantId,
        sandbox: bool,
        subprotocol: Subprotocol,
        here: Option<Share>,
    ) -> Option<NodeAddress> {
        let (address, node) = self
            .0
            .get_mut(&tenant)?
            .nodes
            .iter_mut()
            .filter(|(address, node)| address.sandbox == sandbox && node.profile.subprotocol == subprotocol)
            .filter(|(_, node)| node.has_room() && here.is_none_or(|here| node.share() < here))
            .min_by(|(a, x), (b, y)| x.share().cmp(&y.share()).then_with(|| a.node.cmp(&b.node)))?;
        node.sent += 1;
        Some(address.clone())
    }

    /// A call that was sent there did not get its slot, or is counted by now.
    pub(super) fn give_back(&mut self, address: &NodeAddress) {
        if let Some(node) = self.0.get_mut(&address.tenant).and_then(|known| known.nodes.get_mut(address)) {
            node.sent = node.sent.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Env;

    fn profile(capacity: u32) -> NodeProfile {
        NodeProfile { subprotocol: Subprotocol::AudioDrachtioOrg, capacity, version: "test".into() }
    }

    #[test]
    fn a_burst_of_calls_is_dealt_to_all_nodes_though_what_they_say_is_old() {
        let (tenant, now) = (TenantId::new(&Env::system()), Instant::now());
        let node = |name: &str| NodeAddress { tenant, sandbox: false, node: name.parse().expect("a node id") };
        let mut elsewhere = Elsewhere::default();
        assert!(!elsewhere.is_known(tenant, now));
        let said = |of_a| vec![(node("a"), profile(10), of_a), (node("b"), profile(20), 0)];
        elsewhere.learn(tenant, said(0), now);
        assert!(elsewhere.is_known(tenant, now));
        let mut take = |here| elsewhere.take_room(tenant, false, Subprotocol::AudioDrachtioOrg, here);
        let taken: Vec<_> = (0..30).map(|_| take(None).expect("room").node.to_string()).collect();
        assert_eq!(taken.iter().filter(|name| *name == "a").count(), 10, "by capacity: {taken:?}");
        assert_eq!(take(None), None, "both are full");
        elsewhere.learn(tenant, said(0), now);
        let mut take = |here| elsewhere.take_room(tenant, false, Subprotocol::AudioDrachtioOrg, here);
        assert_eq!(take(None), None, "nothing new was said");
        elsewhere.learn(tenant, said(9), now);
        let mut take = |here| elsewhere.take_room(tenant, false, Subprotocol::AudioDrachtioOrg, here);
        assert_eq!(take(Some(Share { load: 0, capacity: 1 })), None, "an idle node here comes first");
        assert_eq!(take(None), Some(node("a")), "it has said something new");
        elsewhere.give_back(&node("a"));
        let mut take = |sandbox| elsewhere.take_room(tenant, sandbox, Subprotocol::AudioDrachtioOrg, None);
        assert_eq!((take(true), take(false)), (None, Some(node("a"))));
    }

    #[test]
    fn nobody_looks_at_tenants_that_nobody_asks_for() {
        let (tenant, now) = (TenantId::new(&Env::system()), Instant::now());
        let mut elsewhere = Elsewhere::default();
        elsewhere.learn(tenant, Vec::new(), now);
        assert!(elsewhere.watched(now).is_empty(), "it has no nodes");
        assert_eq!(elsewhere.watched(now + NOBODY_FOR), [tenant]);
        assert!(elsewhere.watched(now + WATCHED_FOR).is_empty());
        assert!(!elsewhere.is_known(tenant, now), "forgotten");
    }
}
