//! The newest limits that anybody has brought.

use super::{AgentLimits, Cap, KEEP_AGAIN_MS, KEEP_MS, Ledger, Now};
use crate::domain::{
    ids::VoiceAgentId,
    lease::{Acquire, Limits},
};

impl Ledger {
    pub(super) fn newest_limits(&self, now: Now, request: &Acquire) -> AgentLimits {
        self.newest_of(now, request.agent, &request.limits)
    }

    pub(super) fn newest_of(&self, now: Now, agent: VoiceAgentId, brought: &Limits) -> AgentLimits {
        let asked = AgentLimits {
            limit: brought.agent_limit,
            reserved: brought.reserved_inbound,
            version: brought.agent_version,
        };
        let known = self.agents.get(&agent).and_then(|agent| agent.known_limits(now));
        known.filter(|known| known.version >= asked.version).unwrap_or(asked)
    }

    pub(super) fn newest_cap(&self, now: Now, request: &Acquire) -> Cap {
        self.newest_cap_of(now, &request.limits)
    }

    pub(super) fn newest_cap_of(&self, now: Now, brought: &Limits) -> Cap {
        let asked = Cap { limit: brought.tenant_limit, version: brought.tenant_version };
        self.known_cap(now).filter(|known| known.version >= asked.version).unwrap_or(asked)
    }

    pub(super) fn known_cap(&self, now: Now) -> Option<Cap> {
        self.cap.filter(|_| self.cap_kept_until_ms > now.ms)
    }

    pub(super) fn learn(&mut self, now: Now, agent: VoiceAgentId, limits: AgentLimits, cap: Cap, is_first: bool) {
        let agent = self.agents.entry(agent).or_default();
        let is_known = agent.known_limits(now).is_some();
        agent.limits = Some(limits);
        self.cap = Some(cap);
        if is_first || !is_known || now.ms >= agent.kept_at_ms + KEEP_AGAIN_MS {
            agent.kept_at_ms = now.ms;
            agent.kept_until_ms = now.ms + KEEP_MS;
            self.cap_kept_until_ms = now.ms + KEEP_MS;
        }
    }
}
