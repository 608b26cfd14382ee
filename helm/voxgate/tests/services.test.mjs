// How callers find the replicas.

import assert from "node:assert/strict";
import { test } from "node:test";
import { render, selects } from "./chart.mjs";

test("both Services lead to the replicas, and not to the pods of migrations and test", () => {
    const rendered = render();
    for (const { spec } of rendered.all("Service")) {
        const led = rendered.pods.filter(({ metadata }) => selects(spec.selector, metadata.labels));
        assert.deepEqual(led.map(({ name }) => name), ["Deployment live-voxgate"]);
    }
});

test("who balances by itself is told the replicas that are ready", () => {
    const { spec } = render().one("Service", "live-voxgate-headless");
    assert.equal(spec.clusterIP, "None");
    assert.notEqual(spec.publishNotReadyAddresses, true);
});

test("the admin port is not on the Service that a balancer may publish", () => {
    const rendered = render({ service: { type: "LoadBalancer", port: 443 } });
    const ports = (name) => rendered.one("Service", name).spec.ports.map(({ name, port }) => `${name} ${port}`);
    assert.deepEqual(ports("live-voxgate"), ["grpc 443"]);
    assert.deepEqual(ports("live-voxgate-headless"), ["grpc 443", "admin 9090"]);
});

test("ports lead to the names that the container gives its own", () => {
    const rendered = render();
    const named = rendered.container.ports.map(({ name, containerPort }) => `${name} ${containerPort}`);
    assert.deepEqual(named, ["grpc 50051", "admin 9090"]);
    for (const { spec } of rendered.all("Service")) {
        for (const { name, targetPort } of spec.ports) assert.equal(targetPort, name);
    }
});

test("gateways are told h2c in plain text, nothing under TLS, and what was said otherwise", () => {
    const told = (values) => render(values).one("Service", "live-voxgate").spec.ports[0].appProtocol;
    assert.equal(told(), "kubernetes.io/h2c");
    assert.equal(told({ tls: { existingSecret: "t" } }), undefined);
    assert.equal(told({ tls: { existingSecret: "t" }, service: { appProtocol: "grpc" } }), "grpc");
});

test("a long name of the release still leaves valid names", () => {
    const rendered = render({ fullnameOverride: "a".repeat(63) });
    for (const { kind, metadata } of rendered.objects) {
        assert.ok(metadata.name.length <= 63, `${kind} ${metadata.name}`);
    }
});

test("every object has the release's labels and those that were asked for", () => {
    const rendered = render({ commonLabels: { team: "voice", "app.kubernetes.io/name": "other", "app.kubernetes.io/component": "other" } });
    for (const { kind, metadata } of rendered.objects) {
        assert.equal(metadata.labels["app.kubernetes.io/instance"], "live", kind);
        assert.equal(metadata.labels["app.kubernetes.io/name"], "voxgate", kind);
        assert.equal(metadata.labels.team, "voice", kind);
        assert.equal(metadata.namespace, "voice", kind);
    }
});
