//! One stream of the node: Hello and Welcome, then heartbeats, commands and their answers until it ends.

use std::{fmt, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::{Ascii, MetadataValue},
};

use super::{
    Node,
    calls::{Link, timestamp},
};
use crate::{
    client,
    proto::v1::{
        Answered, CallEvent, ControlMessage, Drain, Heartbeat, Hello, NodeMessage, Welcome, WsConnected,
        call_event::Event, control_message::Message as Told, media_node_service_client::MediaNodeServiceClient,
        node_message::Message as Said,
    },
};

/// Messages that the service has not read yet. One that leaves so many unread is as good as gone.
const OUTBOX: usize = 4_096;
/// Live calls in one message, which keeps it far below the service's limit on messages.
const CALLS_A_MESSAGE: usize = 1_000;
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);
/// A heartbeat is not sent more often than this, whatever the service asks for.
const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(3);

/// The end of a stream.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) was_welcomed: bool,
    pub(super) why: Why,
}

#[derive(Debug)]
pub(super) enum Why {
    /// The service closed it in good order.
    Closed,
    Refused(Status),
    Unreachable(tonic::transport::Error),
    Broken(&'static str),
}

impl Ended {
    pub(super) fn was_replaced(&self) -> bool {
        matches!(self.why, Why::Closed)
    }
}

impl Why {
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(status) => Some(status.code()),
            Self::Closed | Self::Unreachable(_) | Self::Broken(_) => None,
        }
    }

    pub(super) fn into_error(self) -> anyhow::Error {
        match self {
            Self::Refused(status) => status.into(),
            Self::Unreachable(error) => error.into(),
            Self::Closed | Self::Broken(_) => anyhow::Error::msg(self.to_string()),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the service"),
            Self::Refused(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Unreachable(error) => fmt::Display::fmt(error, f),
            Self::Broken(what) => f.write_str(what),
        }
    }
}

impl From<Status> for Why {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Connects, introduces the node and serves until the stream ends, which it always does.
pub(super) async fn live(node: &mut Node, authorization: Option<MetadataValue<Ascii>>) -> Ended {
    let (mut stream, welcome) = match introduce(node, authorization).await {
        Ok(welcomed) => welcomed,
        Err(why) => return Ended { was_welcomed: false, why },
    };
    let why = match stream.serve(node, &welcome).await {
        Ok(()) => Why::Closed,
        Err(why) => why,
    };
    node.recent.drop_heard(Instant::now());
    Ended { was_welcomed: true, why }
}

struct Stream {
    outbox: mpsc::Sender<NodeMessage>,
    inbox: Streaming<ControlMessage>,
    /// Set by Drain: when to leave if the service has not closed the stream by then.
    leave_at: Option<Instant>,
}

async fn introduce(node: &Node, authorization: Option<MetadataValue<Ascii>>) -> Result<(Stream, Welcome), Why> {
    let endpoint = client::endpoint(&node.options.endpoint, node.options.tls.as_ref())
        .map_err(|_| Why::Broken("the certificates cannot be read"))?;
    let channel = endpoint.connect().await.map_err(Why::Unreachable)?;
    let (outbox, messages) = mpsc::channel(OUTBOX);
    say(&outbox, Said::Hello(hello(node)))?;
    let mut request = Request::new(ReceiverStream::new(messages));
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization);
    }
    let welcomed = async {
        let mut inbox = MediaNodeServiceClient::new(channel).connect(request).await?.into_inner();
        match inbox.message().await?.and_then(|message| message.message) {
            Some(Told::Welcome(welcome)) => Ok((Stream { outbox, inbox, leave_at: None }, welcome)),
            Some(_) => Err(Why::Broken("the service spoke before its welcome")),
            None => Err(Why::Closed),
        }
    };
    tokio::time::timeout(WELCOME_PATIENCE, welcomed).await.unwrap_or(Err(Why::Broken("no welcome came")))
}

fn hello(node: &Node) -> Hello {
    let options = &node.options;
    let mut calls = node.calls.live();
    // The rest follows in the first heartbeat.
    calls.truncate(CALLS_A_MESSAGE);
    Hello {
        node_id: options.node_id.clone(),
        subprotocol: options.subprotocol.into(),
        sandbox: options.sandbox,
        capacity: options.capacity,
        version: format!("node-sim/{}", env!("CARGO_PKG_VERSION")),
        calls,
    }
}

fn say(outbox: &mpsc::Sender<NodeMessage>, message: Said) -> Result<(), Why> {
    let message = NodeMessage { message: Some(message) };
    outbox.try_send(message).map_err(|_| Why::Broken("the service does not read"))
}

impl Stream {
    async fn serve(&mut self, node: &mut Node, welcome: &Welcome) -> Result<(), Why> {
        if let Some(now) = &welcome.server_time {
            node.calls.set_service_time(timestamp(now));
        }
        node.calls.settle(&welcome.leases);
        tracing::info!(node.id = node.options.node_id, node.calls = node.calls.len(), "the node is connected");
        if node.calls.len() > CALLS_A_MESSAGE {
            self.heartbeat(node)?;
        }
        self.repeat(node)?;
        let period = heartbeat_period(welcome);
        let mut beats = tokio::time::interval_at(Instant::now() + period, period);
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = self.inbox.message() => match message? {
                    Some(message) => self.hear(node, message)?,
                    None => return Ok(()),
                },
                _ = beats.tick() => self.heartbeat(node)?,
                () = until(node.calls.next_answer_at()) => {
                    while let Some(answer) = node.calls.take_due_answer() {
                        self.tell(node, Said::CommandResult(answer))?;
                    }
                }
                () = until(self.leave_at) => return Err(Why::Broken("drained")),
            }
        }
    }

    fn hear(&mut self, node: &mut Node, message: ControlMessage) -> Result<(), Why> {
        match message.message {
            Some(Told::CallAssigned(assigned)) => {
                let call_id = assigned.call_id.clone();
                if node.calls.assign(assigned) {
                    self.report(node, &call_id, Event::WsConnected(WsConnected {}))?;
                    self.report(node, &call_id, Event::Answered(Answered {}))?;
                }
            }
            Some(Told::Command(command)) => {
                if node.calls.command(&command) == Link::Drops {
                    return Err(Why::Broken("dropped as the script says"));
                }
            }
            Some(Told::TokenRefresh(refresh)) => node.calls.refresh_token(refresh),
            Some(Told::LeaseLost(lost)) => node.calls.lose(&lost),
            Some(Told::EndCall(end)) => node.calls.end(&end),
            Some(Told::Drain(drain)) => self.drain(node, &drain),
            // One Welcome is enough, and what a newer service says beyond it is passed over.
            Some(Told::Welcome(_)) | None => {}
        }
        Ok(())
    }

    /// Serves on, for commands may still come; the calls are kept for the next stream.
    fn drain(&mut self, node: &Node, drain: &Drain) {
        let now = node.env.now();
        let left = drain.deadline.as_ref().map_or(Duration::ZERO, |deadline| timestamp(deadline).since(now));
        self.leave_at = Some(Instant::now() + left);
        tracing::info!(node.id = node.options.node_id, left_ms = left.as_millis(), "the service drains");
    }

    fn report(&self, node: &mut Node, call_id: &str, event: Event) -> Result<(), Why> {
        let micros = node.env.now().as_micros();
        let occurred_at = prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            // Below a billion: always fits.
            nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
        };
        let event = CallEvent { call_id: call_id.to_owned(), occurred_at: Some(occurred_at), event: Some(event) };
        self.tell(node, Said::CallEvent(event))
    }

    /// Says what concerns a call, and keeps it in case the stream breaks.
    fn tell(&self, node: &mut Node, message: Said) -> Result<(), Why> {
        node.recent.keep(message.clone(), Instant::now());
        say(&self.outbox, message)
    }

    /// Says again what the stream before may not have brought there.
    fn repeat(&self, node: &mut Node) -> Result<(), Why> {
        let again = node.recent.again(Instant::now());
        let matters = |message: &Said| match message {
            Said::CallEvent(event) => node.calls.hosts(&event.call_id),
            _ => true,
        };
        again.into_iter().filter(matters).try_for_each(|message| say(&self.outbox, message))
    }

    fn heartbeat(&self, node: &Node) -> Result<(), Why> {
        let live = node.calls.live();
        if live.is_empty() {
            // Still said, so that the service knows that the node lives.
            return say(&self.outbox, Said::Heartbeat(Heartbeat::default()));
        }
        live.chunks(CALLS_A_MESSAGE)
            .try_for_each(|calls| say(&self.outbox, Said::Heartbeat(Heartbeat { calls: calls.to_vec() })))
    }
}

fn heartbeat_period(welcome: &Welcome) -> Duration {
    let asked = welcome.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok());
    asked.unwrap_or(HEARTBEAT_DEFAULT).max(HEARTBEAT_MIN)
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
