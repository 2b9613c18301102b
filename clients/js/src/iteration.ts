/** Async iteration over items that come from a connection: the base of streamed replies and subscriptions. */

interface Taker<T> {
  resolve(result: IteratorResult<T, undefined>): void;
  reject(error: unknown): void;
}

export abstract class Iteration<T> implements AsyncIterableIterator<T, undefined> {
  /** @internal Nothing more comes. */
  over = false;
  /** @internal What waits to be taken. */
  items: T[] = [];
  private takers: Taker<T>[] = [];

  /** The next item; `done` behind the last one. */
  next(): Promise<IteratorResult<T, undefined>> {
    return new Promise((resolve, reject) => {
      this.takers.push({ resolve, reject });
      this.serve();
    });
  }

  /** Ends it: `for await` calls this when the loop is left. */
  return(): Promise<IteratorResult<T, undefined>> {
    this.leave();
    return this.next();
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** Ends it from the side of the application. */
  abstract leave(): void;

  /** @internal The next item, or undefined. @throws what the iteration ends with */
  abstract take(): T | undefined;

  /** @internal */
  push(item: T) {
    this.items.push(item);
    this.serve();
  }

  /** @internal Gives those that wait what there is. */
  serve() {
    for (let taker; (taker = this.takers[0]); this.takers.shift()) {
      try {
        const value = this.take();
        if (value) taker.resolve({ value, done: false });
        else if (this.over) taker.resolve({ value: undefined, done: true });
        else return;
      } catch (error) {
        taker.reject(error);
      }
    }
  }
}
