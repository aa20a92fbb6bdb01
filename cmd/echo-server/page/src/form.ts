// The form on the page, and the state that it shows.

import { address, type Config, type Server } from "./config";
import { append, byId, h, replace } from "./dom";
import { describeInput, examples } from "./examples";
import { allowedHeaders, type Codec, type Method, type Problem, type Protocol, type State } from "./state";

export class Form {
  readonly #protocol = byId<HTMLSelectElement>("protocol");
  readonly #codec = byId<HTMLSelectElement>("codec");
  readonly #server = byId<HTMLSelectElement>("server");
  readonly #method = byId<HTMLSelectElement>("method");
  readonly #input = byId<HTMLInputElement>("input");
  readonly #inputNote = byId("input-note");
  readonly #deadline = byId<HTMLInputElement>("deadline");
  readonly #token = byId<HTMLInputElement>("token");
  readonly #rows = byId("header-rows");
  readonly #headerNote = byId("header-note");
  readonly #servers: Server[];
  readonly #changed: () => void;

  /** Fills in what the server's configuration decides. `changed` is called after each change that a person makes. */
  constructor(config: Config, changed: () => void) {
    this.#servers = config.servers;
    this.#changed = changed;
    replace(
      this.#server,
      ...config.servers.map((server) => h("option", { value: server.id }, `${server.id} · ${new URL(address(server)).host}`)),
    );
    byId("token-field").hidden = byId("token-note").hidden = !config.auth;
    append(
      byId("examples"),
      examples.map((example) => {
        const chip = h("button", { type: "button", class: "chip", title: describeInput(example.input) }, example.input);
        chip.addEventListener("click", () => {
          this.state = { ...this.state, ...example.with, input: example.input };
          this.#update();
        });
        return chip;
      }),
    );
    byId("add-header").addEventListener("click", () => {
      const used = this.state.headers.map(([name]) => name);
      const row = this.#addRow(allowedHeaders.find((name) => !used.includes(name)) ?? allowedHeaders[0]!, "");
      row.querySelector("input")?.focus();
      this.#update();
    });
    byId("form").addEventListener("input", () => this.#update());
  }

  /** The token of the authorization header, "" if none. */
  get token(): string {
    return this.#token.value;
  }

  get state(): State {
    return {
      protocol: this.#protocol.value as Protocol,
      codec: this.#codec.value as Codec,
      server: this.#server.value,
      method: this.#method.value as Method,
      input: this.#input.value,
      deadline: this.#deadline.value,
      headers: this.#headerRows().map((row) => {
        const [name, value] = row.querySelectorAll("input");
        return [name!.value.trim().toLowerCase(), value!.value];
      }),
    };
  }

  set state(state: State) {
    this.#protocol.value = state.protocol;
    this.#codec.value = state.codec;
    this.#server.value = state.server;
    this.#method.value = state.method;
    this.#input.value = state.input;
    this.#deadline.value = state.deadline;
    this.#rows.replaceChildren();
    for (const [name, value] of state.headers) {
      this.#addRow(name, value);
    }
    this.#describe();
  }

  /** Says what is wrong, beside what is wrong, and goes to the first of it. */
  showProblems(problems: Problem[]): void {
    this.#clearProblems();
    const fields = problems.map(({ field, text }) => {
      const row = typeof field === "number" ? this.#headerRows()[field] : undefined;
      const place = row?.querySelector<HTMLElement>(".problem") ?? byId(`${field}-problem`);
      place.textContent = text;
      place.hidden = false;
      const control = row?.querySelector("input") ?? byId(String(field));
      control.setAttribute("aria-invalid", "true");
      return control;
    });
    fields[0]?.focus();
  }

  #headerRows(): HTMLElement[] {
    return [...this.#rows.querySelectorAll<HTMLElement>(".header-row")];
  }

  #addRow(name: string, value: string): HTMLElement {
    const problem = h("p", { class: "problem", hidden: true, id: `header-problem-${Form.#ids++}` });
    const attributes = { type: "text", spellcheck: "false", autocapitalize: "off", autocomplete: "off", "aria-describedby": problem.id };
    const nameInput = h("input", { ...attributes, "aria-label": "Header name", list: "header-names", class: "header-name" });
    const valueInput = h("input", { ...attributes, "aria-label": "Header value", class: "header-value" });
    const remove = h("button", { type: "button", class: "quiet", "aria-label": "Remove this header" }, "✕");
    nameInput.value = name;
    valueInput.value = value;
    const row = h("div", { class: "header-row" }, nameInput, valueInput, remove, problem);
    remove.addEventListener("click", () => {
      row.remove();
      byId("add-header").focus();
      this.#update();
    });
    this.#rows.append(row);
    return row;
  }
  static #ids = 0;

  #update(): void {
    this.#clearProblems();
    this.#describe();
    this.#changed();
  }

  #clearProblems(): void {
    for (const place of byId("form").querySelectorAll<HTMLElement>(".problem")) {
      place.hidden = true;
      place.textContent = "";
    }
    for (const control of byId("form").querySelectorAll("[aria-invalid]")) {
      control.removeAttribute("aria-invalid");
    }
  }

  #describe(): void {
    this.#inputNote.textContent = describeInput(this.#input.value);
    for (const chip of byId("examples").querySelectorAll("button")) {
      chip.setAttribute("aria-pressed", String(chip.textContent === this.#input.value));
    }
    const { headers, server } = this.state;
    const url = this.#servers.find(({ id }) => id === server)?.url;
    const notes = [
      headers.some(([name]) => name.endsWith("-bin")) && "Under a name that ends in -bin the bytes of the text are sent, as base64.",
      url && `${server} is another origin for the browser: it takes ${allowedHeaders.join(" and ")} only.`,
    ];
    this.#headerNote.textContent = notes.filter(Boolean).join(" ");
    this.#headerNote.hidden = headers.length === 0 || this.#headerNote.textContent === "";
  }
}
