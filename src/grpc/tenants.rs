//! `TenantService`.

use std::{str::FromStr, time::Duration};

use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Api, Incoming,
    convert::{
        read,
        tenant::{read_key, read_tenant, read_tenant_id, read_update, write_key, write_tenant},
        value::read_duration,
        webhook::{
            read_dead_letters, read_endpoint, read_endpoint_update, read_redelivery, write_dead_letter, write_endpoint,
        },
        write_page,
    },
};
use crate::{
    domain::{
        Result as Answer,
        ids::{ApiKeyId, WebhookEndpointId},
        page::{self, Cursor, PageRequest},
        tenant::{GRACE_PERIOD_DEFAULT, GRACE_PERIOD_MAX, Tenant},
        violations::{Fault, Violations},
        webhook::{DeadLetter, WebhookEndpoint},
    },
    proto::v1::{self, tenant_service_server::TenantService},
};

/// Tells the list of tenants from those of a tenant's own, which go by its id.
const ALL_TENANTS: &str = "tenants";

#[async_trait]
impl TenantService for Api {
    async fn create_tenant(&self, request: Request<v1::CreateTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let Incoming { message, .. } = Incoming::of(request)?;
        let draft = read_tenant(message.tenant)?;
        let tenant = self.tenants.create(draft).await.map_err(|error| error.under("tenant"))?;
        Ok(Response::new(write_tenant(&tenant)))
    }

    async fn get_tenant(&self, request: Request<v1::GetTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let id = read_tenant_id(Some(&message.id), "id", &principal)?;
        let tenant = self.tenants.get(id).await?;
        Ok(Response::new(write_tenant(&tenant)))
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Result<Response<v1::ListTenantsResponse>, Status> {
        let Incoming { message, .. } = Incoming::of(request)?;
        let request = PageRequest::parse(message.page_size, &message.page_token, ALL_TENANTS)?;
        let page = self.tenants.list(request).await?;
        let cursor = |tenant: &Tenant| Cursor { created_at: tenant.created_at, id: *tenant.id.as_uuid() };
        let (tenants, next) = write_page(&page, write_tenant, cursor);
        let next_page_token = next.map(|next| page::token(next, ALL_TENANTS)).unwrap_or_default();
        Ok(Response::new(v1::ListTenantsResponse { tenants, next_page_token }))
    }

    async fn update_tenant(&self, request: Request<v1::UpdateTenantRequest>) -> Result<Response<v1::Tenant>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (id, patch) = read_update(message, &principal)?;
        let tenant = self.tenants.update(id, &patch).await?;
        Ok(Response::new(write_tenant(&tenant)))
    }

    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (tenant, draft) = read_key(message, &principal)?;
        let (key, secret) = self.tenants.create_key(tenant, draft, principal.scopes()).await?;
        let secret = secret.reveal().to_owned();
        Ok(Response::new(v1::CreateApiKeyResponse { api_key: Some(write_key(&key)), secret }))
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let tenant = read_tenant_id(message.tenant_id.as_deref(), "tenant_id", &principal)?;
        let filter = tenant.to_string();
        let request = PageRequest::parse(message.page_size, &message.page_token, &filter)?;
        let page = self.tenants.keys(tenant, request).await?;
        let next_page_token = page.next.map(|next| page::token(next, &filter)).unwrap_or_default();
        let api_keys = page.items.iter().map(write_key).collect();
        Ok(Response::new(v1::ListApiKeysResponse { api_keys, next_page_token }))
    }

    async fn rotate_api_key(
        &self,
        request: Request<v1::RotateApiKeyRequest>,
    ) -> Result<Response<v1::RotateApiKeyResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (id, grace_period) = read_rotation(&message.id, message.grace_period)?;
        let (key, secret) = self.tenants.rotate_key(&principal, id, grace_period).await?;
        let secret = secret.reveal().to_owned();
        Ok(Response::new(v1::RotateApiKeyResponse { api_key: Some(write_key(&key)), secret }))
    }

    async fn revoke_api_key(&self, request: Request<v1::RevokeApiKeyRequest>) -> Result<Response<v1::ApiKey>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let id: ApiKeyId = read_id(&message.id)?;
        let key = self.tenants.revoke_key(&principal, id).await?;
        Ok(Response::new(write_key(&key)))
    }

    async fn create_webhook_endpoint(
        &self,
        request: Request<v1::CreateWebhookEndpointRequest>,
    ) -> Result<Response<v1::CreateWebhookEndpointResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let tenant = read_tenant_id(message.tenant_id.as_deref(), "tenant_id", &principal)?;
        let draft = read_endpoint(message.webhook_endpoint);
        let (endpoint, secret) = self.webhooks.create(tenant, principal.sandbox(), &draft).await?;
        let secret = secret.reveal().expose_secret().to_owned();
        let webhook_endpoint = Some(write_endpoint(&endpoint));
        Ok(Response::new(v1::CreateWebhookEndpointResponse { webhook_endpoint, secret }))
    }

    async fn list_webhook_endpoints(
        &self,
        request: Request<v1::ListWebhookEndpointsRequest>,
    ) -> Result<Response<v1::ListWebhookEndpointsResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let tenant = read_tenant_id(message.tenant_id.as_deref(), "tenant_id", &principal)?;
        let filter = format!("webhooks {tenant} {}", principal.sandbox());
        let request = PageRequest::parse(message.page_size, &message.page_token, &filter)?;
        self.tenants.get(tenant).await?;
        let page = self.webhooks.list(&principal, tenant, request).await?;
        let cursor = |it: &WebhookEndpoint| Cursor { created_at: it.created_at, id: *it.id.as_uuid() };
        let (webhook_endpoints, next) = write_page(&page, write_endpoint, cursor);
        let next_page_token = next.map(|next| page::token(next, &filter)).unwrap_or_default();
        Ok(Response::new(v1::ListWebhookEndpointsResponse { webhook_endpoints, next_page_token }))
    }

    async fn update_webhook_endpoint(
        &self,
        request: Request<v1::UpdateWebhookEndpointRequest>,
    ) -> Result<Response<v1::WebhookEndpoint>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (id, patch) = read_endpoint_update(message)?;
        let endpoint = self.webhooks.update(&principal, id, &patch).await?;
        Ok(Response::new(write_endpoint(&endpoint)))
    }

    async fn delete_webhook_endpoint(
        &self,
        request: Request<v1::DeleteWebhookEndpointRequest>,
    ) -> Result<Response<()>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let id: WebhookEndpointId = read_id(&message.id)?;
        self.webhooks.delete(&principal, id).await?;
        Ok(Response::new(()))
    }

    async fn rotate_webhook_secret(
        &self,
        request: Request<v1::RotateWebhookSecretRequest>,
    ) -> Result<Response<v1::RotateWebhookSecretResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (id, grace_period) = read_rotation(&message.id, message.grace_period)?;
        let (endpoint, secret) = self.webhooks.rotate_secret(&principal, id, grace_period).await?;
        let secret = secret.reveal().expose_secret().to_owned();
        let webhook_endpoint = Some(write_endpoint(&endpoint));
        Ok(Response::new(v1::RotateWebhookSecretResponse { webhook_endpoint, secret }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (tenant, endpoint) = read_dead_letters(&message, &principal)?;
        let filter = format!("dead letters {tenant} {endpoint:?} {}", principal.sandbox());
        let request = PageRequest::parse(message.page_size, &message.page_token, &filter)?;
        self.tenants.get(tenant).await?;
        let page = self.webhooks.dead_letters(&principal, tenant, endpoint, request).await?;
        let cursor = |it: &DeadLetter| Cursor { created_at: it.dead_at, id: *it.id.as_uuid() };
        let (dead_letters, next) = write_page(&page, write_dead_letter, cursor);
        let next_page_token = next.map(|next| page::token(next, &filter)).unwrap_or_default();
        Ok(Response::new(v1::ListDeadLettersResponse { dead_letters, next_page_token }))
    }

    async fn redeliver_event(
        &self,
        request: Request<v1::RedeliverEventRequest>,
    ) -> Result<Response<v1::RedeliverEventResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (tenant, event, endpoint) = read_redelivery(&message, &principal)?;
        self.tenants.get(tenant).await?;
        let endpoints = self.webhooks.redeliver(&principal, tenant, event, endpoint).await?;
        let webhook_endpoint_ids = endpoints.iter().map(ToString::to_string).collect();
        Ok(Response::new(v1::RedeliverEventResponse { webhook_endpoint_ids }))
    }
}

fn read_id<I: FromStr<Err = Fault>>(id: &str) -> Answer<I> {
    let mut faults = Violations::default();
    let id = read("id", id, &mut faults);
    Ok(faults.into_result(id)?)
}

fn read_rotation<I: FromStr<Err = Fault>>(
    id: &str,
    grace_period: Option<prost_types::Duration>,
) -> Answer<(I, Duration)> {
    let mut faults = Violations::default();
    let id = read("id", id, &mut faults);
    let bounds = (Duration::ZERO, GRACE_PERIOD_MAX);
    let grace_period = read_duration("grace_period", grace_period, bounds, GRACE_PERIOD_DEFAULT, &mut faults);
    Ok(faults.into_result(id.map(|id| (id, grace_period)))?)
}
