//! Endpoints as rows.

use diesel::prelude::{AsChangeset, Insertable, Queryable, Selectable};

use crate::{
    db::{
        schema::webhook_endpoints,
        types::{At, Json, Uid},
    },
    domain::{
        Error, Result,
        event_pattern::EventPatterns,
        keyring::Sealed,
        webhook::{EndpointSecrets, PreviousSecret, WebhookEndpoint},
    },
    webhooks::SealedSecrets,
};

#[derive(Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = webhook_endpoints, treat_none_as_default_value = false)]
pub(super) struct EndpointRow {
    tenant_id: Uid,
    id: Uid,
    url: String,
    event_types: Json,
    enabled: bool,
    description: Option<String>,
    sandbox: bool,
    sealed_secret: Vec<u8>,
    sealed_previous_secret: Option<Vec<u8>>,
    previous_secret_expires_at: Option<At>,
    created_at: At,
    updated_at: At,
}

/// What a change of an endpoint writes.
#[derive(Debug, AsChangeset)]
#[diesel(table_name = webhook_endpoints, treat_none_as_null = true)]
pub(super) struct EndpointChange {
    url: String,
    event_types: Json,
    enabled: bool,
    description: Option<String>,
    updated_at: At,
}

fn kept(patterns: &EventPatterns) -> Result<Json> {
    Json::of(&patterns.iter().collect::<Vec<_>>())
}

fn secrets(current: Vec<u8>, previous: Option<Vec<u8>>, expires_at: Option<At>) -> EndpointSecrets {
    let previous = previous.zip(expires_at).map(|(sealed, At(expires_at))| {
        let sealed = Sealed::from_bytes(sealed);
        PreviousSecret { sealed, expires_at }
    });
    EndpointSecrets { current: Sealed::from_bytes(current), previous }
}

impl EndpointRow {
    pub(super) fn of(endpoint: &WebhookEndpoint) -> Result<Self> {
        let previous = endpoint.secrets.previous.as_ref();
        Ok(Self {
            tenant_id: endpoint.tenant.into(),
            id: endpoint.id.into(),
            url: endpoint.url.clone(),
            event_types: kept(&endpoint.event_types)?,
            enabled: endpoint.enabled,
            description: endpoint.description.clone(),
            sandbox: endpoint.sandbox,
            sealed_secret: endpoint.secrets.current.as_bytes().to_vec(),
            sealed_previous_secret: previous.map(|previous| previous.sealed.as_bytes().to_vec()),
            previous_secret_expires_at: previous.map(|previous| At(previous.expires_at)),
            created_at: endpoint.created_at.into(),
            updated_at: endpoint.updated_at.into(),
        })
    }
}

impl EndpointChange {
    pub(super) fn of(endpoint: &WebhookEndpoint) -> Result<Self> {
        Ok(Self {
            url: endpoint.url.clone(),
            event_types: kept(&endpoint.event_types)?,
            enabled: endpoint.enabled,
            description: endpoint.description.clone(),
            updated_at: endpoint.updated_at.into(),
        })
    }
}

impl TryFrom<EndpointRow> for WebhookEndpoint {
    type Error = Error;

    fn try_from(row: EndpointRow) -> Result<Self> {
        Ok(Self {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            url: row.url,
            event_types: EventPatterns::kept(row.event_types.read("webhook_endpoints.event_types")?),
            enabled: row.enabled,
            description: row.description,
            sandbox: row.sandbox,
            secrets: secrets(row.sealed_secret, row.sealed_previous_secret, row.previous_secret_expires_at),
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
        })
    }
}

#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = webhook_endpoints)]
pub(super) struct SecretsRow {
    tenant_id: Uid,
    id: Uid,
    sealed_secret: Vec<u8>,
    sealed_previous_secret: Option<Vec<u8>>,
    previous_secret_expires_at: Option<At>,
}

impl From<SecretsRow> for SealedSecrets {
    fn from(row: SecretsRow) -> Self {
        Self {
            tenant: row.tenant_id.into(),
            endpoint: row.id.into(),
            secrets: secrets(row.sealed_secret, row.sealed_previous_secret, row.previous_secret_expires_at),
        }
    }
}
