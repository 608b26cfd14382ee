//! CreateVoiceAgent beside a bare `INSERT … RETURNING` of the same row into the same Postgres, which writes no revision and
//! asks nobody whose row it is.

use std::{sync::Arc, time::Instant};

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};
use voxgate::db::PoolSettings;

use super::{
    ROUNDS, Span,
    closed::{self, Work},
    figures::{Figures, histogram, record},
    report::{self, Versus},
    subject::Subject,
};

const INSERT: &str = "
    INSERT INTO voice_agents (tenant_id, id, name, ws_url, audio_format, max_concurrent, reserved_inbound,
        token_lifetime, subprotocol, ws_disconnect_action, metadata, status, revision, created_at, updated_at,
        updated_by)
    SELECT $1::text::uuid, gen_random_uuid(), 'bare', 'wss://ai.example.com/calls',
        '{\"encoding\": \"PCM_S16LE\", \"sample_rate_hz\": 8000, \"channels\": 1, \"frame_ms\": 20}'::jsonb, 10, 0,
        'THIRTY_MIN_WITH_REFRESH', 'audio.drachtio.org', 'HANGUP', '{}'::jsonb, 'ACTIVE', 1, now(), now(), 'bare'
    RETURNING *";

pub(crate) async fn measure(postgres: &str, subject: &Arc<Subject>, span: Span) -> String {
    let connections = PoolSettings::default().max_connections;
    let tenant = subject.tenant().to_owned();
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Arc::new(connect(postgres).await));
    }
    closed::run(subject, Work::Create, connections, Span { measured: span.warm_up, ..span }).await;
    let mut creates = Versus::default();
    for _ in 0..ROUNDS {
        let bare = insert(&clients, &tenant, span).await;
        let ours = closed::run(subject, Work::Create, connections, span).await;
        creates.add(connections, bare, ours);
    }
    report::versus("bare INSERT … RETURNING", "CreateVoiceAgent", "share of bare", &creates)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("Postgres runs");
    tokio::spawn(connection);
    client.batch_execute("SET voxgate.tenant = 'everyone'").await.expect("a setting");
    client
}

async fn insert(clients: &[Arc<Client>], tenant: &str, span: Span) -> Figures {
    let from = Instant::now() + span.warm_up;
    let until = from + span.measured;
    let mut workers = JoinSet::new();
    for client in clients {
        let (client, tenant) = (client.clone(), tenant.to_owned());
        workers.spawn(async move {
            let statement = client.prepare(INSERT).await.expect("a statement");
            let mut latencies = histogram();
            loop {
                let sent = Instant::now();
                if sent >= until {
                    return latencies;
                }
                client.query_one(&statement, &[&tenant]).await.expect("one row");
                if (from..until).contains(&Instant::now()) {
                    record(&mut latencies, sent.elapsed());
                }
            }
        });
    }
    let mut all = histogram();
    for latencies in workers.join_all().await {
        all += latencies;
    }
    Figures::of(&all, span.measured)
}
