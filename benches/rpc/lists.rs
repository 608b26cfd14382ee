//! ListVoiceAgents of a tenant that has 100,000: its first page beside its last.

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use super::{
    ROUNDS, Span,
    figures::{Figures, Rounds, histogram, record},
    home::Home,
    subject::{AGENT_LIMIT, Lane, Subject},
};

/// Agents of the tenant when pages are timed.
const AGENTS: usize = 100_000;
/// Older than all others, and more than two pages: they are there first, so that the last page's token is soon found.
const OLDEST: usize = 250;
/// Of an agent's row, what its copies share with it.
const COLUMNS: &str = "ws_url, sealed_auth_token, audio_format, external_agent_id, transfer_destination, \
    max_concurrent, reserved_inbound, token_lifetime, subprotocol, ws_disconnect_action, metadata, behavior, status, \
    revision, updated_by";

pub(crate) async fn measure(home: &Home, subject: &Arc<Subject>, span: Span) -> String {
    fill(home, 0, OLDEST);
    let mut lane = subject.lane(0);
    let last = last_page(&mut lane).await;
    let filled = Instant::now();
    fill(home, OLDEST, AGENTS);
    if home.postgres_url().is_some() {
        // As autovacuum would leave them a minute later.
        home.execute("VACUUM ANALYZE voice_agents");
    }
    let filled = filled.elapsed();

    let (mut firsts, mut lasts) = (Rounds::default(), Rounds::default());
    pages(&mut lane, &last, span.warm_up).await;
    for _ in 0..ROUNDS {
        let (first, last) = pages(&mut lane, &last, span.measured).await;
        firsts.add(Figures::of(&first, span.measured));
        lasts.add(Figures::of(&last, span.measured));
    }
    render(&firsts, &lasts, filled)
}

/// Asks for both pages in turn, one request at a time.
async fn pages(lane: &mut Lane<'_>, last_token: &str, within: Duration) -> (Histogram<u64>, Histogram<u64>) {
    let (mut firsts, mut lasts) = (histogram(), histogram());
    let until = Instant::now() + within;
    while Instant::now() < until {
        for (token, latencies) in [("", &mut firsts), (last_token, &mut lasts)] {
            let sent = Instant::now();
            let next = lane.page(token).await;
            record(latencies, sent.elapsed());
            // One that failed is counted already.
            if next.is_some_and(|next| next.is_empty() == token.is_empty()) {
                lane.subject.tally.error("ListVoiceAgents: a page follows the last one, or none the first");
            }
        }
    }
    (firsts, lasts)
}

/// The token of the last page. What is newer is put in front of it, so it goes on being the last one's.
async fn last_page(lane: &mut Lane<'_>) -> String {
    let (mut before, mut token) = (String::new(), lane.page("").await.expect("a first page"));
    while !token.is_empty() {
        let next = lane.page(&token).await.expect("a page");
        before = std::mem::replace(&mut token, next);
    }
    before
}

/// Copies of the subject's agent, the numbers `from..to`, later ones newer and all older than the agents made by RPC.
fn fill(home: &Home, from: usize, to: usize) {
    let embedded = home.postgres_url().is_none();
    let numbers = match embedded {
        true => format!(
            "WITH RECURSIVE numbers (n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {to})
             SELECT randomblob(16) AS id, 'copy ' || n AS copy, 1600000000000000 + 1000000 * n AS made FROM numbers"
        ),
        false => format!(
            "SELECT gen_random_uuid() AS id, 'copy ' || n AS copy, to_timestamp(1600000000 + n) AS made
             FROM generate_series({from}, {to} - 1) AS n"
        ),
    };
    let reach = if embedded { "" } else { "SET LOCAL voxgate.tenant = 'everyone';" };
    home.execute(&format!(
        "BEGIN; {reach}
         CREATE TEMPORARY TABLE copies AS {numbers};
         INSERT INTO voice_agents (tenant_id, id, name, created_at, updated_at, {COLUMNS})
         SELECT tenant_id, copies.id, copy, made, made, {COLUMNS} FROM voice_agents, copies
         WHERE name = 'bench {AGENT_LIMIT}';
         INSERT INTO voice_agent_revisions
             (tenant_id, voice_agent_id, revision, spec, sealed_auth_token, status, updated_by, updated_at)
         SELECT tenant_id, copies.id, revision, spec, sealed_auth_token, status, updated_by, made
         FROM voice_agent_revisions, copies
         WHERE voice_agent_id = (SELECT id FROM voice_agents WHERE name = 'bench {AGENT_LIMIT}');
         DROP TABLE copies; COMMIT"
    ));
}

fn render(firsts: &Rounds, lasts: &Rounds, filled: Duration) -> String {
    let mut out = "| ListVoiceAgents, 100 of 100,000, 1 in flight | p50 ms (min–max) | p99 ms (min–max) |\n\
         |---|---:|---:|\n"
        .to_owned();
    for (name, rounds) in [("first page", firsts), ("last page", lasts)] {
        let [(p50, low50, high50), (p99, low99, high99)] = [rounds.spread(|it| it.p50), rounds.spread(|it| it.p99)];
        let row = format!("| {name} | {p50:.2} ({low50:.2}–{high50:.2}) | {p99:.2} ({low99:.2}–{high99:.2}) |");
        writeln!(out, "{row}").expect("a String takes all");
    }
    let [p50, p99] = [lasts.ratio(firsts, |it| it.p50), lasts.ratio(firsts, |it| it.p99)];
    let ratio = |(median, least, greatest)| format!("{median:.2} × ({least:.2}–{greatest:.2})");
    writeln!(out, "| last by first | {} | {} |", ratio(p50), ratio(p99)).expect("a String takes all");
    writeln!(out, "\nthe rows were written in {:.1} s, outside of what is measured", filled.as_secs_f64())
        .expect("a String takes all");
    out
}
