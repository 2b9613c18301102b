/**
 * One connection: its hello, its table of requests, the keep-alive, and how it ends. It does no input or output:
 * `data` takes lines, and what is to be written is collected in `out`.
 */
import type { Timer } from "./clock.js";
import type { Address, Core } from "./core.js";
import { ConnectionError } from "./outcome.js";
import type { Transport, TransportEvents } from "./transport.js";
import {
  type Attributes, LF, type Line, MALFORMED, type Position, encode, isName, need, needCode, optional, parse,
  toBytes, toNumber, toPosition, toText,
} from "./wire.js";

/** What waits for the lines of one id. */
export interface Entry {
  /** Whether it takes a place in flight. */
  place?: boolean;
  /** Takes an item. Without it, items are ignored. */
  more?(line: Line): void;
  /** Takes the terminal line. */
  ended(line: Line): void;
  /** Is called if the connection ends before the terminal line. */
  lost?(): void;
}

/** Renewals without an answer, after which no more are sent. */
const MAX_RENEWALS = 4;
/** By then something has to be sent, in seconds: a server waits 10 s for the first line. */
const FIRST = 5;
const MAX_LINE = 65_535;
/** Between two renewals, in seconds, however long the lease is. */
const MAX_KEEP_ALIVE = 60;
/** The length of one. */
const UUID = 36;
const EMPTY = new Uint8Array();
/** Waits for no answer. */
const NOBODY: Entry = { ended() {} };

export class Link implements TransportEvents {
  transport: Transport | undefined;
  readonly table = new Map<number, Entry>();
  places = 0;
  isOpen: boolean | undefined;
  /** What the hello says. */
  maxLine: number | undefined;
  inFlight!: number;
  /** The key table, and for how many seconds a request may be repeated: not at all where there is none. */
  keys: Position = { epoch: "", next: 0 };
  /** It is leaving, because of a `/bye`; its `last`, or infinity while there is none. */
  leaving: boolean | undefined;
  last = Infinity;
  /** It has ended: nothing more is read or written. */
  over: boolean | undefined;
  /** The transport takes no more bytes for now. */
  blocked: boolean | undefined;
  /** Lines to be written, and how many bytes they have. */
  out: Uint8Array[] = [];
  size = 0;
  private quitting: boolean | undefined;
  private timer: Timer;
  private keepAlive = MAX_KEEP_ALIVE;
  private renewAt = Infinity;
  private renewals = 0;
  private heard: number;
  /** When it was probed; that counts until the server is heard again. */
  private probed = 0;

  /** @param until when it is given up if it is not open by then, and later if it does not end */
  constructor(
    private readonly core: Core,
    readonly address: Address,
    private until: number,
  ) {
    this.heard = core.clock.now();
    this.tick();
  }

  /** Whether requests of the protocol may be sent: `/renew`, `/unsubscribe`, `/quit`. */
  get isAsking() {
    return !this.over && !this.quitting && this.last === Infinity;
  }

  /** Takes whole lines of the server, one or several. */
  data(bytes: Uint8Array) {
    this.heard = this.core.clock.now();
    try {
      for (let from = 0, at; !this.over && (at = bytes.indexOf(LF, from)) >= 0; from = at + 1) {
        need(at - from < this.core.settings.maxLine);
        this.take(parse(bytes.subarray(from, at)));
      }
    } catch (error) {
      if (error !== MALFORMED) throw error;
      this.fail("malformed");
    }
  }

  /** The transport takes bytes again. */
  drain() {
    this.blocked = false;
    this.core.wake();
  }

  /** Closes the connection. */
  fail(code: string, text?: string, cause?: unknown) {
    this.end(new ConnectionError(code, text, cause));
    this.transport?.close();
  }

  /** The connection has ended. */
  end(error: Error) {
    if (this.over) return;
    this.over = true;
    this.core.clock.clear(this.timer);
    this.core.lost(this, error);
  }

  /**
   * Writes a request.
   * @returns its id, or 0 if it would be too long for the server
   */
  request(head: string, body: Uint8Array, entry: Entry): number {
    const id = this.core.lastId + 1;
    if (!this.write(`${id} ${head}`, body)) return 0;
    this.core.lastId = id;
    this.table.set(id, entry);
    if (entry.place) this.places++;
    return id;
  }

  /** Writes a line. @returns whether it is short enough for the server */
  write(head: string, body: Uint8Array = EMPTY): boolean {
    const line = encode(head, body, this.maxLine!);
    if (!line) return false;
    this.out.push(line);
    this.size += line.length;
    this.core.wake();
    return true;
  }

  /** Ends the connection in order. */
  quit() {
    if (!this.isOpen) return this.fail("closed");
    if (this.isAsking) this.request("/quit", EMPTY, NOBODY);
    this.quitting = true;
    this.until = this.core.clock.now() + 4 * this.core.settings.probe;
  }

  private take(line: Line) {
    const { id, word, lead, body } = line;
    if (!this.maxLine) this.greet(line);
    else if (id) this.reply(line);
    else if (word[0] === "/") this.notice(line);
    else this.core.cursor(this, word)?.message(+lead, body);
  }

  private greet({ word, attributes }: Line) {
    const { version, session, keys, auth } = attributes;
    need(word === "/hello" && toNumber(version));
    if (version !== "1") return this.fail("bad-version");
    need(!session || session.length === UUID);
    const schemes = auth?.split(",").map(needCode);
    if (keys) this.keys = need(toPosition(keys));
    this.keepAlive = Math.min(optional(attributes, "lease", 60), optional(attributes, "idle", 60), MAX_KEEP_ALIVE);
    this.inFlight = optional(attributes, "in-flight", 1024);
    this.maxLine = optional(attributes, "max-line", MAX_LINE, 1024);
    this.introduce(schemes);
  }

  /** Tells the server the limit on lines, and who the client is. */
  private introduce(schemes: string[] | undefined) {
    const { maxLine, token, scheme } = this.core.settings;
    if (maxLine !== MAX_LINE) this.request(`/hello;version=1;max-line=${maxLine}`, EMPTY, NOBODY);
    if (!schemes) return this.open();
    if (!token || !schemes.includes(scheme)) return this.fail("unauthenticated", `${schemes}`);
    // The application's function may throw as well as reject.
    (async () => (typeof token === "string" ? token : token()))().then(
      (credentials) => this.authenticate(`${scheme} ${credentials}`),
      (cause) => this.fail("unauthenticated", "", cause),
    );
  }

  private authenticate(credentials: string) {
    const ended = ({ word, lead, attributes }: Line) => {
      if (word === "ok") return this.open();
      this.hold(toNumber(attributes.retry) || 0);
      // A token that does not change is refused again.
      const isPassing = attributes.retry || lead === "busy" || lead === "closing";
      if (typeof this.core.settings.token === "string" && !isPassing) this.core.candidates = -1;
      this.fail(lead);
    };
    if (!this.request("/auth", toBytes(credentials), { ended })) this.fail("unauthenticated");
  }

  private open() {
    this.isOpen = true;
    this.until = Infinity;
    this.renewIn(Math.min(FIRST, this.keepAlive));
    this.core.connected(this);
    this.tick();
  }

  private reply(line: Line) {
    const { id, word } = line;
    const entry = this.table.get(id);
    if (!entry) {
      this.core.stray("replies");
      if (this.core.settings.strict) this.fail("unmatched-reply");
    } else if (word === "more") entry.more?.(line);
    else {
      this.table.delete(id);
      if (entry.place) this.places--;
      entry.ended(line);
    }
  }

  private notice({ word, attributes, body }: Line) {
    const [topic, first, second, third, fourth] = toText(body).split(" ") as [string, ...string[]];
    const cursor = () => this.core.cursor(this, need(isName(topic) && topic));
    if (word === "/bye") this.bye(topic, attributes);
    else if (word === "/error") {
      optional(attributes, "id", 0);
      this.core.emit({ type: "error", code: needCode(topic), text: toText(body).slice(topic.length + 1) });
      if (topic === "id-order") this.fail(topic);
    } else if (word === "/gap") {
      const { epoch, next } = need(toPosition(`${first}:${second}`));
      const last = need(toNumber(third));
      need(next <= last && needCode(fourth) && cursor)()?.gap(epoch, next, last, fourth!);
    } else if (word === "/reset") {
      const { epoch, next } = need(toPosition(first));
      cursor()?.reset(epoch, next);
    } else if (word === "/end") {
      const head = optional(attributes, "head", 0);
      need(toPosition(second) && needCode(first) && cursor)()?.end(first!, head);
    }
  }

  private bye(reason: string, attributes: Attributes) {
    const last = optional(attributes, "last", Infinity, 0);
    const retry = optional(attributes, "retry", 0);
    // Without a last, the reason may be absent.
    const code = needCode(reason || (last === Infinity ? "closing" : ""));
    // Of two, the greater counts.
    if (last < Infinity) this.last = this.last < last || this.last === Infinity ? last : this.last;
    this.leaving = true;
    this.hold(retry);
    this.core.left(this, code);
  }

  /** Its address is not tried again before that time. */
  private hold(retry: number) {
    this.address.free = this.core.clock.now() + retry;
  }

  private renewIn(seconds: number) {
    this.renewAt = this.core.clock.now() + seconds * (500 + 200 * Math.random());
  }

  private renew() {
    if (!this.isAsking || this.renewals >= MAX_RENEWALS) return;
    this.renewals++;
    const ended = ({ word, body }: Line) => {
      this.renewals--;
      if (word === "ok") this.core.renewed(this, toText(body));
    };
    this.request("/renew", EMPTY, { ended });
  }

  /** Renews the lease in time, probes a silent server, and closes if it does not answer (C7.1). */
  private tick() {
    const { clock, settings } = this.core;
    const { probe } = settings;
    const now = clock.now();
    clock.clear(this.timer);
    this.timer = clock.set(() => this.tick(), Math.min(probe / 4, this.keepAlive * 50));
    if (now >= this.renewAt) {
      this.renewIn(this.keepAlive);
      this.renew();
    }
    // A server that owes nothing may be silent.
    if (this.isAsking && !this.table.size && !this.core.cursorsOn(this).length) this.heard = now;
    // Where no answer to a probe can be expected, it waits for longer.
    const limit = this.isAsking && !this.blocked ? probe : 3 * probe;
    if (this.probed > this.heard) {
      if (now - this.probed >= limit) this.until = now;
    } else if (now - this.heard >= probe) {
      this.probed = now;
      this.renew();
    }
    if (now >= this.until) this.fail("timeout");
  }
}
