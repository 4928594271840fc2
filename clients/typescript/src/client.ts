// What clients for Node and for browsers share: the services, lists, and streams that go on where they broke.
import type { Transport } from "@connectrpc/connect";
import type { WatchAccountResponse } from "./gen/florin/accounts/v1/balance_service_pb.js";
import type { StreamEventsResponse } from "./gen/florin/notifications/v1/notification_service_pb.js";
import { refusal } from "./errors.js";
import { mayHelp, Patience, type Token } from "./sending.js";
import { Services } from "./services.js";

export * from "./errors.js";
export * from "./money.js";
export type { Token } from "./sending.js";

/** Who calls, and how long a call that got no answer is sent again. */
export interface Options {
  token: Token;
  /** 30 seconds if absent. */
  patienceMs?: number;
}

export const PATIENCE_MS = 30_000;

/** A connection to Florin's edge: a client of each public service, and what goes on for ever. */
export class Client extends Services {
  constructor(
    transport: Transport,
    private readonly patienceMs: number,
  ) {
    super(transport);
  }

  /**
   * An account's balance and entries as they come, until the signal is aborted or the loop is left; after a break it goes
   * on where it was. It begins with what comes from now on, or with the entry after `afterSequence`.
   */
  watchAccount(name: string, options: { afterSequence?: bigint; signal?: AbortSignal } = {}): AsyncIterable<WatchAccountResponse> {
    let afterSequence = options.afterSequence;
    return this.forEver(
      (signal) => this.balances.watchAccount({ name, afterSequence }, { signal }),
      (change) => (afterSequence = change.sequence),
      options.signal,
    );
  }

  /**
   * Events as they happen, until the signal is aborted or the loop is left; after a break they go on after the last one.
   * Whoever keeps an event's resumeToken can go on another day.
   */
  events(eventTypes: string[] = [], options: { resumeToken?: string; signal?: AbortSignal } = {}): AsyncIterable<StreamEventsResponse> {
    let resumeToken = options.resumeToken ?? "";
    return this.forEver(
      (signal) => this.notifications.streamEvents({ eventTypes, resumeToken }, { signal }),
      (answer) => (resumeToken = answer.event?.resumeToken ?? resumeToken),
      options.signal,
    );
  }

  private async *forEver<T>(
    open: (signal: AbortSignal) => AsyncIterable<T>,
    remember: (answer: T) => void,
    wanted?: AbortSignal,
  ): AsyncIterable<T> {
    let patience = new Patience(this.patienceMs);
    for (;;) {
      const left = new AbortController();
      const signal = wanted ? AbortSignal.any([wanted, left.signal]) : left.signal;
      let asked = 0;
      try {
        for await (const answer of open(signal)) {
          remember(answer);
          patience = new Patience(this.patienceMs);
          yield answer;
        }
      } catch (error) {
        const refused = refusal(error);
        if (wanted?.aborted) return;
        if (!mayHelp(refused) && refused.reason !== "TOKEN_INVALID") throw refused;
        asked = refused.retryAfterMs;
        if (!(await patience.wait(asked, wanted))) throw refused;
        continue;
      } finally {
        left.abort(); // who leaves the loop ends the stream
      }
      if (!(await patience.wait(asked, wanted))) return;
    }
  }
}

/** All items of a list, however many pages they come in: items(florin.transfers.listTransfers, {}, (page) => page.transfers). */
export async function* items<Request extends { pageToken?: string }, Page extends { nextPageToken: string }, Item>(
  list: (request: Request) => Promise<Page>,
  request: Request,
  of: (page: Page) => Item[],
): AsyncIterable<Item> {
  let pageToken = request.pageToken ?? "";
  do {
    const page = await list({ ...request, pageToken });
    yield* of(page);
    pageToken = page.nextPageToken;
  } while (pageToken !== "");
}
