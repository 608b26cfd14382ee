//! `TenantService`.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api, Incoming,
    convert::{
        read,
        tenant::{read_key, read_tenant, read_tenant_id, write_key, write_tenant},
    },
};
use crate::{
    domain::{
        Error,
        ids::ApiKeyId,
        page::{self, PageRequest},
        violations::Violations,
    },
    proto::v1::{self, tenant_service_server::TenantService},
};

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

    async fn revoke_api_key(&self, request: Request<v1::RevokeApiKeyRequest>) -> Result<Response<v1::ApiKey>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let mut faults = Violations::default();
        let id: Option<ApiKeyId> = read("id", &message.id, &mut faults);
        let id = faults.into_result(id).map_err(Error::from)?;
        let key = self.tenants.revoke_key(&principal, id).await?;
        Ok(Response::new(write_key(&key)))
    }
}
