//! A media node that carries out each operation once, notes it, loses acknowledgements and streams, and comes back.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use voxgate::{
    domain::{Env, Timestamp},
    proto::v1::{
        CallAssigned, Command, CommandFailed, CommandResult, CommandSucceeded, Heartbeat, Hello, LiveCall, NodeMessage,
        Subprotocol, command::Verb, command_result::Result as Done, control_message::Message as Told,
        node_message::Message as Said, play_audio_command::Source,
    },
};

use super::Stage;

/// One acknowledgement in so many is dropped, if its command came for the first time.
const DROPS_ONE_IN: u32 = 20;
const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);
/// For how long an answer is said again on each new stream: the one before, or its replica, may have lost it. Twice the grace.
const SAID_AGAIN_FOR: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: String,
    known: Mutex<Known>,
    streams: AtomicUsize,
    dropped: AtomicUsize,
    repeated: AtomicUsize,
}

/// What outlasts a stream.
#[derive(Debug, Default)]
struct Known {
    /// By call, its lease.
    live: HashMap<String, String>,
    /// By operation, what became of it and when.
    answers: HashMap<String, (Done, Instant)>,
    /// By call, the numbers of the verbs that took effect, in that order.
    done: HashMap<String, Vec<u32>>,
}

impl Node {
    pub(super) fn new(id: String) -> Self {
        let (streams, dropped, repeated) = Default::default();
        Self { id, known: Mutex::default(), streams, dropped, repeated }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panicked")
    }

    pub(super) fn hosts(&self) -> usize {
        self.known().live.len()
    }

    pub(super) fn done(&self, call: &str) -> Vec<u32> {
        self.known().done.get(call).cloned().unwrap_or_default()
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    pub(super) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn repeated(&self) -> usize {
        self.repeated.load(Ordering::Relaxed)
    }

    /// One stream after another, at one replica or another, until it is stopped.
    pub(super) async fn live(self: Arc<Self>, stage: Arc<Stage>, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        loop {
            let replica = random.random_range(0..super::REPLICAS);
            let life = Duration::from_millis(random.random_range(1_000..6_000));
            // A stream that breaks is what this is about.
            let _ = self.connect(&stage, replica, life, &mut random).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(10..300))).await;
        }
    }

    async fn connect(
        &self,
        stage: &Stage,
        replica: usize,
        life: Duration,
        random: &mut SmallRng,
    ) -> Result<(), Status> {
        let (outbox, messages) = mpsc::channel(4_096);
        let say = |message: Said| {
            let sent = outbox.try_send(NodeMessage { message: Some(message) });
            sent.map_err(|_| Status::unavailable("the stream is gone"))
        };
        say(Said::Hello(self.hello()))?;
        let mut inbox = stage.caller(replica).nodes().connect(ReceiverStream::new(messages)).await?.into_inner();
        self.streams.fetch_add(1, Ordering::Relaxed);
        // What it answered before may have been lost with the stream, or with the replica.
        for result in self.recent_answers() {
            say(Said::CommandResult(result))?;
        }
        let mut beats = tokio::time::interval(HEARTBEAT_EVERY);
        let mut ends = pin!(stage.outlive(life));
        loop {
            tokio::select! {
                _ = beats.tick() => say(Said::Heartbeat(Heartbeat { calls: self.live_calls() }))?,
                () = &mut ends => return Ok(()),
                message = inbox.message() => match message?.and_then(|message| message.message) {
                    Some(Told::CallAssigned(assigned)) => self.assign(assigned),
                    Some(Told::Command(command)) => {
                        if let Some(result) = self.obey(command, random) {
                            say(Said::CommandResult(result))?;
                        }
                    }
                    Some(_) => {}
                    None => return Ok(()),
                },
            }
        }
    }

    fn recent_answers(&self) -> Vec<CommandResult> {
        let known = self.known();
        let recent = known.answers.iter().filter(|(_, (_, given_at))| given_at.elapsed() < SAID_AGAIN_FOR);
        let again = |(id, (done, _)): (&String, &(Done, Instant))| answer(id.clone(), done.clone());
        recent.map(again).collect()
    }

    fn hello(&self) -> Hello {
        Hello {
            node_id: self.id.clone(),
            subprotocol: Subprotocol::AudioDrachtioOrg.into(),
            sandbox: false,
            capacity: 1_000,
            version: "chaos".into(),
            calls: self.live_calls(),
        }
    }

    fn live_calls(&self) -> Vec<LiveCall> {
        let known = self.known();
        let live = known.live.iter();
        live.map(|(call, lease)| LiveCall { call_id: call.clone(), lease_id: lease.clone() }).collect()
    }

    fn assign(&self, assigned: CallAssigned) {
        let lease = assigned.slot.expect("a slot").lease_id;
        self.known().live.insert(assigned.call_id, lease);
    }

    /// Carries out what it does not know yet; nothing where the acknowledgement is dropped.
    fn obey(&self, command: Command, random: &mut SmallRng) -> Option<CommandResult> {
        let mut known = self.known();
        if let Some((done, _)) = known.answers.get(&command.operation_id) {
            self.repeated.fetch_add(1, Ordering::Relaxed);
            return Some(answer(command.operation_id, done.clone()));
        }
        let now = Env::system().now();
        let done = if command.deadline.is_some_and(|deadline| timestamp(&deadline) < now) {
            Done::Failed(CommandFailed { reason: "OPERATION_PENDING".into(), message: "too late to begin".into() })
        } else if known.live.contains_key(&command.call_id) {
            let number = number(command.verb.as_ref()).expect("a verb of this test");
            known.done.entry(command.call_id.clone()).or_default().push(number);
            Done::Succeeded(CommandSucceeded::default())
        } else {
            Done::Failed(CommandFailed { reason: "INVALID_CALL_STATE".into(), message: "not hosted".into() })
        };
        known.answers.insert(command.operation_id.clone(), (done.clone(), Instant::now()));
        if random.random_range(0..DROPS_ONE_IN) == 0 {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(answer(command.operation_id, done))
    }
}

const fn answer(operation_id: String, done: Done) -> CommandResult {
    CommandResult { operation_id, result: Some(done) }
}

/// Which of its call's verbs it is: each says so.
fn number(verb: Option<&Verb>) -> Option<u32> {
    match verb? {
        Verb::SendDtmf(dtmf) => dtmf.digits.parse().ok(),
        Verb::PlayAudio(play) => match play.source.as_ref()? {
            Source::TtsText(text) => text.parse().ok(),
            Source::AudioUrl(_) => None,
        },
        Verb::RecordingPause(pause) => pause.reason.as_ref()?.parse().ok(),
        _ => None,
    }
}

fn timestamp(wire: &prost_types::Timestamp) -> Timestamp {
    Timestamp::from_micros(wire.seconds * 1_000_000 + i64::from(wire.nanos) / 1_000)
}
