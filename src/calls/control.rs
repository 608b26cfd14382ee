//! Carries a verb to a live call: authorised, de-duplicated, recorded before it is sent, and answered by what happened.
//!
//! A verb runs to its end in a task of its own. A caller whose deadline passes first is told the operation's id, and the
//! record tells later what became of it. A session's verb is only refused for its state after its key was looked
//! up, so that a retry of a Hangup that succeeded is answered the success and not that the call is over.
//!
//! What a node answers is not brought about here but where the answer arrives (`acknowledge`).

use std::time::{Duration, Instant};

use super::{
    Calls,
    acknowledge::{count, refused},
    attributes::{of_letter, of_operation},
    authorize::{Hand, require_active},
    finish::Node,
};
use crate::{
    control::{Letter, Unsent},
    domain::{
        Error, Result,
        audit::Attempt,
        error::Resource,
        hash::Sha256,
        ids::{CallId, IdempotencyKey, OperationId, SessionId},
        lease::Renewed,
        node::{Command, NodeAddress},
        operation::{Operation, OperationState},
        principal::Principal,
        session::{Outcome, Session},
        tenant::Scope,
        trace::TraceContext,
        verb::{Executor, Verb, VerbResult},
    },
    sessions::{AUDIT_PATIENCE, Begun, Carried},
    traces::{Kind, Span},
};

/// How long a result that the database does not take is kept at hand: while a lease of the call may live.
const PERSIST_FOR: Duration = Duration::from_secs(30);

/// A verb as a caller sends it.
#[derive(Debug, Clone)]
pub struct Instruction {
    pub call: CallId,
    /// Absent: one is minted, and no retry will find it.
    pub key: Option<IdempotencyKey>,
    pub verb: Verb,
    /// When the caller must have an answer.
    pub deadline: Option<Instant>,
    /// What it is asked within.
    pub trace: Option<TraceContext>,
}

/// A verb that happened.
#[derive(Debug, Clone)]
pub struct Executed {
    pub operation: Operation,
    /// The first answer again: nothing happened this time.
    pub replayed: bool,
}

impl Executed {
    pub fn result(&self) -> VerbResult {
        self.operation.result.clone().unwrap_or_default()
    }
}

impl Calls {
    /// `attempt` is how the audit log tells of it.
    pub async fn execute(
        &self,
        principal: &Principal,
        instruction: Instruction,
        mut attempt: Attempt,
    ) -> Result<Executed> {
        // The node's own limit comes before ours, and says what became of the verb; then that is noted.
        let latest = Instant::now() + self.settings.verb_timeout() + AUDIT_PATIENCE + Duration::from_millis(100);
        let answer_by = instruction.deadline.unwrap_or(latest).min(latest);
        let (id, executor) = (OperationId::new(&self.env), instruction.verb.executor());
        let (calls, principal) = (self.clone(), principal.clone());
        let work = self.to_the_end(async move {
            let end = calls.try_out(id, &principal, instruction, &mut attempt.session).await;
            calls.verb_noted(attempt, end).await
        });
        match tokio::time::timeout_at(answer_by.into(), work).await {
            Ok(answer) => answer,
            // The task goes on; only this caller has waited long enough.
            Err(_) if executor == Executor::Node => {
                Err(Error::OperationPending { operation: id, state: OperationState::Dispatched.as_str() })
            }
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    /// Carries the verb out if the principal may; tells of which session as soon as that is known.
    async fn try_out(
        &self,
        id: OperationId,
        principal: &Principal,
        instruction: Instruction,
        of: &mut Option<SessionId>,
    ) -> Result<Executed> {
        let (session, within_rate) = self.session_of(principal, &instruction.call).await?;
        *of = Some(session.id);
        within_rate?;
        let hand = Hand { is_admin: principal.has(Scope::AiSessionsControlAdmin) };
        self.carry_out(id, session, instruction, hand).await
    }

    /// Runs in a task of its own, from the first look at the key to the record of the end: a caller who leaves half-way
    /// must not leave a key behind that was taken and never used.
    async fn carry_out(
        &self,
        id: OperationId,
        session: Session,
        instruction: Instruction,
        hand: Hand,
    ) -> Result<Executed> {
        let Instruction { call, key, verb, trace, .. } = instruction;
        // Of what was asked, before the session completes it: a retry asks the same.
        let digest = Sha256::of(serde_json::to_vec(&verb).map_err(Error::internal)?);
        let operation = self.new_operation(id, &session, key.clone(), verb, digest)?;
        match operation.verb.executor() {
            Executor::Read => self.read(&session, operation).await,
            Executor::ControlPlane => self.carry_out_here(&session, operation).await,
            Executor::Node => {
                let remembered_since = self.remembered_since();
                if let Some(key) = &key {
                    let earlier = self.operations.find(session.tenant, &call, key, remembered_since).await?;
                    if let Some(earlier) = earlier {
                        return self.replay(earlier, digest);
                    }
                }
                let verb = self.prepare(&session, operation.verb, hand).await?;
                self.dispatch(&session, Operation { verb, ..operation }, trace.as_ref()).await
            }
        }
    }

    async fn read(&self, session: &Session, mut operation: Operation) -> Result<Executed> {
        require_active(session)?;
        operation.state = OperationState::Succeeded;
        let usage = self.slots.usage(session.tenant, session.agent).await.ok();
        operation.result = Some(VerbResult::of(session, usage));
        Ok(Executed { operation, replayed: false })
    }

    /// A verb that no node is needed for: judged, done and recorded in one step.
    async fn carry_out_here(&self, session: &Session, operation: Operation) -> Result<Executed> {
        if let Verb::ScheduleCallback(callback) = &operation.verb
            && let Some(agent) = callback.agent
        {
            self.agents.get(session.tenant, agent).await?;
        }
        let digest = operation.digest;
        let carried = self.operations.carry_out(session.tenant, operation, None, self.remembered_since()).await?;
        match carried {
            Carried::Out(settled) => {
                count(&settled.operation);
                Ok(Executed { operation: settled.operation, replayed: false })
            }
            Carried::Existing(existing) => self.replay(*existing, digest),
        }
    }

    /// Records the operation, sends it to the call's node, and waits for what becomes of it.
    async fn dispatch(
        &self,
        session: &Session,
        operation: Operation,
        trace: Option<&TraceContext>,
    ) -> Result<Executed> {
        let node = session.node_address().ok_or_else(|| unreachable_node(session))?;
        let (id, digest, limit) = (operation.id, operation.digest, self.settings.verb_timeout());
        // Neither waits for the other.
        let record = async {
            let _span = Span::within(trace, Kind::Internal, "record operation").with(|| of_operation(&operation));
            self.operations.begin(session.tenant, &operation, self.remembered_since()).await
        };
        let (begun, holds_its_slot) = tokio::join!(record, self.require_slot(session));
        if let Begun::Existing(existing) = begun? {
            return self.replay(*existing, digest);
        }
        let command = Command {
            operation: id,
            call: session.call.clone(),
            fence: session.fence,
            deadline: self.env.now().plus(limit),
            verb: operation.verb,
            trace: trace.cloned(),
        };
        let awaited = self.bus.expect(id);
        let sent = match holds_its_slot {
            Ok(()) => self.send(session, &node, command).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = sent {
            self.operations.withdraw(session.tenant, id).await?;
            return Err(refusal);
        }
        match tokio::time::timeout(limit, awaited).await {
            Ok(Ok(operation)) => self.answer(operation, false),
            Ok(Err(_)) | Err(_) => self.unanswered(session, id).await,
        }
    }

    /// Nobody has told this replica what became of the operation: the record may know, and if not, it says so.
    async fn unanswered(&self, session: &Session, id: OperationId) -> Result<Executed> {
        let pending = || Error::OperationPending { operation: id, state: OperationState::Unknown.as_str() };
        self.persist(|| self.operations.lose(session.tenant, id)).await?;
        match self.operations.get(session.tenant, id).await? {
            Some(operation) if operation.state.is_final() => self.answer(operation, false),
            Some(operation) => {
                count(&operation);
                Err(pending())
            }
            None => Err(pending()),
        }
    }

    async fn send(&self, session: &Session, node: &NodeAddress, mut command: Command) -> Result<()> {
        let span = Span::within(command.trace.as_ref(), Kind::Producer, "send command");
        let mut span = span.with(|| of_letter(self.bus.system(), "send", &command, node));
        command.trace = span.context().cloned();
        match self.bus.send(node, Letter::Command { command, reply_to: self.bus.replica() }).await {
            Ok(()) => Ok(()),
            // What may have been sent is waited for.
            Err(Unsent::Unknown(_)) => {
                span.fail("nobody knows whether it was sent");
                Ok(())
            }
            Err(Unsent::Unreachable) => {
                span.fail("the node is connected nowhere");
                Err(unreachable_node(session))
            }
            Err(Unsent::Unavailable(error)) => {
                span.fail("nobody could be asked");
                Err(error)
            }
        }
    }

    /// The slot may be another call's by now, though nobody has ended the session yet: its node has slept, and must not
    /// wake up to verbs. Where the slot store cannot say, that the node compares fences must do.
    async fn require_slot(&self, session: &Session) -> Result<()> {
        match self.slots.fates(session.tenant, &[(session.call.clone(), session.lease)]).await {
            Ok(fates) if matches!(fates[..], [Renewed::Lost | Renewed::Released]) => {
                Err(Error::LeaseLost { call: session.call.clone() })
            }
            Ok(_) | Err(Error::Unavailable(..)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn new_operation(
        &self,
        id: OperationId,
        session: &Session,
        key: Option<IdempotencyKey>,
        verb: Verb,
        digest: Sha256,
    ) -> Result<Operation> {
        let minted = || id.to_string().parse().map_err(|_| Error::internal("an operation id is a valid key"));
        let now = self.env.now();
        Ok(Operation {
            id,
            tenant: session.tenant,
            session: session.id,
            call: session.call.clone(),
            verb,
            key: key.map_or_else(minted, Ok)?,
            digest,
            // Written before it is sent: after a crash between the two it counts as sent, the safe side.
            state: OperationState::Dispatched,
            accepted_at: now,
            dispatched_at: Some(now),
            finished_at: None,
            result: None,
            failure: None,
        })
    }

    /// What has happened must be written, though the database be away just now: tries for as long as a lease may live.
    pub(super) async fn persist<T, F: Future<Output = Result<T>>>(&self, write: impl Fn() -> F) -> Result<T> {
        let mut wait = Duration::from_millis(50);
        let give_up = self.env.now().plus(PERSIST_FOR);
        loop {
            match write().await {
                Err(Error::Unavailable(..)) if self.env.now() < give_up => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(2));
                }
                outcome => return outcome,
            }
        }
    }

    /// Changes an active session by what it is now, however many others change it too; nothing if it has ended.
    pub(super) async fn change_session(
        &self,
        session: &Session,
        change: impl Fn(&mut Session),
    ) -> Result<Option<Session>> {
        loop {
            let now = self.sessions.get(session.tenant, session.id).await?.filter(Session::is_active);
            let Some(mut now) = now else { return Ok(None) };
            change(&mut now);
            if self.sessions.update(session.tenant, &now).await? {
                return Ok(Some(now));
            }
        }
    }

    /// What became of a verb. A callback token sees its own session's operations alone.
    pub async fn operation(&self, principal: &Principal, id: OperationId) -> Result<Operation> {
        let operation = self.operations.get(principal.tenant(), id).await?;
        let operation = operation.map(|operation| Operation { state: self.known_state(&operation), ..operation });
        let visible =
            |operation: &Operation| principal.of_session().is_none_or(|bearer| operation.session == bearer.session);
        operation.filter(visible).ok_or_else(|| Error::not_found(Resource::Operation, id))
    }

    fn known_state(&self, operation: &Operation) -> OperationState {
        operation.known_state(self.env.now(), self.settings.verb_timeout() + PERSIST_FOR)
    }

    fn remembered_since(&self) -> crate::domain::Timestamp {
        self.env.now().minus(self.settings.idempotency_memory())
    }

    /// The answer to a key that was used before.
    fn replay(&self, operation: Operation, digest: Sha256) -> Result<Executed> {
        if operation.digest != digest {
            return Err(Error::IdempotencyKeyReused { key: operation.key.to_string() });
        }
        self.answer(operation, true)
    }

    fn answer(&self, operation: Operation, replayed: bool) -> Result<Executed> {
        match self.known_state(&operation) {
            OperationState::Succeeded => Ok(Executed { operation, replayed }),
            OperationState::Failed => Err(refused(&operation)),
            OperationState::Accepted | OperationState::Dispatched => {
                Err(Error::IdempotencyInProgress { key: operation.key })
            }
            state @ OperationState::Unknown => {
                Err(Error::OperationPending { operation: operation.id, state: state.as_str() })
            }
        }
    }

    /// The platform's own verb, as when a WebSocket drops: no caller waits for it. A call that it cannot help is ended.
    pub(super) fn carry_out_alone(&self, session: Session, verb: Verb) {
        let calls = self.clone();
        self.tasks.spawn(async move {
            let instruction = Instruction { call: session.call.clone(), key: None, verb, deadline: None, trace: None };
            let id = OperationId::new(&calls.env);
            if let Err(error) = calls.carry_out(id, session.clone(), instruction, Hand { is_admin: true }).await {
                tracing::warn!(
                    call.id = %session.call, error = &error as &dyn std::error::Error, "the call is ended instead"
                );
                let _ = calls.persist(|| calls.finish(&session, Outcome::WsDisconnected, Node::Tell)).await;
            }
        });
    }
}

fn unreachable_node(session: &Session) -> Error {
    Error::NodeUnreachable { call: session.call.clone(), node: session.node.clone() }
}
