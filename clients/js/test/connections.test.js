// When a client connects, who it says it is, and how it keeps a connection open: without a network and a system clock.
import assert from "node:assert/strict";
import { test } from "node:test";

import { systemClock } from "../dist/clock.js";
import { NotSentError } from "../dist/node.js";
import { FakeClient, outcome, settle } from "./fake.js";

/** A client whose random numbers are all the same, and the pauses that it tells. */
function withPauses(t, random, ...args) {
  t.mock.method(Math, "random", () => random);
  const pauses = [];
  const onEvent = ({ type, delay }) => type === "waiting" && pauses.push(delay);
  return { client: new FakeClient({ onEvent }, ...args), pauses };
}

/** The connection, or the attempt at one, fails, and the next attempt begins. @returns the pause before it */
async function lose({ client, pauses }) {
  const count = client.dials.length;
  client.connection.events.end(new Error("lost"));
  await settle();
  const pause = pauses.at(-1);
  await client.fakeClock.advance(pause);
  assert.equal(client.dials.length, count + 1);
  return pause;
}

test("a window of attempts is never longer than 30 s", async (t) => {
  const one = withPauses(t, 1);
  for (let n = 0; n < 10; n++) await lose(one);
  assert.deepEqual(one.pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
  one.client.abort();
});

test("the windows begin anew behind a connection that held for 10 s, and go on behind a shorter one", async (t) => {
  const one = withPauses(t, 1);
  const { client } = one;
  for (let n = 0; n < 6; n++) await lose(one);
  await client.greet();
  await client.fakeClock.advance(9999);
  assert.equal(await lose(one), 16_000);
  await client.greet();
  await client.fakeClock.advance(10_000);
  assert.equal(await lose(one), 250);
  client.abort();
});

test("behind the retry of a bye, the attempt is at a random point of a window as long as the retry", async (t) => {
  for (const [random, pause] of [[0, 22_000], [0.5, 31_000], [1, 40_000]]) {
    const { client, pauses } = withPauses(t, random);
    await client.greet();
    await client.says("* /bye;last=0;retry=20000 shutdown");
    assert.deepEqual(pauses, [pause]);
    t.mock.restoreAll();
    client.abort();
  }
});

test("a retry that comes with a bye holds, whether or not the bye has a last", async () => {
  const client = new FakeClient();
  await client.greet();
  await client.says("* /bye;retry=5000 shutdown");
  await client.fakeClock.advance(4999);
  assert.equal(client.dials.length, 1);
  await client.fakeClock.advance(6000);
  assert.equal(client.dials.length, 2);
  client.abort();
});

test("each address has its share of the time of a round", async () => {
  const client = new FakeClient({ connectTimeout: 8000, probe: 400 }, ["a", "b"]);
  await client.fakeClock.advance(3900);
  assert.deepEqual(client.dials.map(({ address }) => address), ["a"]);
  await client.fakeClock.advance(200);
  assert.deepEqual(client.dials.map(({ address }) => address), ["a", "b"]);
  assert.ok(client.dials[0].closed);
  client.abort();
});

test("while four connections are being left, no other is begun", async () => {
  const client = new FakeClient();
  for (let n = 0; n < 4; n++) {
    await client.greet();
    // It has something to wait for, so it stays.
    void outcome(client.call("m"));
    await settle();
    await client.says(`* /bye;last=${client.lastId} shutdown`);
    await client.fakeClock.advance(5000);
  }
  assert.equal(client.dials.length, 4);
  client.dials[0].events.end(new Error("closed"));
  await client.fakeClock.advance(10_000);
  assert.equal(client.dials.length, 5);
  client.abort();
});

test("a bye on a connection that is being left does not concern the next one", async () => {
  const client = new FakeClient();
  await client.greet();
  await client.says("* /bye shutdown");
  await client.fakeClock.advance(250);
  await client.greet();
  assert.equal(client.dials.length, 2);
  client.dials[0].events.data(Buffer.from("* /bye;last=0 shutdown\n"));
  assert.equal(client.state, "open");
  await client.fakeClock.advance(1000);
  assert.equal(client.dials.length, 2);
  client.abort();
});

test("reconnect changes nothing while a connection is open", async () => {
  const client = new FakeClient();
  await client.greet();
  client.reconnect();
  await client.fakeClock.advance(1000);
  assert.equal(client.dials.length, 1);
  assert.equal(client.state, "open");
  client.abort();
});

test("a function gives the token of each connection", async () => {
  let count = 0;
  const client = new FakeClient({ token: () => `secret-${++count}` });
  for (const token of ["secret-1", "secret-2"]) {
    await client.greet("* /hello;version=1;auth=token");
    assert.deepEqual(client.connection.lines, [`${client.lastId} /auth token ${token}`]);
    await client.says(`${client.lastId} ok`);
    assert.equal(client.state, "open");
    client.connection.events.end(new Error("lost"));
    await client.fakeClock.advance(250);
  }
  client.abort();
});

test("a function that has no token, or throws, is asked again on the next connection", async () => {
  const results = [() => { throw new Error("no session"); }, () => Promise.reject(new Error("offline")), () => "secret"];
  const client = new FakeClient({ token: () => results.shift()() });
  for (let n = 0; n < 2; n++) {
    await client.greet("* /hello;version=1;auth=token");
    assert.ok(client.connection.closed);
    assert.deepEqual(client.connection.lines, []);
    await client.fakeClock.advance(500);
  }
  await client.greet("* /hello;version=1;auth=token");
  assert.deepEqual(client.connection.lines, ["1 /auth token secret"]);
  client.abort();
});

test("a refusal of the token that may pass is no reason to end, and its retry is waited for", async () => {
  for (const refusal of ["no busy", "no closing", "no;retry=5000 unauthenticated"]) {
    const client = new FakeClient({ token: "secret" });
    await client.greet("* /hello;version=1;auth=token");
    await client.says(`1 ${refusal}`);
    assert.equal(client.state, "connecting", refusal);
    await client.fakeClock.advance(4999);
    assert.equal(client.dials.length, refusal.includes("retry") ? 1 : 2, refusal);
    await client.fakeClock.advance(5001);
    assert.ok(client.dials.length > 1, refusal);
    client.abort();
  }
});

test("when a token of a function is refused, the function may have a better one the next time", async () => {
  const client = new FakeClient({ token: () => "old" });
  await client.greet("* /hello;version=1;auth=token");
  await client.says("1 no unauthenticated");
  assert.equal(client.state, "connecting");
  await client.fakeClock.advance(250);
  assert.equal(client.dials.length, 2);
  client.abort();
});

test("a server that greets and does not answer the token is given up with the round", async () => {
  const client = new FakeClient({ token: "secret", connectTimeout: 4000 });
  await client.greet("* /hello;version=1;auth=token");
  await client.fakeClock.advance(3000);
  assert.ok(!client.connection.closed);
  await client.fakeClock.advance(3000);
  assert.ok(client.dials[0].closed);
  client.abort();
});

test("however long the lease is, something is sent within a minute", async () => {
  const client = new FakeClient();
  const times = [];
  client.answer = (line) => {
    times.push(client.fakeClock.time);
    return `${line.split(" ")[0]} ok;lease=3600`;
  };
  await client.greet("* /hello;version=1;lease=3600;idle=3600");
  await client.fakeClock.advance(300_000);
  const pauses = times.slice(1).map((time, n) => time - times[n]);
  assert.ok(pauses.length >= 6 && Math.max(...pauses) <= 60_000, `${pauses}`);
  client.abort();
});

test("the point of a renewal is random, from half to seven tenths of the lease", async (t) => {
  for (const [random, least] of [[0, 30_000], [1, 42_000]]) {
    t.mock.method(Math, "random", () => random);
    const client = new FakeClient();
    const times = [];
    client.answer = (line) => times.push(client.fakeClock.time) && `${line.split(" ")[0]} ok;lease=60`;
    await client.greet();
    await client.fakeClock.advance(100_000);
    // The clock is looked at every 2.5 s.
    const pause = times[2] - times[1];
    assert.ok(pause >= least && pause <= least + 2500, `${times}`);
    t.mock.restoreAll();
    client.abort();
  }
});

test("to a server that goes on and answers no renewal, no more than four are sent", async () => {
  const client = new FakeClient();
  await client.greet();
  for (let n = 0; n < 60; n++) {
    await client.fakeClock.advance(9000);
    await client.says("* unknown 1");
  }
  assert.equal(client.state, "open");
  assert.equal(client.connection.lines.length, 4);
  await client.says("1 ok;lease=60");
  await client.fakeClock.advance(15_000);
  assert.equal(client.connection.lines.length, 5);
  client.abort();
});

test("a silent server that takes nothing, or is leaving, has three times as long to answer", async () => {
  for (const leaves of [false, true]) {
    const client = new FakeClient({ probe: 1000 });
    await client.greet();
    void outcome(client.call("m"));
    client.connection.takes = !!leaves;
    await settle();
    const { connection } = client;
    if (leaves) await client.says("* /bye;last=1 shutdown");
    await client.fakeClock.advance(3500);
    assert.ok(!connection.closed, `leaves: ${leaves}`);
    await client.fakeClock.advance(1500);
    assert.ok(connection.closed, `leaves: ${leaves}`);
    client.abort();
  }
});

test("a close that the server does not answer ends after four times the probe, though the server goes on", async () => {
  const client = new FakeClient({ probe: 1000 });
  await client.greet();
  const closed = client.close();
  for (let n = 0; n < 9; n++) {
    assert.ok(!client.connection.closed, `${n}`);
    await client.fakeClock.advance(400);
    await client.says("* unknown 1");
  }
  await client.fakeClock.advance(700);
  assert.ok(client.connection.closed);
  await closed;
});

test("what an error of the server says is told without its code", async () => {
  const errors = [];
  const client = new FakeClient({ onEvent: (event) => event.type === "error" && errors.push(event) });
  await client.greet();
  await client.says("* /error busy try later", "* /error;id=7 malformed");
  assert.deepEqual(errors, [
    { type: "error", code: "busy", text: "try later" },
    { type: "error", code: "malformed", text: "" },
  ]);
  client.abort();
});

test("after close, a request that waits for a place in flight is not sent", async () => {
  const client = new FakeClient();
  await client.greet();
  const calls = ["1", "2", "3"].map((text) => outcome(client.call("m", text)));
  await settle();
  const closed = client.close();
  const late = await calls[2];
  assert.ok(late instanceof NotSentError);
  assert.equal(late.code, "closed");
  await client.says("1 ok one", "2 ok two", "3 ok");
  assert.deepEqual(client.connection.lines, ["1 m 1", "2 m 2", "3 /quit"]);
  client.connection.events.end(new Error("closed"));
  await closed;
  assert.deepEqual(await Promise.all(calls.slice(0, 2)), ["one", "two"]);
});

test("an option that is undefined is like an absent one", async () => {
  const client = new FakeClient({ deadline: undefined, inFlight: undefined, reconnect: undefined, probe: undefined });
  await client.greet();
  const calls = [client.call("m"), client.call("m"), client.call("m")].map(outcome);
  await settle();
  assert.deepEqual(client.connection.lines, ["1 m", "2 m"]);
  client.connection.events.end(new Error("lost"));
  await client.fakeClock.advance(250);
  assert.equal(client.dials.length, 2);
  await client.fakeClock.advance(60_000);
  assert.deepEqual((await Promise.all(calls)).map(({ code }) => code), ["lost", "lost", "deadline"]);
  client.abort();
});

test("a pause that is longer than timers can be does not end at once", (t) => {
  const delays = [];
  t.mock.method(globalThis, "setTimeout", (_, delay) => delays.push(delay));
  systemClock.set(() => {}, 2 ** 40);
  assert.deepEqual(delays, [2 ** 31 - 1]);
});
