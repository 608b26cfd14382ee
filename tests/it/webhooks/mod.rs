//! Webhooks as their receivers see them: real HTTP servers that fail, hang, redirect and stop for good.

mod delivery;
mod isolation;
mod replicas;
mod signatures;

use std::{collections::BTreeSet, sync::LazyLock};

use secrecy::ExposeSecret as _;
use voxgate::{
    node_sim::Behaviour,
    proto::v1::{
        CreateWebhookEndpointRequest, DeadLetter, LeadStatus, ListDeadLettersRequest, SetLeadStatusRequest, Slot,
        UpdateWebhookEndpointRequest, WebhookEndpoint,
    },
};

use crate::harness::{
    client::granted,
    postgres,
    receiver::Receiver,
    redis::PrivateRedis,
    server::{Backend, TestServer, outside_of_any_runtime},
    world::{TestNode, World},
};

/// Receivers stand on this machine.
const CONFIG: &str = "[webhooks]\nallow_private = true\n";
/// Longer than any test waits: a receiver that hangs does so for all of it.
const LONG: &str = "[webhooks]\nallow_private = true\ntimeout_ms = 60_000\n";

static EMBEDDED: LazyLock<TestServer> = LazyLock::new(|| server(Backend::Embedded, LONG));
static POSTGRES_REDIS: LazyLock<TestServer> = LazyLock::new(|| server(Backend::PostgresRedis, LONG));

/// A server of a test's own under `config`.
fn server(backend: Backend, config: &str) -> TestServer {
    outside_of_any_runtime(|| match backend {
        Backend::Embedded => TestServer::embedded_with(config),
        Backend::PostgresRedis => {
            let redis = PrivateRedis::shared().url();
            TestServer::production_with(&postgres::fresh_database(), redis.expose_secret(), config)
        }
    })
}

/// A new tenant on the server of `backend` that these tests share.
async fn world(backend: Backend) -> World {
    let server = match backend {
        Backend::Embedded => &*EMBEDDED,
        Backend::PostgresRedis => &*POSTGRES_REDIS,
    };
    World::on(&server.addr, &server.admin_key).await
}

/// Writes each test once and runs it on both back-ends.
macro_rules! on_both_backends {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test($crate::webhooks::world($crate::harness::server::Backend::Embedded).await).await;
            })+
        }

        mod postgres_redis {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test($crate::webhooks::world($crate::harness::server::Backend::PostgresRedis).await).await;
            })+
        }
    };
}
use on_both_backends;

/// An endpoint at `url` that wants `types`, and its secret.
async fn endpoint(world: &World, url: &str, types: &[&str]) -> (WebhookEndpoint, String) {
    let webhook_endpoint = WebhookEndpoint {
        url: Some(url.to_owned()),
        event_types: types.iter().map(ToString::to_string).collect(),
        ..WebhookEndpoint::default()
    };
    let (tenant_id, webhook_endpoint) = (Some(world.tenant.clone()), Some(webhook_endpoint));
    let request = CreateWebhookEndpointRequest { tenant_id, webhook_endpoint };
    let created = granted(world.operator.tenants().create_webhook_endpoint(request).await);
    (created.webhook_endpoint.expect("the endpoint"), created.secret)
}

/// The same, of the types that [`Calls::happen`] makes.
async fn leads(world: &World, receiver: &Receiver) -> WebhookEndpoint {
    endpoint(world, &receiver.url, &["lead.updated"]).await.0
}

async fn set_enabled(world: &World, endpoint: &WebhookEndpoint, enabled: bool) {
    let webhook_endpoint =
        WebhookEndpoint { id: endpoint.id.clone(), enabled: Some(enabled), ..WebhookEndpoint::default() };
    let request = UpdateWebhookEndpointRequest { webhook_endpoint: Some(webhook_endpoint), update_mask: None };
    granted(world.operator.tenants().update_webhook_endpoint(request).await);
}

async fn dead_letters(world: &World) -> Vec<DeadLetter> {
    let (mut letters, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListDeadLettersRequest {
            tenant_id: Some(world.tenant.clone()),
            page_size: 2,
            page_token,
            ..ListDeadLettersRequest::default()
        };
        let page = granted(world.operator.tenants().list_dead_letters(request).await);
        letters.extend(page.dead_letters);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return letters;
        }
    }
}

/// Calls on which things happen. A call takes ten verbs a second, so there are some.
struct Calls {
    world: World,
    slots: Vec<Slot>,
    _node: TestNode,
}

impl Calls {
    async fn start(world: &World) -> Self {
        let node = world.node(Behaviour::default()).await;
        let agent = world.agent(10).await;
        let mut slots = Vec::new();
        for _ in 0..8 {
            slots.push(world.admit(&agent.id).await);
        }
        Self { world: world.clone(), slots, _node: node }
    }

    /// Makes as many events `lead.updated`.
    async fn happen(&self, events: usize) {
        for number in 0..events {
            let request = SetLeadStatusRequest {
                call_id: self.slots[number % self.slots.len()].call_id.clone(),
                status: LeadStatus::Dialing.into(),
                ..SetLeadStatusRequest::default()
            };
            loop {
                match self.world.caller.calls().set_lead_status(request.clone()).await {
                    Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                    answer => break drop(granted(answer)),
                }
            }
        }
    }
}

/// Whether every event came once.
fn each_once(receiver: &Receiver) -> bool {
    let posts = receiver.posts();
    let ids: BTreeSet<_> = posts.iter().map(|post| post.header("webhook-id")).collect();
    ids.len() == posts.len()
}
