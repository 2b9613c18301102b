// The WebSocket transport, with a class in place of that of browsers.
import assert from "node:assert/strict";
import { test } from "node:test";

import { webSocketDial } from "../dist/websocket.js";
import { within } from "./support.js";

/** Dials, and gives the WebSocket, the transport, what it told, and when it drains. */
function dial() {
  const told = [];
  let socket;
  let drained;
  class Socket {
    bufferedAmount = 0;
    readyState = 1;
    sent = [];
    closed = 0;
    constructor(url, protocol) {
      Object.assign(this, { url, protocol });
      socket = this;
    }
    send(bytes) {
      this.sent.push(Buffer.from(bytes).toString());
    }
    close() {
      this.closed++;
    }
  }
  const events = {
    data: (bytes) => told.push(Buffer.from(bytes).toString()),
    drain: () => drained?.(),
    end: ({ code }) => told.push(code),
  };
  const transport = webSocketDial(Socket)("ws://host/path", events);
  /** Resolves when it takes bytes again. */
  const drain = () => new Promise((resolve) => (drained = resolve));
  return { socket, transport, told, drain };
}

const buffer = (text) => new Uint8Array(Buffer.from(text)).buffer;

test("a WebSocket asks for the subprotocol, and takes binary messages of whole lines", () => {
  const { socket, told } = dial();
  assert.deepEqual([socket.url, socket.protocol, socket.binaryType], ["ws://host/path", "bellwire.v1", "arraybuffer"]);
  socket.onmessage({ data: buffer("1 ok a\n2 ok b\n") });
  assert.deepEqual(told, ["1 ok a\n2 ok b\n"]);
  assert.equal(socket.closed, 0);
});

test("a message of text, of nothing, or of half a line closes a WebSocket", () => {
  for (const data of ["1 ok\n", buffer(""), buffer("1 ok\n2 o")]) {
    const { socket, told } = dial();
    socket.onmessage({ data });
    assert.deepEqual(told, ["malformed"]);
    assert.equal(socket.closed, 1);
  }
});

test("a WebSocket that has much to write takes no more until it has written", async () => {
  const { socket, transport, drain } = dial();
  assert.equal(transport.send(Buffer.from("1 m\n")), true);
  socket.bufferedAmount = 262_144;
  const drained = drain();
  assert.equal(transport.send(Buffer.from("2 m\n")), false);
  socket.bufferedAmount = 262_143;
  await within("the drain", drained);
  assert.deepEqual(socket.sent, ["1 m\n", "2 m\n"]);
});

test("a WebSocket that closes with much to write is not waited for", () => {
  const { socket, transport } = dial();
  Object.assign(socket, { bufferedAmount: 262_144, readyState: 3 });
  assert.equal(transport.send(Buffer.from("1 m\n")), true);
});
