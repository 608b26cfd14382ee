//! What every `TenantStore` promises.

use std::{collections::BTreeSet, time::Duration};

use voxgate::{
    domain::{
        Env, Error, Timestamp,
        destination::{DestinationPolicy, DestinationPolicyDraft, NumberClass},
        error::Resource,
        hash::Sha256,
        ids::{ApiKeyId, TenantId},
        keyring::KeyRing,
        page::PageRequest,
        tenant::{ApiKey, ApiKeyDraft, PreviousSecret, Scopes, Tenant},
        voice_agent::{Status, VoiceAgent},
    },
    tenants::{Changed, Revocation, Rotation, TokenKey},
};

use super::{Stores, all_at_once, at, on_every_backend, ring, tenant};

on_every_backend![
    a_tenant_reads_back_as_it_was_written,
    of_tenants_of_one_name_the_oldest_answers,
    a_key_is_found_by_its_hash_alone,
    a_key_is_found_by_its_id_for_operators,
    a_key_of_an_unknown_tenant_is_refused,
    keys_are_listed_newest_first_and_only_the_tenants,
    tenants_are_listed_newest_first_page_by_page,
    a_tenant_is_written_only_over_what_was_read,
    a_deleted_default_agent_is_not_pinned_again_by_a_change_that_was_read_before,
    a_default_agent_is_the_tenants_own_and_not_archived,
    a_key_is_revoked_once,
    a_rotated_key_is_found_by_its_secret_and_by_the_one_before_alone,
    a_rotation_without_grace_leaves_no_other_secret,
    a_key_that_opens_nothing_is_not_rotated,
    of_64_rotations_at_once_each_is_carried_out_after_another,
    the_last_use_of_keys_is_noted_in_one_batch_and_never_goes_back,
    sixteen_replicas_share_one_token_key,
    a_token_key_is_rewrapped_once_and_stays_the_same,
    revocations_are_told_to_everyone_while_they_matter,
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
    let policy = DestinationPolicyDraft {
        e164_allow_prefixes: vec!["+49".into()],
        e164_deny_prefixes: vec!["+4930".into(), "+1".into()],
        deny_classes: NumberClass::ALL.iter().copied().map(Some).collect(),
        sip_allow_hosts: vec!["*.trunk.example".into(), "[2001:db8::1]".into()],
    };
    let full = Tenant {
        destination_policy: Some(DestinationPolicy::parse(policy).expect("valid rules")),
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
        previous: Some(PreviousSecret { hash: Sha256::of("before"), expires_at: at(4) }),
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

async fn tenants_are_listed_newest_first_page_by_page(stores: &Stores) {
    let mut newest_first = Vec::new();
    for second in [0, 1, 1, 2, 3] {
        let tenant = Tenant { created_at: at(second), ..tenant("Ada") };
        stores.tenants.create(&tenant).await.expect("written");
        newest_first.push(tenant);
    }
    newest_first.sort_by_key(|tenant| std::cmp::Reverse((tenant.created_at, *tenant.id.as_uuid())));
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = stores.tenants.list(PageRequest { size: 2, after }).await.expect("a page");
        assert_eq!(page.total_size, 5);
        listed.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, newest_first);
}

async fn a_tenant_is_written_only_over_what_was_read(stores: &Stores) {
    let read = Tenant {
        default_ws_url: Some("wss://ai.example/ws".into()),
        destination_policy: Some(DestinationPolicy::default()),
        ..tenant("Ada")
    };
    stores.tenants.create(&read).await.expect("written");
    let first = Tenant { name: "Bea".into(), default_ws_url: None, updated_at: at(1), ..read.clone() };
    let second = Tenant { max_concurrent: 7, destination_policy: None, updated_at: at(2), ..read.clone() };
    let update = async |tenant: &Tenant, read: &Tenant| stores.tenants.update(tenant, read, None).await;
    assert_eq!(update(&first, &read).await.expect("an answer"), Changed::Done);
    assert_eq!(update(&second, &read).await.expect("an answer"), Changed::Stale);
    assert_eq!(stores.tenants.get(read.id).await.expect("an answer"), Some(first.clone()), "absent means cleared");
    let both = Tenant { max_concurrent: 7, destination_policy: None, updated_at: at(2), ..first.clone() };
    assert_eq!(update(&both, &first).await.expect("an answer"), Changed::Done);
    assert_eq!(stores.tenants.get(read.id).await.expect("an answer"), Some(both.clone()));
    let unknown = tenant("Ada");
    assert_eq!(update(&unknown, &unknown).await.expect("an answer"), Changed::Stale);
}

async fn a_deleted_default_agent_is_not_pinned_again_by_a_change_that_was_read_before(stores: &Stores) {
    let tenant = stores.tenant().await;
    let agent = stores.agent(tenant).await;
    stores.agents.set_default(tenant, Some(agent.id), at(0)).await.expect("pinned");
    let read = stores.tenants.get(tenant).await.expect("an answer").expect("the tenant");
    assert!(read.updated_at > at(0), "a change is later than the one before, whatever the clock says");
    stores.agents.delete(tenant, agent.id, agent.revision).await.expect("deleted");
    let renamed = Tenant { name: "Bea".into(), updated_at: at(9), ..read.clone() };
    assert_eq!(stores.tenants.update(&renamed, &read, None).await.expect("an answer"), Changed::Stale);
    assert_eq!(stores.agents.fallback(tenant).await.expect("an answer").voice_agent, None);
}

async fn a_default_agent_is_the_tenants_own_and_not_archived(stores: &Stores) {
    let (id, other) = (stores.tenant().await, stores.tenant().await);
    let (own, foreign) = (stores.agent(id).await, stores.agent(other).await);
    let read = stores.tenants.get(id).await.expect("an answer").expect("the tenant");
    let pin = async |agent| {
        let pinned = Tenant { default_voice_agent_id: Some(agent), updated_at: at(1), ..read.clone() };
        stores.tenants.update(&pinned, &read, Some(agent)).await
    };
    let refused = pin(foreign.id).await;
    assert!(matches!(refused, Err(Error::NotFound { resource: Resource::VoiceAgent, .. })), "{refused:?}");
    let archived = VoiceAgent { status: Status::Archived, revision: own.revision + 1, ..own.clone() };
    stores.agents.update(id, &archived).await.expect("archived");
    let refused = pin(own.id).await;
    assert!(matches!(refused, Err(Error::VoiceAgentArchived { .. })), "{refused:?}");
    let paused = VoiceAgent { status: Status::Paused, revision: own.revision + 2, ..own.clone() };
    stores.agents.update(id, &paused).await.expect("paused");
    assert_eq!(pin(own.id).await.expect("an answer"), Changed::Done);
    assert_eq!(stores.agents.fallback(id).await.expect("an answer").voice_agent, Some(own.id));
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

fn rotation(secret: &str, previous_expires_at: Option<Timestamp>) -> Rotation {
    Rotation { hash: Sha256::of(secret), prefix: format!("vg_live_{secret}"), previous_expires_at, now: at(0) }
}

async fn a_rotated_key_is_found_by_its_secret_and_by_the_one_before_alone(stores: &Stores) {
    let (tenant, other) = (stores.tenant().await, stores.tenant().await);
    let (written, bystander) = (key(tenant), key(tenant));
    for key in [&written, &bystander] {
        stores.tenants.create_key(key).await.expect("written");
    }
    let rotate = async |of, rotation| stores.tenants.rotate_key(of, written.id, rotation).await.expect("an answer");
    let found = async |hash| stores.tenants.key_by_hash(hash).await.expect("an answer");
    assert_eq!(rotate(other, rotation("x", Some(at(9)))).await, None);
    let mut before = written.clone();
    for (secret, grace_end) in [("one", at(10)), ("two", at(20))] {
        let rotated = rotate(tenant, rotation(secret, Some(grace_end))).await.expect("rotated");
        let expected = ApiKey {
            hash: Sha256::of(secret),
            prefix: format!("vg_live_{secret}"),
            previous: Some(PreviousSecret { hash: before.hash, expires_at: grace_end }),
            ..before.clone()
        };
        assert_eq!(rotated, expected);
        assert_eq!(found(rotated.hash).await, Some(rotated.clone()));
        assert_eq!(found(before.hash).await, Some(rotated.clone()));
        before = rotated;
    }
    assert_eq!(found(written.hash).await, None, "a still older one is gone");
    assert_eq!(found(bystander.hash).await, Some(bystander));
}

async fn a_rotation_without_grace_leaves_no_other_secret(stores: &Stores) {
    let written = key(stores.tenant().await);
    stores.tenants.create_key(&written).await.expect("written");
    let rotate = async |rotation| {
        let rotated = stores.tenants.rotate_key(written.tenant, written.id, rotation).await.expect("an answer");
        rotated.expect("rotated")
    };
    let graced = rotate(rotation("one", Some(at(10)))).await;
    let rotated = rotate(rotation("two", None)).await;
    assert_eq!(rotated.previous, None);
    for gone in [written.hash, graced.hash] {
        assert_eq!(stores.tenants.key_by_hash(gone).await.expect("an answer"), None);
    }
}

async fn a_key_that_opens_nothing_is_not_rotated(stores: &Stores) {
    let tenant = stores.tenant().await;
    let revoked = ApiKey { revoked_at: Some(at(0)), ..key(tenant) };
    let expired = ApiKey { expires_at: Some(at(0)), ..key(tenant) };
    let later = ApiKey { expires_at: Some(at(1)), ..key(tenant) };
    for key in [&revoked, &expired, &later] {
        stores.tenants.create_key(key).await.expect("written");
    }
    for dead in [revoked, expired] {
        let answer = stores.tenants.rotate_key(tenant, dead.id, rotation("x", Some(at(9)))).await.expect("an answer");
        assert_eq!(answer, None);
        assert_eq!(stores.tenants.key(dead.id).await.expect("an answer"), Some(dead));
    }
    let rotated = stores.tenants.rotate_key(tenant, later.id, rotation("x", None)).await.expect("an answer");
    assert!(rotated.is_some());
}

async fn of_64_rotations_at_once_each_is_carried_out_after_another(stores: &Stores) {
    let written = key(stores.tenant().await);
    stores.tenants.create_key(&written).await.expect("written");
    let rotated = all_at_once(64, |task| {
        let (tenants, of) = (stores.tenants.clone(), (written.tenant, written.id));
        async move {
            let rotation = rotation(&format!("secret-{task}"), Some(at(9)));
            tenants.rotate_key(of.0, of.1, rotation).await.expect("an answer").expect("rotated")
        }
    })
    .await;
    let kept = stores.tenants.key(written.id).await.expect("an answer").expect("the key");
    let before: BTreeSet<_> =
        rotated.iter().map(|key| *key.previous.expect("there was one before").hash.as_bytes()).collect();
    assert_eq!(before.len(), 64, "each took another one's place");
    assert!(before.contains(written.hash.as_bytes()) && !before.contains(kept.hash.as_bytes()));
    for key in rotated {
        let found = stores.tenants.key_by_hash(key.hash).await.expect("an answer");
        let is_kept = key.hash == kept.hash || Some(key.hash) == kept.previous.map(|previous| previous.hash);
        assert_eq!(found.is_some(), is_kept);
    }
}

async fn the_last_use_of_keys_is_noted_in_one_batch_and_never_goes_back(stores: &Stores) {
    let (one, other) = (key(stores.tenant().await), key(stores.tenant().await));
    let unused = key(one.tenant);
    for key in [&one, &other, &unused] {
        stores.tenants.create_key(key).await.expect("written");
    }
    let both = [(one.tenant, one.id), (other.tenant, other.id)];
    let last_use =
        async |key: &ApiKey| stores.tenants.key(key.id).await.expect("an answer").expect("the key").last_used_at;
    stores.tenants.keys_used(&both[..1], at(60)).await.expect("noted");
    assert_eq!((last_use(&one).await, last_use(&other).await), (Some(at(60)), None));
    stores.tenants.keys_used(&both, at(0)).await.expect("noted");
    assert_eq!((last_use(&one).await, last_use(&other).await), (Some(at(60)), Some(at(0))));
    stores.tenants.keys_used(&both, at(120)).await.expect("noted");
    assert_eq!((last_use(&one).await, last_use(&other).await), (Some(at(120)), Some(at(120))));
    stores.tenants.keys_used(&[], at(180)).await.expect("nothing to note");
    assert_eq!(last_use(&unused).await, None);
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

async fn revocations_are_told_to_everyone_while_they_matter(stores: &Stores) {
    let env = Env::system();
    let (tenant, hour) = (stores.tenant().await, Duration::from_hours(1));
    let revocation = |sandbox, until| Revocation { tenant, jti: env.uuid(), sandbox, until };
    let (live, sandbox) = (revocation(false, env.now().plus(hour)), revocation(true, env.now().plus(hour)));
    let over = revocation(false, env.now().minus(hour));
    for each in [&live, &live, &sandbox, &over] {
        stores.tenants.revoke_token(each).await.expect("an answer");
    }
    // Ids of one millisecond come in any order.
    let sorted = |mut all: Vec<Revocation>| {
        all.sort_by_key(|revocation| revocation.jti);
        all
    };
    let told = async |only_new| {
        let mut all = stores.tenants.revocations(only_new).await.expect("an answer");
        all.retain(|revocation| revocation.tenant == tenant && revocation.jti != over.jti);
        sorted(all)
    };
    assert_eq!(told(true).await, sorted(vec![live, sandbox]));
    assert_eq!(told(false).await, sorted(vec![live, sandbox]));
    let all = stores.tenants.revocations(false).await.expect("an answer");
    assert!(!all.contains(&over), "one that is over matters to nobody");
    // A live key's word counts on both sides, whichever came first.
    let wider = Revocation { sandbox: false, ..sandbox };
    stores.tenants.revoke_token(&wider).await.expect("an answer");
    stores.tenants.revoke_token(&Revocation { sandbox: true, ..live }).await.expect("an answer");
    assert_eq!(told(false).await, sorted(vec![live, wider]));
}
