// How many replicas there are.

import assert from "node:assert/strict";
import { test } from "node:test";
import { render } from "./chart.mjs";

const slots = { enabled: true, metricName: "voxgate_slots_in_flight", averageValue: 5000 };

test("the number is the values' as long as nothing scales", () => {
    const rendered = render({ replicaCount: 3 });
    assert.equal(rendered.one("Deployment").spec.replicas, 3);
    assert.deepEqual(rendered.all("HorizontalPodAutoscaler"), []);
});

test("where an HPA scales, an upgrade does not set the number back", () => {
    const rendered = render({ autoscaling: { enabled: true } });
    assert.equal(rendered.one("Deployment").spec.replicas, undefined);
    const { spec } = rendered.one("HorizontalPodAutoscaler");
    assert.deepEqual(spec.scaleTargetRef, { apiVersion: "apps/v1", kind: "Deployment", name: "live-voxgate" });
    assert.deepEqual([spec.minReplicas, spec.maxReplicas], [2, 8]);
});

test("it scales by CPU, by slots in flight, or by both", () => {
    const kinds = (autoscaling) =>
        render({ autoscaling: { enabled: true, ...autoscaling } })
            .one("HorizontalPodAutoscaler")
            .spec.metrics.map(({ type }) => type);
    assert.deepEqual(kinds({}), ["Resource"]);
    assert.deepEqual(kinds({ slotsInFlight: slots }), ["Resource", "Pods"]);
    assert.deepEqual(kinds({ targetCpuPercent: 0, slotsInFlight: slots }), ["Pods"]);
});

test("the metric of the pods and its value are as asked for", () => {
    const rendered = render({ autoscaling: { enabled: true, slotsInFlight: { ...slots, averageValue: 1000000 } } });
    const { pods } = rendered.one("HorizontalPodAutoscaler").spec.metrics[1];
    assert.equal(pods.metric.name, "voxgate_slots_in_flight");
    assert.deepEqual(pods.target, { type: "AverageValue", averageValue: "1000000" });
});

test("replicas go one by one, and not for a short lull", () => {
    const { scaleDown } = render({ autoscaling: { enabled: true } }).one("HorizontalPodAutoscaler").spec.behavior;
    assert.deepEqual(scaleDown.policies, [{ type: "Pods", value: 1, periodSeconds: 60 }]);
    assert.ok(scaleDown.stabilizationWindowSeconds >= 300);
});
