/**
 * The core of a client, without input and output. It is told the time, what its connections receive, and what the
 * application wants; it says what to connect to, what to write, and when it wants to be called next.
 */
import { Backoff, type Clock, STABLE, type Timer, systemClock } from "./clock.js";
import type { Cursor } from "./cursor.js";
import { Link } from "./link.js";
import { type ClientOptions, type ConnectionEvent, type Settings, type Stats, toSettings } from "./options.js";
import { ConnectionError } from "./outcome.js";
import type { Request } from "./request.js";
import type { Dial } from "./transport.js";
import { concat, toPosition } from "./wire.js";

/** Connections that the client is leaving, beside which it connects again. */
const MAX_LEAVING = 4;
/** Bytes that are joined into one write. */
const WRITE = 65_536;
/** Bytes that wait while the transport takes none, beyond which the connection is given up. */
const MAX_OUT = 4 << 20;
/** The pause before a round that the application asks for, in ms. */
const ASKED = 250;

/** An address, and when it may be connected to again. */
export interface Address {
  url: string;
  free: number;
}

export class Core {
  /** Resolves at the first connection, and rejects if the client ends before. */
  readonly opened: Promise<void>;
  /** Resolves when the client has ended: with the reason, or with undefined after `close`. */
  readonly closed: Promise<Error | undefined>;
  private onOpen!: () => void;
  private onEnd!: (error: Error | undefined) => void;
  /** Counts of lines that were ignored. */
  readonly stats: Readonly<Stats> = { replies: 0, notifications: 0 };
  /** @internal The connection on which new requests begin. */
  current: Link | undefined;
  /** @internal Ids go on from one connection to the next. */
  lastId = 0;
  /** @internal The application has closed the client. */
  closing: boolean | undefined;
  /** @internal */
  ended: boolean | undefined;
  /** @internal */
  readonly settings: Settings;
  /** @internal Requests without an outcome. */
  readonly requests = new Set<Request>();
  /** @internal Those of them that may be written now. */
  readonly waiting = new Set<Request>();
  /** @internal What `requests` count for, in bytes. */
  bytes = 0;
  /** @internal The subscriptions by topic. */
  readonly cursors = new Map<string, Cursor>();

  private readonly links = new Set<Link>();
  private connecting: Link | undefined;
  private openedAt = Infinity;
  /** Where to connect to, in turns, and from when on. */
  private readonly addresses: Address[];
  /** @internal How many addresses the present round has not tried yet; -1 if no other round shall follow. */
  candidates = 0;
  /** When the present round ends. */
  private roundEnd = 0;
  private readonly backoff = new Backoff();
  private planned: Timer;
  private isWoken: boolean | undefined;

  /** @internal Use `connect`. */
  constructor(
    addresses: string[],
    options: ClientOptions,
    private readonly dial: Dial,
    /** @internal */
    readonly clock: Clock = systemClock,
  ) {
    this.settings = toSettings(options);
    this.addresses = addresses.map((url) => ({ url, free: 0 }));
    this.closed = new Promise((resolve) => (this.onEnd = resolve));
    this.opened = new Promise((resolve, reject) => {
      this.onOpen = resolve;
      void this.closed.then((error) => reject(error ?? new ConnectionError("closed")));
    });
    // It need not be awaited.
    this.opened.catch(() => {});
    this.round();
  }

  /** @internal */
  emit(event: ConnectionEvent) {
    const { onEvent } = this.settings;
    // An error of the application's function is the application's.
    if (onEvent) queueMicrotask(() => onEvent(event));
  }

  /** `open` while requests can be written, `closed` after the end, else `connecting`. */
  get state(): "connecting" | "open" | "closed" {
    return this.current ? "open" : this.ended || this.closing ? "closed" : "connecting";
  }

  /** @internal Whether a request that is not sent yet may still be sent. */
  get canSend() {
    return this.current || (this.state !== "closed" && (this.settings.reconnect || this.connecting));
  }

  /** @internal Something is to be written: collects it with all that the present task writes. */
  wake() {
    if (this.isWoken) return;
    this.isWoken = true;
    queueMicrotask(() => {
      this.isWoken = false;
      this.flush();
    });
  }

  private flush() {
    for (const request of this.waiting) {
      const link = this.current;
      const isFull = request.place && link && link.places >= Math.min(this.settings.inFlight, link.inFlight);
      if (!link || link.blocked || isFull) break;
      this.waiting.delete(request);
      request.send(link);
      if (link.size > WRITE) this.write(link);
    }
    for (const link of this.links) this.write(link);
  }

  private write(link: Link) {
    if (link.size > MAX_OUT) return link.fail("blocked");
    if (!link.size || link.blocked) return;
    const bytes = concat(link.out);
    link.out = [];
    link.size = 0;
    link.blocked = !link.transport!.send(bytes);
  }

  /** @internal Lets a request be written as soon as there is room for it. */
  enqueue(request: Request) {
    if (!this.canSend) return request.unsent("closed");
    this.waiting.add(request);
    this.wake();
  }

  /** @internal */
  cursorsOn(link: Link | undefined) {
    return [...this.cursors.values()].filter((cursor) => cursor.link === link);
  }

  /** @internal The subscription that a line of `topic` on `link` belongs to. Other lines are counted. */
  cursor(link: Link, topic: string): Cursor | undefined {
    const cursor = this.cursors.get(topic);
    const isHere = cursor?.link === link;
    if (isHere && cursor.live) return cursor;
    if (!isHere || !cursor.leaving) this.stray("notifications");
    return undefined;
  }

  /** @internal */
  stray(line: keyof Stats) {
    (this.stats as Stats)[line]++;
    this.emit({ type: "stray", line });
  }

  /** @internal A hello was read, and the `ok` of `/auth` where one is needed. */
  connected(link: Link) {
    this.connecting = undefined;
    this.current = link;
    this.openedAt = this.clock.now();
    this.onOpen();
    this.emit({ type: "open", address: link.address.url });
    if (link.leaving) this.leaveCurrent();
    for (const cursor of this.cursorsOn(undefined)) if (cursor.isIdle) cursor.ask();
    this.wake();
  }

  /** @internal A `/bye` was read. */
  left(link: Link, reason: string) {
    this.emit({ type: "bye", reason });
    if (link === this.current) this.leaveCurrent();
  }

  /** @internal A connection, or an attempt at one, has ended. */
  lost(link: Link, error: Error) {
    const { closing, connecting, settings } = this;
    if (!closing) this.emit({ type: "lost", address: link.address.url, error });
    this.links.delete(link);
    if (link === connecting) this.connecting = undefined;
    if (link === this.current) this.leaveCurrent();
    for (const entry of link.table.values()) entry.lost?.();
    for (const cursor of this.cursorsOn(link)) cursor.detach();
    if (link === connecting && !closing) this.attempt(error);
    else if (settings.reconnect && !closing) this.plan();
    else if (!this.links.size) this.end(error);
    this.wake();
  }

  /** @internal The reply to `/renew` lists where the subscriptions are. */
  renewed(link: Link, list: string) {
    const entries = new Map(list.split(" ").map((entry) => entry.split(/:(.*)/) as [string, string]));
    for (const cursor of this.cursorsOn(link)) {
      const { topic, live } = cursor;
      if (entries.has(topic)) cursor.stands(toPosition(entries.get(topic)));
      else if (live) cursor.resume();
    }
  }

  /** Tries to connect soon if the client waits for its next attempt, for example when a browser is online again. */
  reconnect() {
    if (this.planned) this.roundIn(ASKED);
  }

  /** Begins nothing new, waits for the answers to what is in flight, and ends, with all subscriptions. */
  async close(): Promise<void> {
    this.closing = true;
    this.current = undefined;
    this.stop();
    for (const link of this.links) link.quit();
    if (!this.links.size) this.end();
    await this.closed;
  }

  /** Ends at once. Requests in flight are unknown. */
  abort() {
    this.closing = true;
    this.end();
  }

  private end(error?: Error) {
    if (this.ended) return;
    this.ended = true;
    this.current = undefined;
    this.stop();
    for (const link of this.links) link.fail("closed");
    if (this.closing) error = undefined;
    this.emit({ type: "end", error });
    this.onEnd(error);
  }

  /** Ends what is not on a connection, and at the end all subscriptions. */
  private stop() {
    this.clock.clear(this.planned);
    this.planned = undefined;
    for (const request of this.requests) if (!request.link) request.unsent("closed");
    for (const cursor of this.cursors.values()) if (!cursor.link || this.ended) cursor.drop("closing");
  }

  /** New requests begin on the next connection. */
  private leaveCurrent() {
    this.current = undefined;
    if (this.clock.now() - this.openedAt >= STABLE) this.backoff.reset();
    if (this.canSend) this.plan();
    else this.stop();
  }

  /** Sets the time of the next round: docs/protocol/reconnecting.md, section 14.1. */
  private plan() {
    if (this.state !== "connecting" || this.connecting || this.planned || this.links.size >= MAX_LEAVING) return;
    const now = this.clock.now();
    const free = Math.min(...this.addresses.map((address) => address.free));
    const delay = this.backoff.pause(this.clock, Math.max(0, free - now));
    this.emit({ type: "waiting", delay });
    this.roundIn(delay);
  }

  private roundIn(delay: number) {
    this.clock.clear(this.planned);
    this.planned = this.clock.set(() => this.round(), delay);
  }

  /** Tries each address, from the one behind the last that was tried on. */
  private round() {
    this.planned = undefined;
    this.roundEnd = this.clock.now() + this.settings.connectTimeout;
    this.candidates = this.addresses.length;
    this.attempt(new ConnectionError("timeout"));
  }

  private attempt(error: Error): void {
    const { addresses, settings } = this;
    const now = this.clock.now();
    const left = this.roundEnd - now;
    if (this.ended) return;
    if (this.candidates < 1 || left <= 0) {
      return settings.reconnect && this.candidates >= 0 ? this.plan() : this.end(error);
    }
    const address = addresses.shift()!;
    addresses.push(address);
    const until = now + left / this.candidates--;
    if (address.free > now) return this.attempt(error);
    const link = (this.connecting = new Link(this, address, until));
    this.links.add(link);
    try {
      link.transport = this.dial(address.url, link);
    } catch (cause) {
      // It would be so again: a WebSocket that the page may not open, or an option of TLS.
      this.end(cause as Error);
    }
  }
}
