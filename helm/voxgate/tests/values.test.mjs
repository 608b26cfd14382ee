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
        redis: { tls: { ca: { existingSecret: "a" }, client: { existingSecret: "a" } } },
        webhooks: { ca: { existingSecret: "a" } },
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
    known.delete("secrets.key_ring_file");
    assert.deepEqual([...known].sort(), [...listed].sort());
});

test("the schema's ranges are those by which the service refuses values", () => {
    const config = read("src/config.rs");
    const constants = new Map();
    const number = (text) => {
        const js = text
            .replaceAll("_u64", "")
            .replace(/\b[A-Z][A-Z_]+\b/g, (name) => `(${constants.get(name)})`)
            .replaceAll(/(\d)_(?=\d)/g, "$1")
            .replace(/^1 << (\d+)$/, "2 ** $1");
        assert.match(js, /^[\d\s*()]+$/, text);
        return Function(`return ${js}`)();
    };
    for (const [, name, value] of config.matchAll(/^const ([A-Z_]+): u64 = ([^;]+);/gm)) constants.set(name, number(value));
    const limits = [...config.matchAll(/^\s+\("([a-z_.]+)", .*, (\w+)\.\.=(\w+)\),$/gm)];
    assert.ok(limits.length > 35, `${limits.length}`);
    for (const [, key, least, most] of limits) {
        const { minimum, maximum } = schemaAt(`config.${key}`);
        assert.deepEqual([minimum, maximum], [number(least), number(most)], key);
    }
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

test("the clock step is 0 or a second at least, as the service has it", () => {
    assert.match(read("src/config.rs"), /if redis\.clock_step_ms == 0 \{ 0 \} else \{ 1_000 \}\.\.=DAY_MS/);
    assert.deepEqual(schemaAt("config.redis.clock_step_ms").anyOf, [
        { const: 0 },
        { type: "null" },
        { type: "integer", minimum: 1000, maximum: 86400000 },
    ]);
});

test("the schema's scopes are the service's", () => {
    const tenant = read("src/domain/tenant.rs");
    const scopes = [...tenant.matchAll(/ = "([a-z_]+:[a-z_]+)"/g)].map(([, scope]) => scope);
    assert.deepEqual([...schema.definitions.scope.enum].sort(), scopes.sort());
});
