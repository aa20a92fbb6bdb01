// The same call by every path, side by side.

import type { JsonValue } from "@bufbuild/protobuf";
import type { Outcome } from "./call";
import { statusOf } from "./codes";
import type { Server } from "./config";
import { byId, type Child, h, plural, replace } from "./dom";
import { decodeValue, type Field, isOfProtocol } from "./metadata";
import { type Call, type Codec, codecs, type Protocol, protocols } from "./state";
import { tone } from "./timeline";
import { formatMs, outcomeOf, type Trace } from "./trace";

export interface Path {
  protocol: Protocol;
  codec: Codec;
  server: Server;
}

export interface Result {
  outcome?: Outcome;
  trace?: Trace | string; // a text says why there is none
}

export function pathsTo(servers: Server[]): Path[] {
  const ways: [Protocol, Codec][] = [
    ["connect", "json"],
    ["connect", "proto"],
    ["grpc-web", "proto"],
    ["grpc-web", "json"],
  ];
  return servers.flatMap((server) => ways.map(([protocol, codec]) => ({ protocol, codec, server })));
}

interface Row {
  id: string;
  title: string;
  /** What is compared, as text. Undefined: not there yet. */
  text(result: Result): string | undefined;
  /** What is shown, if not the text. */
  show?(result: Result): Child[];
  /** It differs by nature, and says nothing. */
  incomparable?: boolean;
}

/** The table of a comparison, drawn again whenever another path has its result. */
export class Comparison {
  readonly results: Result[];

  constructor(
    readonly call: Call,
    readonly paths: Path[],
  ) {
    this.results = paths.map(() => ({}));
    byId("comparison").hidden = false;
    replace(byId("compared"), `${call.method}, input `, h("code", {}, call.input));
    this.draw();
  }

  draw(): void {
    const rows = this.#rows().map((row) => ({ row, cells: this.#judge(row) }));
    const servers = [...new Set(this.paths.map((path) => path.server))];
    replace(
      byId("compare-table"),
      h("caption", { class: "hidden" }, "The same call by every path"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("td", {}),
          ...servers.map((server) =>
            h("th", { scope: "colgroup", colspan: this.paths.filter((path) => path.server === server).length }, server.id),
          ),
        ),
        h(
          "tr",
          {},
          h("td", {}),
          ...this.paths.map((path) => h("th", { scope: "col" }, `${protocols[path.protocol]} `, h("small", {}, codecs[path.codec]))),
        ),
      ),
      h("tbody", {}, ...rows.map(({ row, cells }) => this.#drawRow(row, cells))),
    );
    this.#drawVerdict(rows.filter(({ cells }) => cells.some((cell) => cell.differs)).map(({ row }) => row.title));
  }

  #rows(): Row[] {
    const merged = this.results.some(({ outcome }) => outcome && outcome.code !== 0);
    const fields = (of: (outcome: Outcome) => Field[]) => ({
      text: ({ outcome }: Result) => outcome && of(outcome).map(readField).join("\n"),
      show: ({ outcome }: Result) => (outcome ? list(of(outcome).map(readField)) : []),
    });
    const rows: Row[] = [
      {
        id: "outcome",
        title: "Outcome",
        text: ({ outcome }) => outcome && (outcome.unreachable ? "no answer" : statusOf(outcome.code).name),
        show: ({ outcome }) => {
          const name = outcome ? (outcome.unreachable ? "no answer" : statusOf(outcome.code).name) : "";
          return [h("span", { class: `outcome ${tone(name)}` }, `${name === "ok" ? "✓" : "✕"} ${name}`)];
        },
      },
      { id: "error-message", title: "Error message", text: ({ outcome }) => outcome?.message },
      {
        id: "messages",
        title: "Messages",
        text: ({ outcome }) => outcome && JSON.stringify(outcome.messages),
        show: ({ outcome }) => (outcome ? showMessages(outcome.messages) : []),
        incomparable: this.call.input === "deadline", // the time that is left is another each time
      },
      {
        id: "details",
        title: "Details",
        text: ({ outcome }) => outcome && outcome.details.map((d) => `${d.type} ${JSON.stringify(d.fields)}`).join("\n"),
        show: ({ outcome }) =>
          list((outcome?.details ?? []).flatMap((d) => [d.type.replace(/^.*\./, ""), ...flatten(d.fields ?? `${d.size} bytes`)])),
      },
      ...(merged
        ? [{ id: "metadata", title: "Headers and trailers", ...fields((o) => byName([...o.headers, ...o.trailers])) }]
        : [
            { id: "headers", title: "Headers", ...fields((o) => byName(o.headers)) },
            { id: "trailers", title: "Trailers", ...fields((o) => byName(o.trailers)) },
          ]),
      {
        id: "interceptors",
        title: "Interceptors",
        text: ({ trace }) =>
          typeof trace === "object" ? trace.spans.map((span) => `${span.name} ${outcomeOf(span)}`).join("\n") : trace,
        show: ({ trace }) => (typeof trace === "object" ? [onion(trace)] : [trace]),
      },
      { id: "time", title: "Time", text: ({ outcome }) => outcome && formatMs(outcome.took), incomparable: true },
    ];
    // If the page ends calls, how far each has come by then is chance.
    const ended = this.results.some(({ outcome }) => outcome?.own);
    return rows.map((row) => (ended && row.id !== "outcome" ? { ...row, incomparable: true } : row));
  }

  /** Compares the cells of a row. Those that are not as most of the others are differ. */
  #judge(row: Row): { text: string | undefined; differs: boolean }[] {
    const texts = this.results.map(row.text);
    const there = texts.filter((text) => text !== undefined);
    const count = (text: string) => there.filter((other) => other === text).length;
    const usual = there.reduce((best, text) => (count(text) > count(best) ? text : best), there[0] ?? "");
    return texts.map((text) => ({ text, differs: !row.incomparable && text !== undefined && text !== usual }));
  }

  #drawRow(row: Row, cells: { text: string | undefined; differs: boolean }[]): HTMLElement {
    const first = cells.findIndex((cell) => cell.text !== undefined);
    const there = cells.filter((cell) => cell.text !== undefined).length;
    const complete = there === cells.length;
    const same = cells.every((cell) => cell.text === undefined || cell.text === cells[first]?.text);
    const content = (index: number): Child[] => {
      const text = cells[index]?.text;
      if (!text) {
        return [h("span", { class: "muted" }, text === undefined ? "…" : "none")];
      }
      return row.show ? row.show(this.results[index]!) : [text];
    };
    const title = h("th", { scope: "row" }, row.title, same && h("small", {}, complete ? "= same on all" : `${there} of ${cells.length}`));
    if (same) {
      // One cell says better than eight equal ones that they are equal, and has room for what they say.
      return h(
        "tr",
        { "data-row": row.id, "data-same": complete },
        title,
        h("td", { colspan: cells.length }, h("div", { class: "shared" }, ...content(first))),
      );
    }
    return h(
      "tr",
      { "data-row": row.id },
      title,
      ...cells.map(({ differs }, index) =>
        h(
          "td",
          { "data-path": pathId(this.paths[index]!), "data-differs": differs },
          h("div", { class: "cell" }, ...content(index), differs && h("span", { class: "differs" }, "≠ differs")),
        ),
      ),
    );
  }

  #drawVerdict(differing: string[]): void {
    const done = this.results.filter((result) => result.outcome).length;
    const verdict = byId("verdict");
    const all = done === this.paths.length;
    verdict.dataset.verdict = !all ? "open" : differing.length > 0 ? "differs" : "same";
    replace(
      verdict,
      !all
        ? `${done} of ${this.paths.length} paths are done.`
        : differing.length > 0
          ? `≠ The paths differ in: ${differing.join(", ").toLowerCase()}.`
          : `✓ ${plural(done, "path")}, no difference.`,
    );
  }
}

function pathId(path: Path): string {
  return `${path.protocol} ${path.codec} ${path.server.id}`;
}

function none(): HTMLElement {
  return h("span", { class: "muted" }, "none");
}

/** The application's fields that are to be the same: not the id, which is another for each call. */
function byName(fields: Field[]): Field[] {
  return fields
    .filter(({ name }) => !isOfProtocol(name) && name !== "x-request-id")
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

function readField({ name, value }: Field): string {
  return `${name}: ${decodeValue(name, value).text}`;
}

function list(lines: string[]): Child[] {
  return lines.length > 0 ? [h("ul", {}, ...lines.map((line) => h("li", {}, line)))] : [none()];
}

/** A line for each value in JSON. */
function flatten(value: JsonValue, name = ""): string[] {
  if (value === null || typeof value !== "object") {
    return [name === "" ? String(value) : `${name}: ${value}`];
  }
  return Object.entries(value).flatMap(([key, inner]) => flatten(inner, name === "" ? key : `${name}.${key}`));
}

function showMessages(messages: string[]): Child[] {
  if (messages.length === 0) {
    return [none()];
  }
  const some = messages.slice(0, 12).map((text) => h("li", {}, text === "" ? h("em", {}, "empty") : text));
  return [h("ol", { class: "messages-short" }, ...some), messages.length > 12 && `… ${messages.length} in all`];
}

/** The chain in a few words: names as they nest, and the code that leaves each. */
function onion(trace: Trace): HTMLElement {
  return h(
    "ul",
    { class: "onion" },
    ...trace.spans.map((span) => {
      const outcome = outcomeOf(span);
      return h("li", {}, span.name, " ", h("span", { class: `outcome ${tone(outcome)}` }, outcome));
    }),
  );
}
