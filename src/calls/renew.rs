//! Renews leases, and tells a session's end from a lease's loss.

use std::time::Duration;

use super::Calls;
use crate::domain::{
    Result,
    ids::{CallId, TenantId},
    lease::{Proven, Renewal, Renewed},
    lease_token::LeaseToken,
    principal::Principal,
};

/// A lease as somebody names it who wants it renewed.
#[derive(Debug, Clone)]
pub struct Presented {
    pub call: CallId,
    pub lease: LeaseToken,
    pub ttl: Duration,
}

impl Calls {
    /// What a caller asked for. A lease that is not the call's is one that nobody holds; and so is, to a sandbox key, the
    /// lease of a live call.
    pub async fn renew_for(&self, principal: &Principal, presented: &[Presented]) -> Result<Vec<Renewed>> {
        let tenant = principal.tenant();
        let mut fates = vec![Renewed::Lost; presented.len()];
        let (mut places, mut proven) = (Vec::new(), Vec::new());
        for (place, Presented { call, lease, ttl }) in presented.iter().enumerate() {
            let claim = self.leases.verify(tenant, call, lease);
            if let Some(claim) = claim.filter(|claim| !principal.sandbox() || claim.sandbox) {
                places.push(place);
                proven.push(Proven { call: call.clone(), claim, ttl: *ttl });
            }
        }
        let renewed = self.renew(tenant, &proven).await?;
        self.kept.note(tenant, proven.iter().zip(&renewed).map(|(it, fate)| (it.claim.lease, it.ttl, *fate)));
        for (place, fate) in places.into_iter().zip(renewed) {
            fates[place] = fate;
        }
        Ok(fates)
    }

    /// At most `RENEW_MAX`. What the store has lost is brought back.
    pub(super) async fn renew(&self, tenant: TenantId, leases: &[Proven]) -> Result<Vec<Renewed>> {
        let renewal = |lease: &Proven| Renewal { call: lease.call.clone(), lease: lease.claim.lease, ttl: lease.ttl };
        let renewals: Vec<Renewal> = leases.iter().map(renewal).collect();
        let mut fates = self.slots.renew(tenant, &renewals).await?;
        let missing: Vec<usize> = (0..fates.len()).filter(|place| fates[*place] == Renewed::Missing).collect();
        if !missing.is_empty() {
            let lost = missing.iter().map(|place| leases[*place].clone()).collect();
            for (place, fate) in missing.into_iter().zip(self.bring_back(tenant, lost).await?) {
                fates[place] = fate;
            }
        }
        for fate in &fates {
            let label = match fate {
                Renewed::Renewed { .. } => "renewed",
                Renewed::Readmitted { .. } => "readmitted",
                Renewed::Missing | Renewed::Lost => "lost",
                Renewed::Released => "released",
            };
            metrics::counter!("voxgate_lease_renewals_total", "fate" => label).increment(1);
        }
        Ok(fates)
    }
}
