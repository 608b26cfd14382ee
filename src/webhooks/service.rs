//! What may be done with endpoints.
//!
//! An operator reaches the endpoints of whichever tenant; a sandbox key reaches those alone that sandbox keys made.

use std::{sync::Arc, time::Duration};

use super::{Changed, Created, DeliveryStore, NewSecret, Redelivered, Redelivery, WebhookStore};
use crate::domain::{
    Env, Error, Result,
    ids::{EventId, TenantId, WebhookEndpointId},
    keyring::KeyRing,
    page::{Page, PageRequest},
    principal::Principal,
    text::MediaUrls,
    violations::Violations,
    webhook::{DeadLetter, ENDPOINTS_MAX, WebhookDraft, WebhookEndpoint, WebhookField, WebhookSecret},
};

#[derive(Debug, Clone)]
pub struct Webhooks {
    store: Arc<dyn WebhookStore>,
    deliveries: Arc<dyn DeliveryStore>,
    ring: Arc<KeyRing>,
    urls: MediaUrls,
    env: Env,
}

/// A change of some fields, with what was at fault already when it was read: the caller hears of everything at once.
#[derive(Debug, Clone)]
pub struct WebhookPatch {
    pub draft: WebhookDraft,
    pub fields: Vec<WebhookField>,
    pub faults: Violations,
}

impl Webhooks {
    pub fn new(
        store: Arc<dyn WebhookStore>,
        deliveries: Arc<dyn DeliveryStore>,
        ring: Arc<KeyRing>,
        urls: MediaUrls,
        env: Env,
    ) -> Self {
        Self { store, deliveries, ring, urls, env }
    }

    /// Made by a sandbox key it is one of the sandbox.
    pub async fn create(
        &self,
        tenant: TenantId,
        sandbox: bool,
        draft: &WebhookDraft,
    ) -> Result<(WebhookEndpoint, WebhookSecret)> {
        let made = WebhookEndpoint::create(&self.env, &self.ring, tenant, sandbox, draft, self.urls);
        let (endpoint, secret) = made.map_err(|error| error.under("webhook_endpoint"))?;
        match self.store.create(&endpoint).await? {
            Created::Done => Ok((endpoint, secret)),
            Created::TooMany => Err(Error::invalid(
                "webhook_endpoint",
                format!("is one too many: a tenant has at most {ENDPOINTS_MAX}"),
            )),
        }
    }

    pub async fn list(
        &self,
        principal: &Principal,
        tenant: TenantId,
        page: PageRequest,
    ) -> Result<Page<WebhookEndpoint>> {
        self.store.list(tenant, principal.sandbox(), page).await
    }

    /// Lays the patch over the endpoint.
    pub async fn update(
        &self,
        principal: &Principal,
        id: WebhookEndpointId,
        patch: &WebhookPatch,
    ) -> Result<WebhookEndpoint> {
        loop {
            let endpoint = self.reached(principal, id, "webhook_endpoint.id").await?;
            let mut faults = patch.faults.clone();
            let patched = endpoint.patched(&patch.draft, &patch.fields, self.urls, self.env.now());
            let patched = patched.map_err(|part| faults.absorb("webhook_endpoint", part)).ok();
            let patched = faults.into_result(patched)?;
            if patch.fields.is_empty() {
                return Ok(endpoint);
            }
            match self.store.update(&patched, &endpoint).await? {
                Changed::Done => return Ok(patched),
                Changed::Stale => {}
            }
        }
    }

    pub async fn delete(&self, principal: &Principal, id: WebhookEndpointId) -> Result<()> {
        let endpoint = self.reached(principal, id, "id").await?;
        match self.store.delete(endpoint.tenant, id).await? {
            true => Ok(()),
            false => Err(unknown("id")),
        }
    }

    /// Gives the endpoint another secret; the one that it has signs on for the grace period.
    pub async fn rotate_secret(
        &self,
        principal: &Principal,
        id: WebhookEndpointId,
        grace_period: Duration,
    ) -> Result<(WebhookEndpoint, WebhookSecret)> {
        let endpoint = self.reached(principal, id, "id").await?;
        let (secret, now) = (WebhookSecret::mint(&self.env), self.env.now());
        let new = NewSecret {
            sealed: secret.sealed(&self.ring, &self.env, endpoint.tenant, id)?,
            previous_expires_at: Some(now.plus(grace_period)).filter(|_| !grace_period.is_zero()),
            now,
        };
        let rotated = self.store.rotate(endpoint.tenant, id, new).await?;
        Ok((rotated.ok_or_else(|| unknown("id"))?, secret))
    }

    /// Of one endpoint or of all, the latest first.
    pub async fn dead_letters(
        &self,
        principal: &Principal,
        tenant: TenantId,
        endpoint: Option<WebhookEndpointId>,
        page: PageRequest,
    ) -> Result<Page<DeadLetter>> {
        if let Some(id) = endpoint {
            let endpoint = self.reached(principal, id, NAMED).await?;
            if endpoint.tenant != tenant {
                return Err(unknown(NAMED));
            }
        }
        self.deliveries.dead_letters(tenant, endpoint, principal.sandbox(), page).await
    }

    /// Posts an event once more, and answers to whom.
    pub async fn redeliver(
        &self,
        principal: &Principal,
        tenant: TenantId,
        event: EventId,
        endpoint: Option<WebhookEndpointId>,
    ) -> Result<Vec<WebhookEndpointId>> {
        let redelivery = Redelivery { tenant, event, endpoint, sandbox: principal.sandbox() };
        match self.deliveries.redeliver(redelivery, &self.env).await? {
            Redelivered::To(endpoints) => Ok(endpoints),
            Redelivered::UnknownEvent => Err(Error::invalid("event_id", "names no event that is kept")),
            Redelivered::UnknownEndpoint => Err(unknown(NAMED)),
            Redelivered::EndpointDisabled => Err(Error::invalid(NAMED, "names an endpoint that is disabled")),
            Redelivered::EventIsLive => {
                Err(Error::invalid(NAMED, "names an endpoint of the sandbox, and the event is of a live call"))
            }
        }
    }

    async fn reached(&self, principal: &Principal, id: WebhookEndpointId, field: &str) -> Result<WebhookEndpoint> {
        let reached = |endpoint: &WebhookEndpoint| endpoint.sandbox || !principal.sandbox();
        self.store.get(id).await?.filter(reached).ok_or_else(|| unknown(field))
    }
}

/// Where an endpoint is named beside something else.
const NAMED: &str = "webhook_endpoint_id";

/// Also of another side of the sandbox fence.
fn unknown(field: &str) -> Error {
    Error::invalid(field, "names no webhook endpoint")
}
