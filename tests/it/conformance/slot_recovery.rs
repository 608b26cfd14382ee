//! Invariant 8 of admission, on every back-end: what a slot store has lost comes back by its holders.

use voxgate::domain::{
    Error,
    lease::{Acquire, Acquired, Direction, Lease, Limits, Opening, Proven, Renewed},
    lease_token::LeaseClaim,
};

use super::{
    slot_fixture::{Caller, Fixture, Memory, Redis, call, is_about, limit, secs, steady},
    slot_store::on_every_back_end,
};

on_every_back_end! {
    after_a_loss_new_calls_are_refused_for_the_longest_lease_that_was_given,
    a_lost_lease_comes_back_as_it_was,
    leases_come_back_even_above_the_limit,
    a_lease_that_runs_out_while_others_come_back_is_lost_and_not_missing,
    a_lease_that_was_released_while_it_was_missing_does_not_come_back,
    what_was_not_lost_is_not_readmitted,
    whatever_asks_first_notices_the_loss,
    an_agents_fence_never_falls_behind_a_lease_that_came_back,
    a_tenant_that_was_idle_begins_afresh,
    who_has_seen_what_is_gone_corrects_who_has_not,
    one_tenants_recovery_is_not_anothers,
    fates_tell_what_a_renewal_would_and_change_nothing,
    the_live_leases_of_a_tenant_are_told,
}

fn proven(lease: &Lease, direction: Direction, ttl_s: u64) -> Proven {
    let claim = LeaseClaim { lease: lease.id, session: lease.session, fence: lease.fence, direction, sandbox: false };
    Proven { call: lease.call.clone(), claim, ttl: secs(ttl_s) }
}

pub(super) fn inbound(lease: &Lease, ttl_s: u64) -> Proven {
    proven(lease, Direction::Inbound, ttl_s)
}

pub(super) async fn readmit(caller: &Caller, leases: &[Proven]) -> Vec<Renewed> {
    caller.store.readmit(caller.tenant, leases).await.expect("readmit")
}

/// The seconds that are left of the recovery.
pub(super) async fn refused(caller: &Caller, request: &Acquire) -> u64 {
    match caller.store.acquire(caller.tenant, request).await {
        Err(Error::Recovering { left }) => left.as_millis().div_ceil(1_000).try_into().expect("few"),
        other => panic!("expected a recovery, got {other:?}"),
    }
}

async fn after_a_loss_new_calls_are_refused_for_the_longest_lease_that_was_given(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let ask = |name: &str, ttl_s| Acquire { ttl: secs(ttl_s), ..caller.ask(agent, name) };
    caller.grant(&ask("a", 90)).await;
    caller.grant(&ask("b", 20)).await;
    fixture.lose_everything();
    assert!((88..=90).contains(&refused(&caller, &ask("c", 10)).await));
    let probe = caller.store.probe(caller.tenant, &ask("c", 10)).await;
    assert!(matches!(probe, Err(Error::Recovering { .. })), "{probe:?}");
    fixture.advance(secs(80));
    assert!((8..=10).contains(&refused(&caller, &ask("a", 10)).await), "its lease is not back");
    fixture.advance(secs(10));
    caller.grant(&ask("c", 10)).await;
    caller.grant(&ask("a", 10)).await;
}

async fn a_lost_lease_comes_back_as_it_was(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let lease = caller.grant(&caller.ask(agent, "in")).await;
    let outbound = Acquire { direction: Direction::Outbound, ..caller.ask(agent, "out") };
    let other = caller.grant(&outbound).await;
    fixture.lose_everything();
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Missing);
    let fates = readmit(&caller, &[inbound(&lease, 30), proven(&other, Direction::Outbound, 60)]).await;
    assert!(fates.iter().all(|fate| matches!(fate, Renewed::Readmitted { .. })), "{fates:?}");
    let back = caller.leases(&[call("in"), call("out")]).await;
    for (back, before) in back.iter().zip([&lease, &other]) {
        let back = back.as_ref().expect("it is back");
        assert_eq!((back.id, back.session, back.fence), (before.id, before.session, before.fence));
    }
    let usage = caller.usage(agent).await;
    assert_eq!((usage.used, usage.used_outbound, caller.tenant_used().await), (2, 1, 2));
    // The same call again is answered it, although new ones are refused.
    assert_eq!(caller.existing(&outbound).await.id, other.id);
    refused(&caller, &caller.ask(agent, "new")).await;
    // From now on it is a lease like any other.
    assert!(matches!(caller.renew(&lease, 60).await, Renewed::Renewed { .. }));
    assert!(matches!(readmit(&caller, &[inbound(&lease, 60)]).await[..], [Renewed::Renewed { .. }]));
    assert!(caller.release(&lease).await.released);
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Released);
    assert_eq!(caller.usage(agent).await.used, 1);
}

async fn leases_come_back_even_above_the_limit(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let mut leases = Vec::new();
    for name in ["a", "b", "c"] {
        leases.push(caller.grant(&caller.ask(agent, name)).await);
    }
    fixture.lose_everything();
    let lowered = Limits { agent_version: 2, ..limit(2) };
    let ask = Acquire { limits: lowered, ..caller.ask(agent, "d") };
    refused(&caller, &ask).await;
    let all: Vec<_> = leases.iter().map(|lease| inbound(lease, 120)).collect();
    readmit(&caller, &all).await;
    assert_eq!(caller.usage(agent).await.used, 3);
    fixture.advance(secs(60));
    let denial = caller.denial(&ask).await;
    assert_eq!((denial.usage.used, denial.usage.limit), (3, 2));
    for lease in &leases[..2] {
        assert!(caller.release(lease).await.released);
    }
    caller.grant(&ask).await;
}

async fn a_lease_that_runs_out_while_others_come_back_is_lost_and_not_missing(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let lease = caller.grant(&Acquire { ttl: secs(300), ..caller.ask(agent, "a") }).await;
    fixture.lose_everything();
    assert_eq!(caller.renew(&lease, 10).await, Renewed::Missing);
    readmit(&caller, &[inbound(&lease, 10)]).await;
    fixture.advance(secs(10));
    // However many others come, none of which may take its record away.
    for n in 0..100 {
        refused(&caller, &caller.ask(agent, &format!("call-{n}"))).await;
        assert_eq!(caller.renew(&lease, 10).await, Renewed::Lost);
    }
    assert_eq!(readmit(&caller, &[inbound(&lease, 10)]).await, [Renewed::Lost]);
    assert_eq!(caller.usage(agent).await.used, 0);
}

async fn a_lease_that_was_released_while_it_was_missing_does_not_come_back(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let lease = caller.grant(&caller.ask(caller.agent(), "a")).await;
    fixture.lose_everything();
    assert!(!caller.release(&lease).await.released, "there was nothing to free");
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Released);
    assert_eq!(readmit(&caller, &[inbound(&lease, 60)]).await, [Renewed::Released]);
    assert_eq!(caller.tenant_used().await, 0);
}

async fn what_was_not_lost_is_not_readmitted(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let former = caller.grant(&caller.ask(agent, "a")).await;
    fixture.advance(secs(60));
    assert_eq!(readmit(&caller, &[inbound(&former, 60)]).await, [Renewed::Lost]);
    let current = caller.grant(&caller.ask(agent, "a")).await;
    assert_eq!(readmit(&caller, &[inbound(&former, 60)]).await, [Renewed::Lost]);
    fixture.lose_everything();
    assert_eq!(caller.renew(&current, 60).await, Renewed::Missing);
    readmit(&caller, &[inbound(&current, 60)]).await;
    assert_eq!(readmit(&caller, &[inbound(&former, 60)]).await, [Renewed::Lost], "the call has a newer one");
    assert_eq!(caller.usage(agent).await.used, 1);
}

async fn whatever_asks_first_notices_the_loss(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let lease = caller.grant(&caller.ask(agent, "a")).await;
    let again = caller.ask(agent, "new");
    for _ in 0..2 {
        fixture.lose_everything();
        let fates = caller.store.fates(caller.tenant, &[(lease.call.clone(), lease.id)]).await.expect("fates");
        assert_eq!(fates, [Renewed::Missing]);
        refused(&caller, &again).await;
        fixture.lose_everything();
        caller.release(&lease).await;
        refused(&caller, &again).await;
        fixture.lose_everything();
        let probe = caller.store.probe(caller.tenant, &again).await;
        assert!(matches!(probe, Err(Error::Recovering { .. })), "{probe:?}");
        fixture.lose_everything();
        let back = readmit(&caller, &[inbound(&lease, 60)]).await;
        assert!(matches!(back[..], [Renewed::Readmitted { .. }]), "{back:?}");
        refused(&caller, &again).await;
    }
}

async fn an_agents_fence_never_falls_behind_a_lease_that_came_back(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let lease = caller.grant(&caller.ask(agent, "a")).await;
    fixture.lose_everything();
    fixture.rewind(secs(3_600));
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Missing);
    readmit(&caller, &[inbound(&lease, 300)]).await;
    fixture.advance(secs(60));
    let next = caller.grant(&caller.ask(agent, "b")).await;
    assert!(next.fence > lease.fence, "{} came after {}", next.fence, lease.fence);
}

async fn a_tenant_that_was_idle_begins_afresh(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    for round in 0..3 {
        let lease = caller.grant(&caller.ask(agent, &format!("call-{round}"))).await;
        if round == 1 {
            caller.release(&lease).await;
        }
        fixture.advance(secs(720));
        assert_eq!(caller.renew(&lease, 60).await, Renewed::Lost, "nothing is missing");
    }
}

async fn who_has_seen_what_is_gone_corrects_who_has_not(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let recovering = |witnessed| Opening::Recovering { span: secs(30), witnessed };
    let open = async |opening| caller.store.open(caller.tenant, opening).await.expect("open");
    open(Opening::Fresh).await;
    open(recovering(false)).await;
    let lease = caller.grant(&caller.ask(agent, "a")).await;
    open(recovering(true)).await;
    assert!((28..=30).contains(&refused(&caller, &caller.ask(agent, "b")).await));
    assert_eq!(caller.existing(&caller.ask(agent, "a")).await.id, lease.id, "what was granted meanwhile stays");
    fixture.advance(secs(29));
    open(recovering(true)).await;
    fixture.advance(secs(1));
    caller.grant(&caller.ask(agent, "b")).await;
    open(recovering(true)).await;
    caller.grant(&caller.ask(agent, "c")).await;
}

async fn one_tenants_recovery_is_not_anothers(fixture: &impl Fixture) {
    let ours = Caller::of(fixture.store());
    let theirs = Caller::of(fixture.store());
    ours.grant(&ours.ask(ours.agent(), "a")).await;
    fixture.lose_everything();
    refused(&ours, &ours.ask(ours.agent(), "b")).await;
    theirs.grant(&theirs.ask(theirs.agent(), "a")).await;
}

async fn fates_tell_what_a_renewal_would_and_change_nothing(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let live = caller.grant(&caller.ask(agent, "live")).await;
    let over = caller.grant(&Acquire { ttl: secs(10), ..caller.ask(agent, "over") }).await;
    let released = caller.grant(&caller.ask(agent, "released")).await;
    caller.release(&released).await;
    fixture.advance(secs(10));
    let named: Vec<_> = [&live, &over, &released].map(|lease| (lease.call.clone(), lease.id)).into();
    for _ in 0..2 {
        let fates = caller.store.fates(caller.tenant, &named).await.expect("fates");
        let Renewed::Renewed { expires_at } = fates[0] else { panic!("{fates:?}") };
        assert!(is_about(expires_at, live.expires_at), "{expires_at} is not {}", live.expires_at);
        assert_eq!(fates[1..], [Renewed::Lost, Renewed::Released]);
    }
}

async fn the_live_leases_of_a_tenant_are_told(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let limits = limit(5_000);
    let mut granted = Vec::new();
    for n in 0..1_100 {
        granted.push(caller.grant(&Acquire { limits, ..caller.ask(agent, &format!("call-{n}")) }).await.id);
    }
    let over = caller.grant(&Acquire { limits, ttl: secs(10), ..caller.ask(agent, "over") }).await;
    let released = granted.pop().expect("some");
    caller.store.release(caller.tenant, &call("call-1099"), released).await.expect("released");
    fixture.advance(secs(10));
    let told = caller.store.live(caller.tenant, 5_000).await.expect("an answer");
    assert_eq!(told.len(), granted.len());
    assert!(granted.iter().all(|id| told.iter().any(|lease| lease.id == *id && lease.id != over.id)));
    assert_eq!(caller.store.live(caller.tenant, 1_050).await.expect("an answer").len(), 1_050);
    assert!(caller.store.live(Caller::of(fixture.store()).tenant, 10).await.expect("an answer").is_empty());
}

/// Two replicas on one Redis that nobody told of each other.
#[tokio::test]
async fn a_replica_that_never_saw_the_tenant_recovers_it_if_the_database_knows_its_calls() {
    use std::{sync::Arc, time::Duration};

    use voxgate::{
        admission::{LiveCalls, MemorySlotStore, SteadySlots},
        domain::{Result, clock::SystemClock, ids::TenantId},
    };

    /// A database with one live call, or one that cannot be reached.
    #[derive(Debug)]
    struct Told(Option<Duration>);

    #[async_trait::async_trait]
    impl LiveCalls for Told {
        async fn longest_lease(&self, _: TenantId) -> Result<Option<Duration>> {
            let away = || Error::unavailable(voxgate::domain::error::Dependency::Database, "away");
            self.0.map(Some).ok_or_else(away)
        }
    }

    for (told, expected) in [(Some(secs(120)), 120), (Some(secs(5)), 10), (None, 60)] {
        let ledgers = Arc::new(MemorySlotStore::new(Arc::new(SystemClock)));
        let store = Arc::new(SteadySlots::new(ledgers.clone(), Arc::new(Told(told)), Arc::new(SystemClock)));
        let caller = Caller::of(store);
        let left = refused(&caller, &caller.ask(caller.agent(), "a")).await;
        assert!((expected - 2..=expected).contains(&left), "{left} of {expected}");
    }
    let ledgers = Arc::new(MemorySlotStore::new(Arc::new(SystemClock)));
    let caller = Caller::of(steady(ledgers, Arc::new(SystemClock)));
    assert!(matches!(caller.acquire(&caller.ask(caller.agent(), "a")).await, Acquired::Granted { .. }));
}
