// Measures the browser build in Chromium, beside a bare WebSocket: `npm run bench`. It writes
// docs/performance/browser.md. Build the server with --release, and name it in OFFERS_SERVER.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, release, tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { connect } from "../dist/node.js";
import { startBrowser } from "../test/browser.js";
import { startServer } from "../test/support.js";

const [RUNS, CALLS, MESSAGES] = [5, 50_000, 30_000];
const REPORT = new URL("../../../docs/performance/browser.md", import.meta.url);

/** Runs in the page. Calls per second, with `inFlight` callers that wait for each reply. */
async function calls({ url, inFlight, count }) {
  const { connect } = await import("/bellwire.min.js");
  const client = connect(url);
  const call = async (rest) => {
    for (; rest > 0; rest--) await client.call("random", "6");
  };
  const each = (rest) => Promise.all(Array.from({ length: inFlight }, () => call(rest / inFlight)));
  await each(count / 10);
  const start = performance.now();
  await each(count);
  const seconds = (performance.now() - start) / 1000;
  await client.close();
  return count / seconds;
}

/** Runs in the page. The same by hand: a map of ids, and nothing else that a client does. */
async function bareCalls({ url, inFlight, count }) {
  const socket = new WebSocket(url, "bellwire.v1");
  socket.binaryType = "arraybuffer";
  const [encoder, decoder, pending] = [new TextEncoder(), new TextDecoder(), new Map()];
  let id = 0;
  await new Promise((resolve) => {
    socket.onmessage = ({ data }) => {
      for (const line of decoder.decode(data).split("\n")) {
        const at = line.indexOf(" ");
        if (line.startsWith("* /hello")) resolve();
        pending.get(line.slice(0, at))?.(line.slice(at + 1));
        pending.delete(line.slice(0, at));
      }
    };
  });
  const ask = () =>
    new Promise((resolve) => {
      pending.set(String(++id), resolve);
      socket.send(encoder.encode(`${id} random 6\n`));
    });
  const call = async (rest) => {
    for (; rest > 0; rest--) await ask();
  };
  const each = (rest) => Promise.all(Array.from({ length: inFlight }, () => call(rest / inFlight)));
  await each(count / 10);
  const start = performance.now();
  await each(count);
  const seconds = (performance.now() - start) / 1000;
  socket.close();
  return count / seconds;
}

/** Runs in the page. Notifications per second, from the start of a log. */
async function notifications({ url, from, count, window }) {
  const { connect } = await import("/bellwire.min.js");
  const client = connect(url);
  await client.opened;
  const start = performance.now();
  const news = await client.subscribe("offers", { from, ...(window ? { window } : {}) });
  let seen = 0;
  for await (const { type } of news) {
    if (type !== "message") throw new Error(`a ${type} after ${seen} messages`);
    if (++seen === count) break;
  }
  const seconds = (performance.now() - start) / 1000;
  client.abort();
  return count / seconds;
}

/** Runs in the page. The same by hand: the lines are split, and counted. */
async function bareNotifications({ url, from, count }) {
  const socket = new WebSocket(url, "bellwire.v1");
  socket.binaryType = "arraybuffer";
  await new Promise((resolve) => (socket.onmessage = resolve));
  const decoder = new TextDecoder();
  let seen = 0;
  const start = performance.now();
  await new Promise((resolve) => {
    socket.onmessage = ({ data }) => {
      for (const line of decoder.decode(data).split("\n")) {
        if (line.startsWith("* offers ") && ++seen === count) resolve();
      }
    };
    socket.send(new TextEncoder().encode(`1 /subscribe;from=${from} offers\n`));
  });
  const seconds = (performance.now() - start) / 1000;
  socket.close();
  return count / seconds;
}

const folder = mkdtempSync(join(tmpdir(), "bellwire-"));
const offers = join(folder, "offers.jsonl");
writeFileSync(offers, "");
const server = await startServer("--offers", offers);
const browser = await startBrowser();

/** Fills the topic, and returns where it begins. */
async function publish() {
  const client = connect(server.address);
  const news = await client.subscribe("offers");
  const from = news.position;
  let lines = "";
  for (let id = 1; id <= MESSAGES; id++) lines += `{"id":${id},"title":"Flat","rent":700}\n`;
  writeFileSync(offers, lines, { flag: "a" });
  let seen = 0;
  for await (const { type } of news) if (type !== "message" || ++seen === MESSAGES) break;
  await client.close();
  return from;
}

/** Runs each function in a new tab, in turns, and returns a row with the medians. */
async function measure(name, pages, options) {
  const rates = pages.map(() => []);
  for (let run = 0; run < RUNS; run++) {
    for (const [n, page] of pages.entries()) {
      const context = await browser.newContext();
      const tab = await context.newPage();
      await tab.goto(server.webSocket.replace("ws:", "http:").replace("bellwire", "style.css"));
      rates[n].push(await tab.evaluate(page, { url: server.webSocket, ...options }));
      await context.close();
    }
  }
  const shown = (rate) => Math.round(rate).toLocaleString("en");
  const cells = rates.map((all) => {
    const [least, , median, , most] = all.sort((a, b) => a - b);
    return `${shown(median)} (${shown(least)} to ${shown(most)})`;
  });
  const row = `| ${name} | ${cells.join(" | ")} |`;
  console.log(row);
  return row;
}

const out = (program, ...args) => execFileSync(program, args, { encoding: "utf8" }).trim();

try {
  const from = await publish();
  const rows = [];
  for (const inFlight of [1, 16, 256]) {
    const count = inFlight === 1 ? CALLS / 10 : CALLS;
    rows.push(await measure(`calls, ${inFlight} in flight`, [calls, bareCalls], { inFlight, count }));
  }
  const both = [notifications, bareNotifications];
  rows.push(await measure("notifications", both, { from, count: MESSAGES }));
  const acked = { from, count: MESSAGES, window: 1_024 };
  rows.push(`${await measure("notifications, acknowledged, 1,024 ahead", [notifications], acked)} |`);

  const code = readFileSync(new URL("../dist/bellwire.min.js", import.meta.url));
  const gzipped = gzipSync(code, { level: 9 }).length;
  const date = new Date().toISOString().slice(0, 16).replace("T", " ");
  const report = `# The JavaScript client in a browser

Written by \`npm run bench\` in clients/js; its source, \`clients/js/bench/browser.js\`, says how it measures.

- Date: ${date} UTC
- Machine: ${cpus()[0].model.trim()}, ${cpus().length} cores, Linux ${release()}
- Browser: Chromium ${browser.version()}, headless, one tab; Node ${process.version} for the tests' side
- Server: \`offers_server --page\`, a release build, on the same machine
- Commit: ${out("git", "describe", "--always", "--dirty", "--exclude=*")}
- Size of the browser build: ${code.length} bytes minified, ${gzipped} gzipped

Per second in one tab; the median of ${RUNS} runs, with the least and the most. A call is \`random 6\`. A notification has a
payload of about 12 bytes, and ${MESSAGES.toLocaleString("en")} of them are replayed. "By hand" is a WebSocket with a map of ids, which splits lines, and
has no deadlines, outcomes, positions, acks or reconnects.

| | client | by hand |
|---|---:|---:|
${rows.join("\n")}
`;
  writeFileSync(REPORT, report);
} finally {
  await browser.close();
  await server.stop();
  rmSync(folder, { recursive: true });
}
