//! Callback tokens: revoked, replaced, and void when their time or their WebSocket is over; and calls that last too long.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use tonic::Status;
use voxgate::proto::v1::{
    Answered, Behavior, Controls, GetCallStateRequest, GetSessionRequest, Heartbeat, MuteRequest, RevokeTokenRequest,
    RevokeTokenResponse, SessionOutcome, SessionStatus, Slot, TokenLifetime, TurnCount, VoiceAgent, WsConnected,
    WsDisconnectAction, WsDisconnected, call_event::Event, control_message::Message as Told, get_session_request,
    node_message::Message as Said, revoke_token_request::Target,
};

use crate::harness::{
    client::{Caller, Explained as _, granted},
    clock::MovedClock,
    pair::Pair,
    raw_node::{RawNode, hello},
    server::TestServer,
    world::{World, acquire, eventually, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    a_revoked_token_is_good_for_nothing_and_the_call_goes_on,
    what_is_no_token_of_the_tenant_is_not_revoked,
    a_closed_websocket_voids_the_tokens_that_live_as_long_as_it,
    the_turn_that_is_the_last_ends_the_session,
);

async fn revoke(caller: &Caller, target: Target) -> Result<RevokeTokenResponse, Status> {
    let request = RevokeTokenRequest { target: Some(target) };
    caller.sessions().revoke_token(request).await.map(tonic::Response::into_inner)
}

/// What a bearer of the token is answered: nothing where it may drive the call.
async fn refusal(world: &World, slot: &Slot, token: &str) -> Option<Status> {
    let request = GetCallStateRequest { call_id: slot.call_id.clone(), ..GetCallStateRequest::default() };
    world.caller.with(token).calls().get_call_state(request).await.err()
}

async fn drives(world: &World, slot: &Slot, token: &str) -> bool {
    refusal(world, slot, token).await.is_none()
}

async fn again(world: &World, slot: &Slot) -> String {
    granted(world.try_admit(acquire(&slot.call_id, &slot.voice_agent_id)).await).callback_token
}

async fn a_revoked_token_is_good_for_nothing_and_the_call_goes_on(world: World) {
    let slot = world.admit(&world.agent(1).await.id).await;
    let (first, second) = (slot.callback_token.clone(), again(&world, &slot).await);
    assert!(drives(&world, &slot, &first).await);
    let revoked = revoke(&world.caller, Target::Token(first.clone())).await.expect("revoked");
    assert_eq!(revoked.revoked_until, slot.token_expires_at);
    let status = refusal(&world, &slot, &first).await.expect("refused");
    assert_eq!((&*status.reason(), &status.metadata_of_reason()["jti"]), ("TOKEN_REVOKED", &revoked.jti));
    // Not for reading either, and a second time is as good as the first.
    let target = Some(get_session_request::Target::SessionId(slot.session_id.clone()));
    let read = world.caller.with(&first).sessions().get_session(GetSessionRequest { target }).await;
    assert_eq!(read.expect_err("refused").reason(), "TOKEN_REVOKED");
    assert_eq!(revoke(&world.caller, Target::Jti(revoked.jti.clone())).await.expect("again").jti, revoked.jti);
    assert!(drives(&world, &slot, &second).await, "another token of the call");
    assert_eq!(world.session(&slot).await.status(), SessionStatus::Active);
    let third = again(&world, &slot).await;
    assert!(drives(&world, &slot, &third).await);
}

async fn what_is_no_token_of_the_tenant_is_not_revoked(world: World) {
    let neighbour = world.neighbour().await;
    let theirs = neighbour.admit(&neighbour.agent(1).await.id).await;
    let truncated = theirs.callback_token[..theirs.callback_token.len() - 3].to_owned();
    for (target, field) in [
        (Target::Token(theirs.callback_token.clone()), "token"),
        (Target::Token(truncated), "token"),
        (Target::Token(world.key.clone()), "token"),
        (Target::Jti("7".into()), "jti"),
    ] {
        let status = revoke(&world.caller, target).await.expect_err("refused");
        assert_eq!((&*status.reason(), status.faulty_fields()), ("VALIDATION_FAILED", vec![field.to_owned()]));
    }
    let nothing = world.caller.sessions().revoke_token(RevokeTokenRequest { target: None }).await;
    assert_eq!(nothing.expect_err("refused").faulty_fields(), ["target"]);
    let own = world.admit(&world.agent(1).await.id).await;
    let by_token = revoke(&world.caller.with(&own.callback_token), Target::Token(own.callback_token.clone())).await;
    assert_eq!(by_token.expect_err("refused").reason(), "SCOPE_REQUIRED");
    assert!(
        drives(&neighbour, &theirs, &theirs.callback_token).await && drives(&world, &own, &own.callback_token).await
    );
}

/// A node by hand, and a call of it.
async fn hosted(world: &World, agent: VoiceAgent) -> (RawNode, Slot) {
    let node = unique("node");
    let (mut raw, _) = RawNode::welcomed(world, hello(world, &node)).await;
    let agent = world.create(agent).await;
    let request = voxgate::proto::v1::AcquireSlotRequest { node_id: Some(node), ..acquire(&unique("call"), &agent.id) };
    let slot = granted(world.try_admit(request).await);
    raw.assigned().await;
    raw.report(&slot.call_id, Event::WsConnected(WsConnected {})).await;
    raw.report(&slot.call_id, Event::Answered(Answered {})).await;
    (raw, slot)
}

async fn a_closed_websocket_voids_the_tokens_that_live_as_long_as_it(world: World) {
    for lifetime in [TokenLifetime::WsSession, TokenLifetime::ThirtyMinWithRefresh] {
        let agent = VoiceAgent {
            token_lifetime: Some(lifetime.into()),
            ws_disconnect_action: Some(WsDisconnectAction::TransferToQueue.into()),
            ..minimal_agent()
        };
        let (mut raw, slot) = hosted(&world, agent).await;
        raw.report(&slot.call_id, Event::WsDisconnected(WsDisconnected { code: 1006, reason: String::new() })).await;
        // The transfer that the agent asks for then is not answered: the call lives on.
        raw.command().await;
        let refused = refusal(&world, &slot, &slot.callback_token).await.map(|status| status.reason());
        if lifetime == TokenLifetime::WsSession {
            assert_eq!(refused.as_deref(), Some("TOKEN_REVOKED"));
            let fresh = again(&world, &slot).await;
            assert!(drives(&world, &slot, &fresh).await, "for the WebSocket that comes next");
        } else {
            assert_eq!(refused, None);
        }
    }
}

async fn the_turn_that_is_the_last_ends_the_session(world: World) {
    let behavior = Behavior { instructions: "Be kind.".into(), max_turns: Some(3), ..Behavior::default() };
    let (mut raw, slot) = hosted(&world, VoiceAgent { behavior: Some(behavior), ..minimal_agent() }).await;
    raw.report(&slot.call_id, Event::TurnCount(TurnCount { turns: 2 })).await;
    let counted = async || (world.session(&slot).await.turn_count == 2).then_some(());
    eventually("two turns", counted).await;
    assert_eq!(world.session(&slot).await.status(), SessionStatus::Active);
    raw.report(&slot.call_id, Event::TurnCount(TurnCount { turns: 3 })).await;
    assert_eq!(world.outcome(&slot).await, SessionOutcome::MaxTurns);
    match raw.hear().await.expect("no end") {
        Some(Told::EndCall(end)) => assert_eq!(end.outcome(), SessionOutcome::MaxTurns),
        other => panic!("expected the end, heard {other:?}"),
    }
    world.freed(&slot.voice_agent_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_one_replica_has_revoked_is_refused_by_the_other_and_by_one_that_starts_later() {
    let pair = Pair::start().await;
    let [here, there] = &pair.worlds;
    let slot = here.admit(&here.agent(1).await.id).await;
    assert!(drives(there, &slot, &slot.callback_token).await);
    let started = std::time::Instant::now();
    revoke(&here.caller, Target::Token(slot.callback_token.clone())).await.expect("revoked");
    let refused =
        async || refusal(there, &slot, &slot.callback_token).await.filter(|it| it.reason() == "TOKEN_REVOKED");
    eventually("the other replica to refuse it", refused).await;
    println!("the other replica refused it {:?} after it was asked to be revoked", started.elapsed());
    let (key, database) = (pair.servers[0].admin_key.clone(), pair.database.clone());
    let third = TestServer::production_with_key(&database, pair.redis.url().expose_secret(), key);
    let later = here.through(&third.addr);
    assert_eq!(refusal(&later, &slot, &slot.callback_token).await.expect("refused").reason(), "TOKEN_REVOKED");
}

/// The next token that the node is told to pass on.
async fn refreshed(raw: &mut RawNode) -> String {
    eventually_heard(raw, |told| match told {
        Told::TokenRefresh(refresh) => Some(refresh.callback_token),
        _ => None,
    })
    .await
}

/// Keeps the node alive until it hears what `read` looks for.
async fn eventually_heard<T>(raw: &mut RawNode, read: impl Fn(Told) -> Option<T>) -> T {
    for _ in 0..50 {
        raw.say(Said::Heartbeat(Heartbeat::default())).await;
        let heard = tokio::time::timeout(Duration::from_millis(200), raw.inbox.message()).await;
        if let Ok(message) = heard {
            let message = message.expect("no end").expect("no end").message.expect("a message");
            if let Some(found) = read(message) {
                return found;
            }
        }
    }
    panic!("it was not said");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_replaced_at_minute_25_and_the_one_before_lives_to_minute_30() {
    let clock = MovedClock::running();
    let server = TestServer::embedded_in(&clock.env());
    let world = World::on(&server.addr, &server.live_key).await;
    let (mut raw, slot) = hosted(&world, minimal_agent()).await;
    let mute = MuteRequest { call_id: slot.call_id.clone(), ..MuteRequest::default() };
    let mut tokens = vec![slot.callback_token.clone()];
    for _ in 0..2 {
        clock.advance(Duration::from_mins(24));
        raw.say(Said::Heartbeat(Heartbeat::default())).await;
        // As long as a heartbeat takes, many times over.
        let early = tokio::time::timeout(Duration::from_millis(500), raw.inbox.message()).await;
        assert!(early.is_err(), "too early: {early:?}");
        clock.advance(Duration::from_mins(1));
        let old = tokens.last().cloned().expect("a token");
        tokens.push(refreshed(&mut raw).await);
        let new = tokens.last().cloned().expect("a token");
        assert!(drives(&world, &slot, &old).await && drives(&world, &slot, &new).await);
        clock.advance(Duration::from_mins(5));
        let status = world.caller.with(&old).calls().mute(mute.clone()).await.expect_err("it is over");
        assert_eq!(status.reason(), "CREDENTIAL_EXPIRED");
        assert!(drives(&world, &slot, &new).await);
        // The next one is counted from the last.
        clock.rewind(Duration::from_mins(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_websocket_lives_a_day_and_is_never_replaced() {
    let clock = MovedClock::running();
    let server = TestServer::embedded_in(&clock.env());
    let world = World::on(&server.addr, &server.live_key).await;
    let agent = VoiceAgent { token_lifetime: Some(TokenLifetime::WsSession.into()), ..minimal_agent() };
    let (mut raw, slot) = hosted(&world, agent).await;
    clock.advance(Duration::from_mins(24 * 60 - 1));
    raw.say(Said::Heartbeat(Heartbeat::default())).await;
    let said = tokio::time::timeout(Duration::from_millis(500), raw.inbox.message()).await;
    assert!(said.is_err(), "{said:?}");
    assert!(drives(&world, &slot, &slot.callback_token).await);
    clock.advance(Duration::from_mins(1));
    let status = refusal(&world, &slot, &slot.callback_token).await.expect("it is over");
    assert_eq!(status.reason(), "CREDENTIAL_EXPIRED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_ends_when_it_has_lasted_as_long_as_it_may() {
    let clock = MovedClock::running();
    let server = TestServer::embedded_in(&clock.env());
    let world = World::on(&server.addr, &server.live_key).await;
    let controls = Controls { max_duration_seconds: Some(120), ..Controls::default() };
    let behavior = Behavior { instructions: "Be brief.".into(), controls: Some(controls), ..Behavior::default() };
    let (mut raw, slot) = hosted(&world, VoiceAgent { behavior: Some(behavior), ..minimal_agent() }).await;
    let endless = world.admit(&world.agent(1).await.id).await;
    clock.advance(Duration::from_secs(115));
    // Longer than a sweep takes to come round (every 2 s).
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.session(&slot).await.status(), SessionStatus::Active);
    clock.advance(Duration::from_secs(5));
    assert_eq!(world.outcome(&slot).await, SessionOutcome::MaxDuration);
    let ended = eventually_heard(&mut raw, |told| match told {
        Told::EndCall(end) => Some(end.outcome()),
        _ => None,
    });
    assert_eq!(ended.await, SessionOutcome::MaxDuration);
    assert_eq!(world.session(&endless).await.status(), SessionStatus::Active);
}
