/** Whole lines out of a stream of bytes, for transports without messages. */
import { LF, concat } from "./wire.js";

/** Collects bytes until a line is whole. It holds less than `limit` bytes (B2.8). */
export class Lines {
  private pieces: Uint8Array[] = [];
  private held = 0;

  /** @param limit the longest line, LF included */
  constructor(private readonly limit: number) {}

  /** @returns all lines that are whole now, or undefined if one is too long */
  push(bytes: Uint8Array): Uint8Array | undefined {
    const end = bytes.lastIndexOf(LF) + 1;
    // The transport may use its buffer again.
    const [whole, rest] = [bytes.slice(0, end), bytes.slice(end)];
    const lines = end ? concat([...this.pieces, whole]) : whole;
    if (end) this.pieces = [];
    if (end) this.held = 0;
    this.pieces.push(rest);
    this.held += rest.length;
    return this.held < this.limit ? lines : undefined;
  }
}
