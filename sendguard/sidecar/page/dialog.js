// Pause and resume, each with a confirmation.

import { byId, say, show } from "./dom.js";

export class Confirmation {
  #line = null;
  #dialog = byId("dialog");

  /** send(path, body): POSTs, and returns what was answered; throws an Error whose message can be shown. */
  constructor(send, now, done) {
    this.send = send;
    this.now = now;
    this.done = done;
    byId("dialog-cancel").addEventListener("click", () => this.#dialog.close());
    byId("dialog-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#confirm();
    });
  }

  ask(line) {
    this.#line = line;
    const { number, paused } = line;
    say(byId("dialog-title"), paused ? `Resume ${number}?` : `Pause ${number}?`);
    say(byId("dialog-text"), paused ? onResume(line) : ON_PAUSE);
    say(byId("dialog-confirm"), paused ? "Resume the line" : "Pause the line");
    say(byId("dialog-error"), "");
    show(byId("dialog-for"), !paused);
    byId("dialog-span").value = "";
    this.#busy(false);
    this.#dialog.showModal();
  }

  async #confirm() {
    const { number, paused } = this.#line;
    const seconds = byId("dialog-span").value;
    const body = paused || !seconds ? null : { until: this.now() + Number(seconds) };
    this.#busy(true);
    try {
      const line = await this.send(`v1/lines/${encodeURIComponent(number)}/${paused ? "resume" : "pause"}`, body);
      this.done(line);
      this.#dialog.close();
      say(byId("news"), `${number} is ${paused ? "resumed" : "paused"}`);
    } catch (error) {
      say(byId("dialog-error"), error.message);
    }
    this.#busy(false);
  }

  #busy(busy) {
    byId("dialog-confirm").disabled = busy;
  }
}

const ON_PAUSE =
  "Nothing is sent from this line while it is paused. New conversations go to other lines; a conversation that lives on " +
  "it waits.";

function onResume({ status }) {
  const text = "The pause ends, and so does a cooling down. The line's own pace and quotas hold.";
  return status === "FLAGGED" ? `${text} The line stays FLAGGED: nothing is sent from it until Linq says otherwise.` : text;
}
