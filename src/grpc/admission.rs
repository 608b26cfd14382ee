//! `AdmissionService`: slots, and the verbs.

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api, Incoming,
    convert::{
        lease::{read_acquire, read_renewals, write_fate, write_slot, write_usage},
        read, read_optional,
        session::read_outcome,
        verb::VerbRequest,
    },
};
use crate::{
    calls::{Executed, Instruction},
    domain::{Error, Result as Answer, ids::VoiceAgentId, lease_token::LeaseToken, violations::Violations},
    proto::v1::{self, admission_service_server::AdmissionService},
};

#[async_trait]
impl AdmissionService for Api {
    async fn acquire_slot(&self, request: Request<v1::AcquireSlotRequest>) -> Result<Response<v1::Slot>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let admit = read_acquire(message, &principal)?;
        let call = admit.call.clone();
        let admission = self.calls.admit(principal.tenant(), admit).await?;
        Ok(Response::new(write_slot(&call, &admission, &principal)))
    }

    async fn renew_slots(
        &self,
        request: Request<v1::RenewSlotsRequest>,
    ) -> Result<Response<v1::RenewSlotsResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let presented = read_renewals(message)?;
        let fates = self.calls.renew_for(&principal, &presented).await?;
        let results = presented.iter().zip(fates).map(|(lease, fate)| write_fate(&lease.call, fate)).collect();
        Ok(Response::new(v1::RenewSlotsResponse { results }))
    }

    async fn release_slot(
        &self,
        request: Request<v1::ReleaseSlotRequest>,
    ) -> Result<Response<v1::ReleaseSlotResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let mut faults = Violations::default();
        let call = read("call_id", &message.call_id, &mut faults);
        let lease: Option<LeaseToken> = read("lease_id", &message.lease_id, &mut faults);
        let outcome = read_outcome(message.outcome, &mut faults);
        let (call, lease) = faults.into_result(call.zip(lease)).map_err(Error::from)?;
        let released = self.calls.release(&principal, call, lease, outcome).await?;
        let usage = Some(write_usage(released.usage, Some(lease.claimed().lease.agent())));
        Ok(Response::new(v1::ReleaseSlotResponse { released: released.released, usage }))
    }

    async fn get_usage(&self, request: Request<v1::GetUsageRequest>) -> Result<Response<v1::Usage>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let mut faults = Violations::default();
        let agent: Option<VoiceAgentId> =
            read_optional("voice_agent_id", message.voice_agent_id.as_deref(), &mut faults);
        let agent = faults.into_result(Some(agent)).map_err(Error::from)?;
        let usage = self.calls.usage(principal.tenant(), agent).await?;
        Ok(Response::new(write_usage(usage, agent)))
    }

    async fn transfer(&self, request: Request<v1::TransferRequest>) -> Result<Response<v1::TransferResponse>, Status> {
        self.carry(request).await
    }

    async fn hangup(&self, request: Request<v1::HangupRequest>) -> Result<Response<v1::HangupResponse>, Status> {
        self.carry(request).await
    }

    async fn hold(&self, request: Request<v1::HoldRequest>) -> Result<Response<v1::HoldResponse>, Status> {
        self.carry(request).await
    }

    async fn unhold(&self, request: Request<v1::UnholdRequest>) -> Result<Response<v1::UnholdResponse>, Status> {
        self.carry(request).await
    }

    async fn get_call_state(
        &self,
        request: Request<v1::GetCallStateRequest>,
    ) -> Result<Response<v1::GetCallStateResponse>, Status> {
        self.carry(request).await
    }
}

impl Api {
    /// All verbs alike: read, carry out, answer.
    async fn carry<Q: VerbRequest, A: From<Executed>>(&self, request: Request<Q>) -> Result<Response<A>, Status> {
        let Incoming { principal, deadline, message } = Incoming::of(request)?;
        let mut instruction = read_verb(message)?;
        instruction.deadline = Some(deadline.answer_by());
        let executed = self.calls.execute(&principal, instruction).await?;
        Ok(Response::new(executed.into()))
    }
}

fn read_verb(wire: impl VerbRequest) -> Answer<Instruction> {
    let mut faults = Violations::default();
    let call = read("call_id", wire.call_id(), &mut faults);
    let key = read_optional("idempotency_key", Some(wire.idempotency_key()), &mut faults);
    let verb = wire.verb(&mut faults);
    let instruction = call.zip(verb).map(|(call, verb)| Instruction { call, key, verb, deadline: None });
    Ok(faults.into_result(instruction)?)
}
