//! AdmissionService: waiting for a slot, and watching how full an agent is. The order and the grants themselves are the
//! slot stores' (`conformance/slot_queue`); here is what callers see, on whichever replica they wait.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tonic::{Code, Status, Streaming};
use voxgate::proto::v1::{
    AcquireSlotRequest, AwaitSlotRequest, AwaitSlotResponse, DeleteVoiceAgentRequest, Direction,
    PauseVoiceAgentRequest, Slot, UpdateVoiceAgentRequest, Usage, VoiceAgent, Waiting, WatchUsageRequest,
    await_slot_response::Update,
};

use crate::harness::{
    client::{Explained as _, faults, granted, refused, within},
    pair::Pair,
    postgres, redis,
    server::{Backend, TestServer},
    world::{World, acquire, eventually, minimal_agent, on_both_backends, seconds, unique},
};

on_both_backends!(
    a_call_that_finds_a_slot_free_is_granted_it_at_once,
    a_call_that_waits_is_told_its_place_and_then_its_slot,
    a_release_wakes_the_first,
    a_caller_that_hangs_up_leaves_and_leaks_nothing,
    whoever_waits_no_longer_than_it_would_is_told_so,
    a_wait_is_bounded_by_the_callers_own_deadline,
    faulty_waits_are_refused_by_name,
    an_agent_that_is_paused_or_deleted_is_waited_for_no_longer,
    a_raised_limit_is_granted_without_any_release,
    the_same_call_awaited_again_takes_its_place_over,
    a_call_that_is_live_is_answered_its_own_slot,
    validate_only_answers_and_waits_for_nothing,
    a_newcomer_does_not_pass_those_who_wait,
    racing_waiters_and_hangups_leave_every_slot_free,
    usage_is_told_at_once_and_then_when_it_changes,
    a_watch_of_what_is_deleted_ends,
);

fn wait_for(call: &str, agent: &str, max_wait: i64) -> AwaitSlotRequest {
    AwaitSlotRequest {
        call_id: call.to_owned(),
        voice_agent_id: Some(agent.to_owned()),
        lease_ttl: Some(seconds(60)),
        max_wait: Some(seconds(max_wait)),
        ..AwaitSlotRequest::default()
    }
}

/// A stream of AwaitSlot, read message by message.
struct Wait(Streaming<AwaitSlotResponse>);

impl Wait {
    async fn with(world: &World, request: AwaitSlotRequest) -> Self {
        Self(granted(world.caller.calls().await_slot(request).await))
    }

    async fn of(world: &World, agent: &str) -> Self {
        Self::with(world, wait_for(&unique("call"), agent, 60)).await
    }

    async fn next(&mut self) -> Result<Option<Update>, Status> {
        let next = tokio::time::timeout(Duration::from_secs(30), self.0.message()).await.expect("something is told");
        next.map(|message| message.map(|message| message.update.expect("an update")))
    }

    async fn place(&mut self) -> Waiting {
        match self.next().await {
            Ok(Some(Update::Waiting(place))) => place,
            other => panic!("expected a place, got {other:?}"),
        }
    }

    /// The slot, which is the last message.
    async fn slot(&mut self) -> Slot {
        loop {
            match self.next().await {
                Ok(Some(Update::Waiting(_))) => {}
                Ok(Some(Update::Slot(slot))) => {
                    assert!(matches!(self.next().await, Ok(None)), "the stream ends with the slot");
                    return slot;
                }
                other => panic!("expected a slot, got {other:?}"),
            }
        }
    }

    /// The error that ends the wait.
    async fn error(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(Update::Waiting(_))) => {}
                Err(status) => return status,
                other => panic!("expected an error, got {other:?}"),
            }
        }
    }
}

/// Waits until as many wait for the agent.
async fn queued(world: &World, agent: &str, count: i32) -> Usage {
    let waiting = async || Some(world.usage(agent).await).filter(|usage| usage.queued == count);
    eventually("as many who wait", waiting).await
}

async fn a_call_that_finds_a_slot_free_is_granted_it_at_once(world: World) {
    let agent = world.agent(1).await;
    let slot = Wait::of(&world, &agent.id).await.slot().await;
    assert!(slot.session_id.starts_with("ses_") && slot.callback_token.starts_with("vg_cb_"));
    assert_eq!(world.usage(&agent.id).await.used, 1);
    assert!(world.release(&slot).await);
}

async fn a_call_that_waits_is_told_its_place_and_then_its_slot(world: World) {
    let agent = world.agent(1).await;
    let holder = world.admit(&agent.id).await;
    let mut first = Wait::of(&world, &agent.id).await;
    assert_eq!(first.place().await.position, 1);
    let mut second = Wait::of(&world, &agent.id).await;
    assert_eq!(second.place().await.position, 2);
    let usage = queued(&world, &agent.id, 2).await;
    assert!(usage.oldest_waiter.is_some());

    world.release(&holder).await;
    let slot = first.slot().await;
    assert_eq!(world.session(&slot).await.call_id, slot.call_id);
    assert_eq!((slot.revision, slot.usage.clone().expect("usage").used), (1, 1));
    assert_eq!(second.place().await.position, 1, "who is next is told so");
    world.release(&slot).await;
    world.release(&second.slot().await).await;
    let usage = world.usage(&agent.id).await;
    assert_eq!((usage.used, usage.queued), (0, 0));
}

async fn a_release_wakes_the_first(world: World) {
    let agent = world.agent(1).await;
    let holder = world.admit(&agent.id).await;
    wakes(&world, &world, &agent.id, holder, 20).await;
}

/// Time after time one waits `there` for the slot that is released `here`, and is woken by that. Answers the last slot.
async fn wakes(here: &World, there: &World, agent: &str, mut holder: Slot, times: usize) -> Slot {
    let mut took = Vec::new();
    for _ in 0..times {
        let mut wait = Wait::of(there, agent).await;
        wait.place().await;
        let released = Instant::now();
        here.release(&holder).await;
        holder = wait.slot().await;
        took.push(released.elapsed());
    }
    took.sort();
    let half = took[times / 2];
    println!("from release to grant: half within {half:?}");
    // Who is not woken looks a second later: on any machine, these were woken.
    assert!(half < Duration::from_millis(500), "{took:?}");
    holder
}

async fn a_caller_that_hangs_up_leaves_and_leaks_nothing(world: World) {
    let agent = world.agent(1).await;
    let holder = world.admit(&agent.id).await;
    let mut gone = Wait::of(&world, &agent.id).await;
    gone.place().await;
    let mut stays = Wait::of(&world, &agent.id).await;
    assert_eq!(stays.place().await.position, 2);
    drop(gone);
    queued(&world, &agent.id, 1).await;
    world.release(&holder).await;
    world.release(&stays.slot().await).await;
    assert_eq!(world.usage(&agent.id).await.used, 0);
}

async fn whoever_waits_no_longer_than_it_would_is_told_so(world: World) {
    let agent = world.agent(1).await;
    world.admit(&agent.id).await;
    let error = Wait::with(&world, wait_for(&unique("call"), &agent.id, 1)).await.error().await;
    assert_eq!((error.code(), error.reason().as_str()), (Code::ResourceExhausted, "QUEUE_TIMEOUT"));
    let metadata = error.metadata_of_reason();
    assert_eq!(metadata["voice_agent_id"], agent.id);
    assert!(error.retry_delay().is_some());
    let waited: u64 = metadata["waited_ms"].parse().expect("a number");
    assert!((1_000..3_000).contains(&waited), "{waited}");
    queued(&world, &agent.id, 0).await;

    let at_once = world.caller.calls().await_slot(wait_for(&unique("call"), &agent.id, 0)).await;
    refused(at_once, Code::ResourceExhausted, "QUEUE_TIMEOUT");
}

async fn a_wait_is_bounded_by_the_callers_own_deadline(world: World) {
    let agent = world.agent(1).await;
    world.admit(&agent.id).await;
    let request = within(Duration::from_secs(1), wait_for(&unique("call"), &agent.id, 60));
    let mut wait = Wait(granted(world.caller.calls().await_slot(request).await));
    wait.place().await;
    let error = wait.error().await;
    assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error:?}");
    queued(&world, &agent.id, 0).await;
}

async fn faulty_waits_are_refused_by_name(world: World) {
    let wait = AwaitSlotRequest {
        call_id: String::new(),
        priority: 101,
        max_wait: Some(seconds(121)),
        lease_ttl: Some(seconds(1)),
        ..AwaitSlotRequest::default()
    };
    let mut fields = faults(world.caller.calls().await_slot(wait).await);
    fields.sort();
    assert_eq!(fields, ["call_id", "lease_ttl", "max_wait", "priority"]);
    let unknown = world.caller.calls().await_slot(wait_for("call", &uuid(), 1)).await;
    refused(unknown, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
}

fn uuid() -> String {
    voxgate::domain::Env::system().uuid().to_string()
}

async fn an_agent_that_is_paused_or_deleted_is_waited_for_no_longer(world: World) {
    let agent = world.agent(1).await;
    let holder = world.admit(&agent.id).await;
    let mut wait = Wait::of(&world, &agent.id).await;
    wait.place().await;
    let id = agent.id.clone();
    granted(world.caller.agents().pause_voice_agent(PauseVoiceAgentRequest { id, ..Default::default() }).await);
    let error = wait.error().await;
    assert_eq!((error.code(), error.reason().as_str()), (Code::FailedPrecondition, "VOICE_AGENT_PAUSED"));
    world.release(&holder).await;
    assert_eq!(world.usage(&agent.id).await.used, 0, "nobody is granted a slot of it");

    let agent = world.agent(1).await;
    world.admit(&agent.id).await;
    let mut wait = Wait::of(&world, &agent.id).await;
    wait.place().await;
    let request = DeleteVoiceAgentRequest { id: agent.id.clone(), force: true, ..Default::default() };
    granted(world.caller.agents().delete_voice_agent(request).await);
    let error = wait.error().await;
    assert_eq!((error.code(), error.reason().as_str()), (Code::NotFound, "VOICE_AGENT_NOT_FOUND"));
}

async fn a_raised_limit_is_granted_without_any_release(world: World) {
    let agent = world.agent(1).await;
    world.admit(&agent.id).await;
    let mut wait = Wait::of(&world, &agent.id).await;
    wait.place().await;
    let changed = VoiceAgent { id: agent.id.clone(), max_concurrent: Some(2), ..VoiceAgent::default() };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(changed), update_mask: None };
    granted(world.caller.agents().update_voice_agent(request).await);
    let slot = wait.slot().await;
    assert_eq!(slot.usage.expect("usage").used, 2);
}

async fn the_same_call_awaited_again_takes_its_place_over(world: World) {
    let agent = world.agent(1).await;
    let holder = world.admit(&agent.id).await;
    let call = unique("call");
    let mut former = Wait::with(&world, wait_for(&call, &agent.id, 60)).await;
    former.place().await;
    let mut behind = Wait::of(&world, &agent.id).await;
    behind.place().await;
    let mut again = Wait::with(&world, wait_for(&call, &agent.id, 60)).await;
    assert_eq!(again.place().await.position, 1);
    let error = former.error().await;
    assert_eq!((error.code(), error.reason().as_str()), (Code::Aborted, "IDEMPOTENCY_IN_PROGRESS"));
    drop(former);
    queued(&world, &agent.id, 2).await;
    world.release(&holder).await;
    assert_eq!(again.slot().await.call_id, call);
}

async fn a_call_that_is_live_is_answered_its_own_slot(world: World) {
    let agent = world.agent(1).await;
    let holder = world.admit(&agent.id).await;
    let again = Wait::with(&world, wait_for(&holder.call_id, &agent.id, 60)).await.slot().await;
    assert_eq!((again.lease_id, again.session_id), (holder.lease_id.clone(), holder.session_id.clone()));

    // One that waits is answered what another request of it was granted meanwhile.
    let call = unique("call");
    let mut wait = Wait::with(&world, wait_for(&call, &agent.id, 60)).await;
    wait.place().await;
    world.release(&holder).await;
    let slot = granted(world.try_admit(acquire(&call, &agent.id)).await);
    let waited = wait.slot().await;
    assert_eq!((waited.lease_id, waited.session_id), (slot.lease_id, slot.session_id));
}

async fn validate_only_answers_and_waits_for_nothing(world: World) {
    let agent = world.agent(1).await;
    let look = || AwaitSlotRequest { validate_only: true, ..wait_for(&unique("call"), &agent.id, 60) };
    let slot = Wait::with(&world, look()).await.slot().await;
    assert!(slot.session_id.is_empty() && slot.lease_id.is_empty());
    let holder = world.admit(&agent.id).await;
    let mut wait = Wait::of(&world, &agent.id).await;
    wait.place().await;
    let mut looked = Wait::with(&world, look()).await;
    assert_eq!(looked.place().await.position, 2);
    assert!(matches!(looked.next().await, Ok(None)));
    queued(&world, &agent.id, 1).await;
    world.release(&holder).await;
    wait.slot().await;
}

async fn a_newcomer_does_not_pass_those_who_wait(world: World) {
    let agent = world.agent(1).await;
    let holder = world.admit(&agent.id).await;
    let mut wait = Wait::of(&world, &agent.id).await;
    wait.place().await;
    let newcomers: Vec<_> = (0..20)
        .map(|_| {
            let (world, request) = (world.clone(), acquire(&unique("call"), &agent.id));
            tokio::spawn(async move { world.try_admit(request).await })
        })
        .collect();
    world.release(&holder).await;
    for newcomer in newcomers {
        refused(newcomer.await.expect("no panic"), Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
    }
    wait.slot().await;
}

async fn racing_waiters_and_hangups_leave_every_slot_free(world: World) {
    let agent = world.agent(3).await;
    let lives: Vec<_> = (0..60_u64)
        .map(|n| {
            let (world, agent) = (world.clone(), agent.id.clone());
            tokio::spawn(async move {
                for round in 0..4 {
                    let request = AwaitSlotRequest {
                        direction: if n % 2 == 0 { Direction::Inbound } else { Direction::Outbound }.into(),
                        ..wait_for(&unique("call"), &agent, 60)
                    };
                    let mut wait = Wait::with(&world, request).await;
                    if n % 3 == 0 {
                        // Hangs up at any moment, also in that of the grant.
                        let patience = Duration::from_millis((n * 7 + round * 13) % 60);
                        match tokio::time::timeout(patience, wait.next()).await {
                            Err(_) => continue,
                            Ok(Ok(Some(Update::Slot(slot)))) => {
                                world.release(&slot).await;
                                continue;
                            }
                            Ok(_) => {}
                        }
                    }
                    world.release(&wait.slot().await).await;
                }
            })
        })
        .collect();
    for life in lives {
        life.await.expect("no panic");
    }
    world.freed(&agent.id).await;
    queued(&world, &agent.id, 0).await;
}

async fn watch(world: &World, agent: Option<&str>) -> Streaming<Usage> {
    let request = WatchUsageRequest { voice_agent_id: agent.map(ToOwned::to_owned) };
    granted(world.caller.calls().watch_usage(request).await)
}

/// Reads until the state is as it should be.
async fn until(watch: &mut Streaming<Usage>, expected: impl Fn(&Usage) -> bool) -> Usage {
    let read = async {
        loop {
            let usage = watch.message().await.expect("it goes on").expect("it goes on");
            if expected(&usage) {
                return usage;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), read).await.expect("it is told")
}

async fn usage_is_told_at_once_and_then_when_it_changes(world: World) {
    let agent =
        world.create(VoiceAgent { reserved_inbound: Some(1), max_concurrent: Some(2), ..minimal_agent() }).await;
    let (mut of_agent, mut of_tenant) = (watch(&world, Some(&agent.id)).await, watch(&world, None).await);
    let first = of_agent.message().await.expect("told").expect("told");
    assert_eq!((first.used, first.limit, first.reserved_inbound, first.queued), (0, 2, 1, 0));
    assert_eq!(first.voice_agent_id, agent.id);
    assert_eq!(of_tenant.message().await.expect("told").expect("told").voice_agent_id, "");

    let holders = [world.admit(&agent.id).await, world.admit(&agent.id).await];
    until(&mut of_agent, |usage| usage.used == 2).await;
    until(&mut of_tenant, |usage| usage.used == 2).await;
    let mut wait = Wait::of(&world, &agent.id).await;
    wait.place().await;
    assert!(until(&mut of_agent, |usage| usage.queued == 1).await.oldest_waiter.is_some());
    assert!(until(&mut of_tenant, |usage| usage.queued == 1).await.oldest_waiter.is_some());
    world.release(&holders[0]).await;
    wait.slot().await;
    until(&mut of_agent, |usage| (usage.used, usage.queued) == (2, 0)).await;

    // While nothing changes nothing is told, and changes in quick succession come as few.
    let silence = tokio::time::timeout(Duration::from_millis(700), of_agent.message()).await;
    assert!(silence.is_err(), "{silence:?}");
    let began = Instant::now();
    world.release(&holders[1]).await;
    for _ in 0..30 {
        let slot = world.admit(&agent.id).await;
        world.release(&slot).await;
    }
    // However long the machine takes for the first, then until there is silence.
    of_agent.message().await.expect("told").expect("told");
    let mut told = 1;
    while tokio::time::timeout(Duration::from_millis(700), of_agent.message()).await.is_ok() {
        told += 1;
    }
    let most = 2 + began.elapsed().as_millis() / 100;
    assert!(told <= most, "{told} of at most {most}");
}

async fn a_watch_of_what_is_deleted_ends(world: World) {
    let agent = world.agent(1).await;
    let mut watches = [watch(&world, Some(&agent.id)).await, watch(&world, Some(&agent.id)).await];
    for watch in &mut watches {
        watch.message().await.expect("told").expect("told");
    }
    let request = DeleteVoiceAgentRequest { id: agent.id.clone(), ..Default::default() };
    granted(world.caller.agents().delete_voice_agent(request).await);
    for watch in &mut watches {
        let ended = tokio::time::timeout(Duration::from_secs(30), watch.message()).await.expect("it ends");
        assert_eq!(ended.expect_err("it is gone").reason(), "VOICE_AGENT_NOT_FOUND");
    }
    let request = WatchUsageRequest { voice_agent_id: Some(agent.id) };
    refused(world.caller.calls().watch_usage(request).await, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
}

#[tokio::test]
async fn a_queue_takes_as_many_as_it_is_configured_to() {
    let server = TestServer::embedded_with("[calls]\nqueue_depth = 1\nqueue_max_waiters = 2\n");
    let world = World::on(&server.addr, &server.admin_key).await;
    let (agent, other) = (world.agent(1).await, world.agent(1).await);
    for agent in [&agent, &other] {
        world.admit(&agent.id).await;
    }
    let mut first = Wait::of(&world, &agent.id).await;
    first.place().await;
    let full = world.caller.calls().await_slot(wait_for(&unique("call"), &agent.id, 60)).await;
    let full = refused(full, Code::ResourceExhausted, "QUEUE_FULL");
    let metadata = full.metadata_of_reason();
    assert_eq!((metadata["queued"].as_str(), metadata["limit"].as_str()), ("1", "1"));
    assert!(full.retry_delay().is_some());

    let third = world.agent(1).await;
    world.admit(&third.id).await;
    let mut second = Wait::of(&world, &other.id).await;
    second.place().await;
    let over = world.caller.calls().await_slot(wait_for(&unique("call"), &third.id, 60)).await;
    refused(over, Code::Unavailable, "OVERLOADED");
}

#[tokio::test]
async fn a_server_that_stops_sends_its_waiters_elsewhere_and_leaves_no_ticket() {
    let Pair { redis: _redis, servers: [first, _second], worlds: [world, elsewhere], .. } = Pair::start().await;
    let agent = world.agent(1).await;
    let holder = world.admit(&agent.id).await;
    let mut watch = watch(&world, Some(&agent.id)).await;
    let mut stopped = Wait::of(&world, &agent.id).await;
    stopped.place().await;
    let mut stays = Wait::of(&elsewhere, &agent.id).await;
    assert_eq!(stays.place().await.position, 2);

    first.signal("TERM");
    let error = stopped.error().await;
    assert_eq!((error.code(), error.reason().as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    let ended = async {
        while watch.message().await?.is_some() {}
        Ok::<_, Status>(())
    }
    .await;
    assert_eq!(ended.expect_err("it ends").reason(), "SHUTTING_DOWN");
    queued(&elsewhere, &agent.id, 1).await;
    elsewhere.release(&holder).await;
    stays.slot().await;
}

#[tokio::test]
async fn a_slot_freed_on_one_replica_wakes_the_first_on_another_and_a_killed_ones_tickets_are_passed_over() {
    let Pair { redis, servers: [_first, second], worlds: [world, elsewhere], .. } = Pair::start().await;
    let agent = world.agent(1).await;
    let mut holder = wakes(&world, &elsewhere, &agent.id, world.admit(&agent.id).await, 10).await;

    // The messages are lost: what they said is found by looking.
    redis.command("CLIENT KILL TYPE pubsub");
    let mut wait = Wait::of(&elsewhere, &agent.id).await;
    wait.place().await;
    redis.command("CLIENT KILL TYPE pubsub");
    world.release(&holder).await;
    let released = Instant::now();
    holder = wait.slot().await;
    assert!(released.elapsed() < Duration::from_secs(3), "{:?}", released.elapsed());

    let mut doomed = Wait::of(&elsewhere, &agent.id).await;
    doomed.place().await;
    let mut survivor = Wait::of(&world, &agent.id).await;
    assert_eq!(survivor.place().await.position, 2);
    second.kill();
    // The dead are removed.
    while survivor.place().await.position != 1 {}
    world.release(&holder).await;
    survivor.slot().await;
}

#[tokio::test]
async fn those_who_wait_keep_their_order_though_redis_lost_everything() {
    let (database, redis) = (postgres::fresh_database(), redis::PrivateRedis::start());
    let server = TestServer::production(&database, redis.url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(1).await;
    // The shortest lease, which is how long the store then recovers.
    let short = AcquireSlotRequest { lease_ttl: Some(seconds(10)), ..acquire(&unique("call"), &agent.id) };
    granted(world.try_admit(short).await);
    let mut waits = Vec::new();
    for _ in 0..3 {
        let mut wait = Wait::of(&world, &agent.id).await;
        wait.place().await;
        waits.push(wait);
    }
    redis.command("FLUSHALL");
    // All stand again as they stood before the first slot is granted.
    let mut order = Vec::new();
    while !waits.is_empty() {
        let next = async |waits: &mut Vec<Wait>| {
            for n in (0..waits.len()).cycle() {
                if let Ok(Ok(Some(Update::Slot(slot)))) =
                    tokio::time::timeout(Duration::from_millis(20), waits[n].next()).await
                {
                    waits.remove(n);
                    return (n, slot);
                }
            }
            unreachable!("it goes round")
        };
        let (place, slot) = tokio::time::timeout(Duration::from_secs(20), next(&mut waits)).await.expect("a slot");
        order.push(place);
        world.release(&slot).await;
    }
    assert_eq!(order, [0, 0, 0]);
}

/// One server of each kind is enough: who may call is the matrix' subject.
#[tokio::test]
async fn waits_are_measured() {
    let server = TestServer::shared(Backend::Embedded);
    let world = World::on(&server.addr, &server.admin_key).await;
    let agent = world.agent(1).await;
    world.admit(&agent.id).await;
    let mut wait = Wait::of(&world, &agent.id).await;
    wait.place().await;
    drop(wait);
    queued(&world, &agent.id, 0).await;
    let metrics = server.get("/metrics").expect("it is served");
    for name in
        ["voxgate_queue_waiting", "voxgate_queue_waits_total{outcome=\"CANCELLED\"}", "voxgate_queue_wait_seconds"]
    {
        assert!(metrics.contains(name), "{name}");
    }
}
