// The service itself takes the configuration that the chart makes: it comes as far as waiting for its database. VOXGATE_BIN
// names another binary than target/debug/voxgate.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";
import { examples, files, render, root } from "./chart.mjs";

const voxgate = resolve(root, process.env.VOXGATE_BIN ?? join(process.env.CARGO_TARGET_DIR ?? "target", "debug/voxgate"));
const WAITS = "waiting for the database";
const folder = mkdtempSync(join(tmpdir(), "chart-"));
after(() => rmSync(folder, { recursive: true }));

// What the Secrets hold. One certificate does for all of them: nobody is shown it.
before(() => {
    writeFileSync(join(folder, "key-ring"), `k1:${randomBytes(32).toString("base64")}\n`);
    const certificate = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "1"];
    const named = ["-subj", "/CN=check", "-addext", "subjectAltName=DNS:check"];
    const paths = ["-keyout", join(folder, "tls.key"), "-out", join(folder, "tls.crt")];
    const { status, stderr } = spawnSync("openssl", [...certificate, ...named, ...paths], { encoding: "utf8" });
    assert.equal(status, 0, stderr);
    copyFileSync(join(folder, "tls.crt"), join(folder, "ca.crt"));
});

// voxgate.toml of these values, beside the files that a pod would have below /etc/voxgate.
function mounted(values) {
    const { pod, toml } = render(values);
    const etc = mkdtempSync(join(folder, "etc-"));
    for (const { name, secret } of pod.spec.volumes.filter((volume) => volume.secret)) {
        mkdirSync(join(etc, name));
        for (const { path } of secret.items) copyFileSync(join(folder, path), join(etc, name, path));
    }
    return { etc, toml: toml.replaceAll('"/etc/voxgate/', `"${etc}/`) };
}

// What `serve` says until it has started or ended. Its servers are away, and its ports any that are free.
async function start({ etc, toml }) {
    writeFileSync(join(etc, "voxgate.toml"), toml);
    const redis = /^\[redis\]\n(?:(?!\[).*\n)*tls_/m.test(toml) ? "rediss+sentinel://127.0.0.1:1/voxgate" : "redis://127.0.0.1:1";
    const env = {
        PATH: process.env.PATH,
        VOXGATE_CONFIG: join(etc, "voxgate.toml"),
        VOXGATE_DATABASE_URL: "postgres://voxgate@127.0.0.1:1/voxgate",
        VOXGATE_REDIS_URL: redis,
        VOXGATE_GRPC_ADDR: "127.0.0.1:0",
        VOXGATE_ADMIN_ADDR: "127.0.0.1:0",
    };
    const child = spawn(voxgate, ["serve"], { cwd: etc, env, stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    return new Promise((done, fail) => {
        const listen = (chunk) => {
            said += chunk;
            if (said.includes(WAITS)) child.kill("SIGKILL");
        };
        child.stdout.on("data", listen);
        child.stderr.on("data", listen);
        // One that says neither is stuck.
        const timer = setTimeout(() => child.kill("SIGKILL"), 60_000);
        child.on("error", fail);
        child.on("close", (code) => {
            clearTimeout(timer);
            done({ code, said });
        });
    });
}

for (const values of [...examples, ...files("helm/voxgate/tests/values-good", ".yaml")]) {
    test(`voxgate serve takes the configuration of ${values}`, async () => {
        const { said } = await start(mounted(values));
        assert.ok(said.includes(WAITS), said);
    });
}

test("voxgate serve takes the configuration of the defaults", async () => {
    const { said } = await start(mounted({}));
    assert.ok(said.includes(WAITS), said);
});

test("what the service does not know ends it", async () => {
    const { etc, toml } = mounted({});
    const { code, said } = await start({ etc, toml: `${toml}\n[rpc]\nmax_in_flihgt = 1\n` });
    assert.equal(code, 1, said);
    assert.match(said, /max_in_flihgt/);
});

test("a file that is not there ends it", async () => {
    const { etc, toml } = mounted("helm/voxgate/examples/mtls.yaml");
    rmSync(join(etc, "client-ca"), { recursive: true });
    const { code, said } = await start({ etc, toml });
    assert.equal(code, 1, said);
    assert.match(said, /client-ca/);
});
