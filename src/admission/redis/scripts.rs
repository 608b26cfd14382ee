//! The Lua scripts, each behind the locals that they share, and the names of their keys.

use crate::{
    domain::ids::{TenantId, VoiceAgentId},
    redis::Script,
};

const LIB: &str = include_str!("lib.lua");

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) acquire: Script,
    pub(super) renew: Script,
    pub(super) release: Script,
    pub(super) leases: Script,
    pub(super) open: Script,
    pub(super) readmit: Script,
    pub(super) fates: Script,
    pub(super) live: Script,
    pub(super) usage: Script,
}

impl Scripts {
    pub(super) fn load() -> Self {
        let with_lib = |body: &str| Script::new(&format!("{LIB}\n{body}"));
        Self {
            acquire: with_lib(include_str!("acquire.lua")),
            renew: with_lib(include_str!("renew.lua")),
            release: with_lib(include_str!("release.lua")),
            leases: with_lib(include_str!("leases.lua")),
            open: with_lib(include_str!("open.lua")),
            readmit: with_lib(include_str!("readmit.lua")),
            fates: with_lib(include_str!("fates.lua")),
            live: with_lib(include_str!("live.lua")),
            usage: with_lib(include_str!("usage.lua")),
        }
    }
}

/// The keys of one tenant. The braces are Redis Cluster's hash tag: all of them lie in one slot.
#[derive(Debug)]
pub(super) struct TenantKeys {
    pub(super) calls: String,
    pub(super) leases: String,
    pub(super) limits: String,
}

impl TenantKeys {
    pub(super) fn new(tenant: TenantId) -> Self {
        let key = |name: &str| format!("vg:{{{tenant}}}:{name}");
        Self { calls: key("calls"), leases: key("leases"), limits: key("limits") }
    }
}

/// The keys of one agent, in the hash slot of its tenant.
#[derive(Debug)]
pub(super) struct AgentKeys {
    pub(super) inbound: String,
    pub(super) outbound: String,
    pub(super) limits: String,
}

impl AgentKeys {
    pub(super) fn new(tenant: TenantId, agent: VoiceAgentId) -> Self {
        let key = |name: &str| format!("vg:{{{tenant}}}:{agent}:{name}");
        Self { inbound: key("in"), outbound: key("out"), limits: key("limits") }
    }
}
