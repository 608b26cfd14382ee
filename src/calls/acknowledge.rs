//! Brings about what a node has answered to a command, on whichever replica the answer arrives and however late.

use super::{Calls, attributes::of_operation, finish::Node};
use crate::{
    domain::{
        Error, Result,
        conference::Relation,
        error::Reason,
        ids::{CallId, OperationId},
        node::NodeAddress,
        operation::{Acknowledgement, Failure, Operation},
        session::Session,
        verb::Verb,
    },
    nodes::Origin,
    traces::{Kind, Span},
};

impl Calls {
    /// The verb's effect and its record, in one step; whoever waits is told. An answer that comes again, or late, does
    /// what the first one would have.
    pub(super) async fn acknowledge(
        &self,
        from: &NodeAddress,
        id: OperationId,
        answer: Acknowledgement,
        origin: Option<Origin>,
    ) -> Result<()> {
        let Some(operation) = self.operations.get(from.tenant, id).await? else { return Ok(()) };
        let session = self.sessions.get(from.tenant, operation.session).await?;
        // A node answers for its own calls only.
        let host = session.as_ref().and_then(Session::node_address);
        if origin.is_none() && host.as_ref() != Some(from) {
            return Ok(());
        }
        if operation.state.is_final() {
            self.settle_letter(from, origin, operation).await;
            return Ok(());
        }
        let usage = match &session {
            Some(session) if answer.is_ok() && operation.verb.ends().is_none() => {
                self.slots.usage(session.tenant, session.agent).await.ok()
            }
            _ => None,
        };
        let trace = origin.as_ref().and_then(|origin| origin.trace.as_ref());
        let span = Span::within(trace, Kind::Internal, "record answer").with(|| of_operation(&operation));
        let settled = self.operations.settle(from.tenant, id, answer, usage, self.env.now()).await?;
        drop(span);
        let Some(settled) = settled else { return Ok(()) };
        count(&settled.operation);
        self.settle_letter(from, origin, settled.operation).await;
        match settled.session {
            Some(ended) if settled.ended => self.let_go_of(&ended, Node::Knows).await,
            _ => {}
        }
        Ok(())
    }

    async fn settle_letter(&self, from: &NodeAddress, origin: Option<Origin>, operation: Operation) {
        let number = origin.as_ref().map(|origin| origin.number);
        let answer = origin.map(|origin| (origin.reply_to, operation));
        self.bus.settle(from, number, answer).await;
    }
}

pub(super) fn count(operation: &Operation) {
    let verb = operation.verb.name().as_str();
    metrics::counter!("voxgate_operations_total", "verb" => verb, "state" => operation.state.as_str()).increment(1);
}

/// What the node's refusal is to the caller: a reason of the contract where the node names one that fits the verb.
pub(super) fn refused(operation: &Operation) -> Error {
    let call = operation.call.clone();
    let failure =
        operation.failure.clone().unwrap_or_else(|| Failure { reason: String::new(), message: String::new() });
    let relation = |target: &CallId, required| Error::ConferenceMembershipRequired {
        call: call.clone(),
        target: target.clone(),
        required,
    };
    match (Reason::from_word(&failure.reason), &operation.verb) {
        (Some(Reason::LeaseLost), _) => Error::LeaseLost { call },
        (Some(Reason::MemberNotFound), Verb::ConferenceRemove(remove)) => {
            Error::MemberNotFound { call, member: remove.member.clone() }
        }
        (Some(Reason::ConferenceMembershipRequired), Verb::MonitorStart(start)) => {
            relation(&start.target, Relation::Conference)
        }
        (Some(Reason::ConferenceMembershipRequired), Verb::MonitorStop(stop)) => {
            relation(&stop.target, Relation::Monitor)
        }
        (Some(Reason::ConferenceMembershipRequired), Verb::Barge(barge)) => relation(&barge.target, Relation::Monitor),
        (Some(Reason::ConferenceMembershipRequired), Verb::Whisper(whisper)) => {
            relation(&whisper.target, Relation::Whisper)
        }
        _ => Error::NodeRefused { call, operation: operation.id, reason: failure.reason, message: failure.message },
    }
}
