// What an application may write, and what the compiler refuses. types.test.js compiles it.
import { type Client, type Delivery, FailedError, type Message, type Reply, connect } from "bellwire";
import { connect as connectNode } from "bellwire/node";

export const browser: Client = connect("wss://offers.example/", { token: async () => "secret" });
export const node: Client = connectNode(["a:1", "tls://b:2"], {
  tls: { rejectUnauthorized: true },
  onEvent: (event) => (event.type === "waiting" ? event.delay.toFixed() : event.type),
});

export function show(delivery: Delivery): string | number {
  if (delivery.type === "message") return delivery.json<{ id: number }>().id;
  if (delivery.type === "gap") return delivery.last - delivery.first;
  return delivery.type === "end" ? delivery.position : delivery.epoch;
}

export async function everything(): Promise<void> {
  const options = { deadline: 5, signal: AbortSignal.timeout(1), key: "k", attributes: { "app.x": "1" } };
  const reply: Reply = await browser.call("m", new Uint8Array(), options);
  const offers = await browser.subscribe("t", { window: 2, manualAck: true, last: 3 });
  if (reply.after) await offers.reached(reply.after.position);
  for await (const item of node.stream("s", "", { window: 3 })) item.text();
  for await (const delivery of offers) if (delivery.type === "message") offers.ack(delivery satisfies Message);
  const error: unknown = await node.publish("t", "x").then(({ seq }) => seq, (one) => one);
  if (error instanceof FailedError && error.mayHaveRun) console.log(error.code, node.stats.replies, node.state);
  offers.leave();
  browser.reconnect();
  await browser.close();
  node.abort();
  await node.closed;
}

export const passOn = (signal?: AbortSignal) => browser.call("m", "", { signal });

// @ts-expect-error a payload is text or bytes
void browser.call("m", 5);
// @ts-expect-error there is no such option
connect("ws://x", { nope: 1 });
// @ts-expect-error a stream has no key
browser.stream("m", "", { key: "k" });
// @ts-expect-error internal members are not declared
void browser.lastId;
