//! What the contract says of each RPC: which scope it needs, what it names, and what a sandbox key may do with what is
//! live. Written from the contract and README alone, so that it can disagree with the service.

use prost::Message;
use prost_types::{FieldMask, Struct, Timestamp, Value, value::Kind};
use tonic::Code;
use voxgate::{
    domain::Env,
    proto::v1::{
        self as wire, complete_session_request, end_session_request, get_session_request, node_message,
        revoke_token_request, transfer_destination,
    },
};

use super::holdings::Holdings;
use crate::harness::world::{acquire, minimal_agent, unique};

/// What an RPC asks of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// All of these scopes; of those that are lacking, the first is told.
    Scopes(&'static [&'static str]),
    /// The call's own callback token, or this scope.
    TokenOr(&'static str),
}

/// What a request names. Another tenant's is answered like one that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Nothing,
    Agent,
    /// A session, by its call.
    Call,
    Session,
    Operation,
    /// `tenants:admin` reaches every tenant and every tenant's keys and webhooks on purpose: it is an operator's scope.
    Tenant,
    Key,
    Webhook,
    /// Something whose absence is no error: a filter that matches nothing, a lease that nobody holds.
    Anything,
}

impl Names {
    /// How one that does not exist is answered; nothing where that is no error.
    pub(super) const fn missing(self) -> Option<(Code, &'static str)> {
        match self {
            Self::Nothing | Self::Anything => None,
            Self::Agent => Some((Code::NotFound, "VOICE_AGENT_NOT_FOUND")),
            Self::Call | Self::Session => Some((Code::NotFound, "SESSION_NOT_FOUND")),
            Self::Operation => Some((Code::NotFound, "OPERATION_NOT_FOUND")),
            Self::Tenant => Some((Code::NotFound, "TENANT_NOT_FOUND")),
            Self::Key => Some((Code::NotFound, "API_KEY_NOT_FOUND")),
            Self::Webhook => Some((Code::InvalidArgument, "VALIDATION_FAILED")),
        }
    }

    pub(super) const fn is_an_operators(self) -> bool {
        matches!(self, Self::Tenant | Self::Key | Self::Webhook)
    }
}

/// What a sandbox key is answered about what is live in its own tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fence {
    /// The same as a live key: it is on neither side, or is only read.
    Open,
    /// The same as about one that does not exist.
    Hidden,
    /// A success that touches nothing.
    Idle,
    Refused(Code, &'static str),
}

/// A request in bytes, which names some of these.
type Encoded = Box<dyn Fn(&Holdings) -> Vec<u8>>;

/// One RPC, by one way of naming.
pub(super) struct Row {
    /// `Service/Method`.
    pub(super) rpc: &'static str,
    pub(super) needs: Needs,
    pub(super) names: Names,
    pub(super) fence: Fence,
    /// What a credential that suffices is answered about its own, where that is not OK: what its call's state says.
    pub(super) own: Option<(Code, &'static str)>,
    /// Its answer tells the time: no two are alike.
    pub(super) tells_time: bool,
    /// What the call's own callback token is answered, where a key that suffices is granted.
    pub(super) of_token: Option<(Code, &'static str)>,
    request: Encoded,
}

impl Row {
    pub(super) fn path(&self) -> String {
        format!("/voxgate.v1.{}", self.rpc)
    }

    pub(super) fn request(&self, names: &Holdings) -> Vec<u8> {
        (self.request)(names)
    }

    /// One of the 25, which an ended session refuses by its outcome.
    pub(super) fn is_verb(&self) -> bool {
        matches!(self.needs, Needs::TokenOr(_)) && self.rpc.starts_with("AdmissionService/")
    }

    /// What a connection token may ask, of its own session.
    pub(super) fn takes_connection_tokens(&self) -> bool {
        matches!(self.rpc, "SessionService/GetSession" | "SessionService/CompleteSession")
    }

    /// Its answers may tell of every tenant.
    pub(super) fn is_an_operators(&self) -> bool {
        self.needs == OPERATOR
    }

    fn behind(self, fence: Fence) -> Self {
        Self { fence, ..self }
    }

    fn telling_the_time(self) -> Self {
        Self { tells_time: true, ..self }
    }

    fn answering_its_token(self, code: Code, reason: &'static str) -> Self {
        Self { of_token: Some((code, reason)), ..self }
    }

    fn answering(self, code: Code, reason: &'static str) -> Self {
        Self { own: Some((code, reason)), ..self }
    }
}

fn row<M: Message>(rpc: &'static str, needs: Needs, names: Names, request: impl Fn(&Holdings) -> M + 'static) -> Row {
    let request = Box::new(move |names: &Holdings| request(names).encode_to_vec());
    Row { rpc, needs, names, fence: Fence::Open, own: None, of_token: None, tells_time: false, request }
}

/// A verb on a call, whose session a sandbox key does not see if it is live.
fn verb<M: Message>(rpc: &'static str, request: impl Fn(String, &Holdings) -> M + 'static) -> Row {
    row(rpc, CONTROL, Names::Call, move |it| request(it.call.clone(), it)).behind(Fence::Hidden)
}

/// Every RPC of the contract.
pub(super) fn rows() -> Vec<Row> {
    [agents(), slots(), verbs(), more_verbs(), sessions(), tenants(), webhooks()].into_iter().flatten().collect()
}

const READ: Needs = Needs::Scopes(&["voice_agents:read"]);
const WRITE: Needs = Needs::Scopes(&["voice_agents:write"]);
const ACQUIRE: Needs = Needs::Scopes(&["slots:acquire"]);
const SESSIONS: Needs = Needs::Scopes(&["ai_sessions:read"]);
const OPERATOR: Needs = Needs::Scopes(&["tenants:admin"]);
const CONTROL: Needs = Needs::TokenOr("ai_sessions:control_admin");
const SESSION_OR_TOKEN: Needs = Needs::TokenOr("ai_sessions:read");

fn agents() -> Vec<Row> {
    vec![
        row("VoiceAgentService/CreateVoiceAgent", WRITE, Names::Nothing, |_| wire::CreateVoiceAgentRequest {
            voice_agent: Some(minimal_agent()),
            request_id: String::new(),
        }),
        row("VoiceAgentService/GetVoiceAgent", READ, Names::Agent, |it| wire::GetVoiceAgentRequest {
            id: it.agent.clone(),
            ..Default::default()
        }),
        row(
            "VoiceAgentService/GetVoiceAgent",
            Needs::Scopes(&["voice_agents:read", "voice_agents:secrets"]),
            Names::Agent,
            |it| wire::GetVoiceAgentRequest {
                id: it.agent.clone(),
                view: wire::VoiceAgentView::Full.into(),
                revision: 0,
            },
        ),
        row("VoiceAgentService/ListVoiceAgents", READ, Names::Nothing, |_| wire::ListVoiceAgentsRequest::default()),
        row("VoiceAgentService/UpdateVoiceAgent", WRITE, Names::Agent, |it| wire::UpdateVoiceAgentRequest {
            voice_agent: Some(wire::VoiceAgent {
                id: it.agent.clone(),
                name: Some("Grace".into()),
                ..Default::default()
            }),
            update_mask: None,
        }),
        row("VoiceAgentService/PauseVoiceAgent", WRITE, Names::Agent, |it| wire::PauseVoiceAgentRequest {
            id: it.agent.clone(),
            ..Default::default()
        }),
        row("VoiceAgentService/ResumeVoiceAgent", WRITE, Names::Agent, |it| wire::ResumeVoiceAgentRequest {
            id: it.agent.clone(),
            ..Default::default()
        }),
        row("VoiceAgentService/ArchiveVoiceAgent", WRITE, Names::Agent, |it| wire::ArchiveVoiceAgentRequest {
            id: it.agent.clone(),
            ..Default::default()
        }),
        row("VoiceAgentService/UnarchiveVoiceAgent", WRITE, Names::Agent, |it| wire::UnarchiveVoiceAgentRequest {
            id: it.agent.clone(),
            ..Default::default()
        }),
        // By force: it would end the agent's sessions.
        row("VoiceAgentService/DeleteVoiceAgent", WRITE, Names::Agent, |it| wire::DeleteVoiceAgentRequest {
            id: it.agent.clone(),
            force: true,
            ..Default::default()
        })
        .behind(Fence::Refused(Code::FailedPrecondition, "VOICE_AGENT_IN_USE")),
        row("VoiceAgentService/SetDefaultVoiceAgent", WRITE, Names::Agent, |it| wire::SetDefaultVoiceAgentRequest {
            voice_agent_id: Some(it.agent.clone()),
        }),
        row("VoiceAgentService/GetDefaultVoiceAgent", READ, Names::Nothing, |_| wire::GetDefaultVoiceAgentRequest {}),
        row("VoiceAgentService/ResolveVoiceAgent", READ, Names::Agent, |it| wire::ResolveVoiceAgentRequest {
            flow_node_voice_agent_id: Some(it.agent.clone()),
            ..Default::default()
        }),
        row("VoiceAgentService/ResolveVoiceAgent", READ, Names::Agent, |it| wire::ResolveVoiceAgentRequest {
            campaign_voice_agent_id: Some(it.agent.clone()),
            ..Default::default()
        }),
        row("VoiceAgentService/ListVoiceAgentRevisions", READ, Names::Agent, |it| {
            wire::ListVoiceAgentRevisionsRequest { id: it.agent.clone(), ..Default::default() }
        }),
        row("VoiceAgentService/RollbackVoiceAgent", WRITE, Names::Agent, |it| wire::RollbackVoiceAgentRequest {
            id: it.agent.clone(),
            revision: 1,
            ..Default::default()
        }),
        row("VoiceAgentService/PreviewSystemInstruction", READ, Names::Nothing, |_| {
            wire::PreviewSystemInstructionRequest {
                behavior: Some(wire::Behavior { instructions: "Be kind.".into(), ..Default::default() }),
            }
        }),
    ]
}

fn slots() -> Vec<Row> {
    vec![
        row("AdmissionService/AcquireSlot", ACQUIRE, Names::Agent, |it| acquire(&it.call, &it.agent))
            .behind(Fence::Refused(Code::FailedPrecondition, "CALL_ALREADY_ADMITTED")),
        row("AdmissionService/AcquireSlot", ACQUIRE, Names::Agent, |it| wire::AcquireSlotRequest {
            voice_agent_id: None,
            campaign_voice_agent_id: Some(it.agent.clone()),
            ..acquire(&it.call, "")
        })
        .behind(Fence::Refused(Code::FailedPrecondition, "CALL_ALREADY_ADMITTED")),
        row("AdmissionService/AwaitSlot", ACQUIRE, Names::Agent, |it| wire::AwaitSlotRequest {
            call_id: it.call.clone(),
            voice_agent_id: Some(it.agent.clone()),
            ..Default::default()
        })
        .behind(Fence::Refused(Code::FailedPrecondition, "CALL_ALREADY_ADMITTED")),
        row("AdmissionService/RenewSlots", ACQUIRE, Names::Anything, |it| wire::RenewSlotsRequest {
            leases: vec![wire::LeaseRenewal { call_id: it.call.clone(), lease_id: it.lease.clone(), lease_ttl: None }],
        })
        .behind(Fence::Idle),
        row("AdmissionService/ReleaseSlot", ACQUIRE, Names::Anything, |it| wire::ReleaseSlotRequest {
            call_id: it.call.clone(),
            lease_id: it.lease.clone(),
            ..Default::default()
        })
        .behind(Fence::Idle),
        row("AdmissionService/GetUsage", ACQUIRE, Names::Agent, |it| wire::GetUsageRequest {
            voice_agent_id: Some(it.agent.clone()),
        }),
        row("AdmissionService/WatchUsage", ACQUIRE, Names::Agent, |it| wire::WatchUsageRequest {
            voice_agent_id: Some(it.agent.clone()),
        }),
    ]
}

fn verbs() -> Vec<Row> {
    vec![
        verb("AdmissionService/Transfer", |call_id, _| wire::TransferRequest {
            call_id,
            destination: Some(wire::TransferDestination {
                destination: Some(transfer_destination::Destination::AgentQueue("support".into())),
            }),
            ..Default::default()
        }),
        verb("AdmissionService/Hangup", |call_id, _| wire::HangupRequest { call_id, ..Default::default() }),
        verb("AdmissionService/Log", |call_id, _| wire::LogRequest {
            call_id,
            metadata: Some(Struct::default()),
            ..Default::default()
        }),
        verb("AdmissionService/Mute", |call_id, _| wire::MuteRequest { call_id, ..Default::default() }),
        verb("AdmissionService/Unmute", |call_id, _| wire::UnmuteRequest { call_id, ..Default::default() })
            .answering(Code::FailedPrecondition, "INVALID_CALL_STATE"),
        // The call is on hold.
        verb("AdmissionService/Hold", |call_id, _| wire::HoldRequest { call_id, ..Default::default() })
            .answering(Code::FailedPrecondition, "INVALID_CALL_STATE"),
        verb("AdmissionService/Unhold", |call_id, _| wire::UnholdRequest { call_id, ..Default::default() }),
        verb("AdmissionService/SendDtmf", |call_id, _| wire::SendDtmfRequest {
            call_id,
            digits: "1".into(),
            ..Default::default()
        }),
        verb("AdmissionService/PlayAudio", |call_id, _| wire::PlayAudioRequest {
            call_id,
            tts_text: Some("Hello".into()),
            ..Default::default()
        }),
        verb("AdmissionService/SetDisposition", |call_id, _| wire::SetDispositionRequest {
            call_id,
            disposition: "done".into(),
            ..Default::default()
        }),
        verb("AdmissionService/RecordingPause", |call_id, _| wire::RecordingPauseRequest {
            call_id,
            ..Default::default()
        }),
        verb("AdmissionService/RecordingResume", |call_id, _| wire::RecordingResumeRequest {
            call_id,
            ..Default::default()
        })
        .answering(Code::FailedPrecondition, "INVALID_CALL_STATE"),
        verb("AdmissionService/GetCallState", |call_id, _| wire::GetCallStateRequest { call_id, ..Default::default() }),
    ]
}

fn more_verbs() -> Vec<Row> {
    vec![
        verb("AdmissionService/ConferenceStart", |call_id, _| wire::ConferenceStartRequest {
            call_id,
            ..Default::default()
        }),
        verb("AdmissionService/ConferenceAdd", |call_id, _| wire::ConferenceAddRequest {
            call_id,
            participant_type: wire::ParticipantType::E164.into(),
            destination: "+15550100".into(),
            ..Default::default()
        })
        .answering(Code::FailedPrecondition, "INVALID_CALL_STATE"),
        verb("AdmissionService/ConferenceRemove", |call_id, _| wire::ConferenceRemoveRequest {
            call_id,
            member_id: "m1".into(),
            ..Default::default()
        })
        .answering(Code::FailedPrecondition, "INVALID_CALL_STATE"),
        verb("AdmissionService/ConferenceLeave", |call_id, _| wire::ConferenceLeaveRequest {
            call_id,
            ..Default::default()
        })
        .answering(Code::FailedPrecondition, "INVALID_CALL_STATE"),
        verb("AdmissionService/RequestSupervisor", |call_id, _| wire::RequestSupervisorRequest {
            call_id,
            reason: "asked for".into(),
            ..Default::default()
        }),
        verb("AdmissionService/Whisper", |call_id, it| wire::WhisperRequest {
            call_id,
            target_call_id: it.peer.clone(),
            tts_text: Some("Hello".into()),
            ..Default::default()
        })
        .answering(Code::PermissionDenied, "CONFERENCE_MEMBERSHIP_REQUIRED"),
        verb("AdmissionService/Barge", |call_id, it| wire::BargeRequest {
            call_id,
            target_call_id: it.peer.clone(),
            ..Default::default()
        })
        .answering(Code::PermissionDenied, "CONFERENCE_MEMBERSHIP_REQUIRED"),
        verb("AdmissionService/MonitorStart", |call_id, it| wire::MonitorStartRequest {
            call_id,
            target_call_id: it.peer.clone(),
            ..Default::default()
        })
        .answering_its_token(Code::PermissionDenied, "CONFERENCE_MEMBERSHIP_REQUIRED"),
        verb("AdmissionService/MonitorStop", |call_id, it| wire::MonitorStopRequest {
            call_id,
            target_call_id: it.peer.clone(),
            ..Default::default()
        })
        .answering(Code::PermissionDenied, "CONFERENCE_MEMBERSHIP_REQUIRED"),
        verb("AdmissionService/SetLeadField", |call_id, _| wire::SetLeadFieldRequest {
            call_id,
            field: "name".into(),
            value: Some(Value { kind: Some(Kind::BoolValue(true)) }),
            ..Default::default()
        }),
        verb("AdmissionService/SetLeadStatus", |call_id, _| wire::SetLeadStatusRequest {
            call_id,
            status: wire::LeadStatus::Connected.into(),
            ..Default::default()
        }),
        verb("AdmissionService/ScheduleCallback", |call_id, _| wire::ScheduleCallbackRequest {
            call_id,
            scheduled_at: Some(tomorrow()),
            ..Default::default()
        }),
    ]
}

fn sessions() -> Vec<Row> {
    vec![
        row("SessionService/CreateSession", ACQUIRE, Names::Agent, |it| wire::CreateSessionRequest {
            voice_agent_id: Some(it.agent.clone()),
            ..Default::default()
        }),
        row("SessionService/CreateSession", ACQUIRE, Names::Agent, |it| wire::CreateSessionRequest {
            campaign_voice_agent_id: Some(it.agent.clone()),
            ..Default::default()
        }),
        row("SessionService/GetSession", SESSION_OR_TOKEN, Names::Session, |it| wire::GetSessionRequest {
            target: Some(get_session_request::Target::SessionId(it.session.clone())),
        }),
        row("SessionService/EndSession", CONTROL, Names::Session, |it| wire::EndSessionRequest {
            target: Some(end_session_request::Target::SessionId(it.session.clone())),
            ..Default::default()
        })
        .behind(Fence::Hidden),
        row("SessionService/CompleteSession", CONTROL, Names::Session, |it| wire::CompleteSessionRequest {
            target: Some(complete_session_request::Target::SessionId(it.session.clone())),
            transcript: vec![turn()],
            ..Default::default()
        })
        .behind(Fence::Hidden),
        row("SessionService/GetSession", SESSION_OR_TOKEN, Names::Call, |it| wire::GetSessionRequest {
            target: Some(get_session_request::Target::CallId(it.call.clone())),
        }),
        row("SessionService/EndSession", CONTROL, Names::Call, |it| wire::EndSessionRequest {
            target: Some(end_session_request::Target::CallId(it.call.clone())),
            ..Default::default()
        })
        .behind(Fence::Hidden),
        row("SessionService/CompleteSession", CONTROL, Names::Call, |it| wire::CompleteSessionRequest {
            target: Some(complete_session_request::Target::CallId(it.call.clone())),
            transcript: vec![turn()],
            ..Default::default()
        })
        .behind(Fence::Hidden),
        row("SessionService/ListSessions", SESSIONS, Names::Anything, |it| wire::ListSessionsRequest {
            voice_agent_id: it.agent.clone(),
            ..Default::default()
        }),
        row("SessionService/RevokeToken", Needs::Scopes(&["ai_sessions:control_admin"]), Names::Anything, |it| {
            wire::RevokeTokenRequest { target: Some(revoke_token_request::Target::Jti(it.jti.clone())) }
        })
        .telling_the_time()
        .behind(Fence::Idle),
        row("SessionService/GetOperation", SESSION_OR_TOKEN, Names::Operation, |it| wire::GetOperationRequest {
            operation_id: it.operation.clone(),
        }),
        row("SessionService/WatchEvents", Needs::Scopes(&["events:read"]), Names::Anything, |it| {
            wire::WatchEventsRequest { call_id: it.call.clone(), from_beginning: true, ..Default::default() }
        }),
        // By session: that a call's name was tried is the tenant's own to read, whosever call it is.
        row("SessionService/ListAuditEntries", SESSIONS, Names::Anything, |it| wire::ListAuditEntriesRequest {
            session_id: it.session.clone(),
            ..Default::default()
        }),
        // A key hosts the calls of its side alone, and this is a live node.
        row("MediaNodeService/Connect", Needs::Scopes(&["nodes:connect"]), Names::Nothing, |_| wire::NodeMessage {
            message: Some(node_message::Message::Hello(live_node())),
        })
        .behind(Fence::Refused(Code::InvalidArgument, "VALIDATION_FAILED")),
    ]
}

fn tenants() -> Vec<Row> {
    vec![
        row("TenantService/CreateTenant", OPERATOR, Names::Nothing, |_| wire::CreateTenantRequest {
            tenant: Some(wire::Tenant { name: Some(unique("tenant")), ..Default::default() }),
        }),
        row("TenantService/GetTenant", OPERATOR, Names::Tenant, |it| wire::GetTenantRequest { id: it.tenant.clone() }),
        row("TenantService/ListTenants", OPERATOR, Names::Nothing, |_| wire::ListTenantsRequest::default()),
        row("TenantService/UpdateTenant", OPERATOR, Names::Tenant, |it| wire::UpdateTenantRequest {
            tenant: Some(wire::Tenant { id: it.tenant.clone(), max_concurrent: Some(9_000), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["max_concurrent".into()] }),
        }),
        row("TenantService/CreateApiKey", OPERATOR, Names::Tenant, |it| wire::CreateApiKeyRequest {
            tenant_id: Some(it.tenant.clone()),
            name: "new".into(),
            ..Default::default()
        }),
        row("TenantService/ListApiKeys", OPERATOR, Names::Tenant, |it| wire::ListApiKeysRequest {
            tenant_id: Some(it.tenant.clone()),
            ..Default::default()
        }),
        row("TenantService/RotateApiKey", OPERATOR, Names::Key, |it| wire::RotateApiKeyRequest {
            id: it.key.clone(),
            grace_period: Some(prost_types::Duration::default()),
        })
        .behind(Fence::Hidden),
        row("TenantService/RevokeApiKey", OPERATOR, Names::Key, |it| wire::RevokeApiKeyRequest { id: it.key.clone() })
            .behind(Fence::Hidden),
    ]
}

fn webhooks() -> Vec<Row> {
    vec![
        row("TenantService/CreateWebhookEndpoint", OPERATOR, Names::Tenant, |it| wire::CreateWebhookEndpointRequest {
            tenant_id: Some(it.tenant.clone()),
            webhook_endpoint: Some(endpoint("")),
        }),
        row("TenantService/ListWebhookEndpoints", OPERATOR, Names::Tenant, |it| wire::ListWebhookEndpointsRequest {
            tenant_id: Some(it.tenant.clone()),
            ..Default::default()
        }),
        row("TenantService/UpdateWebhookEndpoint", OPERATOR, Names::Webhook, |it| wire::UpdateWebhookEndpointRequest {
            webhook_endpoint: Some(endpoint(&it.webhook)),
            update_mask: None,
        })
        .behind(Fence::Hidden),
        row("TenantService/DeleteWebhookEndpoint", OPERATOR, Names::Webhook, |it| wire::DeleteWebhookEndpointRequest {
            id: it.webhook.clone(),
        })
        .behind(Fence::Hidden),
        row("TenantService/RotateWebhookSecret", OPERATOR, Names::Webhook, |it| wire::RotateWebhookSecretRequest {
            id: it.webhook.clone(),
            grace_period: None,
        })
        .behind(Fence::Hidden),
        row("TenantService/ListDeadLetters", OPERATOR, Names::Tenant, |it| wire::ListDeadLettersRequest {
            tenant_id: Some(it.tenant.clone()),
            ..Default::default()
        }),
        row("TenantService/RedeliverEvent", OPERATOR, Names::Tenant, |it| wire::RedeliverEventRequest {
            event_id: it.event.clone(),
            webhook_endpoint_id: None,
            tenant_id: Some(it.tenant.clone()),
        })
        .answering(Code::InvalidArgument, "VALIDATION_FAILED"),
    ]
}

fn live_node() -> wire::Hello {
    wire::Hello {
        node_id: unique("node"),
        subprotocol: wire::Subprotocol::AudioDrachtioOrg.into(),
        capacity: 1,
        version: "test".into(),
        ..Default::default()
    }
}

/// Disabled: nobody is there, and every event of every cell would be tried again and again.
pub(super) fn endpoint(id: &str) -> wire::WebhookEndpoint {
    let url = Some("https://hooks.example/voxgate".into());
    wire::WebhookEndpoint { id: id.into(), url, enabled: Some(false), ..Default::default() }
}

fn turn() -> wire::TranscriptTurn {
    wire::TranscriptTurn { role: wire::TranscriptRole::Caller.into(), text: "Hello".into(), spoken_at: None }
}

fn tomorrow() -> Timestamp {
    Timestamp { seconds: Env::system().now().as_secs() + 24 * 3_600, nanos: 0 }
}
