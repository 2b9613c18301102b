/** A streamed reply: items that come as far as the client gives credit. */
import { Iteration } from "./iteration.js";
import type { BellwireError } from "./outcome.js";
import { Payload } from "./payload.js";
import type { Request } from "./request.js";
import type { Line } from "./wire.js";

/**
 * The items of a streamed reply. Iterate over it with `for await`. When the loop is left, or `leave` is called, the
 * request is cancelled on the wire. At most `window` items wait to be taken. If the outcome is no `ok`, `next` rejects
 * with it behind the last item.
 */
export class ReplyStream extends Iteration<Payload> {
  /** @internal */
  request!: Request;
  private taken = 0;
  private error: BellwireError | undefined;

  /** @internal */
  constructor(private readonly window = 32) {
    super();
  }

  /** Gives the reply up, and cancels it on the wire. Items that were not taken are dropped. */
  leave() {
    this.items = [];
    this.finish();
    this.request.giveUp("cancelled");
    this.error = undefined;
  }

  /** @internal A payload of the `ok` is the last item. */
  resolve(line?: Line) {
    if (line!.body.length) this.push(new Payload(line!.body));
    this.finish();
  }

  /** @internal */
  reject(error: BellwireError) {
    this.error = error;
    this.finish();
  }

  private finish() {
    this.over = true;
    this.serve();
  }

  /** @internal */
  take() {
    const item = this.items.shift();
    const { error } = this;
    if (!item) {
      // An error is told once.
      this.error = undefined;
      if (error) throw error;
    } else if (++this.taken >= this.window / 2) {
      // Credit goes back by half of the window, so that the server need not wait.
      this.request.give(this.taken);
      this.taken = 0;
    }
    return item;
  }
}
