// What requests send, and what their callers learn: without a network and without a system clock.
import assert from "node:assert/strict";
import { test } from "node:test";

import { NotSentError, RefusedError, UnknownError } from "../dist/node.js";
import { FakeClient, outcome, settle } from "./fake.js";

test("an item of a streamed reply frees no place in flight", async () => {
  const client = new FakeClient();
  await client.greet();
  const stream = client.stream("s");
  void outcome(client.call("m", "1"));
  void outcome(client.call("m", "2"));
  await settle();
  await client.says("1 more a", "1 more b");
  assert.deepEqual(client.connection.lines, ["1 s", "2 m 1"]);
  await client.says("1 ok");
  assert.deepEqual(client.connection.lines.slice(2), ["3 m 2"]);
  stream.leave();
  client.abort();
});

test("credit goes back for as many items as were taken, when they are half of the window", async () => {
  const client = new FakeClient();
  await client.greet();
  const stream = client.stream("s", "", { window: 5 });
  await settle();
  await client.says("1 more a", "1 more b", "1 more c");
  await stream.next();
  await stream.next();
  await settle();
  assert.deepEqual(client.connection.lines, ["1 s;window=5"]);
  await stream.next();
  await settle();
  assert.deepEqual(client.connection.lines.slice(1), ["* /more 1 3"]);
  const even = client.stream("s", "", { window: 4 });
  await settle();
  await client.says("2 more a", "2 more b");
  await even.next();
  await even.next();
  await settle();
  assert.deepEqual(client.connection.lines.slice(2), ["2 s;window=4", "* /more 2 2"]);
  client.abort();
});

test("for items that are taken behind the end of a streamed reply, no credit is given", async () => {
  const client = new FakeClient();
  await client.greet();
  const stream = client.stream("s", "", { window: 2 });
  await settle();
  await client.says("1 more a", "1 more b", "1 ok c");
  const texts = [];
  for await (const item of stream) texts.push(item.text());
  assert.deepEqual(texts, ["a", "b", "c"]);
  await settle();
  assert.deepEqual(client.connection.lines, ["1 s;window=2"]);
  client.abort();
});

test("a streamed reply that was left yields nothing more, and is cancelled once", async () => {
  const client = new FakeClient();
  await client.greet();
  const stream = client.stream("s", "", { window: 1 });
  await settle();
  stream.leave();
  await client.says("1 more a", "1 more b", "1 cut cancelled");
  assert.deepEqual(await stream.next(), { value: undefined, done: true });
  assert.deepEqual(client.connection.lines, ["1 s;window=1", "* /cancel 1"]);
  assert.equal(client.stats.replies, 0);
  client.abort();
});

test("the error of a streamed reply is told once, behind the last item", async () => {
  const client = new FakeClient();
  await client.greet();
  const stream = client.stream("s");
  await settle();
  await client.says("1 more a", "1 err broken");
  assert.equal((await stream.next()).value.text(), "a");
  await assert.rejects(stream.next(), { name: "FailedError", code: "broken" });
  assert.deepEqual(await stream.next(), { value: undefined, done: true });
  client.abort();
});

test("the deadline of a streamed reply is for its end if it has one of its own, and else for its first item", async () => {
  const client = new FakeClient({ deadline: 500 });
  await client.greet();
  const [bounded, unbounded, late] = [{ deadline: 500 }, {}, {}].map((options) => client.stream("s", "", options));
  await settle();
  await client.says("1 more a", "2 more b");
  await client.fakeClock.advance(500);
  assert.equal((await bounded.next()).value.text(), "a");
  await assert.rejects(bounded.next(), { name: "UnknownError", code: "deadline" });
  await assert.rejects(late.next(), { name: "NotSentError", code: "deadline" });
  await client.says("2 more c", "2 ok");
  const texts = [];
  for await (const item of unbounded) texts.push(item.text());
  assert.deepEqual(texts, ["b", "c"]);
  client.abort();
});

test("a stream of which an item has come is not sent again behind a bye", async () => {
  const client = new FakeClient();
  await client.greet();
  const stream = client.stream("s");
  await settle();
  await client.says("1 more a", "* /bye;last=0 shutdown");
  client.connection.events.end(new Error("closed"));
  assert.equal((await stream.next()).value.text(), "a");
  await assert.rejects(stream.next(), { name: "UnknownError", code: "lost" });
  client.abort();
});

test("a publish that is given up is not cancelled on the wire", async () => {
  const client = new FakeClient();
  const abort = new AbortController();
  await client.greet();
  const publishing = client.publish("t", "x", { signal: abort.signal }).catch((error) => error);
  await settle();
  abort.abort();
  assert.ok((await publishing) instanceof UnknownError);
  await settle();
  assert.deepEqual(client.connection.lines, ["1 /publish t x"]);
  client.abort();
});

test("an empty message is published without a space behind its topic", async () => {
  const client = new FakeClient();
  await client.greet();
  const publishing = client.publish("t");
  await settle();
  assert.deepEqual(client.connection.lines, ["1 /publish t"]);
  await client.says("1 ok;epoch=e;seq=4");
  assert.deepEqual(await publishing, { epoch: "e", seq: 4, position: "e:5" });
  client.abort();
});

test("a ttl is what is left of the deadline when the request is sent, and methods have none", async () => {
  const client = new FakeClient();
  const calls = [client.call("m", "", { deadline: 1000 }), client.methods({ deadline: 1000 })];
  await client.fakeClock.advance(400);
  await client.greet();
  assert.deepEqual(client.connection.lines, ["1 m;ttl=600", "2 /methods"]);
  await client.says("1 no;retry=100 busy");
  await client.fakeClock.advance(350);
  const [, ttl] = /^3 m;ttl=(\d+)$/.exec(client.connection.lines[2]);
  assert.ok(Number(ttl) >= 250 && Number(ttl) <= 500, ttl);
  void calls.map((call) => call.catch(() => {}));
  client.abort();
});

test("the documentation of a method is all that follows its name", async () => {
  const client = new FakeClient();
  await client.greet();
  const methods = client.methods();
  await settle();
  await client.says("1 more offers.add Adds an offer.\x10J{\"title\": TEXT}", "1 more plain", "1 ok");
  assert.deepEqual(await methods, [
    { name: "offers.add", doc: "Adds an offer.\n{\"title\": TEXT}" },
    { name: "plain", doc: "" },
  ]);
  client.abort();
});

test("the methods are asked for again after a loss", async () => {
  const client = new FakeClient();
  await client.greet();
  const methods = client.methods();
  await settle();
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(250);
  await client.greet();
  assert.deepEqual(client.connection.lines, ["2 /methods"]);
  await client.says("2 more m", "2 ok");
  assert.deepEqual(await methods, [{ name: "m", doc: "" }]);
  client.abort();
});

test("a refusal tells its retry, and a caller that waits for it learns the refusal at its deadline", async () => {
  const client = new FakeClient();
  await client.greet();
  const call = outcome(client.call("m", "", { deadline: 500 }));
  await settle();
  await client.says("1 no;retry=600 rate");
  await client.fakeClock.advance(500);
  const error = await call;
  assert.ok(error instanceof RefusedError);
  assert.deepEqual([error.code, error.retry, error.mayHaveRun], ["rate", 600, false]);
  client.abort();
});

test("a call that is refused as closing goes on at the next connection, behind its retry if it has one", async () => {
  const client = new FakeClient();
  await client.greet();
  const calls = [outcome(client.call("m", "1")), outcome(client.call("m", "2"))];
  await settle();
  await client.says("* /bye shutdown", "1 no closing", "2 no;retry=5000 closing");
  await client.fakeClock.advance(250);
  await client.greet();
  assert.deepEqual(client.connection.lines, ["3 m 1"]);
  await client.says("3 ok one");
  await client.fakeClock.advance(4700);
  assert.deepEqual(client.connection.lines.filter((line) => / m /.test(line)), ["3 m 1"]);
  client.answer = (line) => / m 2$/.test(line) && `${line.split(" ")[0]} ok two`;
  await client.fakeClock.advance(6000);
  assert.deepEqual(await Promise.all(calls), ["one", "two"]);
  client.abort();
});

test("a call that was cut because the server closes is sent again if it is idempotent, and not for its key", async () => {
  const client = new FakeClient();
  await client.greet();
  const calls = [{ idempotent: true }, { key: "k" }].map((options) => outcome(client.call("m", "", options)));
  await settle();
  assert.deepEqual(client.connection.lines, ["1 m", "2 m;key=k"]);
  await client.says("* /bye shutdown", "1 cut closing", "2 cut closing");
  await client.fakeClock.advance(250);
  await client.greet();
  assert.deepEqual(client.connection.lines, ["3 m"]);
  await client.says("3 ok again");
  assert.equal(await calls[0], "again");
  assert.ok((await calls[1]) instanceof UnknownError);
  client.abort();
});

test("an idempotent call whose repeat cannot be sent may have run", async () => {
  const client = new FakeClient();
  await client.greet();
  const call = outcome(client.call("m", "", { idempotent: true, deadline: 1000 }));
  await settle();
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(1000);
  const error = await call;
  assert.ok(error instanceof UnknownError);
  assert.equal(error.code, "deadline");
  client.abort();
});

test("a repeat that is refused with a retry is sent again, and the call may have run if there is no time for that", async () => {
  const client = new FakeClient();
  await client.greet();
  const calls = [{ idempotent: true }, { key: "k", deadline: 3000 }].map((options) =>
    outcome(client.call("m", "", options)));
  await settle();
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(250);
  await client.greet();
  assert.deepEqual(client.connection.lines, ["3 m", "4 m;ttl=2750;key=k"]);
  await client.says("3 no;retry=1000 busy", "4 no;retry=5000 busy");
  await client.fakeClock.advance(1000);
  assert.equal(client.connection.lines.length, 2);
  await client.fakeClock.advance(1000);
  assert.deepEqual(client.connection.lines.filter((line) => / m/.test(line)).slice(2), ["5 m"]);
  await client.says("5 ok again");
  assert.equal(await calls[0], "again");
  await client.fakeClock.advance(1000);
  const error = await calls[1];
  assert.ok(error instanceof UnknownError && error.cause instanceof RefusedError, error);
  assert.deepEqual([error.code, error.cause.code], ["busy", "busy"]);
  client.abort();
});

test("a key is good for as many seconds as the server says, from the first sending on", async () => {
  const client = new FakeClient();
  await client.greet("* /hello;version=1;in-flight=2;keys=b7q2:5");
  const calls = ["1", "2"].map((key) => outcome(client.call("m", "", { key })));
  await settle();
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(4000);
  await client.greet("* /hello;version=1;in-flight=1;keys=b7q2:5");
  assert.deepEqual(client.connection.lines, ["3 m;key=1"]);
  await client.fakeClock.advance(1000);
  await client.says("3 ok one");
  assert.equal(await calls[0], "one");
  assert.ok((await calls[1]) instanceof UnknownError);
  assert.deepEqual(client.connection.lines.filter((line) => line.includes("key=2")), []);
  client.abort();
});

test("a head of 2,048 bytes is sent, and a longer one is not", async () => {
  const client = new FakeClient();
  await client.greet();
  const keys = Array.from({ length: 8 }, (_, n) => [`a.${n}`, "x".repeat(250)]);
  for (const [length, isSent] of [[2048, true], [2049, false]]) {
    const name = "m".repeat(length - "1 ".length - 8 * ";a.0=".length - 8 * 250);
    const call = outcome(client.call(name, "", { attributes: Object.fromEntries(keys) }));
    await settle();
    assert.equal(client.connection.lines.length, 1);
    assert.equal(client.connection.lines[0].length, 2048);
    if (isSent) await client.says("1 ok");
    else assert.ok((await call) instanceof NotSentError);
  }
  client.abort();
});

test("a request with 32 attributes is sent, and one with more is not", async () => {
  const client = new FakeClient();
  await client.greet();
  const attributes = Object.fromEntries(Array.from({ length: 31 }, (_, n) => [`a.${n}`, "x"]));
  const call = outcome(client.call("m", "", { attributes, deadline: 1000 }));
  await settle();
  await client.says("1 ok");
  assert.equal(await call, "");
  const more = { attributes: { ...attributes, "a.31": "x" }, deadline: 1000 };
  for (const error of [await outcome(client.call("m", "", more)), await client.oneWay("m", "", more).catch((one) => one)]) {
    assert.ok(error instanceof NotSentError);
    assert.equal(error.code, "too-large");
  }
  assert.equal(client.connection.lines.length, 1);
  client.abort();
});
