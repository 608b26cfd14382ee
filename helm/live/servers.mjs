// Servers for the checks alone: private to one test, on free ports of this machine, in a folder that goes with them.

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

// Ports that were free a moment ago.
export async function freePorts(count) {
    const listening = () => new Promise((done) => {
        const server = createServer().listen(0, "127.0.0.1", () => done(server));
    });
    const servers = await Promise.all(Array.from({ length: count }, listening));
    const ports = servers.map((server) => server.address().port);
    await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
    return ports;
}

// Looks until it holds, for a minute or two on a machine that stands still at times.
export async function until(what, holds, seconds = 120) {
    const end = Date.now() + seconds * 1000;
    while (Date.now() < end) {
        if (await holds()) return;
        await sleep(100);
    }
    throw new Error(`not within ${seconds} s: ${what}`);
}

export class Servers {
    #running = [];

    constructor(name) {
        this.folder = mkdtempSync(join(tmpdir(), `${name}-`));
        process.once("exit", this.#abandon);
        for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(1));
    }

    // Where the process ends without having stopped them.
    #abandon = () => {
        for (const { child } of this.#running) child.kill("SIGKILL");
        rmSync(this.folder, { recursive: true, force: true });
    };

    at(...names) {
        return join(this.folder, ...names);
    }

    // Its output is in NAME.log. `ends` is the signal at which it ends in good order.
    start(name, command, args, { env, ends = "SIGTERM" } = {}) {
        const log = openSync(this.at(`${name}.log`), "a");
        const child = spawn(command, args, { stdio: ["ignore", log, log], env: { ...process.env, ...env }, cwd: this.folder });
        const server = { name, child, ends };
        server.ended = new Promise((done) => {
            child.on("error", (error) => done(error.message));
            child.on("exit", (code, signal) => done(code ?? signal));
        });
        server.ended.then(() => { server.over = true; });
        this.#running.push(server);
        return server;
    }

    running(name) {
        return this.#running.find((server) => server.name === name);
    }

    // Until it is there, or has ended.
    async ready(server, holds) {
        await until(`${server.name} is ready`, () => {
            if (server.over) throw new Error(`${server.name} ended`);
            return holds().catch(() => false);
        });
    }

    async end(server) {
        server.child.kill(server.ends);
        const timer = setTimeout(() => server.child.kill("SIGKILL"), 30_000);
        await server.ended;
        clearTimeout(timer);
        this.#running = this.#running.filter((other) => other !== server);
    }

    // What was started last ends first.
    async stop() {
        for (const server of [...this.#running].reverse()) await this.end(server);
        process.removeListener("exit", this.#abandon);
        rmSync(this.folder, { recursive: true, force: true });
    }

    // The ends of all logs, for the message of a failure.
    tails() {
        const names = [...new Set(this.#running.map(({ name }) => name))].filter((name) => existsSync(this.at(`${name}.log`)));
        const end = (name) => readFileSync(this.at(`${name}.log`), "utf8").split("\n").slice(-15).join("\n");
        return names.map((name) => `--- the end of ${name}.log:\n${end(name)}`).join("\n");
    }
}
