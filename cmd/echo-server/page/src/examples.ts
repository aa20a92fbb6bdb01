// The inputs that make the Dummy service do something else than echo, and what each does.

import type { State } from "./state";

interface Example {
  input: string;
  /** What else to fill in, so that there is something to see. */
  with?: Partial<Pick<State, "method" | "deadline" | "headers">>;
}

const greeting: [string, string][] = [
  ["x-echo-greeting", "hello"],
  ["x-echo-data-bin", "Grüße"],
];

export const examples: Example[] = [
  { input: "hello" },
  { input: "fail:not_found" },
  { input: "fail-after:3:unavailable", with: { method: "ExecuteServerStream" } },
  { input: "plain" },
  { input: "panic" },
  { input: "sleep:2s" },
  { input: "metadata", with: { headers: greeting } },
  { input: "metadata-fail:aborted", with: { headers: greeting } },
  { input: "deadline", with: { deadline: "2000" } },
  { input: "Grüße, мир 100%", with: { method: "ExecuteServerStream" } },
];

// In the order in which they are tried: the first that fits tells.
const descriptions: [RegExp, string][] = [
  [/^fail:/, "Fails with that code (any of the sixteen), a message and one error detail."],
  [/^fail-after:/, "On a stream, sends that many messages and then fails with that code; a unary call fails at once."],
  [/^plain$/, "The handler returns an error without a code, whose text is secret: it must not come here."],
  [/^panic$/, "The handler panics with a secret text: it must not come here."],
  [/^sleep:/, "Waits that long, or until the call is over, and then echoes. Cancel it, or set a deadline below it."],
  [/^metadata$/, "Each request header x-echo-… comes back as a response header and, as x-trailer-…, as a trailer."],
  [/^metadata-fail:/, "As metadata does, and then fails: header and trailer come with the error."],
  [/^deadline$/, "Answers with the milliseconds left until the call's deadline, or “none”."],
];

export function describeInput(input: string): string {
  return (
    descriptions.find(([pattern]) => pattern.test(input))?.[1] ??
    "Comes back as it is; from ExecuteServerStream one character a message."
  );
}
