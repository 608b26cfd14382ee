//! A media node that obeys, reports what it likes of its calls, and comes and goes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use voxgate::proto::v1::{
    Answered, CallEvent, CallerHangup, CommandFailed, CommandResult, CommandSucceeded, Heartbeat, Hello, LiveCall,
    NodeMessage, RecordingReady, Subprotocol, TurnCount, WsConnected, WsDisconnected, call_event::Event,
    command_result::Result as Done, control_message::Message as Told, node_message::Message as Said,
};

use super::Stage;
use crate::harness::world::{seconds, unique};

const REPORTS_EVERY: Duration = Duration::from_millis(40);
/// Reports between two heartbeats.
const HEARTBEAT_EACH: u32 = 20;

/// By call, its lease.
type Live = HashMap<String, String>;

/// One stream after another, at one replica or another, until it is all over.
pub(super) async fn live(stage: Arc<Stage>, id: String, seed: u64) {
    let (mut random, mut live) = (SmallRng::seed_from_u64(seed), Live::default());
    while !stage.is_over.load(Ordering::Relaxed) {
        // A stream that breaks is what this is about.
        let _ = connected(&stage, &id, &mut live, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(10..500))).await;
    }
}

fn live_calls(live: &Live) -> Vec<LiveCall> {
    live.iter().map(|(call, lease)| LiveCall { call_id: call.clone(), lease_id: lease.clone() }).collect()
}

async fn connected(stage: &Stage, id: &str, live: &mut Live, random: &mut SmallRng) -> Result<(), Status> {
    let (outbox, messages) = mpsc::channel(1_024);
    let say = |message: Said| {
        let sent = outbox.try_send(NodeMessage { message: Some(message) });
        sent.map_err(|_| Status::unavailable("the stream is gone"))
    };
    say(Said::Hello(Hello {
        node_id: id.to_owned(),
        subprotocol: Subprotocol::AudioDrachtioOrg.into(),
        sandbox: stage.sandbox,
        capacity: 1_000,
        version: "lives".into(),
        calls: live_calls(live),
    }))?;
    let replica = random.random_range(0..2);
    let mut inbox = stage.caller(replica).nodes().connect(ReceiverStream::new(messages)).await?.into_inner();
    let mut reports = tokio::time::interval(REPORTS_EVERY);
    let (leaves_at, mut told) = (Instant::now() + Duration::from_millis(random.random_range(500..5_000)), 0_u32);
    while Instant::now() < leaves_at && !stage.is_over.load(Ordering::Relaxed) {
        tokio::select! {
            _ = reports.tick() => {
                told += 1;
                if told.is_multiple_of(HEARTBEAT_EACH) {
                    say(Said::Heartbeat(Heartbeat { calls: live_calls(live) }))?;
                }
                if let Some(report) = report(live, random) {
                    say(Said::CallEvent(report))?;
                }
            }
            message = inbox.message() => match message?.and_then(|message| message.message) {
                Some(Told::CallAssigned(assigned)) => {
                    live.insert(assigned.call_id, assigned.slot.expect("a slot").lease_id);
                }
                Some(Told::Command(command)) => {
                    let result = if live.contains_key(&command.call_id) && random.random_range(0..10) > 0 {
                        Done::Succeeded(CommandSucceeded::default())
                    } else {
                        Done::Failed(CommandFailed { reason: "NODE_REJECTED".into(), message: "as it likes".into() })
                    };
                    say(Said::CommandResult(CommandResult { operation_id: command.operation_id, result: Some(result) }))?;
                }
                Some(Told::EndCall(ended)) => drop(live.remove(&ended.call_id)),
                Some(Told::LeaseLost(lost)) => drop(live.remove(&lost.call_id)),
                Some(_) => {}
                None => return Ok(()),
            },
        }
    }
    Ok(())
}

/// Something of one of its calls; also what it has said before.
fn report(live: &Live, random: &mut SmallRng) -> Option<CallEvent> {
    let (call, _) = live.iter().nth(random.random_range(0..live.len().max(1)))?;
    let event = match random.random_range(0..24) {
        0..6 => Event::Answered(Answered {}),
        6 => Event::WsConnected(WsConnected {}),
        7..10 => Event::TurnCount(TurnCount { turns: random.random_range(1..20) }),
        10..13 => {
            let url = format!("https://media.example/{}.wav", unique("recording"));
            Event::RecordingReady(RecordingReady { url, stereo: true, duration: Some(seconds(3)) })
        }
        13 => Event::CallerHangup(CallerHangup {}),
        14 => Event::WsDisconnected(WsDisconnected::default()),
        _ => return None,
    };
    Some(CallEvent { call_id: call.clone(), occurred_at: None, event: Some(event) })
}
