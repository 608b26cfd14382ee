//! Deliveries are signed as the reference library of another language verifies.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::json;
use voxgate::proto::v1::RotateWebhookSecretRequest;

use super::{Calls, endpoint, on_both_backends};
use crate::harness::{
    client::granted,
    receiver::{Post, Receiver},
    world::{World, seconds},
};

on_both_backends!(
    the_reference_library_verifies_every_delivery,
    during_a_rotation_deliveries_verify_by_either_secret_and_after_it_by_the_new_one_alone,
    a_delivery_is_the_event_as_readme_shows_it,
);

/// What the library says of each: `ok`, or what is wrong.
fn verified(secret: &str, posts: &[Post]) -> Vec<String> {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/standardwebhooks/node_modules");
    assert!(
        library.join("standardwebhooks").is_dir(),
        "the reference library of Standard Webhooks is missing: run scripts/setup-test.sh"
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/webhooks/verify.cjs");
    let mut command = Command::new("node");
    command.arg(script).env("NODE_PATH", library).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut node = command.spawn().expect("node runs: scripts/setup-test.sh installs it");
    let mut lines = node.stdin.take().expect("a pipe");
    for Post { headers, body } in posts {
        writeln!(lines, "{}", json!({"secret": secret, "headers": headers, "body": body})).expect("written");
    }
    drop(lines);
    let output = node.wait_with_output().expect("an end");
    assert!(output.status.success(), "node failed");
    String::from_utf8(output.stdout).expect("UTF-8").lines().map(str::to_owned).collect()
}

async fn the_reference_library_verifies_every_delivery(world: World) {
    let receiver = Receiver::start().await;
    let (_, secret) = endpoint(&world, &receiver.url, &[]).await;
    let calls = Calls::start(&world).await;
    calls.happen(20).await;
    let posts = receiver.received(20).await;
    assert_eq!(verified(&secret, &posts), vec!["ok"; posts.len()]);
    let mut changed = posts[0].clone();
    changed.body = changed.body.replacen("lead", "laed", 1) + " ";
    let (_, other) = endpoint(&world, &receiver.url, &[]).await;
    assert_ne!(verified(&secret, &[changed])[0], "ok");
    assert_ne!(verified(&other, &posts[..1])[0], "ok");
}

async fn during_a_rotation_deliveries_verify_by_either_secret_and_after_it_by_the_new_one_alone(world: World) {
    let receiver = Receiver::start().await;
    let (endpoint, first) = endpoint(&world, &receiver.url, &["lead.updated"]).await;
    let calls = Calls::start(&world).await;
    let rotate = async |grace: i64| {
        let request = RotateWebhookSecretRequest { id: endpoint.id.clone(), grace_period: Some(seconds(grace)) };
        granted(world.operator.tenants().rotate_webhook_secret(request).await).secret
    };
    let second = rotate(3_600).await;
    calls.happen(1).await;
    let posts = receiver.received(1).await;
    assert_eq!(posts[0].header("webhook-signature").split(' ').count(), 2);
    assert_eq!([verified(&first, &posts), verified(&second, &posts)], [["ok"], ["ok"]]);
    let third = rotate(0).await;
    calls.happen(1).await;
    let last = receiver.received(2).await.split_off(1);
    assert_eq!(last[0].header("webhook-signature").split(' ').count(), 1);
    assert_eq!(verified(&third, &last), ["ok"]);
    for gone in [first, second] {
        assert_ne!(verified(&gone, &last)[0], "ok");
    }
}

async fn a_delivery_is_the_event_as_readme_shows_it(world: World) {
    let receiver = Receiver::start().await;
    endpoint(&world, &receiver.url, &["lead.updated"]).await;
    let calls = Calls::start(&world).await;
    calls.happen(1).await;
    let post = &receiver.received(1).await[0];
    let event = post.json();
    let fields: Vec<_> = event.as_object().expect("an object").keys().map(String::as_str).collect();
    let expected =
        ["call_id", "created_at", "data", "id", "sequence", "session_sequence", "tenant_id", "type"].to_vec();
    assert_eq!(fields, expected);
    assert_eq!((&event["type"], &event["tenant_id"]), (&json!("lead.updated"), &json!(world.tenant)));
    assert_eq!((&event["call_id"], &event["id"]), (&json!(calls.slots[0].call_id), &json!(post.header("webhook-id"))));
    assert!(event["sequence"].as_i64().is_some_and(|sequence| sequence > 0));
    assert!(event["created_at"].as_str().expect("text").ends_with('Z'));
    assert_eq!(post.header("content-type"), "application/json");
    assert!(post.header("user-agent").starts_with("voxgate/"));
}
