/** The WebSocket transport. A message holds one or more whole lines, and is binary. */
import type { Dial } from "./transport.js";
import { ConnectionError } from "./outcome.js";

/** The subprotocol. A WebSocket does not open if the server does not echo it. */
const PROTOCOL = "bellwire.v1";
/** Bytes that may be unwritten before requests wait. */
const HIGH = 262_144;
/** A WebSocket does not tell when it has written: how often to look, in ms. */
const LOOK = 20;
const LF = 10;

/** A class like the WebSocket of browsers. Programs without the types of browsers have no name for it. */
export type WebSocketClass = new (url: string, protocol: string) => {
  binaryType: string;
  readonly bufferedAmount: number;
  readonly readyState: number;
  send(bytes: Uint8Array): void;
  close(): void;
};

/**
 * @returns whether `url` is one of a WebSocket, without a password: the token has an option of its own
 * @throws TypeError if it is no URL
 */
export const isWebSocketUrl = (url: string) => /^wss?:\/\/[^@#]+$/i.test(url) && !!new URL(url);

/** Dials with the WebSocket of the system, or another one. */
export const webSocketDial =
  (Socket: WebSocketClass): Dial =>
  (address, events) => {
    const socket = new Socket(address, PROTOCOL) as WebSocket;
    const fail = (code: string) => {
      events.end(new ConnectionError(code));
      socket.close();
    };
    const look = () => {
      const isReady = socket.bufferedAmount < HIGH || socket.readyState > 1;
      if (isReady) events.drain();
      else setTimeout(look, LOOK);
      return isReady;
    };
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => {
      // A text is malformed, so it makes no line.
      const bytes = new Uint8Array((typeof data === "string" ? 0 : data) as ArrayBuffer);
      if (bytes.at(-1) === LF) events.data(bytes);
      else fail("malformed");
    };
    socket.onerror = socket.onclose = () => fail("closed");
    const send = (bytes: Uint8Array) => {
      socket.send(bytes as Uint8Array<ArrayBuffer>);
      return look();
    };
    return { send, close: () => socket.close() };
  };
