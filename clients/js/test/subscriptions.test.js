// Where a subscription goes on, what it acknowledges, and what it tells: without a network and without a system clock.
import assert from "node:assert/strict";
import { test } from "node:test";

import { RefusedError, UnknownError } from "../dist/node.js";
import { FakeClient, outcome, settle, subscribe } from "./fake.js";

/** The connection is lost, and the next one is open. */
async function reconnect(client) {
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(250);
  await client.greet();
}

/** The next delivery, as text. */
async function next(topic) {
  const { value } = await topic.next();
  const { type, seq, first, last, reason, epoch, next: number } = value;
  if (type === "message") return `${seq}`;
  return type === "gap" ? `${first}-${last} ${reason}` : type === "reset" ? `${epoch}:${number}` : reason;
}

test("a subscription that began with the newest messages is resumed at its position alone", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { last: 3, window: 8, slow: "latest" });
  await client.says("* t 1 a");
  assert.deepEqual(client.connection.lines, ["1 /subscribe;last=3;window=8;slow=latest t"]);
  await reconnect(client);
  assert.deepEqual(client.connection.lines, ["2 /subscribe;from=e:2;window=8;slow=latest t"]);
  assert.equal(await next(topic), "1");
  client.abort();
});

test("a first subscribe that is refused is not repeated, whatever the code and the retry", async () => {
  for (const refusal of ["no busy", "no;retry=10 rate"]) {
    const client = new FakeClient();
    await client.greet();
    const subscribing = outcome(client.subscribe("t"));
    await settle();
    await client.says(`1 ${refusal}`);
    assert.ok((await subscribing) instanceof RefusedError);
    await client.fakeClock.advance(2000);
    assert.deepEqual(client.connection.lines, ["1 /subscribe t"]);
    client.abort();
  }
});

test("a subscribe that is given up on the wire is unknown, and left when its ok comes", async () => {
  const client = new FakeClient();
  const abort = new AbortController();
  await client.greet();
  const subscribing = outcome(client.subscribe("t", { signal: abort.signal }));
  await settle();
  abort.abort();
  assert.ok((await subscribing) instanceof UnknownError);
  assert.deepEqual(client.connection.lines, ["1 /subscribe t"]);
  await client.says("1 ok;epoch=e;next=1;head=0", "* t 1 a");
  assert.deepEqual(client.connection.lines.slice(1), ["2 /unsubscribe t"]);
  assert.equal(client.stats.notifications, 0);
  await client.says("2 ok;next=e:2");
  assert.equal(client.cursors.size, 0);
  client.abort();
});

test("a subscription that ends soon is asked for after pauses that grow, and anew from the first behind 10 s", async (t) => {
  t.mock.method(Math, "random", () => 1);
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t");
  const asked = () => client.connection.lines.filter((line) => line.endsWith("/subscribe;from=e:1 t"));
  const ends = async (pause) => {
    const { length } = asked();
    await client.says("* /end t expired e:1");
    if (pause) {
      await client.fakeClock.advance(pause - 1);
      assert.equal(asked().length, length);
      await client.fakeClock.advance(1);
    }
    assert.equal(asked().length, length + 1, `${pause}`);
    await client.says(`${client.lastId} ok;epoch=e;next=1;head=0`);
  };
  await ends(250);
  await ends(500);
  await ends(1000);
  await client.fakeClock.advance(10_000);
  await ends(0);
  await ends(250);
  topic.leave();
  client.abort();
});

test("beyond the bytes that may wait, a subscription leaves the topic, and taken ones do not count", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { bufferBytes: 10 });
  for (let seq = 1; seq <= 5; seq++) {
    await client.says(`* t ${seq} 0123456789`);
    assert.equal(await next(topic), `${seq}`);
  }
  await client.says("* t 6 01234", "* t 7 56789");
  assert.deepEqual(client.connection.lines, ["1 /subscribe t"]);
  await client.says("* t 8 x");
  assert.deepEqual(client.connection.lines.slice(1), ["2 /unsubscribe t"]);
  client.abort();
});

test("what waited and comes again with a redelivering resume does not count twice", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { window: 8, redeliver: true, bufferBytes: 10 });
  await client.says("* t 1 0123456789");
  await reconnect(client);
  await client.says("2 ok;epoch=e;next=1;head=1", "* t 1 0123456789");
  assert.deepEqual(client.connection.lines, ["2 /subscribe;from=e:1;window=8 t"]);
  assert.equal(await next(topic), "1");
  assert.equal(topic.items.length, 0);
  client.abort();
});

test("a gap is acknowledged at once when what stood before it was handled, with the window half free", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { window: 8 });
  await client.says("* t 1 a", "* /gap t e 2 3 retention");
  assert.deepEqual([await next(topic), await next(topic)], ["1", "2-3 retention"]);
  void topic.next();
  await settle();
  assert.deepEqual(client.connection.lines.slice(1), ["* /ack t e:4"]);
  client.abort();
});

test("by hand, a gap is handled with what stands before it, and not sooner", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { window: 8, manualAck: true });
  await client.says("* t 1 a", "* /gap t e 2 3 retention", "* t 4 b");
  const { value } = await topic.next();
  assert.equal(await next(topic), "2-3 retention");
  assert.equal(await next(topic), "4");
  assert.equal(topic.position, "e:1");
  topic.ack(value);
  assert.equal(topic.position, "e:4");
  await settle();
  assert.deepEqual(client.connection.lines.slice(1), ["* /ack t e:4"]);
  assert.throws(() => topic.ack("e:6"), { message: "bad ack: e:6" });
  topic.ack("e:5");
  assert.equal(topic.position, "e:5");
  client.abort();
});

test("an ack of another epoch than that of what was taken last has no effect", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { window: 2, manualAck: true });
  await client.says("* t 1 a", "* /reset t f:1", "* t 1 b");
  const { value } = await topic.next();
  assert.deepEqual([await next(topic), await next(topic)], ["f:1", "1"]);
  topic.ack(value);
  topic.ack("e:9");
  assert.equal(topic.position, "f:1");
  await settle();
  assert.equal(client.connection.lines.length, 1);
  topic.ack("f:2");
  await settle();
  assert.deepEqual(client.connection.lines.slice(1), ["* /ack t f:2"]);
  client.abort();
});

test("a gap of an epoch that has ended does not count in the next one", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { window: 8, manualAck: true });
  await client.says("* t 1 a", "* /gap t e 2 5 retention", "* /reset t f:1", "* t 1 b", "* t 2 c");
  const taken = [];
  for (let n = 0; n < 5; n++) taken.push(await next(topic));
  assert.deepEqual(taken, ["1", "2-5 retention", "f:1", "1", "2"]);
  topic.ack("f:2");
  assert.equal(topic.position, "f:2");
  client.abort();
});

test("no more is acknowledged than came on this connection", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { window: 2 });
  await client.says("* t 1 a", "* t 2 b", "* t 3 c");
  await reconnect(client);
  await client.says(`2 ok;epoch=e;next=2;head=3`);
  for (let n = 0; n < 3; n++) await topic.next();
  void topic.next();
  await settle();
  assert.deepEqual(client.connection.lines, ["2 /subscribe;from=e:4;window=2 t"]);
  client.abort();
});

test("messages that were acknowledged make room in the window, and one beyond it is counted", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { window: 2 });
  for (let seq = 1; seq <= 6; seq++) {
    await client.says(`* t ${seq} x`);
    await topic.next();
  }
  assert.equal(client.stats.notifications, 0);
  await client.says("* t 7");
  assert.equal(client.stats.notifications, 0);
  await client.says("* t 8");
  assert.equal(client.stats.notifications, 1);
  client.abort();
});

test("where a log ended is told when another one begins, and once", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t");
  await client.says("* t 1 a", "* /end;head=3 t shutdown e:2");
  await client.fakeClock.advance(250);
  await client.says("2 ok;epoch=f;next=1;head=0", "* /reset t g:1");
  assert.deepEqual([await next(topic), await next(topic)], ["1", "2-3 lost"]);
  assert.deepEqual([await next(topic), await next(topic)], ["f:1", "g:1"]);
  client.abort();
});

test("with redelivery, a resume in another epoch begins at the expected number of that epoch", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t", { window: 8, redeliver: true });
  await client.says("* t 1 a", "* t 2 b");
  assert.deepEqual([await next(topic), await next(topic)], ["1", "2"]);
  await client.says("* /reset t f:7", "* t 7 c");
  await reconnect(client);
  assert.deepEqual(client.connection.lines, ["2 /subscribe;from=f:8;window=8 t"]);
  client.abort();
});

test("what another connection says of a topic is ignored and counted", async () => {
  const client = new FakeClient();
  await client.greet();
  await client.says("* /bye shutdown");
  const [{ events }] = client.dials;
  await client.fakeClock.advance(250);
  await client.greet();
  const topic = await subscribe(client, "t");
  events.data(Buffer.from("* t 1 old\n* /reset t f:1\n* /end t closed f:1\n"));
  assert.equal(client.stats.notifications, 3);
  await client.says("* t 1 new");
  assert.equal((await topic.next()).value.text(), "new");
  client.abort();
});

test("a resume that is refused as closing ends a subscription, unless the server has sent a bye", async () => {
  for (const isLeaving of [false, true]) {
    const client = new FakeClient();
    await client.greet();
    const topic = await subscribe(client, "t");
    await reconnect(client);
    if (isLeaving) await client.says("* /bye shutdown");
    await client.says("2 no closing");
    await client.fakeClock.advance(1000);
    if (isLeaving) {
      await client.greet();
      assert.deepEqual(client.connection.lines, ["3 /subscribe;from=e:1 t"]);
    } else assert.equal(await next(topic), "closing");
    client.abort();
  }
});

test("behind a bye with a last, a topic is left without a word", async () => {
  const client = new FakeClient();
  await client.greet();
  const topic = await subscribe(client, "t");
  await client.says("* /bye;last=1 shutdown");
  topic.leave();
  await settle();
  assert.deepEqual(client.connection.lines, ["1 /subscribe t"]);
  assert.equal(client.cursors.size, 0);
  client.abort();
});

test("a policy for slow subscribers that does not fit into a head is an error, and nothing is sent", async () => {
  const client = new FakeClient();
  await client.greet();
  for (const slow of ["gap t\n7 m", "gap t", "gap;last=3", "\u00e9", ""]) {
    await assert.rejects(client.subscribe("t", { slow }), { name: "TypeError", message: `bad slow: ${slow}` });
  }
  await settle();
  assert.deepEqual(client.connection.lines, []);
  client.abort();
});
