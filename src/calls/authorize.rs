//! Whether a verb may be carried to a call: by this principal, this often, in this state, to this destination.

use super::Calls;
use crate::domain::{
    Error, Result,
    destination::Outbound,
    error::Resource,
    hash::Sha256,
    ids::CallId,
    principal::Principal,
    rate::{Rate, RateScope, Subject},
    session::Session,
    tenant::Scope,
    verb::{Scene, Verb},
};

/// Who carries a verb to a session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hand {
    /// Whether it reaches beyond its own call's conference.
    pub(super) is_admin: bool,
}

impl Calls {
    /// The session that `principal` may drive on `call`, and whether the call's rate lets it do so now.
    pub(super) async fn session_of(&self, principal: &Principal, call: &CallId) -> Result<(Session, Result<()>)> {
        match principal {
            Principal::Call(bearer) if bearer.call != *call => {
                return Err(Error::CallNotBoundToToken { call: call.clone() });
            }
            Principal::Call(_) => {}
            Principal::Key(_) | Principal::Mesh(_) | Principal::Connection(_) => {
                principal.require(Scope::AiSessionsControlAdmin)?;
            }
        }
        // Whoever may not drive the call does not use up its rate; who may does not wait for one after the other.
        let (session, within_rate) = tokio::join!(self.find_session(principal, call), self.check_rate(principal, call));
        Ok((session?.ok_or_else(|| Error::not_found(Resource::Call, call))?, within_rate))
    }

    async fn find_session(&self, principal: &Principal, call: &CallId) -> Result<Option<Session>> {
        match principal {
            Principal::Call(bearer) => {
                let session = self.sessions.get(bearer.tenant, bearer.session).await?;
                if session.as_ref().is_some_and(|session| session.is_active() && session.outlived(bearer.issued_at)) {
                    return Err(Error::TokenRevoked { jti: bearer.jti });
                }
                Ok(session)
            }
            Principal::Key(_) | Principal::Mesh(_) | Principal::Connection(_) => {
                let session = self.sessions.of_call(principal.tenant(), call).await?;
                // A sandbox key's hands do not reach a live call.
                Ok(session.filter(|session| !principal.sandbox() || session.sandbox))
            }
        }
    }

    /// So many verbs a second may be asked of one call, on all replicas together.
    pub(super) async fn check_rate(&self, principal: &Principal, call: &CallId) -> Result<()> {
        let digest = Sha256::of(format!("{}|{call}", principal.tenant()));
        let id = digest.as_bytes().first_chunk().map_or(uuid::Uuid::nil(), |half| uuid::Uuid::from_bytes(*half));
        let rate = Rate::per_second(self.settings.verbs_per_second);
        self.rates.check(Subject { scope: RateScope::Call, id }, rate).await
    }

    /// The verb as the call's state and the tenant's rules allow it.
    pub(super) async fn prepare(&self, session: &Session, verb: Verb, hand: Hand) -> Result<Verb> {
        require_active(session)?;
        let target = match verb.target() {
            Some(call) => self.sessions.of_call(session.tenant, call).await?,
            None => None,
        };
        let target = target.filter(|target| target.sandbox == session.sandbox);
        let verb = verb.prepare(&Scene { session, target: target.as_ref(), is_admin: hand.is_admin })?;
        if let Some(outbound) = verb.outbound() {
            self.require_permitted(session, outbound).await?;
        }
        Ok(verb)
    }

    /// The tenant's rules as they are now, and not as they were when the call was admitted: who closes a hole closes it
    /// for live calls too.
    async fn require_permitted(&self, session: &Session, outbound: Outbound<'_>) -> Result<()> {
        let tenant = self.tenants.tenant(session.tenant).await?;
        let tenant = tenant.ok_or_else(|| Error::not_found(Resource::Tenant, session.tenant))?;
        match &tenant.destination_policy {
            Some(policy) if !policy.permits(outbound) => {
                Err(Error::DestinationNotAllowed { call: session.call.clone(), kind: outbound.kind })
            }
            Some(_) | None => Ok(()),
        }
    }
}

pub(super) fn require_active(session: &Session) -> Result<()> {
    match session.outcome {
        Some(outcome) => Err(Error::AiSessionTerminated { call: session.call.clone(), session: session.id, outcome }),
        None => Ok(()),
    }
}
