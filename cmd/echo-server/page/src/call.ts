// One call by one path.

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { address } from "./config";
import { decodeDetails, type Detail } from "./details";
import { DummyService } from "./gen/dummy/weft/dummy/v1/dummy_pb";
import { encodeValue, type Field, fieldsOf, withoutHeaders, withoutTrailers } from "./metadata";
import type { Call } from "./state";

/** What is told while the call goes on. Times are in milliseconds since its start. */
export interface Events {
  onHeaders?(http: number, headers: Field[], at: number): void;
  onMessage?(text: string, at: number): void;
}

export interface Outcome {
  requestId: string;
  code: number;
  message: string;
  messages: string[];
  details: Detail[];
  http: number | undefined; // the status of HTTP, undefined if there was no answer
  headers: Field[];
  trailers: Field[];
  /** There was no answer at all: no server there, or one that does not let this page call it. */
  unreachable: boolean;
  /** The page ended the call itself, by Cancel or by the deadline, and did not hear what the server made of it. */
  own: boolean;
  headersAt: number | undefined;
  took: number;
}

/** An id that the trace of the call is found by, also if the call is cancelled. */
export function newRequestId(): string {
  if (typeof crypto.randomUUID === "function") {
    return `page-${crypto.randomUUID()}`;
  }
  // Only secure contexts have randomUUID; http://localhost is one, another name of the machine is not.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

export async function makeCall(
  call: Call,
  requestId: string,
  token: string,
  signal: AbortSignal,
  events: Events = {},
): Promise<Outcome> {
  const outcome: Outcome = {
    requestId,
    code: 0,
    message: "",
    messages: [],
    details: [],
    http: undefined,
    headers: [],
    trailers: [],
    unreachable: false,
    own: false,
    headersAt: undefined,
    took: 0,
  };
  const start = performance.now();
  const elapsed = () => performance.now() - start;
  let headers = new Headers();

  // The client tells headers only of calls that succeed, and of others headers and trailers in one. Here passes
  // the response itself, so that they can be told apart wherever the protocol does.
  const observedFetch: typeof fetch = async (url, init) => {
    let response: Response;
    try {
      response = await fetch(url, init);
    } catch (error) {
      outcome.unreachable = !init?.signal?.aborted;
      throw error;
    }
    outcome.http = response.status;
    outcome.headersAt = elapsed();
    headers = withoutTrailers(response.headers);
    outcome.headers = fieldsOf(headers);
    events.onHeaders?.(response.status, outcome.headers, outcome.headersAt);
    return response;
  };
  const options = { baseUrl: address(call.server), useBinaryFormat: call.codec === "proto", fetch: observedFetch };
  const transport = call.protocol === "connect" ? createConnectTransport(options) : createGrpcWebTransport(options);
  const client = createClient(DummyService, transport);

  const requestHeaders = new Headers({ "x-request-id": requestId });
  for (const [name, value] of call.headers) {
    requestHeaders.append(name, encodeValue(name, value));
  }
  if (token !== "") {
    requestHeaders.set("authorization", `Bearer ${token}`);
  }
  const callOptions = {
    headers: requestHeaders,
    signal,
    timeoutMs: call.deadlineMs,
    onTrailer: (trailers: Headers) => (outcome.trailers = fieldsOf(trailers)),
  };
  const receive = (text: string) => {
    outcome.messages.push(text);
    events.onMessage?.(text, elapsed());
  };
  try {
    if (call.method === "Execute") {
      receive((await client.execute({ input: call.input }, callOptions)).output);
    } else {
      for await (const { output } of client.executeServerStream({ input: call.input }, callOptions)) {
        receive(output);
      }
    }
  } catch (reason) {
    const error = ConnectError.from(reason);
    outcome.code = error.code;
    outcome.message = error.rawMessage;
    outcome.details = decodeDetails(error);
    outcome.trailers = fieldsOf(withoutHeaders(error.metadata, headers));
    if (outcome.unreachable) {
      // The client says unknown, which is what servers say of their own errors.
      outcome.code = Code.Unavailable;
      outcome.message = `no answer from ${address(call.server)}`;
    } else {
      outcome.own = outcome.http === undefined || signal.aborted;
    }
  }
  outcome.took = elapsed();
  return outcome;
}
