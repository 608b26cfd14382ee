// What an upgrade, a drain and an eviction do to live calls.

import assert from "node:assert/strict";
import { test } from "node:test";
import { examples, render, selects } from "./chart.mjs";

const checksum = (values) => render(values).pod.metadata.annotations["checksum/config"];

test("there are never fewer replicas than were asked for", () => {
    const { spec } = render().one("Deployment");
    assert.deepEqual(spec.strategy, { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } });
    assert.ok(spec.minReadySeconds > 0);
});

test("a changed configuration replaces the pods, and nothing else does", () => {
    assert.notEqual(checksum({ config: { rpc: { max_in_flight: 10 } } }), checksum());
    assert.notEqual(checksum({ tls: { existingSecret: "t" } }), checksum());
    assert.equal(checksum({ dashboard: { enabled: true } }), checksum());
    assert.equal(checksum({ config: { listen: { drain_cap_ms: 20000 } } }), checksum());
});

test("the kubelet waits for as long as the service may drain", () => {
    const grace = (listen) => render({ config: { listen } }).pod.spec.terminationGracePeriodSeconds;
    assert.equal(grace({ drain_notice_ms: 5000, drain_cap_ms: 20000 }), 35);
    assert.equal(grace({ drain_notice_ms: 1, drain_cap_ms: 60000 }), 71, "a part of a second counts as a whole one");
});

for (const example of examples) {
    test(`in ${example} the pods outlive their drain by some seconds`, () => {
        const { pod, toml } = render(example);
        const ms = (key) => Number(new RegExp(`^${key} = (\\d+)$`, "m").exec(toml)[1]);
        const drain = (ms("drain_notice_ms") + ms("drain_cap_ms")) / 1000;
        assert.ok(pod.spec.terminationGracePeriodSeconds >= drain + 1);
    });
}

test("the budget is about the replicas alone, and lets go of those that are not ready", () => {
    const rendered = render();
    const { spec } = rendered.one("PodDisruptionBudget");
    assert.deepEqual([spec.maxUnavailable, spec.unhealthyPodEvictionPolicy], [1, "AlwaysAllow"]);
    for (const { name, metadata } of rendered.pods) {
        assert.equal(selects(spec.selector.matchLabels, metadata.labels), name === "Deployment live-voxgate", name);
    }
});

test("replicas of one revision spread over machines and zones", () => {
    const { pod } = render();
    const constraints = pod.spec.topologySpreadConstraints;
    const over = constraints.map(({ topologyKey }) => topologyKey);
    assert.deepEqual(over, ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]);
    for (const { labelSelector, matchLabelKeys } of constraints) {
        assert.ok(selects(labelSelector.matchLabels, pod.metadata.labels));
        assert.deepEqual(matchLabelKeys, ["pod-template-hash"]);
    }
});

test("constraints of one's own get the selector", () => {
    const own = { maxSkew: 2, topologyKey: "rack", whenUnsatisfiable: "DoNotSchedule" };
    const [constraint, ...rest] = render({ topologySpreadConstraints: [own] }).pod.spec.topologySpreadConstraints;
    assert.deepEqual(rest, []);
    assert.equal(constraint.topologyKey, "rack");
    assert.equal(constraint.labelSelector.matchLabels["app.kubernetes.io/component"], "server");
});
