/** The client: what an application calls. It joins the core to transports, a clock and promises. */
import { Core } from "./core.js";
import {
  type CallOptions, type RequestOptions, type StreamOptions,
  CALL, STREAM, type SubscribeOptions, checkRequest, checkSubscribe,
} from "./options.js";
import { Reply, UnknownError } from "./outcome.js";
import type { Payload } from "./payload.js";
import { type Kind, Request, type Waiter } from "./request.js";
import { ReplyStream } from "./stream.js";
import { Subscription } from "./subscription.js";
import { type Line, concat, isMethod, isName, toBytes, toPosition, wrong } from "./wire.js";

/** A payload: text is sent as UTF-8. For JSON, pass `JSON.stringify(value)`. */
export type Body = string | Uint8Array;

/** What was published: the message has this number in this epoch. */
export interface Published {
  epoch: string;
  seq: number;
  /** The position behind the message. */
  position: string;
}

/** An entry of `methods()`. */
export interface Method {
  name: string;
  /** One line for people; perhaps empty. */
  doc: string;
}

/**
 * A client of one service. It begins to connect at once, and connects again after a loss. Requests wait for a
 * connection, up to their deadlines.
 */
export class Client extends Core {
  /** Calls a method that answers with one reply. Rejects with one of the errors that README.md lists. */
  async call(method: string, payload: Body = "", options: CallOptions = {}): Promise<Reply> {
    const line = await this.request("call", method, payload, options, CALL);
    const { after } = line!.attributes;
    const [topic = "", position] = after?.split(/:(.*)/) ?? [];
    return new Reply(line!.body, toPosition(position) && { topic, position: position! });
  }

  /** Calls a method that answers with a stream. The request is sent at once. */
  stream(method: string, payload: Body = "", options: StreamOptions = {}): ReplyStream {
    const stream = new ReplyStream(options.window);
    stream.request = this.begin("stream", method, payload, options, stream, STREAM);
    return stream;
  }

  /** Sends a request that is never answered. Resolves when it was offered to the transport. */
  async oneWay(method: string, payload: Body = "", options: RequestOptions = {}): Promise<void> {
    await this.request("one-way", method, payload, options);
  }

  /** Publishes a message to a topic, if the server allows it. */
  async publish(topic: string, payload: Body = "", options: CallOptions = {}): Promise<Published> {
    if (!isName(topic)) wrong("topic", topic);
    const bytes = toBytes(payload);
    const body = concat([toBytes(bytes.length ? topic + " " : topic), bytes]);
    const line = await this.request("publish", "/publish", body, options, CALL);
    const { epoch = "", seq } = line!.attributes;
    const { next } = toPosition(`${epoch}:${seq}`) ?? {};
    if (!next) throw new UnknownError("bad-reply");
    return { epoch, seq: next, position: `${epoch}:${next + 1}` };
  }

  /** The application methods of the server. */
  async methods(options: RequestOptions = {}): Promise<Method[]> {
    const lines: Payload[] = [];
    // Asking twice does no harm.
    const always = { ...options, idempotent: true };
    await this.request("methods", "/methods", "", always, CALL, (item) => lines.push(item));
    return lines.map((line) => {
      const [name, doc = ""] = line.text().split(/ (.*)/s) as [string, string?];
      return { name, doc };
    });
  }

  /**
   * Subscribes to a topic, on this connection and all that follow. Resolves when the server has accepted. A client has
   * at most one subscription to a topic.
   */
  async subscribe(topic: string, options: SubscribeOptions = {}): Promise<Subscription> {
    if (!isName(topic)) wrong("topic", topic);
    checkSubscribe(options);
    return Subscription.open(this, topic, options);
  }

  private begin(kind: Kind, method: string, payload: Body, options: CallOptions, waiter: Waiter, example?: object) {
    checkRequest(options, example as Record<string, unknown>);
    if (kind !== "publish" && kind !== "methods" && !isMethod(method)) wrong("method", method);
    return new Request(this, kind, method, toBytes(payload), options, waiter);
  }

  private request(
    kind: Kind,
    method: string,
    payload: Body,
    options: CallOptions,
    example?: object,
    push?: (item: Payload) => unknown,
  ): Promise<Line | undefined> {
    return new Promise((resolve, reject) => {
      this.begin(kind, method, payload, options, { resolve, reject, push }, example);
    });
  }
}
