//! `voxgate top` at a service whose slots are really held.

use std::{
    process::{Command, Output},
    time::Instant,
};

use ratatui::{Terminal, backend::TestBackend};
use tokio_stream::StreamExt as _;
use voxgate::{
    proto::v1::{AcquireSlotRequest, AwaitSlotRequest, VoiceAgent},
    top::{self, Options},
};

use crate::harness::{
    client::granted,
    server::voxgate,
    world::{World, acquire, eventually, minimal_agent, on_both_backends, seconds, unique},
};

on_both_backends!(
    one_table_tells_who_holds_what_and_the_screen_shows_the_same,
    a_key_that_may_not_read_names_sees_the_tenant
);

/// `voxgate top` with these arguments, and no terminal.
async fn run(world: &World, key: &str, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a folder");
    let mut command = voxgate(dir.path(), &[("VOXGATE_KEY", key)]);
    command.args(["top", "--endpoint", &world.addr]).args(args);
    tokio::task::spawn_blocking(move || run_now(&mut command)).await.expect("it does not panic")
}

fn run_now(command: &mut Command) -> Output {
    command.output().expect("voxgate runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

async fn agent(world: &World, name: &str, max_concurrent: i32, reserved: i32) -> String {
    let agent = VoiceAgent {
        name: Some(name.to_owned()),
        max_concurrent: Some(max_concurrent),
        reserved_inbound: Some(reserved),
        ..minimal_agent()
    };
    world.create(agent).await.id
}

async fn hold(world: &World, agent: &str, calls: usize) {
    for _ in 0..calls {
        let request = AcquireSlotRequest { lease_ttl: Some(seconds(300)), ..acquire(&unique("call"), agent) };
        granted(world.try_admit(request).await);
    }
}

async fn one_table_tells_who_holds_what_and_the_screen_shows_the_same(world: World) {
    let (support, sales) = (agent(&world, "support", 2, 0).await, agent(&world, "sales", 10, 4).await);
    agent(&world, "night desk", 5, 0).await;
    hold(&world, &support, 2).await;
    hold(&world, &sales, 3).await;
    let request = AwaitSlotRequest {
        call_id: unique("call"),
        voice_agent_id: Some(support.clone()),
        max_wait: Some(seconds(100)),
        ..AwaitSlotRequest::default()
    };
    let mut waiter = granted(world.caller.calls().await_slot(request).await);
    waiter.next().await.expect("a first message").expect("it waits");

    let table = eventually("the waiter in the table", async || {
        let Output { status, stdout, stderr } = run(&world, &world.key, &["--once"]).await;
        assert!(status.success(), "{}", text(&stderr));
        let table = text(&stdout);
        // On the other replica's clock, or ours, the oldest waits a moment longer each time.
        table.lines().nth(2).is_some_and(|line| line.split_whitespace().nth(6) == Some("1")).then_some(table)
    })
    .await;
    let words: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["AGENT", "USED", "LIMIT", "USE", "RESERVED", "OUTBOUND", "QUEUED", "OLDEST", "STATUS"]);
    assert_eq!(words[1][..6], ["(tenant)", "5", "-", "-", "-", "-"], "{table}");
    assert_eq!(words[2][..7], ["support", "2", "2", "100%", "0", "0", "1"], "{table}");
    assert_eq!(words[3], ["sales", "3", "10", "30%", "4", "0", "0", "-"], "{table}");
    assert_eq!(words[4], ["night", "desk", "0", "5", "0%", "0", "0", "0", "-"], "{table}");
    assert_eq!(words.len(), 5, "{table}");
    drop(waiter);

    eventually("the queue to be empty", async || {
        let usage = world.usage(&support).await;
        (usage.queued == 0).then_some(())
    })
    .await;
    let options = |agents| Options {
        endpoint: world.addr.clone(),
        key: Some(world.key.clone().into()),
        tls: None,
        agents,
        admins: Vec::new(),
    };
    let screen = eventually("the queue to be empty on the screen too", async || {
        let view = top::look(options(Vec::new())).await.expect("it is told");
        let mut terminal = Terminal::new(TestBackend::new(100, 8)).expect("a terminal");
        terminal.draw(|frame| top::draw(frame, &view, Instant::now(), 0)).expect("drawn");
        // A watch that begins beside another is told what that one was, a moment ago.
        Some(terminal.backend().to_string()).filter(|screen| !screen.contains("0s"))
    })
    .await;
    // The first line names a port of this run.
    let below: Vec<_> = screen.lines().skip(1).collect();
    insta::assert_snapshot!("screen_of_a_service", below.join("\n"));

    let admin = format!("http://127.0.0.1:{}", world.server.expect("a shared server").admin_port);
    let args = ["--once", "--admin", &admin, "--admin", "http://127.0.0.1:1"];
    let Output { status, stdout, stderr } = run(&world, &world.key, &args).await;
    assert!(status.success(), "{}", text(&stderr));
    let table = text(&stdout);
    let (_, replicas) = table.split_once("\n\n").expect("two tables");
    let words: Vec<Vec<_>> = replicas.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["REPLICA", "READY", "SLOTS", "NODES", "QUEUED", "ADMITTED/S", "DENIED/S", "WHY"]);
    assert_eq!(words[1][..2], [admin.as_str(), "yes"], "{table}");
    assert_eq!(words[2][..2], ["http://127.0.0.1:1", "-"], "{table}");
    assert!(words[2].len() > 7, "it says why: {table}");

    let named = run(&world, &world.key, &["--once", "--agent", &sales]).await;
    assert_eq!(text(&named.stdout).lines().count(), 3, "{}", text(&named.stdout));
    assert!(text(&named.stdout).contains("sales"));
}

async fn a_key_that_may_not_read_names_sees_the_tenant(world: World) {
    let busy = agent(&world, "busy", 2, 0).await;
    hold(&world, &busy, 1).await;
    let key = world.new_key(&["slots:acquire"]).await.secret;
    let Output { status, stdout, stderr } = run(&world, &key, &["--once"]).await;
    assert!(status.success(), "{}", text(&stderr));
    let table = text(&stdout);
    assert!(table.contains("(tenant)") && table.contains("# the key lacks voice_agents:read"), "{table}");
    assert!(!table.contains("busy"), "{table}");
    let named = text(&run(&world, &key, &["--once", "--agent", &busy]).await.stdout);
    assert!(named.lines().nth(2).is_some_and(|line| line.starts_with(&busy) && line.contains("50%")), "{named}");

    let unable = world.new_key(&["voice_agents:read"]).await.secret;
    let refused = run(&world, &unable, &["--once"]).await;
    assert!(!refused.status.success() && refused.stdout.is_empty());
    assert!(text(&refused.stderr).contains("PermissionDenied"), "{}", text(&refused.stderr));
    let screen = run(&world, &world.key, &[]).await;
    assert!(!screen.status.success() && screen.stdout.is_empty());
    assert!(text(&screen.stderr).contains("--once"), "{}", text(&screen.stderr));
}

#[test]
fn a_service_that_is_away_is_an_error_and_no_table() {
    let dir = tempfile::tempdir().expect("a folder");
    let endpoint = format!("http://127.0.0.1:{}", crate::harness::process::free_port());
    let output = run_now(voxgate(dir.path(), &[]).args(["top", "--once", "--key", "x", "--endpoint", &endpoint]));
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(text(&output.stderr).contains("cannot be watched"), "{}", text(&output.stderr));
}
