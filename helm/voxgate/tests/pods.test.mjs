// What no pod of the chart may do, whatever the values are.

import assert from "node:assert/strict";
import { test } from "node:test";
import { examples, render } from "./chart.mjs";

for (const example of examples) {
    test(`every pod of ${example} is without rights`, () => {
        const { pods } = render(example);
        assert.equal(pods.length, 3, "the service, its migrations, its test");
        for (const { name, spec } of pods) {
            assert.equal(spec.automountServiceAccountToken, false, name);
            assert.equal(spec.enableServiceLinks, false, name);
            assert.equal(spec.securityContext.runAsNonRoot, true, name);
            assert.notEqual(spec.securityContext.runAsUser, 0, name);
            assert.equal(spec.securityContext.seccompProfile.type, "RuntimeDefault", name);
            assert.ok(!spec.hostNetwork && !spec.hostPID && !spec.hostIPC, name);
            for (const { securityContext, resources } of spec.containers) {
                assert.equal(securityContext.readOnlyRootFilesystem, true, name);
                assert.equal(securityContext.allowPrivilegeEscalation, false, name);
                assert.deepEqual(securityContext.capabilities, { drop: ["ALL"] }, name);
                assert.ok(resources.limits.memory, `${name} has no memory limit`);
            }
        }
    });
}

test("the token of the ServiceAccount is mounted nowhere", () => {
    assert.equal(render().one("ServiceAccount").automountServiceAccountToken, false);
});

test("an account that somebody else made is used by its name", () => {
    const rendered = render({ serviceAccount: { create: false, name: "theirs" } });
    assert.deepEqual(rendered.all("ServiceAccount"), []);
    assert.equal(rendered.pod.spec.serviceAccountName, "theirs");
});

test("where the cluster assigns users, none is asked for and root is still refused", () => {
    const { pod } = render({ podSecurity: { runAsUser: null, runAsGroup: null, fsGroup: null } });
    assert.deepEqual(pod.spec.securityContext, { runAsNonRoot: true, seccompProfile: { type: "RuntimeDefault" } });
});

test("an image is named by its digest where there is one, or else by tag", () => {
    const digest = `sha256:${"a".repeat(64)}`;
    assert.equal(render({ image: { tag: "1.2.3" } }).container.image, "voxgate:1.2.3");
    assert.equal(render({ image: { tag: "1.2.3", digest } }).container.image, `voxgate@${digest}`);
});
