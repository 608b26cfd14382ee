//! Verbs on the wire: requests in, typed answers out.

use super::{
    session::{write_call_state, write_outcome},
    value::{read_object, timestamp},
};
use crate::{
    calls::Executed,
    domain::{
        text::parse_media_url,
        verb::{Destination, GetCallState, Hangup, Hold, Transfer, Unhold, Verb},
        violations::Violations,
    },
    proto::v1,
};

/// A verb's request, seen as what all of them have in common and the verb itself.
pub(crate) trait VerbRequest {
    fn call_id(&self) -> &str;
    fn idempotency_key(&self) -> &str;
    fn verb(self, faults: &mut Violations) -> Option<Verb>;
}

/// Implements the common part of [`VerbRequest`] and hands the rest to `$read`.
macro_rules! verb_request {
    ($request:ty, $read:expr) => {
        impl VerbRequest for $request {
            fn call_id(&self) -> &str {
                &self.call_id
            }

            fn idempotency_key(&self) -> &str {
                &self.idempotency_key
            }

            fn verb(self, faults: &mut Violations) -> Option<Verb> {
                let read: fn(Self, &mut Violations) -> Option<Verb> = $read;
                read(self, faults)
            }
        }
    };
}

verb_request!(v1::GetCallStateRequest, |_, _| Some(GetCallState.into()));
verb_request!(v1::UnholdRequest, |_, _| Some(Unhold.into()));
verb_request!(v1::HangupRequest, |wire, faults| {
    let metadata = faults.take("metadata", read_object(wire.metadata))?;
    Some(Hangup { metadata }.into())
});
verb_request!(v1::HoldRequest, |wire, faults| {
    let moh_url = wire.moh_url.filter(|url| !url.is_empty()).map(parse_media_url).transpose();
    Some(Hold { moh_url: faults.take("moh_url", moh_url)? }.into())
});
verb_request!(v1::TransferRequest, |wire, faults| {
    let destination = wire.destination.and_then(|destination| destination.destination);
    let destination = destination.map(|destination| read_destination(destination, faults));
    let metadata = faults.take("metadata", read_object(wire.metadata))?;
    Some(Transfer { destination: destination.flatten(), metadata }.into())
});

fn read_destination(wire: v1::transfer_destination::Destination, faults: &mut Violations) -> Option<Destination> {
    use v1::transfer_destination::Destination as Wire;
    match wire {
        Wire::AgentQueue(name) => faults.take("destination.agent_queue", Destination::agent_queue(name)),
        Wire::E164(number) => faults.take("destination.e164", Destination::e164(number)),
        Wire::SipUri(uri) => faults.take("destination.sip_uri", Destination::sip_uri(uri)),
    }
}

/// Makes the answer of a verb: what all of them have in common, and one field of its own.
macro_rules! verb_response {
    ($response:ident, $field:ident, $value:expr) => {
        impl From<Executed> for v1::$response {
            fn from(executed: Executed) -> Self {
                let write = $value;
                Self {
                    $field: write(&executed).into(),
                    call_id: executed.operation.call.to_string(),
                    operation_id: executed.operation.id.to_string(),
                    state: v1::OperationState::from(executed.operation.state).into(),
                    dispatched_at: executed.operation.dispatched_at.map(timestamp),
                    replayed: executed.replayed,
                }
            }
        }
    };
}

fn state_after(executed: &Executed) -> v1::CallState {
    write_call_state(&executed.result())
}

fn outcome(executed: &Executed) -> i32 {
    write_outcome(executed.result().outcome)
}

verb_response!(GetCallStateResponse, call_state, state_after);
verb_response!(HoldResponse, call_state, state_after);
verb_response!(UnholdResponse, call_state, state_after);
verb_response!(HangupResponse, outcome, outcome);
verb_response!(TransferResponse, outcome, outcome);
