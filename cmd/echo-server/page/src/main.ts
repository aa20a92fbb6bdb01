// The page of the echo server: a person chooses a call, makes it by one path or by all of them, and sees what happens.

import { Code, ConnectError } from "@connectrpc/connect";
import { makeCall, newRequestId, type Outcome } from "./call";
import { Comparison, pathsTo } from "./compare";
import { address, type Config, loadConfig, type Server } from "./config";
import { byId, h, replace, scrollTo } from "./dom";
import { Form } from "./form";
import { type Call, check, fromHash, toHash } from "./state";
import { follow, type Trace } from "./trace";
import { View } from "./view";

const noTrace = "The server was started with -trace=false: it does not record what its interceptors do.";

class Page {
  readonly #config: Config;
  readonly #form: Form;
  readonly #view = new View();
  readonly #call = byId<HTMLButtonElement>("call");
  readonly #cancel = byId<HTMLButtonElement>("cancel");
  readonly #compare = byId<HTMLButtonElement>("compare");
  #pressed = this.#call;
  #running: AbortController | undefined;

  constructor(config: Config) {
    this.#config = config;
    this.#form = new Form(config, () => this.#writeLink());
    replace(
      byId("servers"),
      ...config.servers.map((server) =>
        h("div", {}, h("dt", {}, server.id), h("dd", {}, new URL(address(server)).host)),
      ),
    );
    this.#form.state = fromHash("", config.servers).state; // for a page that is loaded with the link that skips the form
    this.#readLink();
    addEventListener("hashchange", () => this.#readLink());

    byId("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#start((call, signal) => this.#callOnce(call, signal));
    });
    this.#compare.addEventListener("click", () => this.#start((call, signal) => this.#callAll(call, signal)));
    this.#cancel.addEventListener("click", () => this.#abort());
    byId("link").addEventListener("click", () => void this.#copyLink());
    addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.#call.click();
      } else if (event.key === "Escape") {
        this.#abort();
      }
    });
    this.#call.disabled = this.#compare.disabled = false;
  }

  /** Fills the form as the link says. It makes no call: that is for the person to decide. */
  #readLink(): void {
    if (/^#output$/.test(location.hash)) {
      return; // the link that skips the form
    }
    const { state, problems } = fromHash(location.hash, this.#config.servers);
    this.#form.state = state;
    notify(problems.join(" "));
  }

  #writeLink(): void {
    try {
      history.replaceState(null, "", toHash(this.#form.state));
    } catch {
      // Browsers refuse it if it happens too often. The next change does it, and Copy link needs it not.
    }
  }

  /** Runs one call or a comparison, unless something runs or the form is wrong. */
  #start(run: (call: Call, signal: AbortSignal) => Promise<void>): void {
    if (this.#running) {
      return;
    }
    const checked = check(this.#form.state, this.#config.servers);
    if ("problems" in checked) {
      this.#form.showProblems(checked.problems);
      return;
    }
    notify("");
    const running = new AbortController();
    this.#running = running;
    this.#setState("calling");
    byId("intro").hidden = true;
    byId("result").hidden = true;
    byId("comparison").hidden = true;
    void run(checked.call, running.signal)
      .catch((error: unknown) => notify(`The page failed: ${String(error)}`))
      .finally(() => {
        this.#running = undefined;
        this.#setState("done");
      });
    const output = byId("output");
    if (output.getBoundingClientRect().top > innerHeight / 2) {
      scrollTo(output); // on a phone the result is below the form
    }
  }

  #abort(): void {
    this.#running?.abort(new ConnectError("cancelled on this page", Code.Canceled));
  }

  #setState(state: "calling" | "done"): void {
    document.documentElement.dataset.state = state;
    const calling = state === "calling";
    const focused = document.activeElement;
    this.#call.disabled = this.#compare.disabled = calling;
    this.#cancel.disabled = !calling;
    // A button that is disabled loses the focus. Meanwhile Cancel has it.
    if (calling && (focused === this.#call || focused === this.#compare)) {
      this.#pressed = focused === this.#call ? this.#call : this.#compare;
      this.#cancel.focus({ preventScroll: true });
    } else if (!calling && focused === this.#cancel) {
      this.#pressed.focus({ preventScroll: true });
    }
  }

  async #callOnce(call: Call, signal: AbortSignal): Promise<void> {
    const requestId = newRequestId();
    const token = this.#form.token;
    this.#view.begin(call, requestId);
    const over = makeCall(call, requestId, token, signal, {
      onHeaders: (_, headers) => this.#view.headers(headers),
      onMessage: (text, at) => this.#view.message(text, at),
    });
    const traced = this.#trace(call.server, requestId, token, over, (trace) => this.#view.trace(trace));
    this.#view.end(call, await over);
    const trace = await traced;
    if (typeof trace === "string") {
      this.#view.noTrace(trace);
    }
  }

  async #callAll(call: Call, signal: AbortSignal): Promise<void> {
    const paths = pathsTo(this.#config.servers);
    const comparison = new Comparison(call, paths);
    const token = this.#form.token;
    await Promise.all(
      paths.map(async (path, index) => {
        const requestId = newRequestId();
        const result = comparison.results[index]!;
        result.outcome = await makeCall({ ...call, ...path }, requestId, token, signal);
        comparison.draw();
        result.trace = await this.#trace(path.server, requestId, token, Promise.resolve(result.outcome));
        comparison.draw();
      }),
    );
  }

  /** The trace of a call once it is over, or why there is none. */
  async #trace(
    server: Server,
    requestId: string,
    token: string,
    over: Promise<Outcome>,
    tell?: (trace: Trace) => void,
  ): Promise<Trace | string> {
    if (!this.#config.trace) {
      return noTrace;
    }
    try {
      const trace = await follow(server, requestId, token, over, tell);
      return trace ?? "The server has no trace of this call: it did not get as far as the interceptors.";
    } catch (error) {
      if (error instanceof TypeError) {
        return "The server does not answer, so there is no trace.";
      }
      return `The trace cannot be read: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  async #copyLink(): Promise<void> {
    const link = location.href.replace(/#.*$/, "") + toHash(this.#form.state);
    try {
      await navigator.clipboard.writeText(link);
      notify(`Copied. The link fills in the form; it does not call by itself${this.#config.auth ? ", and it has no token" : ""}.`);
    } catch {
      notify(`This is the link: ${link}`); // not a secure context, or not allowed
    }
  }
}

function notify(text: string): void {
  const notice = byId("notice");
  notice.textContent = text;
}

loadConfig().then(
  (config) => new Page(config),
  (error: unknown) => notify(`The page cannot read its configuration from the server: ${String(error)}. Is it still running? Then load the page again.`),
);
