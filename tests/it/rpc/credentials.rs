//! Every RPC there is × every kind of bad credential. Found in the descriptors, so a new RPC is tested by being there.

use tonic::{Code, Status};

use super::descriptors::{Rpc, every_rpc};
use crate::harness::{
    client::{Caller, Explained as _},
    world::{World, minimal_agent, on_both_backends},
};

on_both_backends!(
    without_a_credential_every_rpc_asks_for_one,
    a_garbage_credential_opens_no_rpc,
    a_key_without_scopes_opens_no_rpc,
    health_and_reflection_need_no_credential,
);

async fn answers(caller: &Caller) -> Vec<(Rpc, Status)> {
    let mut answers = Vec::new();
    for rpc in every_rpc() {
        let status = caller.call(&rpc.path(), ()).await.expect_err(&rpc.path());
        answers.push((rpc, status));
    }
    answers
}

async fn without_a_credential_every_rpc_asks_for_one(world: World) {
    for (rpc, status) in answers(&Caller::anonymous(&world.addr)).await {
        assert_eq!(status.code(), Code::Unauthenticated, "{rpc:?}: {status:?}");
        assert_eq!(status.reason(), "CREDENTIAL_MISSING", "{rpc:?}");
    }
}

async fn a_garbage_credential_opens_no_rpc(world: World) {
    let anonymous = Caller::anonymous(&world.addr);
    for (rpc, status) in answers(&anonymous.with("vg_live_garbage")).await {
        assert_eq!(status.code(), Code::Unauthenticated, "{rpc:?}: {status:?}");
        assert_eq!(status.reason(), "CREDENTIAL_INVALID", "{rpc:?}");
    }
    // Well-formed and unknown, mistyped, of another scheme, forged: no word on which of them it was.
    let mistyped = format!("{}0", &world.key[..world.key.len() - 1]);
    let mistyped = if mistyped == world.key { format!("{}1", &world.key[..world.key.len() - 1]) } else { mistyped };
    let forged = "vg_cb_eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJ4In0.";
    let headers = [
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Basic {}", world.key),
        format!("Bearer {mistyped}"),
        format!("Bearer {}", world.key.to_uppercase()),
        format!("Bearer {forged}"),
        format!("Bearer vg_cb_{}", "x".repeat(100_000 / 20)),
    ];
    for header in headers {
        let caller = anonymous.with_header(&header);
        let status = caller.call("/voxgate.v1.VoiceAgentService/ListVoiceAgents", ()).await.expect_err(&header);
        assert_eq!(status.code(), Code::Unauthenticated, "{header}: {status:?}");
        assert!(matches!(status.reason().as_str(), "CREDENTIAL_INVALID" | "CREDENTIAL_MISSING"), "{header}");
    }
}

async fn a_key_without_scopes_opens_no_rpc(world: World) {
    let powerless = world.caller_with(&[]).await;
    for (rpc, status) in answers(&powerless).await {
        assert_eq!(status.code(), Code::PermissionDenied, "{rpc:?}: {status:?}");
        assert_eq!(status.reason(), "SCOPE_REQUIRED", "{rpc:?}");
        assert!(status.metadata_of_reason().contains_key("scope"), "{rpc:?} names the scope that would do");
    }
    // Not even with a good request for a thing that exists.
    let agent = world.create(minimal_agent()).await;
    let request = voxgate::proto::v1::GetVoiceAgentRequest { id: agent.id, ..Default::default() };
    let status = powerless.agents().get_voice_agent(request).await.expect_err("no scope");
    assert_eq!(status.metadata_of_reason()["scope"], "voice_agents:read");
}

async fn health_and_reflection_need_no_credential(world: World) {
    let anonymous = Caller::anonymous(&world.addr);
    anonymous.call("/grpc.health.v1.Health/Check", ()).await.expect("the server's health");
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let answer = anonymous.call(&path, ()).await;
        // An empty question is a faulty one, and needs no credential to be told so.
        let refused = answer.is_err_and(|status| {
            matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented)
        });
        assert!(!refused, "{path}");
    }
    let unknown = anonymous.call("/voxgate.v1.VoiceAgentService/NoSuchMethod", ()).await.expect_err("unknown");
    assert!(matches!(unknown.code(), Code::Unimplemented | Code::Unauthenticated), "{unknown:?}");
}
