// What the kubelet asks, and by what.

import assert from "node:assert/strict";
import { test } from "node:test";
import { read, render } from "./chart.mjs";

const alive = { path: "/livez", port: "admin" };

test("in plain text the health service on the callers' own port says who is ready", () => {
    assert.deepEqual(render().container.readinessProbe.grpc, { port: 50051 });
});

test("under TLS the admin port says so, since the kubelet's gRPC speaks plain text alone", () => {
    const { readinessProbe } = render({ tls: { existingSecret: "t" } }).container;
    assert.deepEqual(readinessProbe.httpGet, { path: "/readyz", port: "admin" });
    assert.equal(readinessProbe.grpc, undefined);
});

test("no store that is away, and no drain, ends a replica", () => {
    const { livenessProbe, startupProbe } = render().container;
    assert.deepEqual([livenessProbe.httpGet, startupProbe.httpGet], [alive, alive]);
});

test("what is asked for is what the admin port serves", () => {
    const served = [...read("src/server/admin.rs").matchAll(/\.route\("([^"]+)"/g)].map(([, path]) => path);
    assert.deepEqual(served, ["/livez", "/readyz", "/metrics"]);
});
