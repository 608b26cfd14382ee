//! What every `TenantStore` promises.

use std::collections::BTreeSet;

use voxgate::{
    domain::{
        Env, Error,
        error::Resource,
        hash::Sha256,
        ids::{ApiKeyId, TenantId},
        keyring::KeyRing,
        page::PageRequest,
        tenant::{ApiKey, ApiKeyDraft, Scopes, Tenant},
    },
    tenants::TokenKey,
};

use super::{Stores, all_at_once, at, on_every_backend, ring, tenant};

on_every_backend![
    a_tenant_reads_back_as_it_was_written,
    of_tenants_of_one_name_the_oldest_answers,
    a_key_is_found_by_its_hash_alone,
    a_key_is_found_by_its_id_for_operators,
    a_key_of_an_unknown_tenant_is_refused,
    keys_are_listed_newest_first_and_only_the_tenants,
    a_key_is_revoked_once,
    sixteen_replicas_share_one_token_key,
    a_token_key_is_rewrapped_once_and_stays_the_same,
];

fn key(tenant: TenantId) -> ApiKey {
    let draft = ApiKeyDraft {
        name: "Schlüssel 🔑".into(),
        scopes: vec!["slots:acquire".into(), "voice_agents:read".into()],
        ..ApiKeyDraft::default()
    };
    let (key, _) = ApiKey::mint(&Env::system(), tenant, &draft).expect("a valid key");
    ApiKey { created_at: at(0), ..key }
}

async fn a_tenant_reads_back_as_it_was_written(stores: &Stores) {
    let plain = tenant("Ada");
    let full = Tenant {
        default_ws_url: Some("wss://ai.example/ws".into()),
        max_concurrent: 1_000_000,
        updated_at: at(7),
        ..tenant("Zoë & 社")
    };
    for written in [plain, full] {
        stores.tenants.create(&written).await.expect("written");
        assert_eq!(stores.tenants.get(written.id).await.expect("an answer"), Some(written));
    }
    assert_eq!(stores.tenants.get(TenantId::new(&Env::system())).await.expect("an answer"), None);
}

async fn of_tenants_of_one_name_the_oldest_answers(stores: &Stores) {
    let newer = Tenant { created_at: at(5), ..tenant("Ada") };
    let oldest = tenant("Ada");
    for tenant in [&newer, &oldest] {
        stores.tenants.create(tenant).await.expect("written");
    }
    assert_eq!(stores.tenants.by_name("Ada").await.expect("an answer"), Some(oldest));
    for unknown in ["ada", "Ad", "", "Ada "] {
        assert_eq!(stores.tenants.by_name(unknown).await.expect("an answer"), None, "{unknown:?}");
    }
}

async fn a_key_is_found_by_its_hash_alone(stores: &Stores) {
    let tenant = stores.tenant().await;
    let plain = key(tenant);
    let full = ApiKey {
        scopes: Scopes::all(),
        sandbox: true,
        rate_limit_per_min: 100_000,
        expires_at: Some(at(1)),
        revoked_at: Some(at(2)),
        last_used_at: Some(at(3)),
        ..key(tenant)
    };
    for written in [plain, full] {
        stores.tenants.create_key(&written).await.expect("written");
        assert_eq!(stores.tenants.key_by_hash(written.hash).await.expect("an answer"), Some(written));
    }
    assert_eq!(stores.tenants.key_by_hash(Sha256::of("guess")).await.expect("an answer"), None);
}

async fn a_key_is_found_by_its_id_for_operators(stores: &Stores) {
    let written = key(stores.tenant().await);
    stores.tenants.create_key(&written).await.expect("written");
    assert_eq!(stores.tenants.key(written.id).await.expect("an answer"), Some(written.clone()));
    let unknown = key(written.tenant).id;
    assert_eq!(stores.tenants.key(unknown).await.expect("an answer"), None);
}

async fn a_key_of_an_unknown_tenant_is_refused(stores: &Stores) {
    let refused = stores.tenants.create_key(&key(TenantId::new(&Env::system()))).await;
    assert!(matches!(refused, Err(Error::NotFound { resource: Resource::Tenant, .. })), "{refused:?}");
}

async fn keys_are_listed_newest_first_and_only_the_tenants(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    stores.tenants.create_key(&key(other)).await.expect("written");
    let mut newest_first = Vec::new();
    for second in 0..5 {
        let key = ApiKey { created_at: at(second), ..key(tenant) };
        stores.tenants.create_key(&key).await.expect("written");
        newest_first.insert(0, key);
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = stores.tenants.keys(tenant, PageRequest { size: 2, after }).await.expect("a page");
        assert_eq!(page.total_size, 5);
        listed.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, newest_first);
}

async fn a_key_is_revoked_once(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    let key = key(tenant);
    stores.tenants.create_key(&key).await.expect("written");
    assert_eq!(stores.tenants.revoke_key(other, key.id, at(4)).await.expect("an answer"), None);
    assert_eq!(stores.tenants.key_by_hash(key.hash).await.expect("an answer"), Some(key.clone()));
    let revoked = ApiKey { revoked_at: Some(at(5)), ..key.clone() };
    for moment in [at(5), at(6)] {
        let answer = stores.tenants.revoke_key(tenant, key.id, moment).await.expect("an answer");
        assert_eq!(answer, Some(revoked.clone()));
    }
    let unknown = ApiKeyId::new(&Env::system());
    assert_eq!(stores.tenants.revoke_key(tenant, unknown, at(5)).await.expect("an answer"), None);
}

async fn sixteen_replicas_share_one_token_key(stores: &Stores) {
    assert_eq!(stores.tenants.kept_token_key().await.expect("an answer"), None);
    let answers = all_at_once(16, |task| {
        let tenants = stores.tenants.clone();
        async move {
            let env = Env::system();
            let proposed = TokenKey { kid: format!("key-{task}"), secret: env.bytes::<32>().to_vec() };
            let sealed = proposed.sealed(&ring(), &env).expect("sealed");
            let kept = tenants.token_key(&sealed).await.expect("an answer").open(&ring()).expect("opened");
            (kept.kid, kept.secret)
        }
    })
    .await;
    assert_eq!(answers.iter().cloned().collect::<BTreeSet<_>>().len(), 1);
    let late = TokenKey { kid: "late".into(), secret: vec![0; 32] };
    let late = late.sealed(&ring(), &Env::system()).expect("sealed");
    let kept = stores.tenants.token_key(&late).await.expect("an answer").open(&ring()).expect("opened");
    assert_eq!((kept.kid, kept.secret), answers[0]);
}

async fn a_token_key_is_rewrapped_once_and_stays_the_same(stores: &Stores) {
    let (env, old) = (Env::system(), ring());
    let key = TokenKey::generate(&env);
    let kept = stores.tenants.token_key(&key.sealed(&old, &env).expect("sealed")).await.expect("an answer");
    let newer = format!("newer:{},{}", "A".repeat(43) + "=", crate::harness::server::KEY_RING);
    let newer = KeyRing::parse(&newer.into()).expect("a ring");
    let sealed = kept.rewrapped(&newer, &env).expect("opened").expect("another key");
    assert!(stores.tenants.reseal_token_key(&kept, &sealed).await.expect("an answer"));
    assert!(!stores.tenants.reseal_token_key(&kept, &sealed).await.expect("an answer"), "it is another by now");
    let now = stores.tenants.kept_token_key().await.expect("an answer").expect("kept");
    assert!(now.open(&old).is_err(), "the old ring lacks the newer key");
    assert_eq!(now.open(&newer).expect("opened"), key);
}
