// The declarations, as an application's compiler sees them.
import assert from "node:assert/strict";
import { test } from "node:test";

import { run } from "./support.js";

const settings = {
  "for Node, without the types of browsers": "--module node16 --lib es2022",
  "for a bundler": "--module esnext --moduleResolution bundler --lib es2022,dom",
};
for (const [name, more] of Object.entries(settings)) {
  test(`the declarations allow what they should, and refuse the rest, ${name}`, async () => {
    const root = new URL("..", import.meta.url).pathname;
    const flags = `--noEmit --strict --exactOptionalPropertyTypes --target es2022 --types node ${more} test/types.ts`;
    const args = ["node_modules/typescript/bin/tsc", ...flags.split(" ")];
    const { code, stdout } = await run(process.execPath, args, { cwd: root });
    assert.equal(code, 0, stdout);
  });
}
