//! Every verb × every state of a call × every kind of credential: what is answered, and what it does to the call.
//!
//! `table` says what the contract grants and how it refuses the rest, `wire` speaks the verbs, `stage` makes calls,
//! states and credentials, and `effect` says what a verb makes of what can be seen of a call. After each verb that is
//! granted, all that can be seen must be as it was before but for the effect; after those that are refused, as it was.

mod effect;
mod stage;
mod table;
mod wire;

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use tonic::Status;
use voxgate::proto::v1::{OperationState, Verb};

use self::{
    effect::Seen,
    stage::{Call, Stage},
    table::{Credential, Refusal, State, expected},
    wire::{Told, rpc, told, verbs},
};
use super::descriptors::every_rpc;
use crate::harness::{
    client::Explained as _,
    world::{World, on_both_backends},
};

on_both_backends!(every_verb_in_every_state_does_for_every_credential_what_the_contract_says);

const VERBS: usize = 25;
/// What the admission service has besides the verbs.
const NO_VERBS: [&str; 6] = ["AcquireSlot", "AwaitSlot", "GetUsage", "ReleaseSlot", "RenewSlots", "WatchUsage"];
const CELLS: usize = VERBS * State::ALL.len() * Credential::ALL.len();
/// Rows that are played at once.
const AT_ONCE: usize = 16;

/// What came of the cells of one verb in one state.
#[derive(Debug, Default)]
struct Tally {
    cells: usize,
    granted: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn and(self, other: Self) -> Self {
        let wrong = [self.wrong, other.wrong].concat();
        Self { cells: self.cells + other.cells, granted: self.granted + other.granted, wrong }
    }
}

#[test]
fn the_table_has_every_verb_and_no_other() {
    let methods = every_rpc().into_iter().filter(|rpc| rpc.service == "AdmissionService").map(|rpc| rpc.method);
    let served: BTreeSet<String> = methods.filter(|method| !NO_VERBS.contains(&method.as_str())).collect();
    assert_eq!(verbs().into_iter().map(rpc).collect::<BTreeSet<_>>(), served);
    assert_eq!(served.len(), VERBS);
}

async fn every_verb_in_every_state_does_for_every_credential_what_the_contract_says(world: World) {
    let stage = Box::pin(Stage::of(world)).await;
    let others = stage.seen_of_others().await;
    let rows = verbs().into_iter().flat_map(|verb| State::ALL.map(|state| (verb, state)));
    let rows = stream::iter(rows).map(|(verb, state)| Box::pin(stage.judge(verb, state)));
    let tally = rows.buffer_unordered(AT_ONCE).fold(Tally::default(), async |all, row| all.and(row)).await;
    let Tally { cells, granted, wrong } = tally;
    println!(
        "{cells} cells: {VERBS} verbs, {} states, {} credentials; {granted} granted, {} refused",
        State::ALL.len(),
        Credential::ALL.len(),
        cells - granted
    );
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(cells, CELLS);
    assert_eq!(stage.seen_of_others().await, others, "the calls that no verb was asked of are as they were");
}

impl Stage {
    /// The cells of one row. Those that are refused share a call; one that a verb was granted on is used no more.
    async fn judge(&self, verb: Verb, state: State) -> Tally {
        let (mut tally, mut kept) = (Tally::default(), None);
        for credential in Credential::ALL {
            let (call, before) = match kept.take() {
                Some(kept) => kept,
                None => {
                    let call = self.call(state).await;
                    let before = self.seen(&call).await;
                    (call, before)
                }
            };
            let named = format!("{} × {state:?} × {credential:?}", rpc(verb));
            let answer = self.ask(&self.caller(credential, &call).await, verb, &call).await;
            tally.cells += 1;
            match (expected(verb, state, credential).refusal(self.names(&call)), answer) {
                (Some(refusal), Err(status)) => {
                    tally.wrong.extend(fault_of_refusal(&refusal, &status).map(|fault| format!("{named}: {fault}")));
                    kept = Some((call, before));
                }
                (None, Ok(body)) => {
                    tally.granted += 1;
                    let faults = faults_of_grant(self, verb, &call, before, &told(verb, &body)).await;
                    tally.wrong.extend(faults.into_iter().map(|fault| format!("{named}: {fault}")));
                }
                (Some(refusal), Ok(body)) => {
                    tally.wrong.push(format!("{named}: expected {refusal:?}, was answered {:?}", told(verb, &body)));
                }
                (None, Err(status)) => {
                    tally.wrong.push(format!("{named}: expected a success, was refused {status:?}"));
                }
            }
        }
        if let Some((call, before)) = kept {
            let named = format!("{} × {state:?}: refused, and yet", rpc(verb));
            tally.wrong.extend(difference(&before, &self.seen(&call).await).map(|fault| format!("{named} {fault}")));
        }
        tally
    }
}

fn fault_of_refusal(refusal: &Refusal, status: &Status) -> Option<String> {
    let told = (status.code(), status.reason(), status.metadata_of_reason());
    let (code, reason, metadata) = refusal;
    let right = (told.0, told.1.as_str(), &told.2) == (*code, reason, metadata);
    (!right).then(|| format!("expected {refusal:?}, was refused {told:?}"))
}

/// What is wrong with the answer, with the record of the operation and with what is seen of the call afterwards. Nothing
/// that was refused on the same call before may show either.
async fn faults_of_grant(stage: &Stage, verb: Verb, call: &Call, before: Seen, told: &Told) -> Vec<String> {
    let mut faults = Vec::new();
    let after = stage.seen(call).await;
    let succeeded = i32::from(OperationState::Succeeded);
    let common = (told.call_id.as_str(), told.state, told.dispatched_at.is_some(), told.replayed);
    if common != (&*call.slot.call_id, succeeded, true, false) || told.operation_id.is_empty() {
        faults.push(format!("was answered {told:?}"));
    }
    if told.made.as_deref() == Some("") {
        faults.push("the answer does not name what was made".to_owned());
    }
    if told.outcome.is_some_and(|outcome| outcome != after.session.outcome) {
        faults.push(format!("the answer's outcome is {:?}, the session's {:?}", told.outcome, after.session.outcome()));
    }
    if told.call_state.is_some() && told.call_state != after.state {
        faults.push(format!("the answer's state is {:?}, the call's {:?}", told.call_state, after.state));
    }
    // A read leaves no record.
    if verb != Verb::GetCallState {
        let operation = stage.operation(told).await;
        let recorded = (operation.verb(), operation.state, operation.session_id.as_str());
        if recorded != (verb, succeeded, call.slot.session_id.as_str()) {
            faults.push(format!("its record is {operation:?}"));
        }
    }
    faults.extend(difference(&before.after(verb, told, stage.target()), &after));
    faults
}

fn difference(expected: &Seen, seen: &Seen) -> Option<String> {
    (expected != seen).then(|| format!("expected to see {expected:?}\n  and saw {seen:?}"))
}
