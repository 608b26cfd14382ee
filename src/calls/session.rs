//! Reads and ends sessions at a caller's word.

use super::{Calls, authorize::require_active, finish::Node};
use crate::{
    domain::{
        Error, Result,
        audit::Attempt,
        error::Resource,
        ids::{CallId, SessionId},
        principal::Principal,
        session::{LogEntry, Outcome, Session},
        transcript::Posted,
    },
    tenants::{Revocation, Revoked},
};

/// A session, named by its own id or by its call's.
#[derive(Debug, Clone)]
pub enum Target {
    Session(SessionId),
    Call(CallId),
}

/// A session with all that is kept apart from it.
#[derive(Debug, Clone)]
pub struct Whole {
    pub session: Session,
    /// What verbs have logged, oldest first.
    pub log: Vec<LogEntry>,
    pub posted: Option<Posted>,
}

impl Target {
    /// The answer to one that does not exist.
    fn unknown(&self) -> Error {
        match self {
            Self::Session(id) => Error::not_found(Resource::Session, id),
            Self::Call(call) => Error::not_found(Resource::Call, call),
        }
    }
}

impl Calls {
    /// A token sees its own session alone; any other of its tenant, and any other call, it is not bound to. With a
    /// connection token comes the client.
    pub async fn session(&self, principal: &Principal, target: Target) -> Result<Session> {
        let tenant = principal.tenant();
        let session = match (&target, principal.of_session()) {
            // The token's own session, although its call may have a newer one by now.
            (Target::Call(call), Some(bearer)) if *call == bearer.call => {
                self.sessions.get(tenant, bearer.session).await?
            }
            // Not looked for: the bearer is not told which other calls there are.
            (Target::Call(call), Some(_)) => return Err(Error::CallNotBoundToToken { call: call.clone() }),
            (Target::Call(call), None) => self.sessions.of_call(tenant, call).await?,
            (Target::Session(id), _) => self.sessions.get(tenant, *id).await?,
        };
        let Some(session) = session else { return Err(target.unknown()) };
        if let Some(bearer) = principal.of_session() {
            if bearer.session != session.id {
                return Err(Error::CallNotBoundToToken { call: session.call });
            }
            if session.is_active() && session.outlived(bearer.issued_at) {
                return Err(Error::TokenRevoked { jti: bearer.jti });
            }
        }
        let session = match principal {
            Principal::Connection(_) => self.connected(session).await?,
            Principal::Call(_) | Principal::Key(_) | Principal::Mesh(_) => session,
        };
        Ok(self.with_expiry(session).await)
    }

    /// As [`Calls::session`], with what is kept apart from it.
    pub async fn whole_session(&self, principal: &Principal, target: Target) -> Result<Whole> {
        let session = self.session(principal, target).await?;
        if let Principal::Connection(_) = principal {
            // Whoever shows the token now is not to be let in.
            require_active(&session)?;
        }
        let log = self.log_of(&session).await?;
        let posted = match session.record.posted {
            true => self.sessions.posted(session.tenant, session.id).await?,
            false => None,
        };
        Ok(Whole { session, log, posted })
    }

    pub(super) async fn log_of(&self, session: &Session) -> Result<Vec<LogEntry>> {
        match session.record.log_entries {
            0 => Ok(Vec::new()),
            _ => self.operations.log(session.tenant, session.id).await,
        }
    }

    /// The session, if `principal` may end it. Notes which it is.
    pub(super) async fn session_to_end(
        &self,
        principal: &Principal,
        target: &Target,
        attempt: &mut Attempt,
    ) -> Result<Session> {
        let session = self.session(principal, target.clone()).await?;
        if principal.sandbox() && !session.sandbox {
            // A sandbox key's hands do not reach a live call.
            return Err(target.unknown());
        }
        (attempt.call, attempt.session) = (Some(session.call.clone()), Some(session.id));
        Ok(session)
    }

    /// The session with its lease's expiry as the slot store has it. The row's is as old as the last sweep, and will do
    /// while the store is away.
    async fn with_expiry(&self, session: Session) -> Session {
        // A direct session's own time says when it ends.
        if !session.is_active() || session.direct.is_some() {
            return session;
        }
        let leases = self.slots.leases(session.tenant, std::slice::from_ref(&session.call)).await;
        match leases.ok().and_then(|mut leases| leases.pop().flatten()) {
            Some(lease) if lease.id == session.lease => Session { lease_expires_at: lease.expires_at, ..session },
            _ => session,
        }
    }

    /// Revokes a token of the principal's tenant. The session goes on.
    pub async fn revoke_token(&self, principal: &Principal, which: Revoked, attempt: Attempt) -> Result<Revocation> {
        let (calls, principal) = (self.clone(), principal.clone());
        self.to_the_end(async move {
            let end = calls.revocations.revoke(&principal, which, &calls.tokens).await;
            let attempt = match &end {
                Ok(revocation) => attempt.at(&revocation.jti.to_string()),
                Err(_) => attempt,
            };
            calls.noted(attempt, end).await
        })
        .await
    }

    /// Ends the session, its slot and its node's part; one that has ended is answered as it ended.
    pub async fn end_session(
        &self,
        principal: &Principal,
        target: Target,
        outcome: Option<Outcome>,
        mut attempt: Attempt,
    ) -> Result<Session> {
        let (calls, principal) = (self.clone(), principal.clone());
        self.to_the_end(async move {
            let end = async {
                let session = calls.session_to_end(&principal, &target, &mut attempt).await?;
                calls.end_at_word(session, outcome.unwrap_or(Outcome::Completed)).await
            };
            let end = end.await;
            calls.noted(attempt, end).await
        })
        .await
    }

    pub(super) async fn end_at_word(&self, session: Session, outcome: Outcome) -> Result<Session> {
        match self.finish(&session, outcome, Node::Tell).await? {
            Some(ended) => Ok(ended),
            None => {
                let now = self.sessions.get(session.tenant, session.id).await?;
                now.ok_or_else(|| Error::not_found(Resource::Session, session.id))
            }
        }
    }
}
