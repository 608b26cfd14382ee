//! The service as the client sees it: four connections, two voice agents, keys in turn. Beside
//! it the bare server, to which as many connections lead.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;
use voxgate::{
    domain::tenant::RATE_LIMIT_PER_MIN_MAX,
    proto::v1::{
        AcquireSlotRequest, CreateApiKeyRequest, CreateVoiceAgentRequest, GetSessionRequest, GetUsageRequest,
        GetVoiceAgentRequest, ListSessionsRequest, ListVoiceAgentsRequest, ReleaseSlotRequest, Slot, Subprotocol,
        UpdateVoiceAgentRequest, VoiceAgent, admission_service_client::AdmissionServiceClient,
        get_session_request::Target, session_service_client::SessionServiceClient,
        tenant_service_client::TenantServiceClient, voice_agent_service_client::VoiceAgentServiceClient,
    },
};

use super::{
    bare::Bare,
    lists::List,
    tally::{Tally, count},
};

/// Connections of the client.
pub(crate) const CONNECTIONS: usize = 4;
/// The most that an agent may have.
pub(crate) const AGENT_LIMIT: i32 = 10_000;
/// Used in turn: one may do 1,666 requests a second, so all of them 106,000, more than two cores answer. Each takes its
/// share of the limiter's work, and is read from the database again every 0.8 s.
const KEYS: usize = 64;
const SCOPES: [&str; 6] =
    ["slots:acquire", "voice_agents:read", "voice_agents:write", "ai_sessions:read", "events:read", "nodes:connect"];
/// The longest lease: none may run out in a cell.
const LEASE_SECONDS: i64 = 300;
/// Until a service that was just started must serve.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Key = MetadataValue<Ascii>;

/// The service under measurement.
pub(crate) struct Subject {
    lanes: Vec<Channel>,
    bare_lanes: Vec<Channel>,
    keys: Vec<Key>,
    /// How many requests were signed.
    signed: AtomicUsize,
    tenant: String,
    /// Has room for everyone.
    open_agent: String,
    /// Has room for one call.
    full_agent: String,
    calls: AtomicU64,
    pub(crate) tally: Tally,
    _bare: Bare,
}

/// A slot that is held.
#[derive(Debug)]
pub(crate) struct Hold {
    call: String,
    lease: String,
}

impl Hold {
    fn of(slot: Slot) -> Self {
        Self { call: slot.call_id, lease: slot.lease_id }
    }

    /// Whose it is.
    pub(crate) fn call(&self) -> &str {
        &self.call
    }
}

impl Subject {
    /// Waits until it serves, connects, and makes the agents.
    pub(crate) async fn connect(addr: SocketAddr, key: &str) -> Self {
        let lanes = connect(addr).await;
        let key = bearer(key);
        let open_agent = create_agent(&lanes[0], &key, AGENT_LIMIT).await;
        let full_agent = create_agent(&lanes[0], &key, 1).await;
        let mut keys = Vec::new();
        for _ in 0..KEYS {
            keys.push(create_key(&lanes[0], &key).await);
        }
        let bare = Bare::start(&open_agent);
        Self {
            lanes,
            bare_lanes: connect(bare.addr).await,
            keys,
            signed: AtomicUsize::new(0),
            tenant: open_agent.tenant_id,
            open_agent: open_agent.id,
            full_agent: full_agent.id,
            calls: AtomicU64::new(0),
            tally: Tally::default(),
            _bare: bare,
        }
    }

    /// The connection of the `index`th worker.
    pub(crate) fn lane(&self, index: usize) -> Lane<'_> {
        let (channel, bare) = (&self.lanes[index % self.lanes.len()], &self.bare_lanes[index % self.bare_lanes.len()]);
        self.lane_on(channel, bare)
    }

    /// Connections to another replica of the same service, of which one is used.
    pub(crate) async fn lane_to(&self, addr: SocketAddr) -> Lane<'_> {
        self.lane_on(&connect(addr).await[0], &self.bare_lanes[0])
    }

    /// One more connection, to whichever replica.
    pub(crate) async fn another_channel(&self, addr: SocketAddr) -> Channel {
        endpoint(addr).connect().await.expect("a connection")
    }

    fn lane_on(&self, channel: &Channel, bare: &Channel) -> Lane<'_> {
        Lane {
            subject: self,
            health: HealthClient::new(channel.clone()),
            admission: AdmissionServiceClient::new(channel.clone()),
            agents: VoiceAgentServiceClient::new(channel.clone()),
            sessions: SessionServiceClient::new(channel.clone()),
            bare: VoiceAgentServiceClient::new(bare.clone()),
        }
    }

    /// The connections of all workers.
    pub(crate) fn channels(&self) -> Vec<Channel> {
        self.lanes.clone()
    }

    /// The id of a call that was never seen before.
    pub(crate) fn new_call(&self) -> String {
        format!("bench-{}", self.calls.fetch_add(1, Ordering::Relaxed))
    }

    /// The tenant of the key.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The agent that has room for everyone.
    pub(crate) fn agent(&self) -> &str {
        &self.open_agent
    }

    /// Takes the full agent's one slot.
    pub(crate) async fn fill(&self) -> Hold {
        let answer = self.lane(0).try_acquire(&self.full_agent).await;
        let slot = self.tally.granted(answer).expect("the full agent's slot is free before it is filled");
        Hold::of(slot)
    }

    /// Gives a slot back through this connection.
    pub(crate) async fn release(&self, channel: &Channel, slot: &Slot) {
        let hold = Hold::of(slot.clone());
        self.lane_on(channel, &self.bare_lanes[0]).release(hold).await;
    }

    /// What should not have happened, in words; empty after a clean run.
    pub(crate) async fn faults(&self) -> Vec<String> {
        let counts = self.tally.counts();
        let mut faults = Vec::new();
        if counts.errors > 0 {
            let first = self.tally.first_error().unwrap_or_default();
            faults.push(format!("{} errors, the first: {first}", counts.errors));
        }
        if counts.granted != counts.released {
            faults.push(format!("{} granted, {} released", counts.granted, counts.released));
        }
        for agent in [&self.open_agent, &self.full_agent] {
            let request = GetUsageRequest { voice_agent_id: Some(agent.clone()) };
            match AdmissionServiceClient::new(self.lanes[0].clone()).get_usage(self.signed(request)).await {
                Ok(usage) if usage.get_ref().used == 0 => {}
                Ok(usage) => faults.push(format!("usage is {} at the end", usage.get_ref().used)),
                Err(status) => faults.push(format!("GetUsage: {status}")),
            }
        }
        faults
    }

    fn get(&self, agent: &str) -> Request<GetVoiceAgentRequest> {
        self.signed(GetVoiceAgentRequest { id: agent.to_owned(), ..GetVoiceAgentRequest::default() })
    }

    fn judge_read(&self, what: &str, counter: &AtomicU64, answer: Result<Response<VoiceAgent>, Status>) {
        match answer {
            Ok(answer) if answer.get_ref().id == self.open_agent => count(counter),
            Ok(_) => self.tally.error(&format!("{what}: another agent")),
            Err(status) => self.tally.failure(what, &status),
        }
    }

    /// A new agent with one slot.
    pub(crate) async fn lone_agent(&self) -> String {
        create_agent(&self.lanes[0], &self.keys[0], 1).await.id
    }

    /// A new agent with room for everyone, whose calls only nodes of the subprotocol host.
    pub(crate) async fn agent_that_speaks(&self, subprotocol: Subprotocol) -> String {
        let agent = VoiceAgent {
            max_concurrent: Some(AGENT_LIMIT),
            subprotocol: Some(subprotocol.into()),
            ..agent(subprotocol.as_str_name())
        };
        create(&self.lanes[0], &self.keys[0], agent).await.id
    }

    pub(crate) fn signed<T>(&self, message: T) -> Request<T> {
        let turn = self.signed.fetch_add(1, Ordering::Relaxed);
        signed(message, &self.keys[turn % self.keys.len()])
    }
}

pub(crate) fn bearer(secret: &str) -> Key {
    format!("Bearer {secret}").parse().expect("a header's value")
}

fn signed<T>(message: T, key: &Key) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", key.clone());
    request
}

/// One worker's view of one connection.
pub(crate) struct Lane<'s> {
    pub(crate) subject: &'s Subject,
    health: HealthClient<Channel>,
    admission: AdmissionServiceClient<Channel>,
    agents: VoiceAgentServiceClient<Channel>,
    sessions: SessionServiceClient<Channel>,
    bare: VoiceAgentServiceClient<Channel>,
}

impl Lane<'_> {
    /// The standard health check of the whole server: the same listener, HTTP/2 and routing, and nothing behind them.
    pub(crate) async fn noop(&mut self) {
        let tally = &self.subject.tally;
        match self.health.check(HealthCheckRequest::default()).await {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => count(&tally.noops),
            Ok(_) => tally.error("Check: not serving"),
            Err(status) => tally.failure("Check", &status),
        }
    }

    /// A slot for a call that was never seen before.
    pub(crate) async fn acquire(&mut self) -> Option<Hold> {
        let subject = self.subject;
        let answer = self.try_acquire(&subject.open_agent).await;
        subject.tally.granted(answer).map(Hold::of)
    }

    /// Asks for a slot of the full agent.
    pub(crate) async fn be_denied(&mut self) {
        let subject = self.subject;
        match self.try_acquire(&subject.full_agent).await {
            Err(status) if is_full(&status) => count(&subject.tally.denied),
            Err(status) => subject.tally.failure("AcquireSlot of a full agent", &status),
            Ok(_) => subject.tally.error("AcquireSlot of a full agent was granted"),
        }
    }

    pub(crate) async fn release(&mut self, hold: Hold) {
        let request = ReleaseSlotRequest { call_id: hold.call, lease_id: hold.lease, ..ReleaseSlotRequest::default() };
        let answer = self.admission.release_slot(self.subject.signed(request)).await;
        self.subject.tally.released(answer.map(|answer| answer.get_ref().released));
    }

    /// Has the session of the slot's call in the database, where it is once it was asked for.
    pub(crate) async fn have_written(&mut self, hold: &Hold) {
        let target = Some(Target::CallId(hold.call.clone()));
        let answer = self.sessions.get_session(self.subject.signed(GetSessionRequest { target })).await;
        answer.expect("the session that was just begun");
    }

    /// The agent that has room for everyone, as the service knows it.
    pub(crate) async fn read(&mut self) {
        let (subject, request) = (self.subject, self.subject.get(&self.subject.open_agent));
        let answer = self.agents.get_voice_agent(request).await;
        subject.judge_read("GetVoiceAgent", &subject.tally.reads, answer);
    }

    /// The same question to the bare server, with the same credential on it.
    pub(crate) async fn read_bare(&mut self) {
        let (subject, request) = (self.subject, self.subject.get(&self.subject.open_agent));
        let answer = self.bare.get_voice_agent(request).await;
        subject.judge_read("GetVoiceAgent, bare", &subject.tally.bare_reads, answer);
    }

    /// The agent's revision, as this replica knows it.
    pub(crate) async fn revision(&mut self, agent: &str) -> Option<i64> {
        let request = self.subject.get(agent);
        let answer = self.agents.get_voice_agent(request).await;
        self.take("GetVoiceAgent", &self.subject.tally.reads, answer).map(|agent| agent.revision)
    }

    /// A page of 100: the token of the next one.
    pub(crate) async fn page(&mut self, list: List, token: &str) -> Option<String> {
        let (page_size, page_token, pages) = (100, token.to_owned(), &self.subject.tally.pages);
        match list {
            List::Agents => {
                let request = ListVoiceAgentsRequest { page_size, page_token, ..ListVoiceAgentsRequest::default() };
                let answer = self.agents.list_voice_agents(self.subject.signed(request)).await;
                self.take(list.rpc(), pages, answer).map(|page| page.next_page_token)
            }
            List::Sessions => {
                let request = ListSessionsRequest { page_size, page_token, ..ListSessionsRequest::default() };
                let answer = self.sessions.list_sessions(self.subject.signed(request)).await;
                self.take(list.rpc(), pages, answer).map(|page| page.next_page_token)
            }
        }
    }

    /// An agent's id.
    pub(crate) async fn create(&mut self) -> Option<String> {
        let request = CreateVoiceAgentRequest { voice_agent: Some(agent("bench")), ..Default::default() };
        let request = self.subject.signed(request);
        let answer = self.agents.create_voice_agent(request).await;
        self.take("CreateVoiceAgent", &self.subject.tally.creates, answer).map(|agent| agent.id)
    }

    /// The revision at which the agent is called `name`.
    pub(crate) async fn rename(&mut self, agent: &str, name: &str) -> Option<i64> {
        let renamed = VoiceAgent { id: agent.to_owned(), name: Some(name.to_owned()), ..VoiceAgent::default() };
        let request = UpdateVoiceAgentRequest { voice_agent: Some(renamed), ..UpdateVoiceAgentRequest::default() };
        let request = self.subject.signed(request);
        let answer = self.agents.update_voice_agent(request).await;
        self.take("UpdateVoiceAgent", &self.subject.tally.changes, answer).map(|agent| agent.revision)
    }

    /// What was answered, counted.
    fn take<T>(&self, rpc: &str, counter: &AtomicU64, answer: Result<Response<T>, Status>) -> Option<T> {
        match answer {
            Ok(answer) => {
                count(counter);
                Some(answer.into_inner())
            }
            Err(status) => {
                self.subject.tally.failure(rpc, &status);
                None
            }
        }
    }

    async fn try_acquire(&mut self, agent: &str) -> Result<Response<Slot>, Status> {
        let request = AcquireSlotRequest {
            call_id: self.subject.new_call(),
            voice_agent_id: Some(agent.to_owned()),
            lease_ttl: Some(prost_types::Duration { seconds: LEASE_SECONDS, nanos: 0 }),
            ..AcquireSlotRequest::default()
        };
        self.admission.acquire_slot(self.subject.signed(request)).await
    }
}

/// A rate limit is no denial: nobody looked at the slots for it.
fn is_full(status: &Status) -> bool {
    let info = status.get_details_error_info();
    status.code() == Code::ResourceExhausted && info.is_some_and(|info| info.reason == "MAX_CONCURRENT_EXCEEDED")
}

/// Waits until it serves.
async fn connect(addr: SocketAddr) -> Vec<Channel> {
    let endpoint = endpoint(addr);
    tokio::time::timeout(PATIENCE, until_it_serves(&endpoint)).await.expect("the service serves");
    let mut lanes = Vec::new();
    for _ in 0..CONNECTIONS {
        lanes.push(endpoint.connect().await.expect("a connection"));
    }
    lanes
}

fn endpoint(addr: SocketAddr) -> Endpoint {
    Endpoint::from_shared(format!("http://{addr}")).expect("a URL").tcp_nodelay(true)
}

async fn until_it_serves(endpoint: &Endpoint) {
    loop {
        if let Ok(channel) = endpoint.connect().await {
            let check = HealthCheckRequest { service: String::new() };
            let answer = HealthClient::new(channel).check(check).await;
            if answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn agent(name: &str) -> VoiceAgent {
    let ws_url = Some("wss://ai.example.com/calls".to_owned());
    VoiceAgent { name: Some(name.to_owned()), ws_url, ..VoiceAgent::default() }
}

async fn create_agent(channel: &Channel, key: &Key, limit: i32) -> VoiceAgent {
    create(channel, key, VoiceAgent { max_concurrent: Some(limit), ..agent(&format!("bench {limit}")) }).await
}

async fn create(channel: &Channel, key: &Key, agent: VoiceAgent) -> VoiceAgent {
    let request = CreateVoiceAgentRequest { voice_agent: Some(agent), ..CreateVoiceAgentRequest::default() };
    let answer = VoiceAgentServiceClient::new(channel.clone()).create_voice_agent(signed(request, key)).await;
    answer.expect("the agent is created").into_inner()
}

async fn create_key(channel: &Channel, key: &Key) -> Key {
    let request = CreateApiKeyRequest {
        name: "bench".to_owned(),
        scopes: SCOPES.map(str::to_owned).into(),
        rate_limit_per_min: i32::try_from(RATE_LIMIT_PER_MIN_MAX).ok(),
        ..CreateApiKeyRequest::default()
    };
    let answer = TenantServiceClient::new(channel.clone()).create_api_key(signed(request, key)).await;
    bearer(&answer.expect("the key is created").into_inner().secret)
}
