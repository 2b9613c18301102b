/**
 * The protocol's side of a subscription: where it is in the log of its topic, and how it is begun, resumed and left
 * (docs/protocol/subscriptions.md). What it learns goes to the application's side, the class `Subscription`.
 */
import { Backoff, STABLE, type Timer } from "./clock.js";
import type { Core } from "./core.js";
import { type Delivery, Message } from "./delivery.js";
import { Iteration } from "./iteration.js";
import type { Link } from "./link.js";
import type { SubscribeOptions } from "./options.js";
import { type BellwireError, NotSentError, RefusedError, UnknownError, failureOf } from "./outcome.js";
import { type Line, type Position, joinAttributes, need, toBytes, toPosition } from "./wire.js";

/** Epochs that a subscription remembers to have left. */
const MAX_LEFT = 8;

export abstract class Cursor extends Iteration<Delivery> {
  /** @internal The epoch of the log, and the number that is expected next: the own position. */
  epoch = "";
  /** @internal */
  expect = 0;
  /** @internal The connection that carries the subscription, or on which it is being asked for or left. */
  link: Link | undefined;
  /** @internal From the `ok` of `/subscribe` to its end. */
  live: boolean | undefined;
  /** @internal From the `/unsubscribe` to its answer. */
  leaving: boolean | undefined;
  /** @internal The application still listens. */
  wanted = true;
  /** @internal The subscription that begins when this one has left. */
  successor: Cursor | undefined;
  private asked: boolean | undefined;
  /** The number behind what was delivered or named on this connection. */
  private wire = 0;
  private acked = 0;
  /** The numbers that were delivered from `acked` on. */
  private unacked: number[] = [];
  /** The last number of the log, as an `/end` said. */
  private head = 0;
  private since = Infinity;
  /** Where it left other logs, the last one first. */
  private left: Position[] = [];
  private readonly backoff = new Backoff();
  /** @internal Runs while it waits to be asked for again. */
  timer: Timer;

  /** @internal */
  constructor(
    private readonly core: Core,
    readonly topic: string,
    /** @internal */
    readonly options: SubscribeOptions,
  ) {
    super();
    const from = toPosition(options.from);
    if (from) this.move(from);
  }

  /** @internal The server has accepted. */
  abstract begin(): void;
  /** @internal Too much waits to be taken. */
  abstract get isFull(): boolean;
  /** @internal Forgets what was not taken. */
  abstract discard(): void;
  /** @internal The first number that a resume asks for. */
  abstract resumeAt(): number;
  /** @internal It has ended; `error` is the outcome if it had not begun. */
  abstract finish(reason: string, error: BellwireError): void;

  /** @internal Begins, behind a subscription to the topic that is being left. */
  start() {
    const { core, topic } = this;
    const present = core.cursors.get(topic);
    if (present?.wanted || present?.successor?.wanted) {
      return this.finish("", new RefusedError("already-subscribed", topic));
    }
    if (present) present.successor = this;
    else {
      core.cursors.set(topic, this);
      this.ask();
    }
  }

  /** @internal It is on no connection, and waits for one, or for the application. */
  get isIdle() {
    return this.wanted && !this.link && !this.timer;
  }

  /** @internal Subscribes, or waits for the next connection. */
  ask() {
    const { core, options, epoch, topic } = this;
    const link = core.current;
    const at = this.resumeAt();
    this.timer = undefined;
    if (!this.wanted) return this.free();
    if (!core.canSend) return this.drop("closing");
    if (!link || this.isFull) return;
    const { window, slow, last } = options;
    const terms = joinAttributes({ from: epoch && `${epoch}:${at}`, last: epoch ? 0 : last, window, slow });
    this.asked = true;
    this.link = link;
    const ended = (line: Line) => {
      if (this.link === link) this.answered(line, at);
    };
    link.request("/subscribe" + terms, toBytes(topic), { ended });
  }

  /** @internal The application leaves. */
  abandon() {
    if (!this.wanted) return;
    this.wanted = false;
    this.core.clock.clear(this.timer);
    if (this.live) this.quit();
    else if (!this.link) this.free();
  }

  /** @internal Its connection has ended, or begins nothing new. */
  detach() {
    this.stopped();
    this.ask();
  }

  /** @internal It has ended for good. */
  drop(code: string, error: BellwireError = new (this.asked ? UnknownError : NotSentError)(code)) {
    this.core.clock.clear(this.timer);
    this.free();
    if (this.wanted) this.finish(code, error);
  }

  /** @internal */
  message(seq: number, body: Uint8Array) {
    const { window } = this.options;
    this.wire = Math.max(this.wire, seq + 1);
    if (seq < this.expect) return this.ignore();
    this.hole(seq - 1);
    this.expect = seq + 1;
    if (window && this.unacked.push(seq) > window) this.ignore();
    this.push(new Message(body, this.epoch, seq));
  }

  /** @internal */
  gap(epoch: string, first: number, last: number, reason: string) {
    if (epoch !== this.epoch || last < this.expect) this.ignore();
    if (epoch !== this.epoch) return;
    this.wire = Math.max(this.wire, last + 1);
    this.hole(first - 1);
    this.hole(last, reason);
  }

  /** @internal */
  reset(epoch: string, next: number) {
    if (epoch === this.epoch) return this.ignore();
    this.turn(epoch, next);
    this.clear(next);
  }

  /** @internal */
  end(reason: string, head: number) {
    this.head = head;
    if (reason === "expired" || reason === "shutdown") this.resume();
    else this.drop(reason);
  }

  /** @internal The list of `/renew` says where it is. */
  stands(at: Position | undefined) {
    const { epoch, expect, live } = this;
    if (live && at?.epoch === epoch && at.next > expect) this.gap(epoch, expect, at.next - 1, "lost");
  }

  /** @internal The application has handled everything below `handled`; `isDue` if that includes a gap. */
  acknowledge(epoch: string, handled: number, isDue: boolean) {
    const { window } = this.options;
    const to = Math.min(handled, this.wire);
    if (!window || !this.live || epoch !== this.epoch || to <= this.acked) return;
    if (!isDue && to - this.acked < window / 2) return;
    this.acked = to;
    this.unacked = this.unacked.filter((seq) => seq >= to);
    this.link!.write(`* /ack ${this.topic} ${epoch}:${to}`);
  }

  /** @internal Subscribes again, after a pause unless it lived for long (C5.6). */
  resume(retry = 0) {
    if (this.stopped()) this.ask();
    else this.timer = this.core.clock.set(() => this.ask(), this.backoff.pause(this.core.clock, retry));
  }

  private ignore() {
    this.core.stray("notifications");
  }

  private move({ epoch, next }: Position) {
    this.epoch = epoch;
    this.expect = next;
  }

  /** An empty window begins at `next`. */
  private clear(next: number) {
    this.acked = this.wire = next;
    this.unacked = [];
  }

  /** Tells the application that the numbers up to `last` will not come. */
  private hole(last: number, reason = "lost") {
    const { epoch, expect: first } = this;
    if (last < first) return;
    this.expect = last + 1;
    this.push({ type: "gap", epoch, first, last, reason });
  }

  /** The log is another one. */
  private turn(epoch: string, next: number) {
    this.hole(this.head);
    this.head = 0;
    this.left = [{ epoch: this.epoch, next: this.expect }, ...this.left].slice(0, MAX_LEFT);
    this.move({ epoch, next });
    this.push({ type: "reset", epoch, next });
  }

  private answered(line: Line, at: number) {
    const { word, lead, attributes } = line;
    const error = failureOf(line);
    const { retry } = error as { retry?: number };
    if (word === "ok") this.accepted(need(toPosition(`${attributes.epoch ?? ""}:${attributes.next}`)), at);
    else if (!this.wanted) this.free();
    else if (lead === "closing" && this.link!.leaving) this.detach();
    else if (word === "no" && this.since < Infinity && (lead === "busy" || retry)) this.resume(retry);
    else this.drop(lead, error);
  }

  private accepted({ epoch, next }: Position, at: number) {
    this.live = true;
    this.since = this.core.clock.now();
    this.clear(next);
    if (!this.wanted) return this.quit();
    if (!this.epoch) this.move({ epoch, next });
    this.begin();
    if (epoch === this.epoch) {
      if (at < this.expect) this.discard();
      this.expect = at || next;
      return this.hole(next - 1);
    }
    // Back in an epoch that it had left: it goes on where it was (C14.1).
    const back = this.left.find((one) => one.epoch === epoch)?.next ?? 0;
    this.turn(epoch, Math.max(next, back));
    if (back > next) this.quit();
  }

  /** It is on no connection any more. @returns whether it lived for so long that it may be asked for at once */
  private stopped() {
    const isStable = this.live && this.core.clock.now() - this.since >= STABLE;
    if (isStable) this.backoff.reset();
    this.live = this.leaving = false;
    this.link = undefined;
    return isStable;
  }

  /** @internal Sends `/unsubscribe`. What is still wanted is asked for again later. */
  quit() {
    const link = this.link!;
    this.live = false;
    this.leaving = true;
    const ended = () => {
      if (this.link !== link) return;
      if (this.wanted) this.resume();
      else this.free();
    };
    if (link.isAsking) link.request("/unsubscribe", toBytes(this.topic), { ended });
    else ended();
  }

  /** Makes room for its successor. */
  private free() {
    const { core, topic, successor } = this;
    this.stopped();
    // One that waits behind another has nothing to free.
    if (core.cursors.get(topic) !== this) return;
    core.cursors.delete(topic);
    successor?.start();
  }
}
