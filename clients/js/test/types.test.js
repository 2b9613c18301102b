// The declarations, as an application's compiler sees them.
import assert from "node:assert/strict";
import { test } from "node:test";

import { run } from "./support.js";

test("the declarations allow what they should, and refuse the rest", async () => {
  const root = new URL("..", import.meta.url).pathname;
  const flags = "--noEmit --strict --target es2022 --module nodenext --types node --lib es2022,dom test/types.ts";
  const { code, stdout } = await run(process.execPath, ["node_modules/typescript/bin/tsc", ...flags.split(" ")], { cwd: root });
  assert.equal(code, 0, stdout);
});
