//! `TenantService`.

use std::time::Duration;

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api, Incoming,
    convert::{
        read,
        tenant::{read_key, read_tenant, read_tenant_id, read_update, write_key, write_tenant},
        value::read_duration,
        write_page,
    },
};
use crate::{
    domain::{
        Error, Result as Answer,
        ids::ApiKeyId,
        page::{self, Cursor, PageRequest},
        tenant::{GRACE_PERIOD_DEFAULT, GRACE_PERIOD_MAX, Tenant},
        violations::Violations,
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
        let (id, grace_period) = read_rotation(&message)?;
        let (key, secret) = self.tenants.rotate_key(&principal, id, grace_period).await?;
        let secret = secret.reveal().to_owned();
        Ok(Response::new(v1::RotateApiKeyResponse { api_key: Some(write_key(&key)), secret }))
    }

    async fn revoke_api_key(&self, request: Request<v1::RevokeApiKeyRequest>) -> Result<Response<v1::ApiKey>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let mut faults = Violations::default();
        let id: Option<ApiKeyId> = read("id", &message.id, &mut faults);
        let id = faults.into_result(id).map_err(Error::from)?;
        let key = self.tenants.revoke_key(&principal, id).await?;
        Ok(Response::new(write_key(&key)))
    }
}

fn read_rotation(wire: &v1::RotateApiKeyRequest) -> Answer<(ApiKeyId, Duration)> {
    let mut faults = Violations::default();
    let id = read("id", &wire.id, &mut faults);
    let bounds = (Duration::ZERO, GRACE_PERIOD_MAX);
    let grace_period = read_duration("grace_period", wire.grace_period, bounds, GRACE_PERIOD_DEFAULT, &mut faults);
    Ok(faults.into_result(id.map(|id| (id, grace_period)))?)
}
