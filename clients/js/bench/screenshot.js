// Takes the picture of the live page in README.md, docs/live.png: `npm run screenshot`.
import { connect } from "../dist/node.js";
import { startBrowser } from "../test/browser.js";
import { startProxy, startServer } from "../test/support.js";

const server = await startServer("--retain", "1");
const proxy = await startProxy(server.port);
const browser = await startBrowser();
try {
  const tab = await browser.newPage({ viewport: { width: 760, height: 560 }, deviceScaleFactor: 1.5 });
  await tab.goto(`http://${proxy.host}/`);
  await tab.locator("#state[data-state=open]").waitFor();
  const client = connect(server.address);
  const add = (title, rent) => client.call("offers.add", JSON.stringify({ title, rent }));

  // A gap: more is published while the tab is cut off than the server retains.
  proxy.lead(undefined);
  proxy.drop();
  await tab.locator("#state:not([data-state=open])").waitFor();
  const missed = ["Two rooms by the river", "Flat with a garden", "Loft"];
  for (const [n, title] of missed.entries()) await add(title, 400 + 115 * n);
  proxy.lead(server.port);
  await tab.evaluate(() => dispatchEvent(new Event("online")));
  await tab.locator(".gap").waitFor();
  await tab.locator("details", { hasText: "Loft" }).first().waitFor();

  await tab.getByLabel("Title").fill("Attic above the canal");
  await tab.getByLabel("Rent").fill("650");
  await tab.getByLabel("City").fill("Bremen");
  await tab.getByRole("button", { name: "Add" }).click();
  const added = tab.locator("details", { hasText: "Attic above the canal" });
  await added.locator("summary").click();
  await added.locator(".more", { hasText: "Bremen" }).waitFor();
  await tab.getByRole("button", { name: "Add" }).blur();
  const path = new URL("../../../docs/live.png", import.meta.url).pathname;
  await tab.screenshot({ path });
  await client.close();
} finally {
  await browser.close();
  await proxy.stop();
  await server.stop();
}
