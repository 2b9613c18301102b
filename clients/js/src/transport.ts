/** What a client needs of a transport: WebSocket, TCP, TLS and Unix sockets have it. */

/** What a transport tells. */
export interface TransportEvents {
  data(bytes: Uint8Array): void;
  /** It takes bytes again. */
  drain(): void;
  /** It is over, or never was. */
  end(error: Error): void;
}

/** One connection of bytes. */
export interface Transport {
  /** Writes bytes, when it is open. @returns whether it takes more at once; else it calls `drain` */
  send(bytes: Uint8Array): boolean;
  /** Closes at once. */
  close(): void;
}

/** Begins to connect to an address. */
export type Dial = (address: string, events: TransportEvents) => Transport;
