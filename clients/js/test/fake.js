// A client without a network and without a system clock.
import { Client } from "../dist/client.js";

export const HELLO = "* /hello;version=1;max-line=65535;in-flight=2;lease=60;idle=120;keys=b7q2:300\n";

/** A clock that moves when it is told to. */
export class FakeClock {
  time = 0;
  timers = new Set();
  /** Timers run at multiples of this only. */
  step = 0;
  now = () => this.time;
  set = (run, delay) => {
    const at = this.time + delay;
    const timer = { at: this.step ? Math.ceil(at / this.step) * this.step : at, run };
    this.timers.add(timer);
    return timer;
  };
  clear = (timer) => this.timers.delete(timer);

  /** Moves on, and runs what is due, in order. */
  async advance(delay) {
    const end = this.time + delay;
    for (;;) {
      const [next] = [...this.timers].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (!next) break;
      this.time = Math.max(this.time, next.at);
      this.timers.delete(next);
      next.run();
      await settle();
    }
    this.time = end;
    await settle();
  }
}

/** Lets all promises go on. */
export const settle = () => new Promise((resolve) => setImmediate(resolve));

/** The server's part of a dialogue that goes on by itself: answers every `/renew`. */
export const renews = (list) => (line) => {
  const id = /^(\d+) \/renew$/.exec(line)?.[1];
  return id && `${id} ok;lease=60 ${list()}`.trim();
};

/** A client whose connections are lists of lines. */
export class FakeClient extends Client {
  constructor(options = {}, addresses = ["a"]) {
    const clock = new FakeClock();
    const dials = [];
    const dial = (address, events) => {
      const connection = { address, events, lines: [], takes: true, closed: false };
      dials.push(connection);
      return {
        send: (bytes) => {
          const lines = Buffer.from(bytes).toString("latin1").split("\n").slice(0, -1);
          connection.lines.push(...lines);
          const answers = lines.map((line) => this.answer?.(line)).filter(Boolean);
          queueMicrotask(() => answers.forEach((line) => events.data(Buffer.from(`${line}\n`))));
          return connection.takes;
        },
        close: () => (connection.closed = true),
      };
    };
    super(addresses, options, dial, clock);
    Object.assign(this, { fakeClock: clock, dials });
  }

  /** The connection that was made last. */
  get connection() {
    return this.dials.at(-1);
  }

  get link() {
    return this.connecting ?? this.current;
  }

  /** The server writes lines. */
  async says(...lines) {
    this.connection.events.data(Buffer.from(lines.map((line) => `${line}\n`).join(""), "latin1"));
    await settle();
  }

  async greet(hello = HELLO) {
    await this.says(hello.trim());
  }
}

/** Subscribes, and the log is empty. */
export async function subscribe(client, topic, options) {
  const subscribing = client.subscribe(topic, options);
  await settle();
  const id = Number(client.connection.lines.at(-1).split(" ")[0]);
  await client.says(`${id} ok;epoch=e;next=1;head=0`);
  return subscribing;
}

/** The text of a reply, or the error. */
export const outcome = (promise) => promise.then((reply) => reply.text(), (error) => error);
