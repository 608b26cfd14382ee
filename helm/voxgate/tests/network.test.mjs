// Who may talk to whom. What no rule names is refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import { examples, render, selects } from "./chart.mjs";

const ports = (rule) => rule.ports.map(({ port, protocol }) => `${port}/${protocol}`).join(" ");
const policy = (values, name = "live-voxgate") => render(values).one("NetworkPolicy", name).spec;

test("each policy closes both ways and is about its own pods", () => {
    const rendered = render();
    const bound = { "live-voxgate": "Deployment live-voxgate", "live-voxgate-migrations": "Job live-voxgate-migrations" };
    for (const { metadata, spec } of rendered.all("NetworkPolicy")) {
        assert.deepEqual(spec.policyTypes, ["Ingress", "Egress"]);
        const about = rendered.pods.filter((pod) => selects(spec.podSelector.matchLabels, pod.metadata.labels));
        assert.deepEqual(about.map(({ name }) => name), [bound[metadata.name]]);
    }
});

test("the service reaches names, Postgres, Redis and webhooks", () => {
    const { egress } = policy();
    assert.deepEqual(egress.map(ports), ["53/UDP 53/TCP", "5432/TCP", "6379/TCP", "443/TCP"]);
});

test("webhooks reach public addresses alone", () => {
    const { to } = policy().egress[3];
    assert.deepEqual(to.map(({ ipBlock }) => ipBlock.cidr), ["0.0.0.0/0", "::/0"]);
    for (const within of ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"]) {
        assert.ok(to[0].ipBlock.except.includes(within), within);
    }
});

test("without ports for webhooks none leave", () => {
    const { egress } = policy({ networkPolicy: { egress: { webhooksPorts: [] } } });
    assert.deepEqual(egress.map(ports), ["53/UDP 53/TCP", "5432/TCP", "6379/TCP"]);
});

test("the collector is reached where there is one, and there alone", () => {
    const egress = { tracesTo: [{ namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "observability" } } }] };
    assert.equal(policy({ networkPolicy: { egress } }).egress.length, 4);
    const traced = policy({ networkPolicy: { egress }, config: { traces: { endpoint: "http://collector:4317" } } });
    assert.equal(ports(traced.egress[4]), "4317/TCP");
    assert.deepEqual(traced.egress[4].to, egress.tracesTo);
});

test("the service is reached on its two ports, from its namespace and by its test", () => {
    const { ingress } = policy();
    assert.deepEqual(ingress.map(ports), ["grpc/TCP", "grpc/TCP", "admin/TCP"]);
    assert.deepEqual(ingress[0].from, [{ podSelector: {} }]);
    assert.deepEqual(ingress[2].from, [{ podSelector: {} }]);
    const tester = render().one("Pod").metadata.labels;
    assert.ok(selects(ingress[1].from[0].podSelector.matchLabels, tester));
});

test("an empty list of peers is anyone, at those ports alone", () => {
    const { ingress } = policy({ networkPolicy: { ingress: { grpcFrom: [] } }, test: { enabled: false } });
    assert.deepEqual(ingress[0], { ports: [{ port: "grpc", protocol: "TCP" }] });
});

test("migrations reach names and Postgres, and nobody reaches them", () => {
    const { ingress, egress } = policy({}, "live-voxgate-migrations");
    assert.equal(ingress, undefined);
    assert.deepEqual(egress.map(ports), ["53/UDP 53/TCP", "5432/TCP"]);
});

test("sentinels are reached too", () => {
    assert.equal(ports(policy("helm/voxgate/examples/sentinel.yaml").egress[2]), "6379/TCP 26379/TCP");
});

test("more rules are taken as they are", () => {
    const rule = { to: [{ podSelector: {} }], ports: [{ port: 4317, protocol: "TCP" }] };
    assert.deepEqual(policy({ networkPolicy: { egress: { extra: [rule] } } }).egress.at(-1), rule);
});

test("every example keeps its policy", () => {
    for (const example of examples) assert.equal(render(example).all("NetworkPolicy").length, 2, example);
});
