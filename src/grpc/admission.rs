//! `AdmissionService`: slots, and the verbs.

use futures_util::{StreamExt as _, stream};
use tonic::{Request, Response, Status, async_trait, codegen::BoxStream};

use super::{
    Api, Incoming,
    convert::{
        lease::{read_acquire, read_await, read_renewals, write_fate, write_slot, write_usage, write_waiting},
        read, read_optional,
        session::read_outcome,
        verb::{VerbContext, VerbRequest},
    },
};
use crate::{
    calls::{AwaitSlot, Executed, Instruction, Update},
    domain::{
        Error, Result as Answer, error::Dependency, ids::VoiceAgentId, lease_token::LeaseToken, violations::Violations,
    },
    proto::v1::{self, admission_service_server::AdmissionService, await_slot_response},
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

    async fn await_slot(
        &self,
        request: Request<v1::AwaitSlotRequest>,
    ) -> Result<Response<BoxStream<v1::AwaitSlotResponse>>, Status> {
        let Incoming { principal, deadline, lifetime, message, .. } = Incoming::of(request)?;
        let (admit, max_wait) = read_await(message, &principal)?;
        let call = admit.call.clone();
        let wait = AwaitSlot { admit, max_wait, deadline: deadline.answer_by().into() };
        let waited = self.calls.await_slot(&principal, wait, lifetime.over()).await?;
        let updates = stream::unfold(waited, |mut waited| async { waited.next().await.map(|it| (it, waited)) });
        let answers = updates.map(move |update| {
            let update = match update? {
                Update::Waiting(place) => await_slot_response::Update::Waiting(write_waiting(place)),
                Update::Granted(admission) => {
                    await_slot_response::Update::Slot(write_slot(&call, &admission, &principal))
                }
            };
            Ok(v1::AwaitSlotResponse { update: Some(update) })
        });
        Ok(Response::new(answers.boxed()))
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
        let agent = read_subject(message.voice_agent_id.as_deref())?;
        let usage = self.calls.usage(principal.tenant(), agent).await?;
        Ok(Response::new(write_usage(usage, agent)))
    }

    async fn watch_usage(
        &self,
        request: Request<v1::WatchUsageRequest>,
    ) -> Result<Response<BoxStream<v1::Usage>>, Status> {
        let Incoming { principal, lifetime, message, .. } = Incoming::of(request)?;
        let agent = read_subject(message.voice_agent_id.as_deref())?;
        let watch = self.calls.watch_usage(&principal, agent).await?;
        let closing = lifetime.over().clone();
        let changes = stream::unfold(Some((watch, closing)), move |watched| async move {
            let (mut watch, closing) = watched?;
            let usage = tokio::select! {
                usage = watch.next() => usage,
                () = closing.cancelled() => Err(Error::Unavailable(Dependency::Replica, None)),
            };
            Some(match usage {
                Ok(usage) => (Ok(write_usage(usage, agent)), Some((watch, closing))),
                Err(error) => (Err(error.into()), None),
            })
        });
        Ok(Response::new(changes.boxed()))
    }

    async fn transfer(&self, request: Request<v1::TransferRequest>) -> Result<Response<v1::TransferResponse>, Status> {
        self.carry(request).await
    }

    async fn hangup(&self, request: Request<v1::HangupRequest>) -> Result<Response<v1::HangupResponse>, Status> {
        self.carry(request).await
    }

    async fn log(&self, request: Request<v1::LogRequest>) -> Result<Response<v1::LogResponse>, Status> {
        self.carry(request).await
    }

    async fn mute(&self, request: Request<v1::MuteRequest>) -> Result<Response<v1::MuteResponse>, Status> {
        self.carry(request).await
    }

    async fn unmute(&self, request: Request<v1::UnmuteRequest>) -> Result<Response<v1::UnmuteResponse>, Status> {
        self.carry(request).await
    }

    async fn hold(&self, request: Request<v1::HoldRequest>) -> Result<Response<v1::HoldResponse>, Status> {
        self.carry(request).await
    }

    async fn unhold(&self, request: Request<v1::UnholdRequest>) -> Result<Response<v1::UnholdResponse>, Status> {
        self.carry(request).await
    }

    async fn send_dtmf(&self, request: Request<v1::SendDtmfRequest>) -> Result<Response<v1::SendDtmfResponse>, Status> {
        self.carry(request).await
    }

    async fn play_audio(
        &self,
        request: Request<v1::PlayAudioRequest>,
    ) -> Result<Response<v1::PlayAudioResponse>, Status> {
        self.carry(request).await
    }

    async fn set_disposition(
        &self,
        request: Request<v1::SetDispositionRequest>,
    ) -> Result<Response<v1::SetDispositionResponse>, Status> {
        self.carry(request).await
    }

    async fn recording_pause(
        &self,
        request: Request<v1::RecordingPauseRequest>,
    ) -> Result<Response<v1::RecordingPauseResponse>, Status> {
        self.carry(request).await
    }

    async fn recording_resume(
        &self,
        request: Request<v1::RecordingResumeRequest>,
    ) -> Result<Response<v1::RecordingResumeResponse>, Status> {
        self.carry(request).await
    }

    async fn get_call_state(
        &self,
        request: Request<v1::GetCallStateRequest>,
    ) -> Result<Response<v1::GetCallStateResponse>, Status> {
        self.carry(request).await
    }

    async fn conference_start(
        &self,
        request: Request<v1::ConferenceStartRequest>,
    ) -> Result<Response<v1::ConferenceStartResponse>, Status> {
        self.carry(request).await
    }

    async fn conference_add(
        &self,
        request: Request<v1::ConferenceAddRequest>,
    ) -> Result<Response<v1::ConferenceAddResponse>, Status> {
        self.carry(request).await
    }

    async fn conference_remove(
        &self,
        request: Request<v1::ConferenceRemoveRequest>,
    ) -> Result<Response<v1::ConferenceRemoveResponse>, Status> {
        self.carry(request).await
    }

    async fn conference_leave(
        &self,
        request: Request<v1::ConferenceLeaveRequest>,
    ) -> Result<Response<v1::ConferenceLeaveResponse>, Status> {
        self.carry(request).await
    }

    async fn request_supervisor(
        &self,
        request: Request<v1::RequestSupervisorRequest>,
    ) -> Result<Response<v1::RequestSupervisorResponse>, Status> {
        self.carry(request).await
    }

    async fn whisper(&self, request: Request<v1::WhisperRequest>) -> Result<Response<v1::WhisperResponse>, Status> {
        self.carry(request).await
    }

    async fn barge(&self, request: Request<v1::BargeRequest>) -> Result<Response<v1::BargeResponse>, Status> {
        self.carry(request).await
    }

    async fn monitor_start(
        &self,
        request: Request<v1::MonitorStartRequest>,
    ) -> Result<Response<v1::MonitorStartResponse>, Status> {
        self.carry(request).await
    }

    async fn monitor_stop(
        &self,
        request: Request<v1::MonitorStopRequest>,
    ) -> Result<Response<v1::MonitorStopResponse>, Status> {
        self.carry(request).await
    }

    async fn set_lead_field(
        &self,
        request: Request<v1::SetLeadFieldRequest>,
    ) -> Result<Response<v1::SetLeadFieldResponse>, Status> {
        self.carry(request).await
    }

    async fn set_lead_status(
        &self,
        request: Request<v1::SetLeadStatusRequest>,
    ) -> Result<Response<v1::SetLeadStatusResponse>, Status> {
        self.carry(request).await
    }

    async fn schedule_callback(
        &self,
        request: Request<v1::ScheduleCallbackRequest>,
    ) -> Result<Response<v1::ScheduleCallbackResponse>, Status> {
        self.carry(request).await
    }
}

impl Api {
    /// All verbs alike: read, carry out, answer; and note what came of it.
    async fn carry<Q: VerbRequest, A: From<Executed>>(&self, request: Request<Q>) -> Result<Response<A>, Status> {
        let (Incoming { principal, deadline, message, trace, .. }, attempt, allowed) = Incoming::attempted(request)?;
        let attempt = attempt.on(message.call_id()).at(&message.target()).under(message.idempotency_key());
        let context = VerbContext { now: self.calls.env.now(), media_urls: self.calls.settings.media_urls() };
        let mut instruction = match allowed.and_then(|()| read_verb(message, context)) {
            Ok(instruction) => instruction,
            Err(refusal) => return Err(self.calls.denied(attempt, refusal).await.into()),
        };
        (instruction.deadline, instruction.trace) = (Some(deadline.answer_by()), trace);
        let executed = self.calls.execute(&principal, instruction, attempt).await?;
        Ok(Response::new(executed.into()))
    }
}

/// The agent that is meant; none: the tenant.
fn read_subject(agent: Option<&str>) -> Answer<Option<VoiceAgentId>> {
    let mut faults = Violations::default();
    let agent = read_optional("voice_agent_id", agent, &mut faults);
    Ok(faults.into_result(Some(agent))?)
}

fn read_verb(wire: impl VerbRequest, context: VerbContext) -> Answer<Instruction> {
    let mut faults = Violations::default();
    let call = read("call_id", wire.call_id(), &mut faults);
    let key = read_optional("idempotency_key", Some(wire.idempotency_key()), &mut faults);
    let verb = wire.verb(context, &mut faults);
    let instruction = call.zip(verb).map(|(call, verb)| Instruction { call, key, verb, deadline: None, trace: None });
    Ok(faults.into_result(instruction)?)
}
