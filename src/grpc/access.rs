//! Who may call what: one line an RPC. An RPC that is missing here is refused, and a test names it.

use crate::domain::{
    Result,
    principal::Principal,
    tenant::Scope::{
        self, AiSessionsControlAdmin, AiSessionsRead, EventsRead, NodesConnect, SlotsAcquire, TenantsAdmin,
        VoiceAgentsRead, VoiceAgentsWrite,
    },
};

/// What an RPC asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A key, or a service of the mesh, with this scope.
    Scope(Scope),
    /// The call's own callback token, or another credential with `ai_sessions:control_admin`. Which call, the handler
    /// checks.
    Verb,
    /// A credential with this scope, or a callback token for its own call. Which call, the handler checks.
    ScopeOrToken(Scope),
    /// The same, or a connection token for its own session.
    ScopeOrEitherToken(Scope),
}

impl Access {
    pub fn check(self, principal: &Principal) -> Result<()> {
        match (self, principal) {
            (Self::Verb | Self::ScopeOrToken(_) | Self::ScopeOrEitherToken(_), Principal::Call(_))
            | (Self::ScopeOrEitherToken(_), Principal::Connection(_)) => Ok(()),
            (Self::Verb, Principal::Key(_) | Principal::Mesh(_) | Principal::Connection(_)) => {
                principal.require(AiSessionsControlAdmin)
            }
            (Self::Scope(scope) | Self::ScopeOrToken(scope) | Self::ScopeOrEitherToken(scope), _) => {
                principal.require(scope)
            }
        }
    }
}

/// The table, by path.
pub const TABLE: &[(&str, Access)] = &[
    ("/voxgate.v1.VoiceAgentService/CreateVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/GetVoiceAgent", Access::Scope(VoiceAgentsRead)),
    ("/voxgate.v1.VoiceAgentService/ListVoiceAgents", Access::Scope(VoiceAgentsRead)),
    ("/voxgate.v1.VoiceAgentService/UpdateVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/PauseVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/ResumeVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/ArchiveVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/UnarchiveVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/DeleteVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/SetDefaultVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/GetDefaultVoiceAgent", Access::Scope(VoiceAgentsRead)),
    ("/voxgate.v1.VoiceAgentService/ResolveVoiceAgent", Access::Scope(VoiceAgentsRead)),
    ("/voxgate.v1.VoiceAgentService/ListVoiceAgentRevisions", Access::Scope(VoiceAgentsRead)),
    ("/voxgate.v1.VoiceAgentService/RollbackVoiceAgent", Access::Scope(VoiceAgentsWrite)),
    ("/voxgate.v1.VoiceAgentService/PreviewSystemInstruction", Access::Scope(VoiceAgentsRead)),
    ("/voxgate.v1.AdmissionService/AcquireSlot", Access::Scope(SlotsAcquire)),
    ("/voxgate.v1.AdmissionService/AwaitSlot", Access::Scope(SlotsAcquire)),
    ("/voxgate.v1.AdmissionService/RenewSlots", Access::Scope(SlotsAcquire)),
    ("/voxgate.v1.AdmissionService/ReleaseSlot", Access::Scope(SlotsAcquire)),
    ("/voxgate.v1.AdmissionService/GetUsage", Access::Scope(SlotsAcquire)),
    ("/voxgate.v1.AdmissionService/WatchUsage", Access::Scope(SlotsAcquire)),
    ("/voxgate.v1.AdmissionService/Transfer", Access::Verb),
    ("/voxgate.v1.AdmissionService/Hangup", Access::Verb),
    ("/voxgate.v1.AdmissionService/Log", Access::Verb),
    ("/voxgate.v1.AdmissionService/Mute", Access::Verb),
    ("/voxgate.v1.AdmissionService/Unmute", Access::Verb),
    ("/voxgate.v1.AdmissionService/Hold", Access::Verb),
    ("/voxgate.v1.AdmissionService/Unhold", Access::Verb),
    ("/voxgate.v1.AdmissionService/SendDtmf", Access::Verb),
    ("/voxgate.v1.AdmissionService/PlayAudio", Access::Verb),
    ("/voxgate.v1.AdmissionService/SetDisposition", Access::Verb),
    ("/voxgate.v1.AdmissionService/RecordingPause", Access::Verb),
    ("/voxgate.v1.AdmissionService/RecordingResume", Access::Verb),
    ("/voxgate.v1.AdmissionService/GetCallState", Access::Verb),
    ("/voxgate.v1.AdmissionService/ConferenceStart", Access::Verb),
    ("/voxgate.v1.AdmissionService/ConferenceAdd", Access::Verb),
    ("/voxgate.v1.AdmissionService/ConferenceRemove", Access::Verb),
    ("/voxgate.v1.AdmissionService/ConferenceLeave", Access::Verb),
    ("/voxgate.v1.AdmissionService/RequestSupervisor", Access::Verb),
    ("/voxgate.v1.AdmissionService/Whisper", Access::Verb),
    ("/voxgate.v1.AdmissionService/Barge", Access::Verb),
    ("/voxgate.v1.AdmissionService/MonitorStart", Access::Verb),
    ("/voxgate.v1.AdmissionService/MonitorStop", Access::Verb),
    ("/voxgate.v1.AdmissionService/SetLeadField", Access::Verb),
    ("/voxgate.v1.AdmissionService/SetLeadStatus", Access::Verb),
    ("/voxgate.v1.AdmissionService/ScheduleCallback", Access::Verb),
    ("/voxgate.v1.SessionService/CreateSession", Access::Scope(SlotsAcquire)),
    ("/voxgate.v1.SessionService/GetSession", Access::ScopeOrEitherToken(AiSessionsRead)),
    ("/voxgate.v1.SessionService/ListSessions", Access::Scope(AiSessionsRead)),
    ("/voxgate.v1.SessionService/EndSession", Access::Verb),
    ("/voxgate.v1.SessionService/CompleteSession", Access::ScopeOrEitherToken(AiSessionsControlAdmin)),
    ("/voxgate.v1.SessionService/RevokeToken", Access::Scope(AiSessionsControlAdmin)),
    ("/voxgate.v1.SessionService/GetOperation", Access::ScopeOrToken(AiSessionsRead)),
    ("/voxgate.v1.SessionService/WatchEvents", Access::Scope(EventsRead)),
    ("/voxgate.v1.SessionService/ListAuditEntries", Access::Scope(AiSessionsRead)),
    ("/voxgate.v1.MediaNodeService/Connect", Access::Scope(NodesConnect)),
    ("/voxgate.v1.TenantService/CreateTenant", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/GetTenant", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/ListTenants", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/UpdateTenant", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/CreateApiKey", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/ListApiKeys", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/RotateApiKey", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/RevokeApiKey", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/CreateWebhookEndpoint", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/ListWebhookEndpoints", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/UpdateWebhookEndpoint", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/DeleteWebhookEndpoint", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/RotateWebhookSecret", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/ListDeadLetters", Access::Scope(TenantsAdmin)),
    ("/voxgate.v1.TenantService/RedeliverEvent", Access::Scope(TenantsAdmin)),
];

/// Which line is that of `path`.
pub fn line_of(path: &str) -> Option<usize> {
    TABLE.iter().position(|(known, _)| *known == path)
}

/// The RPC's name on the `line`, without its service.
pub fn action(line: usize) -> &'static str {
    let path = TABLE[line].0;
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Whether attempts at the RPC on the `line` are written to the audit log, those that are refused here among them.
pub fn is_audited(line: usize) -> bool {
    TABLE[line].1 == Access::Verb || matches!(action(line), "CompleteSession" | "RevokeToken")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;

    use super::*;

    #[test]
    fn every_rpc_has_its_line_and_every_line_its_rpc() {
        let set = prost_types::FileDescriptorSet::decode(crate::proto::DESCRIPTOR_SET).expect("our descriptors");
        let mut rpcs = BTreeSet::new();
        for file in &set.file {
            for service in file.service.iter().filter(|_| file.package() == "voxgate.v1") {
                for method in &service.method {
                    rpcs.insert(format!("/voxgate.v1.{}/{}", service.name(), method.name()));
                }
            }
        }
        let lines: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(rpcs, lines);
        assert_eq!(TABLE.len(), lines.len(), "no RPC stands twice");
    }
}
