//! Admits a call: leases a slot of the agent, starts the session, mints the token, tells the node.
//!
//! The same call again is answered its own lease with a fresh token. Where the session cannot be written the lease is
//! given back, and the caller told to try again.

use std::{sync::Arc, time::Duration};

use secrecy::SecretString;

use super::Calls;
use crate::{
    agents::{Hints, Resolved},
    domain::{
        Error, Result,
        error::{Dependency, Resource},
        ids::{CallId, LeaseId, NodeId, SessionId, TenantId, VoiceAgentId},
        lease::{Acquire, Acquired, Direction, Lease, Limits, Usage},
        lease_token::{LeaseClaim, LeaseToken},
        node::{Assignment, NodeAddress, Postbox as _, ToNode},
        session::{CallState, Routing, Session, SessionStatus},
        tenant::Tenant,
        verb::JsonObject,
        voice_agent::{Status, Subprotocol, VoiceAgent},
    },
    sessions::Opened,
    tenants::SignedToken,
};

/// A call that wants a slot.
#[derive(Debug, Clone)]
pub struct Admit {
    pub call: CallId,
    /// The agent; absent: found by the hints.
    pub agent: Option<VoiceAgentId>,
    pub hints: Hints,
    pub direction: Direction,
    /// Precedence over calls that wait.
    pub priority: u8,
    /// The node that hosts the call; absent: one is chosen.
    pub node: Option<NodeId>,
    /// What the caller can speak; refused if the agent speaks another.
    pub subprotocol: Option<Subprotocol>,
    pub ttl: Duration,
    pub metadata: JsonObject,
    /// Came with a sandbox key.
    pub sandbox: bool,
    /// Answers what would happen and takes nothing.
    pub validate_only: bool,
    /// The names under which it waits. A lease of that name was granted to this request, and is given up with it.
    pub ticket: Option<(LeaseId, SessionId)>,
}

/// A call that was admitted.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The agent, and how it was found.
    pub resolved: Resolved,
    pub revision: i64,
    pub routing: Routing,
    pub auth_token: Option<SecretString>,
    pub usage: Usage,
    /// Absent when nothing was taken.
    pub held: Option<Held>,
}

/// What the call holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub lease: Lease,
    /// What the caller is to name the lease by.
    pub lease_token: LeaseToken,
    pub session: Session,
    pub token: SignedToken,
    /// Whether it was granted to this very request.
    pub granted: bool,
}

impl Admit {
    /// Whether the lease is the one that this request waited for.
    fn names(&self, lease: LeaseId) -> bool {
        self.ticket.is_some_and(|(name, _)| name == lease)
    }
}

impl Calls {
    pub async fn admit(&self, tenant: TenantId, request: Admit) -> Result<Admission> {
        let answer = self.admit_once(tenant, request).await;
        let outcome = match &answer {
            Ok(Admission { held: Some(_), .. }) => "GRANTED",
            Ok(Admission { held: None, .. }) => "VALIDATED",
            Err(error) => error.reason().as_str(),
        };
        let scope = match &answer {
            Err(Error::MaxConcurrentExceeded(denial)) => denial.binding.as_str(),
            _ => "",
        };
        metrics::counter!("voxgate_admissions_total", "outcome" => outcome, "scope" => scope).increment(1);
        answer
    }

    /// The same uncounted.
    pub(super) async fn admit_once(&self, tenant: TenantId, request: Admit) -> Result<Admission> {
        let calls = self.clone();
        self.to_the_end(async move { calls.admit_now(tenant, request).await }).await
    }

    async fn admit_now(&self, tenant: TenantId, request: Admit) -> Result<Admission> {
        let resolved = self.agent_for(tenant, &request).await?;
        let agent = resolved.agent.clone();
        let owner = self.owner(tenant).await?;
        self.check(&agent, &request).await?;
        // Before a slot is taken: a call whose node cannot be told its secret would be admitted to silence.
        let mut secret = self.agents.reveal(&agent)?;

        let acquire = acquire_request(&self.env, &agent, &owner, &request);
        if request.validate_only {
            let usage = match self.slots.probe(tenant, &acquire).await? {
                Acquired::Granted { usage, .. } | Acquired::Existing { usage, .. } => usage,
                refused => return Err(refusal(&acquire.call, &refused)),
            };
            return Ok(Admission::of(resolved, secret, usage));
        }
        let acquired = match self.acquire(tenant, request.sandbox, &acquire).await {
            // Its hints lead elsewhere by now: the same call again is still answered its own lease.
            Err(Error::CallAlreadyAdmitted { agent: own, .. }) if request.agent.is_none() && own != agent.id => {
                return Box::pin(self.admit_now(tenant, Admit { agent: Some(own), ..request })).await;
            }
            acquired => acquired?,
        };
        let session = match acquired.standing.clone() {
            Some(standing) => standing,
            None => self.open_session(&agent, &request, &acquired).await?,
        };
        if session.agent_revision != agent.revision {
            // The URL is the one of the revision that admitted the call, and so is the secret that is sent there.
            let then = self.agents.at(tenant, agent.id, session.agent_revision).await?;
            secret = self.agents.reveal(&then)?;
        }
        self.tell_node(&session, secret.as_ref(), &acquired.lease)?;
        let token = self.tokens.sign(&session)?;
        let Acquisition { lease, usage, granted, .. } = acquired;
        let mut admission = Admission::of(resolved, secret, usage);
        admission.routing.clone_from(&session.routing);
        admission.revision = session.agent_revision;
        let lease_token = self.lease_token(&session);
        admission.held = Some(Held { lease, lease_token, session, token, granted });
        Ok(admission)
    }

    /// The agent that the request names, or that its hints lead to. A call that is live keeps its agent where the hints
    /// lead to none by now, or to one that would have to be made.
    pub(super) async fn agent_for(&self, tenant: TenantId, request: &Admit) -> Result<Resolved> {
        if let Some(id) = request.agent {
            return self.agents.get(tenant, id).await.map(Resolved::explicit);
        }
        let found = self.agents.resolve(tenant, request.hints, true).await;
        if found.as_ref().is_ok_and(|found| found.exists() || request.validate_only) {
            return found;
        }
        let standing = self.slots.leases(tenant, std::slice::from_ref(&request.call)).await?.pop().flatten();
        match (standing, found) {
            (Some(lease), _) => self.agents.get(tenant, lease.id.agent()).await.map(Resolved::explicit),
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => self.agents.resolve(tenant, request.hints, false).await,
        }
    }

    /// Whether the agent takes the call. A call that it has already keeps its lease, whatever was edited since.
    async fn check(&self, agent: &VoiceAgent, request: &Admit) -> Result<()> {
        let Err(refusal) = self.takes(agent, request) else { return Ok(()) };
        let lease = self.slots.leases(agent.tenant, std::slice::from_ref(&request.call)).await?.pop().flatten();
        match lease {
            Some(lease) if lease.id.agent() == agent.id && !request.names(lease.id) => Ok(()),
            _ => Err(refusal),
        }
    }

    /// Whether the agent that the request names takes the call still.
    pub(super) async fn still_takes(&self, tenant: TenantId, request: &Admit) -> Result<()> {
        self.check(&self.agent_for(tenant, request).await?.agent, request).await
    }

    pub(super) async fn owner(&self, tenant: TenantId) -> Result<Arc<Tenant>> {
        self.tenants.tenant(tenant).await?.ok_or_else(|| Error::not_found(Resource::Tenant, tenant))
    }

    fn takes(&self, agent: &VoiceAgent, request: &Admit) -> Result<()> {
        match agent.status {
            Status::Active => {}
            Status::Paused => return Err(Error::VoiceAgentPaused { agent: agent.id }),
            Status::Archived => return Err(Error::VoiceAgentArchived { agent: agent.id }),
        }
        // A node that was named need not be connected; if it is, it must be one that can host the call.
        let node = request
            .node
            .clone()
            .and_then(|node| self.nodes.profile(&NodeAddress { tenant: agent.tenant, sandbox: request.sandbox, node }));
        let configured = agent.spec.subprotocol;
        match request.subprotocol.into_iter().chain(node.map(|node| node.subprotocol)).find(|it| *it != configured) {
            Some(requested) => Err(Error::SubprotocolMismatch { configured, requested }),
            None => Ok(()),
        }
    }

    async fn acquire(&self, tenant: TenantId, sandbox: bool, acquire: &Acquire) -> Result<Acquisition> {
        // A second look is for a lease whose session has ended in the meantime: it is given back first.
        for _ in 0..2 {
            let (lease, usage) = match self.slots.acquire(tenant, acquire).await? {
                Acquired::Granted { lease, usage } => {
                    return Ok(Acquisition { lease, usage, standing: None, granted: true });
                }
                Acquired::Existing { lease, usage } => (lease, usage),
                refused => return Err(refusal(&acquire.call, &refused)),
            };
            match self.sessions.get(tenant, lease.session).await? {
                Some(session) if !session.is_active() => {
                    self.slots.release(tenant, &lease.call, lease.id).await?;
                }
                // On the other side of the sandbox fence the call is somebody else's.
                Some(session) if session.sandbox != sandbox => {
                    return Err(Error::CallAlreadyAdmitted { call: lease.call, agent: acquire.agent });
                }
                standing => {
                    let granted = lease.id == acquire.lease;
                    return Ok(Acquisition { lease, usage, standing, granted });
                }
            }
        }
        Err(Error::unavailable(Dependency::SlotStore, "the call's former lease would not go"))
    }

    async fn open_session(&self, agent: &VoiceAgent, request: &Admit, acquired: &Acquisition) -> Result<Session> {
        let (tenant, lease) = (agent.tenant, &acquired.lease);
        let claim = LeaseClaim {
            lease: lease.id,
            session: lease.session,
            fence: lease.fence,
            direction: request.direction,
            sandbox: request.sandbox,
        };
        let room = || {
            let subprotocol = agent.spec.subprotocol;
            self.nodes.reserve(tenant, request.sandbox, subprotocol, (&request.call, claim))
        };
        let reserved = if request.node.is_none() { room() } else { None };
        let node = request.node.clone().or_else(|| reserved.as_ref().map(|room| room.node.clone()));
        let session = new_session(&self.env, agent, request, lease, node);
        let opened = self.sessions.open(tenant, &session).await;
        let standing = match opened {
            Ok(Opened::New) => return Ok(session),
            Ok(Opened::Existing(standing)) => Ok(*standing),
            Err(error) => Err(error),
        };
        // The room that was taken here, if the call did not come to be there.
        let here = standing.as_ref().ok().and_then(Session::node_address);
        if let Some(room) = reserved.filter(|room| room.fresh && here.is_none_or(|here| here.node != room.node)) {
            let address = NodeAddress { tenant, sandbox: request.sandbox, node: room.node };
            self.nodes.unassign(&address, &request.call, lease.id);
        }
        if standing.is_err() {
            self.give_back(tenant, acquired).await;
        }
        standing
    }

    /// Tells the call's node, if it is connected here and does not know the call: now, or again after a crash between
    /// the session and this.
    fn tell_node(&self, session: &Session, secret: Option<&SecretString>, lease: &Lease) -> Result<()> {
        let Some(address) = session.node_address() else { return Ok(()) };
        // Reserved is not told: only a node that has answered for the call surely knows it.
        let known = session.state.ws_connected && self.nodes.hosts(&address, &session.call, lease.id);
        if known || self.nodes.profile(&address).is_none() {
            return Ok(());
        }
        let token = self.tokens.sign(session)?;
        let assignment = Assignment {
            session: session.clone(),
            auth_token: secret.cloned(),
            lease_expires_at: lease.expires_at,
            lease: self.lease_token(session),
            token: token.text,
            token_expires_at: token.expires_at,
        };
        match self.nodes.post(&address, ToNode::CallAssigned(Box::new(assignment))) {
            Ok(()) => self.nodes.assign(&address, &session.call, session.claim()),
            Err(_) => {
                tracing::warn!(node.id = %address.node, call.id = %session.call, "the call's node takes no message");
                self.nodes.unassign(&address, &session.call, lease.id);
            }
        }
        Ok(())
    }

    /// Gives back a lease that came to no session. One that was there before, or that a twin of this request has opened
    /// a session for meanwhile, is somebody's and stays.
    async fn give_back(&self, tenant: TenantId, acquired: &Acquisition) {
        let lease = &acquired.lease;
        let taken = matches!(self.sessions.get(tenant, lease.session).await, Ok(Some(_)));
        if !acquired.granted || taken {
            return;
        }
        if let Err(error) = self.slots.release(tenant, &lease.call, lease.id).await {
            tracing::warn!(
                call.id = %lease.call, lease.id = %lease.id, error = &error as &dyn std::error::Error,
                "a lease without session could not be given back and will run out"
            );
        }
    }
}

/// A lease that the call holds, by this request or by an earlier one.
#[derive(Debug)]
struct Acquisition {
    lease: Lease,
    usage: Usage,
    /// The session that the lease has already.
    standing: Option<Session>,
    granted: bool,
}

impl Admission {
    fn of(resolved: Resolved, auth_token: Option<SecretString>, usage: Usage) -> Self {
        Self {
            revision: resolved.agent.revision,
            routing: Routing::from(&resolved.agent.spec),
            resolved,
            auth_token,
            usage,
            held: None,
        }
    }
}

fn acquire_request(env: &crate::domain::Env, agent: &VoiceAgent, owner: &Tenant, request: &Admit) -> Acquire {
    let (lease, session) = request.ticket.unwrap_or_else(|| (LeaseId::new(env, agent.id), SessionId::new(env)));
    Acquire {
        agent: agent.id,
        call: request.call.clone(),
        lease,
        session,
        direction: request.direction,
        priority: request.priority,
        ttl: request.ttl,
        limits: limits_of(agent, owner),
    }
}

pub(super) fn limits_of(agent: &VoiceAgent, owner: &Tenant) -> Limits {
    Limits {
        agent_limit: agent.spec.max_concurrent,
        reserved_inbound: agent.spec.reserved_inbound,
        agent_version: agent.revision,
        tenant_limit: owner.max_concurrent,
        tenant_version: owner.updated_at.as_micros(),
    }
}

fn refusal(call: &CallId, acquired: &Acquired) -> Error {
    match acquired {
        Acquired::Denied(denial) => Error::MaxConcurrentExceeded(Box::new(*denial)),
        Acquired::OtherAgent { agent } => Error::CallAlreadyAdmitted { call: call.clone(), agent: *agent },
        Acquired::Granted { .. } | Acquired::Existing { .. } => Error::internal("a grant is no refusal"),
    }
}

fn new_session(
    env: &crate::domain::Env,
    agent: &VoiceAgent,
    request: &Admit,
    lease: &Lease,
    node: Option<NodeId>,
) -> Session {
    Session {
        id: lease.session,
        tenant: agent.tenant,
        call: request.call.clone(),
        agent: agent.id,
        agent_revision: agent.revision,
        lease: lease.id,
        fence: lease.fence,
        direction: request.direction,
        node,
        sandbox: request.sandbox,
        routing: Routing::from(&agent.spec),
        metadata: request.metadata.clone(),
        state: CallState::default(),
        status: SessionStatus::Active,
        outcome: None,
        started_at: env.now(),
        answered_at: None,
        ended_at: None,
        lease_expires_at: lease.expires_at,
        lease_ttl: request.ttl,
        version: 1,
    }
}
