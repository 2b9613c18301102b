/**
 * A client of the bellwire protocol for browsers, over WebSocket. `bellwire/node` also has TCP, TLS and Unix sockets.
 *
 * ```js
 * const client = connect("wss://offers.example/bellwire", { token });
 * const reply = await client.call("offers.get", "43");
 * for await (const delivery of await client.subscribe("offers")) console.log(delivery);
 * ```
 */
import { Client } from "./client.js";
import type { ClientOptions } from "./options.js";
import { type WebSocketClass, isWebSocketUrl, webSocketDial } from "./websocket.js";
import { wrong } from "./wire.js";

export * from "./api.js";

/**
 * Makes a client, which begins to connect at once. Several addresses are those of servers that offer the same service.
 * @param urls `ws://` or `wss://`, one or several
 * @throws TypeError or RangeError if a URL or an option is wrong
 */
export function connect(
  urls: string | string[],
  options: ClientOptions & { WebSocket?: WebSocketClass } = {},
): Client {
  const { WebSocket = globalThis.WebSocket, ...rest } = options;
  const all = [urls].flat();
  if (!all.length || !all.every(isWebSocketUrl)) wrong("WebSocket URL", urls);
  return new Client(all, rest, webSocketDial(WebSocket));
}
