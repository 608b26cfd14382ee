//! Where tenants want their events posted, and how they get there.
//!
//! [`WebhookStore`] keeps the endpoints, [`DeliveryStore`] what is on its way to them; [`Webhooks`] is what may be done
//! with both, and [`Deliverer`] posts.

mod deliverer;
mod dial;
mod post;
mod rewrap;
mod service;
mod sql;
mod store;

use std::path::PathBuf;

use async_trait::async_trait;
use serde::Deserialize;

pub use self::{
    deliverer::Deliverer,
    rewrap::rewrap,
    service::{WebhookPatch, Webhooks},
    sql::SqlWebhookStore,
    store::{
        Backlog, Claim, Claimed, Claims, DeliveryStore, EndpointKey, FAN_OUT_MAX, FannedOut, IN_FLIGHT_OF_FAILING,
        IN_FLIGHT_OF_SOUND, Lane, Next, Redelivered, Redelivery, Settlement,
    },
};
use crate::domain::{
    Result,
    clock::Timestamp,
    ids::{TenantId, WebhookEndpointId},
    keyring::Sealed,
    page::{Page, PageRequest},
    webhook::{EndpointSecrets, WebhookEndpoint},
};

/// How webhooks are delivered.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSettings {
    /// Whether endpoints may be http, and of private addresses. Default false: a tenant names the URL, and this service
    /// stands inside the network.
    pub allow_private: bool,
    /// Authorities that receivers' certificates may come from, beside those of the machine.
    pub ca_file: Option<PathBuf>,
    /// Milliseconds until a post without an answer has failed. Default 15,000, as Standard Webhooks advises.
    pub timeout_ms: u64,
    /// Posts of this replica at once. Default 256: each is a socket and some 32 KiB. One half is for endpoints whose last
    /// post succeeded, the other for those whose last failed.
    pub max_in_flight: usize,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self { allow_private: false, ca_file: None, timeout_ms: 15_000, max_in_flight: 256 }
    }
}

/// What became of a new endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    Done,
    /// The tenant has as many as it may.
    TooMany,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    Done,
    /// The endpoint is not any more what the change was made on.
    Stale,
}

/// An endpoint's new secret, and what becomes of the one that it has.
#[derive(Debug, Clone)]
pub struct NewSecret {
    pub sealed: Sealed,
    /// Until when the secret of before signs on; absent: it is gone at once.
    pub previous_expires_at: Option<Timestamp>,
    pub now: Timestamp,
}

/// The secrets of one endpoint.
#[derive(Debug, Clone)]
pub struct SealedSecrets {
    pub tenant: TenantId,
    pub endpoint: WebhookEndpointId,
    pub secrets: EndpointSecrets,
}

#[async_trait]
pub trait WebhookStore: Send + Sync + std::fmt::Debug {
    /// `NotFound(Tenant)` if the tenant does not exist. However many race, a tenant has no more than it may.
    async fn create(&self, endpoint: &WebhookEndpoint) -> Result<Created>;

    /// An endpoint of whichever tenant: for operators, who know it by its id alone.
    async fn get(&self, id: WebhookEndpointId) -> Result<Option<WebhookEndpoint>>;

    /// The tenant's, newest first; only those of the sandbox where `sandbox` says so.
    async fn list(&self, tenant: TenantId, sandbox: bool, page: PageRequest) -> Result<Page<WebhookEndpoint>>;

    /// Writes `endpoint` over `read`, if that still is what is there; its secrets stay.
    async fn update(&self, endpoint: &WebhookEndpoint, read: &WebhookEndpoint) -> Result<Changed>;

    /// Gives the endpoint another secret; the one before the last is gone. Nothing if there is no such endpoint. Of
    /// rotations at once each is carried out, one after the other.
    async fn rotate(
        &self,
        tenant: TenantId,
        id: WebhookEndpointId,
        secret: NewSecret,
    ) -> Result<Option<WebhookEndpoint>>;

    /// Removes the endpoint with what waits for it. False if there is none.
    async fn delete(&self, tenant: TenantId, id: WebhookEndpointId) -> Result<bool>;

    /// The secrets of all tenants' endpoints in the order of `(tenant, endpoint)`, those after `after`.
    async fn sealed_secrets(&self, after: Option<&SealedSecrets>, limit: u16) -> Result<Vec<SealedSecrets>>;

    /// Puts `secrets` in the place of `old`. False where the endpoint holds others by now.
    async fn reseal(&self, old: &SealedSecrets, secrets: &EndpointSecrets) -> Result<bool>;
}
