// Refusals as errors, from the status that a call ended with.
import { Code, ConnectError } from "@connectrpc/connect";
import { InsufficientFundsSchema } from "./gen/florin/common/v1/errors_pb.js";
import type { Money } from "./gen/florin/common/v1/money_pb.js";
import { BadRequestSchema, ErrorInfoSchema, QuotaFailureSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

/** Florin said no. */
export class Refused extends ConnectError {
  /**
   * A value of florin.common.v1.Reason without its prefix; its meaning never changes. It is empty where no answer of
   * Florin's came: what was done is not known then. Ask again with the same requestId.
   */
  readonly reason: string = "";
  /** The values in the sentence, by name. */
  readonly values: Readonly<Record<string, string>> = {};

  // ConnectError says yes to whatever looks like one, whichever class it is asked for; and keeps only what is called so.
  static override [Symbol.hasInstance](value: unknown): boolean {
    return Function.prototype[Symbol.hasInstance].call(this, value);
  }

  constructor(error: ConnectError) {
    super(error.rawMessage, error.code, error.metadata, undefined, error.cause);
    this.details = error.details;
    const info = this.findDetails(ErrorInfoSchema)[0];
    if (info?.domain === "florin") {
      this.reason = info.reason;
      this.values = info.metadata;
      this.message = `${info.reason}: ${error.rawMessage}`;
    }
  }

  /** Whether there is no such thing, or it is not the caller's. */
  get isNotFound(): boolean {
    return this.code === Code.NotFound;
  }

  /** How many milliseconds to wait before asking again, where the answer says so. */
  get retryAfterMs(): number {
    const delay = this.findDetails(RetryInfoSchema)[0]?.retryDelay;
    return delay === undefined ? 0 : Number(delay.seconds) * 1000 + delay.nanos / 1e6;
  }

  /** Every rule of the contract that the request breaks. */
  get violations(): { field: string; description: string }[] {
    return this.findDetails(BadRequestSchema)[0]?.fieldViolations ?? [];
  }

  /** The limits that a payment is above: whose, and a sentence with their use and what is left. */
  get limits(): { subject: string; description: string }[] {
    return this.findDetails(QuotaFailureSchema)[0]?.violations ?? [];
  }
}

/** The funds available do not cover the amount. */
export class InsufficientFunds extends Refused {
  /** What could be paid; undefined for callers who may not know it. */
  readonly available: Money | undefined;
  readonly requested: Money | undefined;
  readonly held: Money | undefined;

  constructor(error: ConnectError) {
    super(error);
    const figures = this.findDetails(InsufficientFundsSchema)[0];
    this.available = figures?.available;
    this.requested = figures?.requested;
    this.held = figures?.held;
  }
}

/** A failed call as the error that it stands for. */
export function refusal(error: unknown): Refused {
  if (error instanceof Refused) return error;
  const plain = new Refused(ConnectError.from(error));
  return plain.reason === "INSUFFICIENT_FUNDS" ? new InsufficientFunds(plain) : plain;
}
