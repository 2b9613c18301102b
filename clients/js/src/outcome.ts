/**
 * The outcomes of a request (PROTOCOL.md, section 3). A call resolves to a `Reply`, or rejects with one of four errors.
 * Their classes, and `mayHaveRun`, say whether the handler may have run.
 */
import { Payload } from "./payload.js";
import { type Line, toNumber, toText } from "./wire.js";

/** The base of all errors of this package. */
export class BellwireError extends Error {
  /**
   * @param code the code of the protocol, or of this client: see README.md
   * @param text what the peer said about it: it comes from a peer, so escape it before you show it
   */
  constructor(
    readonly code: string,
    readonly text = "",
    cause?: unknown,
  ) {
    // JSON makes control characters harmless, and the length is bounded.
    super(text ? `${code}: ${JSON.stringify(text.slice(0, 200))}` : code, { cause });
  }

  /** Whether the handler may have run. If not, it is safe to send the request again. */
  declare readonly mayHaveRun: boolean;
}

/** `err`: the handler ran and failed. The code is the application's. */
export class FailedError extends BellwireError {
}

/** `no`: the server refused the request. The handler was not started. */
export class RefusedError extends BellwireError {
  /** After how many milliseconds the request may succeed, if the server said so. */
  declare retry: number | undefined;
}

/** `cut`, or no answer before the end: the handler may have run, and its outcome is unknown. */
export class UnknownError extends BellwireError {
}

/** The request was not offered to the transport. The handler was not started. */
export class NotSentError extends BellwireError {
}

/** No connection could be made or kept: the server, the network or the options are at fault. */
export class ConnectionError extends BellwireError {
}

// On the prototypes, because a minifier changes the names of classes.
Object.entries({ FailedError, RefusedError, UnknownError, NotSentError, ConnectionError }).forEach(([name, Outcome]) =>
  Object.assign(Outcome.prototype, { name, mayHaveRun: /^[FU]/.test(name) }),
);

/** `ok`: the handler ran and succeeded. */
export class Reply extends Payload {
  constructor(
    bytes: Uint8Array,
    /** The position behind the notification that the request caused (docs/protocol/after.md). */
    readonly after?: After,
  ) {
    super(bytes);
  }
}

/** `TOPIC`, and the position behind a message of it. */
export interface After {
  topic: string;
  position: string;
}

/** @internal The error that an `err`, `no` or `cut` is. */
export function failureOf({ word, lead, attributes, body }: Line): BellwireError {
  const text = toText(body);
  if (word === "err") return new FailedError(lead, text);
  if (word !== "no") return new UnknownError(lead, text);
  const refused = new RefusedError(lead, text);
  refused.retry = toNumber(attributes.retry) || undefined;
  return refused;
}
