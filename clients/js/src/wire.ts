/**
 * The lines of the protocol: parsing those of a server, encoding those of a client (PROTOCOL.md, section 2).
 */

/** A line that the grammar does not allow. The connection that it came on is closed (C2.5). */
export const MALFORMED = new Error("malformed");

/** Attributes by key. It has no prototype, so it holds nothing else. */
export type Attributes = Record<string, string | undefined>;

/** A position in the log of a topic: the epoch and the next number. */
export interface Position {
  epoch: string;
  next: number;
}

/** A line of the server, taken apart. */
export interface Line {
  /** The id of a reply, or 0 for a line of the channel `*`. */
  id: number;
  /** The word of a reply, a topic, or the name of a notice with its `/`. */
  word: string;
  attributes: Attributes;
  /** The code of a failure, or the number of a notification. */
  lead: string;
  /** The unstuffed body, without the lead and its SP. */
  body: Uint8Array;
}

const SP = 32;
export const LF = 10;
const CR = 13;
const DLE = 16;
const MAX_HEAD = 2048;
const MAX_NAME = 128;

const LINE =
  /^(\*|[1-9]\d{0,15}) (\/?[\w-]+(?:[./][\w-]+)*)((?:;[a-z][a-z0-9.-]{0,31}=[!-:<-~]{1,255}){0,32})(?: ([^\n\r]*))?$/;
const NAME = /^[\w-]+([./][\w-]+)*$/;
const CODE = /^[a-z][a-z0-9-]{0,63}$/;
const WORD = /^(ok|more|err|no|cut)$/;

// Of every encoding of one byte a character, this one all systems have.
const latin1 = new TextDecoder("latin1");
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
const encoder = new TextEncoder();

/** Bytes as UTF-8. Those that are none become U+FFFD. */
export const toText = (bytes: Uint8Array) => decoder.decode(bytes);

/** @throws TypeError */
export function wrong(what: string, value: unknown): never {
  throw new TypeError(`bad ${what}: ${value}`);
}

/** The bytes of a text, or a copy of bytes. @throws TypeError if it is neither */
export function toBytes(payload: string | Uint8Array): Uint8Array {
  if (typeof payload === "string") return encoder.encode(payload);
  // Not by the class: in a test runner or a frame it may be another one.
  return ArrayBuffer.isView(payload) ? new Uint8Array(payload) : wrong("payload", payload);
}

/** @returns whether `text` can be the name of a topic */
export const isName = (text: string) => NAME.test(text) && text.length <= MAX_NAME;
/** @returns whether `text` can be the name of a method, which must not be one of the five words */
export const isMethod = (text: string) => isName(text) && !WORD.test(text);

/** @throws MALFORMED if `value` is false, 0, empty or absent */
export function need<T>(value: T | undefined | null | 0 | "" | false): T {
  if (!value) throw MALFORMED;
  return value as T;
}

/** Reads a number from `least` to 2^53-1 in its one form. @returns NaN if it is none */
export function toNumber(text: string | undefined, least = 1): number {
  const number = Number(text);
  return String(number) === text && number >= least && Number.isSafeInteger(number) ? number : NaN;
}

/** Reads the number of an attribute, which may be absent. */
export const optional = (attributes: Attributes, key: string, absent: number, least = 1) =>
  key in attributes ? need(toNumber(attributes[key], least) + 1) - 1 : absent;

/** Reads `EPOCH:NUMBER`. */
export function toPosition(text = ""): Position | undefined {
  const [, epoch, digits] = /^([^\W_]{1,32}):(\d+)$/.exec(text) ?? [];
  const next = toNumber(digits);
  return epoch && next ? { epoch, next } : undefined;
}

/** Reads a code that has to be there. */
export const needCode = (text = "") => need(CODE.test(text) && text);

/** Takes apart a line of the server, without its LF. */
export function parse(bytes: Uint8Array): Line {
  const match = need(LINE.exec(latin1.decode(bytes)));
  const [, mark, word, keys, rest = ""] = match as string[] as [string, string, string, string, string?];
  const head = `${mark} ${word}${keys}`.length;
  const id = mark === "*" ? 0 : need(toNumber(mark));
  need(head <= MAX_HEAD && word.length <= MAX_NAME && (!id || WORD.test(word)));
  // A failure begins its body with a code, and a notification with a number.
  const hasLead = id ? word !== "ok" && word !== "more" : word[0] !== "/";
  const lead = hasLead ? rest.split(" ", 1)[0]! : "";
  need(!hasLead || (id ? CODE.test(lead) : toNumber(lead)));
  const body = unstuff(bytes.subarray(head + 1 + (hasLead ? lead.length + 1 : 0)));
  return { id, word, attributes: parseAttributes(keys), lead, body };
}

function parseAttributes(text: string): Attributes {
  const attributes: Attributes = Object.create(null);
  for (const part of text.split(";").slice(1)) {
    const [key, value] = part.split(/=(.*)/) as [string, string];
    need(!(key in attributes));
    attributes[key] = value;
  }
  return attributes;
}

/** Undoes byte stuffing, once and from left to right (B2.6). The result shares no memory with `body`. */
function unstuff(body: Uint8Array): Uint8Array {
  const plain = body.slice();
  let to = 0;
  for (let from = 0; from < plain.length; from++) {
    let byte = plain[from]!;
    if (byte === DLE) need(isStuffed((byte = plain[++from]! ^ 64)));
    plain[to++] = byte;
  }
  return plain.subarray(0, to);
}

const isStuffed = (byte: number) => byte === LF || byte === CR || byte === DLE;

/** @returns whether `KEY=VALUE` is an attribute of the application: its key has a dot */
export const isAttribute = (text: string) => /^[^=; ]*[.][^; ]*$/.test(text) && LINE.test(`* m;${text}`);

/** Writes attributes in a head, but for those that are absent, 0 or empty. */
export const joinAttributes = (attributes: Record<string, string | number | undefined>) =>
  Object.entries(attributes)
    .map(([key, value]) => (value ? `;${key}=${value}` : ""))
    .join("");

/**
 * Encodes a request line.
 * @param head what stands before the body: the mark, the method and the attributes
 * @returns undefined if the line would be longer than `maxLine`, or its head than 2,048 bytes or 32 attributes
 */
export function encode(head: string, payload: Uint8Array, maxLine: number): Uint8Array | undefined {
  if (!LINE.test(head) || head.length > MAX_HEAD) return undefined;
  const line = new Uint8Array(head.length + 2 + 2 * payload.length);
  let to = encoder.encodeInto(head, line).written;
  if (payload.length) line[to++] = SP;
  for (let byte of payload) {
    if (isStuffed(byte)) {
      line[to++] = DLE;
      byte ^= 64;
    }
    line[to++] = byte;
  }
  line[to++] = LF;
  return to > maxLine ? undefined : line.subarray(0, to);
}

/** Joins pieces of bytes. */
export function concat(pieces: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
