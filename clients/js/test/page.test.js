// The live page, examples/live, in Chromium, served by the real server.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { connect } from "../dist/node.js";
import { isCurrent } from "../page.js";
import { startBrowser } from "./browser.js";
import { BOUND, startProxy, startServer } from "./support.js";

let browser;
before(async () => (browser = await startBrowser()));
after(() => browser.close());

/** A tab of its own, whose page has to be without errors. */
async function open(t, url, errors) {
  const context = await browser.newContext();
  t.after(() => context.close());
  context.setDefaultTimeout(BOUND);
  const tab = await context.newPage();
  tab.on("pageerror", (error) => errors.push(error.message));
  // A refused connection is expected, and the only error that a page may log.
  tab.on("console", (entry) => {
    if (entry.type() === "error" && !entry.text().includes("WebSocket connection to")) errors.push(entry.text());
  });
  await tab.goto(url);
  await isConnected(tab);
  return tab;
}

const isConnected = (tab) => tab.locator("#state[data-state=open]").waitFor();
const offer = (tab, title) => tab.locator("#offers details", { hasText: title });
const titles = (tab) => tab.locator("#offers .title").allTextContents();

async function add(tab, title, rent, city = "") {
  await tab.getByLabel("Title").fill(title);
  await tab.getByLabel("Rent").fill(String(rent));
  await tab.getByLabel("City").fill(city);
  await tab.getByRole("button", { name: "Add" }).click();
}

/** The server, the proxy in front of it, a client over TCP, and two tabs. */
async function startAll(t, ...args) {
  const errors = [];
  const server = await startServer(...args);
  t.after(() => server.stop());
  const proxy = await startProxy(server.port);
  t.after(() => proxy.stop());
  const client = connect(server.address);
  t.after(() => client.abort());
  const url = `http://${proxy.host}/`;
  const tabs = [await open(t, url, errors), await open(t, url, errors)];
  const cut = () => {
    proxy.lead(undefined);
    proxy.drop();
  };
  return { server, proxy, cut, client, tabs, errors };
}

const draft = (title) => JSON.stringify({ title, rent: 100 });

test("the page has the client that these sources build", () => {
  assert.ok(isCurrent(), "run `npm run page`, and commit examples/live/page/bellwire.min.js");
});

test("an offer appears in two tabs, with its details on request", async (t) => {
  const { tabs, client, errors } = await startAll(t);
  await add(tabs[0], "Loft <b>1</b>", 700, "Bremen");
  for (const tab of tabs) await offer(tab, "Loft <b>1</b>").waitFor();
  await tabs[0].locator("#outcome", { hasText: /^Added as number \d+\.$/ }).waitFor();
  assert.equal(await tabs[0].getByLabel("Title").inputValue(), "");

  await offer(tabs[1], "Loft <b>").locator("summary").click();
  await offer(tabs[1], "Loft <b>").locator(".more", { hasText: "Bremen" }).waitFor();

  // One that a program adds over TCP is there, too, and at the top.
  await client.call("offers.add", draft("Attic"));
  for (const tab of tabs) {
    await offer(tab, "Attic").waitFor();
    assert.equal((await titles(tab))[0], "Attic");
    assert.equal(await tab.locator(".gap").count(), 0);
  }
  assert.deepEqual(errors, []);
});

test("what the server refuses is said, and the form keeps what was typed", async (t) => {
  const { tabs, errors } = await startAll(t);
  const [tab] = tabs;
  // The server counts in 32 bits.
  await tab.getByLabel("Rent").evaluate((input) => input.removeAttribute("max"));
  await add(tab, "Castle", 5_000_000_000);
  await tab.locator("#outcome", { hasText: /\S/ }).waitFor();
  assert.match(await tab.locator("#outcome").textContent(), /^(The server says|Refused, nothing was done): /);
  assert.equal(await tab.getByLabel("Title").inputValue(), "Castle");
  assert.deepEqual(errors, []);
});

test("a kill and a restart of the server lose nothing", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "bellwire-"));
  const offers = join(folder, "offers.jsonl");
  writeFileSync(offers, '{"id":1,"title":"First","rent":500}\n');
  const args = ["--offers", offers, "--store", join(folder, "topics.db")];
  const { server, proxy, cut, client, tabs, errors } = await startAll(t, ...args);
  await client.call("offers.add", draft("Before"));
  for (const tab of tabs) await offer(tab, "Before").waitFor();

  // The tabs are cut off. Others add offers, before and after the server is killed.
  cut();
  for (const tab of tabs) await tab.locator("#state:not([data-state=open])").waitFor();
  await client.call("offers.add", draft("While cut off"));
  await server.stop("SIGKILL");
  const next = await startServer(...args);
  t.after(() => next.stop());
  t.after(() => rmSync(folder, { recursive: true }));
  const other = connect(next.address);
  t.after(() => other.abort());
  await other.call("offers.add", draft("After the restart"));
  // One tab adds an offer meanwhile: it is sent once there is a connection.
  await add(tabs[0], "From a tab", 300);

  proxy.lead(next.port);
  for (const tab of tabs) {
    await tab.evaluate(() => dispatchEvent(new Event("online")));
    await isConnected(tab);
    await offer(tab, "From a tab").waitFor();
    const newest = ["From a tab", "After the restart", "While cut off", "Before", "First"];
    assert.deepEqual(await titles(tab), newest);
    assert.equal(await tab.locator(".gap").count(), 0, "nothing was missed, and nothing else is said");
  }
  assert.deepEqual(errors, []);
});

test("what is missed is a visible gap, and the list is complete again", async (t) => {
  const { server, proxy, cut, client, tabs, errors } = await startAll(t, "--retain", "2");
  const [tab] = tabs;
  cut();
  await tab.locator("#state:not([data-state=open])").waitFor();
  for (let n = 1; n <= 5; n++) await client.call("offers.add", draft(`Flat ${n}`));
  proxy.lead(server.port);
  await tab.evaluate(() => dispatchEvent(new Event("online")));
  await tab.locator(".gap", { hasText: "3 messages were missed" }).waitFor();
  for (let n = 1; n <= 5; n++) await offer(tab, `Flat ${n}`).waitFor();
  assert.equal(await tab.locator(".gap").count(), 1);
  assert.deepEqual(errors, []);
});

test("after a restart without a store, offers that are gone leave the list", async (t) => {
  const { server, proxy, cut, client, tabs: [tab], errors } = await startAll(t);
  await client.call("offers.add", draft("Gone"));
  await offer(tab, "Gone").waitFor();
  cut();
  await server.stop("SIGKILL");
  const next = await startServer();
  t.after(() => next.stop());
  proxy.lead(next.port);
  await tab.evaluate(() => dispatchEvent(new Event("online")));
  await tab.locator(".gap", { hasText: "the server began anew" }).waitFor();
  await offer(tab, "Gone").waitFor({ state: "detached" });
  assert.ok((await titles(tab)).length > 0);
  assert.deepEqual(errors, []);
});

test("the page is used by keyboard; focus and open details stay; changes are announced", async (t) => {
  const { server, proxy, cut, client, tabs: [tab], errors } = await startAll(t, "--retain", "1");
  const said = (text) => tab.getByRole("status").filter({ hasText: text }).waitFor();
  const focused = () => tab.evaluate(() => document.activeElement.name ?? document.activeElement.textContent);
  await tab.keyboard.press("Tab");
  assert.equal(await focused(), "title");
  await tab.keyboard.type("Mill");
  await tab.keyboard.press("Tab");
  await tab.keyboard.type("700");
  await tab.keyboard.press("Enter");
  await said("Added as number");
  await said("New: Mill, 700 €");
  assert.equal(await focused(), "rent");

  const summary = offer(tab, "Mill").locator("summary");
  await summary.focus();
  await tab.keyboard.press("Enter");
  await offer(tab, "Mill").locator(".more", { hasText: "nothing more is known" }).waitFor();
  cut();
  await said("connection lost");
  for (let n = 1; n <= 3; n++) await client.call("offers.add", draft(`Flat ${n}`));
  proxy.lead(server.port);
  await tab.evaluate(() => dispatchEvent(new Event("online")));
  await offer(tab, "Flat 3").waitFor();
  assert.equal(await offer(tab, "Mill").getAttribute("open"), "");
  assert.equal(await summary.evaluate((node) => node === document.activeElement), true);
  assert.deepEqual(errors, []);
});

test("a narrow window shows long titles, and titles from right to left", async (t) => {
  const { client, tabs: [tab] } = await startAll(t);
  await tab.setViewportSize({ width: 320, height: 600 });
  const [long, hebrew] = ["W".repeat(200), "דירה (2) ליד הנהר"];
  for (const title of [long, hebrew]) await client.call("offers.add", draft(title));
  await offer(tab, hebrew).waitFor();
  assert.ok((await tab.evaluate(() => document.documentElement.scrollWidth)) <= 320);
  const direction = (title) => tab.getByText(title, { exact: true }).evaluate((node) => getComputedStyle(node).direction);
  assert.deepEqual([await direction(long), await direction(hebrew)], ["ltr", "rtl"]);
});

test("while the server is away for long, the list gets no lines about it", async (t) => {
  const server = await startServer();
  t.after(() => server.stop());
  const context = await browser.newContext();
  t.after(() => context.close());
  const tab = await context.newPage();
  await tab.clock.install();
  let attempts = 0;
  await tab.routeWebSocket(server.webSocket, (socket) => {
    attempts++;
    void socket.close();
  });
  await tab.goto(server.webSocket.replace("ws:", "http:").replace("bellwire", ""));
  while (attempts < 15) await tab.clock.runFor(30_000);
  assert.equal(await tab.locator("#offers li").count(), 0);
  assert.match(await tab.locator("#state").textContent(), /^no connection; next attempt at /);
});
