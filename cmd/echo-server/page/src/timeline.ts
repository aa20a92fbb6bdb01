// The onion of a call: a bar for each interceptor, the inner ones inside of the outer ones' time.

import { h, plural, replace } from "./dom";
import { formatNs, outcomeOf, type Span, type Trace } from "./trace";

/** Draws a trace into an element. The numbers of a bar are shown below when it is pointed at or has the focus. */
export function drawTimeline(into: HTMLElement, trace: Trace): void {
  const total = Math.max(trace.durationNs, 1);
  const readout = h("p", { class: "readout" });
  const rows = trace.spans.map((span, index) => {
    const row = drawRow(trace, index, total);
    const show = () => replace(readout, h("strong", {}, span.name), ` ${describe(trace, index)}`);
    row.addEventListener("pointerenter", show);
    row.addEventListener("focus", show);
    row.addEventListener("click", show);
    return row;
  });
  replace(readout, "Point at a bar, or move to it with the Tab key, for its numbers.");
  const focused = [...into.querySelectorAll("li")].indexOf(document.activeElement as HTMLLIElement);
  const open = into.querySelector("details")?.open;
  replace(
    into,
    legend(trace),
    h(
      "div",
      { class: "chart" },
      h("div", { class: "axis", "aria-hidden": "true" }, h("div", { class: "track" }, ...axis(total))),
      h("ol", { class: "spans", "aria-label": "Interceptors, the outermost first" }, ...rows),
    ),
    readout,
    h("details", { open }, h("summary", {}, "As a table"), h("div", { class: "scroll" }, table(trace))),
  );
  rows[focused]?.focus({ preventScroll: true }); // a running call is drawn again and again
}

function legend(trace: Trace): HTMLElement {
  const key = (kind: string, text: string) => h("span", {}, h("i", { class: `key ${kind}`, "aria-hidden": "true" }), text);
  return h(
    "p",
    { class: "legend" },
    key("own", "itself"),
    key("inside", "waiting for what is inside"),
    key("request", "request message"),
    key("response", "response message"),
    trace.spans.some((span) => span.events.length < span.requests + span.responses) && "the first messages only",
    trace.droppedSpans > 0 && `${plural(trace.droppedSpans, "span")} left out`,
  );
}

function drawRow(trace: Trace, index: number, total: number): HTMLLIElement {
  const span = trace.spans[index]!;
  const outcome = outcomeOf(span);
  const bar = h("span", { class: "bar" });
  place(bar, span.enteredNs, span.durationNs, total);
  // What is inside is lighter, so that what remains is the interceptor's own time: its skin of the onion.
  for (const child of trace.spans.filter((other) => other.parent === index)) {
    const hollow = h("span", { class: "hollow" });
    place(hollow, child.enteredNs - span.enteredNs, child.durationNs, Math.max(span.durationNs, 1));
    bar.append(hollow);
  }
  const ticks = span.events.map(({ kind, atNs }) => {
    const tick = h("i", { class: `tick ${kind}` });
    tick.style.left = percent(atNs, total);
    return tick;
  });
  const name = h("span", { class: "name" }, span.name, span.attempt > 1 && h("small", {}, ` attempt ${span.attempt}`));
  name.style.setProperty("--depth", String(span.depth));
  return h(
    "li",
    {
      tabindex: 0,
      class: bar.hasChildNodes() ? undefined : "solid",
      "data-span": span.name,
      "data-depth": span.depth,
      "data-code": outcome,
      "aria-label": `${span.name}: ${describe(trace, index)}`,
    },
    name,
    h("span", { class: "track" }, bar, ...ticks),
    h("span", { class: "took" }, formatNs(span.durationNs)),
    h("span", { class: `outcome ${tone(outcome)}` }, outcome),
  );
}

/** Good, bad, or not over yet: for the colour, beside the word. */
export function tone(outcome: string): string {
  return outcome === "ok" ? "good" : outcome === "running" ? "open" : "bad";
}

function place(bar: HTMLElement, from: number, length: number, total: number): void {
  bar.style.left = percent(from, total);
  bar.style.width = percent(length, total);
}

function percent(part: number, total: number): string {
  return `${Math.min(100, Math.max(0, (100 * part) / total)).toFixed(3)}%`;
}

/** The marks of the axis: some round times. */
function axis(total: number): HTMLElement[] {
  const rough = total / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const marks: HTMLElement[] = [];
  for (let at = 0; at < total * 0.92; at += step) {
    const mark = h("span", {}, at === 0 ? "0" : formatNs(at).replace(/\.0+ /, " "));
    mark.style.left = percent(at, total);
    marks.push(mark);
  }
  return marks;
}

function ownTime(trace: Trace, index: number): number {
  const inside = trace.spans.filter((span) => span.parent === index).reduce((sum, span) => sum + span.durationNs, 0);
  return Math.max(0, trace.spans[index]!.durationNs - inside);
}

function returned(span: Span): string {
  return span.running ? "still running" : formatNs(span.enteredNs + span.durationNs);
}

function describe(trace: Trace, index: number): string {
  const span = trace.spans[index]!;
  const parts = [
    `entered at ${formatNs(span.enteredNs)}`,
    span.running ? "still running" : `${span.panicked ? "panic passed" : "returned"} at ${returned(span)}`,
    `${formatNs(span.durationNs)} in all, ${formatNs(ownTime(trace, index))} itself`,
    `${plural(span.requests, "request message")}, ${plural(span.responses, "response message")}`,
    `outcome ${outcomeOf(span)}`,
  ];
  const innermost = trace.spans.every((other) => other.parent !== index);
  if (innermost && span.name !== "handler" && !span.running) {
    parts.push("answered by itself, nothing inside ran");
  }
  return parts.join(" · ");
}

function table(trace: Trace): HTMLElement {
  const head = ["Interceptor", "Around it", "Entered", "Returned", "In all", "Itself", "Requests", "Responses", "Outcome"];
  return h(
    "table",
    { class: "numbers" },
    h("caption", { class: "hidden" }, "What each interceptor did for this call"),
    h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)))),
    h(
      "tbody",
      {},
      ...trace.spans.map((span, index) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, span.name),
          ...[
            trace.spans[span.parent]?.name ?? "–",
            formatNs(span.enteredNs),
            returned(span),
            formatNs(span.durationNs),
            formatNs(ownTime(trace, index)),
            String(span.requests),
            String(span.responses),
            outcomeOf(span),
          ].map((text) => h("td", {}, text)),
        ),
      ),
    ),
  );
}
