//! A media node that acknowledges each command at once, hosts calls and does nothing else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};
use voxgate::proto::v1::{
    Command, CommandResult, CommandSucceeded, ControlMessage, Heartbeat, Hello, NodeMessage, Subprotocol,
    command_result::Result as Done, control_message::Message as Told,
    media_node_service_client::MediaNodeServiceClient, node_message::Message as Said,
};

use super::subject::Subject;

/// More than a bench has commands in flight.
const OUTBOX: usize = 256;

/// One stream, which lasts until this is dropped.
#[derive(Debug)]
pub(crate) struct Node {
    life: JoinHandle<()>,
    assigned: Arc<AtomicUsize>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.life.abort();
    }
}

impl Node {
    /// Waits until it is welcomed.
    pub(crate) async fn connect(
        subject: &Subject,
        lane: &Channel,
        name: &str,
        (subprotocol, capacity): (Subprotocol, i32),
    ) -> Result<Self, Status> {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let hello = Hello {
            node_id: name.to_owned(),
            subprotocol: subprotocol.into(),
            capacity,
            version: "bench".to_owned(),
            ..Hello::default()
        };
        let gone = |_| Status::unavailable("the stream ended at once");
        outbox.send(said(Said::Hello(hello))).await.map_err(gone)?;
        let request = subject.signed(ReceiverStream::new(messages));
        let mut inbox = MediaNodeServiceClient::new(lane.clone()).connect(request).await?.into_inner();
        let welcome = match inbox.message().await?.and_then(|message| message.message) {
            Some(Told::Welcome(welcome)) => welcome,
            other => return Err(Status::internal(format!("instead of a welcome came {other:?}"))),
        };
        let every = welcome.heartbeat_interval.and_then(|every| Duration::try_from(every).ok());
        let every = every.ok_or_else(|| Status::internal("the welcome names no interval"))?;
        let assigned = Arc::new(AtomicUsize::new(0));
        Ok(Self { life: tokio::spawn(live(outbox, inbox, every, assigned.clone())), assigned })
    }

    /// How many calls it has been told to host.
    pub(crate) fn assigned(&self) -> usize {
        self.assigned.load(Ordering::Relaxed)
    }

    /// Whether its stream has ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.life.is_finished()
    }
}

async fn live(
    outbox: mpsc::Sender<NodeMessage>,
    mut inbox: Streaming<ControlMessage>,
    every: Duration,
    assigned: Arc<AtomicUsize>,
) {
    let mut heartbeats = interval(every);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            heard = inbox.message() => match heard {
                Ok(Some(ControlMessage { message: Some(Told::Command(command)) })) => done(command),
                Ok(Some(ControlMessage { message: Some(Told::CallAssigned(_)) })) => {
                    assigned.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Ok(Some(_)) => continue,
                Ok(None) | Err(_) => return,
            },
            _ = heartbeats.tick() => said(Said::Heartbeat(Heartbeat::default())),
        };
        if outbox.send(message).await.is_err() {
            return;
        }
    }
}

fn done(Command { operation_id, .. }: Command) -> NodeMessage {
    let result = Some(Done::Succeeded(CommandSucceeded::default()));
    said(Said::CommandResult(CommandResult { operation_id, result }))
}

fn said(message: Said) -> NodeMessage {
    NodeMessage { message: Some(message) }
}
