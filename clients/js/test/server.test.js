// The client against the real server, over TCP, a Unix socket, TLS and WebSocket.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectTcp, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { createServer as createTlsServer } from "node:tls";

import WebSocket from "ws";

import { connect as connectMin } from "../dist/bellwire.min.js";
import { connect as connectBrowser } from "../dist/index.js";
import { NotSentError, UnknownError, connect } from "../dist/node.js";
import { run, startBridge, startProxy, startServer, within } from "./support.js";

let server;
const dir = mkdtempSync(join(tmpdir(), "bellwire-"));
before(async () => (server = await startServer()));
after(async () => {
  await server.stop();
  rmSync(dir, { recursive: true });
});

/** Runs a client, and closes it. */
async function use(client, act) {
  try {
    return await within("the test", act(client));
  } finally {
    client.abort();
  }
}

const draft = (title) => JSON.stringify({ title, rent: 700 });

/** What every transport has to do. */
async function everything(client) {
  await client.opened;
  const offers = await client.subscribe("offers");
  const added = await client.call("offers.add", draft("Loft"));
  const { id } = added.json();
  assert.deepEqual((await offers.next()).value.json(), { id });
  for (const payload of [String(id), Buffer.from(String(id))]) {
    assert.equal((await client.call("offers.get", payload)).json().title, "Loft");
  }
  await assert.rejects(client.call("offers.get", "99999"), { name: "FailedError", code: "not-found" });
  const refusal = { name: "RefusedError", code: "unknown-method", mayHaveRun: false };
  await assert.rejects(client.call("nosuch"), refusal);
  const listed = [];
  for await (const item of client.stream("offers.list", "", { window: 2 })) listed.push(item.json().id);
  assert.ok(listed.length > 10 && listed.includes(id), `${listed}`);
  offers.leave();
  assert.ok((await client.methods()).some(({ name }) => name === "offers.add"));
  await client.close();
  assert.equal(await client.closed, undefined);
}

test("over TCP", () => use(connect(server.address), everything));

test("over a Unix socket", async (t) => {
  const path = join(dir, "socket");
  const [host, port] = server.address.split(":");
  const proxy = createServer((from) => {
    const to = connectTcp(Number(port), host);
    from.pipe(to).pipe(from);
    from.on("error", () => {});
    from.on("close", () => to.destroy());
  });
  await new Promise((resolve) => proxy.listen(path, resolve));
  t.after(() => proxy.close());
  await use(connect(`unix:${path}`), everything);
});

test("over TLS, and not with a certificate that is not trusted", async (t) => {
  const [key, cert] = [join(dir, "key.pem"), join(dir, "cert.pem")];
  const request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost";
  const args = [...request.split(" "), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert];
  const made = await run("openssl", args);
  assert.equal(made.code, 0, `openssl is needed: ${made.stderr}`);
  const [host, port] = server.address.split(":");
  const proxy = createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, (from) => {
    const to = connectTcp(Number(port), host);
    from.pipe(to).pipe(from);
    from.on("error", () => {});
    from.on("close", () => to.destroy());
  });
  proxy.on("tlsClientError", () => {});
  await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  t.after(() => proxy.close());
  const address = `tls://localhost:${proxy.address().port}`;
  await use(connect(address, { tls: { ca: readFileSync(cert) } }), everything);
  await use(connect(address, { reconnect: false }), (client) => assert.rejects(client.opened, { code: "failed" }));
});

for (const [name, connectTo] of Object.entries({ source: connectBrowser, "minified build": connectMin })) {
  test(`over WebSocket, with the ${name}`, () => use(connectTo(server.webSocket, { WebSocket }), everything));
}

test("a WebSocket server that does not echo the subprotocol is refused", async (t) => {
  const bridge = await startBridge(server.address, { handleProtocols: () => "other" });
  t.after(() => bridge.stop());
  await use(connect(bridge.url, { WebSocket, reconnect: false }), (client) => assert.rejects(client.opened));
});

test("a WebSocket message of text, or of half a line, ends the connection", async (t) => {
  const texts = [(bytes) => [bytes.toString()], () => ["99999999999"]];
  for (const cut of [...texts, (bytes) => [bytes.subarray(0, 20), bytes.subarray(20)]]) {
    const bridge = await startBridge(server.address, { cut });
    t.after(() => bridge.stop());
    const options = { WebSocket, reconnect: false };
    await use(connect(bridge.url, options), (client) => assert.rejects(client.opened, { code: "malformed" }));
  }
});

test("a wrong WebSocket URL is refused", () => {
  assert.throws(() => connectBrowser("ws://token:secret@localhost/", { WebSocket }), /bad WebSocket URL/);
  assert.throws(() => connectBrowser("/bellwire", { WebSocket }), /bad WebSocket URL/);
  assert.throws(() => connectBrowser("ws://a b/", { WebSocket }), TypeError);
  assert.throws(() => connect("ws://localhost:99999/", { WebSocket }), TypeError);
});

test("a subscription goes on after a lost connection, and misses nothing", async (t) => {
  const proxy = await startProxy(server.port);
  t.after(() => proxy.stop());
  await use(connect(`ws://${proxy.host}/bellwire`, { WebSocket }), async (client) => {
    const offers = await client.subscribe("offers");
    const other = connect(server.address);
    const added = [];
    for (let n = 0; n < 4; n++) {
      if (n === 2) proxy.drop();
      added.push((await other.call("offers.add", draft(`Flat ${n}`))).json().id);
    }
    const seen = [];
    for await (const delivery of offers) {
      assert.equal(delivery.type, "message");
      if (seen.push(delivery.json().id) === added.length) break;
    }
    assert.deepEqual(seen, added);
    other.abort();
  });
});

test("after a restart of the server the log is another one, and calls go on", async (t) => {
  let restarted = await startServer();
  t.after(() => restarted.stop());
  await use(connect(restarted.address), async (client) => {
    const offers = await client.subscribe("offers");
    await client.call("offers.add", draft("before"));
    assert.equal((await offers.next()).value.type, "message");
    await restarted.stop();
    restarted = await startServer("--listen", restarted.address);
    await client.call("offers.add", draft("after"));
    const deliveries = [];
    for await (const delivery of offers) {
      deliveries.push(delivery.type);
      if (delivery.type === "message") break;
    }
    assert.deepEqual(deliveries, ["reset", "message"]);
  });
});

test("a server that drains finishes what it has, and the client says why it cannot go on", async (t) => {
  const draining = await startServer();
  t.after(() => draining.stop());
  const events = [];
  const client = connect(draining.address, { reconnect: false, onEvent: (event) => events.push(event.type) });
  await use(client, async () => {
    await client.opened;
    const stopped = draining.stop("SIGTERM");
    const error = await client.closed;
    assert.ok(error);
    assert.ok(events.includes("bye"), `${events}`);
    await assert.rejects(client.call("random"), NotSentError);
    await stopped;
  });
});

test("newest messages come first with last, and a position resumes exactly", async () => {
  await use(connect(server.address), async (client) => {
    const ids = [];
    for (let n = 0; n < 5; n++) ids.push((await client.call("offers.add", draft(`Room ${n}`))).json().id);
    const offers = await client.subscribe("offers", { last: 3 });
    const seen = [(await offers.next()).value.json().id, (await offers.next()).value.json().id];
    const { position } = offers;
    offers.leave();
    const rest = await client.subscribe("offers", { from: position });
    seen.push((await rest.next()).value.json().id);
    assert.deepEqual(seen, ids.slice(2));
  });
});

test("with acks the server sends no more than the window", async () => {
  await use(connect(server.address), async (client) => {
    const offers = await client.subscribe("offers", { window: 2, manualAck: true });
    const ids = [];
    for (let n = 0; n < 6; n++) ids.push((await client.call("offers.add", draft(`Attic ${n}`))).json().id);
    const seen = [];
    for await (const message of offers) {
      offers.ack(message);
      if (seen.push(message.json().id) === ids.length) break;
    }
    assert.deepEqual(seen, ids);
    assert.equal(client.stats.notifications, 0);
  });
});

test("a key adds one offer, however often it is sent", async () => {
  await use(connect(server.address), async (client) => {
    const key = crypto.randomUUID();
    const first = await client.call("offers.add", draft("Once"), { key });
    const second = await client.call("offers.add", draft("Once"), { key });
    assert.deepEqual(second.json(), first.json());
    await assert.rejects(client.call("offers.add", draft("Twice"), { key }), { code: "key-mismatch" });
  });
});

test("where nothing listens, a request is not sent, and its deadline says when", async () => {
  const idle = createServer();
  await new Promise((resolve) => idle.listen(0, "127.0.0.1", resolve));
  const { port } = idle.address();
  await new Promise((resolve) => idle.close(resolve));
  await use(connect(`127.0.0.1:${port}`), async (client) => {
    await assert.rejects(client.call("random", "", { deadline: 300 }), { name: "NotSentError", code: "deadline" });
    await assert.rejects(client.subscribe("offers", { deadline: 100 }), NotSentError);
  });
});

test("10,000 calls at once all get their own reply", async () => {
  await use(connect(server.address), async (client) => {
    const calls = Array.from({ length: 10_000 }, () => client.call("random", "1"));
    for (const reply of await Promise.all(calls)) assert.equal(reply.json(), 0);
  });
});

test("a server that stops reading for a while gets everything in the end", async (t) => {
  const sockets = [];
  const slow = createServer({ pauseOnConnect: true }, (socket) => {
    socket.on("error", () => {});
    socket.write("* /hello;version=1\n");
    createInterface({ input: socket }).on("line", (line) => socket.write(`${line.split(" ")[0]} ok\n`));
    sockets.push(socket.pause());
  });
  await new Promise((resolve) => slow.listen(0, "127.0.0.1", resolve));
  t.after(() => slow.close());
  await use(connect(`127.0.0.1:${slow.address().port}`), async (client) => {
    const calls = Array.from({ length: 400 }, () => client.call("m", "x".repeat(60_000)));
    while (!client.current?.blocked) await new Promise(setImmediate);
    sockets[0].resume();
    await Promise.all(calls);
  });
});

test("the process ends by itself when its client is closed", async () => {
  const program = join(dir, "program.mjs");
  const module = new URL("../dist/node.js", import.meta.url);
  writeFileSync(
    program,
    `import { connect } from ${JSON.stringify(module.href)};
     const client = connect(${JSON.stringify(server.address)});
     await client.call("random"); await client.close(); console.log("closed");`,
  );
  const { code, stdout } = await within("its end", run(process.execPath, [program]));
  assert.deepEqual([code, stdout], [0, "closed\n"]);
});

test("a call that is lost with its connection may have run", async (t) => {
  const silent = createServer((socket) => {
    socket.write("* /hello;version=1\n");
    socket.on("data", () => socket.destroy());
    socket.on("error", () => {});
  });
  await new Promise((resolve) => silent.listen(0, "127.0.0.1", resolve));
  t.after(() => silent.close());
  await use(connect(`127.0.0.1:${silent.address().port}`), async (client) => {
    const error = await client.call("pay").catch((one) => one);
    assert.ok(error instanceof UnknownError);
    assert.ok(error.mayHaveRun);
  });
});
