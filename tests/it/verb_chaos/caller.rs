//! Who drives one call: verb by verb, each until it is known what became of it.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::SmallRng};
use tokio::time::Instant;
use tonic::{Code, Status};
use voxgate::proto::v1::{GetOperationRequest, OperationState, PlayAudioRequest, SendDtmfRequest};

use super::Stage;
use crate::harness::client::Explained as _;

/// How long a verb's fate may stay unknown: the patience of the service (10 s), the grace (30 s), and as much again.
const RESOLVED_WITHIN: Duration = Duration::from_secs(80);
/// What a caller waits at most before it asks again, at first and in the end: hundreds who do not wait longer and longer
/// keep replicas that start again from ever catching up.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What a caller has come to know of one verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was answered so.
    Succeeded,
    /// It was not known at first, and GetOperation told.
    FoundSucceeded,
    Failed,
    Unresolved,
}

impl Fate {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "answered",
            Self::FoundSucceeded => "found to have succeeded",
            Self::Failed => "failed",
            Self::Unresolved => "unresolved",
        }
    }
}

pub(super) async fn drive(stage: Arc<Stage>, call: String, mut random: SmallRng) -> Vec<Fate> {
    let mut fates = Vec::new();
    while stage.take_verb() {
        let fate = ask(&stage, &call, fates.len(), &mut random).await;
        fates.push(fate);
        if fate == Fate::Unresolved {
            break;
        }
    }
    fates
}

async fn ask(stage: &Stage, call: &str, number: usize, random: &mut SmallRng) -> Fate {
    let give_up = Instant::now() + RESOLVED_WITHIN;
    let is_dtmf = random.random_range(0..2) == 0;
    let (mut wait, longest) = WAITS;
    while Instant::now() < give_up {
        let replica = random.random_range(0..super::REPLICAS);
        let answer = once(stage, replica, call, number, is_dtmf).await;
        // The same once more is what a network that stutters does.
        if random.random_range(0..10) == 0 {
            let _ = once(stage, replica + 1, call, number, is_dtmf).await;
        }
        let status = match answer {
            Ok(()) => return Fate::Succeeded,
            Err(status) => status,
        };
        match status.code() {
            Code::FailedPrecondition => {
                assert_eq!(status.reason(), "INVALID_CALL_STATE", "{status:?}");
                return Fate::Failed;
            }
            Code::DeadlineExceeded => {
                if let Some(operation) = operation_of(&status)
                    && let Some(fate) = resolved(stage, &operation, random, give_up).await
                {
                    return fate;
                }
            }
            // Refused for now, or nobody knows whether it was heard: the key makes it safe to ask again.
            Code::Unavailable | Code::Aborted | Code::ResourceExhausted | Code::Unknown | Code::Cancelled => {}
            _ => panic!("an answer that nobody should get: {status:?}"),
        }
        tokio::time::sleep(random.random_range(wait / 5..wait)).await;
        wait = (wait * 2).min(longest);
    }
    Fate::Unresolved
}

async fn once(stage: &Stage, replica: usize, call: &str, number: usize, is_dtmf: bool) -> Result<(), Status> {
    let mut calls = stage.caller(replica).calls();
    let (call_id, idempotency_key) = (call.to_owned(), format!("verb-{number}"));
    let work = async {
        if is_dtmf {
            let digits = number.to_string();
            calls.send_dtmf(SendDtmfRequest { call_id, idempotency_key, digits }).await.map(|_| ())
        } else {
            let tts_text = Some(number.to_string());
            let request = PlayAudioRequest { call_id, idempotency_key, tts_text, ..PlayAudioRequest::default() };
            calls.play_audio(request).await.map(|_| ())
        }
    };
    let answer = tokio::time::timeout(Duration::from_secs(15), work).await;
    answer.unwrap_or_else(|_| Err(Status::unavailable("no answer")))
}

fn operation_of(status: &Status) -> Option<String> {
    // A deadline that the channel has set knows of no operation.
    if status.details().is_empty() {
        return None;
    }
    status.metadata_of_reason().get("operation_id").cloned()
}

/// What GetOperation tells in the end; nothing if it does not in time.
async fn resolved(stage: &Stage, operation: &str, random: &mut SmallRng, give_up: Instant) -> Option<Fate> {
    while Instant::now() < give_up {
        let request = GetOperationRequest { operation_id: operation.to_owned() };
        let replica = random.random_range(0..super::REPLICAS);
        if let Ok(found) = stage.caller(replica).sessions().get_operation(request).await {
            match found.get_ref().state() {
                OperationState::Succeeded => return Some(Fate::FoundSucceeded),
                OperationState::Failed => return Some(Fate::Failed),
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    None
}
