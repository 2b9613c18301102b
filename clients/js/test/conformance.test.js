// The conformance kit with this client: all client cases of all levels, and none is skipped.
import assert from "node:assert/strict";
import { readFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { binary, run } from "./support.js";

for (const build of ["node", "min"]) {
  test(`all conformance cases pass with the build ${build}`, async () => {
    const dir = mkdtempSync(join(tmpdir(), "bellwire-"));
    const report = join(dir, "report.json");
    const testee = new URL("../conformance.js", import.meta.url).pathname;
    const args = ["run", "client", "--patience", "20000", "--json", report, "--", process.execPath, testee, build];
    const { code, stdout, stderr } = await run(binary("BELLWIRE_CONFORMANCE"), args);
    console.log(`${build}:\n${stdout.trim()}`);
    assert.equal(code, 0, stderr);
    const { cases } = JSON.parse(readFileSync(report, "utf8"));
    rmSync(dir, { recursive: true });
    assert.ok(cases.length > 200, `only ${cases.length} cases`);
    assert.deepEqual(cases.filter(({ outcome }) => outcome !== "passed").map(({ name }) => name), []);
  });
}
