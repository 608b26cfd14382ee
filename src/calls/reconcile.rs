//! The three-way check: leases, open sessions, and what the nodes themselves say they host, are to be the same calls.
//!
//! They drift when something crashes between two steps, and all of it heals by itself when leases run out. The check
//! finds what does not, counts it by kind, and heals it. Nothing is healed on one look: the three are read one after the
//! other, so what is in the middle of its own change looks like drift. What is still there at the next look is drift.
//!
//! Deliberately absent: leases that the store has lost. While a tenant recovers, an absent lease says nothing.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Calls, finish::Node};
use crate::{
    domain::{
        Result, Timestamp,
        ids::{CallId, LeaseId, SessionId, TenantId},
        lease::{LEASE_TTL_MAX, Lease, RENEW_MAX, Renewed},
        lease_token::LeaseClaim,
        node::{NodeAddress, Postbox as _, ToNode},
        session::{Outcome, SessionStatus},
    },
    sessions::ActiveCall,
};

/// Looks that a tenant is given after its last call: some longest leases.
const LOOK_AFTER: u32 = 20;
/// Calls of one tenant that are compared in one look. A tenant with more is looked at in part, and the rest heals by its
/// leases.
const MOST: usize = 20_000;

/// What can be without its counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drift {
    LeaseWithoutSession,
    SessionWithoutLease,
    NodeCallWithoutSession,
    SessionNotOnNode,
}

impl Drift {
    const fn as_str(self) -> &'static str {
        match self {
            Self::LeaseWithoutSession => "lease_without_session",
            Self::SessionWithoutLease => "session_without_lease",
            Self::NodeCallWithoutSession => "node_call_without_session",
            Self::SessionNotOnNode => "session_not_on_node",
        }
    }
}

/// What a look has found and not yet healed.
#[derive(Debug, Default)]
struct Suspects {
    rounds: u32,
    /// The round in which a tenant last had a call.
    tenants: HashMap<TenantId, u32>,
    leases: Twice<LeaseId>,
    sessions: Twice<SessionId>,
    on_nodes: Twice<(NodeAddress, LeaseId)>,
    not_on_nodes: Twice<SessionId>,
}

/// Lets through what was seen in the round before as well.
#[derive(Debug)]
struct Twice<T> {
    before: HashSet<T>,
    now: HashSet<T>,
}

impl<T> Default for Twice<T> {
    fn default() -> Self {
        Self { before: HashSet::new(), now: HashSet::new() }
    }
}

impl<T: Eq + Hash> Twice<T> {
    fn again(&mut self, item: T) -> bool {
        let again = self.before.contains(&item);
        self.now.insert(item);
        again
    }

    fn next_round(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

impl Suspects {
    fn next_round(&mut self) {
        self.rounds += 1;
        self.leases.next_round();
        self.sessions.next_round();
        self.on_nodes.next_round();
        self.not_on_nodes.next_round();
    }
}

impl Calls {
    /// Looks, again and again, until told to stop.
    pub async fn reconcile_until(&self, stop: CancellationToken) {
        let mut suspects = Suspects::default();
        let every = Duration::from_millis(self.settings.reconcile_interval_ms);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            if let Err(error) = self.reconcile(&mut suspects).await {
                // A look that broke off has not seen everything twice: the next one begins anew.
                suspects = Suspects { rounds: suspects.rounds, tenants: suspects.tenants, ..Suspects::default() };
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "leases, sessions and nodes were not compared"
                );
            }
        }
    }

    async fn reconcile(&self, suspects: &mut Suspects) -> Result<()> {
        let nodes = self.nodes.addresses();
        let round = suspects.rounds;
        let busy = nodes.iter().map(|node| node.tenant).chain(self.sessions.tenants_with_calls().await?);
        suspects.tenants.extend(busy.map(|tenant| (tenant, round)));
        // One whose last call has ended may have left a lease behind.
        suspects.tenants.retain(|_, last| round - *last <= LOOK_AFTER);
        let tenants: Vec<TenantId> = suspects.tenants.keys().copied().collect();
        for tenant in tenants {
            let sessions = self.sessions.active_calls(tenant, MOST).await?;
            self.check_sessions(tenant, &sessions, suspects).await?;
            self.check_leases(tenant, &sessions, suspects).await?;
            for node in nodes.iter().filter(|node| node.tenant == tenant) {
                self.check_node(node, &sessions, suspects).await?;
            }
        }
        suspects.next_round();
        Ok(())
    }

    /// Ends sessions whose lease is gone.
    async fn check_sessions(&self, tenant: TenantId, calls: &[ActiveCall], suspects: &mut Suspects) -> Result<()> {
        for batch in calls.chunks(RENEW_MAX) {
            let named: Vec<_> = batch.iter().map(|call| (call.call.clone(), call.lease)).collect();
            for (call, fate) in batch.iter().zip(self.slots.fates(tenant, &named).await?) {
                let gone = matches!(fate, Renewed::Lost | Renewed::Released);
                if gone && suspects.sessions.again(call.session) {
                    drifted(Drift::SessionWithoutLease, &call.call, call.lease);
                    let outcome = if call.node.is_some() { Outcome::NodeLost } else { Outcome::LeaseExpired };
                    self.end_ghost(tenant, call.session, outcome).await?;
                }
            }
        }
        Ok(())
    }

    /// Frees slots that no active session holds.
    async fn check_leases(&self, tenant: TenantId, calls: &[ActiveCall], suspects: &mut Suspects) -> Result<()> {
        let known: HashSet<LeaseId> = calls.iter().map(|call| call.lease).collect();
        let leases = self.slots.live(tenant, MOST).await?;
        let unknown: Vec<Lease> = leases.into_iter().filter(|lease| !known.contains(&lease.id)).collect();
        let ids: Vec<SessionId> = unknown.iter().map(|lease| lease.session).collect();
        let statuses = self.statuses_of(tenant, &ids).await?;
        for lease in unknown {
            let orphan = match statuses.get(&lease.session) {
                Some(status) => *status != SessionStatus::Active,
                // Its session may be on its way into the database. A fence tells when it was given.
                None => Timestamp::from_micros(lease.fence).plus(LEASE_TTL_MAX) < self.env.now(),
            };
            if orphan && suspects.leases.again(lease.id) {
                // It may wait to be written by another replica: asked for, it is.
                if self.sessions.get(tenant, lease.session).await?.is_some_and(|session| session.is_active()) {
                    continue;
                }
                drifted(Drift::LeaseWithoutSession, &lease.call, lease.id);
                self.slots.release(tenant, &lease.call, lease.id).await?;
            }
        }
        Ok(())
    }

    /// Tells the node of calls that are over, and ends those that it had and has no longer.
    async fn check_node(&self, node: &NodeAddress, calls: &[ActiveCall], suspects: &mut Suspects) -> Result<()> {
        let hosted: HashMap<CallId, LeaseClaim> = self.nodes.calls(node).into_iter().collect();
        let ids: Vec<SessionId> = hosted.values().map(|claim| claim.session).collect();
        let statuses = self.statuses_of(node.tenant, &ids).await?;
        for (call, claim) in &hosted {
            let over = statuses.get(&claim.session).is_some_and(|status| *status != SessionStatus::Active);
            if over && suspects.on_nodes.again((node.clone(), claim.lease)) {
                drifted(Drift::NodeCallWithoutSession, call, claim.lease);
                self.nodes.unassign(node, call, claim.lease);
                let ended = self.sessions.get(node.tenant, claim.session).await?;
                let message = match ended.and_then(|session| session.outcome) {
                    Some(outcome) => {
                        let reason = format!("the session ended with {}", outcome.as_str());
                        ToNode::EndCall { call: call.clone(), outcome, reason }
                    }
                    None => {
                        ToNode::LeaseLost { call: call.clone(), lease: self.leases.sign(node.tenant, call, *claim) }
                    }
                };
                let _ = self.nodes.post(node, message);
            }
        }
        // Only a node that lists its calls can leave one out, and only one that it had.
        let listed = self.nodes.take_listed(node);
        let theirs =
            calls.iter().filter(|call| call.ws_connected && call.node_address(node.tenant).as_ref() == Some(node));
        for call in theirs.filter(|call| listed.as_ref().is_some_and(|listed| !listed.contains(&call.call))) {
            if suspects.not_on_nodes.again(call.session) {
                drifted(Drift::SessionNotOnNode, &call.call, call.lease);
                self.end_ghost(node.tenant, call.session, Outcome::NodeLost).await?;
            }
        }
        Ok(())
    }

    async fn end_ghost(&self, tenant: TenantId, session: SessionId, outcome: Outcome) -> Result<()> {
        match self.sessions.get(tenant, session).await? {
            Some(session) => self.finish(&session, outcome, Node::Tell).await.map(|_| ()),
            None => Ok(()),
        }
    }

    async fn statuses_of(&self, tenant: TenantId, ids: &[SessionId]) -> Result<HashMap<SessionId, SessionStatus>> {
        let mut statuses = HashMap::new();
        for batch in ids.chunks(RENEW_MAX) {
            statuses.extend(self.sessions.statuses(tenant, batch).await?);
        }
        Ok(statuses)
    }
}

fn drifted(kind: Drift, call: &CallId, lease: LeaseId) {
    tracing::warn!(
        drift.kind = kind.as_str(), call.id = %call, lease.id = %lease, "leases, sessions and nodes differed; healed"
    );
    metrics::counter!("voxgate_drift_total", "kind" => kind.as_str()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_what_two_looks_in_a_row_have_seen() {
        let mut twice = Twice::default();
        assert!(!twice.again("a") && !twice.again("b"));
        twice.next_round();
        assert!(twice.again("a"));
        twice.next_round();
        assert!(twice.again("a") && !twice.again("b"), "b was not there in between");
    }
}
