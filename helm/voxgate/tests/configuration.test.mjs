// voxgate.toml, as it is made of the values.

import assert from "node:assert/strict";
import { test } from "node:test";
import { read, render } from "./chart.mjs";

const untabled = 'admin_addr = "0.0.0.0:9090"\ngrpc_addr = "0.0.0.0:50051"\nlog = "info"\nlog_format = "json"\n';
const secrets = '[secrets]\nkey_ring_file = "/etc/voxgate/key-ring/key-ring"\n';

test("the defaults are little", () => {
    const listen = "[listen]\ndrain_cap_ms = 20000\ndrain_notice_ms = 5000\n";
    assert.equal(render().toml, [untabled, listen, secrets].join("\n"));
});

test("numbers stay whole, however large", () => {
    const { toml } = render({ config: { cache: { agents_max_bytes: 1099511627776 }, rpc: { max_in_flight: 1000000 } } });
    assert.match(toml, /^agents_max_bytes = 1099511627776$/m);
    assert.match(toml, /^max_in_flight = 1000000$/m);
});

test("texts are quoted as TOML quotes them", () => {
    assert.match(render({ config: { log: 'info,voxgate="debug"' } }).toml, /^log = "info,voxgate=\\"debug\\""$/m);
});

test("a key that is taken back is left out, and an empty table too", () => {
    const redis = { clock_step_ms: null, command_timeout_ms: null };
    const { toml } = render({ config: { rpc: { max_in_flight: null }, redis, calls: { media_url_allow_private: false } } });
    assert.doesNotMatch(toml, /max_in_flight|\[rpc\]|\[redis\]|null/);
    assert.match(toml, /^\[calls\]\nmedia_url_allow_private = false$/m);
});

test("the files of TLS are named where their Secrets are, beside what is said of TLS otherwise", () => {
    const { toml } = render("helm/voxgate/examples/mtls.yaml");
    const tls = [
        "[tls]",
        'cert_file = "/etc/voxgate/tls/tls.crt"',
        'client_ca_file = "/etc/voxgate/client-ca/ca.crt"',
        'client_certs = "required"',
        'key_file = "/etc/voxgate/tls/tls.key"',
    ];
    assert.ok(toml.includes(`${tls.join("\n")}\n`), toml);
});

test("identities are an array of tables, in their order and behind all tables", () => {
    const { toml } = render("helm/voxgate/examples/mtls.yaml");
    const identities = `
[[mesh.identities]]
san = "spiffe://mesh.example/ns/prod/sa/flow"
scopes = ["slots:acquire","voice_agents:read"]
tenant = "01a1fc37-557e-7073-af5b-11a40e4465d0"

[[mesh.identities]]
rate_limit_per_min = 6000
san = "softswitch.media.svc"
scopes = ["nodes:connect"]
tenant = "01a1fc37-557e-7073-af5b-11a40e4465d0"
`;
    assert.ok(toml.endsWith(identities), toml);
});

test("certificates of Redis and authorities of webhooks are named beside their limits", () => {
    const { toml } = render({
        redis: { tls: { ca: { existingSecret: "a" }, client: { existingSecret: "b" } } },
        webhooks: { ca: { existingSecret: "c" } },
        config: { redis: { clock_step_ms: 0 }, webhooks: { timeout_ms: 5000 } },
    });
    assert.match(toml, /^\[redis\]\nclock_step_ms = 0\ntls_ca_file = "\/etc\/voxgate\/redis-ca\/ca.crt"\n/m);
    assert.match(toml, /^tls_key_file = "\/etc\/voxgate\/redis-client\/tls.key"$/m);
    assert.match(toml, /^\[webhooks\]\nca_file = "\/etc\/voxgate\/webhooks-ca\/ca.crt"\ntimeout_ms = 5000$/m);
});

test("a share is written as a fraction, and 1 as it is", () => {
    const share = (sample_ratio) => /^sample_ratio = (.*)$/m.exec(render({ config: { traces: { sample_ratio } } }).toml)[1];
    assert.deepEqual([share(0.01), share(1), share(0), share(0.00001)].map(Number), [0.01, 1, 0, 0.00001]);
});

test("a cluster of IPv6 is listened to", () => {
    assert.match(render({ listenAddress: "[::]" }).toml, /^grpc_addr = "\[::\]:50051"$/m);
});

test("the variables that the pods are given are ones that the service reads", () => {
    const known = read("src/config.rs");
    const rendered = render();
    const variables = rendered.pods.flatMap(({ spec }) => spec.containers.flatMap(({ env = [] }) => env));
    assert.ok(variables.length > 3);
    for (const { name } of variables) assert.ok(known.includes(`"${name}"`), name);
});
