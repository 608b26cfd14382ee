//! Every credential × every RPC × what is the tenant's own, another tenant's, and nobody's.
//!
//! `table` says what the contract asks of each RPC, `credentials` makes the credentials, `holdings` makes what requests
//! name, and `verdict` is the rule that follows: the credential, its scope, whether the RPC is served, whose the thing
//! is, and the sandbox fence, in this order. Whatever must be refused is tried on the same two sets of things, one a
//! tenant, and both are untouched in the end; whatever must succeed is tried on a set of its own.

mod credentials;
mod holdings;
mod table;

use std::{collections::BTreeSet, fmt, time::Duration};

use tonic::{Code, Status};
use voxgate::{
    node_sim::Behaviour,
    proto::v1::{GetCallStateRequest, HangupRequest, HoldRequest, SessionStatus, UnholdRequest},
};

use self::{
    credentials::{Bearer, Credential, Power, credentials},
    holdings::{Estate, Holdings, Home},
    table::{Fence, Names, Needs, Row, rows},
};
use super::{descriptors::every_rpc, unimplemented::UNIMPLEMENTED};
use crate::harness::{
    client::{Caller, Explained as _, granted},
    world::{World, acquire, on_both_backends, unique},
};

on_both_backends!(
    every_credential_gets_what_the_contract_gives_it_and_nothing_else,
    calls_of_two_tenants_that_are_named_alike_are_driven_apart,
);

const RPCS: usize = 71;
const CREDENTIALS: usize = 28;
/// Rows that name nothing have one cell a credential, the others one a target.
const NAMELESS: usize = 7;
const NAMING: usize = 71;
const CELLS: usize = CREDENTIALS * (NAMELESS + 3 * NAMING);
/// No unary answer of this service takes longer, nor a stream's first.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whose the thing is that a request names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Own,
    Other,
    Nobody,
}

/// How a cell must be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// As the row says of what is one's own.
    Granted,
    /// A success that touches nothing.
    Idle,
    /// A success that tells of nothing, as about what does not exist.
    Empty,
    /// With this in the metadata of its reason.
    Refused(Code, &'static str, Option<(&'static str, String)>),
}

const fn refused(code: Code, reason: &'static str) -> Verdict {
    Verdict::Refused(code, reason, None)
}

fn lacks(scope: &str) -> Verdict {
    Verdict::Refused(Code::PermissionDenied, "SCOPE_REQUIRED", Some(("scope", scope.to_owned())))
}

fn absent(row: &Row) -> Verdict {
    row.names.missing().map_or(Verdict::Empty, |(code, reason)| refused(code, reason))
}

fn verdict(credential: &Credential, row: &Row, target: Target, names: &Holdings) -> Verdict {
    match (&credential.power, row.needs) {
        (Power::None(reason), _) => return refused(Code::Unauthenticated, reason),
        (Power::Key { scopes, .. }, Needs::Scopes(needed)) => {
            if let Some(scope) = needed.iter().find(|scope| !scopes.contains(scope)) {
                return lacks(scope);
            }
        }
        (Power::Key { scopes, .. }, Needs::TokenOr(scope)) if !scopes.contains(&scope) => return lacks(scope),
        (Power::Token(Bearer::Client), Needs::TokenOr(scope)) if !row.takes_connection_tokens() => return lacks(scope),
        (Power::Token(_), Needs::Scopes(needed)) => return lacks(needed[0]),
        _ => {}
    }
    if UNIMPLEMENTED.contains(&row.rpc) {
        return refused(Code::Unimplemented, "UNIMPLEMENTED");
    }
    match &credential.power {
        Power::None(_) => unreachable!("refused above"),
        Power::Key { home, sandbox, .. } => by_key(*home, *sandbox, row, target),
        Power::Token(bearer) => by_token(*bearer, row, target, names),
    }
}

fn by_key(home: Option<Target>, sandbox: bool, row: &Row, target: Target) -> Verdict {
    let reached = match row.names {
        Names::Nothing => true,
        names => target != Target::Nobody && (home == Some(target) || names.is_an_operators()),
    };
    match row.fence {
        _ if !reached => absent(row),
        Fence::Hidden if sandbox => absent(row),
        Fence::Idle if sandbox => Verdict::Idle,
        Fence::Refused(code, reason) if sandbox => refused(code, reason),
        _ => Verdict::Granted,
    }
}

fn by_token(bearer: Bearer, row: &Row, target: Target, names: &Holdings) -> Verdict {
    let call = Some(("call_id", names.call.clone()));
    match (bearer, target, row.names) {
        (Bearer::Ended, Target::Own, _) if row.is_verb() => {
            Verdict::Refused(Code::FailedPrecondition, "AI_SESSION_TERMINATED", call)
        }
        (Bearer::OwnCall, Target::Own, _) if row.of_token.is_some() => {
            row.of_token.map_or(Verdict::Granted, |(code, reason)| refused(code, reason))
        }
        (Bearer::OwnCall | Bearer::Ended, Target::Own, _) => Verdict::Granted,
        // Any other call, whether there is one or not.
        (_, _, Names::Call) => Verdict::Refused(Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN", call),
        (_, _, Names::Session) if target == bearer.home() => {
            Verdict::Refused(Code::PermissionDenied, "CALL_NOT_BOUND_TO_TOKEN", call)
        }
        _ => absent(row),
    }
}

type Answer = Result<Vec<u8>, Status>;

/// What is wrong with an answer, if anything is.
fn fault(verdict: &Verdict, row: &Row, answer: &Answer) -> Option<String> {
    let expected = match (verdict, row.own) {
        (Verdict::Granted, Some((code, reason))) => Some((code, reason, None)),
        (Verdict::Granted, None) | (Verdict::Idle | Verdict::Empty, _) => None,
        (Verdict::Refused(code, reason, told), _) => Some((*code, *reason, told.as_ref())),
    };
    let right = match (&expected, answer) {
        (None, Ok(_)) => true,
        (Some((code, reason, told)), Err(status)) => {
            let metadata = status.metadata_of_reason();
            let tells = told.is_none_or(|(name, value)| metadata.get(*name) == Some(value));
            (status.code(), &*status.reason()) == (*code, *reason) && tells
        }
        _ => false,
    };
    let told = answer.as_ref().map(|body| String::from_utf8_lossy(body));
    (!right).then(|| format!("expected {expected:?}, was answered {told:?}"))
}

/// All that its caller sees of an answer, as it would be if it spoke of `nobody`.
#[derive(PartialEq, Eq)]
struct Seen {
    code: Code,
    parts: [Vec<u8>; 2],
}

impl Seen {
    fn of(answer: &Answer, names: &Holdings, nobody: &Holdings) -> Self {
        let (code, parts) = match answer {
            Ok(body) => (Code::Ok, [body.clone(), Vec::new()]),
            Err(status) => (status.code(), [status.message().as_bytes().to_vec(), told(status)]),
        };
        Self { code, parts: parts.map(|part| names.renamed(&part, nobody)) }
    }
}

/// The details of an error, in an order of their own: on the wire, the entries of a map come in any.
fn told(status: &Status) -> Vec<u8> {
    let info = (status.reason(), status.metadata_of_reason());
    format!("{info:?} {:?} {:?} {:?}", status.faulty_fields(), status.retry_delay(), status.quotas()).into_bytes()
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.each_ref().map(|part| String::from_utf8_lossy(part));
        write!(f, "{:?} {parts:?}", self.code)
    }
}

async fn asked(caller: &Caller, row: &Row, names: &Holdings) -> Answer {
    let (path, request) = (row.path(), row.request(names));
    let answer = async {
        loop {
            match caller.ask(&path, request.clone()).await {
                // The rows ask one call for more verbs in a second than a call is given.
                Err(status) if status.reason() == "RATE_LIMITED" && status.metadata_of_reason()["scope"] == "call" => {
                    tokio::time::sleep(status.retry_delay().expect("a delay")).await;
                }
                answer => return answer,
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{path}: no answer"))
}

struct Matrix {
    own: Home,
    other: Home,
    /// A third tenant: an operator's requests do succeed on what is another's.
    elsewhere: Home,
    own_things: Holdings,
    other_things: Holdings,
    no_things: Holdings,
    ended: Holdings,
}

impl Matrix {
    async fn of(world: &World) -> Self {
        let (live, _) = world.sides().await;
        let (other, elsewhere) = (Home::of(live.neighbour().await).await, Home::of(live.neighbour().await).await);
        let own = Home::of(live).await;
        Self {
            own_things: Holdings::of(&own).await.with_webhook(&own).await.settled(&own.world).await,
            other_things: Holdings::of(&other).await.with_webhook(&other).await.settled(&other.world).await,
            no_things: Holdings::of_nobody(),
            ended: Holdings::of(&own).await.ended(&own).await,
            own,
            other,
            elsewhere,
        }
    }

    /// What a request names, and who sends it.
    async fn request(&self, credential: &Credential, row: &Row, target: Target) -> (Holdings, Caller) {
        let standing = match (&credential.power, target) {
            (Power::Token(Bearer::Ended), Target::Own) => &self.ended,
            (_, Target::Own) => &self.own_things,
            (_, Target::Other) => &self.other_things,
            (_, Target::Nobody) => &self.no_things,
        };
        let succeeds = verdict(credential, row, target, standing) == Verdict::Granted;
        if !succeeds || matches!(credential.power, Power::Token(Bearer::Ended)) || row.names == Names::Nothing {
            return (standing.clone(), credential.caller.clone());
        }
        let home = if target == Target::Own { &self.own } else { &self.elsewhere };
        let fresh = Holdings::of(home).await;
        let fresh = if row.names == Names::Webhook { fresh.with_webhook(home).await } else { fresh };
        let caller = match credential.power {
            Power::Token(_) => credential.caller.with(&fresh.token),
            _ => credential.caller.clone(),
        };
        (fresh, caller)
    }

    /// The cells of one credential and one row; answers how many there are, and notes those that are wrong.
    async fn judge(&self, credential: &Credential, row: &Row, wrong: &mut Vec<String>) -> usize {
        let targets: &[Target] = match row.names {
            Names::Nothing => &[Target::Own],
            _ => &[Target::Nobody, Target::Own, Target::Other],
        };
        let mut unknown = None;
        for &target in targets {
            let (names, caller) = self.request(credential, row, target).await;
            let expected = verdict(credential, row, target, &names);
            let answer = asked(&caller, row, &names).await;
            let cell = format!("{} × {} × {target:?}", credential.name, row.rpc);
            let seen = Seen::of(&answer, &names, &self.no_things);
            match (fault(&expected, row, &answer), &unknown) {
                (Some(fault), _) => wrong.push(format!("{cell}: {fault}")),
                (None, Some((verdict, of_unknown)))
                    if !row.tells_time && as_of_unknown(&expected, verdict) && seen != *of_unknown =>
                {
                    wrong
                        .push(format!("{cell}: {seen:?} is not what tells of one that does not exist: {of_unknown:?}"));
                }
                (None, _) => {}
            }
            let leak = answer.ok().and_then(|body| self.other_things.named_in(&body).map(str::to_owned));
            if target == Target::Own && !row.is_an_operators() {
                wrong.extend(leak.map(|name| format!("{cell}: tells of another tenant's {name}")));
            }
            unknown.get_or_insert((expected, seen));
        }
        targets.len()
    }
}

/// Whether the two must be the same to the last byte, whatever id stands in them.
fn as_of_unknown(verdict: &Verdict, of_unknown: &Verdict) -> bool {
    match (verdict, of_unknown) {
        (Verdict::Refused(code, reason, _), Verdict::Refused(other_code, other_reason, _)) => {
            (code, reason) == (other_code, other_reason)
        }
        (Verdict::Empty, Verdict::Empty) => true,
        _ => false,
    }
}

#[test]
fn the_table_has_every_rpc_and_no_other() {
    let known: BTreeSet<String> = every_rpc().iter().map(|rpc| format!("{}/{}", rpc.service, rpc.method)).collect();
    let tabled: BTreeSet<String> = rows().iter().map(|row| row.rpc.to_owned()).collect();
    let surprises: Vec<_> = known.symmetric_difference(&tabled).collect();
    assert!(surprises.is_empty(), "on one side only: {surprises:#?}");
    assert_eq!(tabled.len(), RPCS);
}

async fn every_credential_gets_what_the_contract_gives_it_and_nothing_else(world: World) {
    let matrix = Box::pin(Matrix::of(&world)).await;
    let (own, other) = (&matrix.own.world, &matrix.other.world);
    let (own_before, other_before) = (matrix.own_things.witness(own).await, matrix.other_things.witness(other).await);
    let (estate, rows) = (Estate::of(other).await, rows());
    let credentials = credentials(&matrix.own, &matrix.other, &matrix.own_things, &matrix.ended).await;
    let (mut cells, mut wrong) = (0, Vec::new());
    for credential in &credentials {
        for row in &rows {
            cells += matrix.judge(credential, row, &mut wrong).await;
        }
    }
    println!("{cells} cells: {} credentials, {} rows of {RPCS} RPCs", credentials.len(), rows.len());
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!((credentials.len(), cells), (CREDENTIALS, CELLS));
    assert_eq!(matrix.other_things.witness(other).await, other_before);
    assert_eq!(Estate::of(other).await, estate);
    assert_eq!(matrix.own_things.witness(own).await, own_before);
}

/// A certificate's scopes are a key's: what a service of the mesh is answered about what does not exist, RPC by RPC.
pub(crate) async fn judge_by_scopes(caller: &Caller, scopes: &[&'static str], sandbox: bool) -> usize {
    let power = Power::Key { home: None, scopes: scopes.to_vec(), sandbox };
    let credential = Credential { name: "a certificate".into(), caller: caller.clone(), power };
    let (nobody, rows, mut wrong) = (Holdings::of_nobody(), rows(), Vec::new());
    for row in &rows {
        let expected = verdict(&credential, row, Target::Nobody, &nobody);
        let answer = asked(caller, row, &nobody).await;
        wrong.extend(fault(&expected, row, &answer).map(|fault| format!("{}: {fault}", row.rpc)));
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    rows.len()
}

async fn calls_of_two_tenants_that_are_named_alike_are_driven_apart(world: World) {
    let neighbour = world.neighbour().await;
    let call = unique("call");
    let (mut slots, mut nodes) = (Vec::new(), Vec::new());
    for home in [&world, &neighbour] {
        nodes.push(home.node(Behaviour::default()).await);
        slots.push(granted(home.try_admit(acquire(&call, &home.agent(1).await.id)).await));
    }
    let hold = HoldRequest { call_id: call.clone(), ..HoldRequest::default() };
    let state = GetCallStateRequest { call_id: call.clone(), ..GetCallStateRequest::default() };
    let is_on_hold = async |caller: &Caller| {
        granted(caller.calls().get_call_state(state.clone()).await).call_state.expect("a state").held
    };
    let tokens: Vec<_> = slots.iter().map(|slot| world.caller.with(&slot.callback_token)).collect();
    granted(tokens[0].calls().hold(hold.clone()).await);
    assert!(is_on_hold(&tokens[0]).await && is_on_hold(&world.caller).await);
    assert!(!is_on_hold(&tokens[1]).await && !is_on_hold(&neighbour.caller).await);
    granted(neighbour.caller.calls().hangup(HangupRequest { call_id: call, ..HangupRequest::default() }).await);
    assert_eq!(neighbour.session(&slots[1]).await.status(), SessionStatus::Ended);
    assert_eq!(world.session(&slots[0]).await.status(), SessionStatus::Active);
    granted(tokens[0].calls().unhold(UnholdRequest { call_id: hold.call_id, ..UnholdRequest::default() }).await);
}
