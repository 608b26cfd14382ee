// The schema, before the replicas that need it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { render } from "./chart.mjs";

test("the service's own image migrates before each installation and upgrade", () => {
    const rendered = render();
    const job = rendered.one("Job");
    assert.equal(job.metadata.annotations["helm.sh/hook"], "pre-install,pre-upgrade");
    const [container] = job.spec.template.spec.containers;
    assert.deepEqual(container.args, ["migrate"]);
    assert.equal(container.image, rendered.container.image);
    assert.equal(job.spec.template.spec.restartPolicy, "Never");
});

test("a Job that has succeeded goes with its policy, and one that failed stays to be read", () => {
    const rendered = render();
    for (const { metadata } of [rendered.one("Job"), rendered.one("NetworkPolicy", "live-voxgate-migrations")]) {
        assert.equal(metadata.annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded", metadata.name);
    }
});

test("it needs no object that the chart makes only afterwards", () => {
    const { spec } = render().one("Job").spec.template;
    assert.equal(spec.serviceAccountName, undefined);
    assert.equal(spec.volumes, undefined);
    const sources = spec.containers[0].env.flatMap(({ valueFrom }) => (valueFrom ? Object.keys(valueFrom) : []));
    assert.deepEqual(sources, ["secretKeyRef"]);
});

test("its policy is there before it", () => {
    const rendered = render();
    const weight = ({ metadata }) => Number(metadata.annotations["helm.sh/hook-weight"]);
    const policy = rendered.one("NetworkPolicy", "live-voxgate-migrations");
    assert.equal(policy.metadata.annotations["helm.sh/hook"], "pre-install,pre-upgrade");
    assert.ok(weight(policy) < weight(rendered.one("Job")));
});

test("they can be left to somebody else", () => {
    const rendered = render({ migrations: { enabled: false } });
    assert.deepEqual(rendered.all("Job"), []);
    assert.equal(rendered.all("NetworkPolicy").length, 1);
});
