// The examples of README.md, each as a program of its own, against the real server. What follows `// →` is printed.
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { test } from "node:test";

import { run, startServer, within } from "./support.js";

const root = new URL("..", import.meta.url).pathname;
const readme = readFileSync(`${root}/README.md`, "utf8");
const blocks = [...readme.matchAll(/^```js\n(.*?)^```/gms)].map(([, code]) => code);

test("the README's examples print what they say", async (t) => {
  const server = await startServer();
  t.after(() => server.stop());
  // Inside the package, so that `bellwire` is this package.
  const dir = `${root}/dist/readme`;
  mkdirSync(dir, { recursive: true });
  t.after(() => rmSync(dir, { recursive: true }));
  assert.ok(blocks.length >= 6, `only ${blocks.length} examples`);
  for (const [number, code] of blocks.entries()) {
    const file = `${dir}/${number}.mjs`;
    const browser = 'import WebSocket from "ws";\nglobalThis.WebSocket = WebSocket;\n';
    const isBrowser = code.includes('"bellwire"');
    const real = code.replace("127.0.0.1:7440", server.address).replace("wss://offers.example/bellwire", server.webSocket);
    writeFileSync(file, (isBrowser ? browser : "") + real);
    const expected = [...code.matchAll(/\/\/ → (.*)$/gm)].map(([, text]) => text);
    const { code: exit, stdout, stderr } = await within(`example ${number}`, run(process.execPath, [file]));
    assert.equal(exit, 0, `${code}\n${stderr}`);
    assert.deepEqual(stdout.trim().split("\n"), expected, code);
  }
});
