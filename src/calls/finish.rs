//! Ends a session and frees its slot, once, whoever asks.

use super::Calls;
use crate::domain::{
    Error, Result,
    ids::CallId,
    lease::Released,
    lease_token::LeaseToken,
    node::{Postbox as _, ToNode},
    principal::Principal,
    session::{Outcome, Session},
};

/// Whether the call's node has still to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Tell,
    /// It was the node that said so.
    Knows,
}

impl Calls {
    /// Ends the session if it is active and frees its slot; answers it as it ended, or nothing if another was first.
    pub(super) async fn finish(&self, session: &Session, outcome: Outcome, node: Node) -> Result<Option<Session>> {
        let ended = self.end(session, outcome, node).await?;
        if let Some(ended) = &ended {
            self.free(ended).await;
        }
        Ok(ended)
    }

    /// Ends the session and leaves its slot to the caller.
    async fn end(&self, session: &Session, outcome: Outcome, node: Node) -> Result<Option<Session>> {
        let ended = self.sessions.end(session.tenant, session.id, outcome, self.env.now()).await?;
        if let Some(ended) = &ended {
            tracing::info!(
                call.id = %ended.call, session.id = %ended.id, session.outcome = outcome.as_str(), "session ended"
            );
            metrics::counter!("voxgate_sessions_ended_total", "outcome" => outcome.as_str()).increment(1);
            self.leave_node(ended, outcome, node);
        }
        Ok(ended)
    }

    /// Releases a slot by name and ends its session. Twice is a success that says `released: false`.
    pub async fn release(
        &self,
        principal: &Principal,
        call: CallId,
        lease: LeaseToken,
        outcome: Option<Outcome>,
    ) -> Result<Released> {
        let (calls, tenant, sandbox) = (self.clone(), principal.tenant(), principal.sandbox());
        self.to_the_end(async move {
            let claim = calls.leases.verify(tenant, &call, &lease);
            // A sandbox key's hands do not reach a live call: to it, the lease is one that nobody holds.
            let Some(claim) = claim.filter(|claim| !sandbox || claim.sandbox) else {
                let usage = calls.slots.usage(tenant, lease.claimed().lease.agent()).await?;
                return Ok(Released { released: false, usage });
            };
            let session = calls.sessions.get(tenant, claim.session).await?;
            // The slot first: a lease that is no longer the call's must touch no other's. Should we crash before the
            // session has ended, the caller's next try ends it, or else the sweep.
            let released = calls.slots.release(tenant, &call, claim.lease).await;
            if matches!(released, Err(ref error) if !matches!(error, Error::Unavailable(..))) {
                return released;
            }
            // A release that the store cannot take now is kept: the slot comes free, so the session ends.
            if let Some(session) = session.filter(Session::is_active) {
                let outcome = outcome.unwrap_or(Outcome::Released);
                calls.persist(|| calls.end(&session, outcome, Node::Tell)).await?;
            }
            released
        })
        .await
    }

    fn leave_node(&self, session: &Session, outcome: Outcome, node: Node) {
        let Some(address) = session.node_address() else { return };
        self.nodes.unassign(&address, &session.call, session.lease);
        if node == Node::Tell {
            let reason = format!("the session ended with {}", outcome.as_str());
            // A node that is not connected here learns it when it presents the call again.
            let _ = self.nodes.post(&address, ToNode::EndCall { call: session.call.clone(), outcome, reason });
        }
    }

    /// The session has ended, so its slot must come free even if the store is away just now: what it does not take is
    /// kept and tried again, and the lease's own expiry stands behind that.
    async fn free(&self, session: &Session) {
        if let Err(error) = self.slots.release(session.tenant, &session.call, session.lease).await {
            tracing::warn!(
                call.id = %session.call, lease.id = %session.lease, error = &error as &dyn std::error::Error,
                "a slot is yet to be released"
            );
        }
    }
}
