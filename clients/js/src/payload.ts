/** The payload of a reply, an item or a message: any bytes, read as bytes, text or JSON. */
import { toText } from "./wire.js";

/** Any bytes. Their meaning is up to the application. */
export class Payload {
  /** @param bytes the payload as it was sent; empty if there was none */
  constructor(readonly bytes: Uint8Array) {}

  /** The payload as UTF-8. Bytes that are none become U+FFFD. */
  text(): string {
    return toText(this.bytes);
  }

  /**
   * The payload as JSON. An absent payload is `null`.
   * @throws SyntaxError if it is no JSON
   */
  json<T = unknown>(): T {
    return JSON.parse(this.text() || "null") as T;
  }
}
