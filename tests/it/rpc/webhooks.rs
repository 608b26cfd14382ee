//! Webhook endpoints: what may be set about them, and who reaches them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_types::FieldMask;
use tonic::{Code, Response, Status};
use voxgate::{
    domain::Env,
    proto::v1::{
        CreateWebhookEndpointRequest, CreateWebhookEndpointResponse, DeleteWebhookEndpointRequest,
        ListWebhookEndpointsRequest, RotateWebhookSecretRequest, UpdateWebhookEndpointRequest, WebhookEndpoint,
    },
};

use crate::harness::{
    client::{Caller, faults, granted, refused},
    world::{World, on_both_backends, seconds},
};

on_both_backends!(
    a_new_endpoint_shows_its_secret_this_once,
    every_faulty_field_of_an_endpoint_is_named_at_once,
    an_update_changes_what_its_mask_names,
    without_a_mask_the_fields_that_are_present_change,
    faulty_updates_name_every_path_and_field,
    endpoints_are_listed_page_by_page,
    a_tenant_has_at_most_fifty_endpoints,
    a_rotation_keeps_the_old_secret_for_its_grace,
    a_deleted_endpoint_is_not_there,
    a_sandbox_key_reaches_the_sandboxs_endpoints_alone,
    endpoints_of_an_unknown_tenant_are_nobodys,
);

const HOOK: &str = "https://hooks.example/voxgate";

fn hook() -> WebhookEndpoint {
    WebhookEndpoint { url: Some(HOOK.into()), ..WebhookEndpoint::default() }
}

async fn try_create(
    caller: &Caller,
    world: &World,
    endpoint: WebhookEndpoint,
) -> Result<Response<CreateWebhookEndpointResponse>, Status> {
    let request =
        CreateWebhookEndpointRequest { tenant_id: Some(world.tenant.clone()), webhook_endpoint: Some(endpoint) };
    caller.tenants().create_webhook_endpoint(request).await
}

async fn create(world: &World, endpoint: WebhookEndpoint) -> (WebhookEndpoint, String) {
    let created = granted(try_create(&world.operator, world, endpoint).await);
    (created.webhook_endpoint.expect("the endpoint"), created.secret)
}

async fn listed(caller: &Caller, world: &World) -> Vec<WebhookEndpoint> {
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListWebhookEndpointsRequest { tenant_id: Some(world.tenant.clone()), page_size: 2, page_token };
        let page = granted(caller.tenants().list_webhook_endpoints(request).await);
        assert!(page.webhook_endpoints.len() <= 2);
        listed.extend(page.webhook_endpoints);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return listed;
        }
    }
}

async fn try_update(
    caller: &Caller,
    endpoint: WebhookEndpoint,
    mask: Option<&[&str]>,
) -> Result<Response<WebhookEndpoint>, Status> {
    let update_mask = mask.map(|paths| FieldMask { paths: paths.iter().map(ToString::to_string).collect() });
    let request = UpdateWebhookEndpointRequest { webhook_endpoint: Some(endpoint), update_mask };
    caller.tenants().update_webhook_endpoint(request).await
}

/// 32 random bytes, as receivers are given them.
fn is_a_secret(text: &str) -> bool {
    let bytes = text.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
    bytes.is_some_and(|bytes| bytes.len() == 32)
}

async fn a_new_endpoint_shows_its_secret_this_once(world: World) {
    let types = vec!["ai_session.*".to_owned(), "lead.updated".to_owned()];
    let full = WebhookEndpoint {
        event_types: types.clone(),
        enabled: Some(false),
        description: Some("CRM".into()),
        // What the service sets is passed over.
        tenant_id: "mine".into(),
        ..hook()
    };
    let ((plain, secret), (full, other)) = (create(&world, hook()).await, create(&world, full).await);
    assert!(is_a_secret(&secret) && is_a_secret(&other) && secret != other);
    assert_eq!((plain.url.as_deref(), plain.enabled), (Some(HOOK), Some(true)));
    assert_eq!((plain.tenant_id.as_str(), plain.description.as_deref()), (world.tenant.as_str(), None));
    assert!(plain.event_types.is_empty() && plain.created_at.is_some() && plain.created_at == plain.updated_at);
    assert_eq!((&full.event_types, full.enabled, full.description.as_deref()), (&types, Some(false), Some("CRM")));
    let listed = listed(&world.operator, &world).await;
    assert!(!format!("{listed:?}").contains("whsec_"));
    assert_eq!(listed, [full, plain]);
}

async fn every_faulty_field_of_an_endpoint_is_named_at_once(world: World) {
    let faulty = WebhookEndpoint {
        url: Some("http://10.0.0.1/".into()),
        event_types: vec!["lead.updated".into(), "lead.deleted".into(), "x*".into()],
        description: Some("x".repeat(201)),
        ..hook()
    };
    let named = ["url", "event_types[1]", "event_types[2]", "description"];
    let named = named.map(|field| format!("webhook_endpoint.{field}"));
    assert_eq!(faults(try_create(&world.operator, &world, faulty).await), named);
    let many = WebhookEndpoint { event_types: vec!["*".into(); 33], ..WebhookEndpoint::default() };
    let named = ["webhook_endpoint.url", "webhook_endpoint.event_types"];
    assert_eq!(faults(try_create(&world.operator, &world, many).await), named);
    for url in ["", "https://me:pw@hooks.example/", "https://localhost/", "https://[::1]/", "https://0x7f000001/"] {
        let endpoint = WebhookEndpoint { url: Some(url.into()), ..hook() };
        assert_eq!(faults(try_create(&world.operator, &world, endpoint).await), ["webhook_endpoint.url"], "{url}");
    }
    let unnamed = CreateWebhookEndpointRequest { tenant_id: Some("x".into()), webhook_endpoint: None };
    assert_eq!(faults(world.operator.tenants().create_webhook_endpoint(unnamed).await), ["tenant_id"]);
    assert_eq!(listed(&world.operator, &world).await, []);
}

async fn an_update_changes_what_its_mask_names(world: World) {
    let first = WebhookEndpoint { event_types: vec!["*".into()], description: Some("CRM".into()), ..hook() };
    let (first, _) = create(&world, first).await;
    let patch = WebhookEndpoint {
        id: first.id.clone(),
        url: Some("https://elsewhere.example/".into()),
        enabled: Some(false),
        ..WebhookEndpoint::default()
    };
    let mask = ["enabled", "description", "event_types"];
    let second = granted(try_update(&world.operator, patch.clone(), Some(&mask)).await);
    let expected = WebhookEndpoint {
        enabled: Some(false),
        description: None,
        event_types: vec![],
        updated_at: second.updated_at,
        ..first
    };
    assert_eq!(second, expected);
    let third = granted(try_update(&world.operator, patch, Some(&["*"])).await);
    assert_eq!((third.url.as_deref(), third.enabled), (Some("https://elsewhere.example/"), Some(false)));
    assert_eq!(listed(&world.operator, &world).await, [third]);
}

async fn without_a_mask_the_fields_that_are_present_change(world: World) {
    let (first, _) = create(&world, WebhookEndpoint { description: Some("CRM".into()), ..hook() }).await;
    let id = || WebhookEndpoint { id: first.id.clone(), ..WebhookEndpoint::default() };
    let same = granted(try_update(&world.operator, id(), None).await);
    assert_eq!(same, first);
    let patch = WebhookEndpoint { enabled: Some(false), event_types: vec!["lead.*".into()], ..id() };
    let second = granted(try_update(&world.operator, patch.clone(), None).await);
    let expected = WebhookEndpoint { updated_at: second.updated_at, ..first.clone() };
    assert_eq!(second, WebhookEndpoint { enabled: patch.enabled, event_types: patch.event_types, ..expected });
}

async fn faulty_updates_name_every_path_and_field(world: World) {
    let (first, _) = create(&world, hook()).await;
    let patch = WebhookEndpoint { description: Some("x".repeat(201)), ..first.clone() };
    let mask = ["tenant_id", "sandbox", "secret", "url", "description"];
    let patch = WebhookEndpoint { url: None, ..patch };
    let expected = [
        "update_mask.tenant_id",
        "update_mask.sandbox",
        "update_mask.secret",
        "webhook_endpoint.url",
        "webhook_endpoint.description",
    ];
    assert_eq!(faults(try_update(&world.operator, patch.clone(), Some(&mask)).await), expected);
    let nobody = WebhookEndpoint { id: "x".into(), ..patch };
    assert_eq!(
        faults(try_update(&world.operator, nobody, Some(&["id"])).await),
        ["webhook_endpoint.id", "update_mask.id"]
    );
    let unnamed = UpdateWebhookEndpointRequest::default();
    assert_eq!(faults(world.operator.tenants().update_webhook_endpoint(unnamed).await), ["webhook_endpoint"]);
    assert_eq!(listed(&world.operator, &world).await, [first]);
}

async fn endpoints_are_listed_page_by_page(world: World) {
    let mut newest_first = Vec::new();
    for _ in 0..5 {
        newest_first.insert(0, create(&world, hook()).await.0);
    }
    let neighbour = world.neighbour().await;
    create(&neighbour, hook()).await;
    assert_eq!(listed(&world.operator, &world).await, newest_first);
    let request = ListWebhookEndpointsRequest {
        tenant_id: Some(world.tenant.clone()),
        page_size: 2,
        ..ListWebhookEndpointsRequest::default()
    };
    let mut tenants = world.operator.tenants();
    let page_token = granted(tenants.list_webhook_endpoints(request).await).next_page_token;
    let foreign = ListWebhookEndpointsRequest { tenant_id: Some(neighbour.tenant), page_size: 2, page_token };
    refused(tenants.list_webhook_endpoints(foreign).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
}

async fn a_tenant_has_at_most_fifty_endpoints(world: World) {
    for _ in 0..50 {
        create(&world, hook()).await;
    }
    assert_eq!(faults(try_create(&world.operator, &world, hook()).await), ["webhook_endpoint"]);
    assert_eq!(listed(&world.operator, &world).await.len(), 50);
    create(&world.neighbour().await, hook()).await;
}

async fn a_rotation_keeps_the_old_secret_for_its_grace(world: World) {
    let (endpoint, first) = create(&world, hook()).await;
    let mut tenants = world.operator.tenants();
    let mut rotate = async |grace_period: Option<i64>| {
        let request = RotateWebhookSecretRequest { id: endpoint.id.clone(), grace_period: grace_period.map(seconds) };
        let rotated = granted(tenants.rotate_webhook_secret(request).await);
        assert!(is_a_secret(&rotated.secret) && rotated.secret != first);
        rotated.webhook_endpoint.expect("the endpoint")
    };
    let now = Env::system().now().as_secs();
    let expiry = rotate(None).await.previous_secret_expires_at.expect("a grace").seconds;
    assert!((now + 24 * 3_600..now + 25 * 3_600).contains(&expiry), "{expiry}");
    assert_eq!(rotate(Some(0)).await.previous_secret_expires_at, None);
    let faulty = RotateWebhookSecretRequest { id: "x".into(), grace_period: Some(seconds(30 * 24 * 3_600 + 1)) };
    assert_eq!(faults(tenants.rotate_webhook_secret(faulty).await), ["id", "grace_period"]);
}

async fn a_deleted_endpoint_is_not_there(world: World) {
    let (endpoint, _) = create(&world, hook()).await;
    let request = DeleteWebhookEndpointRequest { id: endpoint.id.clone() };
    let mut tenants = world.operator.tenants();
    granted(tenants.delete_webhook_endpoint(request.clone()).await);
    assert_eq!(listed(&world.operator, &world).await, []);
    assert_eq!(faults(tenants.delete_webhook_endpoint(request).await), ["id"]);
    let rotation = RotateWebhookSecretRequest { id: endpoint.id.clone(), grace_period: None };
    assert_eq!(faults(tenants.rotate_webhook_secret(rotation).await), ["id"]);
    assert_eq!(faults(try_update(&world.operator, endpoint, None).await), ["webhook_endpoint.id"]);
}

async fn a_sandbox_key_reaches_the_sandboxs_endpoints_alone(world: World) {
    let (live, boxed) = world.sides().await;
    let sandbox_operator = boxed.caller_with(&["tenants:admin"]).await;
    let create_by = async |caller: &Caller| {
        granted(try_create(caller, &world, hook()).await).webhook_endpoint.expect("the endpoint")
    };
    let (outside, inside) = (create_by(&live.operator).await, create_by(&sandbox_operator).await);
    assert!(!outside.sandbox && inside.sandbox);
    assert_eq!(listed(&sandbox_operator, &world).await, std::slice::from_ref(&inside));
    assert_eq!(listed(&live.operator, &world).await, [inside.clone(), outside.clone()]);
    let disabled = WebhookEndpoint { enabled: Some(false), ..outside.clone() };
    assert_eq!(faults(try_update(&sandbox_operator, disabled, None).await), ["webhook_endpoint.id"]);
    let mut tenants = sandbox_operator.tenants();
    let rotation = RotateWebhookSecretRequest { id: outside.id.clone(), grace_period: None };
    assert_eq!(faults(tenants.rotate_webhook_secret(rotation).await), ["id"]);
    let deletion = |id: &str| DeleteWebhookEndpointRequest { id: id.to_owned() };
    assert_eq!(faults(tenants.delete_webhook_endpoint(deletion(&outside.id)).await), ["id"]);
    granted(tenants.delete_webhook_endpoint(deletion(&inside.id)).await);
    assert_eq!(listed(&live.operator, &world).await, [outside]);
}

async fn endpoints_of_an_unknown_tenant_are_nobodys(world: World) {
    let tenant_id = Some(Env::system().uuid().to_string());
    let mut tenants = world.operator.tenants();
    let creation = CreateWebhookEndpointRequest { tenant_id: tenant_id.clone(), webhook_endpoint: Some(hook()) };
    refused(tenants.create_webhook_endpoint(creation).await, Code::NotFound, "TENANT_NOT_FOUND");
    let list = ListWebhookEndpointsRequest { tenant_id, ..ListWebhookEndpointsRequest::default() };
    refused(tenants.list_webhook_endpoints(list).await, Code::NotFound, "TENANT_NOT_FOUND");
}
