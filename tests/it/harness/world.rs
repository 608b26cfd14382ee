//! A tenant of a test's own on a server, so that tests which share one do not disturb each other.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};
use voxgate::{
    domain::Env,
    node_sim::{self, Behaviour, Policy},
    proto::v1::{
        AcquireSlotRequest, CreateApiKeyRequest, CreateApiKeyResponse, CreateTenantRequest, CreateVoiceAgentRequest,
        Direction, GetSessionRequest, GetUsageRequest, ReleaseSlotRequest, Session, SessionOutcome, SessionStatus,
        Slot, Subprotocol, Tenant, Usage, VoiceAgent, get_session_request,
    },
};

use super::{
    client::{Caller, granted},
    server::{Backend, TestServer},
};

/// Every scope but the operator's.
pub(crate) const TENANT_SCOPES: [&str; 8] = [
    "voice_agents:read",
    "voice_agents:write",
    "voice_agents:secrets",
    "slots:acquire",
    "ai_sessions:read",
    "ai_sessions:control_admin",
    "events:read",
    "nodes:connect",
];

/// Writes each test once and runs it on both back-ends, with the back-end in its name.
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::harness::world::World::shared($crate::harness::server::Backend::Embedded).await).await;
            })+
        }

        mod postgres_redis {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::harness::world::World::shared($crate::harness::server::Backend::PostgresRedis).await).await;
            })+
        }
    };
}
pub(crate) use on_both_backends;

/// A tenant, and a key of it that may do everything but administer tenants.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) addr: String,
    pub(crate) tenant: String,
    pub(crate) key: String,
    pub(crate) caller: Caller,
    /// Bears the operator's key.
    pub(crate) operator: Caller,
    /// Bears an operator's key on the live side of the sandbox fence.
    pub(crate) live_operator: Caller,
    /// Keys that a sandbox key makes are sandbox keys, and their calls reach sandbox nodes alone.
    pub(crate) sandbox: bool,
    /// The shared server that it is on; nothing on a server of a test's own.
    pub(crate) server: Option<&'static TestServer>,
}

impl World {
    /// A new tenant on the shared server of `backend`.
    pub(crate) async fn shared(backend: Backend) -> Self {
        let server = TestServer::shared(backend);
        let world = Self::on(&server.addr, &server.admin_key).await;
        Self { live_operator: world.operator.with(&server.live_key), server: Some(server), ..world }
    }

    pub(crate) async fn on(addr: &str, operator_key: &str) -> Self {
        Self::of_new_tenant(Caller::new(addr, operator_key), addr, None).await
    }

    /// A new tenant on the server that `operator` calls.
    pub(crate) async fn over(operator: Caller, addr: &str) -> Self {
        Self::of_new_tenant(operator, addr, None).await
    }

    /// The same tenant with a live key, and with a sandbox key.
    pub(crate) async fn sides(&self) -> (Self, Self) {
        (self.side(false).await, self.side(true).await)
    }

    async fn side(&self, sandbox: bool) -> Self {
        let operator = self.live_operator.clone();
        let created = new_key(&operator, &self.tenant, &TENANT_SCOPES, sandbox).await;
        let caller = operator.with(&created.secret);
        assert_eq!(created.api_key.expect("the key").sandbox, sandbox);
        Self { key: created.secret, caller, operator, sandbox, ..self.clone() }
    }

    /// Another tenant on the same server.
    pub(crate) async fn neighbour(&self) -> Self {
        Self::of_new_tenant(self.operator.clone(), &self.addr, None).await
    }

    /// Another tenant, with a cap over all of its agents.
    pub(crate) async fn capped_neighbour(&self, max_concurrent: i32) -> Self {
        Self::of_new_tenant(self.operator.clone(), &self.addr, Some(max_concurrent)).await
    }

    async fn of_new_tenant(operator: Caller, addr: &str, max_concurrent: Option<i32>) -> Self {
        let tenant = Tenant { name: Some(unique("tenant")), max_concurrent, ..Tenant::default() };
        let request = CreateTenantRequest { tenant: Some(tenant) };
        let tenant = granted(operator.tenants().create_tenant(request).await).id;
        let created = new_key(&operator, &tenant, &TENANT_SCOPES, false).await;
        let caller = operator.with(&created.secret);
        let sandbox = created.api_key.expect("the key").sandbox;
        let live_operator = operator.clone();
        let (addr, key) = (addr.to_owned(), created.secret);
        Self { addr, tenant, key, caller, operator, live_operator, sandbox, server: None }
    }

    /// The same tenant through another server on the same stores.
    pub(crate) fn through(&self, addr: &str) -> Self {
        let caller = Caller::new(addr, &self.key);
        Self { addr: addr.to_owned(), caller, ..self.clone() }
    }

    /// A caller of this tenant whose key has these scopes and no others.
    pub(crate) async fn caller_with(&self, scopes: &[&str]) -> Caller {
        self.operator.with(&self.new_key(scopes).await.secret)
    }

    /// A key of this tenant, on this side of the sandbox fence, with these scopes.
    pub(crate) async fn new_key(&self, scopes: &[&str]) -> CreateApiKeyResponse {
        new_key(&self.operator, &self.tenant, scopes, self.sandbox).await
    }

    /// An agent of the minimal kind with `max_concurrent` slots.
    pub(crate) async fn agent(&self, max_concurrent: i32) -> VoiceAgent {
        self.create(VoiceAgent { max_concurrent: Some(max_concurrent), ..minimal_agent() }).await
    }

    pub(crate) async fn create(&self, agent: VoiceAgent) -> VoiceAgent {
        let request = CreateVoiceAgentRequest { voice_agent: Some(agent), request_id: String::new() };
        granted(self.caller.agents().create_voice_agent(request).await)
    }

    pub(crate) async fn try_admit(&self, request: AcquireSlotRequest) -> Result<Response<Slot>, Status> {
        self.caller.calls().acquire_slot(request).await
    }

    /// A new call on `agent`.
    pub(crate) async fn admit(&self, agent: &str) -> Slot {
        granted(self.try_admit(acquire(&unique("call"), agent)).await)
    }

    pub(crate) async fn release(&self, slot: &Slot) -> bool {
        let request = ReleaseSlotRequest {
            call_id: slot.call_id.clone(),
            lease_id: slot.lease_id.clone(),
            ..ReleaseSlotRequest::default()
        };
        granted(self.caller.calls().release_slot(request).await).released
    }

    pub(crate) async fn session(&self, slot: &Slot) -> Session {
        let target = Some(get_session_request::Target::SessionId(slot.session_id.clone()));
        granted(self.caller.sessions().get_session(GetSessionRequest { target }).await)
    }

    /// How the slot's session ended, once it has.
    pub(crate) async fn outcome(&self, slot: &Slot) -> SessionOutcome {
        let ended = async || Some(self.session(slot).await).filter(|session| session.status() != SessionStatus::Active);
        eventually("the end of the session", ended).await.outcome()
    }

    /// Waits until none of the agent's slots is held: a slot comes free a moment after its session has ended.
    pub(crate) async fn freed(&self, agent: &str) {
        eventually("the last slot to be free", async || (self.usage(agent).await.used == 0).then_some(())).await;
    }

    pub(crate) async fn usage(&self, agent: &str) -> Usage {
        let request = GetUsageRequest { voice_agent_id: Some(agent.to_owned()) };
        granted(self.caller.calls().get_usage(request).await)
    }

    /// A simulated node of this tenant, connected.
    pub(crate) async fn node(&self, behavior: Behaviour) -> TestNode {
        let node = TestNode::start(self, behavior);
        node.wait_until_chosen(self).await;
        node
    }
}

/// A node in this process; it stops with its scope.
#[derive(Debug)]
pub(crate) struct TestNode {
    pub(crate) id: String,
    stop: CancellationToken,
}

impl TestNode {
    pub(crate) fn start(world: &World, behavior: Behaviour) -> Self {
        Self::start_as(world, &unique("node"), behavior)
    }

    pub(crate) fn start_as(world: &World, id: &str, behavior: Behaviour) -> Self {
        Self::start_with(world, id, behavior, Some(world.key.clone().into()), None)
    }

    pub(crate) fn start_with(
        world: &World,
        id: &str,
        behavior: Behaviour,
        key: Option<SecretString>,
        tls: Option<node_sim::TlsOptions>,
    ) -> Self {
        let (id, stop) = (id.to_owned(), CancellationToken::new());
        let options = node_sim::Options {
            endpoint: world.addr.clone(),
            key,
            tls,
            node_id: id.clone(),
            subprotocol: Subprotocol::AudioDrachtioOrg,
            sandbox: world.sandbox,
            capacity: 1_000,
            behavior,
        };
        let stopped = stop.clone();
        tokio::spawn(async move {
            if let Err(error) = node_sim::run(options, stopped).await {
                eprintln!("the simulated node gave up: {error:#}");
            }
        });
        Self { id, stop }
    }

    /// Admits and releases calls until the node is given one: then it is connected.
    pub(crate) async fn wait_until_chosen(&self, world: &World) {
        let agent = world.agent(10).await;
        eventually("a call for the node", async || {
            let slot = world.admit(&agent.id).await;
            world.release(&slot).await;
            (slot.node_id.as_deref() == Some(self.id.as_str())).then_some(())
        })
        .await;
    }

    /// The node leaves; its calls stay where they are.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A behaviour that differs from the obedient one by its policy.
pub(crate) fn policy(policy: Policy) -> Behaviour {
    Behaviour { policy, ..Behaviour::default() }
}

async fn new_key(operator: &Caller, tenant: &str, scopes: &[&str], sandbox: bool) -> CreateApiKeyResponse {
    let request = CreateApiKeyRequest {
        tenant_id: Some(tenant.to_owned()),
        name: "test".to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        // What a key is limited to is another test's subject.
        rate_limit_per_min: Some(100_000),
        sandbox,
        ..CreateApiKeyRequest::default()
    };
    granted(operator.tenants().create_api_key(request).await)
}

/// What an agent must have.
pub(crate) fn minimal_agent() -> VoiceAgent {
    VoiceAgent { name: Some("Ada".to_owned()), ws_url: Some("wss://ai.example/ws".to_owned()), ..VoiceAgent::default() }
}

/// What an acquire must have, with the default lease.
pub(crate) fn acquire(call: &str, agent: &str) -> AcquireSlotRequest {
    AcquireSlotRequest {
        call_id: call.to_owned(),
        voice_agent_id: Some(agent.to_owned()),
        direction: Direction::Inbound.into(),
        lease_ttl: Some(seconds(60)),
        ..AcquireSlotRequest::default()
    }
}

pub(crate) fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// Asks `probe` until it answers; panics with `what` after a time that is less than the lease of [`acquire`].
pub(crate) async fn eventually<T>(what: &str, probe: impl AsyncFn() -> Option<T>) -> T {
    let asked = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(asked.elapsed() < Duration::from_secs(30), "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A name that no other test uses.
pub(crate) fn unique(kind: &str) -> String {
    format!("{kind}-{}", Env::system().uuid())
}
