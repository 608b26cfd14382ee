//! `SessionService`.

use futures_util::StreamExt as _;
use tonic::{Request, Response, Status, async_trait, codegen::BoxStream};

use super::{
    Api, Incoming,
    convert::{
        audit::{read_audit_list, write_audit_list},
        completion::{read_completion, write_whole},
        direct::{read_create, write_created},
        event::{read_watch, write_event},
        read,
        session::{read_outcome, write, write_operation},
        session_list::{read_session_list, write_session_list},
        value::timestamp,
    },
};
use crate::{
    calls::Target,
    domain::{
        Error, Result as Answer,
        ids::OperationId,
        session::Outcome,
        transcript::Completion,
        violations::{Fault, Violations},
    },
    proto::v1::{
        self, complete_session_request::Target as CompleteTarget, end_session_request::Target as EndTarget,
        get_session_request::Target as GetTarget, revoke_token_request::Target as RevokeTarget,
        session_service_server::SessionService,
    },
    tenants::{Revocation, Revoked},
};

#[async_trait]
impl SessionService for Api {
    async fn create_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::CreateSessionResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let created = self.calls.create_session(&principal, read_create(message)?).await?;
        Ok(Response::new(write_created(&created)))
    }

    async fn get_session(&self, request: Request<v1::GetSessionRequest>) -> Result<Response<v1::Session>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let target = message.target.map(|target| match target {
            GetTarget::SessionId(id) => (Some(id), None),
            GetTarget::CallId(call) => (None, Some(call)),
        });
        let whole = self.calls.whole_session(&principal, read_target(target)?).await?;
        Ok(Response::new(write_whole(&whole)))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (filter, words, page) = read_session_list(&message)?;
        let listed = self.calls.list_sessions(&principal, filter, page).await?;
        Ok(Response::new(write_session_list(&listed, &words)))
    }

    async fn end_session(&self, request: Request<v1::EndSessionRequest>) -> Result<Response<v1::Session>, Status> {
        let (Incoming { principal, message, .. }, attempt, allowed) = Incoming::attempted(request)?;
        let attempt = match &message.target {
            Some(EndTarget::SessionId(id)) => attempt.at(id),
            Some(EndTarget::CallId(call)) => attempt.on(call),
            None => attempt,
        };
        let (target, outcome) = match allowed.and_then(|()| read_end(message)) {
            Ok(read) => read,
            Err(refusal) => return Err(self.calls.denied(attempt, refusal).await.into()),
        };
        let session = self.calls.end_session(&principal, target, outcome, attempt).await?;
        Ok(Response::new(write(&session)))
    }

    async fn complete_session(
        &self,
        request: Request<v1::CompleteSessionRequest>,
    ) -> Result<Response<v1::Session>, Status> {
        let (Incoming { principal, message, .. }, attempt, allowed) = Incoming::attempted(request)?;
        let attempt = match &message.target {
            Some(CompleteTarget::SessionId(id)) => attempt.at(id),
            Some(CompleteTarget::CallId(call)) => attempt.on(call),
            None => attempt,
        };
        let (target, completion) = match allowed.and_then(|()| read_complete(message)) {
            Ok(read) => read,
            Err(refusal) => return Err(self.calls.denied(attempt, refusal).await.into()),
        };
        let whole = self.calls.complete_session(&principal, target, completion, attempt).await?;
        Ok(Response::new(write_whole(&whole)))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let (Incoming { principal, message, .. }, attempt, allowed) = Incoming::attempted(request)?;
        let attempt = match &message.target {
            Some(RevokeTarget::Jti(jti)) => attempt.at(jti),
            Some(RevokeTarget::Token(_)) | None => attempt,
        };
        let which = match allowed.and_then(|()| read_revoked(message.target)) {
            Ok(which) => which,
            Err(refusal) => return Err(self.calls.denied(attempt, refusal).await.into()),
        };
        let Revocation { jti, until, .. } = self.calls.revoke_token(&principal, which, attempt).await?;
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

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<BoxStream<v1::Event>>, Status> {
        let Incoming { principal, lifetime, message, .. } = Incoming::of(request)?;
        let (from, filter) = read_watch(&message)?;
        let watch = self.calls.watch_events(&principal, from, filter, lifetime.over()).await?;
        let events = watch.map(|event| event.map(|event| write_event(&event)).map_err(Status::from));
        Ok(Response::new(events.boxed()))
    }

    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (filter, words, page) = read_audit_list(message)?;
        let listed = self.calls.audit_entries(&principal, &filter, page).await?;
        Ok(Response::new(write_audit_list(&listed, &words)))
    }
}

fn read_end(wire: v1::EndSessionRequest) -> Answer<(Target, Option<Outcome>)> {
    let mut faults = Violations::default();
    let outcome = read_outcome(wire.outcome, &mut faults);
    let target = wire.target.map(|target| match target {
        EndTarget::SessionId(id) => (Some(id), None),
        EndTarget::CallId(call) => (None, Some(call)),
    });
    let target = read_target_into(target, &mut faults);
    Ok(faults.into_result(target.map(|target| (target, outcome)))?)
}

fn read_complete(wire: v1::CompleteSessionRequest) -> Answer<(Target, Completion)> {
    let mut faults = Violations::default();
    let target = wire.target.map(|target| match target {
        CompleteTarget::SessionId(id) => (Some(id), None),
        CompleteTarget::CallId(call) => (None, Some(call)),
    });
    let target = read_target_into(target, &mut faults);
    let completion = read_completion(wire.transcript, wire.results, &mut faults);
    Ok(faults.into_result(target.zip(completion))?)
}

fn read_revoked(target: Option<RevokeTarget>) -> Answer<Revoked> {
    let mut faults = Violations::default();
    let revoked = match target {
        Some(RevokeTarget::Token(token)) => Some(Revoked::Token(token)),
        Some(RevokeTarget::Jti(jti)) => {
            let parsed = jti.parse().map_err(|_| Fault::new("must be the jti of a token, a UUID"));
            faults.take("jti", parsed).map(Revoked::Jti)
        }
        None => faults.take("target", Err(Fault::new("token or jti is required"))),
    };
    Ok(faults.into_result(revoked)?)
}

/// A session, named by one of its two ids.
fn read_target(target: Option<(Option<String>, Option<String>)>) -> Answer<Target> {
    let mut faults = Violations::default();
    let target = read_target_into(target, &mut faults);
    Ok(faults.into_result(target)?)
}

fn read_target_into(target: Option<(Option<String>, Option<String>)>, faults: &mut Violations) -> Option<Target> {
    match target {
        Some((Some(id), _)) => read("session_id", &id, faults).map(Target::Session),
        Some((None, Some(call))) => read("call_id", &call, faults).map(Target::Call),
        Some((None, None)) | None => faults.take("target", Err(Fault::new("session_id or call_id is required"))),
    }
}
