//! Where the cells are played: two nodes, calls in the state that a cell asks for, and those who ask.

use std::time::Duration;

use tonic::Status;
use voxgate::{
    domain::Env,
    node_sim::Behaviour,
    proto::v1::{
        AcquireSlotRequest, GetOperationRequest, Hello, MonitorMode, Operation, RevokeTokenRequest, Slot, Verb,
        revoke_token_request::Target,
    },
};

use super::{
    effect::Seen,
    table::{Credential, Names, State},
    wire::{self, Told, told},
};
use crate::harness::{
    client::{Caller, Explained as _, granted},
    raw_node::{Commands, RawNode, hello},
    token::signed_again,
    world::{TENANT_SCOPES, TestNode, World, acquire, eventually, unique},
};

/// No verb takes longer on nodes that answer at once.
const PATIENCE: Duration = Duration::from_secs(20);
const CALLS_AT_ONCE: i32 = 1_000;

type Answer = Result<Vec<u8>, Status>;

pub(super) struct Stage {
    pub(super) world: World,
    /// Carries out what the state of a call allows, and reports it answered.
    node: TestNode,
    /// Carries out whatever it is told, remembers that, and reports nothing.
    silent: String,
    commands: Commands,
    /// The other call that the verbs of monitors name.
    peer: Call,
    /// One that no request names.
    bystander: Call,
    /// What the service signs callback tokens with.
    signs: Vec<u8>,
    admin: Caller,
    weak: Caller,
    stranger: Caller,
}

/// A call of an agent of its own.
pub(super) struct Call {
    pub(super) slot: Slot,
    /// The member of its conference, if it is one.
    member: String,
    /// The `jti` of its token that is revoked when a verb is asked with it.
    revoked: String,
    is_on_silent_node: bool,
}

impl Stage {
    pub(super) async fn of(world: World) -> Self {
        let node = world.node(Behaviour::default()).await;
        let silent = unique("node");
        let (raw, _) = RawNode::welcomed(&world, Hello { capacity: CALLS_AT_ONCE, ..hello(&world, &silent) }).await;
        let others: Vec<_> = TENANT_SCOPES.into_iter().filter(|scope| *scope != "ai_sessions:control_admin").collect();
        let server = world.server.expect("a shared server");
        Self {
            peer: admitted(&world, &node.id).await,
            bystander: admitted(&world, &node.id).await,
            commands: raw.obey(),
            signs: server.token_key().await.secret,
            admin: world.caller_with(&["ai_sessions:control_admin"]).await,
            weak: world.caller_with(&others).await,
            stranger: world.neighbour().await.caller,
            world,
            node,
            silent,
        }
    }

    /// A new call in this state.
    pub(super) async fn call(&self, state: State) -> Call {
        let is_on_silent_node = state == State::BeforeAnswer;
        if is_on_silent_node {
            return Call { is_on_silent_node, ..admitted_to(&self.world, &self.silent).await };
        }
        let call = admitted(&self.world, &self.node.id).await;
        match state {
            State::BeforeAnswer | State::Active => {}
            State::Held => self.bring_about(Verb::Hold, &call).await,
            State::Muted => self.bring_about(Verb::Mute, &call).await,
            State::RecordingPaused => self.bring_about(Verb::RecordingPause, &call).await,
            State::InConference => {
                self.bring_about(Verb::ConferenceStart, &call).await;
                let add = wire::conference_add(&call.slot.call_id, wire::FIRST_INVITEE);
                let added = asked(&self.admin, Verb::ConferenceAdd, add).await.expect("granted");
                return Call { member: told(Verb::ConferenceAdd, &added).made.expect("a member"), ..call };
            }
            State::Listening => {
                let listen = wire::monitor_start(&call.slot.call_id, self.target(), MonitorMode::Listen);
                asked(&self.admin, Verb::MonitorStart, listen).await.expect("granted");
            }
            State::Monitored => self.bring_about(Verb::MonitorStart, &call).await,
            State::Ended => self.bring_about(Verb::Hangup, &call).await,
        }
        call
    }

    async fn bring_about(&self, verb: Verb, call: &Call) {
        self.ask(&self.admin, verb, call).await.expect("granted");
    }

    /// The call that the verbs of monitors name.
    pub(super) fn target(&self) -> &str {
        &self.peer.slot.call_id
    }

    pub(super) fn names<'n>(&'n self, call: &'n Call) -> Names<'n> {
        Names {
            call: &call.slot.call_id,
            session: &call.slot.session_id,
            revoked: &call.revoked,
            target: self.target(),
        }
    }

    pub(super) async fn caller(&self, credential: Credential, call: &Call) -> Caller {
        let token = &call.slot.callback_token;
        match credential {
            Credential::OwnToken => self.admin.with(token),
            Credential::OtherCallsToken => self.admin.with(&self.bystander.slot.callback_token),
            Credential::ExpiredToken => {
                let expired = ("exp", (Env::system().now().as_secs() - 1).into());
                self.admin.with(&signed_again(token, &self.signs, &[expired]))
            }
            Credential::RevokedToken => {
                // Beside the token of the answer, which is to stay good.
                let token = signed_again(token, &self.signs, &[("jti", call.revoked.as_str().into())]);
                self.revoke(&token, &call.revoked).await;
                self.admin.with(&token)
            }
            Credential::ForgedToken => self.admin.with(&signed_again(token, &[7; 32], &[])),
            Credential::KeyWithoutTheScope => self.weak.clone(),
            Credential::AdminKey => self.admin.clone(),
            Credential::OtherTenantsAdminKey => self.stranger.clone(),
        }
    }

    async fn revoke(&self, token: &str, jti: &str) {
        let request = RevokeTokenRequest { target: Some(Target::Token(token.to_owned())) };
        assert_eq!(granted(self.admin.sessions().revoke_token(request).await).jti, jti);
    }

    pub(super) async fn ask(&self, caller: &Caller, verb: Verb, call: &Call) -> Answer {
        asked(caller, verb, wire::request(verb, &call.slot.call_id, self.target(), &call.member)).await
    }

    /// What its owner sees of a call now.
    pub(super) async fn seen(&self, call: &Call) -> Seen {
        let session = self.world.session(&call.slot).await;
        let state = match self.ask(&self.admin, Verb::GetCallState, call).await {
            Ok(body) => told(Verb::GetCallState, &body).call_state,
            Err(status) if status.reason() == "AI_SESSION_TERMINATED" => None,
            Err(status) => panic!("the state of {} is not told: {status:?}", call.slot.call_id),
        };
        let commands = call.is_on_silent_node.then(|| self.commands.of_call(&call.slot.call_id).len());
        if state.is_none() {
            self.world.freed(&call.slot.voice_agent_id).await;
        }
        Seen::new(state, session, commands)
    }

    /// What is seen of the calls that no verb is asked of.
    pub(super) async fn seen_of_others(&self) -> [Seen; 2] {
        [self.seen(&self.peer).await, self.seen(&self.bystander).await]
    }

    pub(super) async fn operation(&self, told: &Told) -> Operation {
        let request = GetOperationRequest { operation_id: told.operation_id.clone() };
        granted(self.world.caller.sessions().get_operation(request).await)
    }
}

/// A new call on a node that reports it answered, once it has.
async fn admitted(world: &World, node: &str) -> Call {
    let call = admitted_to(world, node).await;
    // The last thing that the node says unasked.
    let answered = async || world.session(&call.slot).await.answered_at;
    eventually("the answer of the call", answered).await;
    call
}

async fn admitted_to(world: &World, node: &str) -> Call {
    let agent = world.agent(1).await.id;
    let request = AcquireSlotRequest { node_id: Some(node.to_owned()), ..acquire(&unique("call"), &agent) };
    let slot = granted(world.try_admit(request).await);
    let revoked = Env::system().uuid().to_string();
    Call { slot, member: "nobody".to_owned(), revoked, is_on_silent_node: false }
}

async fn asked(caller: &Caller, verb: Verb, request: Vec<u8>) -> Answer {
    let answer = async {
        loop {
            match caller.ask(&wire::path(verb), request.clone()).await {
                // A call takes ten verbs a second, and a fast machine asks for more.
                Err(status) if status.reason() == "RATE_LIMITED" && status.metadata_of_reason()["scope"] == "call" => {
                    tokio::time::sleep(status.retry_delay().expect("a delay")).await;
                }
                answer => return answer,
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{verb:?}: no answer"))
}
