/** The options of a client and of its requests, their defaults and their checks. */
import { isAttribute, toPosition, wrong } from "./wire.js";

/** Options of a client. Each has a default. Numbers are at most 2^31 - 1. */
export interface ClientOptions {
  /** The token, where the server requires one. A function is called before each connection that does. */
  token?: string | (() => string | Promise<string>);
  /** The scheme of `/auth`. Default: `token`. */
  scheme?: string;
  /** Whether to connect again after a loss, and until the first connection is made. Default: true. */
  reconnect?: boolean;
  /** Deadline of a request without one of its own, in ms. The server is not told of it. Default: 60,000. */
  deadline?: number;
  /** Requests in flight; further ones wait. The server's own limit applies, too. Default: 1,024. */
  inFlight?: number;
  /**
   * Bytes of requests without an outcome, waiting or in flight: of each its payload, and 1,024 more. Further requests
   * are not sent. Default: 64 MiB.
   */
  pendingBytes?: number;
  /** The longest line that this client reads, in bytes; at least 1,024. Default: 65,535. */
  maxLine?: number;
  /** Silence before the client probes the server, in ms. After 2 to 3 times that it closes. Default: 10,000. */
  probe?: number;
  /** How long one round of attempts to connect may take, in ms. Default: 10,000. */
  connectTimeout?: number;
  /** Whether a reply that no request waits for closes the connection. Default: false. */
  strict?: boolean;
  /** Is called with what happens on the connections. */
  onEvent?: (event: ConnectionEvent) => void;
}

/** What happens on the connections of a client. `onEvent` gets it for logs and displays. */
export type ConnectionEvent =
  /** A connection is open and authenticated. */
  | { type: "open"; address: string }
  /** The server is leaving: new requests begin on the next connection, and `waiting` says when that is tried. */
  | { type: "bye"; reason: string }
  /** A connection, or an attempt at one, has ended. */
  | { type: "lost"; address: string; error: Error }
  /** The next attempt to connect begins in `delay` milliseconds. */
  | { type: "waiting"; delay: number }
  /** The server reports a fault that no request owns, or a refused one-way request. */
  | { type: "error"; code: string; text: string }
  /** A line was ignored, which a correct server does not send; `stats` has the counts. */
  | { type: "stray"; line: keyof Stats }
  /** The client has ended, and does not connect again; without an error, because it was closed. */
  | { type: "end"; error: Error | undefined };

/** Counts of lines that were ignored. A correct server causes none. */
export interface Stats {
  /** Replies that no request waits for, but for late ones (C3.5). */
  replies: number;
  /** Notifications and notices that were ignored (C4.1), and messages beyond the window (C16.3). */
  notifications: number;
}

/** Options of a one-way request and of `methods`. */
export interface RequestOptions {
  /** Attributes of the application. Each key has a dot. */
  attributes?: Record<string, string>;
  /** After how many milliseconds the caller gives up, all attempts included. The server is told. */
  deadline?: number;
  /** Gives the request up, and cancels it on the wire. */
  signal?: AbortSignal | undefined;
}

/** Options of a call, and of `publish`. */
export interface CallOptions extends RequestOptions {
  /** The server runs the request at most once for this key, so it may be sent again after a loss. */
  key?: string;
  /** Running the request twice does no harm, so it may be sent again after a loss. */
  idempotent?: boolean;
}

/** Options of a streamed call. */
export interface StreamOptions extends RequestOptions {
  /** How many items the server may send ahead: 1 to 2^31 - 1. Default: 32. */
  window?: number;
}

/** Options of a subscription. */
export interface SubscribeOptions {
  /** Begins at this position, `EPOCH:NUMBER`, as `subscription.position` gives it. */
  from?: string;
  /** Begins with so many of the newest messages. Not together with `from`. */
  last?: number;
  /** Acknowledges, and lets the server send at most so many messages ahead. */
  window?: number;
  /** What the server does if this subscriber is too slow. Default: `gap`. */
  slow?: "gap" | "latest" | "close";
  /** With a `window`: messages are handled by `ack()` only, and not as soon as the next one is asked for. */
  manualAck?: boolean;
  /** With a `window`: the same, and what was not acknowledged is delivered again after a loss, and marked. */
  redeliver?: boolean;
  /** Bytes of payload that wait to be taken. Beyond, it leaves the topic until all are taken. Default: 1 MiB. */
  bufferBytes?: number;
  /** Messages that wait to be taken; beyond, the same. Default: 8,192: taking from longer arrays is slow. */
  bufferMessages?: number;
  /** For how long to try to begin, in ms. Default: the client's `deadline`. */
  deadline?: number;
  /** Gives up the attempt, and ends the subscription later. */
  signal?: AbortSignal | undefined;
}

/** The options of a client with all defaults filled in. */
export type Settings = Required<Omit<ClientOptions, "token" | "onEvent">> & Pick<ClientOptions, "token" | "onEvent">;

/** The defaults. */
const CLIENT = {
  scheme: "token",
  reconnect: true,
  deadline: 60_000,
  inFlight: 1024,
  pendingBytes: 64 << 20,
  maxLine: 65_535,
  probe: 10_000,
  connectTimeout: 10_000,
  strict: false,
};
// Examples of what may be given: their types are checked.
const REQUEST = { attributes: CLIENT, deadline: 1, signal: CLIENT };
export const CALL = { ...REQUEST, idempotent: true, key: "" };
export const STREAM = { ...REQUEST, window: 1 };
const SUBSCRIBE = {
  ...STREAM,
  from: "",
  last: 1,
  slow: "",
  manualAck: true,
  redeliver: true,
  bufferBytes: 1,
  bufferMessages: 1,
};

/** Puts options into `all`. @throws TypeError if one is unknown, or its value is not allowed; undefined is like absent */
function check(options: object, example: Record<string, unknown>, all: Record<string, unknown> = {}) {
  if (typeof options !== typeof example) wrong("options", options);
  for (const [key, value] of Object.entries(options)) {
    // Numbers are whole, and so small that any timer takes them.
    const isBad = typeof value !== typeof example[key] || (typeof value === "number" && ((value | 0) !== value || value < 1));
    if (value !== undefined) all[key] = isBad ? wrong(key, value) : value;
  }
  return all;
}

/** Checks the options of a client, and fills in the defaults. */
export function toSettings(options: ClientOptions): Settings {
  const { token, maxLine = 1024 } = options;
  if (maxLine < 1024) wrong("maxLine", maxLine);
  const example = { ...CLIENT, onEvent: wrong, token: typeof token === "function" ? token : "" };
  return check(options, example, { ...CLIENT }) as unknown as Settings;
}

/** Checks the options of a request. `example` is for its kind. */
export function checkRequest(options: CallOptions & StreamOptions, example: Record<string, unknown> = REQUEST) {
  check(options, example);
  // A key has no name that an application chooses.
  for (const [name, value] of Object.entries({ "key.": options.key ?? "none", ...options.attributes })) {
    if (!isAttribute(`${name}=${value}`)) wrong(name, value);
  }
}

/** Checks the options of a subscription. */
export function checkSubscribe(options: SubscribeOptions) {
  const { from, last, window, slow, manualAck, redeliver } = options;
  check(options, SUBSCRIBE);
  // It goes into the head as it is.
  if (!isAttribute(`a.=${slow}`)) wrong("slow", slow);
  if (from !== undefined && (last || !toPosition(from))) wrong("from", from);
  if ((manualAck || redeliver) && !window) wrong("window", window);
}
