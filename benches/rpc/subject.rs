//! The service as the client sees it: four connections, two voice agents, keys in turn, a count of every answer.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_types::StatusExt as _;
use voxgate::{
    domain::tenant::RATE_LIMIT_PER_MIN_MAX,
    proto::v1::{
        AcquireSlotRequest, CreateApiKeyRequest, CreateVoiceAgentRequest, GetUsageRequest, ReleaseSlotRequest,
        VoiceAgent, admission_service_client::AdmissionServiceClient, tenant_service_client::TenantServiceClient,
        voice_agent_service_client::VoiceAgentServiceClient,
    },
};

/// Connections of the client.
pub(crate) const CONNECTIONS: usize = 4;
/// The most that an agent may have.
pub(crate) const AGENT_LIMIT: i32 = 10_000;
/// Used in turn: one may do 1,666 requests a second, so all of them 213,000, and each takes its share of the limiter's
/// work.
const KEYS: usize = 128;
/// The longest lease: none may run out in a cell.
const LEASE_SECONDS: i64 = 300;
/// Until a service that was just started must serve.
const PATIENCE: Duration = Duration::from_secs(30);

type Key = MetadataValue<Ascii>;

/// The service under measurement.
pub(crate) struct Subject {
    lanes: Vec<Channel>,
    keys: Vec<Key>,
    /// How many requests were signed.
    signed: AtomicUsize,
    /// Has room for everyone.
    open_agent: String,
    /// Has room for one call.
    full_agent: String,
    calls: AtomicU64,
    pub(crate) tally: Tally,
}

/// How many of each answer there were.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    noops: AtomicU64,
    granted: AtomicU64,
    released: AtomicU64,
    denied: AtomicU64,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
}

/// A [`Tally`] at one moment.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) noops: u64,
    pub(crate) granted: u64,
    pub(crate) released: u64,
    pub(crate) denied: u64,
    pub(crate) errors: u64,
}

impl Tally {
    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            noops: read(&self.noops),
            granted: read(&self.granted),
            released: read(&self.released),
            denied: read(&self.denied),
            errors: read(&self.errors),
        }
    }

    fn error(&self, what: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_error.lock().expect("nobody panics while holding it");
        first.get_or_insert_with(|| what.to_owned());
    }

    fn failure(&self, rpc: &str, status: &Status) {
        self.error(&format!("{rpc}: {:?}: {}", status.code(), status.message()));
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A slot that is held.
#[derive(Debug)]
pub(crate) struct Hold {
    call: String,
    lease: String,
}

impl Subject {
    /// Waits until it serves, connects, and makes the agents.
    pub(crate) async fn connect(addr: SocketAddr, key: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("a URL").tcp_nodelay(true);
        tokio::time::timeout(PATIENCE, until_it_serves(&endpoint)).await.expect("the service serves");
        let mut lanes = Vec::new();
        for _ in 0..CONNECTIONS {
            lanes.push(endpoint.connect().await.expect("a connection"));
        }
        let key = bearer(key);
        let open_agent = create_agent(&lanes[0], &key, AGENT_LIMIT).await;
        let full_agent = create_agent(&lanes[0], &key, 1).await;
        let mut keys = Vec::new();
        for _ in 0..KEYS {
            keys.push(create_key(&lanes[0], &key).await);
        }
        let (signed, calls) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { lanes, keys, signed, open_agent, full_agent, calls, tally: Tally::default() }
    }

    /// The connection of the `index`th worker.
    pub(crate) fn lane(&self, index: usize) -> Lane<'_> {
        let channel = &self.lanes[index % self.lanes.len()];
        Lane {
            subject: self,
            health: HealthClient::new(channel.clone()),
            admission: AdmissionServiceClient::new(channel.clone()),
        }
    }

    /// Takes the full agent's one slot.
    pub(crate) async fn fill(&self) -> Hold {
        let answer = self.lane(0).try_acquire(&self.full_agent).await;
        let hold = answer.expect("the full agent's slot is free before it is filled");
        count(&self.tally.granted);
        hold
    }

    /// What should not have happened, in words; empty after a clean run.
    pub(crate) async fn faults(&self) -> Vec<String> {
        let counts = self.tally.counts();
        let mut faults = Vec::new();
        if counts.errors > 0 {
            let first = self.tally.first_error.lock().expect("nobody panics while holding it").clone();
            faults.push(format!("{} errors, the first: {}", counts.errors, first.unwrap_or_default()));
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

    fn signed<T>(&self, message: T) -> Request<T> {
        let turn = self.signed.fetch_add(1, Ordering::Relaxed);
        signed(message, &self.keys[turn % self.keys.len()])
    }
}

fn bearer(secret: &str) -> Key {
    format!("Bearer {secret}").parse().expect("a header's value")
}

fn signed<T>(message: T, key: &Key) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", key.clone());
    request
}

/// One worker's view of one connection.
pub(crate) struct Lane<'s> {
    subject: &'s Subject,
    health: HealthClient<Channel>,
    admission: AdmissionServiceClient<Channel>,
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
        match self.try_acquire(&subject.open_agent).await {
            Ok(hold) => {
                count(&subject.tally.granted);
                Some(hold)
            }
            Err(status) => {
                subject.tally.failure("AcquireSlot", &status);
                None
            }
        }
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
        let tally = &self.subject.tally;
        match self.admission.release_slot(self.subject.signed(request)).await {
            Ok(answer) if answer.get_ref().released => count(&tally.released),
            Ok(_) => tally.error("ReleaseSlot: there was nothing to release"),
            Err(status) => tally.failure("ReleaseSlot", &status),
        }
    }

    async fn try_acquire(&mut self, agent: &str) -> Result<Hold, Status> {
        let call = format!("bench-{}", self.subject.calls.fetch_add(1, Ordering::Relaxed));
        let request = AcquireSlotRequest {
            call_id: call.clone(),
            voice_agent_id: Some(agent.to_owned()),
            lease_ttl: Some(prost_types::Duration { seconds: LEASE_SECONDS, nanos: 0 }),
            ..AcquireSlotRequest::default()
        };
        let slot = self.admission.acquire_slot(self.subject.signed(request)).await?.into_inner();
        Ok(Hold { call, lease: slot.lease_id })
    }
}

/// A rate limit is no denial: nobody looked at the slots for it.
fn is_full(status: &Status) -> bool {
    let info = status.get_details_error_info();
    status.code() == Code::ResourceExhausted && info.is_some_and(|info| info.reason == "MAX_CONCURRENT_EXCEEDED")
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

async fn create_agent(channel: &Channel, key: &Key, limit: i32) -> String {
    let agent = VoiceAgent {
        name: Some(format!("bench {limit}")),
        ws_url: Some("wss://ai.example.com/calls".to_owned()),
        max_concurrent: Some(limit),
        ..VoiceAgent::default()
    };
    let request = CreateVoiceAgentRequest { voice_agent: Some(agent), ..CreateVoiceAgentRequest::default() };
    let answer = VoiceAgentServiceClient::new(channel.clone()).create_voice_agent(signed(request, key)).await;
    answer.expect("the agent is created").into_inner().id
}

async fn create_key(channel: &Channel, key: &Key) -> Key {
    let request = CreateApiKeyRequest {
        name: "bench".to_owned(),
        scopes: vec!["slots:acquire".to_owned()],
        rate_limit_per_min: i32::try_from(RATE_LIMIT_PER_MIN_MAX).ok(),
        ..CreateApiKeyRequest::default()
    };
    let answer = TenantServiceClient::new(channel.clone()).create_api_key(signed(request, key)).await;
    bearer(&answer.expect("the key is created").into_inner().secret)
}
