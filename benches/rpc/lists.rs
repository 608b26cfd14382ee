//! ListVoiceAgents of a tenant that has 100,000, ListSessions of one that has 1,000,000: the first page beside the last.

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

/// Older than all others, and more than two pages: they are there first, so that the last page's token is soon found.
const OLDEST: usize = 250;
/// Of one transaction, for its temporary table.
const FILLED_AT_ONCE: usize = 100_000;
/// Of an agent's row, what its copies share with it.
const AGENT_COLUMNS: &str = "ws_url, sealed_auth_token, audio_format, external_agent_id, transfer_destination, \
    max_concurrent, reserved_inbound, token_lifetime, subprotocol, ws_disconnect_action, metadata, behavior, status, \
    revision, updated_by";
/// The same of a session's.
const SESSION_COLUMNS: &str = "voice_agent_id, voice_agent_revision, fence, direction, node_id, sandbox, routing, \
    metadata, state, lease_expires_at, version, lease_ttl_ms, record";

/// What is listed, page by page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    Agents,
    Sessions,
}

impl List {
    pub(crate) const fn rpc(self) -> &'static str {
        match self {
            Self::Agents => "ListVoiceAgents",
            Self::Sessions => "ListSessions",
        }
    }

    /// As many as the tenant has when pages are timed.
    const fn rows(self) -> usize {
        match self {
            Self::Agents => 100_000,
            Self::Sessions => 1_000_000,
        }
    }

    const fn table(self) -> &'static str {
        match self {
            Self::Agents => "voice_agents",
            Self::Sessions => "sessions",
        }
    }
}

pub(crate) async fn measure(home: &Home, subject: &Arc<Subject>, span: Span) -> String {
    let mut out = String::new();
    for what in [List::Agents, List::Sessions] {
        out += &measure_one(what, home, subject, span).await;
        out.push('\n');
    }
    out
}

async fn measure_one(what: List, home: &Home, subject: &Arc<Subject>, span: Span) -> String {
    let mut lane = subject.lane(0);
    if what == List::Sessions {
        // The one that is copied.
        let hold = lane.acquire().await.expect("a slot");
        lane.have_written(&hold).await;
        lane.release(hold).await;
    }
    fill(what, home, 0, OLDEST);
    let last = last_page(what, &mut lane).await;
    let filled = Instant::now();
    for from in (OLDEST..what.rows()).step_by(FILLED_AT_ONCE) {
        fill(what, home, from, what.rows().min(from + FILLED_AT_ONCE));
    }
    if home.postgres_url().is_some() {
        // As autovacuum would leave them a minute later.
        home.execute(&format!("VACUUM ANALYZE {}", what.table()));
    }
    let filled = filled.elapsed();

    let (mut firsts, mut lasts) = (Rounds::default(), Rounds::default());
    pages(what, &mut lane, &last, span.warm_up).await;
    for _ in 0..ROUNDS {
        let (first, last) = pages(what, &mut lane, &last, span.measured).await;
        firsts.add(Figures::of(&first, span.measured));
        lasts.add(Figures::of(&last, span.measured));
    }
    render(what, &firsts, &lasts, filled)
}

/// Asks for both pages in turn, one request at a time.
async fn pages(
    what: List,
    lane: &mut Lane<'_>,
    last_token: &str,
    within: Duration,
) -> (Histogram<u64>, Histogram<u64>) {
    let (mut firsts, mut lasts) = (histogram(), histogram());
    let until = Instant::now() + within;
    while Instant::now() < until {
        for (token, latencies) in [("", &mut firsts), (last_token, &mut lasts)] {
            let sent = Instant::now();
            let next = lane.page(what, token).await;
            record(latencies, sent.elapsed());
            // One that failed is counted already.
            if next.is_some_and(|next| next.is_empty() == token.is_empty()) {
                lane.subject.tally.error(&format!("{}: a page follows the last one, or none the first", what.rpc()));
            }
        }
    }
    (firsts, lasts)
}

/// The token of the last page. What is newer is put in front of it, so it goes on being the last one's.
async fn last_page(what: List, lane: &mut Lane<'_>) -> String {
    let (mut before, mut token) = (String::new(), lane.page(what, "").await.expect("a first page"));
    while !token.is_empty() {
        let next = lane.page(what, &token).await.expect("a page");
        before = std::mem::replace(&mut token, next);
    }
    before
}

/// Copies of the subject's agent or of a call that it has had, the numbers `from..to`, later ones newer and all older
/// than those made by RPC.
fn fill(what: List, home: &Home, from: usize, to: usize) {
    let embedded = home.postgres_url().is_none();
    let numbers = match embedded {
        true => format!(
            "WITH RECURSIVE numbers (n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {to})
             SELECT randomblob(16) AS id, 'copy-' || n AS copy, lower(hex(randomblob(16))) AS serial,
                    1600000000000000 + 1000000 * n AS made FROM numbers"
        ),
        false => format!(
            "SELECT gen_random_uuid() AS id, 'copy-' || n AS copy, replace(gen_random_uuid()::text, '-', '') AS serial,
                    to_timestamp(1600000000 + n) AS made
             FROM generate_series({from}, {to} - 1) AS n"
        ),
    };
    let inserts = match what {
        List::Agents => format!(
            "INSERT INTO voice_agents (tenant_id, id, name, created_at, updated_at, {AGENT_COLUMNS})
             SELECT tenant_id, copies.id, copy, made, made, {AGENT_COLUMNS} FROM voice_agents, copies
             WHERE name = 'bench {AGENT_LIMIT}';
             INSERT INTO voice_agent_revisions
                 (tenant_id, voice_agent_id, revision, spec, sealed_auth_token, status, updated_by, updated_at)
             SELECT tenant_id, copies.id, revision, spec, sealed_auth_token, status, updated_by, made
             FROM voice_agent_revisions, copies
             WHERE voice_agent_id = (SELECT id FROM voice_agents WHERE name = 'bench {AGENT_LIMIT}');"
        ),
        // A lease's id names its agent, and is its own.
        List::Sessions => format!(
            "INSERT INTO sessions (tenant_id, id, call_id, lease_id, status, outcome, started_at, ended_at, {SESSION_COLUMNS})
             SELECT tenant_id, copies.id, copy, substr(lease_id, 1, 36) || serial, 'ENDED', 'CALLER_HANGUP', made, made,
                    {SESSION_COLUMNS}
             FROM (SELECT * FROM sessions WHERE started_at = (SELECT max(started_at) FROM sessions) LIMIT 1) AS one, copies;"
        ),
    };
    let reach = if embedded { "" } else { "SET LOCAL voxgate.tenant = 'everyone';" };
    home.execute(&format!(
        "BEGIN; {reach} CREATE TEMPORARY TABLE copies AS {numbers}; {inserts} DROP TABLE copies; COMMIT"
    ));
}

fn render(what: List, firsts: &Rounds, lasts: &Rounds, filled: Duration) -> String {
    let mut out = format!(
        "| {}, 100 of {}, 1 in flight | p50 ms (min–max) | p99 ms (min–max) |\n|---|---:|---:|\n",
        what.rpc(),
        what.rows()
    );
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
