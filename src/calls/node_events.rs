//! What a node says of its calls, worked off to the end.
//!
//! It is worked off beside the stream: a slow database must not keep the node's heartbeats waiting, and what was said
//! before the stream ended was said. What is said of one call is worked off in order.

use futures_util::FutureExt as _;
use tracing::Instrument as _;

use super::{Calls, finish::Node, lanes::Lanes};
use crate::{
    domain::{
        Error, Result,
        error::Dependency,
        ids::{CallId, LeaseId, OperationId},
        node::{CallEvent, NodeAddress},
        operation::Acknowledgement,
        session::{Outcome, Session},
        verb::{Destination, Transfer, Verb},
        voice_agent::WsDisconnectAction,
    },
    nodes::Origin,
};

/// Where a dropped WebSocket's caller goes under TRANSFER_TO_QUEUE, if the agent names no `transfer_destination`.
const FALLBACK_QUEUE: &str = "default";
/// Calls of one stream that are worked on side by side: they wait for the database together.
const AT_ONCE: usize = 32;
/// What may wait; a node that is further ahead waits with its stream.
const ROOM: usize = 8_192;

/// One thing that a node said.
#[derive(Debug, Clone)]
pub(super) enum Told {
    Event {
        call: CallId,
        event: CallEvent,
    },
    /// The caller hung up on a call that is the node's under this lease.
    Hangup {
        call: CallId,
        lease: LeaseId,
    },
    /// What became of a command: of one that this stream was given, or, without an origin, of one before it.
    Answer {
        operation: OperationId,
        answer: Acknowledgement,
        origin: Option<Origin>,
    },
}

impl Told {
    /// Names the trace of what is answered.
    fn log_span(&self) -> tracing::Span {
        match self {
            Self::Answer { operation, origin: Some(Origin { trace: Some(trace), .. }), .. } => {
                tracing::info_span!("answer", operation.id = %operation, trace.id = %trace.trace_id())
            }
            _ => tracing::Span::none(),
        }
    }
}

/// What one stream has said, by the call that it is about.
pub(super) type Sayings = Lanes<Told>;

impl Calls {
    pub(super) fn sayings_of(&self, address: &NodeAddress) -> Sayings {
        let (calls, address) = (self.clone(), address.clone());
        let note = move |told: Told| {
            let (calls, address) = (calls.clone(), address.clone());
            let span = told.log_span();
            let work = async move {
                let done = calls.persist(|| calls.note(&address, told.clone())).await;
                if let Err(error) = done {
                    tracing::error!(
                        node.id = %address.node, node.said = ?told, error = &error as &dyn std::error::Error,
                        "what a node said is lost"
                    );
                }
            };
            work.instrument(span).boxed()
        };
        Lanes::new(self.workers.clone(), (AT_ONCE, ROOM), note)
    }

    async fn note(&self, from: &NodeAddress, told: Told) -> Result<()> {
        match told {
            Told::Event { call, event } => self.note_event(from, &call, event).await,
            Told::Hangup { call, lease } => {
                let outcome = Outcome::CallerHangup;
                match self.let_go(from.tenant, (&call, lease), outcome).await {
                    Ok(released) if released.released => return Ok(()),
                    // A release that the store cannot take now is kept: the slot comes free, so the session ends.
                    Ok(_) | Err(Error::Unavailable(Dependency::SlotStore, _)) => {}
                    Err(error) => return Err(error),
                }
                self.note_event(from, &call, CallEvent::CallerHangup).await
            }
            Told::Answer { operation, answer, origin } => self.acknowledge(from, operation, answer, origin).await,
        }
    }

    async fn note_event(&self, from: &NodeAddress, call: &CallId, event: CallEvent) -> Result<()> {
        // The node's own calls alone: a call of another node is as good as unknown to this one.
        let session = self.sessions.of_call(from.tenant, call).await?;
        // A recording is ready when the call is over, more often than not.
        let may_be_over = matches!(event, CallEvent::RecordingReady(_));
        let ours =
            |session: &Session| (session.is_active() || may_be_over) && session.node_address().as_ref() == Some(from);
        let Some(session) = session.filter(ours) else {
            tracing::info!(call.id = %call, node.id = %from.node, "an event of a call that is not the node's");
            return Ok(());
        };
        let now = self.env.now();
        match event {
            CallEvent::WsConnected => self.note_change(&session, |session| session.state.ws_connected = true).await,
            CallEvent::Answered => self.note_change(&session, |session| session.answer(now)).await,
            CallEvent::PartyState { held, caller_muted, agent_muted } => {
                self.note_change(&session, |session| {
                    let state = &mut session.state;
                    (state.held, state.caller_muted, state.agent_muted) = (held, caller_muted, agent_muted);
                })
                .await
            }
            // Turns are only ever added; a smaller count is an older one.
            CallEvent::TurnCount(turns) => {
                self.note_change(&session, |session| session.state.turn_count = session.state.turn_count.max(turns))
                    .await?;
                if session.max_turns().is_some_and(|most| turns >= most) {
                    self.finish(&session, Outcome::MaxTurns, Node::Tell).await?;
                }
                Ok(())
            }
            CallEvent::Conference(now) => {
                self.note_change(&session, |session| session.state.follow_conference(now.as_ref())).await
            }
            CallEvent::CallerHangup => self.finish(&session, Outcome::CallerHangup, Node::Knows).await.map(|_| ()),
            CallEvent::WsDisconnected => {
                self.note_change(&session, |session| {
                    (session.state.ws_connected, session.state.ws_closed_at) = (false, Some(now));
                })
                .await?;
                self.ws_dropped(session).await
            }
            CallEvent::RecordingReady(recording) => {
                self.sessions.tell(session.tenant, session.id, recording.into(), now).await.map(|_| ())
            }
            CallEvent::Error { code, message } => {
                tracing::warn!(call.id = %call, node.code = code, node.message = message, "a node reports an error");
                Ok(())
            }
        }
    }

    async fn note_change(&self, session: &Session, change: impl Fn(&mut Session)) -> Result<()> {
        self.change_session(session, change).await.map(|_| ())
    }

    async fn ws_dropped(&self, session: Session) -> Result<()> {
        match session.routing.ws_disconnect_action {
            WsDisconnectAction::Hangup => self.finish(&session, Outcome::WsDisconnected, Node::Tell).await.map(|_| ()),
            WsDisconnectAction::TransferToQueue => {
                let fallback = || Destination::AgentQueue(FALLBACK_QUEUE.to_owned());
                let destination = session.routing.transfer_destination.is_none().then(fallback);
                let verb = Verb::from(Transfer { destination, metadata: serde_json::Map::new() });
                self.carry_out_alone(session, verb);
                Ok(())
            }
        }
    }
}
