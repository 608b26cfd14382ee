//! Leases: held slots, and why one could not be had.

use std::time::Duration;

use super::{
    clock::Timestamp,
    ids::{CallId, LeaseId, SessionId, VoiceAgentId},
    journal::Draft,
    lease_token::LeaseClaim,
    words::words,
};

pub const LEASE_TTL_MIN: Duration = Duration::from_secs(10);
pub const LEASE_TTL_MAX: Duration = Duration::from_mins(5);
/// Of a recovery, whatever the leases: holders renew within it even if theirs are shorter.
pub const RECOVERY_MIN: Duration = LEASE_TTL_MIN;
pub const LEASE_TTL_DEFAULT: Duration = Duration::from_mins(1);
/// Leases in one RenewSlots.
pub const RENEW_MAX: usize = 1_000;

words!(Direction { Inbound = "INBOUND", Outbound = "OUTBOUND" });

/// The limits that an acquire is checked against, as the caller's replica knows them. The store keeps the
/// newest of each and uses that, so a replica with an old one cannot admit under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub agent_limit: u32,
    /// Slots of `agent_limit` that only inbound calls may take.
    pub reserved_inbound: u32,
    /// Rises with every change of the two above: the agent's revision.
    pub agent_version: i64,
    /// 0: the tenant has no cap of its own.
    pub tenant_limit: u32,
    /// Rises with every change of `tenant_limit`.
    pub tenant_version: i64,
}

/// A request for one slot.
#[derive(Debug, Clone)]
pub struct Acquire {
    pub agent: VoiceAgentId,
    pub call: CallId,
    /// The names that the lease and its session get if they are new.
    pub lease: LeaseId,
    pub session: SessionId,
    pub direction: Direction,
    /// 0 to `PRIORITY_MAX`: who waits with less is passed by.
    pub priority: u8,
    pub ttl: Duration,
    pub limits: Limits,
    /// What is kept of the session with the grant until the database has it; absent: nothing.
    pub draft: Option<Draft>,
}

/// A live lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub call: CallId,
    pub session: SessionId,
    /// Rises strictly for an agent.
    pub fence: i64,
    /// By the store's clock.
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    Granted {
        lease: Lease,
        usage: Usage,
    },
    /// The call holds a lease of this agent already; its expiry was moved out by the ttl asked for, never in.
    Existing {
        lease: Lease,
        usage: Usage,
    },
    /// The call holds a live lease of another agent.
    OtherAgent {
        agent: VoiceAgentId,
    },
    Denied(Denial),
}

words!(
    /// Which limit binds.
    BindingScope { Agent = "agent", Tenant = "tenant", InboundReserve = "inbound_reserve" }
);

/// Why there was no slot, with the figures of every scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    pub binding: BindingScope,
    pub usage: Usage,
    pub tenant_used: u32,
    /// 0: no cap.
    pub tenant_limit: u32,
    /// When the first lease of the binding scope runs out if nobody renews or releases it sooner.
    pub next_expiry_in: Duration,
}

impl Denial {
    /// Used and limit of the scope that binds.
    pub fn binding_figures(&self) -> (u32, u32) {
        match self.binding {
            BindingScope::Agent => (self.usage.used, self.usage.limit),
            BindingScope::Tenant => (self.tenant_used, self.tenant_limit),
            BindingScope::InboundReserve => {
                (self.usage.used_outbound, self.usage.limit.saturating_sub(self.usage.reserved_inbound))
            }
        }
    }

    pub(super) fn metadata(&self) -> Vec<(&'static str, String)> {
        let (used, limit) = self.binding_figures();
        vec![("scope", self.binding.as_str().to_owned()), ("used", used.to_string()), ("limit", limit.to_string())]
    }
}

/// An agent's concurrency as the store sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    pub used: u32,
    pub used_outbound: u32,
    /// 0: no cap.
    pub limit: u32,
    pub reserved_inbound: u32,
    /// Calls that wait.
    #[serde(default)]
    pub queued: u32,
    /// How long the first in order has waited; absent where nobody does.
    #[serde(default)]
    pub oldest_waiter: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    pub call: CallId,
    pub lease: LeaseId,
    pub ttl: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    Renewed {
        expires_at: Timestamp,
    },
    /// The store had lost it, and counts it again.
    Readmitted {
        expires_at: Timestamp,
    },
    /// The store has no record of it and has lost data lately: it may be presented for readmission.
    Missing,
    /// Expired, or another lease holds the call now.
    Lost,
    Released,
}

/// A lease that its holder has proved to be the call's, and how long it is to live from now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    pub call: CallId,
    pub claim: LeaseClaim,
    pub ttl: Duration,
}

/// How a store that does not know a tenant is to begin with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The tenant has no live call.
    Fresh,
    /// Data was lost: leases are taken in again, and for so long no new call.
    Recovering {
        span: Duration,
        /// Whether the caller itself has seen what is gone. It then knows better than one who has just opened the
        /// tenant as fresh.
        witnessed: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// False: the lease had been released or had expired before.
    pub released: bool,
    pub usage: Usage,
}
