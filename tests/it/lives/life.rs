//! One call after the other: admitted, spoken about, and ended in one of many ways, or forgotten.

use std::{sync::Arc, time::Duration};

use prost_types::{Struct, Value, value::Kind};
use rand::{RngExt as _, rngs::SmallRng};
use tonic::{Code, Response, Status};
use voxgate::proto::v1::{
    AcquireSlotRequest, Direction, EndSessionRequest, HangupRequest, HoldRequest, LeadStatus, LogRequest,
    ReleaseSlotRequest, RequestSupervisorRequest, ScheduleCallbackRequest, SessionOutcome, SetDispositionRequest,
    SetLeadFieldRequest, SetLeadStatusRequest, Slot, TransferDestination, TransferRequest, UnholdRequest,
    end_session_request, transfer_destination::Destination,
};

use super::{Stage, is_passing};
use crate::harness::{
    client::Caller,
    world::{acquire, seconds, unique},
};

const STEPS_MAX: usize = 8;

/// Lives until none is left; answers the sessions.
pub(super) async fn live_all(stage: Arc<Stage>, agent: String, mut random: SmallRng) -> Vec<String> {
    let mut sessions = Vec::new();
    while stage.take_life() {
        let slot = begin(&stage, &agent, &mut random).await;
        for _ in 0..random.random_range(0..=STEPS_MAX) {
            step(&stage, &slot.call_id, &mut random).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
        }
        end(&stage, &slot, &mut random).await;
        sessions.push(slot.session_id);
    }
    sessions
}

async fn begin(stage: &Stage, agent: &str, random: &mut SmallRng) -> Slot {
    let direction = [Direction::Inbound, Direction::Outbound][random.random_range(0..2)];
    let request = AcquireSlotRequest {
        direction: direction.into(),
        lease_ttl: Some(seconds(10)),
        ..acquire(&unique("call"), agent)
    };
    stage
        .insist(|caller| {
            let request = request.clone();
            async move { caller.calls().acquire_slot(request).await }
        })
        .await
}

/// A verb, whatever comes of it: the call may have ended, and whoever is asked may be killed over it.
async fn step(stage: &Stage, call: &str, random: &mut SmallRng) {
    let (turn, number) = (random.random_range(0..2), random.random_range(0..1_000));
    let verb = random.random_range(0..9);
    let key = unique("verb");
    let once = |turn| {
        let asked = verb_of(stage.caller(turn), verb, number, call.to_owned(), key.clone());
        async move {
            let answer = tokio::time::timeout(Duration::from_secs(15), asked).await;
            if let Ok(Err(status)) = answer {
                let refused = [Code::FailedPrecondition, Code::NotFound, Code::ResourceExhausted];
                assert!(is_passing(&status) || refused.contains(&status.code()), "{status:?}");
            }
        }
    };
    // Now and then twice at once, under one key.
    if number % 10 == 0 {
        tokio::join!(once(turn), once(turn + 1));
    } else {
        once(turn).await;
    }
}

fn done<T>(answer: Result<Response<T>, Status>) -> Result<(), Status> {
    answer.map(drop)
}

async fn verb_of(
    caller: Caller,
    verb: u32,
    number: i32,
    call_id: String,
    idempotency_key: String,
) -> Result<(), Status> {
    let mut calls = caller.calls();
    match verb {
        0 | 1 => {
            let notes = (number % 2 == 0).then(|| format!("not\u{e9} {number}"));
            let disposition = format!("d{number}");
            done(calls.set_disposition(SetDispositionRequest { call_id, idempotency_key, disposition, notes }).await)
        }
        2 | 3 => {
            let (field, value) = (format!("f{}", number % 3), Some(value(number)));
            done(calls.set_lead_field(SetLeadFieldRequest { call_id, idempotency_key, field, value }).await)
        }
        4 => {
            let status =
                [LeadStatus::Connected, LeadStatus::Busy, LeadStatus::Pending][number.unsigned_abs() as usize % 3];
            let status = status.into();
            done(calls.set_lead_status(SetLeadStatusRequest { call_id, idempotency_key, status }).await)
        }
        5 => {
            let metadata = Some(object(number));
            done(calls.log(LogRequest { call_id, idempotency_key, metadata }).await)
        }
        6 => {
            let reason = "a question".to_owned();
            let request = RequestSupervisorRequest { call_id, idempotency_key, reason, ..Default::default() };
            done(calls.request_supervisor(request).await)
        }
        7 => {
            let in_an_hour = voxgate::domain::Env::system().now().as_secs() + 3_600;
            let scheduled_at = Some(prost_types::Timestamp { seconds: in_an_hour, nanos: 0 });
            let request = ScheduleCallbackRequest { call_id, idempotency_key, scheduled_at, ..Default::default() };
            done(calls.schedule_callback(request).await)
        }
        _ if number % 2 == 0 => done(calls.hold(HoldRequest { call_id, idempotency_key, ..Default::default() }).await),
        _ => done(calls.unhold(UnholdRequest { call_id, idempotency_key }).await),
    }
}

fn object(number: i32) -> Struct {
    Struct { fields: [("n".to_owned(), Value { kind: Some(Kind::NumberValue(number.into())) })].into() }
}

/// One of each kind.
fn value(number: i32) -> Value {
    let kind = match number % 5 {
        0 => Kind::NullValue(0),
        1 => Kind::NumberValue(f64::from(number) / 8.0),
        2 => Kind::BoolValue(true),
        3 => Kind::StructValue(object(number)),
        _ => Kind::StringValue(format!("\u{1f600} {number}")),
    };
    Value { kind: Some(kind) }
}

async fn end(stage: &Stage, slot: &Slot, random: &mut SmallRng) {
    let (call_id, lease_id) = (slot.call_id.clone(), slot.lease_id.clone());
    match random.random_range(0..6) {
        way @ 0..2 => {
            let outcome = [SessionOutcome::Unspecified, SessionOutcome::Completed][way];
            let request = ReleaseSlotRequest { call_id, lease_id, outcome: outcome.into() };
            stage
                .insist(|caller| {
                    let request = request.clone();
                    async move { caller.calls().release_slot(request).await }
                })
                .await;
        }
        2 => {
            let target = Some(end_session_request::Target::SessionId(slot.session_id.clone()));
            let request = EndSessionRequest { target, ..Default::default() };
            stage
                .insist(|caller| {
                    let request = request.clone();
                    async move { caller.sessions().end_session(request).await }
                })
                .await;
        }
        3 => {
            let request = HangupRequest { call_id, ..Default::default() };
            over(stage.caller(random.random_range(0..2)).calls().hangup(request).await);
        }
        4 => {
            let destination =
                Some(TransferDestination { destination: Some(Destination::AgentQueue("support".into())) });
            let request = TransferRequest { call_id, destination, ..Default::default() };
            over(stage.caller(random.random_range(0..2)).calls().transfer(request).await);
        }
        // Nobody says anything: its lease runs out, or its node leaves.
        _ => {}
    }
}

/// A verb that ends the call, if it is live and whoever is asked is too.
fn over<T>(answer: Result<Response<T>, Status>) {
    if let Err(status) = answer {
        let refused = [Code::FailedPrecondition, Code::NotFound];
        assert!(is_passing(&status) || refused.contains(&status.code()), "{status:?}");
    }
}
