// Bundles the browser's entry into one minified module, dist/bellwire.min.js. Members that are not public get short
// names. A name is public if a declaration in dist/*.d.ts has it: tsc leaves internal members out.
import { readFileSync, readdirSync, writeFileSync } from "node:fs";

import { build } from "esbuild";
import { minify } from "terser";
import ts from "typescript";

const read = (file) => readFileSync(`dist/${file}`, "utf8");
const words = (text) => text.match(/[A-Za-z_]\w*/g) ?? [];

/** The files whose declarations an application sees. */
const PUBLIC = [
  "index", "api", "client", "delivery", "options", "outcome", "payload", "stream", "subscription",
  "websocket", "core", "cursor", "iteration",
];
/** Classes of the system that the client uses, and what it uses of classes that Node lacks. */
const SYSTEM = [
  Object, Function, Array, ArrayBuffer, Uint8Array, Map, Set, Promise, String, Number, RegExp, Error, Math, JSON, Symbol, URL,
  TextDecoder, TextEncoder, AbortSignal, EventTarget,
];
const WEB_SOCKET =
  "protocol binaryType onopen onmessage onerror onclose code reason data bufferedAmount send close cause now " +
  "ignoreBOM written value done once readyState";
/** Keys of attributes on the wire. */
const WIRE = "version session keys auth epoch next after retry last ttl key";
/** What classes of the system have, and only the client's own objects use. */
const OWN = new Set(words("link repeat message"));

function builtin() {
  const names = (object) => Object.getOwnPropertyNames(object ?? {});
  const parents = [Uint8Array, Map.prototype.entries.call(new Map())].map(Object.getPrototypeOf);
  const all = [...SYSTEM, ...parents, globalThis].flatMap((one) => [...names(one), ...names(one.prototype)]);
  return [...all, ...words(WEB_SOCKET), ...words(WIRE)];
}

const declarations = PUBLIC.map((name) => read(`${name}.d.ts`)).join("\n");
const visible = declarations.replace(/\/\*\*.*?\*\/|".*?"|^\s*private .*?$/gms, "");
const reserved = new Set([...words(visible), ...builtin()].filter((name) => !OWN.has(name)));
const bundled = await build({
  entryPoints: ["dist/index.js"],
  bundle: true,
  write: false,
  format: "esm",
  target: "es2022",
});
const { text } = bundled.outputFiles[0];

/** All names of members, and the members of each class with those that it extends: no object has two of these. */
function members() {
  const [names, found, parents] = [new Set(), new Map(), new Map()];
  const visit = (node, own) => {
    if (ts.isClassLike(node)) {
      const name = node.name?.text ?? node.parent.name.text;
      parents.set(name, node.heritageClauses?.[0].types[0].expression.text);
      // An alias of the class within itself.
      const alias = node.parent.name?.text;
      if (alias && alias !== name) parents.set(alias, name);
      found.set(name, (own = new Set()));
    }
    const name = (node.propertyName ?? node.name)?.text;
    const isMember =
      ts.isPropertyAccessExpression(node) || ts.isObjectLiteralElementLike(node) || ts.isClassElement(node) ||
      (ts.isBindingElement(node) && ts.isObjectBindingPattern(node.parent));
    if (isMember && name) names.add(name);
    const isOwn = ts.isClassElement(node) || node.expression?.kind === ts.SyntaxKind.ThisKeyword;
    if (isMember && isOwn && name) own?.add(name);
    ts.forEachChild(node, (child) => visit(child, own));
  };
  visit(ts.createSourceFile("bundle.js", text, ts.ScriptTarget.ES2022, true));
  const root = (name) => (parents.get(name) ? root(parents.get(name)) : name);
  const classes = new Map();
  for (const [name, own] of found) classes.set(root(name), new Set([...(classes.get(root(name)) ?? []), ...own]));
  return { names, classes: [...classes.values()] };
}

/** Short names, which members of different classes share: that is smaller, and is better compressed. */
function shortNames() {
  const { names, classes } = members();
  const count = (name) => text.split(new RegExp(`\\b${name}\\b`)).length;
  const internal = [...names].filter((name) => /^\w+$/.test(name) && !reserved.has(name)).sort((a, b) => count(b) - count(a));
  // The order was found by trial: this one compresses best.
  const letters = [..."gtzweylsJiqdchkvrbIDmajfxuOnCBEFGHAKoLMNpPQRSTUVWXYZ"];
  const all = [...letters, ...letters.map((letter) => `_${letter}`)];
  const short = new Map();
  const meet = (one, other) => {
    const [mine, others] = [one, other].map((name) => classes.filter((own) => own.has(name)));
    return !mine.length || !others.length || mine.some((own) => others.includes(own));
  };
  for (const name of internal) {
    const taken = new Set([...short.keys()].filter((other) => meet(name, other)).map((other) => short.get(other)));
    short.set(name, all.find((letter) => !taken.has(letter)));
  }
  return short;
}

const short = shortNames();
const cache = { props: { props: Object.fromEntries([...short].map(([name, letter]) => [`$${name}`, letter])) } };
const { code } = await minify(text, {
  module: true,
  ecma: 2022,
  compress: { passes: 3, pure_getters: true, unsafe_arrows: true, unsafe_methods: true, reduce_funcs: false, inline: 1 },
  mangle: { properties: { builtins: true, regex: new RegExp(`^(${[...short.keys()].join("|")})$`) } },
  nameCache: cache,
});
writeFileSync("dist/bellwire.min.js", code);
