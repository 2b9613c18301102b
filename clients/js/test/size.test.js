// The browser build, minified and gzipped.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const MOST = 8192;

test("the browser build has at most 8,192 bytes, minified and gzipped", () => {
  const code = readFileSync(new URL("../dist/bellwire.min.js", import.meta.url));
  const size = gzipSync(code, { level: 9 }).length;
  console.log(`bellwire.min.js: ${code.length} bytes, gzipped ${size} of at most ${MOST}`);
  assert.ok(size <= MOST, `${size} bytes`);
});
