//! Admits a call: leases a slot of the agent, starts the session, mints the token, tells the node.
//!
//! One step of the slot store grants the slot, or claims the offer that a waiter was made, and keeps how the session
//! begins; the database hears of it later, from the journal. So the node is chosen first, and its room given back where
//! there is no grant. The same call again is answered its own lease with a fresh token. On the embedded stores a session
//! that cannot be written costs the lease, and the caller is told to try again.

use std::sync::Arc;

use super::{Admission, Admit, Calls, admission::Held};
use crate::{
    agents::Resolved,
    domain::{
        Error, Result,
        direct::Direct,
        error::{Dependency, Resource},
        ids::{CallId, LeaseId, SessionId, TenantId},
        journal::{Draft, Opening},
        lease::{Acquire, Acquired, Lease, Limits, Usage},
        node::NodeAddress,
        session::{Outcome, Routing, Session},
        tenant::Tenant,
        voice_agent::{Status, VoiceAgent},
    },
    nodes::Reservation,
    sessions::{Opened, Room},
};

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

        let mut acquire = acquire_request(&self.env, &agent, &owner, &request);
        if request.validate_only {
            let usage = match self.slots.probe(tenant, &acquire).await? {
                Acquired::Granted { usage, .. } | Acquired::Existing { usage, .. } => usage,
                refused => return Err(refusal(&acquire.call, &refused)),
            };
            return Ok(Admission::of(resolved, secret, usage));
        }
        let place = self.place_for(tenant, &request.call).await?;
        let reserved = self.reserve(&agent, &request).await;
        acquire.draft = place.is_some().then(|| draft(&self.env, &agent, &request, reserved.as_ref(), acquire.session));
        let acquired = match self.acquire(tenant, request.sandbox, &acquire).await {
            // Its hints lead elsewhere by now: the same call again is still answered its own lease.
            Err(Error::CallAlreadyAdmitted { agent: own, .. }) if request.agent.is_none() && own != agent.id => {
                return Box::pin(self.admit_now(tenant, Admit { agent: Some(own), ..request })).await;
            }
            acquired => acquired?,
        };
        let session = match acquired.standing.clone() {
            Some(standing) => standing,
            None => self.begin(&agent, &acquire, &acquired, place).await?,
        };
        if session.agent_revision != agent.revision {
            // The URL is the one of the revision that admitted the call, and so is the secret that is sent there.
            let then = self.agents.at(tenant, agent.id, session.agent_revision).await?;
            secret = self.agents.reveal(&then)?;
        }
        self.tell_node(&session, secret.as_ref(), &acquired.lease).await?;
        if let Some(room) = reserved.filter(|room| acquired.fresh && session.node.as_ref() == Some(room.node())) {
            room.used();
        }
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
                    return Ok(Acquisition { lease, usage, standing: None, granted: true, fresh: true });
                }
                Acquired::Existing { lease, usage } => (lease, usage),
                refused => return Err(refusal(&acquire.call, &refused)),
            };
            match self.sessions.get(tenant, lease.session).await? {
                Some(session) if !session.is_active() => {
                    self.slots.release(tenant, &lease.call, lease.id).await?;
                    // The offer outlived its agent, which this replica has not heard of yet.
                    if session.outcome == Some(Outcome::AgentDeleted) && session.agent == acquire.agent {
                        return Err(Error::not_found(Resource::VoiceAgent, acquire.agent));
                    }
                }
                // On the other side of the sandbox fence the call is somebody else's.
                Some(session) if session.sandbox != sandbox => {
                    return Err(Error::CallAlreadyAdmitted { call: lease.call, agent: acquire.agent });
                }
                // The session of an offer that was just claimed is found where the claim has kept it.
                standing => {
                    let granted = lease.id == acquire.lease;
                    return Ok(Acquisition { lease, usage, standing, granted, fresh: false });
                }
            }
        }
        Err(Error::unavailable(Dependency::SlotStore, "the call's former lease would not go"))
    }

    /// A place in the journal for what the grant begins. None where there is none left and the call has its lease already.
    async fn place_for(&self, tenant: TenantId, call: &CallId) -> Result<Option<Room>> {
        let full = match self.journal.room() {
            Ok(place) => return Ok(Some(place)),
            Err(full) => full,
        };
        let held = self.slots.leases(tenant, std::slice::from_ref(call)).await?.pop().flatten();
        if held.is_some() { Ok(None) } else { Err(full) }
    }

    async fn reserve(&self, agent: &VoiceAgent, request: &Admit) -> Option<Reservation> {
        if request.node.is_some() || request.direct.is_some() {
            return None;
        }
        self.know_nodes(agent.tenant).await;
        self.nodes.reserve(agent.tenant, request.sandbox, agent.spec.subprotocol)
    }

    /// The session of a lease that has none yet.
    async fn begin(
        &self,
        agent: &VoiceAgent,
        acquire: &Acquire,
        acquired: &Acquisition,
        place: Option<Room>,
    ) -> Result<Session> {
        let (tenant, lease) = (agent.tenant, acquired.lease.clone());
        let Some((draft, place)) = acquire.draft.clone().zip(place) else {
            // The lease that kept this from being refused has run out in between.
            self.give_back(tenant, acquired).await;
            return Err(Error::unavailable(Dependency::Database, "the journal is full"));
        };
        let opening = Opening { lease, direction: acquire.direction, draft };
        let session = opening.into_session(tenant, Routing::from(&agent.spec));
        let begun = if acquired.fresh {
            self.journal.opened(session.clone(), place).await.map(|()| session)
        } else {
            // A lease whose session nobody has heard of: of an embedded twin of this request, of an offer there that was
            // claimed, or of a spool that was lost.
            self.sessions.open(tenant, &session).await.map(|opened| match opened {
                Opened::New => session,
                Opened::Existing(standing) => *standing,
            })
        };
        if begun.is_err() {
            self.give_back(tenant, acquired).await;
        }
        begun
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
    /// By this request, which may have waited for it.
    granted: bool,
    /// Just now: nobody else can have begun its session.
    fresh: bool,
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
        draft: None,
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

fn draft(
    env: &crate::domain::Env,
    agent: &VoiceAgent,
    request: &Admit,
    reserved: Option<&Reservation>,
    session: SessionId,
) -> Draft {
    let direct = request.direct.clone().map(|direct| Direct::new(direct, &Routing::from(&agent.spec), session));
    Draft {
        direct: direct.map(Arc::new),
        agent_revision: agent.revision,
        node: request.node.clone().or_else(|| reserved.map(|room| room.node().clone())),
        sandbox: request.sandbox,
        metadata: request.metadata.clone(),
        started_at: env.now(),
        lease_ttl: request.ttl,
    }
}
