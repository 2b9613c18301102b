// Puts the browser build into the live page, examples/live/page, with a mark of the sources that it is built from.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = (path) => new URL(path, import.meta.url);
const TARGET = here("../../examples/live/page/bellwire.min.js");

/** The first line of the copy: what it is built from. */
function mark() {
  const hash = createHash("sha256");
  const sources = readdirSync(here("src")).sort().map((name) => `src/${name}`);
  for (const path of [...sources, "build.js", "package-lock.json"]) hash.update(readFileSync(here(path)));
  return `// Built from clients/js by \`npm run page\`. Sources: ${hash.digest("hex").slice(0, 16)}\n`;
}

/** Whether the copy in the page is built from these sources. */
export const isCurrent = () => readFileSync(TARGET, "utf8").startsWith(mark());

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  writeFileSync(TARGET, mark() + readFileSync(here("dist/bellwire.min.js"), "utf8"));
}
