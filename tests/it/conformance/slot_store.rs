//! Invariants 1 to 7 of admission, on every back-end.

use std::time::Duration;

use futures_util::future::join_all;
use voxgate::domain::{
    Error,
    clock::ManualClock,
    ids::LeaseId,
    journal::Ending,
    lease::{Acquire, Acquired, BindingScope, Direction, Lease, Limits, Renewal, Renewed, Usage},
    session::Outcome,
};

use super::slot_fixture::{Caller, Fixture, Memory, Redis, call, is_about, limit, renewal, secs, ticket};

/// Runs each test on each back-end, as `slot_store::<back-end>::<test>`.
macro_rules! on_every_back_end {
    ($($test:ident,)+) => {
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(&<super::Redis as super::Fixture>::start()).await;
            })+
        }

        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(&<super::Memory as super::Fixture>::start()).await;
            })+
        }
    };
}
pub(super) use on_every_back_end;

on_every_back_end! {
    of_500_racers_for_7_slots_exactly_7_win,
    racers_of_one_call_share_one_lease,
    a_call_that_acquires_again_keeps_its_lease_and_its_expiry_never_comes_nearer,
    a_call_that_is_live_on_another_agent_is_refused_there,
    a_released_call_may_be_admitted_again_to_any_agent,
    an_expired_call_is_admitted_again_as_a_new_session,
    a_lease_that_is_not_renewed_is_free_at_its_expiry,
    a_renewed_lease_outlives_its_first_expiry_and_a_shorter_renewal_does_not_bring_it_nearer,
    a_late_release_never_touches_the_next_holder,
    a_late_renewal_never_touches_the_next_holder,
    what_was_answered_to_another_request_is_not_given_up_by_the_first,
    of_1000_releases_at_once_one_released_it,
    a_released_lease_is_told_so_for_five_minutes,
    a_released_lease_is_lost_once_its_call_is_admitted_again,
    what_is_unknown_is_lost_gone_and_zero,
    lowering_the_limit_ends_no_call_and_admits_none_until_usage_falls_below_it,
    a_stale_replica_is_judged_by_the_newest_limits,
    outbound_calls_leave_the_reserve_to_inbound_ones,
    the_tenants_cap_binds_across_its_agents,
    one_tenants_slots_are_not_anothers,
    a_denial_tells_when_the_first_lease_of_its_scope_runs_out,
    a_limit_of_zero_admits_none,
    a_probe_answers_as_acquire_would_and_takes_nothing,
    fences_rise_strictly_even_when_everything_was_forgotten,
    fences_rise_strictly_though_the_stores_clock_steps_back,
    a_thousand_leases_are_renewed_in_one_call_each_with_its_own_fate,
    more_than_a_thousand_renewals_are_refused,
    a_lease_renewed_twice_in_one_call_keeps_the_later_expiry,
    ten_thousand_leases_that_expire_at_once_block_nobody,
    leases_are_told_in_the_order_asked,
    the_clock_of_a_replica_changes_nothing,
}

fn outbound(request: Acquire) -> Acquire {
    Acquire { direction: Direction::Outbound, ..request }
}

fn limited(limits: Limits, request: Acquire) -> Acquire {
    Acquire { limits, ..request }
}

async fn of_500_racers_for_7_slots_exactly_7_win(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let racers = (0..500).map(|racer| {
        let caller = caller.clone();
        tokio::spawn(
            async move { caller.acquire(&limited(limit(7), caller.ask(agent, &format!("call-{racer}")))).await },
        )
    });
    let answers = join_all(racers).await;
    let won = answers.into_iter().map(|answer| answer.expect("no panic"));
    assert_eq!(won.filter(|answer| matches!(answer, Acquired::Granted { .. })).count(), 7);
    assert_eq!((caller.usage(agent).await.used, caller.tenant_used().await), (7, 7));
}

async fn racers_of_one_call_share_one_lease(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let racers = (0..100).map(|_| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.acquire(&caller.ask(agent, "call")).await })
    });
    let mut granted = Vec::new();
    let mut all = Vec::new();
    for answer in join_all(racers).await {
        match answer.expect("no panic") {
            Acquired::Granted { lease, .. } => {
                granted.push(lease.id);
                all.push(lease.id);
            }
            Acquired::Existing { lease, .. } => all.push(lease.id),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(granted.len(), 1);
    assert!(all.iter().all(|lease| *lease == granted[0]));
    assert_eq!(caller.usage(agent).await.used, 1);
}

async fn a_call_that_acquires_again_keeps_its_lease_and_its_expiry_never_comes_nearer(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let first = caller.grant(&caller.ask(agent, "call")).await;

    let shorter = Acquire { ttl: secs(10), ..caller.ask(agent, "call") };
    assert_eq!(caller.existing(&shorter).await, first);

    fixture.advance(secs(30));
    let again = caller.existing(&outbound(limited(limit(1), caller.ask(agent, "call")))).await;
    assert_eq!((again.id, again.session, again.fence), (first.id, first.session, first.fence));
    assert!(is_about(again.expires_at, first.expires_at.plus(secs(30))));

    fixture.advance(secs(40));
    let usage = caller.usage(agent).await;
    assert_eq!((usage.used, usage.used_outbound), (1, 0), "it lives on, under the direction that it was granted for");
}

async fn a_call_that_is_live_on_another_agent_is_refused_there(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (agent, other) = (caller.agent(), caller.agent());
    caller.grant(&caller.ask(agent, "call")).await;
    assert_eq!(caller.acquire(&caller.ask(other, "call")).await, Acquired::OtherAgent { agent });
    assert_eq!(caller.usage(other).await, Usage::default());
    fixture.advance(secs(60));
    caller.grant(&caller.ask(other, "call")).await;
}

async fn a_released_call_may_be_admitted_again_to_any_agent(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (agent, other) = (caller.agent(), caller.agent());
    let first = caller.grant(&caller.ask(agent, "call")).await;
    caller.release(&first).await;
    let second = caller.grant(&caller.ask(other, "call")).await;
    assert_ne!(first.session, second.session);
    assert_eq!((caller.usage(agent).await.used, caller.usage(other).await.used), (0, 1));
    caller.release(&second).await;
    caller.grant(&caller.ask(agent, "call")).await;
}

async fn an_expired_call_is_admitted_again_as_a_new_session(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let first = caller.grant(&caller.ask(agent, "call")).await;
    fixture.advance(secs(60));
    let second = caller.grant(&outbound(caller.ask(agent, "call"))).await;
    assert_ne!((first.id, first.session), (second.id, second.session));
    assert!(second.fence > first.fence);
    let usage = caller.usage(agent).await;
    assert_eq!((usage.used, usage.used_outbound), (1, 1));
}

async fn a_lease_that_is_not_renewed_is_free_at_its_expiry(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    caller.grant(&limited(limit(1), caller.ask(agent, "crashed"))).await;
    fixture.advance(secs(50));
    caller.denial(&limited(limit(1), caller.ask(agent, "next"))).await;
    fixture.advance(secs(10));
    assert_eq!((caller.usage(agent).await.used, caller.tenant_used().await), (0, 0));
    caller.grant(&limited(limit(1), caller.ask(agent, "next"))).await;
}

async fn a_renewed_lease_outlives_its_first_expiry_and_a_shorter_renewal_does_not_bring_it_nearer(
    fixture: &impl Fixture,
) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let lease = caller.grant(&caller.ask(agent, "call")).await;
    fixture.advance(secs(30));
    let Renewed::Renewed { expires_at } = caller.renew(&lease, 60).await else { panic!("it is live") };
    assert!(is_about(expires_at, lease.expires_at.plus(secs(30))));
    assert_eq!(caller.renew(&lease, 10).await, Renewed::Renewed { expires_at });
    fixture.advance(secs(50));
    assert_eq!((caller.usage(agent).await.used, caller.tenant_used().await), (1, 1));
    fixture.advance(secs(15));
    assert_eq!((caller.usage(agent).await.used, caller.tenant_used().await), (0, 0));
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Lost);
}

async fn a_late_release_never_touches_the_next_holder(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let late = caller.grant(&limited(limit(1), caller.ask(agent, "call"))).await;
    fixture.advance(secs(60));
    // The same call, so that not even its name tells the two apart.
    let holder = caller.grant(&limited(limit(1), caller.ask(agent, "call"))).await;
    assert!(!caller.release(&late).await.released);
    assert_eq!(caller.leases(&[call("call")]).await, [Some(holder.clone())]);
    assert!(caller.release(&holder).await.released);
}

async fn a_late_renewal_never_touches_the_next_holder(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let late = caller.grant(&limited(limit(1), caller.ask(agent, "call"))).await;
    fixture.advance(secs(60));
    assert_eq!(caller.renew(&late, 300).await, Renewed::Lost, "expired is lost, though nobody took it");
    let holder = caller.grant(&limited(limit(1), caller.ask(agent, "call"))).await;
    assert_eq!(caller.renew(&late, 300).await, Renewed::Lost);
    assert_eq!(caller.leases(&[call("call")]).await, [Some(holder)]);
    fixture.advance(secs(60));
    assert_eq!(caller.usage(agent).await.used, 0, "nothing was prolonged");
}

async fn what_was_answered_to_another_request_is_not_given_up_by_the_first(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let ending = Ending { outcome: Outcome::CallerHangup, at: caller.env.now() };
    let give_up = async |lease: &Lease| {
        let freed = caller.store.give_up(caller.tenant, &lease.call, lease.id, &ending).await.expect("an answer");
        (freed.released.released, freed.session.map(|session| (session.session, session.ending)))
    };
    let alone = caller.grant(&caller.ask(agent, "alone")).await;
    assert_eq!(give_up(&alone).await, (true, Some((alone.session, Some(ending)))));
    assert_eq!(give_up(&alone).await, (false, None));

    let request = caller.ask(agent, "again");
    let first = caller.grant(&request).await;
    // The same request is no other.
    assert_eq!(caller.existing(&request).await.id, first.id);
    let second = caller.existing(&caller.ask(agent, "again")).await;
    assert_eq!((second.id, second.session, second.fence), (first.id, first.session, first.fence));
    assert_eq!(give_up(&first).await, (false, None));
    assert_eq!(caller.leases(&[call("again")]).await, [Some(second.clone())]);
    assert_eq!(caller.store.live(caller.tenant, 9).await.expect("an answer"), std::slice::from_ref(&second));
    assert!(matches!(caller.renew(&second, 60).await, Renewed::Renewed { .. }));
    assert!(caller.release(&second).await.released, "its holder may");

    // One who waits is granted by the queue, and another request of the call claims that.
    let agent = caller.agent();
    let holder = caller.grant(&limited(limit(1), caller.ask(agent, "holder"))).await;
    let waiting = ticket(limited(limit(1), caller.ask(agent, "waits")), caller.replica());
    caller.wait(&waiting).await;
    caller.release(&holder).await;
    let claimed = caller.existing(&limited(limit(1), caller.ask(agent, "waits"))).await;
    assert_eq!(claimed.id, waiting.acquire.lease);
    assert_eq!(give_up(&claimed).await, (false, None));
}

async fn of_1000_releases_at_once_one_released_it(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let lease = caller.grant(&caller.ask(agent, "call")).await;
    let other = caller.grant(&caller.ask(agent, "other")).await;
    let releases = (0..1_000).map(|_| {
        let (caller, lease) = (caller.clone(), lease.clone());
        tokio::spawn(async move { caller.release(&lease).await })
    });
    let answers = join_all(releases).await;
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("no panic")).collect();
    assert_eq!(answers.iter().filter(|answer| answer.released).count(), 1);
    assert!(answers.iter().all(|answer| answer.usage.used == 1), "the other call keeps its slot");
    assert_eq!(caller.leases(&[call("call"), call("other")]).await, [None, Some(other)]);
}

async fn a_released_lease_is_told_so_for_five_minutes(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let lease = caller.grant(&caller.ask(caller.agent(), "call")).await;
    assert!(caller.release(&lease).await.released);
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Released);
    fixture.advance(secs(290));
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Released);
    assert!(!caller.release(&lease).await.released);
    fixture.advance(secs(10));
    assert_eq!(caller.renew(&lease, 60).await, Renewed::Lost);
}

async fn a_released_lease_is_lost_once_its_call_is_admitted_again(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let first = caller.grant(&caller.ask(agent, "call")).await;
    caller.release(&first).await;
    let second = caller.grant(&caller.ask(agent, "call")).await;
    assert_eq!(caller.renew(&first, 60).await, Renewed::Lost);
    assert!(!caller.release(&first).await.released);
    // The first one's tombstone is not the second one's end.
    for _ in 0..7 {
        fixture.advance(secs(50));
        assert!(matches!(caller.renew(&second, 60).await, Renewed::Renewed { .. }));
    }
}

async fn what_is_unknown_is_lost_gone_and_zero(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let unknown = LeaseId::new(&caller.env, agent);
    let released = caller.store.release(caller.tenant, &call("call"), unknown).await.expect("release");
    assert_eq!((released.released, released.usage), (false, Usage::default()));
    let renewals = [Renewal { call: call("call"), lease: unknown, ttl: secs(60) }];
    assert_eq!(caller.renew_all(&renewals).await, [Renewed::Lost]);
    assert_eq!(caller.renew_all(&[]).await, []);
    assert_eq!(caller.leases(&[call("call")]).await, [None]);
    assert_eq!(caller.leases(&[]).await, []);
    assert_eq!(caller.usage(agent).await, Usage::default());
    assert_eq!(caller.store.tenant_usage(caller.tenant).await.expect("usage"), Usage::default());
    caller.store.ping().await.expect("it answers");
}

async fn lowering_the_limit_ends_no_call_and_admits_none_until_usage_falls_below_it(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let mut held = Vec::new();
    for n in 0..5 {
        held.push(caller.grant(&limited(limit(5), caller.ask(agent, &format!("call-{n}")))).await);
    }
    let lowered = Limits { agent_version: 2, ..limit(2) };
    let denial = caller.denial(&limited(lowered, caller.ask(agent, "next"))).await;
    assert_eq!((denial.usage.used, denial.usage.limit), (5, 2));
    for lease in &held {
        assert!(matches!(caller.renew(lease, 60).await, Renewed::Renewed { .. }));
    }
    for lease in &held[..3] {
        caller.release(lease).await;
        caller.denial(&limited(lowered, caller.ask(agent, "next"))).await;
    }
    caller.release(&held[3]).await;
    caller.grant(&limited(lowered, caller.ask(agent, "next"))).await;
}

async fn a_stale_replica_is_judged_by_the_newest_limits(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let stale = limit(100);
    let newest = Limits { agent_version: 7, reserved_inbound: 1, tenant_limit: 9, tenant_version: 3, ..limit(1) };
    caller.grant(&limited(newest, caller.ask(agent, "call-1"))).await;
    let denial = caller.denial(&limited(stale, caller.ask(agent, "call-2"))).await;
    assert_eq!((denial.usage.limit, denial.usage.reserved_inbound, denial.tenant_limit), (1, 1, 9));
    // A denial teaches as well as a grant.
    let raised = Limits { agent_version: 8, tenant_limit: 1, tenant_version: 4, ..limit(2) };
    assert_eq!(caller.denial(&limited(raised, caller.ask(agent, "call-2"))).await.binding, BindingScope::Tenant);
    let denial = caller.denial(&limited(newest, caller.ask(agent, "call-2"))).await;
    assert_eq!((denial.binding, denial.usage.limit, denial.tenant_limit), (BindingScope::Tenant, 2, 1));
    let usage = caller.usage(agent).await;
    assert_eq!((usage.limit, usage.reserved_inbound), (2, 0));
    assert_eq!(caller.store.tenant_usage(caller.tenant).await.expect("usage").limit, 1);
}

async fn outbound_calls_leave_the_reserve_to_inbound_ones(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let limits = Limits { reserved_inbound: 2, ..limit(4) };
    let ask = |name: &str| limited(limits, caller.ask(agent, name));
    caller.grant(&outbound(ask("out-1"))).await;
    let second = caller.grant(&outbound(ask("out-2"))).await;
    let denial = caller.denial(&outbound(ask("out-3"))).await;
    assert_eq!(denial.binding, BindingScope::InboundReserve);
    assert_eq!(denial.usage, Usage { used: 2, used_outbound: 2, limit: 4, reserved_inbound: 2, ..Usage::default() });
    caller.grant(&ask("in-1")).await;
    caller.grant(&ask("in-2")).await;
    assert_eq!(caller.denial(&outbound(ask("out-3"))).await.binding, BindingScope::Agent);
    let released = caller.release(&second).await;
    assert_eq!((released.usage.used, released.usage.used_outbound), (3, 1));
    caller.grant(&outbound(ask("out-3"))).await;
    assert_eq!(caller.denial(&ask("in-3")).await.binding, BindingScope::Agent);
}

async fn the_tenants_cap_binds_across_its_agents(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (agent, other) = (caller.agent(), caller.agent());
    let limits = Limits { tenant_limit: 2, ..limit(10) };
    let first = caller.grant(&limited(limits, caller.ask(agent, "call-1"))).await;
    caller.grant(&limited(limits, caller.ask(other, "call-2"))).await;
    let denial = caller.denial(&limited(limits, caller.ask(other, "call-3"))).await;
    assert_eq!(denial.binding, BindingScope::Tenant);
    assert_eq!((denial.tenant_used, denial.tenant_limit, denial.usage.used), (2, 2, 1));
    caller.release(&first).await;
    caller.grant(&limited(limits, caller.ask(other, "call-3"))).await;
    let uncapped = Limits { tenant_limit: 0, tenant_version: 2, ..limit(10) };
    caller.grant(&limited(uncapped, caller.ask(agent, "call-4"))).await;
    assert_eq!(caller.tenant_used().await, 3);
}

async fn one_tenants_slots_are_not_anothers(fixture: &impl Fixture) {
    let (one, two) = (Caller::of(fixture.store()), Caller::of(fixture.store()));
    let agent = one.agent();
    let lease = one.grant(&limited(limit(1), one.ask(agent, "call"))).await;
    // The same ids on purpose: what is shared is only the store.
    assert_eq!(two.leases(&[call("call")]).await, [None]);
    assert_eq!(two.renew(&lease, 60).await, Renewed::Lost);
    assert!(!two.release(&lease).await.released);
    two.grant(&limited(limit(1), two.ask(agent, "call"))).await;
    assert_eq!((one.tenant_used().await, two.tenant_used().await), (1, 1));
}

async fn a_denial_tells_when_the_first_lease_of_its_scope_runs_out(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (agent, other) = (caller.agent(), caller.agent());
    let limits = Limits { reserved_inbound: 1, tenant_limit: 4, ..limit(3) };
    let ask = |agent, name: &str, ttl_s| Acquire { ttl: secs(ttl_s), ..limited(limits, caller.ask(agent, name)) };
    let until = |wait: Duration, expected: u64| wait <= secs(expected) && wait > secs(expected - 5);
    caller.grant(&ask(other, "other", 20)).await;
    caller.grant(&outbound(ask(agent, "out-1", 120))).await;
    caller.grant(&outbound(ask(agent, "out-2", 100))).await;
    let reserve = caller.denial(&outbound(ask(agent, "out-3", 60))).await;
    assert_eq!(reserve.binding, BindingScope::InboundReserve);
    assert!(until(reserve.next_expiry_in, 100), "{reserve:?}");
    caller.grant(&ask(agent, "in-1", 40)).await;
    let full = caller.denial(&ask(agent, "in-2", 60)).await;
    assert_eq!(full.binding, BindingScope::Agent);
    assert!(until(full.next_expiry_in, 40), "{full:?}");
    let tenant = caller.denial(&ask(other, "other-2", 60)).await;
    assert_eq!(tenant.binding, BindingScope::Tenant);
    assert!(until(tenant.next_expiry_in, 20), "{tenant:?}");
}

async fn a_limit_of_zero_admits_none(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let denial = caller.denial(&limited(limit(0), caller.ask(agent, "call"))).await;
    assert_eq!((denial.binding, denial.next_expiry_in), (BindingScope::Agent, secs(300)));
    let reserved = Limits { reserved_inbound: 3, agent_version: 2, ..limit(3) };
    let denial = caller.denial(&outbound(limited(reserved, caller.ask(agent, "call")))).await;
    assert_eq!((denial.binding, denial.next_expiry_in), (BindingScope::InboundReserve, secs(300)));
}

async fn a_probe_answers_as_acquire_would_and_takes_nothing(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (agent, other) = (caller.agent(), caller.agent());
    let ask = limited(limit(1), caller.ask(agent, "call"));
    for _ in 0..3 {
        let Acquired::Granted { lease, usage } = caller.probe(&ask).await else { panic!("a slot is free") };
        assert_eq!((lease.id, lease.session, lease.fence, usage.used), (ask.lease, ask.session, 0, 1));
    }
    assert_eq!(caller.usage(agent).await, Usage::default(), "not even the limits are kept");
    let held = caller.grant(&ask).await;
    fixture.advance(secs(30));
    let Acquired::Existing { lease, .. } = caller.probe(&ask).await else { panic!("it is held") };
    assert_eq!((lease.id, lease.fence), (held.id, held.fence));
    assert_eq!(caller.leases(&[call("call")]).await, [Some(held)], "its expiry was not moved");
    assert_eq!(caller.probe(&caller.ask(other, "call")).await, Acquired::OtherAgent { agent });
    let wide = Limits { agent_version: 2, ..limit(2) };
    let Acquired::Granted { .. } = caller.probe(&limited(wide, caller.ask(agent, "next"))).await else {
        panic!("the newer limit has room")
    };
    let denied = caller.probe(&limited(limit(1), caller.ask(agent, "next"))).await;
    assert!(matches!(denied, Acquired::Denied(_)), "a probe's limits are not remembered: {denied:?}");
}

async fn fences_rise_strictly_even_when_everything_was_forgotten(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let mut last = 0;
    for round in 0..4 {
        for n in 0..20 {
            let lease = caller.grant(&caller.ask(agent, &format!("call-{round}-{n}"))).await;
            assert!(lease.fence > last, "{} after {last}", lease.fence);
            last = lease.fence;
            caller.release(&lease).await;
        }
        fixture.advance(secs(1_000));
        assert_eq!(caller.usage(agent).await, Usage::default(), "limits are forgotten");
    }
}

async fn fences_rise_strictly_though_the_stores_clock_steps_back(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let mut last = caller.grant(&caller.ask(agent, "before")).await.fence;
    for n in 0..5 {
        fixture.rewind(secs(100));
        // A denial and a change of limits keep the last fence as well.
        caller.denial(&limited(Limits { agent_version: 2 * n + 2, ..limit(0) }, caller.ask(agent, "no"))).await;
        let more = Limits { agent_version: 2 * n + 3, ..limit(10) };
        let lease = caller.grant(&limited(more, caller.ask(agent, &format!("call-{n}")))).await;
        assert!(lease.fence > last, "{} after {last}", lease.fence);
        last = lease.fence;
    }
}

async fn a_thousand_leases_are_renewed_in_one_call_each_with_its_own_fate(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agents: Vec<_> = (0..7).map(|_| caller.agent()).collect();
    let mut renewals = Vec::new();
    for n in 0..1_000 {
        let ask = limited(limit(1_000), caller.ask(agents[n % 7], &format!("call-{n}")));
        let lease = caller.grant(&if n % 2 == 0 { outbound(ask) } else { ask }).await;
        if n % 10 == 3 {
            caller.release(&lease).await;
        }
        let id = if n % 10 == 6 { LeaseId::new(&caller.env, lease.id.agent()) } else { lease.id };
        renewals.push(Renewal { lease: id, ..renewal(&lease, 120) });
    }
    for (n, fate) in caller.renew_all(&renewals).await.into_iter().enumerate() {
        match n % 10 {
            3 => assert_eq!(fate, Renewed::Released),
            6 => assert_eq!(fate, Renewed::Lost),
            _ => assert!(matches!(fate, Renewed::Renewed { .. })),
        }
    }
    assert_eq!(caller.tenant_used().await, 900);
    fixture.advance(secs(70));
    assert_eq!(caller.tenant_used().await, 800);
    let mut used = 0;
    for agent in agents {
        used += caller.usage(agent).await.used;
    }
    assert_eq!(used, 800);
}

async fn more_than_a_thousand_renewals_are_refused(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let lease = caller.grant(&caller.ask(caller.agent(), "call")).await;
    let renewals = vec![renewal(&lease, 60); 1_001];
    let refused = caller.store.renew(caller.tenant, &renewals).await.expect_err("too many");
    assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
    let calls = vec![call("call"); 1_001];
    let refused = caller.store.leases(caller.tenant, &calls).await.expect_err("too many");
    assert!(matches!(refused, Error::Invalid(_)), "{refused:?}");
}

async fn a_lease_renewed_twice_in_one_call_keeps_the_later_expiry(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let lease = caller.grant(&caller.ask(agent, "call")).await;
    let fates = caller.renew_all(&[renewal(&lease, 120), renewal(&lease, 90)]).await;
    assert_eq!(fates[0], fates[1]);
    fixture.advance(secs(100));
    assert_eq!((caller.usage(agent).await.used, caller.tenant_used().await), (1, 1));
}

async fn ten_thousand_leases_that_expire_at_once_block_nobody(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let limits = limit(10_000);
    for batch in 0..100 {
        let calls = (batch * 100..(batch + 1) * 100).map(|n| limited(limits, caller.ask(agent, &format!("call-{n}"))));
        let requests: Vec<_> = calls.collect();
        let granted = join_all(requests.iter().map(|request| caller.grant(request))).await;
        assert_eq!(granted.len(), 100);
    }
    assert_eq!(caller.denial(&limited(limits, caller.ask(agent, "next"))).await.usage.used, 10_000);
    fixture.advance(secs(60));
    let start = std::time::Instant::now();
    let first = caller.acquire(&limited(limits, caller.ask(agent, "next"))).await;
    let Acquired::Granted { usage, .. } = first else { panic!("all slots are free: {first:?}") };
    assert_eq!(usage.used, 1);
    for n in 0..400 {
        caller.grant(&limited(limits, caller.ask(agent, &format!("after-{n}")))).await;
    }
    assert!(start.elapsed() < secs(10), "401 grants took {:?}", start.elapsed());
    assert_eq!((caller.usage(agent).await.used, caller.tenant_used().await), (401, 401));
}

async fn leases_are_told_in_the_order_asked(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let one = caller.grant(&caller.ask(agent, "one")).await;
    let two = caller.grant(&outbound(caller.ask(caller.agent(), "two"))).await;
    let gone = caller.grant(&caller.ask(agent, "gone")).await;
    caller.release(&gone).await;
    let asked = [call("two"), call("never"), call("gone"), call("one"), call("two")];
    assert_eq!(caller.leases(&asked).await, [Some(two.clone()), None, None, Some(one), Some(two)]);
    fixture.advance(secs(60));
    assert_eq!(caller.leases(&[call("one")]).await, [None]);
}

async fn the_clock_of_a_replica_changes_nothing(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    let right = caller.grant(&limited(limit(3), caller.ask(agent, "right"))).await;
    for (name, skewed) in [("fast", caller.env.now().plus(secs(600))), ("slow", caller.env.now().minus(secs(600)))] {
        let mut replica = caller.clone();
        replica.env.clock = std::sync::Arc::new(ManualClock::at(skewed));
        let lease = replica.grant(&limited(limit(3), replica.ask(agent, name))).await;
        assert!(is_about(lease.expires_at, right.expires_at), "{name}: {lease:?}");
        assert!(matches!(replica.renew(&right, 60).await, Renewed::Renewed { .. }));
    }
    fixture.advance(secs(55));
    assert_eq!(caller.usage(agent).await.used, 3);
    fixture.advance(secs(10));
    assert_eq!(caller.usage(agent).await.used, 0);
}
