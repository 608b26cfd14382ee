//! One media node's stream: what it says of its calls, and what follows from that.
//!
//! A heartbeat renews all leases of the node. A lease that is gone is told to the node (LeaseLost), a session that has ended
//! likewise (EndCall): the node is never left with a call that nobody counts. A node that leaves keeps its calls until
//! their leases run out, and takes them up again if it is back by then.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

use super::{
    Calls,
    credential::Credential,
    finish::Node,
    node_events::{Sayings, Told},
};
use crate::{
    control::{Attachment, MAILBOX},
    domain::{
        Error, Result,
        clock::Timestamp,
        ids::{CallId, OperationId},
        lease::{Proven, RENEW_MAX, Renewed},
        lease_token::LeaseClaim,
        node::{CallEvent, Hello, LiveCall, NodeAddress, Postbox as _, ToNode},
        operation::Acknowledgement,
        principal::Principal,
        session::{Outcome, Session},
        tenant::Scope,
    },
    nodes::Connection,
};

/// Calls of one node that are looked at side by side when it presents them: their leases wait for it.
const TAKE_UPS: usize = 16;

/// How many of them are renewed as soon as they are looked at.
const RENEWED_TOGETHER: usize = 64;

/// When a token is tried to be replaced again, where that failed: well before it expires.
const REFRESH_RETRY: Duration = Duration::from_secs(20);

/// How long a call's session is waited for before its lease is renewed without: a Hello must not wait for it.
const TAKE_UP_PATIENCE: Duration = Duration::from_secs(2);

/// A node's stream after its Hello.
#[derive(Debug)]
pub struct NodeStream {
    calls: Calls,
    connection: Connection,
    attachment: Attachment,
    credential: Credential,
    sayings: Sayings,
}

/// The answer to a Hello.
#[derive(Debug)]
pub struct Welcome {
    pub heartbeat_interval: Duration,
    /// How long a call outlives its node.
    pub reconnect_grace: Duration,
    /// What became of the calls that the node presented.
    pub fates: Vec<(CallId, Renewed)>,
    pub now: Timestamp,
}

impl Calls {
    /// Takes a node in, with the calls that it hosts already.
    pub async fn connect_node(
        &self,
        principal: &Principal,
        hello: Hello,
    ) -> Result<(NodeStream, Welcome, mpsc::Receiver<ToNode>)> {
        let credential = Credential::of(principal).ok_or(Error::ScopeRequired(Scope::NodesConnect))?;
        if principal.sandbox() && !hello.sandbox {
            return Err(Error::invalid("hello.sandbox", "must be true: the credential is a sandbox one"));
        }
        let address = NodeAddress { tenant: principal.tenant(), sandbox: hello.sandbox, node: hello.node };
        let sayings = self.sayings_of(&address);
        let (connection, inbox) = self.nodes.connect(address.clone(), hello.profile.clone());
        let attachment = Attachment { node: address, stream: connection.stream, profile: hello.profile };
        let stream = NodeStream { calls: self.clone(), connection, attachment, credential, sayings };
        let fates = stream.adopt(hello.calls).await?;
        stream.attach().await?;
        let welcome = Welcome {
            heartbeat_interval: Duration::from_millis(self.settings.heartbeat_interval_ms),
            reconnect_grace: Duration::from_millis(self.settings.heartbeat_lease_ms),
            fates,
            now: self.env.now(),
        };
        let node = &stream.connection.address.node;
        tracing::info!(node.id = %node, node.calls = welcome.fates.len(), "media node connected");
        Ok((stream, welcome, inbox))
    }
}

impl NodeStream {
    pub fn address(&self) -> &NodeAddress {
        &self.connection.address
    }

    /// False once another stream speaks for the node.
    pub fn is_current(&self) -> bool {
        self.connection.is_current()
    }

    /// Speaks for the node from now on, and brings it what it has not settled.
    async fn attach(&self) -> Result<()> {
        let (mailbox, mail) = mpsc::channel(MAILBOX);
        self.calls.deliver(self.attachment.clone(), mail);
        match self.calls.bus.attach(&self.attachment, mailbox).await {
            // It is tried again with each look after the stream.
            Err(error @ Error::Unavailable(..)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a node is not announced to other replicas");
                Ok(())
            }
            attached => attached,
        }
    }

    /// Says to the other replicas that the node is here, unless another stream has taken its place.
    async fn keep(&self) -> Result<()> {
        let load = self.calls.nodes.load(self.address());
        if !self.calls.bus.keep(&self.attachment, load).await? {
            self.calls.nodes.give_up(self.address(), self.attachment.stream);
        }
        Ok(())
    }

    /// Renews the leases of `live`, or of every call that is the node's if there are none.
    pub async fn heartbeat(&self, live: Vec<LiveCall>) -> Result<()> {
        let renewed = async {
            if live.is_empty() {
                self.renew(self.calls.nodes.calls(self.address())).await
            } else {
                self.adopt(live).await
            }
        };
        let (renewed, refreshed) = tokio::join!(renewed, self.refresh_tokens());
        renewed.map(|_| ()).and(refreshed)
    }

    /// Replaces the tokens that are old enough; the node passes the new ones on.
    async fn refresh_tokens(&self) -> Result<()> {
        let (calls, address, now) = (&self.calls, self.address(), self.calls.env.now());
        for (call, claim) in calls.nodes.due_refreshes(address, now, now.plus(REFRESH_RETRY)) {
            let Some(session) = calls.sessions.get(address.tenant, claim.session).await?.filter(Session::is_active)
            else {
                continue;
            };
            let token = calls.tokens.sign(&session)?;
            let told = ToNode::TokenRefresh { call: call.clone(), token: token.text, expires_at: token.expires_at };
            if calls.nodes.post(address, told).is_ok() && calls.nodes.hosts(address, &call, claim.lease) {
                calls.nodes.assign(address, &call, claim, calls.tokens.refresh_at(&session, now));
            }
        }
        Ok(())
    }

    /// Takes note of what became of a command.
    pub async fn command_result(&self, operation: OperationId, answer: Acknowledgement) {
        // What the node has let go its heartbeats must not keep, whatever fails from here on.
        match self.calls.nodes.answered(self.address(), operation, answer.is_ok()) {
            Some((call, origin)) => {
                self.sayings.give(call.as_str(), Told::Answer { operation, answer, origin: Some(origin) }).await;
            }
            None => {
                let late = Told::Answer { operation, answer, origin: None };
                self.sayings.give(&operation.to_string(), late).await;
            }
        }
    }

    /// Takes note of what happened to a call.
    pub async fn call_event(&self, call: CallId, event: CallEvent) {
        if event == CallEvent::CallerHangup {
            // The node has let the call go: its heartbeats must not keep the lease, whatever fails from here on.
            if let Some(claim) = self.calls.nodes.let_go(self.address(), &call) {
                let lease = claim.lease;
                return self.sayings.give(call.clone().as_str(), Told::Hangup { call, lease }).await;
            }
        }
        self.sayings.give(call.clone().as_str(), Told::Event { call, event }).await;
    }

    /// Says to the other replicas, as long as the stream lasts, that the node is here, whether or not it says anything
    /// itself. Ends when the stream's credential opens nothing any more, and answers why: what was revoked, has expired or
    /// was rotated away does not keep a stream that it opened before.
    pub async fn tend(&self) -> Error {
        loop {
            tokio::time::sleep(Duration::from_millis(self.calls.settings.heartbeat_interval_ms)).await;
            let looked = async { tokio::join!(self.keep(), self.calls.check_credential(self.credential)) };
            let (kept, checked) = Box::pin(looked).await;
            if let Err(error) = kept {
                tracing::warn!(error = &error as &dyn std::error::Error, "other replicas do not hear of a node");
            }
            if let Err(error) = checked {
                return error;
            }
        }
    }

    /// Takes up the calls that the node says it hosts, where their lease is what it says.
    ///
    /// A call whose session is not the one of that lease, or has ended, is not renewed, whatever the slot store says:
    /// its lease is given back, and the node told.
    async fn adopt(&self, live: Vec<LiveCall>) -> Result<Vec<(CallId, Renewed)>> {
        self.calls.nodes.list(self.address(), live.iter().map(|live| &live.call));
        let order: Vec<CallId> = live.iter().map(|live| live.call.clone()).collect();
        let mut fates = HashMap::with_capacity(live.len());
        let address = self.address();
        let mut proven = Vec::with_capacity(live.len());
        for LiveCall { call, lease } in live {
            let claim = self.calls.leases.verify(address.tenant, &call, &lease);
            match claim.filter(|claim| claim.sandbox == address.sandbox) {
                Some(claim) => proven.push((call, claim)),
                None => {
                    // Not a lease of this call: nobody's.
                    let _ = self.calls.nodes.post(address, ToNode::LeaseLost { call: call.clone(), lease });
                    fates.insert(call, Renewed::Lost);
                }
            }
        }
        let (ours, mut strange): (Vec<_>, Vec<_>) =
            proven.into_iter().partition(|(call, claim)| self.calls.nodes.hosts(address, call, claim.lease));
        fates.extend(self.renew(ours).await?);
        // A look after each of the others takes its time: leases do not wait for those behind them.
        while !strange.is_empty() {
            let batch = strange.drain(..strange.len().min(RENEWED_TOGETHER));
            let looked_at: Vec<_> = stream::iter(batch)
                .map(|(call, claim)| self.look_at(call, claim))
                .buffer_unordered(TAKE_UPS)
                .try_collect()
                .await?;
            let mut taken_up = Vec::with_capacity(looked_at.len());
            for (call, claim, fate) in looked_at {
                match fate {
                    None => taken_up.push((call, claim)),
                    Some(fate) => drop(fates.insert(call, fate)),
                }
            }
            fates.extend(self.renew(taken_up).await?);
        }
        Ok(order.into_iter().filter_map(|call| fates.remove(&call).map(|fate| (call, fate))).collect())
    }

    /// Takes the call up, or says what became of it.
    async fn look_at(&self, call: CallId, claim: LeaseClaim) -> Result<(CallId, LeaseClaim, Option<Renewed>)> {
        let fate = if self.take_up(&call, claim).await? { None } else { Some(self.disown(&call, claim).await?) };
        Ok((call, claim, fate))
    }

    /// Makes the node the host of a call whose session is active. While the database is away, that the node has proved
    /// the lease must do: its next heartbeat that names the call asks again.
    async fn take_up(&self, call: &CallId, claim: LeaseClaim) -> Result<bool> {
        let address = self.address();
        let host = |session: &mut Session| session.node = Some(address.node.clone());
        let hosted = async {
            match self.calls.sessions.get(address.tenant, claim.session).await?.filter(Session::is_active) {
                Some(session) if session.node_address().as_ref() == Some(address) => Ok(Some(session)),
                Some(session) => self.calls.change_session(&session, host).await,
                None => Ok(None),
            }
        };
        match tokio::time::timeout(TAKE_UP_PATIENCE, hosted).await {
            Ok(Ok(Some(session))) => {
                // What token the node has is not known; its first one is as old as the session.
                let refresh_at = self.calls.tokens.refresh_at(&session, session.started_at);
                self.calls.nodes.assign(address, call, claim, refresh_at);
            }
            Ok(Ok(None)) => return Ok(false),
            Ok(Err(Error::Unavailable(..))) | Err(_) => {
                tracing::warn!(call.id = %call, node.id = %address.node, "a call is renewed without its session");
            }
            Ok(Err(error)) => return Err(error),
        }
        Ok(true)
    }

    /// The node presents a call that it may not host.
    async fn disown(&self, call: &CallId, claim: LeaseClaim) -> Result<Renewed> {
        let address = self.address();
        let session = self.calls.sessions.get(address.tenant, claim.session).await?;
        let ended = session.filter(|session| !session.is_active());
        match ended.and_then(|session| session.outcome) {
            Some(outcome) => {
                self.calls.slots.release(address.tenant, call, claim.lease).await?;
                let reason = "the session has ended".to_owned();
                let _ = self.calls.nodes.post(address, ToNode::EndCall { call: call.clone(), outcome, reason });
                Ok(Renewed::Released)
            }
            None => {
                self.tell_lost(call, claim);
                Ok(Renewed::Lost)
            }
        }
    }

    fn tell_lost(&self, call: &CallId, claim: LeaseClaim) {
        let lease = self.calls.leases.sign(self.address().tenant, call, claim);
        let _ = self.calls.nodes.post(self.address(), ToNode::LeaseLost { call: call.clone(), lease });
    }

    async fn renew(&self, live: Vec<(CallId, LeaseClaim)>) -> Result<Vec<(CallId, Renewed)>> {
        let ttl = Duration::from_millis(self.calls.settings.heartbeat_lease_ms);
        let mut fates = Vec::with_capacity(live.len());
        for batch in live.chunks(RENEW_MAX) {
            let proven: Vec<Proven> =
                batch.iter().map(|(call, claim)| Proven { call: call.clone(), claim: *claim, ttl }).collect();
            let renewed = self.calls.renew(self.address().tenant, &proven).await?;
            for (Proven { call, claim, .. }, fate) in proven.into_iter().zip(renewed) {
                if !matches!(fate, Renewed::Renewed { .. } | Renewed::Readmitted { .. }) {
                    self.lose(&call, claim).await?;
                }
                fates.push((call, fate));
            }
        }
        Ok(fates)
    }

    /// The node holds on to a call whose slot is gone: it is told, and the session ends if nobody ended it yet.
    async fn lose(&self, call: &CallId, claim: LeaseClaim) -> Result<()> {
        let address = self.address();
        self.calls.nodes.unassign(address, call, claim.lease);
        let session = self.calls.sessions.get(address.tenant, claim.session).await?;
        let ours = |session: &Session| session.node_address().as_ref() == Some(address);
        if let Some(session) = session.filter(|session| session.is_active() && ours(session)) {
            self.calls.finish(&session, Outcome::LeaseExpired, Node::Knows).await?;
            self.tell_lost(call, claim);
            return Ok(());
        }
        self.disown(call, claim).await.map(|_| ())
    }
}

impl Drop for NodeStream {
    fn drop(&mut self) {
        let (calls, attachment) = (self.calls.clone(), self.attachment.clone());
        self.calls.workers.spawn(async move { calls.bus.detach(&attachment).await });
        if self.connection.is_current() {
            tracing::info!(node.id = %self.connection.address.node, "media node disconnected");
        }
    }
}
