// The dashboard and the alerts on what a real service on Postgres and Redis counts, as promtool evaluates them: the service
// admits, denies and queues calls, its nodes and receivers fail it, and its servers are taken away and brought back.

import assert from "node:assert/strict";
import { execFile, execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, chownSync, copyFileSync, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import http from "node:http";
import { connect } from "node:net";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import tls from "node:tls";
import { promisify } from "node:util";
import { chart, parse, read, root } from "../voxgate/tests/chart.mjs";
import { Servers, freePorts, until } from "./servers.mjs";

const voxgate = resolve(root, process.env.VOXGATE_BIN ?? join(process.env.CARGO_TARGET_DIR ?? "target", "debug/voxgate"));
const servers = new Servers("metrics");
const at = (...names) => servers.at(...names);
const ports = {};
const environment = {};
let receiver;
let timer;

after(async () => {
    clearInterval(timer);
    receiver?.close();
    await servers.stop();
});

// --- the servers

const postgresBin = () => {
    const versions = existsSync("/usr/lib/postgresql") ? readdirSync("/usr/lib/postgresql").sort((a, b) => b - a) : [];
    return versions.length > 0 ? `/usr/lib/postgresql/${versions[0]}/bin/` : "";
};
// Postgres refuses to run as root.
const owner = process.getuid() === 0 ? Number(execFileSync("id", ["-u", "postgres"], { encoding: "utf8" })) : undefined;
const asOwner = (command, args) =>
    owner === undefined ? [command, args] : ["setpriv", [`--reuid=${owner}`, `--regid=${owner}`, "--clear-groups", command, ...args]];
const sql = (text) => execFileSync(`${postgresBin()}psql`, ["-q", "-U", "postgres", "-h", "127.0.0.1", "-p", ports.postgres, "-d", "postgres", "-c", text]);

async function startPostgres() {
    const data = at("postgres", "db");
    if (!existsSync(data)) {
        mkdirSync(at("postgres"));
        chmodSync(servers.folder, 0o711);
        if (owner !== undefined) chownSync(at("postgres"), owner, owner);
        const [command, args] = asOwner(`${postgresBin()}initdb`, ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]);
        execFileSync(command, args, { cwd: at("postgres") });
    }
    const [command, args] = asOwner(`${postgresBin()}postgres`, [
        "-D", data, "-p", ports.postgres, "-k", at("postgres"), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
    ]);
    // At TERM it would wait until every client has left.
    const server = servers.start("postgres", command, args, { ends: "SIGINT" });
    await servers.ready(server, async () => sql("SELECT 1") !== null);
    return server;
}

const redis = (...args) => execFileSync("redis-cli", ["-p", ports.redis, ...args], { encoding: "utf8" });
async function startRedis() {
    const server = servers.start("redis", "redis-server", [
        "--bind", "127.0.0.1", "--port", ports.redis, "--dir", servers.folder, "--save", "", "--appendonly", "no",
        "--maxmemory", "64mb", "--maxmemory-policy", "noeviction",
    ]);
    await servers.ready(server, async () => redis("ping").includes("PONG"));
    return server;
}

function certify() {
    const certificate = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "2"];
    const named = ["-subj", "/CN=check", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"];
    execFileSync("openssl", [...certificate, ...named, "-keyout", at("new.key"), "-out", at("new.crt")], { stdio: "pipe" });
    copyFileSync(at("new.key"), at("tls.key"));
    copyFileSync(at("new.crt"), at("tls.crt"));
}

const tool = (...args) => execFileSync(voxgate, args, { env: { ...process.env, ...environment }, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });

async function startVoxgate() {
    certify();
    // What takes minutes is to take a second here; what a slow machine would not do in time is given it.
    writeFileSync(at("voxgate.toml"), `
[listen]
handshake_timeout_ms = 1000
max_connections = 20
drain_notice_ms = 0
[calls]
heartbeat_interval_ms = 500
sweep_interval_ms = 500
queue_depth = 1
[cache]
fresh_ms = 100
key_fresh_ms = 100
[redis]
command_timeout_ms = 2000
[tls]
cert_file = "${at("tls.crt")}"
key_file = "${at("tls.key")}"
reload_interval_ms = 200
[metrics]
top_agents = 5
[webhooks]
allow_private = true
[traces]
# Nobody listens there: what is recorded is counted as lost.
endpoint = "http://127.0.0.1:1"
sample_ratio = 1.0
`);
    Object.assign(environment, {
        VOXGATE_CONFIG: at("voxgate.toml"),
        VOXGATE_GRPC_ADDR: `127.0.0.1:${ports.grpc}`,
        VOXGATE_ADMIN_ADDR: `127.0.0.1:${ports.admin}`,
        VOXGATE_DATABASE_URL: `postgres://voxgate@127.0.0.1:${ports.postgres}/voxgate`,
        VOXGATE_REDIS_URL: `redis://127.0.0.1:${ports.redis}`,
        VOXGATE_KEY_RING: `check:${randomBytes(32).toString("base64")}`,
    });
    tool("migrate");
    tool("tenant", "create", "--name", "check");
    environment.KEY = tool("key", "create", "--tenant", "check", "--name", "check", "--scopes", "all", "--rate-limit-per-min", "100000").trim();
    const server = servers.start("voxgate", voxgate, ["serve"], { env: environment });
    await servers.ready(server, async () => (await get(ports.admin, "/readyz")).status === 200);
}

async function startNode(...args) {
    const options = ["node-sim", "--endpoint", `https://127.0.0.1:${ports.grpc}`, "--tls-ca", at("tls.crt"), ...args];
    const server = servers.start("node-sim", voxgate, options, { env: { ...environment, VOXGATE_KEY: environment.KEY } });
    await until("the node is connected", async () => (await sum("voxgate_nodes_connected")) === 1);
    return server;
}

// Every second, what a scrape finds. Each sample by its series, and the second of it.
const scrapes = [];
const began = new Date();
let latest = new Map();
async function scrape() {
    const { status, text } = await get(ports.admin, "/metrics").catch(() => ({}));
    const found = new Map();
    if (status === 200) {
        for (const [, name, labels, value] of text.matchAll(/^(voxgate_\w+)(?:\{(.*)\})? (\S+)$/gm)) {
            const all = [labels, 'job="voxgate"', 'namespace="voice"', 'pod="voxgate-0"', 'instance="voxgate-0:9090"'];
            found.set(`${name}{${all.filter(Boolean).join(",")}}`, value);
        }
        latest = found;
    }
    scrapes.push(found);
}

// --- what asks them

const get = (port, path) => new Promise((done, fail) => {
    const sent = http.get({ host: "127.0.0.1", port, path }, (answer) => {
        let text = "";
        answer.on("data", (chunk) => { text += chunk; });
        answer.on("end", () => done({ status: answer.statusCode, text }));
    });
    sent.on("error", fail);
});

// The sum of a metric's series that have this label, as of the last scrape.
async function sum(selector) {
    const [, name, label = ""] = /^(\w+)(?:\{(.*)\})?$/.exec(selector);
    const series = [...latest].filter(([key]) => key.startsWith(`${name}{`) && key.includes(label));
    return series.reduce((total, [, value]) => total + Number(value), 0);
}
const counts = (expr) => until(`${expr} counts`, async () => (await sum(expr)) > 0);

// Until it counts more than when it was first seen: a rate is of two scrapes at least.
async function rises(selector, act) {
    let first = 0;
    await until(`${selector} rises`, async () => {
        await act();
        const total = await sum(selector);
        first = first || total;
        return total > first;
    });
}

// Answers what grpcurl printed, of an error too.
async function call(method, body) {
    const args = ["-insecure", "-max-time", "60", "-H", `authorization: Bearer ${environment.KEY}`, "-d", JSON.stringify(body)];
    const done = promisify(execFile)("grpcurl", [...args, `127.0.0.1:${ports.grpc}`, `voxgate.v1.${method}`]);
    const { stdout, stderr } = await done.catch((error) => error);
    return `${stdout}${stderr}`;
}
const acquire = (call_id, voice_agent_id) => call("AdmissionService/AcquireSlot", { call_id, voice_agent_id, lease_ttl: "10s" });

async function createAgent(max_concurrent) {
    const answer = await call("VoiceAgentService/CreateVoiceAgent", {
        voice_agent: { name: "check", ws_url: "wss://ai.example.com/calls", max_concurrent },
    });
    return JSON.parse(answer).id;
}

// Connects, writes this, and is gone once the other side has closed.
const garble = (text) => new Promise((done) => {
    const socket = connect(ports.grpc, "127.0.0.1", () => text && socket.write(text));
    socket.on("error", done);
    socket.on("close", done);
    socket.resume();
});

before(async () => {
    [ports.postgres, ports.redis, ports.grpc, ports.admin, ports.receiver] = (await freePorts(5)).map(String);
    timer = setInterval(scrape, 1000);
    await startPostgres();
    sql("CREATE ROLE voxgate LOGIN");
    sql("CREATE DATABASE voxgate OWNER voxgate");
    await startRedis();
    await startVoxgate();
});

// --- what happens

let node;
let agent;
const admitted = new Map(); // call to lease

test("calls are admitted, denied and queued", async () => {
    node = await startNode("--fail", "mute:reject");
    receiver = http.createServer((_, answer) => answer.end()).listen(Number(ports.receiver), "127.0.0.1");
    for (const port of [ports.receiver, "1"]) {
        await call("TenantService/CreateWebhookEndpoint", { webhook_endpoint: { url: `http://127.0.0.1:${port}/` } });
    }
    agent = await createAgent(2);
    for (const id of ["call-1", "call-2"]) admitted.set(id, JSON.parse(await acquire(id, agent)).leaseId);
    assert.match(await acquire("call-3", agent), /MAX_CONCURRENT_EXCEEDED/);
    const wait = (call_id, max_wait) => call("AdmissionService/AwaitSlot", { call_id, voice_agent_id: agent, max_wait });
    const first = wait("call-4", "8s");
    await counts("voxgate_queue_waiting");
    assert.match(await wait("call-5", "8s"), /QUEUE_FULL/);
    await first;
    await counts('voxgate_lease_renewals_total{fate="renewed"}');
});

test("verbs succeed and fail", async () => {
    const verb = (name) => call(`AdmissionService/${name}`, { call_id: "call-1", idempotency_key: name });
    assert.match(await verb("Mute"), /NODE_REJECTED/);
    assert.match(await verb("Hold"), /SUCCEEDED/);
    assert.match(await verb("Hangup"), /SUCCEEDED/);
    await call("VoiceAgentService/GetVoiceAgent", { id: "nobody" });
    for (const outcome of ["taken", "tried_again"]) await counts(`voxgate_webhook_posts_total{outcome="${outcome}"}`);
});

test("connections are refused, silent, garbled, and fail to shake hands", async () => {
    await garble("GET / HTTP/1.1\r\n\r\n");
    await garble("");
    const strange = tls.connect({ port: Number(ports.grpc), host: "127.0.0.1", maxVersion: "TLSv1.2", ciphers: "AES128-SHA" });
    await new Promise((done) => strange.on("error", done));
    await Promise.all(Array.from({ length: 40 }, () => garble("")));
    for (const kind of ["connections_garbled", "connections_silent", "tls_handshakes_failed", "connections_refused"]) {
        await counts(`voxgate_${kind}_total`);
    }
});

test("a certificate is renewed, and one that is none is refused", async () => {
    certify();
    await counts('voxgate_tls_reloads_total{outcome="loaded"}');
    writeFileSync(at("tls.crt"), "none");
    await counts('voxgate_tls_reloads_total{outcome="refused"}');
    certify();
});

test("Postgres is away, and back", async () => {
    const known = await createAgent(10);
    await acquire("call-6", known);
    const postgres = servers.running("postgres");
    await servers.end(postgres);
    await rises("voxgate_cache_outage_answers_total", () => acquire("call-7", known));
    await counts("voxgate_journal_entries");
    await counts("voxgate_change_listeners_lost_total");
    await startPostgres();
    await until("the journal is written", async () => (await sum("voxgate_journal_entries")) === 0);
});

test("the node is gone, and its calls are lost", async () => {
    node.child.kill("SIGKILL");
    await counts('voxgate_sessions_ended_total{outcome="NODE_LOST"}');
});

test("Redis is away, and back without its data", async () => {
    const redis = servers.running("redis");
    const leased = await acquire("call-8", agent);
    await servers.end(redis);
    assert.match(await acquire("call-9", agent), /SLOT_STORE_UNAVAILABLE/);
    await call("AdmissionService/ReleaseSlot", { call_id: "call-8", lease_id: JSON.parse(leased).leaseId });
    await counts("voxgate_releases_kept");
    await counts("voxgate_redis_connections_lost_total");
    await rises("voxgate_rate_limit_fallbacks_total", () => acquire("call-9", agent));
    await startRedis();
    await until("the loss is found", async () => {
        await acquire("call-10", agent);
        return (await sum("voxgate_recoveries_total")) > 0;
    });
    const so = scrapes.length;
    await until("it is scraped again", () => scrapes.length > so + 3);
});

// --- what is asked of it

// What promtool answers of these expressions at the end: whether each has no data.
function ask(expressions) {
    const names = new Set(scrapes.flatMap((found) => [...found.keys()]));
    const values = (name) => scrapes.map((found) => found.get(name) ?? "_").join(" ");
    const input_series = [...names].map((name) => ({ series: name, values: values(name) }));
    const eval_time = `${scrapes.length - 1}s`;
    const promql_expr_test = expressions.map((expr) => ({ expr: `absent(${expr})`, eval_time, exp_samples: [] }));
    const tests = [{ interval: "1s", start_timestamp: began.toISOString(), input_series, promql_expr_test }];
    writeFileSync(at("asked.yml"), JSON.stringify({ rule_files: [join(chart, "files/alerts.yaml")], evaluation_interval: "1s", tests }));
    const { stdout, stderr } = spawnSync("promtool", ["test", "rules", at("asked.yml")], { encoding: "utf8", maxBuffer: 1 << 28 });
    const said = `${stdout}${stderr}`;
    const empty = expressions.filter((expr) => said.includes(`expr: ${JSON.stringify(`absent(${expr})`)}`));
    assert.equal((said.match(/expr: "/g) ?? []).length, new Set(empty).size, said.slice(0, 4000));
    return new Set(empty);
}

test("every query of the dashboard has data", (t) => {
    const { panels } = JSON.parse(read("helm/voxgate/files/dashboard.json"));
    const exprs = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr));
    const filled = (expr) => expr.replaceAll("$__rate_interval", "10m").replaceAll("$job", "voxgate").replaceAll("$namespace", "voice");
    const none = ask([...new Set(exprs.map(filled))]);
    const empty = exprs.filter((expr) => none.has(filled(expr)));
    t.diagnostic(`${exprs.length} queries, ${empty.length} without data, ${scrapes.length} scrapes`);
    assert.deepEqual(empty, []);
});

// What was caused here and fires at its first event, or is pending until it has lasted for long enough. A share of what ends or
// fails is told from rates, which one event does not make.
const caused = [
    "VoxgateNotReady", "VoxgateQueueFull", "VoxgateSlotStoreLost", "VoxgateSlotStoreUnavailable", "VoxgateDatabaseUnavailable", "VoxgateNodesGone",
    "VoxgateReleasesKept", "VoxgateConnectionsRefused", "VoxgateCertificateRefused", "VoxgateCertificateExpiresSoon",
];

test("every alert whose cause was here has seen it", (t) => {
    const alerts = parse(read("helm/voxgate/files/alerts.yaml")).groups.flatMap((group) => group.rules.map(({ alert }) => alert));
    const state = (alert, state) => `last_over_time(ALERTS{alertname="${alert}",alertstate="${state}"}[1h])`;
    const none = ask(alerts.flatMap((alert) => [state(alert, "pending"), state(alert, "firing")]));
    const seen = (alert, of) => !none.has(state(alert, of));
    for (const alert of alerts) {
        t.diagnostic(`${alert}: ${["pending", "firing"].filter((of) => seen(alert, of)).join(", ") || "inactive"}`);
    }
    assert.deepEqual(caused.filter((alert) => !seen(alert, "pending") && !seen(alert, "firing")), []);
});
