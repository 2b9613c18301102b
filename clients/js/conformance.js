// The testee of the conformance kit: it takes commands on stdin and reports events on stdout, as
// conformance/TESTEE.md describes. `npm test` builds the client and runs the kit with it.
//
// With the argument `min` it tests the minified build for browsers. For addresses without `ws://` its WebSockets are TCP
// connections then.
import { createInterface } from "node:readline";

import WebSocket from "ws";

import { TcpWebSocket } from "./test/tcp-web-socket.js";

const isMinified = process.argv[2] === "min";
/** @type {typeof import("./dist/node.js")} */
const { FailedError, NotSentError, RefusedError, connect } = await import(
  isMinified ? "./dist/bellwire.min.js" : "./dist/node.js"
);

const ABILITIES =
  "testee L3 ack-by-hand addresses after attributes auth cancel counts deadline from in-flight keys max-line " +
  "methods one-way pause probe publish redeliver repeat resend resubscribe strict streams window ws";

/** @type {import("./dist/node.js").Client} */
let client;
const calls = new Map();
const streams = new Map();
const subscriptions = new Map();

/** Writes an event: bytes above 0x7E, control bytes and backslashes are escaped. */
function report(head, payload = new Uint8Array()) {
  const bytes = Buffer.concat([Buffer.from(payload.length ? `${head} ` : head), payload]);
  const text = bytes.toString("latin1").replace(/[^ -[\]-~]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
  process.stdout.write(`${text}\n`);
}

function reportFailure(tag, error) {
  if (error instanceof FailedError) report(`${tag} error ${error.code}`);
  else if (error instanceof RefusedError) report(`${tag} refused ${error.code}`);
  else if (error instanceof NotSentError) report(`${tag} not-sent`);
  else report(`${tag} unknown`);
}

/** A command line, unescaped and taken apart. */
function parse(text) {
  const line = Buffer.from(text.replace(/\\x(..)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16))), "latin1");
  let left = line;
  const next = () => {
    const at = left.indexOf(32);
    const word = left.subarray(0, at < 0 ? left.length : at).toString();
    left = at < 0 ? Buffer.alloc(0) : left.subarray(at + 1);
    return word;
  };
  const [word, ...parts] = next().split(";");
  const pairs = parts.map((part) => [part.slice(0, part.indexOf("=")), part.slice(part.indexOf("=") + 1)]);
  const dotted = Object.fromEntries(pairs.filter(([key]) => key.includes(".")));
  const options = Object.fromEntries(pairs.filter(([key]) => !key.includes(".")));
  const number = (key) => (key in options ? { [key]: Number(options[key]) } : {});
  return { word, options, attributes: dotted, number, next, rest: () => left };
}

const commands = {
  async connect({ options, next, rest, number }) {
    const reconnects = "reconnect" in options;
    const addresses = [];
    while (rest().length) addresses.push(next());
    const isWeb = addresses[0].startsWith("ws://");
    const isBridged = isMinified && !isWeb;
    const [, scheme, token] = /^([^:]*):(.*)$/.exec(options.auth ?? "") ?? [];
    let wasOpen = false;
    client = connect(isBridged ? addresses.map((address) => `ws://${address}`) : addresses, {
      reconnect: reconnects,
      WebSocket: isBridged ? TcpWebSocket : WebSocket,
      strict: "strict" in options,
      ...number("probe"),
      ...("max-line" in options ? { maxLine: Number(options["max-line"]) } : {}),
      ...("in-flight" in options ? { inFlight: Number(options["in-flight"]) } : {}),
      ...(token ? { scheme, token } : {}),
      onEvent(event) {
        if (event.type === "open" && !wasOpen) report("connected");
        if (event.type === "open") wasOpen = true;
        if (event.type === "end" && event.error) report(wasOpen ? "disconnected" : "failed");
      },
    });
  },
  async close() {
    await client.close();
    report("closed");
  },
  async "one-way"({ next, rest, attributes }) {
    await client.oneWay(next(), rest(), { attributes }).catch(() => {});
  },
  async counts() {
    const { replies, notifications } = client.stats;
    report(`counts ${replies} ${notifications}`);
  },
  async call({ next, rest, attributes, options, number }) {
    const [tag, method] = [next(), next()];
    const abort = new AbortController();
    calls.set(tag, () => abort.abort());
    const key = options.key ? { key: options.key } : {};
    try {
      const settings = { attributes, signal: abort.signal, ...number("deadline"), ...key };
      const reply = await client.call(method, rest(), settings);
      const after = reply.after ? `;after=${reply.after.topic}:${reply.after.position}` : "";
      report(`${tag} reply${after}`, reply.bytes);
    } catch (error) {
      if (!abort.signal.aborted) reportFailure(tag, error);
    }
  },
  async cancel({ next }) {
    calls.get(next())();
  },
  async publish({ next, rest, options }) {
    const [tag, topic] = [next(), next()];
    const published = client.publish(topic, rest(), options.key ? { key: options.key } : {});
    await published.then(
      ({ epoch, seq }) => report(`${tag} published ${epoch}:${seq}`),
      (error) => reportFailure(tag, error),
    );
  },
  async methods({ next }) {
    const tag = next();
    try {
      for (const { name, doc } of await client.methods()) report(`${tag} item ${name}`, Buffer.from(doc));
      report(`${tag} end`);
    } catch (error) {
      reportFailure(tag, error);
    }
  },
  async stream({ next, rest, number }) {
    const [tag, method] = [next(), next()];
    const stream = client.stream(method, rest(), number("window"));
    streams.set(tag, stream);
    calls.set(tag, () => stream.leave());
  },
  async take({ next }) {
    const tag = next();
    await streams.get(tag).next().then(
      ({ value, done }) => (done ? report(`${tag} end`) : report(`${tag} item`, value.bytes)),
      (error) => reportFailure(tag, error),
    );
  },
  async subscribe({ next, options, number }) {
    const [tag, topic] = [next(), next()];
    const { from, slow } = options;
    const redeliver = "redeliver" in options;
    const isManual = redeliver || "ack" in options;
    const state = { left: new AbortController(), paused: undefined, resume() {}, subscription: undefined };
    subscriptions.set(tag, state);
    try {
      const subscription = await client.subscribe(topic, {
        ...number("window"),
        ...(from ? { from } : {}),
        ...(slow ? { slow } : {}),
        manualAck: isManual,
        redeliver,
        signal: state.left.signal,
      });
      state.subscription = subscription;
      report(`${tag} subscribed ${subscription.position}`);
      await read(tag, state);
    } catch (error) {
      if (!state.left.signal.aborted) reportFailure(tag, error);
    }
  },
  async unsubscribe({ next }) {
    const tag = next();
    subscriptions.get(tag).left.abort();
    report(`${tag} left`);
  },
  async pause({ next }) {
    const state = subscriptions.get(next());
    state.paused = new Promise((resolve) => (state.resume = resolve));
  },
  async resume({ next }) {
    const state = subscriptions.get(next());
    state.paused = undefined;
    state.resume();
  },
  async ack({ next }) {
    subscriptions.get(next()).subscription.ack(next());
  },
  async await({ next }) {
    const [tag, subscription, position] = [next(), next(), next()];
    await subscriptions.get(subscription).subscription.reached(position);
    report(`${tag} satisfied`);
  },
};

/** Reports the deliveries of a subscription. */
async function read(tag, state) {
  for await (const delivery of state.subscription) {
    if (state.paused) await state.paused;
    if (state.left.signal.aborted) return;
    const { type } = delivery;
    if (type === "message") report(`${tag} ${delivery.redelivered ? "again" : "message"} ${delivery.seq}`, delivery.bytes);
    if (type === "gap") report(`${tag} gap ${delivery.first} ${delivery.last} ${delivery.reason}`);
    if (type === "reset") report(`${tag} reset ${delivery.epoch}:${delivery.next}`);
    if (type === "end") report(`${tag} ended ${delivery.reason} ${delivery.position}`);
  }
}

report(ABILITIES);
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const command = parse(line);
  const run = commands[command.word];
  if (!run) throw new Error(`no command ${command.word}`);
  run(command);
});
// The case is over: nothing more is reported.
lines.on("close", () => process.exit(0));
