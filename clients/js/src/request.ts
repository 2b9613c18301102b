/** A request of the application: how it is written, what its outcome is, and when it is sent again. */
import { Backoff, type Timer, patience } from "./clock.js";
import type { Core } from "./core.js";
import type { Entry, Link } from "./link.js";
import type { CallOptions, StreamOptions } from "./options.js";
import { type BellwireError, NotSentError, RefusedError, UnknownError, failureOf } from "./outcome.js";
import { Payload } from "./payload.js";
import { type Line, joinAttributes } from "./wire.js";

/** What a request is, which decides how it may end and whether it can be cancelled. */
export type Kind = "call" | "stream" | "publish" | "methods" | "one-way";

/** Who waits for the outcome. */
export interface Waiter {
  resolve(line?: Line): void;
  reject(error: BellwireError): void;
  /** Takes an item of a streamed reply, or of a list of methods. */
  push?: ((item: Payload) => unknown) | undefined;
}

/** Methods that a server may list. */
const MAX_METHODS = 65_536;

/** What a request counts for, beside its payload, in bytes. */
const COST = 1024;

export class Request implements Entry {
  readonly place: boolean;
  /** The connection that the present attempt was written on. */
  link: Link | undefined;
  /** It has its outcome. In the table of its connection it is a tombstone until the terminal line. */
  private done: boolean | undefined;
  private id!: number;
  private credit: number;
  private isBegun: boolean | undefined;
  /** An earlier attempt may have run. */
  private hasRun: boolean | undefined;
  private refusal: BellwireError | undefined;
  /** The key table of the first attempt, and until when a repeat may be sent. */
  private store: string | undefined;
  private until: number | undefined;
  private readonly end: number;
  private readonly backoff = new Backoff();
  private readonly forget: (all?: boolean) => void;
  private pause: Timer | undefined;
  /** The caller gives up. */
  readonly giveUp = (code: string, cause?: unknown) => {
    const { link, kind } = this;
    if (this.done) return;
    if (!link) return this.unsent(code, cause);
    this.settle(new UnknownError(code, "", cause));
    if (kind === "call" || kind === "stream") link.write(`* /cancel ${this.id}`);
  };

  constructor(
    private readonly core: Core,
    private readonly kind: Kind,
    private readonly method: string,
    private readonly body: Uint8Array,
    private readonly options: CallOptions & StreamOptions,
    private readonly waiter: Waiter,
  ) {
    const { signal, window = 32 } = options;
    const deadline = options.deadline ?? core.settings.deadline;
    this.place = kind !== "methods" && kind !== "one-way";
    // A list of methods needs no credit, and is bounded all the same.
    this.credit = kind === "stream" ? window : kind === "methods" ? MAX_METHODS : 0;
    this.end = core.clock.now() + deadline;
    this.forget = patience(core.clock, deadline, signal, this.giveUp);
    core.requests.add(this);
    core.bytes += body.length + COST;
    if (signal?.aborted) this.giveUp("cancelled", signal.reason);
    else if (core.bytes > core.settings.pendingBytes) this.unsent("too-many");
    else core.enqueue(this);
  }

  /** Writes the request. */
  send(link: Link) {
    const now = this.core.clock.now();
    const { epoch, next } = link.keys;
    const isKept = (this.store ??= epoch) === epoch && now < (this.until ??= now + 1000 * next);
    if (this.options.key && !isKept) return this.unsent("no-keys");
    const isOneWay = this.kind === "one-way";
    if (isOneWay) this.id = +link.write("* " + this.head(), this.body);
    else this.id = link.request(this.head(), this.body, this);
    if (!this.id) return this.unsent("too-large");
    if (isOneWay) return this.settle();
    this.link = link;
  }

  /** The method and the attributes. */
  private head(): string {
    const { deadline, key, window, attributes } = this.options;
    // What is left of the deadline, rounded up, so that it is never 0.
    const left = Math.max(1, Math.ceil(this.end - this.core.clock.now()));
    const ttl = deadline && this.kind !== "methods" ? left : 0;
    return this.method + joinAttributes({ ttl, key, window, ...attributes });
  }

  more({ body }: Line) {
    if (this.done) return;
    this.isBegun = true;
    if (this.credit-- > 0) {
      // The default deadline is for the beginning of a stream.
      if (!this.options.deadline) this.forget();
      this.waiter.push!(new Payload(body));
    } else this.giveUp("unexpected-item");
  }

  ended(line: Line) {
    if (this.done) return;
    const { word, lead } = line;
    if (word === "ok") return this.settle(undefined, line);
    const error = failureOf(line);
    const isClosing = lead === "closing";
    const { retry = 0 } = error as RefusedError;
    if (word === "no" && !this.isBegun && (retry || isClosing)) this.again(error, retry);
    else if (word === "cut" && isClosing && this.options.idempotent) this.repeat(error);
    else this.settle(error);
  }

  /** The connection has ended without a terminal line. */
  lost() {
    if (this.done) return;
    const { id, link, options, isBegun } = this;
    const error = new UnknownError("lost");
    if (isBegun) this.settle(error);
    else if (id > link!.last) this.again(new RefusedError("closing"));
    else if (options.key || options.idempotent) this.repeat(error);
    else this.settle(error);
  }

  /** Gives credit for `items` more. */
  give(items: number) {
    if (this.done) return;
    this.credit += items;
    this.link!.write(`* /more ${this.id} ${items}`);
  }

  /** It will not be sent any more. */
  unsent(code: string, cause?: unknown) {
    this.settle(this.refusal ?? new NotSentError(code, "", cause));
  }

  /** Sends it again, although it may have run, if there will be another connection. */
  private repeat(error: BellwireError) {
    if (!this.core.canSend) return this.settle(error);
    this.hasRun = true;
    this.again();
  }

  /** Sends it again: on the next connection, or after a pause if this one goes on. */
  private again(refusal?: BellwireError, retry = 0) {
    const { link, core } = this;
    this.refusal = refusal;
    this.link = undefined;
    if (!retry && (link!.leaving || link!.over)) return core.enqueue(this);
    this.pause = core.clock.set(() => core.enqueue(this), this.backoff.pause(core.clock, retry));
  }

  private settle(error?: BellwireError, line?: Line) {
    const { core } = this;
    this.done = true;
    core.requests.delete(this);
    core.waiting.delete(this);
    core.bytes -= this.body.length + COST;
    core.clock.clear(this.pause);
    this.forget(true);
    core.wake();
    if (!error) this.waiter.resolve(line);
    // If this attempt has not run, an earlier one may have.
    else this.waiter.reject(this.hasRun && !error.mayHaveRun ? new UnknownError(error.code, "", error) : error);
  }
}
