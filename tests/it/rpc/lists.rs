//! A long list stays true while rows come and go.

use std::collections::BTreeSet;

use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;
use voxgate::proto::v1::{DeleteVoiceAgentRequest, ListVoiceAgentsRequest};

use crate::harness::{
    client::granted,
    postgres::{as_superuser, execute, fresh_database},
    redis,
    server::{Backend, TestServer},
    world::World,
};

const AGENTS: usize = 100_000;

/// The columns of `count` agents of a tenant, made in the database: their names are their numbers.
fn fill_postgres(database: &str, tenant: &str) {
    let sql = format!(
        "INSERT INTO voice_agents (tenant_id, id, name, ws_url, audio_format, max_concurrent, reserved_inbound,
            token_lifetime, subprotocol, ws_disconnect_action, metadata, status, revision, created_at, updated_at,
            updated_by)
        SELECT '{tenant}', gen_random_uuid(), n::text, 'wss://ai.example/ws',
            '{{\"encoding\": \"PCM_S16LE\", \"sample_rate_hz\": 16000, \"channels\": 1, \"frame_ms\": 20}}', 10, 0,
            'THIRTY_MIN_WITH_REFRESH', 'audio.drachtio.org', 'HANGUP', '{{}}', 'ACTIVE', 1,
            -- Four of a microsecond, so that the order within one matters too.
            timestamptz '2026-01-01' + (n / 4) * interval '1 microsecond', now(), 'voxgate'
        FROM generate_series(1, {AGENTS}) AS n; ANALYZE voice_agents"
    );
    execute(&as_superuser(database), &sql).expect("filled");
}

fn fill_sqlite(server: &TestServer, tenant: &str) {
    use diesel::{Connection as _, connection::SimpleConnection as _};
    let file = server.data_dir().join("voxgate.db");
    let mut connection = diesel::SqliteConnection::establish(file.to_str().expect("UTF-8")).expect("the file");
    let tenant = tenant.replace('-', "");
    let sql = format!(
        "PRAGMA busy_timeout = 10000;
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {AGENTS})
        INSERT INTO voice_agents (tenant_id, id, name, ws_url, audio_format, max_concurrent, reserved_inbound,
            token_lifetime, subprotocol, ws_disconnect_action, metadata, status, revision, created_at, updated_at,
            updated_by)
        SELECT x'{tenant}', randomblob(16), n, 'wss://ai.example/ws',
            '{{\"encoding\":\"PCM_S16LE\",\"sample_rate_hz\":16000,\"channels\":1,\"frame_ms\":20}}', 10, 0,
            'THIRTY_MIN_WITH_REFRESH', 'audio.drachtio.org', 'HANGUP', '{{}}', 'ACTIVE', 1,
            1767225600000000 + n / 4, 1767225600000000, 'voxgate'
        FROM numbers"
    );
    connection.batch_execute(&sql).expect("filled");
}

/// Reads the whole list, while others are made and unmade, and holds it against what was there throughout.
async fn page_through(world: &World) {
    let stop = CancellationToken::new();
    let disturber = tokio::spawn({
        let (world, stop) = (world.clone(), stop.clone());
        async move {
            let mut made = 0;
            while !stop.is_cancelled() {
                let passing = world.agent(1).await.id;
                world.agent(1).await;
                let delete = DeleteVoiceAgentRequest { id: passing, ..DeleteVoiceAgentRequest::default() };
                granted(world.caller.agents().delete_voice_agent(delete).await);
                made += 2;
            }
            made
        }
    });
    let (mut names, mut ids, mut read, mut token) = (BTreeSet::new(), BTreeSet::new(), 0, String::new());
    loop {
        let request = ListVoiceAgentsRequest { page_size: 100, page_token: token, ..ListVoiceAgentsRequest::default() };
        let page = granted(world.caller.agents().list_voice_agents(request).await);
        assert!(usize::try_from(page.total_size).expect("a count") >= AGENTS);
        read += page.voice_agents.len();
        for agent in page.voice_agents {
            names.extend(agent.name().parse::<usize>());
            assert!(ids.insert(agent.id), "a row came twice");
        }
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    stop.cancel();
    let made = disturber.await.expect("the disturber");
    assert!(made > 100, "only {made} came and went meanwhile");
    assert!(names.iter().copied().eq(1..=AGENTS), "{} of {AGENTS} were read", names.len());
    println!("read {read} agents while {made} came or went");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_agents_are_paged_in_postgres_without_gap_or_duplicate() {
    let database = fresh_database();
    let server = TestServer::production(&database, redis::PrivateRedis::shared().url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    tokio::task::block_in_place(|| fill_postgres(&database, &world.tenant));
    page_through(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_agents_are_paged_in_sqlite_without_gap_or_duplicate() {
    let server = TestServer::private(Backend::Embedded);
    let world = World::on(&server.addr, &server.admin_key).await;
    tokio::task::block_in_place(|| fill_sqlite(&server, &world.tenant));
    page_through(&world).await;
}
