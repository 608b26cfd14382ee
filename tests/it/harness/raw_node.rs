//! A media node spoken by hand: it says what the simulated node never says, and hears what that one never tells.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use voxgate::proto::v1::{
    CallAssigned, CallEvent, Command, CommandFailed, CommandResult, CommandSucceeded, ControlMessage, Hello,
    NodeMessage, Subprotocol, Welcome, call_event::Event, command_result::Result as Done,
    control_message::Message as Told, node_message::Message as Said,
};

use super::world::World;

/// One stream, by hand.
#[derive(Debug)]
pub(crate) struct RawNode {
    pub(crate) outbox: mpsc::Sender<NodeMessage>,
    pub(crate) inbox: Streaming<ControlMessage>,
}

/// A node of ten calls on the world's side of the sandbox fence.
pub(crate) fn hello(world: &World, node: &str) -> Hello {
    Hello {
        node_id: node.to_owned(),
        subprotocol: Subprotocol::AudioDrachtioOrg.into(),
        sandbox: world.sandbox,
        capacity: 10,
        version: "test".into(),
        calls: Vec::new(),
    }
}

impl RawNode {
    pub(crate) async fn begin(world: &World, first: Said) -> Result<Self, Status> {
        let (outbox, messages) = mpsc::channel(16);
        outbox.send(NodeMessage { message: Some(first) }).await.expect("room");
        let inbox = world.caller.nodes().connect(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { outbox, inbox })
    }

    pub(crate) async fn welcomed(world: &World, hello: Hello) -> (Self, Welcome) {
        let mut raw = Self::begin(world, Said::Hello(hello)).await.expect("a stream");
        match raw.hear().await.expect("no end") {
            Some(Told::Welcome(welcome)) => (raw, welcome),
            other => panic!("expected a welcome, heard {other:?}"),
        }
    }

    pub(crate) async fn say(&self, message: Said) {
        self.outbox.send(NodeMessage { message: Some(message) }).await.expect("the stream is open");
    }

    pub(crate) async fn report(&self, call: &str, event: Event) {
        self.say(Said::CallEvent(CallEvent { call_id: call.to_owned(), occurred_at: None, event: Some(event) })).await;
    }

    pub(crate) async fn hear(&mut self) -> Result<Option<Told>, Status> {
        let heard = tokio::time::timeout(Duration::from_secs(20), self.inbox.message()).await;
        Ok(heard.expect("silence")?.and_then(|message| message.message))
    }

    pub(crate) async fn assigned(&mut self) -> CallAssigned {
        match self.hear().await.expect("no end") {
            Some(Told::CallAssigned(assigned)) => assigned,
            other => panic!("expected a call, heard {other:?}"),
        }
    }

    pub(crate) async fn command(&mut self) -> Command {
        match self.hear().await.expect("no end") {
            Some(Told::Command(command)) => command,
            other => panic!("expected a command, heard {other:?}"),
        }
    }

    pub(crate) async fn succeed(&self, command: &Command) {
        self.answer(command, Done::Succeeded(CommandSucceeded::default())).await;
    }

    pub(crate) async fn fail(&self, command: &Command, reason: &str) {
        let failed = CommandFailed { reason: reason.to_owned(), message: "refused by a test".to_owned() };
        self.answer(command, Done::Failed(failed)).await;
    }

    async fn answer(&self, command: &Command, result: Done) {
        let operation_id = command.operation_id.clone();
        self.say(Said::CommandResult(CommandResult { operation_id, result: Some(result) })).await;
    }

    /// Carries out whatever it is told, on a task of its own, until the stream ends.
    pub(crate) fn obey(mut self) -> Commands {
        let commands = Commands::default();
        let heard = commands.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = self.inbox.message().await {
                if let Some(Told::Command(command)) = message.message {
                    // Who is answered finds it there.
                    heard.0.lock().unwrap_or_else(PoisonError::into_inner).push(command.clone());
                    self.succeed(&command).await;
                }
            }
        });
        commands
    }
}

/// The commands that an obedient node has carried out, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commands(Arc<Mutex<Vec<Command>>>);

impl Commands {
    pub(crate) fn of_call(&self, call: &str) -> Vec<Command> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|command| command.call_id == call).cloned().collect()
    }
}
