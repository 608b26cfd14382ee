//! Sessions of clients that stream to the agent directly: admitted as calls are, and kept by the service itself.
//!
//! Whichever replica lives renews their leases, as part of its sweep, half a lease before they run out; so a replica that
//! crashes takes none of them with it. Each ends at its own time, by the sweep, as a call does that lasts too long.

use super::{Admit, Calls, in_flight::RENEWED_WITHIN};
use crate::{
    agents::Hints,
    domain::{
        Error, Result,
        direct::{DirectRequest, LEASE_TTL},
        error::Resource,
        ids::{CallId, TenantId, VoiceAgentId},
        lease::{Direction, Proven, Renewed},
        principal::Principal,
        session::Session,
        verb::JsonObject,
    },
    tenants::SignedToken,
};

/// A client that wants to stream to an agent.
#[derive(Debug, Clone)]
pub struct CreateSession {
    /// The agent; absent: found by the hints.
    pub agent: Option<VoiceAgentId>,
    pub hints: Hints,
    pub direct: DirectRequest,
    pub metadata: JsonObject,
}

/// Its session, and what it connects with.
#[derive(Debug, Clone)]
pub struct Created {
    pub session: Session,
    pub token: SignedToken,
}

impl Calls {
    pub async fn create_session(&self, principal: &Principal, request: CreateSession) -> Result<Created> {
        let CreateSession { agent, hints, direct, metadata } = request;
        let admit = Admit {
            call: CallId::minted(&self.env),
            agent,
            hints,
            direction: Direction::Inbound,
            priority: 0,
            node: None,
            subprotocol: None,
            ttl: LEASE_TTL,
            metadata,
            direct: Some(direct),
            sandbox: principal.sandbox(),
            validate_only: false,
            ticket: None,
        };
        let admission = self.admit(principal.tenant(), admit).await?;
        let held = admission.held.ok_or_else(|| Error::internal("an admission that took nothing"))?;
        let token = self.tokens.sign_connection(&held.session)?;
        Ok(Created { session: held.session, token })
    }

    /// The client is there: its AI service has shown the token. The first time, the session counts as answered.
    pub(super) async fn connected(&self, session: Session) -> Result<Session> {
        if !session.is_active() || session.answered_at.is_some() {
            return Ok(session);
        }
        let now = self.env.now();
        match self.change_session(&session, |session| session.answer(now)).await? {
            Some(answered) => Ok(answered),
            None => {
                let ended = self.sessions.get(session.tenant, session.id).await?;
                ended.ok_or_else(|| Error::not_found(Resource::Session, session.id))
            }
        }
    }

    /// Nobody else renews these.
    pub(super) async fn renew_direct(&self, tenant: TenantId, sessions: &[Session]) -> Result<Vec<Renewed>> {
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let proven = |session: &Session| Proven { call: session.call.clone(), claim: session.claim(), ttl: LEASE_TTL };
        let leases: Vec<Proven> = sessions.iter().map(proven).collect();
        let renewed = self.renew(tenant, &leases).await?;
        let kept = sessions.iter().zip(&renewed).map(|(session, fate)| (session.lease, RENEWED_WITHIN, *fate));
        self.kept.note(tenant, kept);
        Ok(renewed)
    }
}
