//! What a node is told, wherever it is connected: by the replica that has something to say, and by the one that has the
//! node's stream.

use std::time::Duration;

use futures_util::FutureExt as _;
use secrecy::SecretString;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    Calls,
    attributes::{of_command, of_letter},
    lanes::Lanes,
};
use crate::{
    control::{Attachment, Connected, Delivery, Letter, MAILBOX},
    domain::{
        Error, Result,
        ids::{CallId, LeaseId, SessionId, TenantId},
        lease::Lease,
        node::{Assignment, Command, NodeAddress, Postbox as _, ToNode},
        queue::ReplicaId,
        session::{Outcome, Session},
    },
    nodes::Origin,
    traces::{Kind, Span},
};

/// Calls of one node that are read side by side when it is told of them.
const AT_ONCE: usize = 16;
/// How often what is connected elsewhere is looked at, for tenants that have nodes there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Calls {
    /// Brings a stream its mail, of each call in order, until the stream ends or another one takes its place.
    pub(super) fn deliver(&self, attachment: Attachment, mut mail: mpsc::Receiver<Delivery>) {
        let calls = self.clone();
        let lanes = {
            let (calls, attachment) = (calls.clone(), attachment.clone());
            let hand_over = move |(number, letter): (u64, Box<Letter>)| {
                let (calls, attachment) = (calls.clone(), attachment.clone());
                async move { calls.hand_over(&attachment, number, *letter).await }.boxed()
            };
            Lanes::new(self.workers.clone(), (AT_ONCE, MAILBOX), hand_over)
        };
        let work = async move {
            while let Some(delivery) = mail.recv().await {
                match delivery {
                    Delivery::Letter { number, letter } => {
                        let call = letter.call().clone();
                        lanes.give(call.as_str(), (number, letter)).await;
                    }
                    Delivery::TakenOver => calls.nodes.give_up(&attachment.node, attachment.stream),
                }
            }
        };
        self.workers.spawn(work.in_current_span());
    }

    async fn hand_over(&self, to: &Attachment, number: u64, letter: Letter) {
        let node = &to.node;
        match letter {
            Letter::Command { command, reply_to } => return self.hand_over_command(node, (number, reply_to), command),
            Letter::Assign { session, .. } => {
                if let Err(error) = self.assign_here(node, session).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(node.id = %node.node, session.id = %session, error, "a node is not told of its call");
                }
            }
            Letter::End { call, lease, outcome, reason } => {
                self.nodes.unassign(node, &call, lease);
                let _ = self.nodes.post(node, ToNode::EndCall { call, outcome, reason });
            }
        }
        self.bus.settle(node, Some(number), None).await;
    }

    fn hand_over_command(&self, node: &NodeAddress, (number, reply_to): (u64, ReplicaId), mut command: Command) {
        let received = Span::within(command.trace.as_ref(), Kind::Consumer, "receive command");
        let received = received.with(|| of_letter(self.bus.system(), "process", &command, node));
        let given = Span::within(received.context(), Kind::Client, "dispatch command");
        let given = given.with(|| of_command(&command, node));
        command.trace = given.context().cloned();
        let origin = Origin { number, reply_to, trace: command.trace.clone() };
        // One that the stream does not take is kept for the next.
        let _ = self.nodes.command(node, command, origin, given);
    }

    /// The call was admitted on another replica, for a node that is connected here.
    async fn assign_here(&self, node: &NodeAddress, session: SessionId) -> Result<()> {
        let session = self.persist(|| self.sessions.get(node.tenant, session)).await?;
        let Some(session) = session.filter(|it| it.is_active() && it.node_address().as_ref() == Some(node)) else {
            return Ok(());
        };
        let lease = self.slots.leases(session.tenant, std::slice::from_ref(&session.call)).await?.pop().flatten();
        let Some(lease) = lease.filter(|lease| lease.id == session.lease) else { return Ok(()) };
        let agent = self.agents.at(session.tenant, session.agent, session.agent_revision).await?;
        let secret = self.agents.reveal(&agent)?;
        self.assign(node, &session, secret.as_ref(), &lease)
    }

    /// Tells the call's node, if it does not know the call: now, or again after a crash between the session and this.
    pub(super) async fn tell_node(
        &self,
        session: &Session,
        secret: Option<&SecretString>,
        lease: &Lease,
    ) -> Result<()> {
        let Some(address) = session.node_address() else {
            self.keep(session, lease);
            return Ok(());
        };
        if self.nodes.profile(&address).is_some() {
            // Reserved is not told: only a node that has answered for the call surely knows it.
            let known = session.state.ws_connected && self.nodes.hosts(&address, &session.call, lease.id);
            return if known { Ok(()) } else { self.assign(&address, session, secret, lease) };
        }
        if !session.state.ws_connected {
            // A node that is connected nowhere presents the call when it comes.
            let letter = Letter::Assign { call: session.call.clone(), session: session.id };
            if self.bus.send(&address, letter).await.is_err() {
                self.keep(session, lease);
            }
        }
        Ok(())
    }

    fn assign(
        &self,
        node: &NodeAddress,
        session: &Session,
        secret: Option<&SecretString>,
        lease: &Lease,
    ) -> Result<()> {
        let token = self.tokens.sign(session)?;
        let assignment = Assignment {
            session: session.clone(),
            auth_token: secret.cloned(),
            lease_expires_at: lease.expires_at,
            lease: self.lease_token(session),
            token: token.text,
            token_expires_at: token.expires_at,
        };
        match self.nodes.post(node, ToNode::CallAssigned(Box::new(assignment))) {
            Ok(()) => {
                let refresh_at = self.tokens.refresh_at(session, self.env.now());
                self.nodes.assign(node, &session.call, session.claim(), refresh_at);
            }
            Err(_) => {
                tracing::warn!(node.id = %node.node, call.id = %session.call, "the call's node takes no message");
                self.nodes.unassign(node, &session.call, lease.id);
            }
        }
        Ok(())
    }

    /// The call is over, and its node has not said so.
    pub(super) fn tell_of_end(&self, node: &NodeAddress, (call, lease): (&CallId, LeaseId), outcome: Outcome) {
        let reason = format!("the session ended with {}", outcome.as_str());
        let told = ToNode::EndCall { call: call.clone(), outcome, reason: reason.clone() };
        if self.nodes.post(node, told).is_ok() {
            return;
        }
        let (calls, node) = (self.clone(), node.clone());
        let letter = Letter::End { call: call.clone(), lease, outcome, reason };
        self.tasks.spawn(async move {
            // A node that is connected nowhere learns it when it presents the call again.
            let _ = calls.bus.send(&node, letter).await;
        });
    }

    /// Learns which nodes of the tenant are connected to other replicas, unless that is known.
    pub(super) async fn know_nodes(&self, tenant: TenantId) {
        if !self.nodes.knows_elsewhere(tenant, Instant::now()) {
            self.look_at_nodes(tenant).await;
        }
    }

    async fn look_at_nodes(&self, tenant: TenantId) {
        match self.bus.connected(tenant).await {
            Ok(connected) => {
                let own = self.bus.replica();
                let elsewhere = connected.into_iter().filter(|node| node.replica != own);
                let known = elsewhere.map(|Connected { node, sandbox, profile, load, .. }| {
                    (NodeAddress { tenant, sandbox, node }, profile, load)
                });
                self.nodes.learn(tenant, known.collect(), Instant::now());
            }
            Err(Error::Unavailable(..)) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(tenant.id = %tenant, error, "nodes of other replicas cannot be looked for");
            }
        }
    }

    /// Keeps what is known of other replicas' nodes as old as a look, until `closing`.
    pub async fn look_at_nodes_until(&self, closing: CancellationToken) {
        let work = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                for tenant in self.nodes.watched_elsewhere(Instant::now()) {
                    self.look_at_nodes(tenant).await;
                }
            }
        };
        closing.run_until_cancelled(work).await;
    }
}
