// The values: what README, the schema and the service's configuration say of them is the same.

import assert from "node:assert/strict";
import { test } from "node:test";
import { parse, read, render } from "./chart.mjs";

const values = parse(read("helm/voxgate/values.yaml"));
const schema = JSON.parse(read("helm/voxgate/values.schema.json"));
const readme = read("helm/voxgate/README.md");

// Each key of values.yaml by its path, with the comment `# -- …` above it.
function documented() {
    const found = new Map();
    const above = [];
    let comment = [];
    for (const line of read("helm/voxgate/values.yaml").split("\n")) {
        const said = /^\s*# (.*)$/.exec(line);
        const key = /^(\s*)([\w]+):/.exec(line);
        if (said) {
            comment.push(said[1]);
            continue;
        }
        if (key) {
            const depth = key[1].length / 2;
            above.length = depth;
            above[depth] = key[2];
            const text = comment.join(" ");
            if (text.startsWith("-- ")) found.set(above.join("."), text.slice(3));
        }
        comment = [];
    }
    return found;
}

// The leaves of values.yaml: what a user sets, as far as no comment speaks of a whole object.
function leaves(value, path, known) {
    const isBranch = value !== null && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length > 0;
    if (!isBranch || known.has(path)) return [path];
    return Object.entries(value).flatMap(([key, below]) => leaves(below, path ? `${path}.${key}` : key, known));
}

const at = (path) => path.split(".").reduce((value, key) => value[key], values);

const resolve = (part) => (part.$ref ? resolve(schema.definitions[part.$ref.split("/").pop()]) : part);
const schemaAt = (path) => path.split(".").reduce((part, key) => resolve(resolve(part).properties?.[key] ?? {}), schema);

test("every value has its comment", () => {
    const known = documented();
    assert.deepEqual(leaves(values, "", known).filter((path) => !known.has(path)), []);
});

test("README's table is values.yaml: each value with its default and its comment, in that order", () => {
    const rows = [...readme.matchAll(/^\| ([\w.]+) \| `(.*?)` \| (.*) \|$/gm)].map(([, ...row]) => row);
    const expected = [...documented()].map(([path, comment]) => [path, JSON.stringify(at(path)), comment.replaceAll("|", "\\|")]);
    assert.deepEqual(rows, expected);
});

test("every value is in the schema, and must be there unless it may be taken away", () => {
    for (const path of leaves(values, "", documented())) {
        assert.notDeepEqual(schemaAt(path), {}, path);
    }
    const walk = (part, value, path) => {
        const { properties, required = [], additionalProperties } = resolve(part);
        if (!properties) return;
        assert.equal(additionalProperties, false, `${path}: other keys are taken`);
        for (const [key, below] of Object.entries(value)) {
            const here = `${path}/${key}`;
            assert.ok(properties[key], here);
            const mayGo = /^\/(podSecurity|resources|migrations\/resources)\//.test(here);
            assert.ok(required.includes(key) || mayGo, `${here} is not required`);
            if (below !== null && typeof below === "object" && !Array.isArray(below)) walk(properties[key], below, here);
        }
    };
    walk(schema, values, "");
});

test("the schema knows every key of the service's configuration, and no other", () => {
    const table = read("README.md").split("\n## Configuration\n")[1].split("\n## ")[0];
    const cells = [...table.matchAll(/^\| (`[^|]*`) \|/gm)].map(([, cell]) => cell).join();
    const listed = new Set([...cells.matchAll(/`([a-z_]+\.[a-z_]+)`/g)].map(([, key]) => key));
    assert.ok(listed.size > 50, `${listed.size}`);
    const { toml } = render({
        tls: { existingSecret: "a", clientCa: { existingSecret: "a" } },
        database: { tls: { ca: { existingSecret: "a" }, client: { existingSecret: "a" } } },
        redis: { tls: { ca: { existingSecret: "a" }, client: { existingSecret: "a" } } },
        webhooks: { ca: { existingSecret: "a" } },
        traces: { ca: { existingSecret: "a" } },
        config: { traces: { endpoint: "https://a" } },
    });
    const known = new Set();
    for (const [name, part] of Object.entries(schemaAt("config").properties)) {
        for (const key of Object.keys(resolve(part).properties ?? {})) known.add(`${name}.${key}`);
    }
    let section = "";
    for (const [, table, key] of toml.matchAll(/^\[(\w+)\]$|^(\w+_file) = /gm)) {
        if (table) section = table;
        else known.add(`${section}.${key}`);
    }
    // Listed beside their variables.
    for (const key of ["secrets.key_ring_file", "traces.endpoint"]) known.delete(key);
    assert.deepEqual([...known].sort(), [...listed].sort());
});

test("the schema's ranges are README's, by which the service refuses values", () => {
    const number = (text) => Number(text.replaceAll(",", ""));
    const limits = [...read("README.md").matchAll(/^\| `([a-z]+\.[a-z_]+)` \| [\d,]+ \| (0; )?([\d,]+)–([\d,]+) \|/gm)];
    assert.ok(limits.length > 40, `${limits.length}`);
    for (const [, key, zero, least, most] of limits) {
        const schema = schemaAt(`config.${key}`);
        if (zero) assert.ok(schema.anyOf.some((it) => it.const === 0), key);
        const { minimum, maximum } = zero ? schema.anyOf.find(({ type }) => type === "integer") : schema;
        assert.deepEqual([minimum, maximum], [number(least), number(most)], key);
    }
});

test("the share of requests that are traced goes from none to all", () => {
    assert.match(read("README.md"), /^\| `traces\.sample_ratio` \| 0\.01 \| 0–1 \|/m);
    const { minimum, maximum } = schemaAt("config.traces.sample_ratio");
    assert.deepEqual([minimum, maximum], [0, 1]);
});

test("a key of the configuration is taken back by null, unless the chart has a value of its own for it", () => {
    for (const [table, part] of Object.entries(schemaAt("config").properties)) {
        for (const [key, schema] of Object.entries(resolve(part).properties ?? {})) {
            if (table === "mesh") continue;
            const types = schema.anyOf?.map(({ type }) => type) ?? schema.type;
            assert.equal(types.includes("null"), values.config[table][key] === undefined, `${table}.${key}`);
        }
    }
});

test("the schema's scopes are the service's", () => {
    const tenant = read("src/domain/tenant.rs");
    const scopes = [...tenant.matchAll(/ = "([a-z_]+:[a-z_]+)"/g)].map(([, scope]) => scope);
    assert.deepEqual([...schema.definitions.scope.enum].sort(), scopes.sort());
});
