// What the tests share: the real server, a bridge from WebSocket to TCP, and waiting with a bound.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { connect as connectTcp } from "node:net";
import { createInterface } from "node:readline";

import { WebSocketServer } from "ws";

/** A generous bound for whatever a test waits for, in ms. */
export const BOUND = 60_000;

/** A binary that test.sh builds, or an environment variable names. */
export function binary(variable) {
  const path = process.env[variable];
  if (!path) throw new Error(`${variable} is not set: run clients/js/test.sh`);
  return path;
}

/** Waits for a promise, and fails by name if it takes too long. */
export function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${BOUND} ms`)), BOUND);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Starts offers_server on a port of the system's choice. */
export async function startServer(...args) {
  const listen = args.includes("--listen") ? [] : ["--listen", "127.0.0.1:0"];
  const child = spawn(binary("OFFERS_SERVER"), [...listen, "--random-every", "0", ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const [line] = await within("the server", once(createInterface({ input: child.stdout }), "line"));
  const address = line.replace("listening on ", "");
  return {
    address,
    async stop(signal = "SIGKILL") {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, "exit");
      child.kill(signal);
      await within("the end of the server", ended);
    },
  };
}

/**
 * Forwards WebSockets to a TCP server. Each message to the browser holds whole lines.
 * `options` are those of WebSocketServer, and `cut` changes what is sent to the browser.
 */
export async function startBridge(target, { cut = (bytes) => [bytes], ...options } = {}) {
  const [host, port] = target.split(":");
  const handleProtocols = (offered) => (offered.has("bellwire.v1") ? "bellwire.v1" : false);
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0, handleProtocols, ...options });
  const requests = [];
  server.on("connection", (socket, request) => {
    requests.push(request);
    const tcp = connectTcp({ host, port: Number(port) });
    let rest = Buffer.alloc(0);
    tcp.on("data", (bytes) => {
      const all = Buffer.concat([rest, bytes]);
      const end = all.lastIndexOf(10) + 1;
      rest = all.subarray(end);
      if (end) for (const part of cut(all.subarray(0, end))) socket.send(part, { binary: typeof part !== "string" });
    });
    tcp.on("close", () => socket.close());
    tcp.on("error", () => socket.terminate());
    socket.on("message", (data) => tcp.write(data));
    socket.on("close", () => tcp.end());
  });
  await once(server, "listening");
  return {
    url: `ws://127.0.0.1:${server.address().port}/bellwire`,
    requests,
    drop: () => server.clients.forEach((client) => client.terminate()),
    async stop() {
      server.clients.forEach((client) => client.terminate());
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Runs a program to its end. */
export function run(program, args, options = {}) {
  return new Promise((resolve) => {
    execFile(program, args, { maxBuffer: 1 << 26, ...options }, (error, stdout, stderr) => {
      resolve({ code: error ? (error.code ?? 1) : 0, stdout, stderr });
    });
  });
}
