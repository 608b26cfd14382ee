//! Webhook endpoints on the wire.

use super::{
    number, read, read_mask, read_optional,
    value::{object, timestamp},
};
use crate::{
    domain::{
        Result,
        ids::{EventId, TenantId, WebhookEndpointId},
        principal::Principal,
        violations::{Fault, Violations},
        webhook::{DeadLetter, PostedEvent, WebhookDraft, WebhookEndpoint, WebhookField},
    },
    proto::v1,
    webhooks::WebhookPatch,
};

/// Paths of an endpoint that the service alone writes.
const READ_ONLY: [&str; 6] = ["id", "tenant_id", "created_at", "updated_at", "sandbox", "previous_secret_expires_at"];

pub(crate) fn read_endpoint(wire: Option<v1::WebhookEndpoint>) -> WebhookDraft {
    let wire = wire.unwrap_or_default();
    let v1::WebhookEndpoint { url, event_types, enabled, description, .. } = wire;
    WebhookDraft { url, event_types, enabled, description }
}

pub(crate) fn read_endpoint_update(
    wire: v1::UpdateWebhookEndpointRequest,
) -> Result<(WebhookEndpointId, WebhookPatch)> {
    let Some(endpoint) = wire.webhook_endpoint else {
        return Err(Violations::from(("webhook_endpoint", Fault::required())).into());
    };
    let mut faults = Violations::default();
    let id = read("webhook_endpoint.id", &endpoint.id, &mut faults);
    let fields = match wire.update_mask.filter(|mask| !mask.paths.is_empty()) {
        Some(mask) => read_mask(&mask.paths, WebhookField::ALL, WebhookField::from_word, &READ_ONLY, &mut faults),
        None => present(&endpoint),
    };
    match id {
        Some(id) => Ok((id, WebhookPatch { draft: read_endpoint(Some(endpoint)), fields, faults })),
        None => Err(faults.into()),
    }
}

/// The fields that a caller wrote: what an update without a mask changes.
fn present(wire: &v1::WebhookEndpoint) -> Vec<WebhookField> {
    let written = |field: &WebhookField| match field {
        WebhookField::Url => wire.url.is_some(),
        WebhookField::EventTypes => !wire.event_types.is_empty(),
        WebhookField::Enabled => wire.enabled.is_some(),
        WebhookField::Description => wire.description.is_some(),
    };
    WebhookField::ALL.iter().filter(|field| written(field)).copied().collect()
}

pub(crate) fn write_endpoint(endpoint: &WebhookEndpoint) -> v1::WebhookEndpoint {
    v1::WebhookEndpoint {
        id: endpoint.id.to_string(),
        tenant_id: endpoint.tenant.to_string(),
        url: Some(endpoint.url.clone()),
        event_types: endpoint.event_types.iter().map(str::to_owned).collect(),
        enabled: Some(endpoint.enabled),
        description: endpoint.description.clone(),
        created_at: Some(timestamp(endpoint.created_at)),
        updated_at: Some(timestamp(endpoint.updated_at)),
        sandbox: endpoint.sandbox,
        previous_secret_expires_at: endpoint.secrets.previous.as_ref().map(|previous| timestamp(previous.expires_at)),
    }
}

/// Whose, and of which endpoint.
pub(crate) fn read_dead_letters(
    wire: &v1::ListDeadLettersRequest,
    principal: &Principal,
) -> Result<(TenantId, Option<WebhookEndpointId>)> {
    let mut faults = Violations::default();
    let tenant = read_optional("tenant_id", wire.tenant_id.as_deref(), &mut faults).unwrap_or(principal.tenant());
    let endpoint = read_optional("webhook_endpoint_id", Some(&wire.webhook_endpoint_id), &mut faults);
    Ok(faults.into_result(Some((tenant, endpoint)))?)
}

pub(crate) fn read_redelivery(
    wire: &v1::RedeliverEventRequest,
    principal: &Principal,
) -> Result<(TenantId, EventId, Option<WebhookEndpointId>)> {
    let mut faults = Violations::default();
    let event = read("event_id", &wire.event_id, &mut faults);
    let endpoint = read_optional("webhook_endpoint_id", wire.webhook_endpoint_id.as_deref(), &mut faults);
    let tenant = read_optional("tenant_id", wire.tenant_id.as_deref(), &mut faults).unwrap_or(principal.tenant());
    Ok(faults.into_result(event.map(|event| (tenant, event, endpoint)))?)
}

pub(crate) fn write_dead_letter(letter: &DeadLetter) -> v1::DeadLetter {
    v1::DeadLetter {
        id: letter.id.to_string(),
        webhook_endpoint_id: letter.endpoint.to_string(),
        event: Some(write_event(&letter.event)),
        attempts: number(letter.attempts),
        first_attempt_at: letter.first_attempt_at.map(timestamp),
        last_attempt_at: letter.last_attempt_at.map(timestamp),
        last_status_code: letter.last_status.into(),
        last_error: letter.last_error.clone(),
    }
}

fn write_event(event: &PostedEvent) -> v1::Event {
    v1::Event {
        id: event.id.to_string(),
        r#type: event.kind.clone(),
        created_at: Some(timestamp(event.created_at)),
        tenant_id: event.tenant_id.to_string(),
        sequence: event.sequence,
        call_id: event.call_id.clone(),
        session_sequence: event.session_sequence,
        data: Some(object(&event.data)),
    }
}
