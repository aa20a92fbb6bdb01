// What a person chooses: the form, the link that reproduces it, and whether it can be called.

import type { Server } from "./config";

export const protocols = { connect: "Connect", "grpc-web": "gRPC-Web" } as const;
export const codecs = { json: "JSON", proto: "Protobuf" } as const;
export const methods = { Execute: "unary", ExecuteServerStream: "server stream" } as const;

export type Protocol = keyof typeof protocols;
export type Codec = keyof typeof codecs;
export type Method = keyof typeof methods;

/** The form as it stands, right or wrong. The token is not part of it, so that no link can have it. */
export interface State {
  protocol: Protocol;
  codec: Codec;
  server: string;
  method: Method;
  input: string;
  deadline: string;
  headers: [name: string, value: string][];
}

/** A call that can be made. */
export interface Call extends Omit<State, "deadline" | "server"> {
  server: Server;
  deadlineMs: number | undefined;
}

/** What is wrong with a field, by the field's id or the header's row. */
export interface Problem {
  field: "server" | "deadline" | number;
  text: string;
}

export const defaults: State = {
  protocol: "connect",
  codec: "json",
  server: "connect-go",
  method: "Execute",
  input: "hello",
  deadline: "",
  headers: [],
};

/** The request headers that both servers let a page of another origin send. */
export const allowedHeaders = ["x-echo-greeting", "x-echo-data-bin"];

const maxDeadline = 2 ** 31 - 1; // the longest time that a browser's timers know

export function check(state: State, servers: Server[]): { call: Call } | { problems: Problem[] } {
  const problems: Problem[] = [];
  const server = servers.find((s) => s.id === state.server);
  if (!server) {
    problems.push({ field: "server", text: "Choose a server." });
  }
  const deadline = state.deadline.trim();
  if (deadline !== "" && !(/^[0-9]+$/.test(deadline) && Number(deadline) >= 1 && Number(deadline) <= maxDeadline)) {
    problems.push({
      field: "deadline",
      text: `The deadline is a whole number of milliseconds, from 1 to ${maxDeadline}, or empty for none.`,
    });
  }
  state.headers.forEach(([name, value], row) => {
    const text = headerProblem(name, value, server);
    if (text) {
      problems.push({ field: row, text });
    }
  });
  if (!server || problems.length > 0) {
    return { problems };
  }
  return { call: { ...state, server, deadlineMs: deadline === "" ? undefined : Number(deadline) } };
}

function headerProblem(name: string, value: string, server: Server | undefined): string | undefined {
  if (!/^x-[0-9a-z_.-]+$/.test(name)) {
    return `“${name}” cannot be sent: a name starts with x- and has letters in lower case, digits and . _ - only.`;
  }
  if (name === "x-request-id") {
    return "The page chooses x-request-id itself, to find the trace of the call.";
  }
  if (server?.url && !allowedHeaders.includes(name)) {
    return `${server.url} is another origin, which takes ${allowedHeaders.join(" and ")} from a page, but not ${name}.`;
  }
  // Text under -bin is sent as its bytes, whatever they are.
  if (!name.endsWith("-bin") && !/^[\x20-\x7e]*$/.test(value)) {
    return `The value of ${name} has characters that are not printable ASCII; under a name that ends in -bin it may have any.`;
  }
  return undefined;
}

export function toHash(state: State): string {
  const params = new URLSearchParams();
  for (const key of ["protocol", "codec", "server", "method", "input"] as const) {
    params.append(key, state[key]);
  }
  if (state.deadline !== "") {
    params.append("deadline", state.deadline);
  }
  for (const [name, value] of state.headers) {
    params.append(`h.${name}`, value);
  }
  return `#${params}`;
}

/** Reads a link. What it does not say is as in the defaults, and so is what makes no sense, which is told. */
export function fromHash(hash: string, servers: Server[]): { state: State; problems: string[] } {
  const state: State = { ...defaults, server: servers[0]?.id ?? "", headers: [] };
  const problems: string[] = [];
  const choice = <T extends string>(key: string, value: string, choices: T[], set: (choice: T) => void) => {
    const found = choices.find((c) => c === value);
    if (found === undefined) {
      problems.push(`The link asks for ${key} “${value}”, which this page does not have.`);
    } else {
      set(found);
    }
  };
  for (const [key, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (key === "protocol") {
      choice(key, value, Object.keys(protocols) as Protocol[], (c) => (state.protocol = c));
    } else if (key === "codec") {
      choice(key, value, Object.keys(codecs) as Codec[], (c) => (state.codec = c));
    } else if (key === "method") {
      choice(key, value, Object.keys(methods) as Method[], (c) => (state.method = c));
    } else if (key === "server") {
      choice(key, value, servers.map((s) => s.id), (c) => (state.server = c));
    } else if (key === "input" || key === "deadline") {
      state[key] = value;
    } else if (key.startsWith("h.")) {
      state.headers.push([key.slice(2), value]);
    }
  }
  return { state, problems };
}
