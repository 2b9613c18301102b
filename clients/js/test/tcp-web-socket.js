// A WebSocket class over plain TCP, so that the conformance kit, which speaks TCP, can test the build for browsers.
import { connect } from "node:net";

import { Lines } from "../dist/lines.js";

export class TcpWebSocket {
  constructor(url) {
    const { hostname, port } = new URL(url);
    const lines = new Lines(1 << 17);
    this.socket = connect({ host: hostname, port: Number(port), noDelay: true });
    this.socket.on("data", (bytes) => {
      // A line without an end is passed on as it is once it is longer than any line may be.
      const whole = lines.push(bytes) ?? new Uint8Array(1);
      if (whole.length) this.onmessage({ data: whole.buffer });
    });
    this.socket.on("end", () => this.socket.destroy());
    this.socket.on("error", () => {});
    this.socket.on("close", () => this.onclose({}));
  }

  get bufferedAmount() {
    return this.socket.writableLength;
  }

  get readyState() {
    return this.socket.destroyed ? 3 : 1;
  }

  send(bytes) {
    this.socket.write(bytes);
  }

  close() {
    this.socket.destroy();
  }
}
