// When and how a call is sent again: the very same request, with the same requestId, so that it is done once.
//
// A call is sent again where the answer asks for it, or where none came. That is safe for every method of METHODS, which
// the contracts declare idempotent: what changes something is known by its requestId.
import { clone, type DescMessage, type Message } from "@bufbuild/protobuf";
import { reflect } from "@bufbuild/protobuf/reflect";
import { Code, ConnectError, type Interceptor, type UnaryRequest, type UnaryResponse } from "@connectrpc/connect";
import { refusal, type Refused } from "./errors.js";
import { METHODS } from "./tables.js";

/** Who calls: a token, or what gives one before every try, since tokens end. */
export type Token = string | (() => string | Promise<string>);

const PAUSE_MS = { first: 100, last: 2000 };
const ASKED_AGAIN = new Set([
  "UNAVAILABLE", "OVERLOADED", "RATE_LIMITED", "CONTENTION", "CAPTURE_UNDER_WAY", "DEADLINE_TOO_SHORT", "DEADLINE_EXCEEDED",
]);
const NO_ANSWER = new Set([
  Code.Unavailable, Code.DeadlineExceeded, Code.Internal, Code.Aborted, Code.Canceled, Code.Unknown,
]);

/** How long one call may be sent again, and how long to wait before the next time. */
export class Patience {
  private readonly end: number;
  private pause = PAUSE_MS.first;

  constructor(milliseconds: number) {
    this.end = Date.now() + milliseconds;
  }

  /** Waits before the next try, at random so that callers spread; false when the patience is over, or the caller's. */
  async wait(askedMs: number, signal?: AbortSignal): Promise<boolean> {
    const pause = Math.max(askedMs, (this.pause / 2) * (1 + Math.random()));
    this.pause = Math.min(this.pause * 2, PAUSE_MS.last);
    if (signal?.aborted || Date.now() + pause > this.end) return false;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(done, pause);
      function done() {
        clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        resolve();
      }
      signal?.addEventListener("abort", done);
    });
    return !signal?.aborted;
  }
}

/** Whether asking again may bring another answer. */
export function mayHelp(refused: Refused): boolean {
  return refused.reason === "" ? NO_ANSWER.has(refused.code) : ASKED_AGAIN.has(refused.reason);
}

/** Gives every call the token, makes refusals errors, and sends calls again that got no answer. */
export function caller(token: Token, patienceMs: number): Interceptor {
  return (next) => async (request) => {
    if (request.stream) {
      request.header.set("authorization", `Bearer ${await given(token)}`);
      try {
        const response = await next(request);
        return response.stream ? { ...response, message: refusing(response.message) } : response;
      } catch (error) {
        throw refusal(error);
      }
    }
    return await sent(next as (request: UnaryRequest) => Promise<UnaryResponse>, request, token, patienceMs);
  };
}

async function sent(
  next: (request: UnaryRequest) => Promise<UnaryResponse>,
  request: UnaryRequest,
  token: Token,
  patienceMs: number,
): Promise<UnaryResponse> {
  const deadlineMs = METHODS[`/${request.service.typeName}/${request.method.name}`];
  const message = deadlineMs === undefined ? request.message : withKeys(request.method.input, request.message);
  const patience = new Patience(patienceMs);
  for (;;) {
    const header = new Headers(request.header);
    header.set("authorization", `Bearer ${await given(token)}`);
    const late = deadlineMs ? AbortSignal.timeout(deadlineMs + 1000) : undefined; // the edge answers first, with a reason
    if (deadlineMs && !header.has("grpc-timeout")) header.set("grpc-timeout", `${deadlineMs}m`);
    const signal = late ? AbortSignal.any([request.signal, late]) : request.signal;
    try {
      return await next({ ...request, message, header, signal });
    } catch (error) {
      const refused = refusal(late?.aborted ? new ConnectError("no answer in time", Code.DeadlineExceeded) : error);
      const again = deadlineMs !== undefined && mayHelp(refused);
      if (!again || !(await patience.wait(refused.retryAfterMs, request.signal))) throw refused;
    }
  }
}

async function given(token: Token): Promise<string> {
  return typeof token === "string" ? token : await token();
}

async function* refusing<T>(messages: AsyncIterable<T>): AsyncIterable<T> {
  try {
    yield* messages;
  } catch (error) {
    throw refusal(error);
  }
}

/** The request with a requestId, its own or one made up here; each item of a batch gets one too. */
function withKeys(schema: DescMessage, message: Message): Message {
  const made = clone(schema, message);
  giveKey(schema, made);
  const items = schema.field.requests;
  if (items?.fieldKind === "list" && items.listKind === "message") {
    for (const item of (made as unknown as Record<string, Message[]>)[items.localName] ?? []) giveKey(items.message, item);
  }
  return made;
}

function giveKey(schema: DescMessage, message: Message): void {
  const field = schema.fields.find((one) => one.name === "request_id");
  if (field?.fieldKind !== "scalar") return;
  const view = reflect(schema, message);
  if (view.get(field) === "") view.set(field, crypto.randomUUID());
}
