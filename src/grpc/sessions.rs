//! `SessionService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api, Incoming,
    convert::{
        read,
        session::{read_outcome, write, write_operation, write_with_log},
        value::timestamp,
    },
};
use crate::{
    calls::Target,
    domain::{
        Error, Result as Answer,
        ids::OperationId,
        violations::{Fault, Violations},
    },
    proto::v1::{
        self, end_session_request::Target as EndTarget, get_session_request::Target as GetTarget,
        revoke_token_request::Target as RevokeTarget, session_service_server::SessionService,
    },
    tenants::{Revocation, Revoked},
};

#[async_trait]
impl SessionService for Api {
    async fn get_session(&self, request: Request<v1::GetSessionRequest>) -> Result<Response<v1::Session>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let target = message.target.map(|target| match target {
            GetTarget::SessionId(id) => (Some(id), None),
            GetTarget::CallId(call) => (None, Some(call)),
        });
        let (session, log) = self.calls.session_with_log(&principal, read_target(target)?).await?;
        Ok(Response::new(write_with_log(&session, &log)))
    }

    async fn end_session(&self, request: Request<v1::EndSessionRequest>) -> Result<Response<v1::Session>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let target = message.target.map(|target| match target {
            EndTarget::SessionId(id) => (Some(id), None),
            EndTarget::CallId(call) => (None, Some(call)),
        });
        let mut faults = Violations::default();
        let outcome = read_outcome(message.outcome, &mut faults);
        let outcome = faults.into_result(Some(outcome)).map_err(Error::from)?;
        let session = self.calls.end_session(&principal, read_target(target)?, outcome).await?;
        Ok(Response::new(write(&session)))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let which = read_revoked(message.target)?;
        let Revocation { jti, until, .. } = self.calls.revoke_token(&principal, which).await?;
        let revoked_until = Some(timestamp(until));
        Ok(Response::new(v1::RevokeTokenResponse { jti: jti.to_string(), revoked_until }))
    }

    async fn get_operation(
        &self,
        request: Request<v1::GetOperationRequest>,
    ) -> Result<Response<v1::Operation>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let mut faults = Violations::default();
        let id: Option<OperationId> = read("operation_id", &message.operation_id, &mut faults);
        let id = faults.into_result(id).map_err(Error::from)?;
        let operation = self.calls.operation(&principal, id).await?;
        Ok(Response::new(write_operation(&operation)))
    }
}

fn read_revoked(target: Option<RevokeTarget>) -> Answer<Revoked> {
    let mut faults = Violations::default();
    let revoked = match target {
        Some(RevokeTarget::Token(token)) => Some(Revoked::Token(token)),
        Some(RevokeTarget::Jti(jti)) => {
            let parsed = jti.parse().map_err(|_| Fault::new("must be the jti of a callback token, a UUID"));
            faults.take("jti", parsed).map(Revoked::Jti)
        }
        None => faults.take("target", Err(Fault::new("token or jti is required"))),
    };
    Ok(faults.into_result(revoked)?)
}

/// A session, named by one of its two ids.
fn read_target(target: Option<(Option<String>, Option<String>)>) -> Answer<Target> {
    let mut faults = Violations::default();
    let target = match target {
        Some((Some(id), _)) => read("session_id", &id, &mut faults).map(Target::Session),
        Some((None, Some(call))) => read("call_id", &call, &mut faults).map(Target::Call),
        Some((None, None)) | None => faults.take("target", Err(Fault::new("session_id or call_id is required"))),
    };
    Ok(faults.into_result(target)?)
}
