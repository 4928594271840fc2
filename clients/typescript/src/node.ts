// The client for Node, by gRPC.
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Client, type Options, PATIENCE_MS } from "./client.js";
import { caller } from "./sending.js";

export * from "./client.js";

/** A client for an edge, host and port. `ca` is its certificate authority in PEM; those that Node knows if absent. */
export function connect(target: string, options: Options & { ca?: string | Buffer }): Client {
  const patienceMs = options.patienceMs ?? PATIENCE_MS;
  const transport = createGrpcTransport({
    baseUrl: `https://${target}`,
    nodeOptions: options.ca === undefined ? {} : { ca: options.ca },
    interceptors: [caller(options.token, patienceMs)],
  });
  return new Client(transport, patienceMs);
}
