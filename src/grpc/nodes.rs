//! `MediaNodeService`: one stream a node.
//!
//! What the node sends is worked off in order; what it is sent waits in its mailbox. A message that makes no sense ends
//! the stream with the error that names its fields: a node that does not speak our language must not host calls.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait, codegen::BoxStream};
use tracing::Instrument as _;

use super::{
    Api, Incoming,
    convert::node::{read_call_event, read_command_result, read_heartbeat, read_hello, write, write_welcome},
    lifetime::Lifetime,
};
use crate::{
    calls::NodeStream,
    domain::{
        Env, Error, Result as Answer,
        error::Dependency,
        node::ToNode,
        principal::Principal,
        violations::{Fault, Violations},
    },
    proto::v1::{self, media_node_service_server::MediaNodeService, node_message::Message},
};

/// A node says Hello within this time or is let go.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Messages on their way into the HTTP/2 stream; the mailbox behind is the real buffer.
const OUTBOUND: usize = 16;

/// Boxed: a channel keeps room for 32 at least, and there are thousands of streams that say nothing.
type Outbound = mpsc::Sender<Box<Result<v1::ControlMessage, Status>>>;

#[async_trait]
impl MediaNodeService for Api {
    async fn connect(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<BoxStream<v1::ControlMessage>>, Status> {
        let Incoming { principal, lifetime, message: mut inbound, .. } = Incoming::of(request)?;
        let (outbound, stream) = mpsc::channel(OUTBOUND);
        let api = self.clone();
        let work = async move {
            let served = api.serve_node(&principal, &lifetime, &mut inbound, &outbound).await;
            if let Err(error) = served {
                let _ = outbound.send(Box::new(Err(error.into()))).await;
            }
        };
        tokio::spawn(work.in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(stream).map(|message| *message))))
    }
}

impl Api {
    async fn serve_node(
        &self,
        principal: &Principal,
        lifetime: &Lifetime,
        inbound: &mut Streaming<v1::NodeMessage>,
        outbound: &Outbound,
    ) -> Answer<()> {
        let first = tokio::time::timeout(HELLO_WITHIN, inbound.message()).await.map_err(|_| Error::DeadlineExceeded)?;
        let hello = match first {
            Ok(Some(v1::NodeMessage { message: Some(Message::Hello(hello)) })) => hello,
            Ok(_) => return Err(Error::invalid("hello", "must be the first message")),
            Err(_) => return Err(Error::invalid("hello", "must be a message of at most 262144 bytes")),
        };
        let connecting = self.calls.connect_node(principal, read_hello(hello)?);
        let (node, welcome, mailbox) = Box::pin(connecting).await?;
        if outbound.send(Box::new(Ok(write_welcome(&welcome)))).await.is_err() {
            return Ok(());
        }
        let deliver = deliver(mailbox, outbound);
        let listen = self.listen(&node, inbound);
        tokio::select! {
            heard = listen => heard,
            () = deliver => Ok(()),
            refused = node.tend() => Err(refused),
            () = drain_when_old(lifetime, outbound) => Ok(()),
            () = lifetime.over().cancelled() => Err(Error::Unavailable(Dependency::Replica, None)),
        }
    }

    async fn listen(&self, node: &NodeStream, inbound: &mut Streaming<v1::NodeMessage>) -> Answer<()> {
        loop {
            let message = match inbound.message().await {
                Ok(Some(message)) => message.message,
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::info!(node.id = %node.address().node, status.code = ?status.code(), "stream broke off");
                    return Ok(());
                }
            };
            if !node.is_current() {
                return Ok(());
            }
            // What an idle stream waits with has no room for all that a message may lead to.
            let handled = Box::pin(handle(node, message)).await;
            match handled {
                // The stores being away is no reason to lose the node: it will send its next heartbeat.
                Err(error @ Error::Unavailable(..)) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a heartbeat could not renew");
                }
                other => other?,
            }
        }
    }
}

async fn handle(node: &NodeStream, message: Option<Message>) -> Answer<()> {
    match message {
        Some(Message::Heartbeat(heartbeat)) => node.heartbeat(read_heartbeat(heartbeat)?).await,
        Some(Message::CommandResult(result)) => {
            let (operation, answer) = read_command_result(result)?;
            node.command_result(operation, answer).await;
            Ok(())
        }
        Some(Message::CallEvent(event)) => {
            let (call, event) = read_call_event(event)?;
            node.call_event(call, event).await;
            Ok(())
        }
        Some(Message::Hello(_)) => Err(Violations::from(("hello", Fault::new("must come once"))).into()),
        None => Err(Violations::from(("message", Fault::required())).into()),
    }
}

/// Tells the node when its connection has reached its age, and then waits for the others: the stream goes on.
async fn drain_when_old(lifetime: &Lifetime, outbound: &Outbound) {
    let grace = lifetime.is_old().await;
    let deadline = Env::system().now().plus(grace);
    // A stream that is gone ends by itself.
    let _ = outbound.send(Box::new(Ok(write(ToNode::Drain { deadline })))).await;
    std::future::pending::<()>().await;
}

/// Brings the mailbox to the stream, until one of them closes.
async fn deliver(mut mailbox: mpsc::Receiver<ToNode>, outbound: &Outbound) {
    while let Some(message) = mailbox.recv().await {
        if outbound.send(Box::new(Ok(write(message)))).await.is_err() {
            return;
        }
    }
}
