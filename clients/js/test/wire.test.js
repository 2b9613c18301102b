// The vectors of docs/protocol/vectors.json, and the limits of lines.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Lines } from "../dist/lines.js";
import { encode, parse } from "../dist/wire.js";
import { FakeClient, HELLO } from "./fake.js";

const vectors = JSON.parse(readFileSync(new URL("../../../docs/protocol/vectors.json", import.meta.url), "utf8"));
const bytes = (hex) => new Uint8Array(Buffer.from(hex, "hex"));
const line = (hex) => new Uint8Array([...bytes(hex), 10]);

test("bodies are stuffed and unstuffed as the vectors say", () => {
  for (const { name, verdict, plain, hex } of vectors.body) {
    const read = () => Buffer.from(parse(new Uint8Array([...Buffer.from("1 ok "), ...bytes(hex)])).body).toString("hex");
    if (verdict === "bad") assert.throws(read, undefined, name);
    else {
      assert.equal(read(), plain, name);
      const written = Buffer.from(encode("1 m", bytes(plain), 65_535)).toString("hex");
      const sp = hex ? "20" : "";
      assert.equal(written, `31206d${sp}${hex}0a`, name);
    }
  }
});

test("a client goes on behind good lines and closes behind bad ones", () => {
  let count = 0;
  for (const { name, direction, verdict, hex } of vectors.lines) {
    if (direction === "request") continue;
    const client = new FakeClient({ reconnect: false });
    const { link } = client;
    if (direction === "reply") link.data(Buffer.from(HELLO));
    link.data(line(hex));
    // These are well-formed, and reasons to close all the same.
    const isRefused = /^\* (\/hello;version=[^1]|\/error\S* id-order)/.test(Buffer.from(hex, "hex").toString("latin1"));
    if (!isRefused || verdict === "bad") assert.equal(!!link.over, verdict === "bad", name);
    client.abort();
    count++;
  }
  assert.ok(count > 50, `only ${count} vectors`);
});

test("any split of the bytes gives the same lines", () => {
  const stream = Buffer.from("* /hello;version=1\n1 ok x\n* t 1 y\n");
  for (let at = 0; at <= stream.length; at++) {
    const lines = new Lines(1024);
    const parts = [stream.subarray(0, at), stream.subarray(at)].map((part) => lines.push(part));
    assert.equal(Buffer.concat(parts).toString(), stream.toString());
  }
});

test("a line without an end is not held beyond the limit", () => {
  const lines = new Lines(100);
  assert.ok(lines.push(new Uint8Array(60)));
  assert.equal(lines.push(new Uint8Array(60)), undefined);
  // The LF counts.
  assert.ok(new Lines(100).push(new Uint8Array(99)));
  assert.equal(new Lines(100).push(new Uint8Array(100)), undefined);
});

test("pieces of lines that ended do not count for the next one", () => {
  const lines = new Lines(100);
  const piece = Buffer.from(`${"x".repeat(59)}\n${"y".repeat(30)}`);
  for (let n = 0; n < 10; n++) assert.ok(lines.push(piece));
});

test("a head of 2,048 bytes is read, and a longer one is malformed", () => {
  const keys = Array.from({ length: 8 }, (_, n) => `;k${n}=${"x".repeat(250)}`).join("");
  for (const [length, isGood] of [[2048, true], [2049, false]]) {
    const head = `1 ok${keys};a=`;
    const read = () => parse(Buffer.from(`${head}${"x".repeat(length - head.length)} body`));
    if (isGood) assert.equal(Buffer.from(read().body).toString(), "body");
    else assert.throws(read, { message: "malformed" });
  }
});

test("an attribute may have any name, and one of objects, too", () => {
  const { attributes } = parse(Buffer.from("1 ok;constructor=1"));
  assert.deepEqual({ ...attributes }, { constructor: "1" });
  assert.equal(parse(Buffer.from("1 ok")).attributes.constructor, undefined);
});

test("a body shares no memory with the bytes that were read", () => {
  const bytes = new Uint8Array(Buffer.from("1 ok a\x10Jb"));
  const { body } = parse(bytes);
  assert.equal(Buffer.from(bytes).toString(), "1 ok a\x10Jb");
  bytes.fill(0);
  assert.equal(Buffer.from(body).toString(), "a\nb");
});

test("a line that is too long for the server is not encoded", () => {
  assert.equal(encode("1 m", new Uint8Array(100), 105).length, 105);
  assert.equal(encode("1 m", new Uint8Array(100), 104), undefined);
  assert.equal(encode("1 m", new Uint8Array([10]), 6), undefined);
});
