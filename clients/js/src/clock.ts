/** The clock of the core, which is passed in, and the pauses before repetitions. */

/** Time in milliseconds, and timers: what tests replace. */
export interface Clock {
  now(): number;
  /** Calls `run` after `delay`. */
  set(run: () => void, delay: number): unknown;
  clear(timer: unknown): void;
}

/** A timer of any kind. */
export type Timer = unknown;

/** The longest time that timers of all systems take, in ms. */
const MAX_TIMER = 2 ** 31 - 1;

/** The clock of the system. */
export const systemClock: Clock = {
  now: () => performance.now(),
  set: (run, delay) => setTimeout(run, Math.min(delay, MAX_TIMER)),
  clear: (timer) => clearTimeout(timer as number),
};

const BASE = 250;
const MAX = 30_000;
/** After how long without a repetition the windows begin anew, in milliseconds. */
export const STABLE = 10_000;

/** Windows that follow one another and double (C5.3, C5.6). */
export class Backoff {
  private n = 0;
  private end = 0;

  /** The next window is the first one again, and begins at once. */
  reset() {
    this.n = this.end = 0;
  }

  /**
   * Opens the next window, behind a retry hint of `wait` milliseconds.
   * @returns how long to wait until a random point of it
   */
  pause(clock: Clock, wait: number) {
    const now = clock.now();
    const begin = Math.max(this.end, now + wait);
    // After a retry hint that many clients were given, it is as long as that.
    const window = Math.min(MAX, Math.max(BASE * 2 ** this.n++, wait));
    this.end = begin + window;
    return begin + window * (0.1 + 0.9 * Math.random()) - now;
  }
}

/**
 * Calls `giveUp` when the deadline is over or the signal is aborted.
 * @returns the timer, and how to forget both
 */
export function patience(
  clock: Clock,
  deadline: number,
  signal: AbortSignal | undefined,
  giveUp: (code: string, cause?: unknown) => void,
) {
  const abort = () => giveUp("cancelled", signal!.reason);
  signal?.addEventListener("abort", abort);
  const timer = clock.set(() => giveUp("deadline"), deadline);
  return (all?: boolean) => {
    clock.clear(timer);
    if (all) signal?.removeEventListener("abort", abort);
  };
}
