// Measures the browser build in Chromium against the real server: `npm run bench`.
//
// Each run has a tab of its own. Calls are of `random`, with a number of calls in flight. Notifications are those of a
// topic with 30,000 messages of 12 bytes, which the tab subscribes to from the start of the log, without acks and with.
// Build the server with --release, and name it in OFFERS_SERVER.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { connect } from "../dist/node.js";
import { startBrowser } from "../test/browser.js";
import { startServer } from "../test/support.js";

const [RUNS, CALLS, MESSAGES] = [5, 50_000, 30_000];

/** Runs in the page: calls per second. */
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

/** Runs in the page: notifications per second. */
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

const folder = mkdtempSync(join(tmpdir(), "bellwire-"));
const offers = join(folder, "offers.jsonl");
const lines = (first, last) => {
  let text = "";
  for (let id = first; id <= last; id++) text += `{"id":${id},"title":"Flat","rent":700}\n`;
  return text;
};
writeFileSync(offers, "");
const server = await startServer("--offers", offers);
const browser = await startBrowser();

/** Runs a function in a new tab, several times, and tells the median with the least and the most. */
async function measure(name, page, options) {
  const rates = [];
  for (let run = 0; run < RUNS; run++) {
    const context = await browser.newContext();
    const tab = await context.newPage();
    await tab.goto(server.webSocket.replace("ws:", "http:").replace("bellwire", "style.css"));
    rates.push(await tab.evaluate(page, { url: server.webSocket, ...options }));
    await context.close();
  }
  const [least, , median, , most] = rates.sort((a, b) => a - b).map((rate) => Math.round(rate).toLocaleString("en"));
  console.log(`| ${name} | ${median} | ${least} to ${most} |`);
}

try {
  const client = connect(server.address);
  const news = await client.subscribe("offers");
  const from = news.position;
  writeFileSync(offers, lines(1, MESSAGES), { flag: "a" });
  let seen = 0;
  for await (const { type } of news) if (type !== "message" || ++seen === MESSAGES) break;
  await client.close();

  const code = readFileSync(new URL("../dist/bellwire.min.js", import.meta.url));
  const bytes = gzipSync(code, { level: 9 }).length;
  console.log(`Chromium ${browser.version()}; ${code.length} bytes minified, ${bytes} gzipped\n`);
  console.log(`| in one tab | per second, median of ${RUNS} runs | range |\n|---|---|---|`);
  for (const inFlight of [1, 16, 256]) {
    const count = inFlight === 1 ? CALLS / 10 : CALLS;
    await measure(`calls, ${inFlight} in flight`, calls, { inFlight, count });
  }
  await measure("notifications", notifications, { from, count: MESSAGES });
  await measure("notifications, acknowledged, 1,024 ahead", notifications, { from, count: MESSAGES, window: 1024 });
} finally {
  await browser.close();
  await server.stop();
  rmSync(folder, { recursive: true });
}
