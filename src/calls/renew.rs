//! Renews leases, and tells a session's end from a lease's loss.

use super::Calls;
use crate::domain::{
    Result,
    ids::TenantId,
    lease::{Renewal, Renewed},
    principal::Principal,
};

impl Calls {
    /// What a caller asked for. To a sandbox key the lease of a live call is one that nobody holds.
    pub async fn renew_for(&self, principal: &Principal, leases: &[Renewal]) -> Result<Vec<Renewed>> {
        let tenant = principal.tenant();
        if !principal.sandbox() {
            return self.renew(tenant, leases).await;
        }
        let mut fates = vec![Renewed::Lost; leases.len()];
        let (mut places, mut reached) = (Vec::new(), Vec::new());
        for (place, renewal) in leases.iter().enumerate() {
            let session = self.sessions.of_call(tenant, &renewal.call).await?;
            if session.is_none_or(|session| session.sandbox) {
                places.push(place);
                reached.push(renewal.clone());
            }
        }
        if reached.is_empty() {
            return Ok(fates);
        }
        for (place, fate) in places.into_iter().zip(self.renew(tenant, &reached).await?) {
            fates[place] = fate;
        }
        Ok(fates)
    }

    pub(super) async fn renew(&self, tenant: TenantId, leases: &[Renewal]) -> Result<Vec<Renewed>> {
        let fates = self.slots.renew(tenant, leases).await?;
        for fate in &fates {
            let label = match fate {
                Renewed::Renewed { .. } => "renewed",
                Renewed::Lost => "lost",
                Renewed::Released => "released",
            };
            metrics::counter!("voxgate_lease_renewals_total", "fate" => label).increment(1);
        }
        Ok(fates)
    }
}
