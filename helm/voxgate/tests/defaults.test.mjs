// What the chart says of the service's own defaults is what its source says.

import assert from "node:assert/strict";
import { test } from "node:test";
import { files, read, render } from "./chart.mjs";

const MIB = 2 ** 20;
const sources = files("src", ".rs").map(read).join("\n");
const config = read("src/config.rs");

// "listen.threads" to 0, and so on: of each table of the configuration, what `impl Default` of its struct has.
const defaults = new Map();
for (const [, table, struct] of config.matchAll(/^    #\[serde\(default\)\]\n    pub (\w+): (\w+Settings),$/gm)) {
    const made = new RegExp(`^impl Default for ${struct} \\{[\\s\\S]*?^\\}`, "m").exec(sources)?.[0] ?? "";
    // Derived: 0 for each number.
    const derived = new RegExp(`derive\\([^)]*\\bDefault\\b[^)]*\\)\\]\\n(?:#.*\\n)*pub struct ${struct} \\{([\\s\\S]*?)^\\}`, "m").exec(sources)?.[1] ?? "";
    for (const [, key] of derived.matchAll(/^    pub (\w+): (?:u32|u64|usize),$/gm)) defaults.set(`${table}.${key}`, 0);
    for (const [, key, value] of made.matchAll(/\b([a-z]\w*): ([\d_ *<]+)[,\s}]/g)) {
        const [, one, by] = /^([\d_]+)(?: \* ([\d_* ]+)| << \d+)?$/.exec(value.trim().replace(/^(\d+) << (\d+)$/, (_, a, b) => a * 2 ** b)) ?? [];
        const factors = [one, ...(by?.split("*") ?? [])].map((factor) => Number(factor?.replaceAll("_", "")));
        defaults.set(`${table}.${key}`, factors.reduce((product, factor) => product * factor));
    }
}
const of = (key) => {
    assert.ok(defaults.has(key), key);
    return defaults.get(key);
};
const thousands = (number) => number.toLocaleString("en-US");
const says = (path, text) => assert.ok(read(path).replace(/\s+#? ?/g, " ").includes(text), `${path} does not say: ${text}`);

test("README's table of limits has the defaults of the source", () => {
    const rows = [...read("README.md").matchAll(/^\| `([a-z]+\.[a-z_]+)` \| ([\d,]+) \|/gm)];
    assert.ok(rows.length > 35, `${rows.length}`);
    for (const [, key, value] of rows) assert.equal(value, thousands(of(key)), key);
});

test("the connections that Postgres must grant follow from the pool's default, and the one that listens", () => {
    const each = of("database.max_connections") + 1;
    says("helm/voxgate/values.yaml", `(${each} by default)`);
    says("helm/voxgate/files/alerts.yaml", `(${each} a replica by default)`);
    says("helm/voxgate/README.md", `Two replicas need ${3 * each}, eight need ${9 * each}.`);
    assert.ok(read("helm/voxgate/templates/NOTES.txt").includes(`(default ${each - 1} .Values.config.database.max_connections)`));
});

test("the drain is the service's own, with a longer notice", () => {
    const { toml } = render();
    const set = (key) => Number(new RegExp(`^${key} = (\\d+)$`, "m").exec(toml)[1]);
    assert.equal(set("drain_cap_ms"), of("listen.drain_cap_ms"));
    assert.ok(set("drain_notice_ms") > of("listen.drain_notice_ms"));
    says("helm/voxgate/values.yaml", `the service's own ${of("listen.drain_notice_ms") / 1000} s`);
});

test("the memory limit is reckoned by the caches, the journal and the connections that there may be", () => {
    const caches = (of("cache.agents_max_bytes") + 2 * of("cache.tenants_max_bytes")) / MIB;
    says("helm/voxgate/values.yaml", `Caches ${caches} MiB, a full journal 200 MiB, ${thousands(of("listen.max_connections"))} connections`);
});

test("alerts speak of the limits that the service has", () => {
    const alerts = "helm/voxgate/files/alerts.yaml";
    says(alerts, `${thousands(of("journal.max_entries"))} by default`);
    says(alerts, `one connection carries ${of("listen.max_streams_per_connection")} requests at once`);
    says(alerts, `take up to ${of("cache.fresh_ms") / 1000} s to reach other replicas`);
    assert.ok(of("cache.key_fresh_ms") < 1_000, "VoxgateChangeListenersLost");
});

test("certificates are read again as often as it is said", () => {
    assert.equal(of("tls.reload_interval_ms"), 10_000);
    says("helm/voxgate/README.md", "service reads them again every ten seconds");
});

test("the readiness probe waits for longer than the service looks at its stores", () => {
    const [, seconds] = /const LOOK_WITHIN: Duration = Duration::from_secs\((\d+)\);/.exec(read("src/server/admin.rs"));
    assert.ok(render().container.readinessProbe.timeoutSeconds > Number(seconds));
});

test("the ports are those that the service has by itself", () => {
    const served = read("src/server/mod.rs");
    for (const { containerPort } of render().container.ports) {
        assert.ok(served.includes(`(host, ${String(containerPort).replace(/(\d+)(\d{3})$/, "$1_$2")})`), `${containerPort}`);
    }
});
