//! The wire: decode, call, encode.
//!
//! A handler is three moves. Everything that all RPCs share (credentials, deadlines, limits, panics, metrics) is in
//! `layers`, who may call what in `access`, and what a failure looks like in `status`. An RPC that has no handler here
//! answers UNIMPLEMENTED; `tests/it/rpc/unimplemented.rs` lists them.

pub mod access;
mod admission;
pub mod convert;
mod heard_out;
pub mod layers;
pub mod lifetime;
mod meters;
mod nodes;
mod sessions;
mod spans;
pub mod status;
mod tenants;
mod traced;
mod voice_agents;

use tonic::{Request, Status, service::Routes};

use self::{
    layers::{Caller, Deadline, Peer},
    lifetime::Lifetime,
};
use crate::{
    agents::VoiceAgents,
    calls::Calls,
    domain::{Error, Result as Answer, audit::Attempt, principal::Principal, trace::TraceContext},
    proto::v1::{
        admission_service_server::AdmissionServiceServer, media_node_service_server::MediaNodeServiceServer,
        session_service_server::SessionServiceServer, tenant_service_server::TenantServiceServer,
        voice_agent_service_server::VoiceAgentServiceServer,
    },
    tenants::Tenants,
    webhooks::Webhooks,
};

/// Bytes of one message, either way.
const MESSAGE_MAX_BYTES: usize = 256 * 1024;
/// Of a session with its log, transcript and results: what came in messages of the size above, one after the other, goes
/// out in one. Clients take 4 MiB by default.
const SESSION_MAX_BYTES: usize = 2 * 1024 * 1024;

/// The five services.
pub const SERVICES: [&str; 5] = [
    "voxgate.v1.VoiceAgentService",
    "voxgate.v1.AdmissionService",
    "voxgate.v1.SessionService",
    "voxgate.v1.MediaNodeService",
    "voxgate.v1.TenantService",
];

/// What the handlers call.
#[derive(Debug, Clone)]
pub struct Api {
    pub agents: VoiceAgents,
    pub calls: Calls,
    pub tenants: Tenants,
    pub webhooks: Webhooks,
}

impl Api {
    /// The services, added to those that `routes` has already.
    pub fn add_to(self, routes: Routes) -> Routes {
        macro_rules! limited {
            ($server:ident) => {
                limited!($server, MESSAGE_MAX_BYTES)
            };
            ($server:ident, $answer_max_bytes:expr) => {
                $server::new(self.clone())
                    .max_decoding_message_size(MESSAGE_MAX_BYTES)
                    .max_encoding_message_size($answer_max_bytes)
            };
        }
        routes
            .add_service(limited!(VoiceAgentServiceServer))
            .add_service(limited!(AdmissionServiceServer))
            .add_service(limited!(SessionServiceServer, SESSION_MAX_BYTES))
            .add_service(limited!(MediaNodeServiceServer))
            .add_service(limited!(TenantServiceServer))
    }
}

/// A request with what the layers found out about its caller.
struct Incoming<T> {
    principal: Principal,
    deadline: Deadline,
    /// Of its connection: streams end with it.
    lifetime: Lifetime,
    message: T,
    trace: Option<TraceContext>,
}

impl<T> Incoming<T> {
    fn of(request: Request<T>) -> Result<Self, Status> {
        let (incoming, caller) = Self::parts(request)?;
        match caller.refusal.is_there() {
            // The gate answers in its own words.
            true => Err(Status::permission_denied("")),
            false => Ok(incoming),
        }
    }

    /// Of an audited RPC, whose handler notes what comes of the attempt: also that it is refused for the reason given.
    fn attempted(request: Request<T>) -> Result<(Self, Attempt, Answer<()>), Status> {
        let (incoming, caller) = Self::parts(request)?;
        let attempt = caller.attempt.ok_or_else(|| Error::internal("an RPC is noted that is not audited"))?;
        Ok((incoming, attempt, caller.refusal.take().map_or(Ok(()), Err)))
    }

    fn parts(request: Request<T>) -> Result<(Self, Caller), Status> {
        let (_, mut extensions, message) = request.into_parts();
        let caller: Option<Caller> = extensions.remove();
        let caller = caller.ok_or_else(|| Error::internal("a handler was reached without a caller"))?;
        let lifetime = extensions.remove::<Peer>().unwrap_or_default().lifetime;
        let (principal, trace) = (caller.principal.clone(), caller.trace.clone());
        Ok((Self { principal, deadline: caller.deadline, lifetime, message, trace }, caller))
    }
}
