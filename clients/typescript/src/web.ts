// The client for browsers, by gRPC-Web.
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { Client, type Options, PATIENCE_MS } from "./client.js";
import { caller } from "./sending.js";

export * from "./client.js";

/** A client for an edge at a URL, for example "https://florin.example". The edge must allow the page's origin. */
export function connect(baseUrl: string, options: Options): Client {
  const patienceMs = options.patienceMs ?? PATIENCE_MS;
  const transport = createGrpcWebTransport({ baseUrl, interceptors: [caller(options.token, patienceMs)] });
  return new Client(transport, patienceMs);
}
