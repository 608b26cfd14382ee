//! Ends a session and frees its slot, once, whoever asks.

use tokio::sync::mpsc;

use super::Calls;
use crate::domain::{
    Error, Result,
    error::Dependency,
    ids::{CallId, LeaseId, SessionId, TenantId},
    journal::{Ending, Freed},
    lease::Released,
    lease_token::LeaseToken,
    node::NodeAddress,
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
            self.free(ended.tenant, &ended.call, ended.lease).await;
        }
        Ok(ended)
    }

    /// Ends the session and leaves its slot to the caller.
    pub(super) async fn end(&self, session: &Session, outcome: Outcome, node: Node) -> Result<Option<Session>> {
        let ended = self.sessions.end(session.tenant, session.id, outcome, self.env.now()).await?;
        if let Some(ended) = &ended {
            note_end(&ended.call, ended.id, outcome);
            self.leave_node(ended, outcome, node);
        }
        Ok(ended)
    }

    /// The session has ended with the verb that a node has carried out: its slot is free, and the node has no part in it.
    pub(super) async fn let_go_of(&self, ended: &Session, node: Node) {
        let outcome = ended.outcome.unwrap_or(Outcome::Hangup);
        note_end(&ended.call, ended.id, outcome);
        self.leave_node(ended, outcome, node);
        self.free(ended.tenant, &ended.call, ended.lease).await;
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
            let outcome = outcome.unwrap_or(Outcome::Released);
            let host = calls.nodes.host_of(tenant, &call, claim.lease);
            let released = calls.let_go(tenant, (&call, claim.lease), outcome).await;
            match (&released, host) {
                (Ok(Released { released: true, .. }), Some(address)) => {
                    calls.dismiss(&address, (&call, claim.lease), outcome, Node::Tell);
                }
                (Ok(Released { released: true, .. }), None) => {}
                // A release that the store cannot take now is kept: the slot comes free, so the session ends.
                (Ok(_) | Err(Error::Unavailable(Dependency::SlotStore, _)), _) => {
                    calls.end_late(tenant, claim.session, outcome).await?;
                }
                (Err(_), _) => {}
            }
            released
        })
        .await
    }

    /// Frees a slot and tells the journal how its session ended: in two steps, of which the first says both.
    pub(super) async fn let_go(
        &self,
        tenant: TenantId,
        (call, lease): (&CallId, LeaseId),
        outcome: Outcome,
    ) -> Result<Released> {
        let ending = Ending { outcome, at: self.env.now() };
        let freed = self.slots.release_ending(tenant, call, lease, &ending).await?;
        self.kept.forget(lease);
        self.note_freed(tenant, call, freed, outcome).await
    }

    /// Frees the slot of a session that its caller never heard of. It stays if the call has asked again since, maybe through
    /// another replica, and been answered it.
    pub(super) async fn give_up(&self, session: &Session, outcome: Outcome) -> Result<()> {
        let (tenant, call, lease) = (session.tenant, &session.call, session.lease);
        let ending = Ending { outcome, at: self.env.now() };
        let freed = self.slots.give_up(tenant, call, lease, &ending).await?;
        if self.note_freed(tenant, call, freed, outcome).await?.released {
            self.kept.forget(lease);
            self.leave_node(session, outcome, Node::Tell);
        }
        Ok(())
    }

    async fn note_freed(&self, tenant: TenantId, call: &CallId, freed: Freed, outcome: Outcome) -> Result<Released> {
        if let Some(session) = freed.session {
            note_end(call, session.session, outcome);
            self.persist(|| self.journal.ended(tenant, session.clone())).await?;
        }
        Ok(freed.released)
    }

    /// The slot was free already, or is yet to be freed. The session ends as its holder says, if it lives.
    async fn end_late(&self, tenant: TenantId, session: SessionId, outcome: Outcome) -> Result<()> {
        let late = async {
            match self.sessions.get(tenant, session).await?.filter(Session::is_active) {
                Some(session) => self.end(&session, outcome, Node::Tell).await.map(|_| ()),
                None => Ok(()),
            }
        };
        match late.await {
            // A release that is kept says how the session ended; where nothing was there to be released, the sweep ends it.
            Err(Error::Unavailable(..)) => Ok(()),
            done => done,
        }
    }

    /// Frees the slots of sessions whose agent was deleted before they were written, and tells their nodes.
    pub async fn dismiss_without_agent(&self, mut orphaned: mpsc::Receiver<Session>) {
        while let Some(session) = orphaned.recv().await {
            note_end(&session.call, session.id, Outcome::AgentDeleted);
            self.leave_node(&session, Outcome::AgentDeleted, Node::Tell);
            self.free(session.tenant, &session.call, session.lease).await;
        }
    }

    fn leave_node(&self, session: &Session, outcome: Outcome, node: Node) {
        if let Some(address) = session.node_address() {
            self.dismiss(&address, (&session.call, session.lease), outcome, node);
        }
    }

    fn dismiss(&self, address: &NodeAddress, (call, lease): (&CallId, LeaseId), outcome: Outcome, node: Node) {
        self.nodes.unassign(address, call, lease);
        if node == Node::Tell {
            self.tell_of_end(address, (call, lease), outcome);
        }
    }

    /// The session has ended, so its slot must come free even if the store is away just now: what it does not take is
    /// kept and tried again, and the lease's own expiry stands behind that.
    pub(super) async fn free(&self, tenant: TenantId, call: &CallId, lease: LeaseId) {
        self.kept.forget(lease);
        if let Err(error) = self.slots.release(tenant, call, lease).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(call.id = %call, lease.id = %lease, error, "a slot is yet to be released");
        }
    }
}

fn note_end(call: &CallId, session: SessionId, outcome: Outcome) {
    tracing::info!(call.id = %call, session.id = %session, session.outcome = outcome.as_str(), "session ended");
    metrics::counter!("voxgate_sessions_ended_total", "outcome" => outcome.as_str()).increment(1);
}
