// The minified build keeps every name that an application may use: members, options, fields of events and of deliveries.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import ts from "typescript";

const entry = new URL("../dist/index.d.ts", import.meta.url).pathname;
const min = readFileSync(new URL("../dist/bellwire.min.js", import.meta.url), "utf8");

/** All names of members that can be reached from what the package exports. */
function publicNames() {
  const options = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.NodeNext, strict: true, types: [] };
  const program = ts.createProgram([entry], options);
  const checker = program.getTypeChecker();
  const [names, seen] = [new Set(), new Set()];
  const isOurs = (symbol) => symbol?.declarations?.some((node) => node.getSourceFile().fileName.includes("/dist/"));
  const isPrivate = (symbol) =>
    symbol.declarations.some((node) => ts.getCombinedModifierFlags(node) & ts.ModifierFlags.Private);
  const visit = (type) => {
    if (seen.has(type)) return;
    seen.add(type);
    for (const part of type.types ?? type.typeArguments ?? []) visit(part);
    for (const signature of [...type.getCallSignatures(), ...type.getConstructSignatures()]) {
      visit(signature.getReturnType());
      for (const parameter of signature.parameters) visit(checker.getTypeOfSymbol(parameter));
    }
    for (const property of type.getProperties()) {
      if (!isOurs(property) || isPrivate(property)) continue;
      if (/^\w+$/.test(property.name) && property.name !== "prototype") names.add(property.name);
      visit(checker.getTypeOfSymbol(property));
    }
  };
  for (const symbol of checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(entry)))) {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
    visit(checker.getDeclaredTypeOfSymbol(target));
    if (target.valueDeclaration) visit(checker.getTypeOfSymbol(target));
  }
  return [...names];
}

test("the minified build keeps every public name", () => {
  const names = publicNames();
  // Some that are found in different ways.
  for (const name of ["pendingBytes", "mayHaveRun", "redelivered", "delay", "reached", "manualAck", "position", "tokens"]) {
    assert.equal(names.includes(name), name !== "tokens", name);
  }
  const lost = names.filter((name) => !new RegExp(`[.{,]${name}\\b|\\b${name}[(:]`).test(min));
  assert.deepEqual(lost, []);
});
