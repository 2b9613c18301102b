/** What a subscription yields. */
import { Payload } from "./payload.js";

/** A message of the topic. */
export class Message extends Payload {
  readonly type = "message";
  /** It was delivered before, and not acknowledged (`redeliver`). */
  redelivered = false;

  constructor(
    bytes: Uint8Array,
    /** The identity of the log. */
    readonly epoch: string,
    /** The number of the message in its epoch. */
    readonly seq: number,
  ) {
    super(bytes);
  }
}

/** The numbers `first` to `last` will not come. */
export interface Gap {
  type: "gap";
  epoch: string;
  first: number;
  last: number;
  /** The server's reason; `lost` if the server did not name them. */
  reason: string;
}

/** The topic has another log, which begins here at `next`: fetch again what the messages told. */
export interface Reset {
  type: "reset";
  epoch: string;
  next: number;
}

/** The subscription has ended. Nothing comes behind it. */
export interface End {
  type: "end";
  /** The server's reason, the code of a refused resume, `lost`, or `closing` if the client was closed. */
  reason: string;
  /** Where to subscribe again. */
  position: string;
}

export type Delivery = Message | Gap | Reset | End;
