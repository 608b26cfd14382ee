// The chart against a real API server, by a real helm: what is rendered is taken as strictly as the server can, is installed,
// upgraded, rolled back and uninstalled. No pod runs, and no controller: nothing becomes ready, and a Job is done once the
// test says so.

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { promisify } from "node:util";
import { chart, examples, files, parse, render, root } from "../voxgate/tests/chart.mjs";
import { ControlPlane } from "./control-plane.mjs";
import { until } from "./servers.mjs";

const namespace = "voice";
const everyValues = [...examples, ...files("helm/voxgate/tests/values-good", ".yaml")];
const kinds = new Map(); // "apps/v1 Deployment" to { path, resource, namespaced }
const plane = new ControlPlane();

before(async () => {
    await plane.start();
    for (const name of ["servicemonitors", "prometheusrules"]) await define(name);
    await discover();
    // Pods are refused unless they keep to the strictest of the standards, and what would make such pods is warned of.
    const level = { "pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted" };
    await must("POST", "/api/v1/namespaces", { metadata: { name: namespace, labels: level } });
    // A controller would have made it.
    await must("POST", `/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name: "default" } });
});
after(() => plane.stop());
// What a test that failed has left does not fail the next one.
afterEach(() => helm("uninstall", "live", "--no-hooks", "--ignore-not-found"));

async function must(method, path, body, type) {
    const answer = await plane.request(method, path, body, type);
    assert.ok(answer.status < 300, `${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer;
}

// One of the Prometheus operator's, out of its own module.
async function define(name) {
    const file = `example/prometheus-operator-crd/monitoring.coreos.com_${name}.yaml`;
    const definition = parse(readFileSync(join(process.env.PROMETHEUS_OPERATOR, file), "utf8"));
    const definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    await must("POST", definitions, definition);
    const of = `${definitions}/${name}.monitoring.coreos.com`;
    const established = ({ body }) => body.status?.conditions?.some(({ type, status }) => type === "Established" && status === "True");
    await until(`${name} are served`, async () => established(await must("GET", of)));
}

// What the server serves, by the newest version of each group.
async function discover() {
    const accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    const wanted = "monitoring.coreos.com/v1 ServiceMonitor";
    await until("everything is discovered", async () => {
        for (const root of ["/api", "/apis"]) {
            const { body } = await plane.request("GET", root, undefined, undefined, accept);
            for (const { metadata, versions } of body.items) {
                const [{ version, resources }] = versions;
                const apiVersion = metadata.name ? `${metadata.name}/${version}` : version;
                for (const { resource, responseKind, scope, verbs } of resources) {
                    if (!verbs.includes("list")) continue;
                    const path = `${root}${metadata.name ? `/${apiVersion}` : `/${version}`}`;
                    kinds.set(`${apiVersion} ${responseKind.kind}`, { path, resource, namespaced: scope === "Namespaced" });
                }
            }
        }
        return kinds.has(wanted);
    });
}

function collection({ apiVersion, kind }) {
    const known = kinds.get(`${apiVersion} ${kind}`);
    assert.ok(known?.namespaced, `${apiVersion} ${kind} is not what the server serves by namespace`);
    return `${known.path}/namespaces/${namespace}/${known.resource}`;
}

// Server-side apply that changes nothing and takes no field that is not known, or twice there.
const tryOut = (object) =>
    plane.request(
        "PATCH",
        `${collection(object)}/${object.metadata.name}?dryRun=All&fieldValidation=Strict&fieldManager=check`,
        object,
        "application/apply-patch+yaml",
    );

const key = ({ kind, metadata }) => `${kind}/${metadata.name}`;
const isHook = ({ metadata }) => metadata.annotations?.["helm.sh/hook"] !== undefined;
const keys = (objects) => objects.map(key).sort();

// Everything in the namespace but events and what was there before, and everything of the release elsewhere.
async function everything() {
    const found = [];
    for (const [name, { path, resource, namespaced }] of kinds) {
        const [apiVersion, kind] = name.split(" ");
        if (kind === "Event") continue;
        const at = namespaced ? `${path}/namespaces/${namespace}/${resource}` : `${path}/${resource}?labelSelector=app.kubernetes.io/instance%3Dlive`;
        const { body } = await must("GET", at);
        found.push(...body.items.map((item) => ({ apiVersion, kind, ...item })));
    }
    return found.filter((object) => key(object) !== "ServiceAccount/default");
}
const installed = async () => (await everything()).filter(({ type }) => type !== "helm.sh/release.v1");

function environment() {
    const homes = ["CACHE", "CONFIG", "DATA"].map((home) => [`HELM_${home}_HOME`, plane.at(`helm-${home}`)]);
    return { ...process.env, ...Object.fromEntries(homes), KUBECONFIG: plane.kubeconfig };
}
const command = (args) => [...args, "--namespace", namespace];
const helm = (...args) => execFileSync("helm", command(args), { env: environment(), encoding: "utf8", cwd: root, maxBuffer: 1 << 26 });
const helmMeanwhile = (...args) => promisify(execFile)("helm", command(args), { env: environment(), cwd: root, maxBuffer: 1 << 26 });

// 5000 and 5k are the same quantity, and the server writes the shorter one.
const SUFFIXES = { m: 0.001, k: 1e3, M: 1e6, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30 };
function quantity(value) {
    const [, number, suffix] = /^(\d+)(m|k|M|Ki|Mi|Gi)?$/.exec(value) ?? [];
    return number === undefined ? value : Number(number) * (SUFFIXES[suffix] ?? 1);
}

// Whether all of what was asked for is there, beside what the server adds.
function holds(asked, there, path) {
    if (Array.isArray(asked)) {
        assert.equal(there?.length, asked.length, path);
        asked.forEach((item, place) => holds(item, there[place], `${path}[${place}]`));
    } else if (asked !== null && typeof asked === "object") {
        for (const [name, value] of Object.entries(asked)) {
            const nothing = value === null || (typeof value === "object" && Object.keys(value).length === 0);
            if (!(nothing && there?.[name] === undefined)) holds(value, there?.[name], `${path}.${name}`);
        }
    } else {
        assert.equal(quantity(there), quantity(asked), path);
    }
}

async function isInstalled(values) {
    const asked = render(values).objects.filter((object) => !isHook(object));
    const there = await installed();
    assert.deepEqual(keys(there), keys(asked));
    for (const object of asked) holds(object, there.find((it) => key(it) === key(object)), key(object));
    return there;
}

// What the user sees of an object: without what the server notes of its own, such as the address of a Service that was away.
const stripped = ({ kind, metadata: { name, labels, annotations }, spec, data }) => {
    const { clusterIP, clusterIPs, ...asked } = spec ?? {};
    return { kind, name, labels, annotations, spec: asked, data, headless: clusterIP === "None" };
};

const states = () => JSON.parse(helm("history", "live", "--output", "json")).map(({ revision, status }) => `${revision} ${status}`);

test("what is not known is refused, and what would not be safe is warned of: so the tests below say something", async () => {
    const deployment = render().one("Deployment");
    deployment.spec.template.spec.containers[0].readinessProbe.grpcs = {};
    const { status, body } = await tryOut(deployment);
    assert.ok(status >= 400, JSON.stringify(body));
    assert.match(body.message, /readinessProbe\.grpcs: field not declared/);
    const unsafe = render().one("Deployment");
    delete unsafe.spec.template.spec.securityContext.runAsNonRoot;
    assert.match((await tryOut(unsafe)).warnings.join(), /runAsNonRoot/);
    const rule = render({ prometheusRule: { enabled: true } }).one("PrometheusRule");
    rule.spec.groups[0].rules[0].exprs = "1";
    assert.match((await tryOut(rule)).body.message, /exprs/);
});

for (const values of everyValues) {
    test(`the server takes every object of ${values}, hooks too, without a warning`, async () => {
        for (const object of render(values).objects) {
            const { status, body, warnings } = await tryOut(object);
            assert.equal(status, 201, `${key(object)}: ${JSON.stringify(body)}`);
            assert.deepEqual(warnings, [], key(object));
        }
    });

    test(`the server takes every pod that ${values} would run, under the restricted standard`, async () => {
        for (const { name, metadata, spec } of render(values).pods) {
            // The account is the release's own, which is not there yet.
            const pod = { metadata: { labels: metadata.labels, name: "tried" }, spec: { ...spec, serviceAccountName: "default" } };
            const path = `/api/v1/namespaces/${namespace}/pods?dryRun=All&fieldValidation=Strict`;
            const { status, body, warnings } = await plane.request("POST", path, { apiVersion: "v1", kind: "Pod", ...pod });
            assert.equal(status, 201, `${name}: ${JSON.stringify(body)}`);
            assert.deepEqual(warnings, [], name);
        }
    });
}

for (const [place, values] of everyValues.entries()) {
    const next = everyValues[(place + 1) % everyValues.length];
    test(`${values} is installed, upgraded to ${next}, rolled back and uninstalled`, async () => {
        const chosen = (path) => [chart, "--no-hooks", "--values", join(root, path)];
        helm("install", "live", ...chosen(values));
        const before = await isInstalled(values);

        helm("upgrade", "live", ...chosen(next));
        await isInstalled(next);
        assert.deepEqual(states(), ["1 superseded", "2 deployed"]);

        helm("rollback", "live", "1", "--no-hooks");
        const again = await isInstalled(values);
        assert.deepEqual(again.map(stripped), before.map(stripped));
        assert.deepEqual(states(), ["1 superseded", "2 superseded", "3 deployed"]);

        helm("uninstall", "live", "--no-hooks");
        assert.deepEqual(keys(await everything()), []);
    });
}

// Does what the controller of Jobs does once their pod has ended well.
async function finish(job) {
    const now = new Date().toISOString().replace(/\.\d+/, "");
    const condition = (type) => ({ type, status: "True", lastProbeTime: now, lastTransitionTime: now });
    const conditions = [condition("SuccessCriteriaMet"), condition("Complete")];
    const status = { startTime: now, completionTime: now, succeeded: 1, conditions, uncountedTerminatedPods: {} };
    await must("PATCH", `${collection({ apiVersion: "batch/v1", kind: "Job" })}/${job}/status`, { status }, "application/merge-patch+json");
}

test("migrations come before everything else, behind their policy, and leave nothing when they are done", async () => {
    const migrated = async (...args) => {
        let ended = false;
        const running = helmMeanwhile(...args, "live", chart, "--timeout", "2m").finally(() => { ended = true; });
        running.catch(() => {});
        let seen;
        await until("the Job is there", async () => {
            seen = keys(await installed());
            return ended || seen.includes("Job/live-voxgate-migrations");
        });
        if (!ended) await finish("live-voxgate-migrations");
        await running;
        return seen;
    };
    assert.deepEqual(await migrated("install"), ["Job/live-voxgate-migrations", "NetworkPolicy/live-voxgate-migrations"]);
    const release = await isInstalled({});
    assert.deepEqual(await migrated("upgrade", "--set", "replicaCount=3"), keys([
        ...release,
        { kind: "Job", metadata: { name: "live-voxgate-migrations" } },
        { kind: "NetworkPolicy", metadata: { name: "live-voxgate-migrations" } },
    ]));
    await isInstalled({ replicaCount: 3 });
    helm("uninstall", "live");
    assert.deepEqual(keys(await everything()), []);
});

test("an HPA is handed the replicas, and hands them back, as README says", async () => {
    const deployment = `${collection({ apiVersion: "apps/v1", kind: "Deployment" })}/live-voxgate`;
    const replicas = async () => (await must("GET", deployment)).body.spec.replicas;
    // What kubectl scale does, and what the controller of HPAs does.
    const scale = (count, manager) => must(
        "PATCH", `${deployment}/scale?fieldManager=${manager}`, { spec: { replicas: count } }, "application/merge-patch+json",
    );
    const upgrade = (...args) => helm("upgrade", "live", chart, "--no-hooks", ...args);
    helm("install", "live", chart, "--no-hooks", "--set", "replicaCount=4");
    upgrade("--set", "autoscaling.enabled=true");
    assert.equal(await replicas(), 1, "what nobody has set becomes 1: against it README has its advice");
    helm("rollback", "live", "1", "--no-hooks");
    assert.equal(await replicas(), 4);

    await scale(5, "kubectl");
    upgrade("--set", "autoscaling.enabled=true");
    assert.equal(await replicas(), 5, "helm left the number that somebody else had set");
    await scale(6, "kube-controller-manager");
    upgrade("--set", "autoscaling.enabled=true", "--set", "minReadySeconds=20");
    assert.equal(await replicas(), 6, "an upgrade leaves the HPA's number");

    assert.throws(() => upgrade("--set", "replicaCount=4"), /conflict/);
    upgrade("--set", "replicaCount=4", "--force-conflicts");
    assert.equal(await replicas(), 4);
    helm("uninstall", "live", "--no-hooks");
    assert.deepEqual(keys(await everything()), []);
});
