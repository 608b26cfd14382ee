//! What every `WebhookStore` promises.

use std::time::Duration;

use voxgate::{
    domain::{
        Env, Error,
        error::Resource,
        ids::{TenantId, WebhookEndpointId},
        keyring::{KeyRing, Rewrapped, Sealed},
        page::PageRequest,
        text::MediaUrls,
        webhook::{ENDPOINTS_MAX, EndpointSecrets, PreviousSecret, WebhookDraft, WebhookEndpoint, WebhookSecret},
    },
    webhooks::{Changed, Created, NewSecret, rewrap},
};

use super::{Stores, all_at_once, at, on_every_backend, ring};

on_every_backend![
    an_endpoint_reads_back_as_it_was_written,
    an_endpoint_of_an_unknown_tenant_is_refused,
    endpoints_are_listed_newest_first_and_only_the_tenants,
    the_sandbox_sees_its_own_endpoints_alone,
    however_many_race_a_tenant_has_no_more_endpoints_than_it_may,
    an_endpoint_is_written_only_over_what_was_read,
    a_rotated_secret_keeps_the_one_before_for_its_grace_and_no_older_one,
    another_tenants_endpoint_does_not_exist,
    a_deleted_endpoint_is_gone,
    every_secret_is_rewrapped_and_opens_as_before,
    a_secret_that_was_rotated_meanwhile_is_not_put_back,
];

/// With everything set.
pub(super) fn endpoint(tenant: TenantId) -> WebhookEndpoint {
    let draft = WebhookDraft {
        url: Some("https://hooks.example/voxgate?x=ü".replace('ü', "%C3%BC")),
        event_types: vec!["ai_session.*".into(), "lead.updated".into()],
        enabled: Some(false),
        description: Some("Zoë's hook\n🪝".into()),
    };
    made(tenant, &draft, false)
}

pub(super) fn plain(tenant: TenantId) -> WebhookEndpoint {
    let draft = WebhookDraft { url: Some("https://hooks.example/".into()), ..WebhookDraft::default() };
    made(tenant, &draft, false)
}

fn made(tenant: TenantId, draft: &WebhookDraft, sandbox: bool) -> WebhookEndpoint {
    let (endpoint, _) =
        WebhookEndpoint::create(&Env::system(), &ring(), tenant, sandbox, draft, MediaUrls::Public).expect("valid");
    WebhookEndpoint { created_at: at(0), updated_at: at(0), ..endpoint }
}

fn sealed(endpoint: &WebhookEndpoint) -> Sealed {
    let env = Env::system();
    WebhookSecret::mint(&env).sealed(&ring(), &env, endpoint.tenant, endpoint.id).expect("sealed")
}

pub(super) async fn created(stores: &Stores, endpoint: &WebhookEndpoint) {
    assert_eq!(stores.webhooks.create(endpoint).await.expect("written"), Created::Done);
}

pub(super) async fn read(stores: &Stores, id: WebhookEndpointId) -> Option<WebhookEndpoint> {
    stores.webhooks.get(id).await.expect("an answer")
}

async fn listed(stores: &Stores, tenant: TenantId, sandbox: bool) -> Vec<WebhookEndpoint> {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = stores.webhooks.list(tenant, sandbox, PageRequest { size: 2, after }).await.expect("a page");
        listed.extend(page.items);
        after = page.next;
        if after.is_none() {
            return listed;
        }
    }
}

async fn an_endpoint_reads_back_as_it_was_written(stores: &Stores) {
    let tenant = stores.tenant().await;
    let full = endpoint(tenant);
    let previous = Some(PreviousSecret { sealed: sealed(&full), expires_at: at(9) });
    let secrets = EndpointSecrets { previous, ..full.secrets.clone() };
    let full = WebhookEndpoint { secrets, sandbox: true, updated_at: at(7), ..full };
    for written in [plain(tenant), full] {
        created(stores, &written).await;
        assert_eq!(read(stores, written.id).await, Some(written));
    }
    assert_eq!(read(stores, WebhookEndpointId::new(&Env::system())).await, None);
}

async fn an_endpoint_of_an_unknown_tenant_is_refused(stores: &Stores) {
    let refused = stores.webhooks.create(&plain(TenantId::new(&Env::system()))).await;
    assert!(matches!(refused, Err(Error::NotFound { resource: Resource::Tenant, .. })), "{refused:?}");
}

async fn endpoints_are_listed_newest_first_and_only_the_tenants(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    created(stores, &plain(other)).await;
    let mut newest_first = Vec::new();
    for second in [0, 1, 1, 2, 3] {
        let endpoint = WebhookEndpoint { created_at: at(second), ..plain(tenant) };
        created(stores, &endpoint).await;
        newest_first.push(endpoint);
    }
    newest_first.sort_by_key(|endpoint| std::cmp::Reverse((endpoint.created_at, *endpoint.id.as_uuid())));
    assert_eq!(listed(stores, tenant, false).await, newest_first);
}

async fn the_sandbox_sees_its_own_endpoints_alone(stores: &Stores) {
    let tenant = stores.tenant().await;
    let (live, boxed) = (plain(tenant), WebhookEndpoint { sandbox: true, created_at: at(1), ..plain(tenant) });
    for endpoint in [&live, &boxed] {
        created(stores, endpoint).await;
    }
    assert_eq!(listed(stores, tenant, true).await, std::slice::from_ref(&boxed));
    assert_eq!(listed(stores, tenant, false).await, [boxed, live]);
}

async fn however_many_race_a_tenant_has_no_more_endpoints_than_it_may(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    let webhooks = stores.webhooks.clone();
    let racers = usize::from(ENDPOINTS_MAX) + 14;
    let outcomes = all_at_once(racers, |_| {
        let (webhooks, endpoint) = (webhooks.clone(), plain(tenant));
        async move { webhooks.create(&endpoint).await.expect("an answer") }
    })
    .await;
    let done = outcomes.iter().filter(|outcome| **outcome == Created::Done).count();
    assert_eq!((done, listed(stores, tenant, false).await.len()), (ENDPOINTS_MAX.into(), ENDPOINTS_MAX.into()));
    created(stores, &plain(other)).await;
}

async fn an_endpoint_is_written_only_over_what_was_read(stores: &Stores) {
    let first = plain(stores.tenant().await);
    created(stores, &first).await;
    let full =
        WebhookEndpoint { id: first.id, secrets: first.secrets.clone(), updated_at: at(1), ..endpoint(first.tenant) };
    // There and back: a field that is cleared must become absent.
    let back = WebhookEndpoint { updated_at: at(2), ..first.clone() };
    for (next, before) in [(&full, &first), (&back, &full)] {
        assert_eq!(stores.webhooks.update(next, before).await.expect("an answer"), Changed::Done);
        assert_eq!(read(stores, first.id).await.as_ref(), Some(next));
    }
    assert_eq!(stores.webhooks.update(&full, &first).await.expect("an answer"), Changed::Stale);
    assert_eq!(read(stores, first.id).await, Some(back));
}

async fn a_rotated_secret_keeps_the_one_before_for_its_grace_and_no_older_one(stores: &Stores) {
    let first = plain(stores.tenant().await);
    created(stores, &first).await;
    let secrets = [sealed(&first), sealed(&first), sealed(&first)];
    let rotate = async |sealed: &Sealed, expiry| {
        let secret = NewSecret { sealed: sealed.clone(), previous_expires_at: expiry, now: at(3) };
        stores.webhooks.rotate(first.tenant, first.id, secret).await.expect("an answer").expect("the endpoint")
    };
    rotate(&secrets[0], Some(at(5))).await;
    let second = rotate(&secrets[1], Some(at(6))).await;
    let previous = Some(PreviousSecret { sealed: secrets[0].clone(), expires_at: at(6) });
    let kept = EndpointSecrets { current: secrets[1].clone(), previous };
    assert_eq!(second, WebhookEndpoint { secrets: kept, updated_at: at(3), ..first.clone() });
    assert_eq!(read(stores, first.id).await, Some(second));
    let third = rotate(&secrets[2], None).await;
    assert_eq!(third.secrets, EndpointSecrets { current: secrets[2].clone(), previous: None });
    assert_eq!(read(stores, first.id).await, Some(third));
}

async fn another_tenants_endpoint_does_not_exist(stores: &Stores) {
    let (endpoint, other) = (plain(stores.tenant().await), stores.tenant().await);
    created(stores, &endpoint).await;
    let stolen = WebhookEndpoint { tenant: other, ..endpoint.clone() };
    assert_eq!(stores.webhooks.update(&stolen, &stolen).await.expect("an answer"), Changed::Stale);
    let secret = NewSecret { sealed: sealed(&endpoint), previous_expires_at: None, now: at(1) };
    assert_eq!(stores.webhooks.rotate(other, endpoint.id, secret).await.expect("an answer"), None);
    assert!(!stores.webhooks.delete(other, endpoint.id).await.expect("an answer"));
    assert_eq!(read(stores, endpoint.id).await, Some(endpoint));
}

async fn a_deleted_endpoint_is_gone(stores: &Stores) {
    let endpoint = plain(stores.tenant().await);
    created(stores, &endpoint).await;
    assert!(stores.webhooks.delete(endpoint.tenant, endpoint.id).await.expect("an answer"));
    assert!(!stores.webhooks.delete(endpoint.tenant, endpoint.id).await.expect("an answer"));
    assert_eq!(read(stores, endpoint.id).await, None);
}

fn newer_ring() -> KeyRing {
    let newer = format!("newer:{},{}", "A".repeat(43) + "=", crate::harness::server::KEY_RING);
    KeyRing::parse(&newer.into()).expect("a ring")
}

async fn every_secret_is_rewrapped_and_opens_as_before(stores: &Stores) {
    let (env, newer) = (Env::system(), newer_ring());
    let mut endpoints = Vec::new();
    for _ in 0..5 {
        let tenant = stores.tenant().await;
        for _ in 0..ENDPOINTS_MAX {
            let plain = plain(tenant);
            let previous = Some(PreviousSecret { sealed: sealed(&plain), expires_at: at(9) });
            let secrets = EndpointSecrets { previous, ..plain.secrets.clone() };
            let endpoint = WebhookEndpoint { secrets, ..plain };
            created(stores, &endpoint).await;
            endpoints.push(endpoint);
        }
    }
    let done = rewrap(stores.webhooks.as_ref(), &newer, &env).await.expect("rewrapped");
    assert_eq!(done, Rewrapped { rewrapped: 250, unopened: 0, done: true });
    assert_eq!(rewrap(stores.webhooks.as_ref(), &newer, &env).await.expect("nothing left").rewrapped, 0);
    for before in endpoints {
        let now = read(stores, before.id).await.expect("the endpoint");
        for (then, now) in before.secrets.valid_at(at(0)).zip(now.secrets.valid_at(at(0))) {
            let open = |ring: &KeyRing, sealed| WebhookSecret::open(ring, before.tenant, before.id, sealed);
            assert!(open(&ring(), now).is_err(), "it is under the newer key");
            let sign = |secret: WebhookSecret| secret.signature("evt", at(0), b"{}");
            assert_eq!(sign(open(&newer, now).expect("opened")), sign(open(&ring(), then).expect("opened")));
        }
        assert_eq!(now.secrets.valid_at(at(0)).count(), 2);
        assert_eq!(WebhookEndpoint { secrets: before.secrets.clone(), ..now }, before, "rewrapping is no change");
    }
}

async fn a_secret_that_was_rotated_meanwhile_is_not_put_back(stores: &Stores) {
    let endpoint = plain(stores.tenant().await);
    created(stores, &endpoint).await;
    let held = stores.webhooks.sealed_secrets(None, 10).await.expect("an answer");
    let held = held.into_iter().find(|held| held.endpoint == endpoint.id).expect("its secrets");
    let new = sealed(&endpoint);
    let expiry = Some(at(1).plus(Duration::from_secs(1)));
    let secret = NewSecret { sealed: new.clone(), previous_expires_at: expiry, now: at(1) };
    stores.webhooks.rotate(endpoint.tenant, endpoint.id, secret).await.expect("rotated");
    let other = EndpointSecrets { current: sealed(&endpoint), previous: None };
    assert!(!stores.webhooks.reseal(&held, &other).await.expect("an answer"));
    assert_eq!(read(stores, endpoint.id).await.expect("the endpoint").secrets.current, new);
}
