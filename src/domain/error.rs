//! Everything that can go wrong, as callers may know it.
//!
//! [`Reason`] is the stable machine word, [`Error`] carries what a caller is told, and `grpc::status` alone puts them on
//! the wire. The text of a database, of Redis or of the machine is kept in [`Internal`] for the log and never leaves.

mod internal;

use std::{fmt, time::Duration};

pub use self::internal::Internal;
use super::{
    conference::Relation,
    destination::DestinationType,
    ids::{CallId, EventId, IdempotencyKey, NodeId, OperationId, SessionId, TenantId, VoiceAgentId},
    lease::Denial,
    rate::{Rate, RateScope},
    session::Outcome,
    tenant::Scope,
    violations::{Fault, Violations},
    voice_agent::Subprotocol,
    words::words,
};

pub type Result<T, E = Error> = std::result::Result<T, E>;

words!(
    /// The stable machine codes of contract section 8 that this service can answer.
    Reason {
        ValidationFailed = "VALIDATION_FAILED",
        PageTokenInvalid = "PAGE_TOKEN_INVALID",
        CredentialMissing = "CREDENTIAL_MISSING",
        CredentialInvalid = "CREDENTIAL_INVALID",
        CredentialExpired = "CREDENTIAL_EXPIRED",
        TokenRevoked = "TOKEN_REVOKED",
        ScopeRequired = "SCOPE_REQUIRED",
        CallNotBoundToToken = "CALL_NOT_BOUND_TO_TOKEN",
        ConferenceMembershipRequired = "CONFERENCE_MEMBERSHIP_REQUIRED",
        DestinationNotAllowed = "DESTINATION_NOT_ALLOWED",
        VoiceAgentNotFound = "VOICE_AGENT_NOT_FOUND",
        SessionNotFound = "SESSION_NOT_FOUND",
        OperationNotFound = "OPERATION_NOT_FOUND",
        TenantNotFound = "TENANT_NOT_FOUND",
        ApiKeyNotFound = "API_KEY_NOT_FOUND",
        MemberNotFound = "MEMBER_NOT_FOUND",
        VoiceAgentInUse = "VOICE_AGENT_IN_USE",
        VoiceAgentPaused = "VOICE_AGENT_PAUSED",
        VoiceAgentArchived = "VOICE_AGENT_ARCHIVED",
        NoVoiceAgentConfigured = "NO_VOICE_AGENT_CONFIGURED",
        SubprotocolMismatch = "SUBPROTOCOL_MISMATCH",
        AiSessionTerminated = "AI_SESSION_TERMINATED",
        InvalidCallState = "INVALID_CALL_STATE",
        LeaseLost = "LEASE_LOST",
        IdempotencyKeyReused = "IDEMPOTENCY_KEY_REUSED",
        CallAlreadyAdmitted = "CALL_ALREADY_ADMITTED",
        MaxConcurrentExceeded = "MAX_CONCURRENT_EXCEEDED",
        QueueFull = "QUEUE_FULL",
        QueueTimeout = "QUEUE_TIMEOUT",
        RateLimited = "RATE_LIMITED",
        EtagMismatch = "ETAG_MISMATCH",
        IdempotencyInProgress = "IDEMPOTENCY_IN_PROGRESS",
        SlotStoreUnavailable = "SLOT_STORE_UNAVAILABLE",
        DatabaseUnavailable = "DATABASE_UNAVAILABLE",
        NodeUnreachable = "NODE_UNREACHABLE",
        ShuttingDown = "SHUTTING_DOWN",
        Recovering = "RECOVERING",
        Overloaded = "OVERLOADED",
        OperationPending = "OPERATION_PENDING",
        DeadlineExceeded = "DEADLINE_EXCEEDED",
        Unimplemented = "UNIMPLEMENTED",
        Internal = "INTERNAL",
    }
);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the request is invalid: {}", .0.summary())]
    Invalid(Violations),
    #[error("the page token is not one of this list")]
    PageTokenInvalid,
    #[error("{0}")]
    Unauthenticated(CredentialFault),
    #[error("the token was revoked")]
    TokenRevoked { jti: uuid::Uuid },
    #[error("the credential lacks the scope {}", .0.as_str())]
    ScopeRequired(Scope),
    #[error("the token is bound to another call")]
    CallNotBoundToToken { call: CallId },
    #[error("the call neither shares a conference with the other one nor monitors it as the verb needs")]
    ConferenceMembershipRequired { call: CallId, target: CallId, required: Relation },
    #[error("the tenant's destination_policy does not allow the destination")]
    DestinationNotAllowed { call: CallId, kind: DestinationType },
    #[error("the call's conference has no member {member}")]
    MemberNotFound { call: CallId, member: String },
    #[error("{} {id} does not exist", .resource.as_str())]
    NotFound { resource: Resource, id: String },
    #[error("voice agent {agent} has no revision {revision}")]
    RevisionNotFound { agent: VoiceAgentId, revision: i64 },
    #[error("the voice agent has {active_sessions} active sessions")]
    VoiceAgentInUse { agent: VoiceAgentId, active_sessions: i64 },
    #[error("the voice agent is paused")]
    VoiceAgentPaused { agent: VoiceAgentId },
    #[error("the voice agent is archived")]
    VoiceAgentArchived { agent: VoiceAgentId },
    #[error("nothing names a voice agent, and the tenant has no default_ws_url to make one from")]
    NoVoiceAgentConfigured { tenant: TenantId },
    #[error("the voice agent speaks {}", .configured.as_str())]
    SubprotocolMismatch { configured: Subprotocol, requested: Subprotocol },
    #[error("the session has ended with {}", .outcome.as_str())]
    AiSessionTerminated { call: CallId, session: SessionId, outcome: Outcome },
    #[error("the call's state does not allow the verb: {state}")]
    InvalidCallState { call: CallId, state: &'static str },
    #[error("the call's lease was overtaken by a newer one")]
    LeaseLost { call: CallId },
    #[error("the media node refused: {message}")]
    NodeRefused { call: CallId, operation: OperationId, reason: String, message: String },
    #[error("the idempotency key was used for another request")]
    IdempotencyKeyReused { key: String },
    #[error("the call is admitted to another voice agent")]
    CallAlreadyAdmitted { call: CallId, agent: VoiceAgentId },
    #[error("no slot is free: the limit of the {} binds", .0.binding.as_str())]
    MaxConcurrentExceeded(Box<Denial>),
    #[error("{queued} calls wait for the voice agent, and no more may")]
    QueueFull { agent: VoiceAgentId, queued: u32, limit: u32 },
    #[error("no slot came free within the time that the caller would wait")]
    QueueTimeout { agent: VoiceAgentId, waited: Duration },
    #[error("more requests than the rate limit of the {} allows", .scope.in_words())]
    RateLimited { scope: RateScope, rate: Rate, retry_after: Duration },
    #[error("the voice agent has changed since the etag was read")]
    EtagMismatch { current: String },
    #[error("the first request with this idempotency key is still running")]
    IdempotencyInProgress { key: IdempotencyKey },
    #[error("no connected media node hosts the call")]
    NodeUnreachable { call: CallId, node: Option<NodeId> },
    #[error("the slot store lost its data and is taking live calls in again")]
    Recovering { left: Duration },
    /// Between a slot store and whoever opens its tenants; a caller would be told to come back.
    #[error("the slot store does not know the tenant")]
    Unopened,
    #[error("{} is unavailable", .0.as_str())]
    Unavailable(Dependency, #[source] Option<Internal>),
    #[error("no event was taken for {} s; watch again after the last one", .waited.as_secs())]
    EventsNotTaken { waited: Duration, after: Option<EventId> },
    #[error("the operation has not finished within the deadline")]
    OperationPending { operation: OperationId, state: &'static str },
    #[error("the deadline was exceeded")]
    DeadlineExceeded,
    #[error("this release does not serve the RPC")]
    Unimplemented,
    #[error("internal error")]
    Internal(#[source] Internal),
}

/// What is told of a call.
fn of_call(call: &CallId, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    std::iter::once(("call_id", call.to_string())).chain(more).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialFault {
    #[error("no credential was sent: authorization: Bearer <API key or token>, or a client certificate")]
    Missing,
    #[error("the credential is not valid")]
    Invalid,
    #[error("the credential has expired")]
    Expired,
}

words!(Resource {
    VoiceAgent = "voice agent",
    Session = "session",
    /// A session, asked for by its call.
    Call = "a session of call",
    Operation = "operation",
    Tenant = "tenant",
    ApiKey = "API key",
});

words!(
    /// What we need and could not reach just now.
    Dependency {
        SlotStore = "the slot store",
        Database = "the database",
        /// This replica, on its way out.
        Replica = "this replica",
        /// This replica, with as much in hand as it takes.
        Capacity = "capacity",
    }
);

impl Resource {
    const fn reason(self) -> Reason {
        match self {
            Self::VoiceAgent => Reason::VoiceAgentNotFound,
            Self::Session | Self::Call => Reason::SessionNotFound,
            Self::Operation => Reason::OperationNotFound,
            Self::Tenant => Reason::TenantNotFound,
            Self::ApiKey => Reason::ApiKeyNotFound,
        }
    }

    /// What its id is called in an ErrorInfo.
    const fn id_name(self) -> &'static str {
        match self {
            Self::VoiceAgent => "voice_agent_id",
            Self::Session => "session_id",
            Self::Call => "call_id",
            Self::Operation => "operation_id",
            Self::Tenant => "tenant_id",
            Self::ApiKey => "api_key_id",
        }
    }
}

impl From<Violations> for Error {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
    }
}

impl Error {
    /// One field at fault.
    pub fn invalid(field: &str, description: impl Into<String>) -> Self {
        Self::Invalid((field, Fault::new(description)).into())
    }

    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(Internal::new(source))
    }

    pub fn unavailable(what: Dependency, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(what, Some(Internal::new(source)))
    }

    /// The same, with its fields behind `prefix.`: the path by which the caller sent them.
    #[must_use]
    pub fn under(self, prefix: &str) -> Self {
        match self {
            Self::Invalid(part) => {
                let mut whole = Violations::default();
                whole.absorb(prefix, part);
                Self::Invalid(whole)
            }
            other => other,
        }
    }

    pub fn not_found(resource: Resource, id: impl fmt::Display) -> Self {
        Self::NotFound { resource, id: id.to_string() }
    }

    pub const fn reason(&self) -> Reason {
        match self {
            Self::Invalid(_) => Reason::ValidationFailed,
            Self::PageTokenInvalid => Reason::PageTokenInvalid,
            Self::Unauthenticated(CredentialFault::Missing) => Reason::CredentialMissing,
            Self::Unauthenticated(CredentialFault::Invalid) => Reason::CredentialInvalid,
            Self::Unauthenticated(CredentialFault::Expired) => Reason::CredentialExpired,
            Self::TokenRevoked { .. } => Reason::TokenRevoked,
            Self::ScopeRequired(_) => Reason::ScopeRequired,
            Self::CallNotBoundToToken { .. } => Reason::CallNotBoundToToken,
            Self::ConferenceMembershipRequired { .. } => Reason::ConferenceMembershipRequired,
            Self::DestinationNotAllowed { .. } => Reason::DestinationNotAllowed,
            Self::MemberNotFound { .. } => Reason::MemberNotFound,
            Self::NotFound { resource, .. } => resource.reason(),
            Self::RevisionNotFound { .. } => Reason::VoiceAgentNotFound,
            Self::VoiceAgentInUse { .. } => Reason::VoiceAgentInUse,
            Self::VoiceAgentPaused { .. } => Reason::VoiceAgentPaused,
            Self::VoiceAgentArchived { .. } => Reason::VoiceAgentArchived,
            Self::NoVoiceAgentConfigured { .. } => Reason::NoVoiceAgentConfigured,
            Self::SubprotocolMismatch { .. } => Reason::SubprotocolMismatch,
            Self::AiSessionTerminated { .. } => Reason::AiSessionTerminated,
            Self::InvalidCallState { .. } | Self::NodeRefused { .. } => Reason::InvalidCallState,
            Self::LeaseLost { .. } => Reason::LeaseLost,
            Self::IdempotencyKeyReused { .. } => Reason::IdempotencyKeyReused,
            Self::CallAlreadyAdmitted { .. } => Reason::CallAlreadyAdmitted,
            Self::MaxConcurrentExceeded(_) => Reason::MaxConcurrentExceeded,
            Self::QueueFull { .. } => Reason::QueueFull,
            Self::QueueTimeout { .. } => Reason::QueueTimeout,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::EtagMismatch { .. } => Reason::EtagMismatch,
            Self::IdempotencyInProgress { .. } => Reason::IdempotencyInProgress,
            Self::NodeUnreachable { .. } => Reason::NodeUnreachable,
            Self::Recovering { .. } | Self::Unopened => Reason::Recovering,
            Self::Unavailable(Dependency::SlotStore, _) => Reason::SlotStoreUnavailable,
            Self::Unavailable(Dependency::Database, _) => Reason::DatabaseUnavailable,
            Self::Unavailable(Dependency::Replica, _) => Reason::ShuttingDown,
            Self::Unavailable(Dependency::Capacity, _) | Self::EventsNotTaken { .. } => Reason::Overloaded,
            Self::OperationPending { .. } => Reason::OperationPending,
            Self::DeadlineExceeded => Reason::DeadlineExceeded,
            Self::Unimplemented => Reason::Unimplemented,
            Self::Internal(_) => Reason::Internal,
        }
    }

    /// What the error is about, for machines: the metadata of its ErrorInfo, as `error_reason.proto` lists it.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::TokenRevoked { jti } => vec![("jti", jti.to_string())],
            Self::ScopeRequired(scope) => vec![("scope", scope.as_str().to_owned())],
            Self::CallNotBoundToToken { call } | Self::LeaseLost { call } => vec![("call_id", call.to_string())],
            Self::ConferenceMembershipRequired { call, target, required } => {
                of_call(call, &[("target_call_id", target.as_str()), ("required", required.as_str())])
            }
            Self::DestinationNotAllowed { call, kind } => of_call(call, &[("destination_type", kind.as_str())]),
            Self::MemberNotFound { call, member } => of_call(call, &[("member_id", member)]),
            Self::NotFound { resource, id } => vec![(resource.id_name(), id.clone())],
            Self::RevisionNotFound { agent, revision } => {
                vec![("voice_agent_id", agent.to_string()), ("revision", revision.to_string())]
            }
            Self::VoiceAgentInUse { agent, active_sessions: active } => {
                vec![("voice_agent_id", agent.to_string()), ("active_sessions", active.to_string())]
            }
            Self::VoiceAgentPaused { agent } | Self::VoiceAgentArchived { agent } => {
                vec![("voice_agent_id", agent.to_string())]
            }
            Self::NoVoiceAgentConfigured { tenant } => vec![("tenant_id", tenant.to_string())],
            Self::SubprotocolMismatch { configured, requested } => {
                vec![("requested", requested.as_str().to_owned()), ("configured", configured.as_str().to_owned())]
            }
            Self::AiSessionTerminated { call, session, outcome } => {
                of_call(call, &[("session_id", &session.to_string()), ("outcome", outcome.as_str())])
            }
            Self::InvalidCallState { call, state } => of_call(call, &[("state", state)]),
            Self::NodeRefused { call, operation, reason, .. } => {
                let operation = operation.to_string();
                of_call(call, &[("state", "refused_by_node"), ("operation_id", &operation), ("node_reason", reason)])
            }
            Self::IdempotencyKeyReused { key } => vec![("idempotency_key", key.clone())],
            Self::IdempotencyInProgress { key } => vec![("idempotency_key", key.to_string())],
            Self::CallAlreadyAdmitted { call, agent } => of_call(call, &[("voice_agent_id", &agent.to_string())]),
            Self::MaxConcurrentExceeded(denial) => denial.metadata(),
            Self::QueueFull { agent, queued, limit } => vec![
                ("voice_agent_id", agent.to_string()),
                ("queued", queued.to_string()),
                ("limit", limit.to_string()),
            ],
            Self::QueueTimeout { agent, waited } => {
                vec![("voice_agent_id", agent.to_string()), ("waited_ms", waited.as_millis().to_string())]
            }
            Self::RateLimited { scope, rate, .. } => vec![
                ("scope", scope.as_str().to_owned()),
                ("limit", rate.limit().to_string()),
                ("window_seconds", rate.window().as_secs().to_string()),
            ],
            Self::EtagMismatch { current } => vec![("etag", current.clone())],
            Self::NodeUnreachable { call, node } => {
                let node = node.as_ref().map(|node| ("node_id", node.to_string()));
                std::iter::once(("call_id", call.to_string())).chain(node).collect()
            }
            Self::EventsNotTaken { after, .. } => Vec::from_iter(after.map(|id| ("after_event_id", id.to_string()))),
            Self::OperationPending { operation, state } => {
                vec![("operation_id", operation.to_string()), ("state", (*state).to_owned())]
            }
            Self::Invalid(_)
            | Self::PageTokenInvalid
            | Self::Unauthenticated(_)
            | Self::Recovering { .. }
            | Self::Unopened
            | Self::Unavailable(..)
            | Self::DeadlineExceeded
            | Self::Unimplemented
            | Self::Internal(_) => Vec::new(),
        }
    }

    /// How long a caller should wait before it tries the same again; nothing where trying again cannot help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::MaxConcurrentExceeded(denial) => {
                let (floor, ceiling) = (Duration::from_millis(250), Duration::from_secs(5));
                Some(denial.next_expiry_in.clamp(floor, ceiling))
            }
            Self::RateLimited { retry_after, .. } => Some(*retry_after),
            Self::QueueFull { .. } | Self::QueueTimeout { .. } => Some(Duration::from_secs(1)),
            Self::IdempotencyInProgress { .. } => Some(Duration::from_millis(200)),
            Self::NodeUnreachable { .. } => Some(Duration::from_secs(2)),
            Self::Recovering { left } => Some(*left),
            Self::Unavailable(_, _) | Self::Unopened | Self::EventsNotTaken { .. } => Some(Duration::from_millis(500)),
            _ => None,
        }
    }
}
