// Each alert fires under what it is about, and keeps quiet just below it. Prometheus' own rule tests judge, by promtool.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { chart, parse, read, render } from "./chart.mjs";

// A scrape every 15 s: 40 samples are ten minutes.
const acquire = 'rpc="/voxgate.v1.AdmissionService/AcquireSlot"';

// A counter that was not there for eleven minutes and then has this value. Beside it, one that has had a value for long and
// was not scraped for a moment: it tells of nothing new.
const appears = (name, labels, value, below) => ({
    at: "12m",
    fires: [[name, labels, `_x44 ${value}x20`]],
    quiet: [
        [name, labels, `1x20 stale stale 1x60`, "15m30s"],
        ...(below === undefined ? [] : [[name, labels, `_x44 ${below}x20`, "12m"]]),
    ],
});
// A gauge that stays at this value.
const stays = (name, value, below, at) => ({ at, fires: [[name, "", `${value}x400`]], quiet: [[name, "", `${below}x400`, at]] });

// `beside` is there whether it fires or not.
const alerts = {
    VoxgateAbsent: { at: "4m", fires: [["up", "", "1x40"]], quiet: [["voxgate_nodes_connected", "", "0x40", "4m"]] },
    VoxgateNotReady: stays("voxgate_ready", 0, 1, "6m"),
    VoxgateUnavailable: {
        at: "6m",
        fires: [
            ["voxgate_rpcs_total", 'code="UNAVAILABLE"', "0+1x40"],
            ["voxgate_rpcs_total", 'code="OK"', "0+9x40"],
        ],
        quiet: [["voxgate_rpcs_total", 'code="OK"', "0+9x40", "6m"]],
    },
    VoxgateErrors: appears("voxgate_rpcs_total", `code="INTERNAL",${acquire}`, 1),
    VoxgateAdmissionSlow: {
        at: "20m",
        fires: [
            ["voxgate_rpc_duration_seconds_bucket", `le="0.25",${acquire}`, "0+98x100"],
            ["voxgate_rpc_duration_seconds_bucket", `le="0.5",${acquire}`, "0+100x100"],
            ["voxgate_rpc_duration_seconds_bucket", `le="+Inf",${acquire}`, "0+100x100"],
        ],
        quiet: [["voxgate_rpc_duration_seconds_bucket", `le="0.25",${acquire}`, "0+100x100", "20m"]],
    },
    VoxgateQueueFull: appears("voxgate_queue_waits_total", 'outcome="QUEUE_FULL"', 1),
    VoxgateNodesGone: {
        at: "12m",
        fires: [["voxgate_nodes_connected", "", "10x40 0x40"]],
        quiet: [["voxgate_nodes_connected", "", "0x80", "12m"]],
    },
    VoxgateCallsLost: {
        at: "12m",
        fires: [
            ["voxgate_sessions_ended_total", 'outcome="NODE_LOST"', "0+1x60"],
            ["voxgate_sessions_ended_total", 'outcome="HANGUP"', "0+9x60"],
        ],
        quiet: [["voxgate_sessions_ended_total", 'outcome="HANGUP"', "0+9x60", "12m"]],
    },
    VoxgateMassExpiry: appears("voxgate_mass_expiries_total", "", 1),
    VoxgateVerbsFail: {
        at: "18m",
        fires: [
            ["voxgate_operations_total", 'verb="mute",state="UNKNOWN"', "0+2x80"],
            ["voxgate_operations_total", 'verb="mute",state="SUCCEEDED"', "0+8x80"],
        ],
        quiet: [["voxgate_operations_total", 'verb="mute",state="SUCCEEDED"', "0+8x80", "18m"]],
    },
    VoxgateDrift: appears("voxgate_drift_total", 'kind="session_not_on_node"', 6, 5),
    VoxgateSlotStoreUnavailable: {
        at: "5m",
        fires: [["voxgate_rate_limit_fallbacks_total", "", "0+1x40"]],
        // A hiccup.
        quiet: [["voxgate_rate_limit_fallbacks_total", "", "0x10 5x40", "4m"]],
    },
    VoxgateSlotStoreLost: appears("voxgate_recoveries_total", "", 1),
    VoxgateSlotStoreFills: stays("voxgate_slot_store_memory_ratio", 0.85, 0.75, "6m"),
    VoxgateSlotStoreFull: stays("voxgate_slot_store_memory_ratio", 0.96, 0.94, "2m"),
    VoxgateSlotStoreClockStepped: appears("voxgate_slot_store_clock_steps_total", 'direction="forward"', 1),
    VoxgateRedisConnectionsLost: appears("voxgate_redis_connections_lost_total", 'cause="silent"', 4, 3),
    VoxgateDatabaseUnavailable: {
        at: "5m",
        fires: [["voxgate_cache_outage_answers_total", 'cache="api_key"', "0+1x40"]],
        quiet: [["voxgate_cache_outage_answers_total", 'cache="api_key"', "0x10 5x40", "4m"]],
    },
    VoxgateJournalGrows: stays("voxgate_journal_entries", 10001, 9999, "2m"),
    VoxgateJournalNearlyFull: {
        at: "1m",
        beside: [["voxgate_journal_entries_max", "", "100000x40"]],
        fires: [["voxgate_journal_entries", "", "80001x40"]],
        quiet: [["voxgate_journal_entries", "", "79999x40", "1m"]],
    },
    VoxgateReleasesKept: stays("voxgate_releases_kept", 3, 0, "3m"),
    VoxgateChangeListenersLost: appears("voxgate_change_listeners_lost_total", "", 4, 3),
    VoxgateAuditEntriesLost: appears("voxgate_audit_entries_lost_total", "", 1),
    VoxgateWebhooksStuck: {
        at: "20m",
        fires: [
            ["voxgate_webhook_deliveries_pending", "", "2000x100"],
            ["voxgate_webhook_posts_total", 'outcome="tried_again"', "0+1x100"],
        ],
        quiet: [["voxgate_webhook_deliveries_pending", "", "900x100", "20m"]],
    },
    VoxgateWebhooksGivenUp: {
        at: "15m",
        fires: [["voxgate_webhook_dead_letters", "", "0x40 1x40"]],
        // One that was forgotten.
        quiet: [["voxgate_webhook_dead_letters", "", "5x40 4x40", "15m"]],
    },
    VoxgateConnectionsRefused: appears("voxgate_connections_refused_total", 'pod="a",instance="1:9090"', 1),
    VoxgateClientsCannotConnect: {
        at: "18m",
        fires: [["voxgate_tls_handshakes_failed_total", "", "0+3x80"]],
        quiet: [["voxgate_tls_handshakes_failed_total", "", "0+1x80", "18m"]],
    },
    VoxgateCertificateRefused: appears("voxgate_tls_reloads_total", 'outcome="refused",pod="a"', 1),
    VoxgateCertificateExpiresSoon: stays("voxgate_tls_certificate_expires_seconds", 6 * 86400, 8 * 86400, "65m"),
    VoxgateCertificateExpires: stays("voxgate_tls_certificate_expires_seconds", 5 * 3600, 7 * 3600, "10m"),
};

const series = ([name, labels, values]) => ({
    series: `${name}{${['job="voxgate"', labels].filter(Boolean).join(",")}}`,
    values,
});

const firing = (alert, at, expected) => ({
    expr: `count(ALERTS{alertname="${alert}",alertstate="firing"})`,
    eval_time: at,
    exp_samples: expected ? [{ labels: "{}", value: 1 }] : [],
});

// Runs `promtool` on a file of this text, JSON being YAML.
function promtool(args, content) {
    const folder = mkdtempSync(join(tmpdir(), "alerts-"));
    try {
        const file = join(folder, "file.yaml");
        writeFileSync(file, JSON.stringify(content));
        const { status, stdout, stderr } = spawnSync("promtool", [...args, file], { encoding: "utf8" });
        assert.equal(status, 0, `${stdout}\n${stderr}`);
    } finally {
        rmSync(folder, { recursive: true });
    }
}

test("every alert is tried, and no other", () => {
    const { groups } = parse(read("helm/voxgate/files/alerts.yaml"));
    const names = groups.flatMap(({ rules }) => rules.map(({ alert }) => alert));
    assert.deepEqual(Object.keys(alerts), names);
});

test("each fires when what it is about happens, and not before", () => {
    const tests = Object.entries(alerts).flatMap(([alert, { at, beside = [], fires, quiet }]) => [
        { name: `${alert} fires`, interval: "15s", input_series: [...beside, ...fires].map(series), promql_expr_test: [firing(alert, at, true)] },
        ...quiet.map((line) => ({
            name: `${alert} keeps quiet at ${line[2]}`,
            interval: "15s",
            input_series: [...beside, line].map(series),
            promql_expr_test: [firing(alert, line[3], false)],
        })),
    ]);
    promtool(["test", "rules"], { rule_files: [join(chart, "files/alerts.yaml")], evaluation_interval: "15s", tests });
});

test("Prometheus reads the rules as the operator hands them to it", () => {
    for (const config of [{}, { calls: { heartbeat_interval_ms: 2000 } }]) {
        const { spec } = render({ prometheusRule: { enabled: true, matchLabels: { app: 'a"b' } }, config }).one("PrometheusRule");
        promtool(["check", "rules", "--lint=none"], spec);
    }
});

test("Prometheus reads the alerts and every query of the dashboard", () => {
    const { panels } = JSON.parse(read("helm/voxgate/files/dashboard.json"));
    const queries = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr.replaceAll("$__rate_interval", "5m")));
    const rules = queries.map((expr, place) => ({ record: `panel:query:${place}`, expr }));
    promtool(["check", "rules", "--lint=none"], { groups: [{ name: "dashboard", rules }] });
    const { status, stdout, stderr } = spawnSync("promtool", ["check", "rules", join(chart, "files/alerts.yaml")], { encoding: "utf8" });
    assert.equal(status, 0, `${stdout}\n${stderr}`);
});
