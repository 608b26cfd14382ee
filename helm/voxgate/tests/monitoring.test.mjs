// Metrics, alerts and the dashboard: everything that is asked about is something that the service counts.

import assert from "node:assert/strict";
import { test } from "node:test";
import { files, parse, read, render, selects } from "./chart.mjs";

const sources = files("src", ".rs").map(read).join("\n");
const calls = [...sources.matchAll(/\b(counter|gauge|histogram)!\(\s*"(voxgate_\w+)"([^;]*?)\)\s*[.;}]/g)];
// Each metric that is counted somewhere, with its labels.
const counted = new Map(
    calls.map(([, kind, name, rest]) => [name, { kind, labels: [...rest.matchAll(/"(\w+)" =>/g)].map((it) => it[1]) }]),
);
// What a scrape adds to each series.
const scraped = ["job", "namespace", "pod", "instance"];

const alerts = parse(read("helm/voxgate/files/alerts.yaml")).groups.flatMap(({ rules }) => rules);
const dashboard = JSON.parse(read("helm/voxgate/files/dashboard.json"));
const queries = dashboard.panels.flatMap(({ title, targets = [] }) =>
    targets.map(({ expr }) => ({ name: `panel ${title}`, expr })),
);
const everything = [...alerts.map(({ alert, expr }) => ({ name: alert, expr })), ...queries];

// A metric's own name: a histogram's buckets are asked for by another.
const own = (name) => (counted.get(name.replace(/_bucket$/, ""))?.kind === "histogram" ? name.replace(/_bucket$/, "") : name);
const asked = (expr) => [...expr.matchAll(/\b(voxgate_\w+)\{([^}]*)\}/g)].map(([, name, labels]) => ({ name: own(name), labels }));

test("the metrics of the service were found", () => {
    assert.ok(counted.size > 30, `${counted.size}`);
    assert.deepEqual(counted.get("voxgate_operations_total"), { kind: "counter", labels: ["verb", "state"] });
});

test("every query asks for metrics that are counted, each with its selector", () => {
    for (const { name, expr } of everything) {
        const named = [...expr.matchAll(/\bvoxgate_\w+/g)].map(([metric]) => own(metric));
        assert.ok(named.length > 0, name);
        for (const metric of named) assert.ok(counted.has(metric), `${name}: ${metric}`);
        assert.equal(asked(expr).length, named.length, `${name}: a metric without a selector`);
    }
});

test("every label that is asked for is the metric's, and every value is one that the service writes", () => {
    for (const { name, expr } of everything) {
        for (const { name: metric, labels } of asked(expr)) {
            for (const [, label, value] of labels.matchAll(/(\w+)[=!]~?"([^"]*)"/g)) {
                if (scraped.includes(label)) continue;
                assert.ok(counted.get(metric).labels.includes(label), `${name}: ${metric} has no label ${label}`);
                for (const word of value.split("|")) assert.ok(sources.includes(`"${word}"`), `${name}: ${label} ${word}`);
            }
        }
        const labels = new Set(asked(expr).flatMap(({ name: metric }) => counted.get(metric).labels));
        for (const [, by] of expr.matchAll(/\bby \(([^)]*)\)/g)) {
            for (const label of by.split(/, ?/)) {
                assert.ok(label === "le" || scraped.includes(label) || labels.has(label), `${name}: by ${label}`);
            }
        }
    }
});

test("the rate of a counter is asked for, never its value alone", () => {
    for (const { name, expr } of everything) {
        for (const { name: metric } of asked(expr)) {
            if (counted.get(metric).kind === "counter") assert.match(expr, /\b(rate|increase)\(/, name);
        }
    }
});

test("every metric that README lists is on the dashboard", () => {
    const listed = [...read("README.md").matchAll(/^\| `(voxgate_\w+)` \|/gm)].map(([, name]) => name);
    assert.ok(listed.length > 30);
    const shown = new Set(queries.flatMap(({ expr }) => asked(expr).map(({ name }) => name)));
    assert.deepEqual(listed.filter((name) => !shown.has(name)), []);
});

test("every panel says what it shows, and has a place of its own", () => {
    const ids = dashboard.panels.map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length);
    for (const { type, title, description } of dashboard.panels) {
        assert.ok(type === "row" || description, title);
    }
});

test("every alert says what is the matter, what it means and what to do", () => {
    assert.ok(alerts.length > 20);
    assert.equal(new Set(alerts.map(({ alert }) => alert)).size, alerts.length);
    for (const { alert, annotations, labels } of alerts) {
        assert.match(alert, /^Voxgate[A-Z]\w+$/);
        assert.deepEqual(Object.keys(annotations), ["summary", "description", "action"], alert);
        for (const text of Object.values(annotations)) assert.match(text, /\.$/, alert);
        assert.ok(["critical", "warning", "info"].includes(labels.severity), alert);
    }
});

test("alerts that refer to one another refer to one that is there", () => {
    const names = alerts.map(({ alert }) => alert);
    for (const { alert, annotations } of alerts) {
        for (const [named] of JSON.stringify(annotations).matchAll(/\bVoxgate[A-Z]\w+/g)) {
            assert.ok(names.includes(named), `${alert}: ${named}`);
        }
    }
});

test("nothing of it is there unless it is asked for", () => {
    const rendered = render();
    assert.deepEqual([...rendered.all("ServiceMonitor"), ...rendered.all("PrometheusRule")], []);
    assert.equal(rendered.all("ConfigMap").length, 1);
});

test("Prometheus finds the one Service with the admin port", () => {
    const rendered = render({ serviceMonitor: { enabled: true, labels: { release: "p" } } });
    const { metadata, spec } = rendered.one("ServiceMonitor");
    assert.equal(metadata.labels.release, "p");
    const found = rendered.all("Service").filter((service) => selects(spec.selector.matchLabels, service.metadata.labels));
    assert.deepEqual(found.map(({ metadata: { name } }) => name), ["live-voxgate-headless"]);
    const ports = found[0].spec.ports.map(({ name }) => name);
    for (const { port, path } of spec.endpoints) assert.ok(ports.includes(port) && path === "/metrics");
});

test("the rules are about this release's series alone", () => {
    const { groups } = render({ prometheusRule: { enabled: true } }).one("PrometheusRule").spec;
    const rules = groups.flatMap(({ rules }) => rules);
    assert.equal(rules.filter(({ alert }) => alert).length, alerts.length);
    for (const { alert, record, expr } of rules) {
        for (const { labels } of asked(expr)) {
            assert.ok(labels.startsWith('job="live-voxgate-headless",namespace="voice"'), `${alert ?? record}: ${labels}`);
        }
    }
});

test("other labels may tell the series, and alerts may be left out", () => {
    const prometheusRule = { enabled: true, matchLabels: { app: 'a"b' }, disabledAlerts: ["VoxgateCertificateExpiresSoon"] };
    const { groups } = render({ prometheusRule }).one("PrometheusRule").spec;
    const rules = groups.flatMap(({ rules }) => rules);
    assert.ok(rules.some(({ alert }) => alert === "VoxgateCertificateExpires"));
    assert.ok(!rules.some(({ alert }) => alert === "VoxgateCertificateExpiresSoon"));
    for (const { expr } of rules) assert.ok(expr.includes('{app="a\\"b"'), expr);
});

test("Grafana is given the dashboard to the letter", () => {
    const rendered = render({ dashboard: { enabled: true, annotations: { folder: "Voice" } } });
    const { data, metadata } = rendered.one("ConfigMap", "live-voxgate-dashboard");
    assert.deepEqual(JSON.parse(data["voxgate.json"]), dashboard);
    assert.equal(metadata.labels.grafana_dashboard, "1");
    assert.equal(metadata.annotations.folder, "Voice");
});
