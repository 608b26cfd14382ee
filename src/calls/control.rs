//! Carries a verb to a live call: authorised, de-duplicated, recorded before it is sent, and answered by what happened.
//!
//! A verb runs to its end in a task of its own. A caller whose deadline passes first is told the operation's id, and the
//! record tells later what became of it. A session's verb is only refused for its state after its key was looked
//! up, so that a retry of a Hangup that succeeded is answered the success and not that the call is over.

use std::time::{Duration, Instant};

use super::{Calls, finish::Node};
use crate::{
    control::{Begun, BusError, Failure, Operation, OperationState},
    domain::{
        Error, Result,
        error::{Reason, Resource},
        hash::Sha256,
        ids::{CallId, IdempotencyKey, OperationId},
        lease::Renewed,
        node::{Command, NodeAddress},
        principal::Principal,
        session::{Outcome, Session},
        tenant::Scope,
        verb::{Executor, Verb, VerbResult},
    },
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
    pub async fn execute(&self, principal: &Principal, instruction: Instruction) -> Result<Executed> {
        let session = self.session_of(principal, &instruction.call).await?;
        // The node's own limit comes before ours, and says what became of the verb.
        let latest = Instant::now() + self.settings.verb_timeout() + Duration::from_millis(100);
        let answer_by = instruction.deadline.unwrap_or(latest).min(latest);
        let (id, executor) = (OperationId::new(&self.env), instruction.verb.executor());
        let calls = self.clone();
        let work = self.to_the_end(async move { calls.carry_out(id, session, instruction).await });
        match tokio::time::timeout_at(answer_by.into(), work).await {
            Ok(answer) => answer,
            // The task goes on; only this caller has waited long enough.
            Err(_) if executor == Executor::Node => {
                Err(Error::OperationPending { operation: id, state: OperationState::Dispatched.as_str() })
            }
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    /// The session that `principal` may drive on `call`.
    async fn session_of(&self, principal: &Principal, call: &CallId) -> Result<Session> {
        let session = match principal {
            Principal::Call(bearer) if bearer.call != *call => {
                return Err(Error::CallNotBoundToToken { call: call.clone() });
            }
            Principal::Call(bearer) => self.sessions.get(bearer.tenant, bearer.session).await?,
            Principal::Key(_) | Principal::Mesh(_) => {
                principal.require(Scope::AiSessionsControlAdmin)?;
                let session = self.sessions.of_call(principal.tenant(), call).await?;
                // A sandbox key's hands do not reach a live call.
                session.filter(|session| !principal.sandbox() || session.sandbox)
            }
        };
        session.ok_or_else(|| Error::not_found(Resource::Call, call))
    }

    /// Runs in a task of its own, from the first look at the key to the record of the end: a caller who leaves half-way
    /// must not leave a key behind that was taken and never used.
    async fn carry_out(&self, id: OperationId, session: Session, instruction: Instruction) -> Result<Executed> {
        let Instruction { call, key, verb, .. } = instruction;
        // Of what was asked, before the session completes it: a retry asks the same.
        let digest = Sha256::of(serde_json::to_vec(&verb).map_err(Error::internal)?);
        let remembered_since = self.env.now().minus(self.settings.idempotency_memory());
        if let Some(key) = &key {
            let earlier = self.operations.find(session.tenant, &call, key, remembered_since).await?;
            if let Some(operation) = earlier {
                return self.replay(operation, digest);
            }
        }
        if let Some(outcome) = session.outcome {
            return Err(Error::AiSessionTerminated { call, session: session.id, outcome });
        }
        let verb = verb.prepare(&session)?;
        let mut operation = self.new_operation(id, &session, key, &verb, digest)?;
        if verb.executor() == Executor::ControlPlane {
            operation.state = OperationState::Succeeded;
            operation.result = Some(self.result(&session).await);
            return Ok(Executed { operation, replayed: false });
        }
        let node = session.node_address().filter(|address| self.nodes.profile(address).is_some());
        let node = node.ok_or_else(|| unreachable_node(&session))?;
        if self.has_lost_its_slot(&session).await? {
            return Err(Error::LeaseLost { call });
        }
        match self.operations.begin(session.tenant, &operation, remembered_since).await? {
            Begun::New => self.run(session, operation, verb, node).await,
            Begun::Existing(operation) => self.replay(*operation, digest),
        }
    }

    /// Whether the slot may be another call's by now, though nobody has ended the session yet: its node has slept, and
    /// must not wake up to verbs. Where the slot store cannot say, that the node compares fences must do.
    async fn has_lost_its_slot(&self, session: &Session) -> Result<bool> {
        match self.slots.fates(session.tenant, &[(session.call.clone(), session.lease)]).await {
            Ok(fates) => Ok(matches!(fates[..], [Renewed::Lost | Renewed::Released])),
            Err(Error::Unavailable(..)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn new_operation(
        &self,
        id: OperationId,
        session: &Session,
        key: Option<IdempotencyKey>,
        verb: &Verb,
        digest: Sha256,
    ) -> Result<Operation> {
        let minted = || id.to_string().parse().map_err(|_| Error::internal("an operation id is a valid key"));
        let now = self.env.now();
        Ok(Operation {
            id,
            tenant: session.tenant,
            session: session.id,
            call: session.call.clone(),
            verb: verb.clone(),
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

    async fn run(&self, session: Session, mut operation: Operation, verb: Verb, node: NodeAddress) -> Result<Executed> {
        let limit = self.settings.verb_timeout();
        let command = Command {
            operation: operation.id,
            call: session.call.clone(),
            fence: session.fence,
            deadline: self.env.now().plus(limit),
            verb: verb.clone(),
        };
        let answer = self.bus.execute(&node, command, limit).await;
        operation.finished_at = Some(self.env.now());
        match answer {
            Ok(Ok(())) => {
                if verb.ends().is_some() {
                    // The node has let the call go: its heartbeats must not keep the lease, whatever fails from here on.
                    self.nodes.unassign(&node, &session.call, session.lease);
                }
                let operation = self.persist(|| self.succeeded(&session, operation.clone())).await?;
                Ok(Executed { operation, replayed: false })
            }
            Ok(Err(failure)) => {
                operation.state = OperationState::Failed;
                operation.failure = Some(failure);
                self.persist(|| self.record(&operation)).await?;
                Err(refused(&operation))
            }
            Err(BusError::Unreachable) => {
                self.operations.withdraw(operation.tenant, operation.id).await?;
                Err(unreachable_node(&session))
            }
            Err(BusError::NoAnswer) => {
                operation.state = OperationState::Unknown;
                operation.finished_at = None;
                self.persist(|| self.record(&operation)).await?;
                Err(Error::OperationPending { operation: operation.id, state: operation.state.as_str() })
            }
        }
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

    /// Brings an acknowledged verb's effect to the session, and its success to the record. Safe to do again.
    async fn succeeded(&self, session: &Session, mut operation: Operation) -> Result<Operation> {
        operation.result = Some(self.take_effect(session, &operation.verb).await?);
        operation.state = OperationState::Succeeded;
        self.record(&operation).await?;
        Ok(operation)
    }

    async fn record(&self, operation: &Operation) -> Result<()> {
        let verb = operation.verb.name().as_str();
        metrics::counter!("voxgate_operations_total", "verb" => verb, "state" => operation.state.as_str()).increment(1);
        self.operations.record(operation.tenant, operation).await.map(|_| ())
    }

    async fn take_effect(&self, session: &Session, verb: &Verb) -> Result<VerbResult> {
        if let Some(outcome) = verb.ends() {
            let ended = self.finish(session, outcome, Node::Knows).await?;
            let mut after = ended.unwrap_or_else(|| session.clone());
            verb.effect(&mut after.state);
            return Ok(VerbResult { outcome: Some(outcome), ..VerbResult::of(&after, None) });
        }
        let after = self.change_session(session, |session| verb.effect(&mut session.state)).await?;
        // Ended meanwhile: the effect was real, and is over.
        Ok(self.result(&after.unwrap_or_else(|| session.clone())).await)
    }

    /// What a verb's answer shows of the call.
    async fn result(&self, session: &Session) -> VerbResult {
        VerbResult::of(session, self.slots.usage(session.tenant, session.agent).await.ok())
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
        let visible = |operation: &Operation| match principal {
            Principal::Call(bearer) => operation.session == bearer.session,
            Principal::Key(_) | Principal::Mesh(_) => true,
        };
        operation.filter(visible).ok_or_else(|| Error::not_found(Resource::Operation, id))
    }

    /// An acknowledgement that nobody waits for any more: the record learns it, and the session its end.
    pub(super) async fn acknowledge_late(
        &self,
        from: &NodeAddress,
        id: OperationId,
        answer: Result<(), Failure>,
    ) -> Result<()> {
        let Some(mut operation) = self.operations.get(from.tenant, id).await? else { return Ok(()) };
        let session = self.sessions.get(from.tenant, operation.session).await?;
        // A node answers for its own calls only.
        let Some(session) = session.filter(|session| session.node_address().as_ref() == Some(from)) else {
            return Ok(());
        };
        if operation.state.is_final() {
            return Ok(());
        }
        operation.finished_at = Some(self.env.now());
        match answer {
            Ok(()) => self.succeeded(&session, operation).await.map(|_| ()),
            Err(failure) => {
                operation.state = OperationState::Failed;
                operation.failure = Some(failure);
                self.record(&operation).await
            }
        }
    }

    fn known_state(&self, operation: &Operation) -> OperationState {
        operation.known_state(self.env.now(), self.settings.verb_timeout() + PERSIST_FOR)
    }

    /// The answer to a key that was used before.
    fn replay(&self, operation: Operation, digest: Sha256) -> Result<Executed> {
        if operation.digest != digest {
            return Err(Error::IdempotencyKeyReused { key: operation.key.to_string() });
        }
        match self.known_state(&operation) {
            OperationState::Succeeded => Ok(Executed { operation, replayed: true }),
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
            let instruction = Instruction { call: session.call.clone(), key: None, verb, deadline: None };
            let id = OperationId::new(&calls.env);
            if let Err(error) = calls.carry_out(id, session.clone(), instruction).await {
                tracing::warn!(
                    call.id = %session.call, error = &error as &dyn std::error::Error, "the call is ended instead"
                );
                let _ = calls.persist(|| calls.finish(&session, Outcome::WsDisconnected, Node::Tell)).await;
            }
        });
    }
}

fn refused(operation: &Operation) -> Error {
    let failure =
        operation.failure.clone().unwrap_or_else(|| Failure { reason: String::new(), message: String::new() });
    // The one reason of the contract that a node may give in its own name.
    if failure.reason == Reason::LeaseLost.as_str() {
        return Error::LeaseLost { call: operation.call.clone() };
    }
    Error::NodeRefused {
        call: operation.call.clone(),
        operation: operation.id,
        reason: failure.reason,
        message: failure.message,
    }
}

fn unreachable_node(session: &Session) -> Error {
    Error::NodeUnreachable { call: session.call.clone(), node: session.node.clone() }
}
