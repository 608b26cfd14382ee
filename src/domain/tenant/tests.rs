//! What holds for tenants and keys whatever the store.

use std::sync::Arc;

use super::*;
use crate::domain::clock::{Clock as _, ManualClock, SystemEntropy};

#[test]
fn a_key_reads_back_and_a_mistyped_one_does_not() {
    let secret = KeySecret::mint(&Env::system(), true);
    let text = secret.reveal().to_owned();
    assert_eq!(KeySecret::parse(&text).expect("own text").hash(), secret.hash());
    let mistyped = if text.ends_with('0') {
        text[..text.len() - 1].to_owned() + "1"
    } else {
        text[..text.len() - 1].to_owned() + "0"
    };
    for wrong in [mistyped.as_str(), "", "vg_live_", "vg_cb_x", &text.to_uppercase(), &"é".repeat(36)] {
        assert!(KeySecret::parse(wrong).is_none(), "{wrong:?}");
    }
    assert!(!format!("{secret:?}").contains(&text[16..]));
}

fn rotated_key(grace: Duration) -> (ApiKey, [KeySecret; 3], Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
    let env = Env { clock: clock.clone(), entropy: Arc::new(SystemEntropy) };
    let draft = ApiKeyDraft { name: "k".into(), ..ApiKeyDraft::default() };
    let (key, oldest) = ApiKey::mint(&env, TenantId::new(&env), &draft).expect("valid");
    let [old, current] = [false; 2].map(|sandbox| KeySecret::mint(&env, sandbox));
    let previous = Some(PreviousSecret { hash: old.hash(), expires_at: env.now().plus(grace) });
    (ApiKey { hash: current.hash(), previous, ..key }, [oldest, old, current], clock)
}

#[test]
fn the_secret_before_the_last_works_until_its_grace_ends_and_an_older_one_not_at_all() {
    let (key, [oldest, old, current], clock) = rotated_key(Duration::from_hours(24));
    let check = |secret: &KeySecret| key.check(secret.hash(), clock.now());
    assert_eq!((check(&current), check(&old)), (Ok(()), Ok(())));
    assert_eq!(check(&oldest), Err(CredentialFault::Invalid));
    clock.advance(Duration::from_hours(24) - Duration::from_micros(1));
    assert_eq!((check(&current), check(&old)), (Ok(()), Ok(())));
    clock.advance(Duration::from_micros(1));
    assert_eq!((check(&current), check(&old)), (Ok(()), Err(CredentialFault::Expired)));
}

#[test]
fn a_revoked_or_expired_key_opens_nothing_by_either_secret() {
    let (key, [_, old, current], clock) = rotated_key(Duration::from_hours(24));
    let revoked = ApiKey { revoked_at: Some(clock.now()), ..key.clone() };
    let expired = ApiKey { expires_at: Some(clock.now()), ..key };
    for secret in [old, current] {
        assert_eq!(revoked.check(secret.hash(), clock.now()), Err(CredentialFault::Invalid));
        assert_eq!(expired.check(secret.hash(), clock.now()), Err(CredentialFault::Expired));
    }
}

#[test]
fn every_change_of_a_tenant_is_later_than_the_one_before_whatever_the_clock_says() {
    let (env, name) = (Env::system(), || TenantDraft { name: Some("Ada".into()), ..TenantDraft::default() });
    let tenant = Tenant::create(&env, name()).expect("valid");
    let before = tenant.updated_at.minus(Duration::from_hours(1));
    let patched = tenant.patched(&name(), &[TenantField::Name], before).expect("valid");
    assert!(patched.updated_at > tenant.updated_at && patched.created_at == tenant.created_at);
}

#[test]
fn every_unknown_scope_is_named() {
    let faults = Scopes::parse(["voice_agents:read", "x", "y"]).expect_err("two unknown");
    assert_eq!(faults.iter().map(|v| v.field.clone()).collect::<Vec<_>>(), ["scopes[1]", "scopes[2]"]);
}
