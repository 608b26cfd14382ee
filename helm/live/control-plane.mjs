// A Kubernetes API server and its etcd, with keys and a certificate that they make themselves. Nothing runs pods or
// controllers behind it.

import { generateKeyPairSync, randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import https from "node:https";
import { Servers, freePorts } from "./servers.mjs";

export class ControlPlane {
    #servers = new Servers("apiserver");
    #token = randomBytes(16).toString("hex");
    #port;
    #ca;

    async start() {
        try {
            await this.#start();
        } catch (error) {
            const tails = this.#servers.tails();
            await this.stop();
            throw new Error(`the API server did not start: ${error.message}\n${tails}`);
        }
    }

    stop() {
        return this.#servers.stop();
    }

    at(name) {
        return this.#servers.at(name);
    }

    get kubeconfig() {
        return this.at("kubeconfig");
    }

    async #start() {
        const [client, peer, port] = await freePorts(3);
        this.#port = port;
        const etcd = `http://127.0.0.1:${client}`;
        const peers = `http://127.0.0.1:${peer}`;
        this.#servers.start("etcd", "etcd", [
            `--data-dir=${this.at("etcd")}`, "--unsafe-no-fsync", "--log-level=warn",
            `--listen-client-urls=${etcd}`, `--advertise-client-urls=${etcd}`,
            `--listen-peer-urls=${peers}`, `--initial-advertise-peer-urls=${peers}`, `--initial-cluster=default=${peers}`,
        ]);
        const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
        const secret = (name, text) => writeFileSync(this.at(name), text, { mode: 0o600 });
        secret("account.key", privateKey.export({ type: "pkcs8", format: "pem" }));
        secret("account.pub", publicKey.export({ type: "spki", format: "pem" }));
        secret("tokens.csv", `${this.#token},check,check,system:masters\n`);
        const server = this.#servers.start("kube-apiserver", "kube-apiserver", [
            `--etcd-servers=${etcd}`, "--bind-address=127.0.0.1", `--secure-port=${port}`, `--cert-dir=${this.at("certificates")}`,
            "--service-account-issuer=https://kubernetes.default.svc", `--service-account-signing-key-file=${this.at("account.key")}`,
            `--service-account-key-file=${this.at("account.pub")}`, `--token-auth-file=${this.at("tokens.csv")}`,
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none",
        ]);
        const certificate = this.at("certificates/apiserver.crt");
        await this.#servers.ready(server, async () => {
            this.#ca = readFileSync(certificate);
            return (await this.request("GET", "/readyz")).status === 200;
        });
        secret("kubeconfig", JSON.stringify({
            apiVersion: "v1", kind: "Config", "current-context": "check",
            clusters: [{ name: "check", cluster: { server: `https://127.0.0.1:${port}`, "certificate-authority": certificate } }],
            users: [{ name: "check", user: { token: this.#token } }],
            contexts: [{ name: "check", context: { cluster: "check", user: "check" } }],
        }));
    }

    // Answers { status, body, warnings }.
    request(method, path, body, type = "application/json", accept = "application/json") {
        const headers = { authorization: `Bearer ${this.#token}`, accept };
        if (body !== undefined) headers["content-type"] = type;
        const options = { host: "127.0.0.1", port: this.#port, method, path, headers, ca: this.#ca };
        return new Promise((done, fail) => {
            const sent = https.request(options, (answer) => {
                const chunks = [];
                answer.on("data", (chunk) => chunks.push(chunk));
                answer.on("error", fail);
                answer.on("end", () => {
                    const text = Buffer.concat(chunks).toString();
                    const body = answer.headers["content-type"]?.includes("json") ? JSON.parse(text) : text;
                    done({ status: answer.statusCode, body, warnings: [answer.headers.warning ?? []].flat() });
                });
            });
            sent.on("error", fail);
            sent.end(body === undefined ? undefined : JSON.stringify(body));
        });
    }
}
