// What is released together says the same of itself.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { chart, parse, read, render } from "./chart.mjs";

const metadata = parse(read("helm/voxgate/Chart.yaml"));
const dockerfile = read("Dockerfile");

test("the chart is of the service's version, and has no other charts in it", () => {
    const [, version] = /^version = "(.*)"$/m.exec(read("Cargo.toml"));
    assert.equal(metadata.appVersion, version);
    assert.equal(metadata.dependencies, undefined);
    assert.equal(render().container.image, `voxgate:${version}`);
});

test("the image is built by the Rust that the toolchain file names", () => {
    const [, channel] = /^channel = "(.*)"$/m.exec(read("rust-toolchain.toml"));
    assert.ok(dockerfile.includes(`ARG RUST_IMAGE=rust:${channel}-`), channel);
});

test("the image runs as the user that the pods run as, and has the ports that they have", () => {
    const { pod, container } = render();
    const { runAsUser, runAsGroup } = pod.spec.securityContext;
    assert.match(dockerfile, new RegExp(`^USER ${runAsUser}:${runAsGroup}$`, "m"));
    const ports = container.ports.map(({ containerPort }) => containerPort).join(" ");
    assert.match(dockerfile, new RegExp(`^EXPOSE ${ports}$`, "m"));
});

test("the image's entry point takes the commands that the pods give", () => {
    assert.match(dockerfile, /^ENTRYPOINT \["\/usr\/bin\/voxgate"\]$/m);
    assert.deepEqual(render().container.args, ["serve"]);
});

test("the notes lead to a first call, in plain text and by TLS", () => {
    const notes = (values) => {
        const args = ["install", "live", chart, "--namespace", "voice", "--dry-run=client", "--values", "-"];
        const { status, stdout, stderr } = spawnSync("helm", args, { input: JSON.stringify(values), encoding: "utf8" });
        assert.equal(status, 0, stderr);
        return stdout.split("\nNOTES:\n")[1];
    };
    const plain = notes({});
    assert.match(plain, /grpcurl -plaintext 127\.0\.0\.1:50051 grpc\.health\.v1\.Health\/Check/);
    assert.match(plain, /voxgate\.v1\.VoiceAgentService\/CreateVoiceAgent/);
    const tls = notes({ tls: { existingSecret: "t" } });
    assert.match(tls, /grpcurl -cacert ca\.crt -authority live-voxgate\.voice\.svc /);
    assert.doesNotMatch(tls, /-plaintext/);
});
