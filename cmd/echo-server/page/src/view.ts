// The result of one call, drawn as it happens.

import type { JsonValue } from "@bufbuild/protobuf";
import { statusOf } from "./codes";
import type { Outcome } from "./call";
import { address } from "./config";
import type { Detail } from "./details";
import { byId, type Child, h, plural, replace } from "./dom";
import { decodeValue, type Field, isOfProtocol } from "./metadata";
import { type Call, codecs, methods, protocols } from "./state";
import { drawTimeline } from "./timeline";
import { formatMs, type Trace } from "./trace";

const maxShown = 2000; // messages; a longer list helps nobody and slows the page down

export class View {
  readonly #result = byId("result");
  readonly #path = byId("path");
  readonly #status = byId("status");
  readonly #timing = byId("timing");
  readonly #message = byId("error-message");
  readonly #count = byId("message-count");
  readonly #messages = byId("messages");
  readonly #details = byId("details");
  readonly #headers = byId("headers");
  readonly #trailers = byId("trailers");
  readonly #timeline = byId("timeline");
  #received = 0;

  /** Makes room for a new call. */
  begin(call: Call, requestId: string): void {
    this.#received = 0;
    this.#result.hidden = false;
    replace(
      this.#path,
      `${protocols[call.protocol]}, ${codecs[call.codec]} → ${call.server.id} at ${address(call.server)} · ${call.method} (${methods[call.method]}) · `,
      h("code", {}, requestId),
    );
    this.#setStatus("calling", h("span", { class: "mark", "aria-hidden": "true" }, "…"), h("strong", {}, "calling"));
    this.#message.hidden = byId("details-section").hidden = true;
    for (const part of [this.#timing, this.#message, this.#messages, this.#count]) {
      replace(part);
    }
    for (const part of [this.#details, this.#headers, this.#trailers]) {
      replace(part, nothing("Not yet."));
    }
    replace(this.#timeline, nothing("Not yet."));
  }

  headers(fields: Field[]): void {
    replace(this.#headers, ...fieldList(fields, "No headers."));
  }

  message(text: string, at: number): void {
    this.#received++;
    replace(this.#count, plural(this.#received, "message"));
    if (this.#received <= maxShown) {
      this.#messages.append(
        h(
          "li",
          {},
          h("span", { class: "text" }, text === "" ? h("em", {}, "empty") : text),
          h("span", { class: "at" }, formatMs(at)),
        ),
      );
    } else {
      replace(this.#count, `${plural(this.#received, "message")}, of which the first ${maxShown} are shown`);
    }
  }

  end(call: Call, outcome: Outcome): void {
    const status = statusOf(outcome.code);
    const good = status.number === 0;
    this.#setStatus(
      status.name,
      h("span", { class: "mark", "aria-hidden": "true" }, good ? "✓" : "✕"),
      h("strong", {}, status.name),
      h("span", { class: "number" }, ` code ${status.number}`),
      h("span", { class: "meaning" }, ` ${status.meaning}`),
    );
    replace(this.#timing, ...timing(outcome));
    if (outcome.unreachable) {
      replace(this.#message, ...unreachable(outcome));
    } else {
      replace(this.#message, errorText(outcome.message), ...notes(call, outcome));
    }
    this.#message.hidden = good;
    if (this.#received === 0) {
      replace(this.#count, "No messages.");
    }
    replace(this.#details, ...(outcome.details.length > 0 ? outcome.details.map(drawDetail) : [nothing("None.")]));
    byId("details-section").hidden = good;
    const answered = outcome.http !== undefined;
    replace(this.#headers, ...fieldList(outcome.headers, answered ? "No headers." : "There was no answer."));
    replace(this.#trailers, ...fieldList(outcome.trailers, answered ? "No trailers." : "There was no answer."));
  }

  trace(trace: Trace): void {
    drawTimeline(this.#timeline, trace);
  }

  noTrace(text: string): void {
    replace(this.#timeline, nothing(text));
  }

  #setStatus(code: string, ...children: Child[]): void {
    this.#status.dataset.code = code;
    replace(this.#status, ...children);
  }
}

function timing(outcome: Outcome): Child[] {
  const parts = [h("strong", {}, formatMs(outcome.took)), " in all"];
  if (outcome.headersAt !== undefined) {
    parts.push(`, headers after ${formatMs(outcome.headersAt)}`);
  }
  if (outcome.http !== undefined) {
    parts.push(` · HTTP ${outcome.http}`);
  }
  return parts;
}

function errorText(text: string): HTMLElement {
  return h("span", { class: "text" }, text === "" ? h("em", {}, "no message") : text);
}

function notes(call: Call, outcome: Outcome): Child[] {
  return [
    outcome.own &&
      "The page ended the call and did not wait for the server’s word. What the server made of it is in the timeline.",
    (call.input === "plain" || call.input === "panic") &&
      "On the server the text of this error has a password in it. It is in the log there; nothing of it came here.",
  ].map((text) => text && h("span", { class: "note" }, text));
}

function unreachable(outcome: Outcome): Child[] {
  return [
    errorText(outcome.message),
    h(
      "span",
      { class: "note" },
      "Is the echo server still running (",
      h("code", {}, "go run ./cmd/echo-server"),
      ")? If it is, the browser did not let the page call it: open the page at the address that the server printed. The reason is in the browser's console.",
    ),
  ];
}

function nothing(text: string): HTMLElement {
  return h("p", { class: "nothing" }, text);
}

/** The application's fields, and below, folded, what HTTP and the protocol need. */
function fieldList(fields: Field[], none: string): Child[] {
  const own = fields.filter(({ name }) => !isOfProtocol(name));
  const others = fields.filter(({ name }) => isOfProtocol(name));
  if (fields.length === 0) {
    return [nothing(none)];
  }
  return [
    own.length > 0 ? drawFields(own) : nothing("None of the application’s."),
    others.length > 0 &&
      h("details", {}, h("summary", {}, `${others.length} of HTTP and the protocol`), drawFields(others)),
  ];
}

function drawFields(fields: Field[]): HTMLElement {
  return h(
    "dl",
    { class: "fields" },
    ...fields.map(({ name, value }) => {
      const { text, note } = decodeValue(name, value);
      return h(
        "div",
        { "data-name": name },
        h("dt", {}, name),
        h("dd", {}, text, note !== undefined && h("small", { title: value }, ` ${note}`)),
      );
    }),
  );
}

function drawDetail(detail: Detail): HTMLElement {
  const [pkg, name] = detail.type.split(/\.(?=[^.]*$)/);
  return h(
    "div",
    { class: "detail", "data-type": detail.type },
    h("h4", {}, h("span", { class: "muted" }, name === undefined ? "" : `${pkg}.`), name ?? detail.type),
    detail.fields === undefined
      ? nothing(`A type that this page does not know, ${plural(detail.size, "byte")}.`)
      : drawJson(detail.fields),
  );
}

function drawJson(value: JsonValue): HTMLElement {
  if (Array.isArray(value)) {
    return value.length === 0 ? h("em", {}, "empty") : h("ol", { class: "json" }, ...value.map((v) => h("li", {}, drawJson(v))));
  }
  if (value !== null && typeof value === "object") {
    const entries = Object.entries(value);
    return entries.length === 0
      ? h("em", {}, "empty")
      : h("dl", { class: "fields" }, ...entries.map(([key, v]) => h("div", {}, h("dt", {}, key), h("dd", {}, drawJson(v)))));
  }
  return h("span", {}, String(value));
}
