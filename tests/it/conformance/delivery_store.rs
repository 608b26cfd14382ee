//! What every `DeliveryStore` promises.

use std::{collections::BTreeSet, time::Duration};

use voxgate::{
    domain::{
        Env, Timestamp,
        ids::{EventId, TenantId},
        page::PageRequest,
        webhook::{Attempt, DeadLetter, PostedEvent, WebhookEndpoint},
    },
    webhooks::{
        Backlog, Changed, Claim, Claims, EndpointKey, FAN_OUT_MAX, IN_FLIGHT_OF_FAILING, IN_FLIGHT_OF_SOUND, Lane,
        Next, Redelivered, Redelivery, Settlement,
    },
};

use super::{
    Stores, all_at_once, at, on_every_backend,
    webhook_store::{created, plain, read},
};

on_every_backend![
    each_event_becomes_one_delivery_however_many_replicas_look,
    an_endpoint_gets_what_it_wants_of_its_own_side_of_the_fence,
    an_endpoint_begins_at_the_newest_event_and_so_it_does_when_it_is_enabled_again,
    of_all_replicas_no_more_is_in_flight_than_may_be,
    a_claim_that_ends_is_anybodys_and_its_holder_changes_nothing_any_more,
    what_was_taken_is_gone,
    an_endpoint_that_fails_is_in_the_other_lane_until_it_takes_one,
    what_is_given_up_is_a_dead_letter_with_all_that_is_known,
    dead_letters_are_listed_latest_first_and_only_the_tenants,
    an_endpoint_that_is_gone_is_disabled_and_keeps_what_waits,
    what_is_a_day_old_is_given_up_unless_it_is_being_posted,
    old_dead_letters_are_forgotten,
    an_event_is_redelivered_to_whom_it_is_for,
    an_event_outlives_its_retention_in_a_dead_letter,
    a_deleted_endpoint_takes_its_deliveries_along,
];

const KIND: &str = "lead.updated";
const DAY: Duration = Duration::from_hours(24);

/// An endpoint that wants everything.
async fn hook(stores: &Stores) -> WebhookEndpoint {
    let endpoint = plain(stores.tenant().await);
    created(stores, &endpoint).await;
    endpoint
}

fn key(endpoint: &WebhookEndpoint) -> EndpointKey {
    (endpoint.tenant, endpoint.id)
}

/// Fans out all that there is; answers how many deliveries were made.
async fn fanned_out(stores: &Stores) -> usize {
    let mut made = 0;
    loop {
        let lagging = stores.deliveries.lagging(100).await.expect("an answer");
        if lagging.is_empty() {
            return made;
        }
        for endpoint in lagging {
            made += stores.deliveries.fan_out(endpoint, &Env::system()).await.expect("an answer").made;
        }
    }
}

/// A claim at `now` that lasts for a minute.
fn claim(now: Timestamp) -> Claim {
    Claim { id: Env::system().uuid(), now, until: now.plus(Duration::from_mins(1)), at_most: 100 }
}

/// What is due is made by the machine's clock.
fn now() -> Timestamp {
    Env::system().now().plus(Duration::from_secs(1))
}

async fn claimed(stores: &Stores, endpoint: &WebhookEndpoint, claim: Claim) -> Vec<PostedEvent> {
    let claims = stores.deliveries.claim(key(endpoint), claim).await.expect("an answer");
    let claims = claims.map(|Claims { deliveries, .. }| deliveries).unwrap_or_default();
    claims.into_iter().map(|claimed| claimed.event).collect()
}

fn settled(event: EventId, claim: Claim, next: Next) -> Settlement {
    let attempt = Attempt::answered(if next == Next::Done { 204 } else { 503 });
    Settlement { event, claim: claim.id, attempt, next, now: claim.now }
}

async fn settle(stores: &Stores, endpoint: &WebhookEndpoint, settlement: Settlement) -> bool {
    stores.deliveries.settle(key(endpoint), settlement).await.expect("an answer")
}

async fn is_due(stores: &Stores, endpoint: &WebhookEndpoint, lane: Lane, now: Timestamp) -> bool {
    stores.deliveries.due(lane, now, 1_000).await.expect("an answer").contains(&key(endpoint))
}

async fn dead(stores: &Stores, tenant: TenantId) -> Vec<DeadLetter> {
    let page = PageRequest { size: 100, after: None };
    stores.deliveries.dead_letters(tenant, None, false, page).await.expect("a page").items
}

/// Makes one event, and gives it up at `now`.
async fn one_dead(stores: &Stores, endpoint: &WebhookEndpoint, sandbox: bool, now: Timestamp) -> EventId {
    stores.happened(endpoint.tenant, KIND, 1, sandbox).await;
    fanned_out(stores).await;
    let claim = claim(now);
    let event = claimed(stores, endpoint, claim).await.pop().expect("it is due").id;
    assert!(settle(stores, endpoint, settled(event, claim, Next::GivenUp)).await);
    event
}

async fn each_event_becomes_one_delivery_however_many_replicas_look(stores: &Stores) {
    let endpoints = [hook(stores).await, hook(stores).await];
    let events = 2 * usize::from(FAN_OUT_MAX) + 7;
    for endpoint in &endpoints {
        stores.happened(endpoint.tenant, KIND, events, false).await;
    }
    let deliveries = stores.deliveries.clone();
    let made = all_at_once(8, |_| {
        let deliveries = deliveries.clone();
        async move {
            let mut made = 0;
            loop {
                let lagging = deliveries.lagging(100).await.expect("an answer");
                if lagging.is_empty() {
                    return made;
                }
                for endpoint in lagging {
                    made += deliveries.fan_out(endpoint, &Env::system()).await.expect("an answer").made;
                }
            }
        }
    })
    .await;
    assert_eq!(made.iter().sum::<usize>(), 2 * events);
    let pending = stores.deliveries.backlog().await.expect("an answer").pending;
    assert_eq!(pending, u64::try_from(2 * events).expect("a count"));
}

async fn an_endpoint_gets_what_it_wants_of_its_own_side_of_the_fence(stores: &Stores) {
    let tenant = stores.tenant().await;
    let choosy = super::webhook_store::endpoint(tenant);
    let choosy = WebhookEndpoint { enabled: true, ..choosy };
    let boxed = WebhookEndpoint { sandbox: true, ..plain(tenant) };
    let everything = plain(tenant);
    for endpoint in [&choosy, &boxed, &everything] {
        created(stores, endpoint).await;
    }
    stores.happened(tenant, "call.ended", 1, false).await;
    stores.happened(tenant, "ai_session.ended", 1, false).await;
    stores.happened(tenant, "ai_session.escalated", 1, true).await;
    assert_eq!(fanned_out(stores).await, 2 + 1 + 3);
    let mut kinds = Vec::new();
    for endpoint in [&choosy, &boxed, &everything] {
        let events = claimed(stores, endpoint, claim(now())).await;
        assert!(events.iter().all(|event| event.tenant_id == tenant));
        kinds.push(events.into_iter().map(|event| event.kind).collect::<BTreeSet<_>>());
    }
    let of = |kinds: &[&str]| kinds.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let expected = [
        of(&["ai_session.ended", "ai_session.escalated"]),
        of(&["ai_session.escalated"]),
        of(&["call.ended", "ai_session.ended", "ai_session.escalated"]),
    ];
    assert_eq!(kinds, expected);
}

async fn an_endpoint_begins_at_the_newest_event_and_so_it_does_when_it_is_enabled_again(stores: &Stores) {
    let tenant = stores.tenant().await;
    stores.happened(tenant, KIND, 3, false).await;
    let enabled = plain(tenant);
    created(stores, &enabled).await;
    assert_eq!(fanned_out(stores).await, 0);
    stores.happened(tenant, KIND, 1, false).await;
    assert_eq!(fanned_out(stores).await, 1);
    let disabled = WebhookEndpoint { enabled: false, ..enabled.clone() };
    let update = async |to: &WebhookEndpoint, from: &WebhookEndpoint| {
        assert_eq!(stores.webhooks.update(to, from).await.expect("an answer"), Changed::Done);
    };
    update(&disabled, &enabled).await;
    stores.happened(tenant, KIND, 5, false).await;
    assert_eq!(fanned_out(stores).await, 0);
    assert!(!is_due(stores, &enabled, Lane::Sound, now()).await);
    assert!(claimed(stores, &enabled, claim(now())).await.is_empty());
    update(&enabled, &disabled).await;
    assert_eq!(fanned_out(stores).await, 0);
    // What waited before it was disabled is still there.
    assert!(is_due(stores, &enabled, Lane::Sound, now()).await);
    stores.happened(tenant, KIND, 2, false).await;
    assert_eq!((fanned_out(stores).await, claimed(stores, &enabled, claim(now())).await.len()), (2, 3));
}

async fn of_all_replicas_no_more_is_in_flight_than_may_be(stores: &Stores) {
    let endpoint = hook(stores).await;
    stores.happened(endpoint.tenant, KIND, 20, false).await;
    fanned_out(stores).await;
    let two = Claim { at_most: 2, ..claim(now()) };
    assert_eq!(claimed(stores, &endpoint, two).await.len(), 2);
    let (deliveries, key) = (stores.deliveries.clone(), key(&endpoint));
    let claims = all_at_once(8, |_| {
        let deliveries = deliveries.clone();
        async move { deliveries.claim(key, claim(now())).await.expect("an answer") }
    })
    .await;
    let events: Vec<_> = claims.into_iter().flatten().flat_map(|claims| claims.deliveries).collect();
    assert_eq!(events.len() + 2, usize::try_from(IN_FLIGHT_OF_SOUND).expect("a count"));
    let different: BTreeSet<_> = events.iter().map(|claimed| claimed.event.id.to_string()).collect();
    assert_eq!(different.len(), events.len());
    assert!(!is_due(stores, &endpoint, Lane::Sound, now()).await, "nobody looks in vain");
}

async fn a_claim_that_ends_is_anybodys_and_its_holder_changes_nothing_any_more(stores: &Stores) {
    let endpoint = hook(stores).await;
    stores.happened(endpoint.tenant, KIND, 1, false).await;
    fanned_out(stores).await;
    let first = claim(now());
    let event = claimed(stores, &endpoint, first).await.pop().expect("it is due").id;
    let just_before = first.until.minus(Duration::from_micros(1));
    assert!(claimed(stores, &endpoint, claim(just_before)).await.is_empty());
    let second = claim(first.until);
    let claims = stores.deliveries.claim(key(&endpoint), second).await.expect("an answer").expect("it is due");
    assert_eq!((claims.deliveries[0].event.id, claims.deliveries[0].attempts), (event, 2));
    for next in [Next::Done, Next::GivenUp, Next::Disabled, Next::TriedAgain(at(0))] {
        assert!(!settle(stores, &endpoint, settled(event, first, next)).await, "{next:?}");
    }
    assert_eq!(read(stores, endpoint.id).await, Some(endpoint.clone()));
    assert!(settle(stores, &endpoint, settled(event, second, Next::Done)).await);
    assert!(!settle(stores, &endpoint, settled(event, second, Next::Done)).await);
}

async fn what_was_taken_is_gone(stores: &Stores) {
    let endpoint = hook(stores).await;
    stores.happened(endpoint.tenant, KIND, 6, false).await;
    fanned_out(stores).await;
    let mut taken = 0;
    while is_due(stores, &endpoint, Lane::Sound, now()).await {
        let claim = claim(now());
        for event in claimed(stores, &endpoint, claim).await {
            assert!(settle(stores, &endpoint, settled(event.id, claim, Next::Done)).await);
            taken += 1;
        }
    }
    let left = stores.deliveries.backlog().await.expect("an answer");
    assert_eq!((taken, left), (6, Backlog::default()));
}

async fn an_endpoint_that_fails_is_in_the_other_lane_until_it_takes_one(stores: &Stores) {
    let endpoint = hook(stores).await;
    stores.happened(endpoint.tenant, KIND, 10, false).await;
    fanned_out(stores).await;
    let first = claim(now());
    let later = first.now.plus(Duration::from_secs(5));
    for event in claimed(stores, &endpoint, first).await {
        assert!(settle(stores, &endpoint, settled(event.id, first, Next::TriedAgain(later))).await);
    }
    assert!(
        !is_due(stores, &endpoint, Lane::Sound, later).await && is_due(stores, &endpoint, Lane::Failing, now()).await
    );
    let second = claim(now());
    let mut probe = claimed(stores, &endpoint, second).await;
    assert_eq!(probe.len(), usize::try_from(IN_FLIGHT_OF_FAILING).expect("a count"));
    assert!(claimed(stores, &endpoint, claim(now())).await.is_empty());
    let event = probe.pop().expect("one").id;
    assert!(settle(stores, &endpoint, settled(event, second, Next::Done)).await);
    assert!(
        is_due(stores, &endpoint, Lane::Sound, now()).await && !is_due(stores, &endpoint, Lane::Failing, now()).await
    );
    let third = claim(now());
    for event in claimed(stores, &endpoint, third).await {
        settle(stores, &endpoint, settled(event.id, third, Next::Done)).await;
    }
    let fourth = claim(now());
    for event in claimed(stores, &endpoint, fourth).await {
        settle(stores, &endpoint, settled(event.id, fourth, Next::Done)).await;
    }
    // The four that failed come when their time has come, and not before.
    let just_before = later.minus(Duration::from_micros(1));
    assert!(!is_due(stores, &endpoint, Lane::Sound, just_before).await);
    assert_eq!(claimed(stores, &endpoint, claim(later)).await.len(), 4);
}

async fn what_is_given_up_is_a_dead_letter_with_all_that_is_known(stores: &Stores) {
    let endpoint = hook(stores).await;
    stores.happened(endpoint.tenant, KIND, 1, false).await;
    fanned_out(stores).await;
    let (first, later) = (claim(now()), now().plus(Duration::from_secs(30)));
    let event = claimed(stores, &endpoint, first).await.pop().expect("it is due");
    assert!(settle(stores, &endpoint, settled(event.id, first, Next::TriedAgain(later))).await);
    let second = claim(later);
    assert_eq!(claimed(stores, &endpoint, second).await, std::slice::from_ref(&event));
    let attempt = Attempt::failed("no connection could be made");
    let settlement = Settlement { attempt, ..settled(event.id, second, Next::GivenUp) };
    assert!(settle(stores, &endpoint, settlement).await);
    let letters = dead(stores, endpoint.tenant).await;
    let expected = DeadLetter {
        id: letters[0].id,
        endpoint: endpoint.id,
        event,
        attempts: 2,
        first_attempt_at: Some(first.now),
        last_attempt_at: Some(second.now),
        last_status: 0,
        last_error: "no connection could be made".into(),
        dead_at: second.now,
    };
    assert_eq!(letters, [expected]);
    assert!(!is_due(stores, &endpoint, Lane::Failing, later.plus(DAY)).await);
}

async fn dead_letters_are_listed_latest_first_and_only_the_tenants(stores: &Stores) {
    let (ours, theirs) = (hook(stores).await, hook(stores).await);
    let boxed = WebhookEndpoint { sandbox: true, ..plain(ours.tenant) };
    one_dead(stores, &theirs, false, now()).await;
    let mut latest_first = Vec::new();
    for minute in [1, 2, 2, 3] {
        let moment = at(0).plus(Duration::from_hours(24 * 10_000)).plus(Duration::from_mins(minute));
        latest_first.insert(0, one_dead(stores, &ours, false, moment).await);
    }
    created(stores, &boxed).await;
    let moment = at(0).plus(Duration::from_hours(24 * 10_001));
    let of_sandbox = one_dead(stores, &boxed, true, moment).await;
    let list = async |endpoint, sandbox| {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = PageRequest { size: 2, after };
            let page = stores.deliveries.dead_letters(ours.tenant, endpoint, sandbox, page).await.expect("a page");
            assert!(page.items.len() <= 2);
            listed.extend(page.items.into_iter().map(|letter| letter.event.id));
            after = page.next;
            if after.is_none() {
                return listed;
            }
        }
    };
    assert_eq!(list(None, true).await, [of_sandbox]);
    assert_eq!(list(Some(boxed.id), false).await, [of_sandbox]);
    assert!(list(Some(theirs.id), false).await.is_empty());
    let listed = list(Some(ours.id), false).await;
    let same = |a: &[EventId], b: &[EventId]| a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>();
    assert!(same(&listed, &latest_first) && listed[0] == latest_first[0] && listed[3] == latest_first[3], "{listed:?}");
    assert_eq!(list(None, false).await.len(), 5);
}

async fn an_endpoint_that_is_gone_is_disabled_and_keeps_what_waits(stores: &Stores) {
    let endpoint = hook(stores).await;
    stores.happened(endpoint.tenant, KIND, 2, false).await;
    fanned_out(stores).await;
    let one = Claim { at_most: 1, ..claim(now()) };
    let event = claimed(stores, &endpoint, one).await.pop().expect("it is due").id;
    let attempt = Attempt::answered(410);
    assert!(settle(stores, &endpoint, Settlement { attempt, ..settled(event, one, Next::Disabled) }).await);
    let disabled = read(stores, endpoint.id).await.expect("the endpoint");
    assert_eq!(disabled, WebhookEndpoint { enabled: false, updated_at: one.now, ..endpoint.clone() });
    assert!(!is_due(stores, &endpoint, Lane::Failing, now().plus(DAY)).await);
    let letter = dead(stores, endpoint.tenant).await.pop().expect("one");
    assert_eq!((letter.event.id, letter.last_status), (event, 410));
    let enabled = WebhookEndpoint { enabled: true, ..disabled.clone() };
    assert_eq!(stores.webhooks.update(&enabled, &disabled).await.expect("an answer"), Changed::Done);
    assert!(is_due(stores, &endpoint, Lane::Sound, now()).await, "its failures count no more");
    assert_eq!(claimed(stores, &endpoint, claim(now())).await.len(), 1);
}

async fn what_is_a_day_old_is_given_up_unless_it_is_being_posted(stores: &Stores) {
    let endpoint = hook(stores).await;
    stores.happened(endpoint.tenant, KIND, 3, false).await;
    fanned_out(stores).await;
    let day_later = now().plus(DAY);
    let two = Claim { at_most: 2, until: day_later.plus(DAY), ..claim(now()) };
    let events = claimed(stores, &endpoint, two).await;
    assert!(settle(stores, &endpoint, settled(events[0].id, two, Next::TriedAgain(day_later))).await);
    let give_up = async |now: Timestamp| stores.deliveries.give_up(now.minus(DAY), now, 1).await.expect("an answer");
    assert_eq!(give_up(now()).await, 0);
    let mut dead_by_now = 0;
    loop {
        match give_up(day_later).await {
            0 => break,
            some => dead_by_now += some,
        }
    }
    let mut letters = dead(stores, endpoint.tenant).await;
    letters.sort_by_key(|letter| letter.attempts);
    assert_eq!((dead_by_now, letters.len()), (2, 2));
    assert!(letters[0].attempts == 0 && letters[0].first_attempt_at.is_none(), "{:?}", letters[0]);
    assert!(letters[0].last_error.contains("not tried"));
    assert_eq!((letters[1].event.id, letters[1].last_status), (events[0].id, 503));
    assert!(settle(stores, &endpoint, settled(events[1].id, two, Next::Done)).await);
    assert_eq!(dead(stores, endpoint.tenant).await.len(), 2);
}

async fn old_dead_letters_are_forgotten(stores: &Stores) {
    let endpoint = hook(stores).await;
    // Later than the machine's clock when the last of them is made, also where it stops for a while.
    let old = now().plus(Duration::from_mins(1));
    let new = old.plus(DAY);
    for moment in [old, old, new] {
        one_dead(stores, &endpoint, false, moment).await;
    }
    let mut forgotten = 0;
    loop {
        match stores.deliveries.forget(new, 1).await.expect("an answer") {
            0 => break,
            some => forgotten += some,
        }
    }
    assert_eq!((forgotten, dead(stores, endpoint.tenant).await.len()), (2, 1));
}

async fn an_event_is_redelivered_to_whom_it_is_for(stores: &Stores) {
    let tenant = stores.tenant().await;
    let choosy = WebhookEndpoint { enabled: true, ..super::webhook_store::endpoint(tenant) };
    let (boxed, disabled) =
        (WebhookEndpoint { sandbox: true, ..plain(tenant) }, WebhookEndpoint { enabled: false, ..plain(tenant) });
    let (everything, theirs) = (plain(tenant), hook(stores).await);
    for endpoint in [&choosy, &boxed, &disabled, &everything] {
        created(stores, endpoint).await;
    }
    let event = one_dead(stores, &everything, false, now()).await;
    let of_everything = Redelivery { tenant, event, endpoint: None, sandbox: false };
    let redeliver =
        async |redelivery| stores.deliveries.redeliver(redelivery, &Env::system()).await.expect("an answer");
    let to = |endpoint: &WebhookEndpoint| Redelivery { endpoint: Some(endpoint.id), ..of_everything };
    assert_eq!(redeliver(to(&disabled)).await, Redelivered::EndpointDisabled);
    assert_eq!(redeliver(to(&boxed)).await, Redelivered::EventIsLive);
    assert_eq!(redeliver(to(&theirs)).await, Redelivered::UnknownEndpoint);
    let unknown = Redelivery { event: EventId::new(&Env::system()), ..of_everything };
    assert_eq!(redeliver(unknown).await, Redelivered::UnknownEvent);
    assert_eq!(redeliver(Redelivery { tenant: theirs.tenant, ..of_everything }).await, Redelivered::UnknownEvent);
    assert_eq!(redeliver(Redelivery { sandbox: true, ..of_everything }).await, Redelivered::UnknownEvent);
    assert_eq!(dead(stores, tenant).await.len(), 1);
    let mut both = [choosy.id, everything.id];
    both.sort_by_key(|id| *id.as_uuid());
    assert_eq!(redeliver(of_everything).await, Redelivered::To(both.to_vec()));
    assert!(dead(stores, tenant).await.is_empty());
    let claims = stores.deliveries.claim(key(&everything), claim(now())).await.expect("an answer").expect("it is due");
    assert_eq!((claims.deliveries[0].event.id, claims.deliveries[0].attempts), (event, 1));
    // One that is on its way begins anew, and who was posting it changes nothing any more.
    assert_eq!(redeliver(to(&everything)).await, Redelivered::To(vec![everything.id]));
    assert_eq!(claimed(stores, &everything, claim(now())).await.len(), 1);
}

async fn an_event_outlives_its_retention_in_a_dead_letter(stores: &Stores) {
    let endpoint = hook(stores).await;
    let event = one_dead(stores, &endpoint, false, now()).await;
    stores.raw("DELETE FROM events").await;
    let redelivery = Redelivery { tenant: endpoint.tenant, event, endpoint: None, sandbox: false };
    let redelivered = stores.deliveries.redeliver(redelivery, &Env::system()).await.expect("an answer");
    assert_eq!(redelivered, Redelivered::To(vec![endpoint.id]));
    assert_eq!(claimed(stores, &endpoint, claim(now())).await[0].id, event);
}

async fn a_deleted_endpoint_takes_its_deliveries_along(stores: &Stores) {
    let (endpoint, other) = (hook(stores).await, hook(stores).await);
    for of in [&endpoint, &other] {
        one_dead(stores, of, false, now()).await;
        stores.happened(of.tenant, KIND, 2, false).await;
    }
    fanned_out(stores).await;
    let claim = claim(now());
    let event = claimed(stores, &endpoint, claim).await.pop().expect("it is due").id;
    assert!(stores.webhooks.delete(endpoint.tenant, endpoint.id).await.expect("an answer"));
    assert!(!settle(stores, &endpoint, settled(event, claim, Next::Done)).await);
    let left = stores.deliveries.backlog().await.expect("an answer");
    assert_eq!((left.pending, left.dead, dead(stores, endpoint.tenant).await.len()), (2, 1, 0));
}
