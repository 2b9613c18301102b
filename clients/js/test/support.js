// What the tests share: the real server, a proxy that can cut its connections, a bridge from WebSocket to TCP that can
// send what a correct server does not, and waiting with a bound.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { connect as connectTcp, createServer } from "node:net";
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

/** Starts offers_server with its page, on ports of the system's choice. */
export async function startServer(...args) {
  const listen = args.includes("--listen") ? [] : ["--listen", "127.0.0.1:0"];
  const all = [...listen, "--page", "127.0.0.1:0", "--random-every", "0", ...args];
  const child = spawn(binary("OFFERS_SERVER"), all, { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async () => (await within("the server", lines.next())).value;
  const address = (await next()).replace("listening on ", "");
  const page = (await next()).replace("the page is at ", "");
  return {
    address,
    /** Where its WebSockets and its page are. */
    webSocket: page.replace("http:", "ws:") + "bellwire",
    port: Number(new URL(page).port),
    async stop(signal = "SIGKILL") {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, "exit");
      child.kill(signal);
      await within("the end of the server", ended);
    },
  };
}

/** Forwards connections to the port of a server. It stays where it is when the server is another one. */
export async function startProxy(port) {
  const sockets = new Set();
  const keep = (socket) => {
    sockets.add(socket.on("error", () => {}).on("close", () => sockets.delete(socket)));
    return socket;
  };
  const proxy = createServer((socket) => {
    keep(socket);
    if (!port) return void socket.destroy();
    const server = keep(connectTcp(port, "127.0.0.1"));
    socket.pipe(server).pipe(socket);
    socket.on("close", () => server.destroy());
    server.on("close", () => socket.destroy());
  });
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  return {
    host: `127.0.0.1:${proxy.address().port}`,
    /** Ends all connections. */
    drop: () => sockets.forEach((socket) => socket.destroy()),
    /** Leads new connections to this port, or refuses them if there is none. */
    lead: (to) => (port = to),
    async stop() {
      this.drop();
      await new Promise((resolve) => proxy.close(resolve));
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
  server.on("connection", (socket) => {
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
