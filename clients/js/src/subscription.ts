/** The application's side of a subscription: what waits to be taken, what was handled, and who waits for it. */
import { patience } from "./clock.js";
import type { Core } from "./core.js";
import { Cursor } from "./cursor.js";
import type { Delivery, End, Gap, Message, Reset } from "./delivery.js";
import type { SubscribeOptions } from "./options.js";
import { type BellwireError, NotSentError, UnknownError } from "./outcome.js";
import { toPosition, wrong } from "./wire.js";

/**
 * A subscription. Iterate over it with `for await`. When the loop is left, or `leave` is called, it ends.
 * It outlives lost connections. While too much waits to be taken, it leaves the topic, and goes on there later.
 */
export class Subscription extends Cursor {
  private bytes = 0;
  private ending: End | undefined;
  private watchers: { epoch: string; next: number; resolve(): void }[] = [];
  /** The epoch of what was taken, the number behind it, and below which everything is handled. */
  private log = "";
  private taken = 0;
  private handled = 0;
  /** Gaps that were taken and are not part of what is handled. */
  private gaps: Gap[] = [];
  private settle!: (error?: BellwireError) => void;
  /** Forgets the deadline of the opening, or all about its end. */
  private forget!: (all?: boolean) => void;

  /** @internal Resolves when the server has accepted, and rejects with the outcome if it does not. */
  static open(core: Core, topic: string, options: SubscribeOptions): Promise<Subscription> {
    const one = new Subscription(core, topic, options);
    const { signal, deadline = core.settings.deadline } = options;
    return new Promise((resolve, reject) => {
      const giveUp = (code: string, cause?: unknown) => {
        reject(new (one.link ? UnknownError : NotSentError)(code, "", cause));
        one.leave();
      };
      one.forget = patience(core.clock, deadline, signal, giveUp);
      one.settle = (error) => (error ? reject(error) : resolve(one));
      if (signal?.aborted) giveUp("cancelled", signal.reason);
      else one.start();
    });
  }

  /**
   * Where to subscribe again, `EPOCH:NUMBER`: behind what was taken, or with manual acks behind what was acknowledged. Store it to go on after a restart.
   */
  get position(): string {
    return `${this.log}:${this.isManual ? this.handled : this.taken}`;
  }

  /** The next delivery. Unless acks are manual, everything that was taken before counts as handled. */
  override next() {
    if (!this.isManual) this.handle(this.taken);
    return super.next();
  }

  /** Leaves the topic. What was not taken is dropped. */
  leave() {
    this.abandon();
    this.discard();
    this.stop();
    this.serve();
  }

  /**
   * With manual acks: everything up to this message, or below this position, is handled.
   * @throws TypeError if it is no position, is above what was taken, or acks are automatic
   */
  ack(upTo: Message | string) {
    const at = toPosition(typeof upTo === "string" ? upTo : `${upTo.epoch}:${upTo.seq + 1}`);
    if (!at || !this.isManual) return wrong("ack", upTo);
    // Another epoch crossed a reset.
    if (at.epoch !== this.log) return;
    if (at.next > this.taken) wrong("ack", upTo);
    this.handle(at.next);
  }

  /** Waits until everything below `position` was taken, or never will: another log, or the end. */
  reached(position: string): Promise<void> {
    const at = toPosition(position) ?? wrong("position", position);
    return new Promise((resolve) => {
      this.watchers.push({ ...at, resolve });
      this.notify();
    });
  }

  /** @internal */
  begin() {
    if (this.log) return;
    this.log = this.epoch;
    this.taken = this.handled = this.expect;
    this.forget();
    this.settle();
  }

  /** @internal */
  resumeAt() {
    const isBack = this.options.redeliver && this.log === this.epoch;
    return isBack ? Math.min(this.handled, this.expect) : this.expect;
  }

  /** @internal */
  finish(reason: string, error: BellwireError) {
    this.wanted = false;
    if (this.log) this.ending = { type: "end", reason, position: `${this.epoch}:${this.expect}` };
    else {
      this.settle(error);
      this.stop();
    }
    this.serve();
  }

  /** @internal */
  override push(item: Message | Gap | Reset) {
    this.bytes += sizeOf(item);
    super.push(item);
    this.notify();
    if (this.live && this.isFull) this.quit();
  }

  /** @internal Too much waits to be taken. */
  get isFull() {
    const { bufferBytes = 1 << 20, bufferMessages = 8192 } = this.options;
    return this.bytes > bufferBytes || this.items.length > bufferMessages;
  }

  /** @internal */
  discard() {
    this.items = [];
    this.bytes = 0;
    this.ending = undefined;
  }

  /** @internal */
  take(): Delivery | undefined {
    for (;;) {
      const item = this.items.shift() ?? this.ending;
      if (!item) return undefined;
      this.bytes -= sizeOf(item);
      if (!this.items.length && this.isIdle) this.ask();
      if (item.type === "message") {
        item.redelivered = item.seq < this.taken;
        this.taken = Math.max(this.taken, item.seq + 1);
      } else if (item.type === "gap") {
        this.taken = Math.max(this.taken, item.last + 1);
        this.gaps.push(item);
      } else if (item.type === "reset") {
        this.log = item.epoch;
        this.taken = this.handled = item.next;
        this.gaps = [];
      } else {
        this.ending = undefined;
        this.stop();
      }
      if (this.isManual) this.handle(0);
      this.notify();
      // A resume may have brought what was acknowledged meanwhile.
      if (item.type !== "message" || item.seq >= this.handled) return item;
    }
  }

  private get isManual() {
    return this.options.manualAck || this.options.redeliver;
  }

  /** Everything below `next` is handled, and the gaps that follow it. */
  private handle(next: number) {
    let isDue = false;
    this.handled = Math.max(this.handled, next);
    for (let gap; (gap = this.gaps[0]) && gap.first <= this.handled; this.gaps.shift()) {
      this.handled = Math.max(this.handled, gap.last + 1);
      isDue = true;
    }
    this.acknowledge(this.log, this.handled, isDue);
  }

  private stop() {
    this.over = true;
    this.forget(true);
    this.notify();
  }

  private notify() {
    this.watchers = this.watchers.filter(({ epoch, next, resolve }) => {
      const isReached = epoch === this.log ? next <= this.taken : epoch !== this.epoch;
      const isOver = this.over || isReached;
      if (isOver) resolve();
      return !isOver;
    });
  }
}

const sizeOf = (item: Delivery) => (item.type === "message" ? item.bytes.length : 0);
