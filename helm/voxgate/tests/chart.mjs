// What the tests share: the chart as Helm renders it, and the texts that it has to agree with.

import { spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = fileURLToPath(new URL("../../../", import.meta.url));
export const chart = join(root, "helm/voxgate");
const yaml = createRequire(join(root, ".tools/yaml/"))("yaml");

export const read = (path) => readFileSync(join(root, path), "utf8");
// As Kubernetes reads it: `no` is a boolean, and 0440 octal.
export const parse = (text) => yaml.parse(text, { version: "1.1" });

// The paths of the files below a folder that end so.
export const files = (folder, end) =>
    readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
        const path = `${folder}/${entry.name}`;
        if (entry.isDirectory()) return files(path, end);
        return path.endsWith(end) ? [path] : [];
    });

export const examples = files("helm/voxgate/examples", ".yaml");

// The chart under these values: an object, or the path of a file. Release `live` in namespace `voice`.
export function render(values = {}) {
    const text = typeof values === "string" ? read(values) : JSON.stringify(values);
    const { status, stdout, stderr } = spawnSync(
        "helm",
        ["template", "live", chart, "--namespace", "voice", "--values", "-"],
        { input: text, encoding: "utf8", maxBuffer: 1 << 26 },
    );
    if (status !== 0) throw new Error(`helm template failed: ${stderr}`);
    const documents = yaml.parseAllDocuments(stdout, { version: "1.1" });
    const faults = documents.flatMap((document) => document.errors);
    if (faults.length > 0) throw faults[0];
    return new Rendered(documents.map((document) => document.toJS()).filter(Boolean));
}

class Rendered {
    constructor(objects) {
        this.objects = objects;
    }

    all(kind) {
        return this.objects.filter((object) => object.kind === kind);
    }

    // The only one of its kind, or the one of this name.
    one(kind, name) {
        const found = this.all(kind).filter((object) => name === undefined || object.metadata.name === name);
        if (found.length !== 1) throw new Error(`${found.length} objects are ${kind} ${name ?? ""}`);
        return found[0];
    }

    get pod() {
        return this.one("Deployment").spec.template;
    }

    get container() {
        return this.pod.spec.containers[0];
    }

    get toml() {
        const { configMap } = this.pod.spec.volumes.find(({ name }) => name === "config");
        return this.one("ConfigMap", configMap.name).data["voxgate.toml"];
    }

    // Every pod that the chart makes, with a name to tell it by.
    get pods() {
        return this.objects.flatMap((object) => {
            const template = object.kind === "Pod" ? object : object.spec?.template;
            return template ? [{ name: `${object.kind} ${object.metadata.name}`, ...template }] : [];
        });
    }
}

// Whether a selector's labels are all among these.
export const selects = (selector, labels) =>
    Object.entries(selector).every(([label, value]) => labels[label] === value);
