/** The public names, which both entries have. */
export type { Body, Client, Method, Published } from "./client.js";
export { type Delivery, type End, type Gap, Message, type Reset } from "./delivery.js";
export type {
  CallOptions, ClientOptions, ConnectionEvent, RequestOptions, Stats, StreamOptions, SubscribeOptions,
} from "./options.js";
export {
  type After, BellwireError, ConnectionError, FailedError, NotSentError, RefusedError, Reply, UnknownError,
} from "./outcome.js";
export { Payload } from "./payload.js";
export type { ReplyStream } from "./stream.js";
export type { Subscription } from "./subscription.js";
export type { WebSocketClass } from "./websocket.js";
