//! How full an agent or a tenant is.

use super::Calls;
use crate::domain::{
    Result,
    ids::{TenantId, VoiceAgentId},
    lease::Usage,
};

impl Calls {
    /// The limits are those of the row as it is known here, which calls may not have brought to the slot store yet.
    pub async fn usage(&self, tenant: TenantId, agent: Option<VoiceAgentId>) -> Result<Usage> {
        match agent {
            Some(id) => {
                let (agent, usage) = tokio::join!(self.agents.get(tenant, id), self.slots.usage(tenant, id));
                let agent = agent?;
                let (limit, reserved_inbound) = (agent.spec.max_concurrent, agent.spec.reserved_inbound);
                Ok(Usage { limit, reserved_inbound, ..usage? })
            }
            None => {
                let (owner, usage) = tokio::join!(self.owner(tenant), self.slots.tenant_usage(tenant));
                Ok(Usage { limit: owner?.max_concurrent, reserved_inbound: 0, ..usage? })
            }
        }
    }
}
