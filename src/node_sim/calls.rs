//! The calls that the node hosts, and the commands it has been given for them.
//!
//! A command is carried out when it arrives and at most once: its answer is remembered by operation. Answers that no
//! stream has taken yet wait here, so that a reconnected node still delivers them. Where the node is to fail with a
//! command, the answer may be slow, come twice, or be lost with the stream.

use std::{collections::BTreeMap, time::Duration};

use secrecy::SecretString;
use tokio::time::Instant;

use super::{Behaviour, Failure, call::Call, memory::Memory, verbs};
use crate::{
    domain::{Env, Timestamp, trace::TraceContext},
    proto::v1::{
        CallAssigned, Command, CommandFailed, CommandResult, CommandSucceeded, EndCall, LeaseLost, LeaseRenewalResult,
        LeaseState, LiveCall, TokenRefresh, command_result::Result as Answer,
    },
    traces::{Attribute, Kind, Span},
};

/// Whether the call goes on after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Goes,
    Over,
}

/// Whether the stream goes on after a command.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Stays,
    Drops,
}

#[derive(Debug)]
pub(super) struct Calls {
    env: Env,
    behavior: Behaviour,
    hosted: BTreeMap<String, Call>,
    memory: Memory,
    /// By when they are due, and then in the order of their commands; with the span that ends when they are said.
    answers: BTreeMap<(Instant, u64), (CommandResult, Span)>,
    answered: u64,
    /// By how much the service's clock is ahead, in microseconds: deadlines are by the service's clock.
    clock_skew_us: i64,
}

impl Calls {
    pub(super) fn new(env: Env, behavior: Behaviour) -> Self {
        Self {
            env,
            behavior,
            hosted: BTreeMap::new(),
            memory: Memory::default(),
            answers: BTreeMap::new(),
            answered: 0,
            clock_skew_us: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.hosted.len()
    }

    pub(super) fn hosts(&self, call_id: &str) -> bool {
        self.hosted.contains_key(call_id)
    }

    pub(super) fn live(&self) -> Vec<LiveCall> {
        let live = |(id, call): (&String, &Call)| LiveCall { call_id: id.clone(), lease_id: call.lease_id.clone() };
        self.hosted.iter().map(live).collect()
    }

    pub(super) fn set_service_time(&mut self, now: Timestamp) {
        self.clock_skew_us = now.as_micros().saturating_sub(self.env.now().as_micros());
    }

    /// Takes the call in. True if it is new, or has a new lease and so starts afresh.
    pub(super) fn assign(&mut self, assigned: CallAssigned) -> bool {
        let slot = assigned.slot.unwrap_or_default();
        let token = SecretString::from(slot.callback_token);
        if let Some(known) = self.hosted.get_mut(&assigned.call_id).filter(|call| call.lease_id == slot.lease_id) {
            known.token = token;
            return false;
        }
        tracing::info!(call.id = assigned.call_id, session.id = slot.session_id, "the node hosts a call");
        let call =
            Call { lease_id: slot.lease_id, session_id: slot.session_id, fence: slot.fence, token, ..Call::default() };
        self.hosted.insert(assigned.call_id, call);
        true
    }

    pub(super) fn refresh_token(&mut self, refresh: TokenRefresh) {
        if let Some(call) = self.hosted.get_mut(&refresh.call_id) {
            call.token = SecretString::from(refresh.callback_token);
            tracing::info!(call.id = refresh.call_id, session.id = call.session_id, "the call has a new token");
        }
    }

    /// Drops the calls whose lease the service no longer knows.
    pub(super) fn settle(&mut self, fates: &[LeaseRenewalResult]) {
        for fate in fates {
            if matches!(fate.state(), LeaseState::Lost | LeaseState::Released) {
                self.drop_call(&fate.call_id, "its lease was gone at reconnect");
            }
        }
    }

    /// A call that has a newer lease goes on by that one.
    pub(super) fn lose(&mut self, lost: &LeaseLost) {
        if self.hosted.get(&lost.call_id).is_some_and(|call| call.lease_id == lost.lease_id) {
            self.drop_call(&lost.call_id, "its lease is lost");
        }
    }

    pub(super) fn end(&mut self, end: &EndCall) {
        self.drop_call(&end.call_id, &end.reason);
    }

    fn drop_call(&mut self, call_id: &str, reason: &str) {
        if let Some(call) = self.hosted.remove(call_id) {
            tracing::info!(call.id = call_id, session.id = call.session_id, reason, "the node dropped a call");
        }
    }

    /// Carries `command` out, unless it came before, and keeps the answer until it is due.
    pub(super) fn command(&mut self, command: &Command) -> Link {
        let (operation_id, call_id) = (command.operation_id.clone(), command.call_id.clone());
        let trace = command.traceparent.as_deref().and_then(|parent| TraceContext::read(parent, command.tracestate()));
        let _log = trace.as_ref().map(|trace| tracing::info_span!("command", trace.id = %trace.trace_id()).entered());
        let span = span_of(command, trace.as_ref());
        let ack_delay = self.behavior.ack_delay;
        if let Some(first) = self.memory.answer_to(&operation_id) {
            tracing::info!(
                call.id = call_id,
                operation.id = operation_id,
                "a command came again and is answered as before"
            );
            self.answer(operation_id, first, ack_delay, span);
            return Link::Stays;
        }
        let verb = command.verb.as_ref().map(verbs::name);
        let scripted = verb.and_then(|verb| self.behavior.script.decide(verb));
        match scripted.or(self.behavior.policy.failure()) {
            None => {
                let answer = self.execute_once(command);
                self.answer(operation_id, answer, ack_delay, span);
            }
            Some(Failure::Slow(delay)) => {
                let answer = self.execute_once(command);
                self.answer(operation_id, answer, delay, span);
            }
            Some(Failure::Reject) => {
                let rejected = Err(verbs::failed("NODE_REJECTED", "this node is told to reject the command"));
                let answer = self.remember(command, rejected);
                self.answer(operation_id, answer, ack_delay, span);
            }
            Some(Failure::Ignore) => {
                tracing::info!(call.id = call_id, operation.id = operation_id, "a command is ignored");
            }
            Some(Failure::DuplicateAck) => {
                let answer = self.execute_once(command);
                tracing::info!(call.id = call_id, operation.id = operation_id, "a command is acknowledged twice");
                self.answer(operation_id.clone(), answer.clone(), ack_delay, span);
                self.answer(operation_id, answer, ack_delay, Span::default());
            }
            Some(Failure::Disconnect) => {
                self.execute_once(command);
                tracing::info!(call.id = call_id, operation.id = operation_id, "a command is not acknowledged");
                return Link::Drops;
            }
        }
        Link::Stays
    }

    fn answer(&mut self, operation_id: String, answer: Answer, delay: Duration, span: Span) {
        let result = CommandResult { operation_id, result: Some(answer) };
        self.answers.insert((Instant::now() + delay, self.answered), (result, span));
        self.answered += 1;
    }

    fn execute_once(&mut self, command: &Command) -> Answer {
        let executed = self.execute(command);
        self.remember(command, executed)
    }

    /// What was done is the answer to this command from now on.
    fn remember(&mut self, command: &Command, done: Result<CommandSucceeded, CommandFailed>) -> Answer {
        let Command { operation_id, call_id, .. } = command;
        let verb = command.verb.as_ref().map_or("unknown", |verb| verbs::name(verb).as_str());
        let answer = match done {
            Ok(succeeded) => {
                let state = self.hosted.get(call_id).map_or_else(|| "over".to_owned(), ToString::to_string);
                tracing::info!(
                    call.id = call_id,
                    operation.id = operation_id,
                    verb,
                    call.state = state,
                    "a command was carried out"
                );
                Answer::Succeeded(succeeded)
            }
            Err(failed) => {
                let reason = &failed.reason;
                tracing::info!(call.id = call_id, operation.id = operation_id, verb, reason, "a command was refused");
                Answer::Failed(failed)
            }
        };
        self.memory.keep(operation_id.clone(), answer.clone());
        answer
    }

    fn execute(&mut self, command: &Command) -> Result<CommandSucceeded, CommandFailed> {
        if let Some(deadline) = &command.deadline
            && timestamp(deadline).as_micros() < self.env.now().as_micros().saturating_add(self.clock_skew_us)
        {
            return Err(verbs::failed("OPERATION_PENDING", "the command arrived after its deadline"));
        }
        let call = self
            .hosted
            .get_mut(&command.call_id)
            .ok_or_else(|| verbs::failed("INVALID_CALL_STATE", "this node does not host the call"))?;
        if command.fence < call.fence {
            return Err(verbs::failed("LEASE_LOST", "the node knows a newer lease of the call"));
        }
        let verb =
            command.verb.clone().ok_or_else(|| verbs::failed("UNKNOWN_VERB", "the node does not know this verb"))?;
        let (succeeded, after) = verbs::execute(call, verb, &self.env)?;
        if after == After::Over {
            self.drop_call(&command.call_id, "a command ended it");
        }
        Ok(succeeded)
    }

    /// When the next answer is due, if there is one.
    pub(super) fn next_answer_at(&self) -> Option<Instant> {
        self.answers.first_key_value().map(|((due, _), _)| *due)
    }

    pub(super) fn take_due_answer(&mut self) -> Option<CommandResult> {
        let first = self.answers.first_entry().filter(|first| first.key().0 <= Instant::now())?;
        Some(first.remove().0)
    }
}

/// From the command's arrival until its answer is said, or until it is known that there will be none.
fn span_of(command: &Command, trace: Option<&TraceContext>) -> Span {
    Span::within(trace, Kind::Server, "carry out command").with(|| {
        let verb = command.verb.as_ref().map_or("unknown", |verb| verbs::name(verb).as_str());
        [
            Attribute::new("voxgate.verb", verb),
            Attribute::new("voxgate.operation.id", command.operation_id.clone()),
            Attribute::new("voxgate.call.id", command.call_id.clone()),
        ]
    })
}

pub(super) fn timestamp(wire: &prost_types::Timestamp) -> Timestamp {
    Timestamp::from_micros(wire.seconds.saturating_mul(1_000_000).saturating_add(i64::from(wire.nanos / 1_000)))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Policy, Rule},
        *,
    };
    use crate::proto::v1::{HangupCommand, HoldCommand, MuteCommand, Slot, command::Verb};

    fn hosting_one_call(policy: Policy) -> Calls {
        hosting_one_call_by(Behaviour { policy, ..Behaviour::default() })
    }

    fn scripted(rules: &[&str]) -> Calls {
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().expect("a rule")).collect();
        hosting_one_call_by(Behaviour { script: rules.into(), ..Behaviour::default() })
    }

    fn hosting_one_call_by(behavior: Behaviour) -> Calls {
        let mut calls = Calls::new(Env::system(), behavior);
        let slot = Slot { lease_id: "lse_1".into(), fence: 7, ..Slot::default() };
        assert!(calls.assign(CallAssigned { slot: Some(slot), call_id: "call-1".into(), ..CallAssigned::default() }));
        calls
    }

    fn command(operation: &str, verb: Verb) -> Command {
        Command {
            operation_id: operation.into(),
            call_id: "call-1".into(),
            fence: 7,
            verb: Some(verb),
            ..Command::default()
        }
    }

    fn answer(calls: &mut Calls, command: &Command) -> Answer {
        assert_eq!(calls.command(command), Link::Stays);
        calls.take_due_answer().expect("an answer").result.expect("a result")
    }

    fn reason(answer: Answer) -> String {
        match answer {
            Answer::Failed(failed) => failed.reason,
            Answer::Succeeded(_) => "SUCCEEDED".into(),
        }
    }

    #[test]
    fn a_command_that_comes_again_is_answered_alike_and_carried_out_once() {
        let mut calls = hosting_one_call(Policy::Accept);
        let hold = command("op_1", Verb::Hold(HoldCommand::default()));
        let first = answer(&mut calls, &hold);
        assert_eq!(answer(&mut calls, &hold), first, "the same operation");
        assert_eq!(reason(first), "SUCCEEDED");
        let again = command("op_2", Verb::Hold(HoldCommand::default()));
        assert_eq!(reason(answer(&mut calls, &again)), "INVALID_CALL_STATE", "another operation on a held call");
    }

    #[test]
    fn a_command_of_an_older_fence_or_past_its_deadline_is_not_begun() {
        let mut calls = hosting_one_call(Policy::Accept);
        let stale = Command { fence: 6, ..command("op_1", Verb::Hangup(HangupCommand::default())) };
        assert_eq!(reason(answer(&mut calls, &stale)), "LEASE_LOST");
        let deadline = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let late = Command { deadline, ..command("op_2", Verb::Hangup(HangupCommand::default())) };
        assert_eq!(reason(answer(&mut calls, &late)), "OPERATION_PENDING");
        assert_eq!(calls.len(), 1);
    }

    #[test]
    fn a_hangup_drops_the_call_and_a_lost_lease_only_its_own() {
        let mut calls = hosting_one_call(Policy::Accept);
        calls.lose(&LeaseLost { call_id: "call-1".into(), lease_id: "lse_0".into() });
        assert_eq!(calls.len(), 1, "the lease that was lost is an older one");
        answer(&mut calls, &command("op_1", Verb::Hangup(HangupCommand::default())));
        assert_eq!(calls.len(), 0);
    }

    #[test]
    fn policies_reject_or_ignore_and_change_nothing() {
        let mut rejecting = hosting_one_call(Policy::Reject);
        let hangup = command("op_1", Verb::Hangup(HangupCommand::default()));
        assert_eq!(reason(answer(&mut rejecting, &hangup)), "NODE_REJECTED");
        let mut ignoring = hosting_one_call(Policy::Ignore);
        assert_eq!(ignoring.command(&hangup), Link::Stays);
        assert!(ignoring.take_due_answer().is_none());
        assert_eq!((rejecting.len(), ignoring.len()), (1, 1));
    }

    fn hold(operation: &str) -> Command {
        command(operation, Verb::Hold(HoldCommand::default()))
    }

    #[test]
    fn a_stream_that_drops_takes_the_answer_along_and_a_known_command_is_answered_from_memory() {
        let mut calls = scripted(&["hold:disconnect"]);
        assert_eq!(calls.command(&hold("op_1")), Link::Drops);
        assert!(calls.hosted["call-1"].held && calls.take_due_answer().is_none());
        let answer = answer(&mut calls, &hold("op_1"));
        assert_eq!(reason(answer), "SUCCEEDED", "it came again, and a held call cannot be held");
        assert!(calls.take_due_answer().is_none());
    }

    #[test]
    fn an_acknowledgement_may_come_twice_or_late_and_overtakes_nobody_of_its_own_moment() {
        let mut calls = scripted(&["hold:duplicate-ack", "mute:slow=3600000"]);
        let first = answer(&mut calls, &hold("op_1"));
        let again = calls.take_due_answer().expect("a second answer");
        assert_eq!((&*again.operation_id, again.result), ("op_1", Some(first)));
        let mute = command("op_2", Verb::Mute(MuteCommand::default()));
        assert_eq!(calls.command(&mute), Link::Stays);
        assert!(calls.hosted["call-1"].caller_muted && calls.take_due_answer().is_none(), "done, and not said yet");
        assert_eq!(
            reason(answer(&mut calls, &hold("op_3"))),
            "INVALID_CALL_STATE",
            "it does not wait for the slow one"
        );
        assert!(calls.next_answer_at().is_some());
    }

    #[test]
    fn what_a_script_rejects_stays_rejected_and_what_it_does_not_name_goes_by_the_policy() {
        let script: Rule = "hold:reject:1".parse().expect("a rule");
        let mut calls = hosting_one_call_by(Behaviour {
            policy: Policy::Ignore,
            script: vec![script].into(),
            ..Behaviour::default()
        });
        for _ in 0..2 {
            assert_eq!(reason(answer(&mut calls, &hold("op_1"))), "NODE_REJECTED");
        }
        assert_eq!(calls.command(&hold("op_2")), Link::Stays);
        assert!(calls.take_due_answer().is_none() && !calls.hosted["call-1"].held);
    }

    #[test]
    fn calls_whose_lease_is_gone_at_reconnect_are_dropped() {
        let mut calls = hosting_one_call(Policy::Accept);
        let fate = |state| LeaseRenewalResult { call_id: "call-1".into(), state, expires_at: None };
        calls.settle(&[fate(LeaseState::Renewed.into()), fate(LeaseState::Readmitted.into())]);
        assert_eq!(calls.len(), 1);
        calls.settle(&[fate(LeaseState::Lost.into())]);
        assert_eq!(calls.len(), 0);
    }
}
