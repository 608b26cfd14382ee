//! The Lua scripts, each behind the locals that they share, and the names of their keys.

use crate::{
    domain::ids::{TenantId, VoiceAgentId},
    redis::{Script, ScriptInvocation},
};

const LIB: &str = include_str!("lib.lua");
/// In front of it in the scripts that take what a full Redis does not have.
const ROOM: &str = include_str!("room.lua");
/// Behind it in the scripts that free, grant or count.
const QUEUE: &str = include_str!("queue.lua");

/// Around the scripts that are called in batches.
const BATCH: &str = include_str!("batch.lua");

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) renew: Script,
    pub(super) leases: Script,
    pub(super) open: Script,
    pub(super) readmit: Script,
    pub(super) fates: Script,
    pub(super) live: Script,
    pub(super) usage: Script,
    pub(super) tenant_usage: Script,
    pub(super) enqueue: Script,
    pub(super) tend: Script,
    pub(super) leave: Script,
    pub(super) unwritten: Script,
    pub(super) stale: Script,
    pub(super) forget: Script,
}

impl Scripts {
    pub(super) fn load() -> Self {
        let with_lib = |name, body: &str| Script::new(name, &format!("{LIB}\n{body}"));
        let with_queue = |name, body: &str| Script::new(name, &format!("{LIB}\n{QUEUE}\n{body}"));
        Self {
            renew: with_lib("renew", include_str!("renew.lua")),
            leases: with_lib("leases", include_str!("leases.lua")),
            open: with_lib("open", include_str!("open.lua")),
            readmit: with_lib("readmit", include_str!("readmit.lua")),
            fates: with_lib("fates", include_str!("fates.lua")),
            live: with_lib("live", include_str!("live.lua")),
            usage: with_queue("usage", include_str!("usage.lua")),
            tenant_usage: with_queue("tenant_usage", include_str!("tenant_usage.lua")),
            enqueue: Script::new("enqueue", &format!("{ROOM}\n{LIB}\n{QUEUE}\n{}", include_str!("enqueue.lua"))),
            tend: with_queue("tend", include_str!("tend.lua")),
            leave: with_queue("leave", include_str!("leave.lua")),
            unwritten: with_lib("unwritten", include_str!("unwritten.lua")),
            stale: with_lib("stale", include_str!("stale.lua")),
            forget: with_lib("forget", include_str!("forget.lua")),
        }
    }
}

/// A script that can be called for one, and for many at once.
#[derive(Debug)]
pub(super) struct Combined {
    /// With the ten keys of `queue.lua` and `unwritten`.
    pub(super) alone: Script,
    /// See `batch.lua`.
    pub(super) together: Script,
}

impl Combined {
    fn of(name: &'static str, front: &str, part: &str) -> Self {
        let batch = BATCH.replace("--@ queue.lua", QUEUE).replace("--@ the script of a part", part);
        Self {
            alone: Script::new(name, &format!("{front}\n{QUEUE}\n{part}")),
            together: Script::new(name, &format!("{front}\n{batch}")),
        }
    }

    pub(super) fn acquire() -> Self {
        Self::of("acquire", &format!("{ROOM}\n{LIB}"), include_str!("acquire.lua"))
    }

    pub(super) fn release() -> Self {
        Self::of("release", LIB, include_str!("release.lua"))
    }
}

/// The keys of one tenant. The braces are Redis Cluster's hash tag: all of them lie in one slot.
#[derive(Debug)]
pub(super) struct TenantKeys {
    pub(super) calls: String,
    pub(super) leases: String,
    pub(super) limits: String,
    pub(super) replicas: String,
    pub(super) agents: String,
    pub(super) unwritten: String,
}

impl TenantKeys {
    pub(super) fn new(tenant: TenantId) -> Self {
        let key = |name: &str| format!("vg:{{{tenant}}}:{name}");
        Self {
            calls: key("calls"),
            leases: key("leases"),
            limits: key("limits"),
            replicas: key("replicas"),
            agents: key("agents"),
            unwritten: key("unwritten"),
        }
    }
}

/// The keys of one agent, in the hash slot of its tenant.
#[derive(Debug)]
pub(super) struct AgentKeys {
    pub(super) inbound: String,
    pub(super) outbound: String,
    pub(super) limits: String,
    pub(super) queue_in: String,
    pub(super) queue_out: String,
}

impl AgentKeys {
    pub(super) fn new(tenant: TenantId, agent: VoiceAgentId) -> Self {
        let key = |name: &str| format!("vg:{{{tenant}}}:{agent}:{name}");
        Self {
            inbound: key("in"),
            outbound: key("out"),
            limits: key("limits"),
            queue_in: key("queue:in"),
            queue_out: key("queue:out"),
        }
    }
}

/// A script with the ten keys of `queue.lua` declared.
pub(super) fn on_queue(script: &Script, tenant: TenantId, agent: VoiceAgentId) -> ScriptInvocation<'_> {
    let (of_tenant, of_agent) = (TenantKeys::new(tenant), AgentKeys::new(tenant, agent));
    let mut script = script.prepare_invoke();
    script.key(of_tenant.calls).key(of_tenant.leases).key(of_tenant.limits);
    script.key(of_agent.inbound).key(of_agent.outbound).key(of_agent.limits);
    script.key(of_agent.queue_in).key(of_agent.queue_out).key(of_tenant.replicas).key(of_tenant.agents);
    script
}
