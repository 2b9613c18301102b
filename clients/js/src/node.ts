/** A client of the bellwire protocol for Node: TCP, TLS, Unix sockets, and WebSocket where there is one. */
import { type Socket, connect as connectTcp } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";

import { Client } from "./client.js";
import { Lines } from "./lines.js";
import type { ClientOptions } from "./options.js";
import { ConnectionError } from "./outcome.js";
import type { Dial } from "./transport.js";
import { type WebSocketClass, isWebSocketUrl, webSocketDial } from "./websocket.js";

export * from "./api.js";

/** Bytes that may be unwritten before requests wait. */
const HIGH = 262_144;
/** The longest line by default. */
const MAX_LINE = 65_535;
/** After how much silence the system probes the peer, in ms. */
const KEEP_ALIVE = 10_000;

/** Options that only Node has. */
export interface NodeOptions extends ClientOptions {
  /** For `tls://` addresses: certificates, keys, and whatever else `tls.connect` takes. */
  tls?: ConnectionOptions;
  /** A WebSocket class for `ws://` and `wss://`, where Node has none. */
  WebSocket?: WebSocketClass;
}

/**
 * Makes a client, which begins to connect at once. Several addresses are those of servers that offer the same service.
 * @param addresses `HOST:PORT`, `tcp://HOST:PORT`, `tls://HOST:PORT`, `unix:/PATH`, `ws://…` or `wss://…`
 * @throws TypeError or RangeError if an address or an option is wrong
 */
export function connect(addresses: string | string[], options: NodeOptions = {}): Client {
  const { tls = {}, WebSocket = globalThis.WebSocket, ...rest } = options;
  const all = [addresses].flat();
  if (!all.length) throw new TypeError("give an address");
  const dials = new Map(all.map((address) => [address, toDial(address, rest.maxLine, tls, WebSocket)]));
  return new Client(all, rest, (address, events) => dials.get(address)!(address, events));
}

/** How to connect to an address. */
function toDial(
  address: string,
  maxLine: number | undefined,
  tls: ConnectionOptions,
  WebSocket: WebSocketClass | undefined,
): Dial {
  if (isWebSocketUrl(address)) {
    if (!WebSocket) throw new TypeError("there is no WebSocket: pass the option WebSocket");
    return webSocketDial(WebSocket);
  }
  const path = /^unix:(.+)$/.exec(address)?.[1];
  if (path) return socketDial(() => connectTcp({ path }), "connect", maxLine);
  const [, scheme, six, host = six, port] = /^(?:(tcp|tls):\/\/)?(?:\[(.*)\]|([^:/]+)):(\d+)$/.exec(address) ?? [];
  if (!host || !(Number(port) < 65_536)) throw new TypeError(`${JSON.stringify(address)} is no address`);
  const to = { host, port: Number(port) };
  if (scheme !== "tls") return socketDial(() => connectTcp(to), "connect", maxLine);
  const servername = /[^\d.]/.test(host) && !six ? { servername: host } : {};
  return socketDial(() => connectTls({ ...servername, ...tls, ...to }), "secureConnect", maxLine);
}

const socketDial =
  (connect: () => Socket, ready: "connect" | "secureConnect", maxLine?: number): Dial =>
  (_, events) => {
    const socket = connect();
    const lines = new Lines(Math.max(maxLine ?? 0, MAX_LINE));
    let cause: Error | undefined;
    const read = (bytes: Uint8Array) => {
      const whole = lines.push(bytes);
      if (whole) return events.data(whole);
      events.end(new ConnectionError("malformed", "a line is too long"));
      socket.destroy();
    };
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE);
    socket.on(ready, () => socket.on("data", read));
    socket.on("drain", () => events.drain());
    socket.on("error", (error) => (cause = error));
    socket.on("end", () => socket.destroy());
    socket.on("close", () => {
      events.end(new ConnectionError(cause ? "failed" : "closed", cause?.message, cause));
    });
    return {
      send(bytes) {
        socket.write(bytes);
        return socket.writableLength < HIGH;
      },
      close: () => socket.destroy(),
    };
  };
