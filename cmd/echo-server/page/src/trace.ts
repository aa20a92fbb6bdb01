// What the server's interceptors did for a call: the JSON of interceptors/trace. Times are in nanoseconds.

import { address, type Server } from "./config";

export interface Span {
  name: string;
  parent: number;
  depth: number;
  attempt: number;
  enteredNs: number;
  durationNs: number;
  running: boolean;
  panicked: boolean;
  code?: string;
  next: number;
  requests: number;
  responses: number;
  events: { kind: "request" | "response"; atNs: number }[];
}

export interface Trace {
  id: string;
  protocol: string;
  durationNs: number;
  running: boolean;
  droppedSpans: number;
  spans: Span[];
}

/** Asks a server for the trace of a call: undefined if it has none. */
export async function fetchTrace(server: Server, requestId: string, token: string): Promise<Trace | undefined> {
  const response = await fetch(`${address(server)}/trace?id=${encodeURIComponent(requestId)}`, {
    headers: token === "" ? {} : { Authorization: `Bearer ${token}` },
    cache: "no-store",
    signal: AbortSignal.timeout(5000), // of a server that hangs nothing more is to be learned
  });
  if (response.status === 404) {
    return undefined;
  }
  if (!response.ok) {
    throw new Error(`HTTP ${response.status}: ${(await response.text()).slice(0, 200).trim()}`);
  }
  const { calls } = (await response.json()) as { calls: Trace[] };
  return calls[0];
}

const endsWithin = 3000; // ms: the server may hear later than the page that a call is over
const pause = 300; // ms between two questions

/**
 * Follows a call on the server: tells its trace as it grows, until the call is over on both sides. It returns the last
 * trace, undefined if the call has not reached the interceptors.
 */
export async function follow(
  server: Server,
  requestId: string,
  token: string,
  over: Promise<unknown>,
  tell: (trace: Trace) => void = () => undefined,
): Promise<Trace | undefined> {
  let trace: Trace | undefined;
  let overAt: number | undefined;
  void over.then(() => (overAt = performance.now()));
  for (;;) {
    await Promise.race([over, sleep(pause)]); // once it is over, this does not wait
    const wasOver = overAt;
    const last = trace;
    trace = (await fetchTrace(server, requestId, token)) ?? last;
    if (trace) {
      tell(trace);
    }
    if (wasOver !== undefined) {
      if (trace ? !trace.running : performance.now() - wasOver > pause) {
        return trace;
      }
      if (performance.now() - wasOver > endsWithin) {
        return trace;
      }
      await sleep(pause);
    }
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** What became of a span in a word: its code, or what it is without one. */
export function outcomeOf(span: Span): string {
  return span.running ? "running" : span.panicked ? "panicked" : (span.code ?? "unknown");
}

/** A duration as a person reads it, in the unit that fits. */
export function formatNs(ns: number): string {
  const [value, unit] = ns < 1e3 ? [ns, "ns"] : ns < 1e6 ? [ns / 1e3, "µs"] : ns < 1e9 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
  const digits = unit === "ns" || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} ${unit}`;
}

export function formatMs(ms: number): string {
  return formatNs(ms * 1e6);
}
