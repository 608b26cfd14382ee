//! Waiting for a slot, on every back-end: the order, the grant to the first, and what becomes of those who go.
//!
//! A replica that has not tended for 3 s is dead, so whoever is to live through a step of the clock is tended after it:
//! a tend revives what nobody has removed yet.

use std::time::Duration;

use voxgate::domain::{
    ids::VoiceAgentId,
    lease::{Acquire, Acquired, BindingScope, Direction, Lease, Limits},
    queue::{Enqueued, Heard, Left, ReplicaId, Standing, Ticket, Wake},
};

use super::{
    slot_fixture::{Caller, Fixture, Memory, Redis, call, limit, secs, ticket},
    slot_store::on_every_back_end,
};

on_every_back_end! {
    a_slot_that_comes_free_is_granted_to_the_first_who_waits_and_claimed_by_acquiring,
    equals_are_served_as_they_came,
    a_second_of_waiting_is_worth_one_of_priority,
    nobody_who_acquires_passes_one_who_waits_with_equal_or_higher_priority,
    nobody_who_waits_is_passed_because_the_clock_was_set_back,
    a_probe_says_who_would_be_passed_and_passes_nobody,
    a_call_that_acquires_in_its_turn_gets_its_slot,
    a_grant_that_nobody_claims_runs_out_and_goes_to_the_next,
    a_lease_that_runs_out_makes_room_for_who_waits,
    whoever_leaves_has_no_place_and_a_grant_that_was_not_claimed_goes_to_the_next,
    a_slot_that_was_claimed_is_not_given_up_by_leaving,
    the_tickets_of_a_dead_replica_are_passed_over_and_removed,
    a_replica_that_was_taken_for_dead_gets_its_places_back,
    who_was_passed_over_while_its_replica_slept_is_in_line_again,
    a_call_that_was_admitted_by_another_request_waits_no_longer,
    a_call_that_waits_again_takes_its_ticket_over_with_its_place,
    a_full_queue_takes_nobody_new,
    one_release_wakes_one_of_a_thousand,
    those_who_wait_for_outbound_slots_do_not_hold_up_the_reserve,
    where_the_tenants_cap_binds_the_first_of_all_its_agents_is_served,
    a_lowered_limit_grants_to_nobody_and_a_raised_one_to_as_many_as_it_makes_room_for,
    places_and_estimates_are_told,
    usage_counts_who_waits_and_how_long_the_first_has,
    nothing_is_granted_above_the_limit_however_many_wait_and_leave,
}

/// An agent with one slot, which is held.
struct Full {
    caller: Caller,
    agent: VoiceAgentId,
    replica: ReplicaId,
    holder: Lease,
}

impl Full {
    async fn of(fixture: &impl Fixture) -> Self {
        let caller = Caller::of(fixture.store());
        let agent = caller.agent();
        let holder = caller.grant(&Acquire { limits: limit(1), ttl: secs(300), ..caller.ask(agent, "holder") }).await;
        Self { replica: caller.replica(), caller, agent, holder }
    }

    fn ask(&self, name: &str) -> Acquire {
        Acquire { limits: limit(1), ..self.caller.ask(self.agent, name) }
    }

    fn ticket(&self, name: &str, priority: u8) -> Ticket {
        ticket(Acquire { priority, ..self.ask(name) }, self.replica)
    }

    /// Waits under this name.
    async fn waiter(&self, name: &str, priority: u8) -> Ticket {
        let ticket = self.ticket(name, priority);
        self.caller.wait(&ticket).await;
        ticket
    }

    /// Frees the slot again and again, and says who had it in turn.
    async fn order(&self, tickets: &[Ticket]) -> Vec<String> {
        let (mut order, mut holder) = (Vec::new(), self.holder.clone());
        for _ in tickets {
            self.caller.release(&holder).await;
            let mut next = None;
            for ticket in tickets {
                if self.caller.has_its_turn(ticket).await {
                    assert!(next.replace(ticket).is_none(), "two hold the one slot");
                }
            }
            let next = next.expect("the slot has a holder");
            order.push(next.acquire.call.to_string());
            holder = self.caller.existing(&next.acquire).await;
        }
        order
    }
}

async fn a_slot_that_comes_free_is_granted_to_the_first_who_waits_and_claimed_by_acquiring(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let (first, second) = (full.waiter("first", 0).await, full.waiter("second", 0).await);
    assert!(full.caller.release(&full.holder).await.released);
    assert!(full.caller.has_its_turn(&first).await && !full.caller.has_its_turn(&second).await);

    let tended = full.caller.tend(&first).await;
    assert_eq!(tended.standings, [Standing::Held]);
    assert_eq!(tended.wakes, [(call("first"), Wake::Granted)]);
    let claimed = full.caller.existing(&first.acquire).await;
    assert_eq!((claimed.id, claimed.session), (first.acquire.lease, first.acquire.session));
    assert!(claimed.fence > full.holder.fence);

    fixture.advance(secs(30));
    assert!(full.caller.has_its_turn(&first).await, "a claimed slot lives for the time that was asked for");
    full.caller.tend(&second).await;
    assert_eq!(full.caller.enqueue(&full.ticket("first", 0)).await, Enqueued::Held, "it need not wait");
}

async fn equals_are_served_as_they_came(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let mut tickets = Vec::new();
    for n in (0..12).rev() {
        tickets.push(full.waiter(&format!("call-{n:02}"), 7).await);
    }
    let came: Vec<String> = tickets.iter().map(|ticket| ticket.acquire.call.to_string()).collect();
    assert_eq!(full.order(&tickets).await, came);
}

async fn a_second_of_waiting_is_worth_one_of_priority(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let early = full.waiter("early", 0).await;
    fixture.advance(secs(10));
    full.caller.tend(&early).await;
    let late_and_low = full.waiter("low", 9).await;
    let late_and_high = full.waiter("high", 100).await;
    let late_and_above = full.waiter("above", 14).await;
    let tickets = [early, late_and_low, late_and_high, late_and_above];
    assert_eq!(full.order(&tickets).await, ["high", "above", "early", "low"]);
}

async fn nobody_who_acquires_passes_one_who_waits_with_equal_or_higher_priority(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let waiting = full.waiter("waiting", 5).await;
    // The newcomer brings the news of a second slot, which is thus free.
    let raised = |priority, name: &str| {
        let limits = Limits { agent_version: 2, ..limit(2) };
        Acquire { limits, priority, ..full.caller.ask(full.agent, name) }
    };
    let denial = full.caller.denial(&raised(5, "newcomer")).await;
    assert_eq!((denial.binding, denial.usage.used, denial.usage.queued), (BindingScope::Agent, 2, 0));
    assert!(full.caller.has_its_turn(&waiting).await);

    full.caller.release(&full.holder).await;
    let again = ticket(raised(5, "again"), full.replica);
    assert_eq!(full.caller.enqueue(&again).await, Enqueued::Held, "one who is alone is served at once");

    let low = ticket(raised(5, "low"), full.replica);
    full.caller.wait(&low).await;
    let third = Limits { agent_version: 3, ..limit(3) };
    full.caller.grant(&Acquire { limits: third, ..raised(6, "urgent") }).await;
    assert!(!full.caller.has_its_turn(&low).await, "a strictly higher one may pass");
}

async fn nobody_who_waits_is_passed_because_the_clock_was_set_back(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let waiting = full.waiter("waiting", 5).await;
    fixture.rewind(secs(60));
    let limits = Limits { agent_version: 2, ..limit(2) };
    let newcomer = Acquire { limits, priority: 5, ..full.caller.ask(full.agent, "newcomer") };
    assert_eq!(full.caller.denial(&newcomer).await.usage.used, 2);
    assert!(full.caller.has_its_turn(&waiting).await);
}

async fn a_probe_says_who_would_be_passed_and_passes_nobody(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let waiting = full.waiter("waiting", 5).await;
    let raised = |priority| Acquire {
        limits: Limits { agent_version: 2, ..limit(2) },
        priority,
        ..full.caller.ask(full.agent, "newcomer")
    };
    let Acquired::Denied(denial) = full.caller.probe(&raised(5)).await else { panic!("it is not its turn") };
    assert_eq!((denial.usage.used, denial.usage.queued), (2, 1));
    assert!(matches!(full.caller.probe(&raised(6)).await, Acquired::Granted { .. }));
    assert!(!full.caller.has_its_turn(&waiting).await);

    let place = full.ticket("would", 6);
    let told = full.caller.store.probe_queue(full.caller.tenant, &place).await.expect("an answer");
    assert!(matches!(told, Enqueued::Waiting(place) if place.position == 1), "{told:?}");
    assert_eq!(full.caller.usage(full.agent).await.queued, 1);
}

async fn a_call_that_acquires_in_its_turn_gets_its_slot(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let (first, second) = (full.waiter("first", 0).await, full.waiter("second", 0).await);
    let raised =
        |name: &str| Acquire { limits: Limits { agent_version: 2, ..limit(2) }, ..full.caller.ask(full.agent, name) };
    full.caller.grant(&raised("first")).await;
    full.caller.denial(&raised("second")).await;
    full.caller.release(&full.holder).await;
    assert!(full.caller.has_its_turn(&second).await);
    assert_eq!(full.caller.tend(&first).await.standings, [Standing::Held], "by another request, and it is told");
    assert_eq!(full.caller.usage(full.agent).await.queued, 0);
}

async fn a_grant_that_nobody_claims_runs_out_and_goes_to_the_next(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let (first, second) = (full.waiter("first", 0).await, full.waiter("second", 0).await);
    full.caller.release(&full.holder).await;
    assert!(full.caller.has_its_turn(&first).await);
    fixture.advance(secs(5));
    let tended = full.caller.tend(&second).await;
    assert_eq!(tended.standings, [Standing::Held]);
    assert!(!full.caller.has_its_turn(&first).await);
    assert_eq!(full.caller.tend(&first).await.standings, [Standing::Gone]);
}

async fn a_lease_that_runs_out_makes_room_for_who_waits(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let agent = caller.agent();
    caller.grant(&Acquire { limits: limit(1), ttl: secs(60), ..caller.ask(agent, "holder") }).await;
    let waiting = ticket(Acquire { limits: limit(1), ..caller.ask(agent, "waiting") }, caller.replica());
    caller.wait(&waiting).await;
    let due = caller.tend(&waiting).await.next_expiry_in;
    assert!(due <= secs(60) && due > secs(50), "{due:?}");
    fixture.advance(secs(60));
    assert_eq!(caller.tend(&waiting).await.standings, [Standing::Held]);
    assert_eq!(caller.usage(agent).await.used, 1);
}

async fn whoever_leaves_has_no_place_and_a_grant_that_was_not_claimed_goes_to_the_next(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let (first, second, third) =
        (full.waiter("first", 0).await, full.waiter("second", 0).await, full.waiter("third", 0).await);
    assert_eq!(full.caller.leave(&first).await, Left::Ticket);
    assert_eq!(full.caller.leave(&first).await, Left::Nothing);
    full.caller.release(&full.holder).await;
    assert!(full.caller.has_its_turn(&second).await);
    assert_eq!(full.caller.leave(&second).await, Left::Offer);
    assert!(!full.caller.has_its_turn(&second).await && full.caller.has_its_turn(&third).await);
    let usage = full.caller.usage(full.agent).await;
    assert_eq!((usage.used, usage.queued), (1, 0));
}

async fn a_slot_that_was_claimed_is_not_given_up_by_leaving(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let first = full.waiter("first", 0).await;
    full.caller.release(&full.holder).await;
    full.caller.existing(&first.acquire).await;
    assert_eq!(full.caller.leave(&first).await, Left::Nothing);
    assert!(full.caller.has_its_turn(&first).await);
}

async fn the_tickets_of_a_dead_replica_are_passed_over_and_removed(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let mut dead = Vec::new();
    for n in 0..250 {
        dead.push(full.waiter(&format!("dead-{n}"), 50).await);
    }
    let alive = ticket(full.ask("alive"), full.caller.replica());
    assert_eq!(full.caller.wait(&alive).await.position, 251);
    fixture.advance(secs(4));
    let mut looks = 0;
    while full.caller.tend(&alive).await.more {
        looks += 1;
        assert!(looks < 10, "it is not removed");
    }
    assert!(matches!(full.caller.tend(&alive).await.standings[..], [Standing::Waiting(place)] if place.position == 1));
    assert_eq!(full.caller.usage(full.agent).await.queued, 1);
    full.caller.release(&full.holder).await;
    assert!(full.caller.has_its_turn(&alive).await);
    assert_eq!(full.caller.tend(&dead[0]).await.standings, [Standing::Gone]);
}

async fn a_replica_that_was_taken_for_dead_gets_its_places_back(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let mut sleeper = full.ticket("sleeper", 0);
    sleeper.since = Some(full.caller.wait(&sleeper).await.since);
    let alive = ticket(full.ask("alive"), full.caller.replica());
    full.caller.wait(&alive).await;
    fixture.advance(secs(4));
    full.caller.tend(&alive).await;
    assert_eq!(full.caller.tend(&sleeper).await.standings, [Standing::Gone]);
    let place = full.caller.wait(&sleeper).await;
    assert_eq!((place.position, Some(place.since)), (1, sleeper.since));
    full.caller.release(&full.holder).await;
    assert!(full.caller.has_its_turn(&sleeper).await);
}

async fn who_was_passed_over_while_its_replica_slept_is_in_line_again(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let (first, second) = (full.waiter("first", 0).await, full.waiter("second", 0).await);
    fixture.advance(secs(4));
    // It comes free for nobody.
    full.caller.release(&full.holder).await;
    let holder = full.caller.grant(&full.ask("between")).await;
    for (ticket, position) in [(&first, 1), (&second, 2)] {
        let standings = full.caller.tend(ticket).await.standings;
        assert!(matches!(standings[..], [Standing::Waiting(place)] if place.position == position), "{standings:?}");
    }
    assert_eq!(full.caller.usage(full.agent).await.queued, 2);
    full.caller.release(&holder).await;
    assert!(full.caller.has_its_turn(&first).await);
}

async fn a_call_that_was_admitted_by_another_request_waits_no_longer(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let first = full.waiter("first", 0).await;
    let raised = Limits { agent_version: 2, ..limit(2) };
    let lease = full.caller.grant(&Acquire { limits: raised, ..full.ask("first") }).await;
    assert_eq!(full.caller.usage(full.agent).await.queued, 0);
    let tended = full.caller.tend(&first).await;
    assert_eq!((tended.standings, tended.wakes), (vec![Standing::Held], vec![(call("first"), Wake::Granted)]));
    assert!(full.caller.release(&lease).await.released);
    assert!(!full.caller.has_its_turn(&first).await, "a slot was given to a call that is over");
}

async fn a_call_that_waits_again_takes_its_ticket_over_with_its_place(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let former = full.waiter("call", 0).await;
    let second = full.waiter("second", 0).await;
    let elsewhere = ticket(full.ask("call"), full.caller.replica());
    assert_eq!(full.caller.wait(&elsewhere).await.position, 1);
    let tended = full.caller.tend(&former).await;
    assert_eq!(tended.standings, [Standing::TakenOver]);
    assert_eq!(tended.wakes, [(call("call"), Wake::TakenOver)]);
    assert_eq!(full.caller.leave(&former).await, Left::Nothing);
    assert_eq!(full.caller.usage(full.agent).await.queued, 2);

    // To another agent it comes anew, and leaves this one.
    let other = full.caller.agent();
    full.caller.grant(&Acquire { limits: limit(1), ..full.caller.ask(other, "its-holder") }).await;
    let moved = ticket(Acquire { limits: limit(1), ..full.caller.ask(other, "call") }, elsewhere.replica);
    assert_eq!(full.caller.wait(&moved).await.position, 1);
    assert_eq!(full.caller.usage(full.agent).await.queued, 1);
    full.caller.release(&full.holder).await;
    assert!(full.caller.has_its_turn(&second).await);
}

async fn a_full_queue_takes_nobody_new(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let short = |name: &str| Ticket { depth: 2, ..full.ticket(name, 100) };
    full.caller.wait(&short("first")).await;
    let place = full.caller.wait(&short("second")).await;
    assert_eq!(full.caller.enqueue(&short("third")).await, Enqueued::Full { queued: 2 });
    full.caller.wait(&short("first")).await;
    // One whose ticket was lost is not new.
    full.caller.wait(&Ticket { since: Some(place.since), ..short("lost") }).await;
}

async fn one_release_wakes_one_of_a_thousand(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let mut heard = full.caller.store.listen(full.replica);
    let mut tickets = Vec::new();
    for n in 0..1_000 {
        tickets.push(full.waiter(&format!("call-{n:04}"), 0).await);
    }
    full.caller.release(&full.holder).await;
    let next = async {
        loop {
            match heard.recv().await.expect("it goes on") {
                Heard::Missed => {}
                wake @ Heard::Wake(..) => return wake,
            }
        }
    };
    let wake = tokio::time::timeout(secs(5), next).await.expect("somebody is woken");
    assert_eq!(wake, Heard::Wake(full.caller.tenant, call("call-0000"), Wake::Granted));
    let more = tokio::time::timeout(Duration::from_millis(100), heard.recv()).await;
    assert!(more.is_err(), "{more:?}");
    let usage = full.caller.usage(full.agent).await;
    assert_eq!((usage.used, usage.queued), (1, 999));
}

async fn those_who_wait_for_outbound_slots_do_not_hold_up_the_reserve(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (agent, replica) = (caller.agent(), caller.replica());
    let limits = Limits { reserved_inbound: 1, ..limit(2) };
    let ask = |name: &str, direction| Acquire { limits, direction, ..caller.ask(agent, name) };
    let outbound = caller.grant(&ask("out", Direction::Outbound)).await;
    let inbound = caller.grant(&ask("in", Direction::Inbound)).await;
    for n in 0..300 {
        caller.wait(&ticket(ask(&format!("out-{n}"), Direction::Outbound), replica)).await;
    }
    let waiting = ticket(ask("next-in", Direction::Inbound), replica);
    assert_eq!(caller.wait(&waiting).await.position, 301);
    caller.release(&inbound).await;
    assert!(caller.has_its_turn(&waiting).await);
    caller.release(&outbound).await;
    let usage = caller.usage(agent).await;
    assert_eq!((usage.used, usage.used_outbound, usage.queued), (2, 1, 299));
}

async fn where_the_tenants_cap_binds_the_first_of_all_its_agents_is_served(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (one, other, replica) = (caller.agent(), caller.agent(), caller.replica());
    let limits = Limits { tenant_limit: 2, ..limit(10) };
    let ask = |agent, name: &str| Acquire { limits, ttl: secs(300), ..caller.ask(agent, name) };
    let holders = [caller.grant(&ask(one, "a")).await, caller.grant(&ask(one, "b")).await];
    let waiting = [
        ticket(ask(other, "first"), replica),
        ticket(ask(one, "second"), replica),
        ticket(ask(other, "third"), replica),
    ];
    for ticket in &waiting {
        caller.wait(ticket).await;
    }
    caller.release(&holders[0]).await;
    assert!(caller.has_its_turn(&waiting[0]).await && !caller.has_its_turn(&waiting[1]).await);
    caller.release(&holders[1]).await;
    assert!(caller.has_its_turn(&waiting[1]).await && !caller.has_its_turn(&waiting[2]).await);
    assert_eq!(caller.denial(&ask(one, "newcomer")).await.binding, BindingScope::Tenant);
    assert_eq!(caller.leave(&waiting[1]).await, Left::Offer);
    assert!(caller.has_its_turn(&waiting[2]).await);
    assert_eq!(caller.tenant_used().await, 2);
}

async fn a_lowered_limit_grants_to_nobody_and_a_raised_one_to_as_many_as_it_makes_room_for(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (agent, replica) = (caller.agent(), caller.replica());
    let ask = |limits, name: &str| Acquire { limits, ttl: secs(300), ..caller.ask(agent, name) };
    let mut holders = Vec::new();
    for n in 0..3 {
        holders.push(caller.grant(&ask(limit(3), &format!("holder-{n}"))).await);
    }
    let lowered = Limits { agent_version: 2, ..limit(2) };
    let mut waiting = Vec::new();
    for n in 0..5 {
        waiting.push(ticket(ask(lowered, &format!("waiting-{n}")), replica));
        caller.wait(&waiting[n]).await;
    }
    caller.release(&holders.remove(0)).await;
    assert_eq!((caller.usage(agent).await.used, caller.usage(agent).await.queued), (2, 5));
    caller.release(&holders.remove(0)).await;
    assert_eq!((caller.usage(agent).await.used, caller.usage(agent).await.queued), (2, 4));
    assert!(caller.has_its_turn(&waiting[0]).await);

    let raised = Limits { agent_version: 3, ..limit(5) };
    let news = Ticket { acquire: Acquire { limits: raised, ..waiting[4].acquire.clone() }, ..waiting[4].clone() };
    caller.tend(&news).await;
    assert_eq!((caller.usage(agent).await.used, caller.usage(agent).await.queued), (5, 1));
    assert!(!caller.has_its_turn(&waiting[4]).await);
}

async fn places_and_estimates_are_told(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let tickets = [full.ticket("a", 0), full.ticket("b", 0), full.ticket("c", 0), full.ticket("d", 0)];
    for (ticket, position) in tickets.iter().zip(1..) {
        let place = full.caller.wait(ticket).await;
        assert_eq!((place.position, place.estimate), (position, None), "there is nothing to go by");
    }
    let mut holder = full.holder.clone();
    for ticket in &tickets[..2] {
        fixture.advance(secs(2));
        full.caller.tend(ticket).await;
        full.caller.release(&holder).await;
        holder = full.caller.existing(&ticket.acquire).await;
    }
    let Standing::Waiting(place) = full.caller.tend(&tickets[3]).await.standings[0] else { panic!("it waits") };
    let estimate = place.estimate.expect("two slots came free, 2 s apart");
    assert_eq!(place.position, 2);
    assert!(estimate >= secs(4) && estimate < secs(8), "{estimate:?}");

    fixture.advance(secs(40));
    let Standing::Waiting(place) = full.caller.tend(&tickets[3]).await.standings[0] else { panic!("it waits") };
    assert!(place.estimate.expect("known") > estimate + secs(8), "a slot that is overdue counts");
}

async fn usage_counts_who_waits_and_how_long_the_first_has(fixture: &impl Fixture) {
    let full = Full::of(fixture).await;
    let usage = full.caller.usage(full.agent).await;
    assert_eq!((usage.queued, usage.oldest_waiter), (0, None));
    let first = full.waiter("first", 0).await;
    fixture.advance(secs(10));
    full.caller.tend(&first).await;
    let second = full.waiter("second", 0).await;
    let of_tenant = full.caller.store.tenant_usage(full.caller.tenant).await.expect("usage");
    for usage in [full.caller.usage(full.agent).await, of_tenant] {
        let oldest = usage.oldest_waiter.expect("somebody waits");
        assert_eq!(usage.queued, 2);
        assert!(oldest >= secs(10) && oldest < secs(14), "{oldest:?}");
    }
    for ticket in [first, second] {
        full.caller.leave(&ticket).await;
    }
    assert_eq!(full.caller.usage(full.agent).await.oldest_waiter, None);
    let other = full.caller.agent();
    assert_eq!(full.caller.usage(other).await.queued, 0);
}

async fn nothing_is_granted_above_the_limit_however_many_wait_and_leave(fixture: &impl Fixture) {
    let caller = Caller::of(fixture.store());
    let (agent, replica) = (caller.agent(), caller.replica());
    let ask = |name: String| Acquire { limits: limit(3), ..caller.ask(agent, &name) };
    let lives = (0..60).map(|n| {
        let (caller, ask) = (caller.clone(), ask(format!("call-{n}")));
        tokio::spawn(async move {
            for _ in 0..8 {
                let ticket = ticket(ask.clone(), replica);
                while matches!(caller.enqueue(&ticket).await, Enqueued::Waiting(_)) && n % 3 != 0 {
                    tokio::task::yield_now().await;
                }
                match caller.acquire(&ask).await {
                    Acquired::Granted { lease, usage } | Acquired::Existing { lease, usage } => {
                        assert!(usage.used <= 3, "{usage:?}");
                        caller.release(&lease).await;
                    }
                    Acquired::Denied(_) => drop(caller.leave(&ticket).await),
                    other @ Acquired::OtherAgent { .. } => panic!("{other:?}"),
                }
                assert!(caller.usage(agent).await.used <= 3);
            }
            caller.leave(&ticket(ask, replica)).await
        })
    });
    for life in futures_util::future::join_all(lives).await {
        life.expect("no panic");
    }
    let usage = caller.usage(agent).await;
    assert_eq!((usage.used, usage.queued), (0, 0));
}
