//! Lists a tenant's sessions.

use super::Calls;
use crate::{
    domain::{Result, page::PageRequest, principal::Principal, session::Session, session_filter::SessionFilter},
    sessions::SessionPage,
};

impl Calls {
    /// Active ones with their leases' expiry as the slot store has it, as [`Calls::session`] has it of one.
    pub async fn list_sessions(
        &self,
        principal: &Principal,
        filter: SessionFilter,
        page: PageRequest,
    ) -> Result<SessionPage> {
        let tenant = principal.tenant();
        let mut listed = self.sessions.list(tenant, filter, page).await?;
        let active: Vec<&mut Session> = listed.sessions.iter_mut().filter(|session| session.is_active()).collect();
        if !active.is_empty() {
            let calls: Vec<_> = active.iter().map(|session| session.call.clone()).collect();
            // The rows' are as old as the last sweep, and will do while the store is away.
            let leases = self.slots.leases(tenant, &calls).await.unwrap_or_default();
            for (session, lease) in active.into_iter().zip(leases) {
                if let Some(lease) = lease.filter(|lease| lease.id == session.lease) {
                    session.lease_expires_at = lease.expires_at;
                }
            }
        }
        Ok(listed)
    }
}
