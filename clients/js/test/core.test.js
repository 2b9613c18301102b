// The core by itself: what it does in which moment, without a network and without a system clock.
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";

import { Client } from "../dist/client.js";
import { NotSentError, RefusedError, UnknownError } from "../dist/node.js";
import { FakeClient, FakeClock, outcome, renews, settle, subscribe } from "./fake.js";

test("requests above the places in flight wait for a terminal line", async () => {
  const client = new FakeClient();
  await client.greet();
  const calls = ["a", "b", "c"].map((text) => client.call("echo", text));
  await settle();
  assert.deepEqual(client.connection.lines, ["1 echo a", "2 echo b"]);
  await client.says("2 ok B");
  assert.deepEqual(client.connection.lines.slice(2), ["3 echo c"]);
  await client.says("1 ok A", "3 ok C");
  assert.deepEqual(await Promise.all(calls.map(outcome)), ["A", "B", "C"]);
});

test("a call that ends before it is written is not sent, and one behind that is unknown and cancelled", async () => {
  const client = new FakeClient();
  const early = outcome(client.call("m", "", { deadline: 50 }));
  await client.fakeClock.advance(50);
  assert.ok((await early) instanceof NotSentError);
  assert.equal((await early).code, "deadline");
  await client.greet();
  const late = outcome(client.call("m", "", { deadline: 50 }));
  await settle();
  await client.fakeClock.advance(50);
  assert.ok((await late) instanceof UnknownError);
  assert.deepEqual(client.connection.lines, ["1 m;ttl=50", "* /cancel 1"]);
});

test("an abort signal cancels on the wire, and its reason is the cause", async () => {
  const client = new FakeClient();
  const abort = new AbortController();
  await client.greet();
  const call = outcome(client.call("m", "", { signal: abort.signal }));
  await settle();
  abort.abort("not needed");
  const error = await call;
  assert.ok(error instanceof UnknownError);
  assert.deepEqual([error.code, error.cause], ["cancelled", "not needed"]);
  await settle();
  assert.deepEqual(client.connection.lines, ["1 m", "* /cancel 1"]);
  const before = await outcome(client.call("m", "", { signal: AbortSignal.abort("no") }));
  assert.ok(before instanceof NotSentError);
});

test("while the transport takes nothing, requests wait and can still be taken back", async () => {
  const client = new FakeClient();
  await client.greet();
  client.connection.takes = false;
  const first = outcome(client.call("m", "1"));
  await settle();
  const second = outcome(client.call("m", "2", { deadline: 10 }));
  await settle();
  await client.fakeClock.advance(10);
  assert.ok((await second) instanceof NotSentError);
  client.connection.events.drain();
  await client.says("1 ok one");
  assert.equal(await first, "one");
});

test("waiting requests are bounded", async () => {
  const client = new FakeClient({ pendingBytes: 3 * 1024 + 10 });
  const calls = ["", "0123456789", "x", ""].map((body) => outcome(client.call("m", body)));
  assert.equal((await calls[2]).code, "too-many");
  await client.greet();
  assert.deepEqual(client.connection.lines, ["1 m", "2 m 0123456789"]);
  await client.says("1 ok", "2 ok");
  assert.deepEqual(client.connection.lines.slice(2), ["3 m"]);
});

test("the pauses before attempts to connect grow, and are random", async () => {
  const client = new FakeClient();
  const times = [];
  for (let n = 0; n < 8; n++) {
    const count = client.dials.length;
    client.connection.events.end(new Error("refused"));
    while (client.dials.length === count) await client.fakeClock.advance(1);
    times.push(client.fakeClock.time);
  }
  // Window n ends at 250 * (2^(n+1) - 1), and the attempt is at 10 to 100 % of it.
  times.forEach((time, n) => {
    const [begin, length] = [250 * (2 ** n - 1), Math.min(30_000, 250 * 2 ** n)];
    assert.ok(time >= begin + 0.1 * length - 1 && time <= begin + length + 9, `${n}: ${time}`);
  });
});

test("the pause before an attempt is from 10 to 100 % of its window", async (t) => {
  for (const [random, pause] of [[0, 25], [0.5, 137.5], [0.999, 249.775]]) {
    t.mock.method(Math, "random", () => random);
    const client = new FakeClient();
    client.connection.events.end(new Error("refused"));
    await client.fakeClock.advance(pause - 0.1);
    assert.equal(client.dials.length, 1, `${random}`);
    await client.fakeClock.advance(0.2);
    assert.equal(client.dials.length, 2, `${random}`);
    t.mock.restoreAll();
    client.abort();
  }
});

test("a line that is longer than the client reads closes the connection, and one that is not is read", async () => {
  // The LF counts.
  for (const [length, closed] of [[2_047, false], [2_048, true]]) {
    const client = new FakeClient({ maxLine: 2_048 });
    await client.greet();
    await client.says(`* unknown 1 ${"x".repeat(length - 12)}`);
    assert.equal(client.connection.closed, closed, `${length}`);
    client.abort();
  }
});

test("the retry of a bye holds for its address only", async () => {
  const client = new FakeClient({}, ["a", "b"]);
  await client.greet();
  await client.says("* /bye;last=0;retry=60000 busy");
  client.connection.events.end(new Error("closed"));
  await client.fakeClock.advance(300);
  assert.equal(client.connection.address, "b");
  client.connection.events.end(new Error("refused"));
  await client.fakeClock.advance(59_000);
  assert.ok(client.dials.slice(1).every(({ address }) => address === "b"));
});

test("reconnect tries at once, and not sooner than 250 ms after the last round", async () => {
  const client = new FakeClient();
  for (let n = 0; n < 9; n++) {
    client.connection.events.end(new Error("refused"));
    await client.fakeClock.advance(31_000);
  }
  client.connection.events.end(new Error("refused"));
  const count = client.dials.length;
  client.reconnect();
  await client.fakeClock.advance(249);
  assert.equal(client.dials.length, count);
  await client.fakeClock.advance(1);
  assert.equal(client.dials.length, count + 1);
});

test("the lease is renewed from half to four fifths of its time, with nothing subscribed, too", async () => {
  const client = new FakeClient();
  const times = [];
  const answer = renews(() => "");
  client.answer = (line) => {
    if (line.endsWith("/renew")) times.push(client.fakeClock.time);
    return answer(line);
  };
  await client.greet();
  await client.fakeClock.advance(300_000);
  const pauses = times.slice(1).map((time, n) => time - times[n]);
  assert.ok(times[0] <= 5000 && pauses.length >= 6, `${times}`);
  for (const pause of pauses) assert.ok(pause >= 30_000 && pause <= 48_000, `${pauses}`);
});

test("a silent server is probed, has time to answer, and is given up then", async () => {
  const client = new FakeClient({ probe: 1000 });
  await client.greet();
  const call = outcome(client.call("m"));
  await client.fakeClock.advance(1500);
  assert.deepEqual(client.connection.lines, ["1 m", "2 /renew"]);
  await client.says("2 ok;lease=60");
  await client.fakeClock.advance(900);
  assert.equal(client.state, "open");
  await client.fakeClock.advance(2000);
  assert.notEqual(client.state, "open");
  assert.equal((await call).code, "lost");
});

test("a list of renew that lacks a topic, and a hole that it shows, are noticed", async () => {
  const client = new FakeClient();
  await client.greet();
  const subscribing = client.subscribe("offers");
  await settle();
  await client.says("1 ok;epoch=e;next=5;head=4;lease=60");
  const offers = await subscribing;
  let list = "offers:e:7 other:e:1";
  client.answer = renews(() => list);
  await client.fakeClock.advance(5000);
  assert.deepEqual((await offers.next()).value, { type: "gap", epoch: "e", first: 5, last: 6, reason: "lost" });
  list = "";
  await client.fakeClock.advance(48_000);
  const asked = client.connection.lines.filter((line) => line.endsWith("/subscribe;from=e:7 offers"));
  assert.equal(asked.length, 1);
});

test("while too much waits to be taken, a subscription leaves the topic, and goes on there later", async () => {
  const client = new FakeClient();
  await client.greet();
  const subscribing = client.subscribe("t", { bufferMessages: 2 });
  await settle();
  await client.says("1 ok;epoch=e;next=1;head=0");
  const topic = await subscribing;
  await client.says("* t 1 a", "* t 2 b", "* t 3 c", "* t 4 d");
  assert.deepEqual(client.connection.lines.slice(1), ["2 /unsubscribe t"]);
  await client.says("2 ok;next=e:5");
  await client.fakeClock.advance(1000);
  assert.equal(client.connection.lines.length, 2);
  const texts = [];
  for (let n = 0; n < 3; n++) {
    assert.equal(client.connection.lines.length, 2);
    texts.push((await topic.next()).value.text());
  }
  assert.deepEqual(texts, ["a", "b", "c"]);
  await settle();
  assert.equal(client.connection.lines.at(-1), "3 /subscribe;from=e:4 t");
  await client.says("3 ok;epoch=e;next=4;head=4", "* t 4 d");
  assert.equal((await topic.next()).value.text(), "d");
  assert.equal(client.stats.notifications, 0);
});

test("an automatic ack comes when the next message is asked for", async () => {
  const client = new FakeClient();
  await client.greet();
  const subscribing = client.subscribe("t", { window: 2 });
  await settle();
  await client.says("1 ok;epoch=e;next=1;head=0");
  const topic = await subscribing;
  await client.says("* t 1 a");
  await topic.next();
  await settle();
  assert.equal(client.connection.lines.length, 1);
  void topic.next();
  await settle();
  assert.equal(client.connection.lines.at(-1), "* /ack t e:2");
});

test("a keyed call is repeated at the same key table only", async () => {
  const client = new FakeClient();
  await client.greet();
  const call = outcome(client.call("pay", "40", { key: "k1" }));
  await settle();
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(300);
  await client.greet("* /hello;version=1;keys=other:300");
  assert.ok((await call) instanceof UnknownError);
  assert.deepEqual(client.connection.lines, []);
});

test("an idempotent call is sent again after a loss", async () => {
  const client = new FakeClient();
  await client.greet();
  const call = outcome(client.call("get", "1", { idempotent: true }));
  await settle();
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(300);
  await client.greet();
  assert.deepEqual(client.connection.lines, ["2 get 1"]);
  await client.says("2 ok one");
  assert.equal(await call, "one");
});

test("a token that the server refuses ends the client", async () => {
  const client = new FakeClient({ token: "wrong" });
  await client.greet("* /hello;version=1;auth=token");
  assert.deepEqual(client.connection.lines, ["1 /auth token wrong"]);
  await client.says("1 no unauthenticated");
  await assert.rejects(client.opened, { name: "ConnectionError", code: "unauthenticated" });
  assert.equal(client.state, "closed");
  const error = await outcome(client.call("m"));
  assert.ok(error instanceof NotSentError);
});

test("a second subscription to a topic is refused, and one behind an unsubscribe waits for its answer", async () => {
  const client = new FakeClient();
  await client.greet();
  const subscribing = client.subscribe("t");
  await settle();
  await client.says("1 ok;epoch=e;next=1;head=0");
  const first = await subscribing;
  await assert.rejects(client.subscribe("t"), RefusedError);
  first.leave();
  const second = client.subscribe("t");
  await settle();
  assert.deepEqual(client.connection.lines, ["1 /subscribe t", "2 /unsubscribe t"]);
  await client.says("2 ok;next=e:1");
  assert.equal(client.connection.lines.at(-1), "3 /subscribe t");
  await client.says("3 ok;epoch=e;next=1;head=0");
  assert.equal((await second).position, "e:1");
  assert.deepEqual(await first.next(), { value: undefined, done: true });
});

test("bad input gets a clear error", async () => {
  const client = new FakeClient();
  const bad = [
    client.call("no way"),
    client.call("ok"),
    client.call("/renew"),
    client.call("m", "", { deadline: "5" }),
    client.call("m", "", { deadline: 0 }),
    client.call("m", "", { window: 3 }),
    client.call("m", "", { key: "two words" }),
    client.call("m", "", { attributes: { plain: "x" } }),
    client.call("m", "", { attributes: { "a.b": "x;y=1" } }),
    client.call("m", "", { attributes: { "a.b": "" } }),
    client.subscribe("a b"),
    client.subscribe("t", { from: "e:0" }),
    client.subscribe("t", { from: "e:1", last: 3 }),
    client.subscribe("t", { manualAck: true }),
    client.subscribe("t", { slow: 1 }),
    client.subscribe("t", { window: 2, redeliver: 1 }),
    client.publish("", "x"),
    client.call("m", "", 5000),
    client.subscribe("t", () => {}),
  ];
  for (const { reason, value } of await Promise.allSettled(bad)) {
    assert.ok(reason instanceof TypeError, `${value}`);
    assert.match(reason.message, /^bad /);
  }
  assert.throws(() => client.stream("m", "", { window: 0 }), { message: "bad window: 0" });
  assert.throws(() => new FakeClient({ maxLine: 1023 }), { message: "bad maxLine: 1023" });
  assert.throws(() => new FakeClient({ tokens: "x" }), { message: "bad tokens: x" });
});

test("what came before the end of a subscription is taken first, and the topic is not asked for again", async () => {
  const client = new FakeClient();
  await client.greet();
  const subscribing = client.subscribe("t");
  await settle();
  await client.says("1 ok;epoch=e;next=1;head=0", "* t 1 a", "* t 2 b", "* /end t closed e:3");
  const types = [];
  for await (const { type } of await subscribing) types.push(type);
  await client.fakeClock.advance(2000);
  assert.deepEqual(types, ["message", "message", "end"]);
  assert.deepEqual(client.connection.lines, ["1 /subscribe t"]);
});

test("in a hidden tab, whose timers run once a minute, a connection stays open while the server answers", async () => {
  const client = new FakeClient();
  client.fakeClock.step = 60_000;
  client.answer = renews(() => "t:e:1");
  await client.greet();
  await subscribe(client, "t");
  await client.fakeClock.advance(3_600_000);
  assert.equal(client.dials.length, 1);
  assert.equal(client.state, "open");
});

test("after close, what is in flight is waited for, and new requests are not sent", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t");
  const call = outcome(client.call("m"));
  await settle();
  const closed = client.close();
  assert.equal(client.state, "closed");
  const late = await outcome(client.call("m"));
  assert.ok(late instanceof NotSentError);
  assert.equal(late.code, "closed");
  await assert.rejects(client.subscribe("u"), NotSentError);
  await client.says("* t 1 a", "2 ok one", "3 ok");
  assert.deepEqual(client.connection.lines, ["1 /subscribe t", "2 m", "3 /quit"]);
  assert.equal(await call, "one");
  client.connection.events.end(new Error("closed"));
  await closed;
  const types = [];
  for await (const { type } of topic) types.push(type);
  assert.deepEqual(types, ["message", "end"]);
  assert.equal(client.stats.notifications, 0);
});

test("closing while it connects ends a client, and nobody has to listen", async () => {
  const client = new FakeClient();
  const call = outcome(client.call("m"));
  await client.close();
  assert.ok(client.connection.closed);
  assert.ok((await call) instanceof NotSentError);
  await assert.rejects(client.opened, { code: "closed" });
  assert.equal(client.fakeClock.timers.size, 0);
});

test("a subscription that is given up behind one that is being left does not hurt the next one", async () => {
  const client = new FakeClient();
  await client.greet();
  const first = await subscribe(client, "t");
  first.leave();
  const abort = new AbortController();
  const second = outcome(client.subscribe("t", { signal: abort.signal }));
  abort.abort();
  assert.ok((await second) instanceof NotSentError);
  const third = client.subscribe("t");
  await client.says("2 ok;next=e:1", "3 ok;epoch=e;next=1;head=0", "* t 1 a");
  assert.deepEqual(client.connection.lines, ["1 /subscribe t", "2 /unsubscribe t", "3 /subscribe t"]);
  assert.equal((await (await third).next()).value.text(), "a");
});

test("a payload is text or bytes, and may be changed when the call was made", async () => {
  const client = new FakeClient();
  for (const payload of [1, { title: "Loft" }, ["x"], null, true]) {
    await assert.rejects(client.call("m", payload), { name: "TypeError", message: `bad payload: ${payload}` });
    await assert.rejects(client.publish("t", payload), TypeError);
    assert.throws(() => client.stream("m", payload), TypeError);
  }
  const bytes = new Uint8Array([97]);
  void outcome(client.call("m", bytes));
  bytes[0] = 98;
  await client.greet();
  assert.deepEqual(client.connection.lines, ["1 m a"]);
});

test("a transport that cannot be made ends the client, with the reason", async () => {
  const cause = new Error("insecure");
  const client = new Client(["a"], {}, () => { throw cause; }, new FakeClock());
  await assert.rejects(client.opened, cause);
  assert.equal(await client.closed, cause);
  assert.equal((await outcome(client.call("m"))).code, "closed");
  assert.equal(client.clock.timers.size, 0);
});

test("many messages that come again, and were acknowledged meanwhile, are skipped", async () => {
  const client = new FakeClient();
  const count = 12_000;
  const messages = Array.from({ length: count }, (_, n) => `* t ${n + 1}`);
  await client.greet();
  const topic = await subscribe(client, "t", { window: count + 1, bufferMessages: count + 1, redeliver: true });
  await client.says(...messages);
  for (let n = 0; n < count; n++) await topic.next();
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(300);
  await client.greet();
  await client.says(`2 ok;epoch=e;next=1;head=${count + 1}`, ...messages, `* t ${count + 1} last`);
  topic.ack(`e:${count + 1}`);
  const { value } = await topic.next();
  assert.equal(value.text(), "last");
});

test("a connection that takes nothing is given up when too many lines wait", async () => {
  const errors = [];
  const client = new FakeClient({ onEvent: ({ error }) => errors.push(error?.code) });
  await client.greet();
  client.connection.takes = false;
  void outcome(client.call("m"));
  await settle();
  for (let n = 0; n < 33_000; n++) void outcome(client.subscribe(`${n}-${"x".repeat(120)}`));
  await settle();
  assert.ok(client.connection.closed);
  assert.ok(errors.includes("blocked"), `${errors}`);
  client.abort();
});

test("of requests and subscriptions that have ended, nothing is left", async () => {
  const client = new FakeClient();
  const { signal } = new AbortController();
  await client.greet();
  const timers = client.fakeClock.timers.size;
  const call = client.call("m", "", { signal });
  const failed = outcome(client.call("m", "", { signal }));
  await settle();
  await client.says("1 ok", "2 err bad");
  await Promise.all([call, failed]);
  const stream = client.stream("s", "", { signal });
  await settle();
  await client.says("3 more a", "3 more b");
  await assert.rejects(async () => {
    for await (const item of stream) throw new Error(item.text());
  }, { message: "a" });
  await client.says("3 cut cancelled");
  const topic = await subscribe(client, "t", { signal });
  assert.equal(getEventListeners(signal, "abort").length, 1);
  const both = [topic.next(), topic.next()];
  await client.says("* t 1 a", "* t 2 b");
  assert.deepEqual((await Promise.all(both)).map(({ value }) => value.text()), ["a", "b"]);
  const waits = topic.next();
  assert.deepEqual(await topic.return(), { value: undefined, done: true });
  assert.deepEqual(await waits, { value: undefined, done: true });
  await client.says("5 ok;next=e:3");
  assert.equal(getEventListeners(signal, "abort").length, 0);
  assert.equal(client.fakeClock.timers.size, timers);
  assert.deepEqual([client.requests.size, client.cursors.size, client.current.table.size, client.bytes], [0, 0, 0, 0]);
});

test("an option that is no AbortSignal is an error at once, and leaves no timer", async () => {
  const client = new FakeClient();
  const timers = client.fakeClock.timers.size;
  await assert.rejects(client.call("m", "", { signal: new AbortController() }), TypeError);
  assert.equal(client.fakeClock.timers.size, timers);
});

test("what was not taken is dropped when a subscription is left, and its end, too", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t");
  await client.says("* t 1 a", "* /end t closed e:2");
  assert.deepEqual(await topic.return(), { value: undefined, done: true });
  assert.deepEqual(await topic.next(), { value: undefined, done: true });
});

test("events come in the order of what they tell", async () => {
  const events = [];
  const client = new FakeClient({ onEvent: ({ type }) => events.push(type) });
  await client.greet();
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(300);
  client.connection.events.end(new Error("refused"));
  await client.fakeClock.advance(1000);
  await client.greet();
  await client.says("* /bye shutdown");
  client.connection.events.end(new Error("closed"));
  await client.close();
  const expected = ["open", "lost", "waiting", "lost", "waiting", "open", "bye", "waiting", "lost", "end"];
  assert.deepEqual(events, expected);
});
