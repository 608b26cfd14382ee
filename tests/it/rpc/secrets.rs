//! Secrets are shown to those who may see them, and to nobody else, in no place.

use std::{fmt::Write as _, process::Command, time::Duration};

use secrecy::ExposeSecret as _;
use tonic::Code;
use voxgate::proto::v1::{
    CreateVoiceAgentRequest, GetVoiceAgentRequest, ListVoiceAgentRevisionsRequest, ListVoiceAgentsRequest,
    UpdateVoiceAgentRequest, VoiceAgent, VoiceAgentView,
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    postgres::{self, as_superuser, execute},
    redis,
    server::{Backend, KEY_RING, TestServer},
    world::{World, acquire, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    a_secret_is_shown_to_those_with_its_scope_who_ask,
    a_secret_follows_its_agent_through_every_revision,
    a_call_that_is_live_keeps_the_secret_that_belongs_to_its_url,
    a_request_that_comes_again_with_another_secret_is_another_request,
    a_secret_that_is_no_visible_ascii_is_refused_without_being_repeated,
);

fn full(id: &str, revision: i64) -> GetVoiceAgentRequest {
    GetVoiceAgentRequest { id: id.to_owned(), view: VoiceAgentView::Full.into(), revision }
}

fn with_secret(secret: &str) -> VoiceAgent {
    VoiceAgent { auth_token: Some(secret.to_owned()), ..minimal_agent() }
}

async fn shown(caller: &Caller, id: &str, revision: i64) -> Option<String> {
    granted(caller.agents().get_voice_agent(full(id, revision)).await).auth_token
}

async fn a_secret_is_shown_to_those_with_its_scope_who_ask(world: World) {
    let agent = world.create(with_secret("s3cret-4711")).await;
    assert_eq!(shown(&world.caller, &agent.id, 0).await.as_deref(), Some("s3cret-4711"));
    let basic = GetVoiceAgentRequest { id: agent.id.clone(), ..GetVoiceAgentRequest::default() };
    assert_eq!(granted(world.caller.agents().get_voice_agent(basic.clone()).await).auth_token, None);
    let reader = world.caller_with(&["voice_agents:read", "voice_agents:write"]).await;
    let status =
        refused(reader.agents().get_voice_agent(full(&agent.id, 0)).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(status.metadata_of_reason()["scope"], "voice_agents:secrets");
    assert!(granted(reader.agents().get_voice_agent(basic).await).has_auth_token);
    let bare = world.create(minimal_agent()).await;
    assert_eq!(shown(&world.caller, &bare.id, 0).await, None);
    let unknown = GetVoiceAgentRequest { view: 99, ..full(&agent.id, 0) };
    assert_eq!(faults(world.caller.agents().get_voice_agent(unknown).await), ["view"]);
    // A slot shows it to nodes and to those who may see secrets.
    let admitted = granted(world.try_admit(acquire(&unique("call"), &agent.id)).await);
    assert_eq!(admitted.routing.expect("told").auth_token.as_deref(), Some("s3cret-4711"));
    let dialler = world.caller_with(&["slots:acquire"]).await;
    let slot = granted(dialler.calls().acquire_slot(acquire(&unique("call"), &agent.id)).await);
    assert_eq!(slot.routing.expect("told").auth_token, None);
    let softswitch = world.caller_with(&["slots:acquire", "nodes:connect"]).await;
    let slot = granted(softswitch.calls().acquire_slot(acquire(&unique("call"), &agent.id)).await);
    assert_eq!(slot.routing.expect("told").auth_token.as_deref(), Some("s3cret-4711"));
}

async fn a_secret_follows_its_agent_through_every_revision(world: World) {
    let agent = world.create(with_secret("first-4711")).await;
    let change = |patch: VoiceAgent| {
        let patch = VoiceAgent { id: agent.id.clone(), ..patch };
        let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
        let mut agents = world.caller.agents();
        async move { granted(agents.update_voice_agent(request).await) }
    };
    change(VoiceAgent { name: Some("Grace".into()), ..VoiceAgent::default() }).await;
    change(VoiceAgent { auth_token: Some("third-4711".into()), ..VoiceAgent::default() }).await;
    for (revision, secret) in [(0, "third-4711"), (1, "first-4711"), (2, "first-4711"), (3, "third-4711")] {
        assert_eq!(shown(&world.caller, &agent.id, revision).await.as_deref(), Some(secret), "{revision}");
    }
}

async fn a_call_that_is_live_keeps_the_secret_that_belongs_to_its_url(world: World) {
    let agent = world.create(with_secret("old-4711")).await;
    let call = acquire(&unique("call"), &agent.id);
    granted(world.try_admit(call.clone()).await);
    let moved = VoiceAgent {
        id: agent.id.clone(),
        ws_url: Some("wss://elsewhere.example/ws".into()),
        ..with_secret("new-4711")
    };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(moved), update_mask: None };
    granted(world.caller.agents().update_voice_agent(request).await);
    let routing = granted(world.try_admit(call).await).routing.expect("told");
    assert_eq!((routing.ws_url.as_str(), routing.auth_token.as_deref()), ("wss://ai.example/ws", Some("old-4711")));
    let routing = granted(world.try_admit(acquire(&unique("call"), &agent.id)).await).routing.expect("told");
    assert_eq!(routing.auth_token.as_deref(), Some("new-4711"));
}

async fn a_request_that_comes_again_with_another_secret_is_another_request(world: World) {
    let request_id = voxgate::domain::Env::system().uuid().to_string();
    let request = |secret: &str| CreateVoiceAgentRequest {
        voice_agent: Some(with_secret(secret)),
        request_id: request_id.clone(),
    };
    let mut agents = world.caller.agents();
    let first = granted(agents.create_voice_agent(request("one-4711")).await);
    assert_eq!(granted(agents.create_voice_agent(request("one-4711")).await), first);
    let other = agents.create_voice_agent(request("two-4711")).await;
    refused(other, Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED");
}

async fn a_secret_that_is_no_visible_ascii_is_refused_without_being_repeated(world: World) {
    for secret in ["", "white space 4711", "ünï-4711", &format!("4711{}", "x".repeat(4_096))] {
        let request = CreateVoiceAgentRequest { voice_agent: Some(with_secret(secret)), ..Default::default() };
        let answer = world.caller.agents().create_voice_agent(request).await;
        let status = refused(answer, Code::InvalidArgument, "VALIDATION_FAILED");
        assert_eq!(status.faulty_fields(), ["voice_agent.auth_token"]);
        assert!(!format!("{status:?}").contains("4711"), "{status:?}");
    }
}

/// Exercises everything that touches a secret, and answers all that ordinary callers were told.
async fn live_with(world: &World, canary: &str) -> String {
    let agent = world.create(with_secret(canary)).await;
    let mut agents = world.caller.agents();
    let mut told = format!("{agent:?}");
    let patch = VoiceAgent { id: agent.id.clone(), name: Some("Grace".into()), ..with_secret(canary) };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
    write!(told, "{:?}", agents.update_voice_agent(request).await).expect("written");
    write!(told, "{:?}", agents.list_voice_agents(ListVoiceAgentsRequest::default()).await).expect("written");
    let revisions = ListVoiceAgentRevisionsRequest { id: agent.id.clone(), ..Default::default() };
    write!(told, "{:?}", agents.list_voice_agent_revisions(revisions).await).expect("written");
    let node = world.node(voxgate::node_sim::Behaviour::default()).await;
    let dialler = world.caller_with(&["slots:acquire"]).await;
    let slot = granted(dialler.calls().acquire_slot(acquire(&unique("call"), &agent.id)).await);
    write!(told, "{slot:?}{:?}", world.session(&slot).await).expect("written");
    // A faulty request that bears it.
    let bad = VoiceAgent { max_concurrent: Some(-1), ..with_secret(canary) };
    let bad = CreateVoiceAgentRequest { voice_agent: Some(bad), request_id: canary.to_owned() };
    write!(told, "{:?}", agents.create_voice_agent(bad).await).expect("written");
    drop(node);
    told
}

const CANARY: &str = "canary-93b1e2d4c7";

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_in_no_log_metric_error_answer_or_dump_of_production() {
    let (database, redis) = (postgres::fresh_database(), redis::PrivateRedis::start());
    let server = TestServer::production(&database, redis.url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let told = live_with(&world, CANARY).await;
    assert!(!told.contains(CANARY), "{told}");
    assert!(!server.log().contains(CANARY), "the log");
    assert!(!server.get("/metrics").expect("metrics").contains(CANARY), "the metrics");
    let dump = format!(
        "DO $$ DECLARE found record; hits bigint; BEGIN
            FOR found IN SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public' LOOP
                EXECUTE format('SELECT count(*) FROM %I AS t WHERE t::text LIKE ''%%{CANARY}%%''
                    OR t::text LIKE ''%%{hex}%%''', found.name) INTO hits;
                ASSERT hits = 0, found.name;
            END LOOP;
            ASSERT (SELECT count(*) FROM voice_agents WHERE sealed_auth_token IS NOT NULL) > 0;
        END $$",
        hex = voxgate::domain::hash::hex(CANARY.as_bytes())
    );
    execute(&as_superuser(&database), &dump).expect("no row of any table has it");
    let saved = redis.dump();
    assert!(!saved.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()), "Redis");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_in_no_file_of_the_embedded_stores() {
    let server = TestServer::private(Backend::Embedded);
    let world = World::on(&server.addr, &server.admin_key).await;
    let told = live_with(&world, CANARY).await;
    assert!(!told.contains(CANARY), "{told}");
    assert!(!server.log().contains(CANARY), "the log");
    let mut files = 0;
    for file in std::fs::read_dir(server.data_dir()).expect("the data folder").flatten() {
        let bytes = std::fs::read(file.path()).expect("a file");
        assert!(!bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()), "{:?}", file.path());
        files += 1;
    }
    assert!(files >= 3, "the database, its log and the key ring");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ciphertext_that_was_put_into_another_row_is_refused_there_and_mendable() {
    let database = postgres::fresh_database();
    let server = TestServer::production(&database, redis::PrivateRedis::shared().url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let (mine, other) = (world.create(with_secret("mine-4711")).await, world.create(with_secret("other-4711")).await);
    let swap = format!(
        "UPDATE voice_agents SET sealed_auth_token =
            (SELECT sealed_auth_token FROM voice_agents WHERE id = '{}') WHERE id = '{}'",
        other.id, mine.id
    );
    execute(&as_superuser(&database), &swap).expect("swapped");
    // The trigger tells the replica, so what it had in memory is of no help to the thief.
    let mut seen = None;
    for _ in 0..500 {
        match world.caller.agents().get_voice_agent(full(&mine.id, 0)).await {
            Err(status) => {
                seen = Some(status);
                break;
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    let status = seen.expect("it is noticed");
    assert_eq!((status.code(), status.reason().as_str()), (Code::Internal, "INTERNAL"));
    assert!(!format!("{status:?}").contains("4711") && server.log().contains("was made for another place"));
    let call = world.try_admit(acquire(&unique("call"), &mine.id)).await;
    refused(call, Code::Internal, "INTERNAL");
    assert_eq!(world.usage(&mine.id).await.used, 0, "no slot is taken for a call that no node could dial");
    // The agent itself stays readable, and a new secret mends it.
    let basic = GetVoiceAgentRequest { id: mine.id.clone(), ..GetVoiceAgentRequest::default() };
    assert!(granted(world.caller.agents().get_voice_agent(basic).await).has_auth_token);
    let patch = VoiceAgent { id: mine.id.clone(), auth_token: Some("again-4711".into()), ..VoiceAgent::default() };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
    granted(world.caller.agents().update_voice_agent(request).await);
    assert_eq!(shown(&world.caller, &mine.id, 0).await.as_deref(), Some("again-4711"));
}

/// An operator rotates: the new ring goes to the replicas, then everything is wrapped anew, then the old key goes.
#[tokio::test(flavor = "multi_thread")]
async fn rewrapping_under_load_loses_nothing_and_frees_the_old_key() {
    let (database, redis) = (postgres::fresh_database(), redis::PrivateRedis::start());
    let newer = format!("newer:{}", "E".repeat(43) + "=");
    let both = format!("{newer},{KEY_RING}");
    let first = TestServer::production(&database, redis.url().expose_secret());
    let world = World::on(&first.addr, &first.admin_key).await;
    let mut agents = Vec::new();
    for number in 0..40 {
        agents.push(world.create(with_secret(&format!("secret-{number}"))).await);
    }
    let second = TestServer::production_with_ring(&database, redis.url().expose_secret(), &first.admin_key, &both);
    first.kill();
    let world = world.through(&second.addr);
    let stop = tokio_util::sync::CancellationToken::new();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (world, stop, mine) = (world.clone(), stop.clone(), agents[writer * 10..][..10].to_vec());
            tokio::spawn(async move {
                let mut round = 0;
                while !stop.is_cancelled() {
                    for (number, agent) in mine.iter().enumerate() {
                        // Every other change leaves the secret as it is, sealed under whichever key.
                        let secret = (round % 2 == 0).then(|| format!("round-{round}-{number}"));
                        let name = Some(format!("round {round}"));
                        let patch =
                            VoiceAgent { id: agent.id.clone(), name, auth_token: secret, ..VoiceAgent::default() };
                        let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
                        granted(world.caller.agents().update_voice_agent(request).await);
                    }
                    round += 1;
                }
                round
            })
        })
        .collect();
    // Four writers take what a small machine has: the command is as patient as an operator is.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("voxgate.toml");
    let patience = "[database]\nacquire_timeout_ms = 20_000\nstatement_timeout_ms = 20_000\n";
    std::fs::write(&config, patience).expect("written");
    let rewrap = |ring: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_voxgate"));
        command.args(["secrets", "rewrap"]).env("VOXGATE_CONFIG", &config);
        command.env("VOXGATE_DATABASE_URL", &database).env("VOXGATE_KEY_RING", ring);
        let output = command.output().expect("voxgate runs");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
    };
    let (done, said) = tokio::task::block_in_place(|| rewrap(&both));
    assert!(done && said.starts_with("rewrapped "), "{said}");
    stop.cancel();
    let mut rounds = Vec::new();
    for writer in writers {
        rounds.push(writer.await.expect("a writer"));
    }
    assert!(rounds.iter().all(|rounds| *rounds > 0), "they wrote meanwhile: {rounds:?}");
    // What was carried on while the last walk ran.
    let (done, _) = tokio::task::block_in_place(|| rewrap(&both));
    assert!(done);
    second.kill();
    let third = TestServer::production_with_ring(&database, redis.url().expose_secret(), &first.admin_key, &newer);
    let world = world.through(&third.addr);
    for (number, agent) in agents.iter().enumerate() {
        let last_set = (rounds[number / 10] - 1) / 2 * 2;
        let expected = format!("round-{last_set}-{}", number % 10);
        assert_eq!(shown(&world.caller, &agent.id, 0).await, Some(expected));
        assert_eq!(shown(&world.caller, &agent.id, 1).await, Some(format!("secret-{number}")));
    }
}

#[test]
fn without_a_key_ring_nothing_is_served_and_the_operator_is_told_how_to_make_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let told = |ring: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_voxgate"));
        command.arg("serve").current_dir(folder.path()).env_remove("VOXGATE_KEY_RING");
        command
            .env("VOXGATE_DATABASE_URL", "postgres://x@127.0.0.1:1/x")
            .env("VOXGATE_REDIS_URL", "redis://127.0.0.1:1");
        let output = command.envs(ring.iter().copied()).output().expect("voxgate runs");
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(told(&[]).contains("openssl rand -base64 32"));
    let bad = told(&[("VOXGATE_KEY_RING", "4711secret")]);
    assert!(bad.contains("key_ring[0]") && !bad.contains("4711secret"), "{bad}");
    assert!(told(&[("VOXGATE_KEY_RING_FILE", "nowhere")]).contains("nowhere"));
}
