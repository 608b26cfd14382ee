//! What requests name: one of everything that a tenant holds, and how to tell afterwards that it is untouched.

use tonic::Code;
use voxgate::{
    domain::{
        Env,
        ids::{LeaseId, OperationId, SessionId, TenantId, VoiceAgentId},
        lease::Direction,
        lease_token::{LeaseClaim, LeaseSigner},
    },
    node_sim::Behaviour,
    proto::v1::{
        AcquireSlotRequest, ApiKey, CreateSessionRequest, CreateWebhookEndpointRequest, EndSessionRequest,
        GetDefaultVoiceAgentRequest, GetOperationRequest, GetSessionRequest, GetTenantRequest, GetVoiceAgentRequest,
        HoldRequest, LeaseRenewal, LeaseState, ListApiKeysRequest, ListVoiceAgentsRequest, ListWebhookEndpointsRequest,
        Operation, RenewSlotsRequest, Session, SessionStatus, Slot, Tenant, VoiceAgent, WebhookEndpoint,
        end_session_request, get_session_request,
    },
};

use super::table::endpoint;
use crate::harness::{
    client::{granted, refused},
    token::parts,
    world::{TestNode, World, acquire, eventually, seconds, unique},
};

/// A tenant with a node, on the live side of the sandbox fence.
pub(super) struct Home {
    pub(super) world: World,
    node: TestNode,
    /// A call beside those that the requests name.
    pub(super) peer: Slot,
    /// Of a direct session beside them.
    pub(super) connection_token: String,
}

impl Home {
    pub(super) async fn of(world: World) -> Self {
        let node = world.node(Behaviour::default()).await;
        let peer = admit(&world, &node, &world.agent(1).await.id).await;
        let request = CreateSessionRequest {
            voice_agent_id: Some(world.agent(1).await.id),
            ttl: Some(seconds(3_600)),
            ..CreateSessionRequest::default()
        };
        let connection_token = granted(world.caller.sessions().create_session(request).await).connection_token;
        Self { world, node, peer, connection_token }
    }
}

async fn admit(world: &World, node: &TestNode, agent: &str) -> Slot {
    let request = AcquireSlotRequest { node_id: Some(node.id.clone()), ..acquire(&unique("call"), agent) };
    granted(world.try_admit(request).await)
}

/// One of everything, by the names that requests use. The call is live and on hold.
#[derive(Debug, Clone)]
pub(super) struct Holdings {
    pub(super) tenant: String,
    pub(super) agent: String,
    pub(super) call: String,
    pub(super) session: String,
    pub(super) lease: String,
    pub(super) operation: String,
    /// A key without scopes.
    pub(super) key: String,
    secret: String,
    /// The callback token of the call.
    pub(super) token: String,
    pub(super) jti: String,
    /// Another call of the tenant.
    pub(super) peer: String,
    /// Nobody's where it was not asked for: a tenant has only so many.
    pub(super) webhook: String,
    /// Nobody has one of these yet.
    pub(super) event: String,
}

impl Holdings {
    pub(super) async fn of(home: &Home) -> Self {
        let Home { world, node, peer, .. } = home;
        let agent = world.agent(10).await.id;
        let slot = admit(world, node, &agent).await;
        let hold = HoldRequest { call_id: slot.call_id.clone(), ..HoldRequest::default() };
        let operation = granted(world.caller.calls().hold(hold).await).operation_id;
        let key = world.new_key(&[]).await;
        Self {
            agent,
            operation,
            key: key.api_key.expect("the key").id,
            secret: key.secret,
            jti: jti(&slot.callback_token),
            tenant: world.tenant.clone(),
            peer: peer.call_id.clone(),
            call: slot.call_id,
            session: slot.session_id,
            lease: slot.lease_id,
            token: slot.callback_token,
            ..Self::of_nobody()
        }
    }

    /// The same with an endpoint of its own.
    pub(super) async fn with_webhook(self, home: &Home) -> Self {
        let webhook_endpoint = Some(endpoint(""));
        let request = CreateWebhookEndpointRequest { tenant_id: Some(self.tenant.clone()), webhook_endpoint };
        let created = granted(home.world.operator.tenants().create_webhook_endpoint(request).await);
        Self { webhook: created.webhook_endpoint.expect("the endpoint").id, ..self }
    }

    /// Well-formed names of what does not exist.
    pub(super) fn of_nobody() -> Self {
        let env = Env::system();
        let agent = VoiceAgentId::new(&env);
        let call = unique("call");
        let claim = LeaseClaim {
            lease: LeaseId::new(&env, agent),
            session: SessionId::new(&env),
            fence: 1,
            direction: Direction::Inbound,
            sandbox: false,
        };
        // Well-formed, and not the service's.
        let lease = LeaseSigner::derived_from(b"nobody").sign(
            TenantId::from_uuid(env.uuid()),
            &call.parse().expect("a call id"),
            claim,
        );
        Self {
            tenant: env.uuid().to_string(),
            agent: agent.to_string(),
            call,
            session: SessionId::new(&env).to_string(),
            lease: lease.to_string(),
            operation: OperationId::new(&env).to_string(),
            key: env.uuid().to_string(),
            secret: String::new(),
            token: String::new(),
            jti: env.uuid().to_string(),
            peer: unique("call"),
            webhook: env.uuid().to_string(),
            event: format!("evt_{}", env.uuid()),
        }
    }

    /// The same, after the call's end.
    pub(super) async fn ended(self, home: &Home) -> Self {
        let target = Some(end_session_request::Target::SessionId(self.session.clone()));
        let request = EndSessionRequest { target, ..EndSessionRequest::default() };
        granted(home.world.caller.sessions().end_session(request).await);
        self
    }

    fn names(&self) -> [&str; 10] {
        // A lease's name holds its agent's, in another spelling.
        [
            &self.lease,
            &self.tenant,
            &self.agent,
            &self.call,
            &self.session,
            &self.operation,
            &self.key,
            &self.jti,
            &self.peer,
            &self.webhook,
        ]
    }

    /// `bytes` as they would be if they spoke of `other`: a name is as long as any other of its kind.
    pub(super) fn renamed(&self, bytes: &[u8], other: &Self) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for (from, to) in self.names().into_iter().zip(other.names()) {
            assert_eq!(from.len(), to.len(), "{from} and {to}");
            for start in 0..bytes.len().saturating_sub(from.len() - 1) {
                if bytes[start..].starts_with(from.as_bytes()) {
                    bytes[start..start + to.len()].copy_from_slice(to.as_bytes());
                }
            }
        }
        bytes
    }

    /// The first of its names that stands in `bytes`.
    pub(super) fn named_in(&self, bytes: &[u8]) -> Option<&str> {
        let named = |name: &&str| bytes.windows(name.len()).any(|part| part == name.as_bytes());
        self.names().into_iter().find(named)
    }

    /// What its owner reads of it, less what changes by itself. It must be in use: the session active, the lease live,
    /// the key good.
    pub(super) async fn witness(&self, world: &World) -> Witness {
        let agent = GetVoiceAgentRequest { id: self.agent.clone(), ..GetVoiceAgentRequest::default() };
        let target = Some(get_session_request::Target::SessionId(self.session.clone()));
        let operation = GetOperationRequest { operation_id: self.operation.clone() };
        let mut sessions = world.caller.sessions();
        let session = granted(sessions.get_session(GetSessionRequest { target }).await);
        assert_eq!(session.status(), SessionStatus::Active);
        let lease = LeaseRenewal { call_id: self.call.clone(), lease_id: self.lease.clone(), lease_ttl: None };
        let renewal = RenewSlotsRequest { leases: vec![lease] };
        let renewed = granted(world.caller.calls().renew_slots(renewal).await).results;
        assert_eq!(renewed[0].state(), LeaseState::Renewed);
        let bearer = world.caller.with(&self.secret);
        let answer = bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await;
        refused(answer, Code::PermissionDenied, "SCOPE_REQUIRED");
        let key = keys(world).await.into_iter().find(|key| key.id == self.key).expect("the key is listed");
        let webhook = webhooks(world).await.into_iter().find(|endpoint| endpoint.id == self.webhook);
        Witness {
            agent: granted(world.caller.agents().get_voice_agent(agent).await),
            session: Session { expires_at: None, ..session },
            operation: granted(sessions.get_operation(operation).await),
            key,
            webhook: webhook.expect("the endpoint is listed"),
        }
    }

    /// Waits until the node has reported all that it will report unasked.
    pub(super) async fn settled(self, world: &World) -> Self {
        let answered = async || self.witness(world).await.session.answered_at.map(|_| ());
        eventually("the answer of the call", answered).await;
        self
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Witness {
    agent: VoiceAgent,
    session: Session,
    operation: Operation,
    key: ApiKey,
    webhook: WebhookEndpoint,
}

/// All that a tenant has that can be listed: nothing came to it, and nothing went.
#[derive(Debug, PartialEq)]
pub(super) struct Estate {
    tenant: Tenant,
    default: Option<String>,
    agents: Vec<VoiceAgent>,
    keys: Vec<ApiKey>,
    webhooks: Vec<WebhookEndpoint>,
}

impl Estate {
    pub(super) async fn of(world: &World) -> Self {
        let mut agents = world.caller.agents();
        let tenant = GetTenantRequest { id: world.tenant.clone() };
        let all = ListVoiceAgentsRequest { page_size: 100, ..ListVoiceAgentsRequest::default() };
        let listed = granted(agents.list_voice_agents(all).await);
        assert_eq!(listed.next_page_token, "", "one page holds them");
        Self {
            tenant: granted(world.operator.tenants().get_tenant(tenant).await),
            default: granted(agents.get_default_voice_agent(GetDefaultVoiceAgentRequest {}).await).voice_agent_id,
            agents: listed.voice_agents,
            keys: keys(world).await,
            webhooks: webhooks(world).await,
        }
    }
}

/// Every key of the tenant, less the moment of its last use.
async fn keys(world: &World) -> Vec<ApiKey> {
    let (mut keys, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListApiKeysRequest { tenant_id: Some(world.tenant.clone()), page_size: 100, page_token };
        let page = granted(world.operator.tenants().list_api_keys(request).await);
        keys.extend(page.api_keys.into_iter().map(|key| ApiKey { last_used_at: None, ..key }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return keys;
        }
    }
}

async fn webhooks(world: &World) -> Vec<WebhookEndpoint> {
    let request = ListWebhookEndpointsRequest {
        tenant_id: Some(world.tenant.clone()),
        page_size: 100,
        ..ListWebhookEndpointsRequest::default()
    };
    let page = granted(world.operator.tenants().list_webhook_endpoints(request).await);
    assert_eq!(page.next_page_token, "", "one page holds them");
    page.webhook_endpoints
}

fn jti(token: &str) -> String {
    parts(token).1["jti"].as_str().expect("a jti").to_owned()
}
