// The last transitions, newest first, and the word that is said aloud when a line turns FLAGGED.

import { byId, el, say, show } from "./dom.js";
import { plural, timeAt, untilAt } from "./format.js";

const until = (at, now) => (at === "never" ? "until resumed" : `until ${untilAt(at, now)}`);

/** What changed, in words; new values that are a status or a health stand apart, as their badge. */
function told({ field, old, new: value }, now) {
  if (field === "paused_until") return [value === null ? "resumed" : `paused ${until(value, now)}`];
  if (field === "cooling_down_until")
    return [value === null ? "no longer cooling down" : `cooling down ${until(value, now)}`];
  if (field === "assigned") return [value === "true" ? "joined the pool" : "left the pool"];
  const name = field === "line_type" ? "type" : field;
  const badge = el("b", { class: "badge", "data-value": value ?? "" }, value ?? "none");
  return old === null ? [`${name} `, badge] : [`${name} ${old} → `, badge];
}

export class Transitions {
  #items = new Map();

  /** Take a frame. */
  update(frame, now) {
    if (frame.full) this.#clear();
    const fresh = Object.entries(frame.transitions);
    for (const [id, transition] of fresh) this.#add(id, transition, now);
    const ids = [...this.#items.keys()];
    for (const id of ids.slice(0, -50)) {
      this.#items.get(id).remove();
      this.#items.delete(id);
    }
    show(byId("no-transitions"), !this.#items.size);
    if (!frame.full) announce(fresh.map(([, transition]) => transition));
  }

  #clear() {
    this.#items.clear();
    byId("transitions").replaceChildren();
  }

  #add(id, transition, now) {
    const at = transition.recorded_at;
    const time = el("time", { datetime: new Date(at * 1000).toISOString() }, timeAt(at, now));
    const what = el("span", { class: "what" }, ...told(transition, now));
    const item = el("li", {}, time, el("span", { class: "number" }, transition.number), what);
    item.append(el("span", { class: "source" }, transition.source));
    byId("transitions").prepend(item);
    this.#items.set(id, item);
  }
}

function announce(transitions) {
  const flagged = transitions.filter(({ field, new: value }) => field === "status" && value !== "ACTIVE");
  if (flagged.length === 1) say(byId("news"), `${flagged[0].number} turned FLAGGED`);
  if (flagged.length > 1) say(byId("news"), `${plural(flagged.length, "line", "lines")} turned FLAGGED`);
}
