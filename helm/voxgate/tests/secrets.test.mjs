// Where secrets come from, and where they are.

import assert from "node:assert/strict";
import { test } from "node:test";
import { examples, render } from "./chart.mjs";

const secretVolumes = ({ pod }) => pod.spec.volumes.filter(({ secret }) => secret);

test("no example makes a Secret", () => {
    for (const example of examples) assert.deepEqual(render(example).all("Secret"), [], example);
});

test("the URLs are variables out of their Secrets", () => {
    const { container } = render({ database: { existingSecret: "pg", key: "dsn" }, redis: { existingSecret: "r" } });
    const from = (name) => container.env.find((variable) => variable.name === name).valueFrom.secretKeyRef;
    assert.deepEqual(from("VOXGATE_DATABASE_URL"), { name: "pg", key: "dsn" });
    assert.deepEqual(from("VOXGATE_REDIS_URL"), { name: "r", key: "url" });
});

test("only the key ring is mounted unless more is asked for", () => {
    const volumes = secretVolumes(render());
    assert.deepEqual(volumes.map(({ name }) => name), ["key-ring"]);
    const { secretName, items } = volumes[0].secret;
    assert.equal(secretName, "voxgate-key-ring");
    assert.deepEqual(items, [{ key: "key-ring", path: "key-ring" }]);
});

test("every Secret is a folder of the needed keys, for the group alone, and renewed in place", () => {
    const rendered = render({
        tls: { existingSecret: "a", certKey: "cert", clientCa: { existingSecret: "a" } },
        database: { tls: { ca: { existingSecret: "e" }, client: { existingSecret: "f" } } },
        redis: { tls: { ca: { existingSecret: "b" }, client: { existingSecret: "c" } } },
        webhooks: { ca: { existingSecret: "d" } },
        traces: { ca: { existingSecret: "g" } },
        config: { traces: { endpoint: "https://collector" } },
    });
    const volumes = secretVolumes(rendered);
    const names = ["key-ring", "tls", "client-ca", "database-ca", "database-client", "redis-ca", "redis-client", "webhooks-ca", "traces-ca"];
    assert.deepEqual(volumes.map(({ name }) => name), names);
    for (const { name, secret } of volumes) {
        assert.equal(secret.defaultMode, 0o440, name);
        assert.ok(secret.items.length > 0, name);
        const mount = rendered.container.volumeMounts.find((it) => it.name === name);
        assert.deepEqual(mount, { name, mountPath: `/etc/voxgate/${name}`, readOnly: true });
    }
    assert.deepEqual(volumes[1].secret.items, [
        { key: "cert", path: "tls.crt" },
        { key: "tls.key", path: "tls.key" },
    ]);
});

test("each file that the configuration names is in a folder that is mounted", () => {
    for (const example of examples) {
        const { toml, container, pod } = render(example);
        for (const [, folder, file] of toml.matchAll(/_file = "(.*)\/([^/"]+)"/g)) {
            const mount = container.volumeMounts.find(({ mountPath }) => mountPath === folder);
            assert.ok(mount, `${example}: ${folder}`);
            const { items } = pod.spec.volumes.find(({ name }) => name === mount.name).secret;
            assert.ok(items.some(({ path }) => path === file), `${example}: ${folder}/${file}`);
        }
    }
});
