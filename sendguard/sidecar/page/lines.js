// The table of lines: a row for each, worst first. A frame touches the rows that changed, and of them what changed.

import { byId, el, mark, say, show } from "./dom.js";
import { count, plural } from "./format.js";
import { describe, rank } from "./line.js";

const HEADS = ["Line", "Status", "Health", "Pace", "Daily volume", "New conversations", "Next send", "Action"];
const COUNTS = {
  lines: () => true,
  "may send now": (line) => line.may_send,
  FLAGGED: (line) => line.status === "FLAGGED",
  CRITICAL: (line) => line.health === "CRITICAL",
  AT_RISK: (line) => line.health === "AT_RISK",
  paused: (line) => line.paused,
};

class Row {
  constructor(line, act) {
    this.line = line;
    this.rank = rank(line);
    this.button = el("button", { type: "button" });
    this.button.addEventListener("click", () => act(this.line, this.button));
    this.number = el("span", { class: "number" }, line.number);
    this.type = el("small");
    this.status = el("b", { class: "badge" });
    this.held = el("b", { class: "badge" });
    this.health = el("b", { class: "badge" });
    this.pace = gauge();
    this.volume = gauge();
    this.starts = gauge();
    this.next = el("span");
    this.node = el("tr", { role: "row" }, ...this.#cells());
  }

  #cells() {
    const contents = [
      [this.number, this.type],
      [this.status, " ", this.held],
      [this.health],
      this.pace.parts,
      this.volume.parts,
      this.starts.parts,
      [this.next],
      [this.button],
    ];
    return contents.map((parts, i) => {
      const attributes = { "data-head": HEADS[i], role: i ? "cell" : "rowheader", ...(i ? {} : { scope: "row" }) };
      return el(i ? "td" : "th", attributes, ...parts);
    });
  }

  paint(now) {
    const shown = describe(this.line, now);
    mark(this.node, "data-worst", shown.worst);
    say(this.type, shown.type);
    badge(this.status, shown.status);
    badge(this.held, shown.held);
    badge(this.health, shown.health);
    this.pace.show(shown.pace);
    this.volume.show(shown.volume);
    this.starts.show(shown.starts);
    say(this.next, shown.next);
    say(this.button, shown.action);
    mark(this.button, "aria-label", `${shown.action} ${this.line.number}`);
  }

  matches({ text, status, health }) {
    const line = this.line;
    const state = { paused: line.paused, cooling: line.cooling_down_until !== null }[status] ?? line.status === status;
    return (!status || state) && (!health || line.health === health) && (!text || this.words().includes(text));
  }

  words() {
    const { number, line_type, status, health, raw_status, raw_health, paused } = this.line;
    const words = [number, line_type, status, health, raw_status, raw_health, paused && "paused"];
    return words.filter(Boolean).join(" ").toLowerCase();
  }
}

function badge(node, { text, value, title = "" }) {
  say(node, text);
  mark(node, "data-value", value);
  mark(node, "title", title);
  show(node, text !== "");
}

/** A bar over how much of a limit is used, with the words for it. */
function gauge() {
  const fill = el("i");
  const bar = el("span", { class: "bar", "aria-hidden": "true" }, fill);
  const text = el("span", { class: "main" });
  const more = el("small");
  return {
    parts: [text, bar, more],
    show({ used, text: words, more: rest }) {
      show(bar, used !== null);
      const width = `${Math.round(100 * Math.min(1, used ?? 0))}%`;
      if (fill.style.width !== width) fill.style.width = width;
      mark(bar, "data-level", used >= 0.9 ? "full" : used >= 0.7 ? "high" : "room");
      say(text, words);
      say(more, rest);
    },
  };
}

const worstFirst = (a, b) => a.rank - b.rank || (a.line.number < b.line.number ? -1 : 1);

export class Lines {
  #rows = new Map();
  #body = byId("rows");
  #counts = {};
  #waiting = new Set(); // rows whose words change with time alone

  /** act(line, button): what a row's button does. */
  constructor(act) {
    this.act = act;
    for (const name of Object.keys(COUNTS)) {
      this.#counts[name] = el("dd");
      byId("counts").append(el("div", { "data-value": name }, el("dt", {}, name), this.#counts[name]));
    }
    byId("filters").addEventListener("input", () => this.#filter());
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
  }

  /** How many lines are FLAGGED. */
  get flagged() {
    return [...this.#rows.values()].filter(({ line }) => line.status === "FLAGGED").length;
  }

  /** Take rows by number; null for a line that is gone. full: these are all. */
  update(lines, full, now) {
    if (full) for (const number of this.#rows.keys()) if (!(number in lines)) this.#drop(number);
    const moved = [];
    for (const [number, line] of Object.entries(lines)) {
      if (line === null) this.#drop(number);
      else if (this.#put(number, line, now)) moved.push(this.#rows.get(number));
    }
    this.#place(moved);
    this.#filter();
    this.#count();
  }

  /** Paint what changes as time passes. */
  tick(now) {
    for (const row of this.#waiting) row.paint(now);
  }

  #drop(number) {
    const row = this.#rows.get(number);
    row?.node.remove();
    this.#waiting.delete(row);
    this.#rows.delete(number);
  }

  /** Whether the row must move, or is new. */
  #put(number, line, now) {
    const known = this.#rows.get(number);
    const row = known ?? new Row(line, this.act);
    this.#rows.set(number, row);
    const before = row.rank;
    row.line = { ...row.line, ...line };
    row.rank = rank(row.line);
    row.paint(now);
    this.#waiting[row.line.next_send_at === null ? "delete" : "add"](row);
    return known === undefined || row.rank !== before;
  }

  /** Put rows where they belong, from the last on, so that what each stands in front of is in place already. */
  #place(rows) {
    if (!rows.length) return;
    const moving = new Set(rows);
    const order = [...this.#rows.values()].sort(worstFirst);
    for (let i = order.length - 1; i >= 0; i--) {
      if (moving.has(order[i])) this.#move(order[i].node, order[i + 1]?.node ?? null);
    }
  }

  #move(node, before) {
    if (node.isConnected && this.#body.moveBefore) {
      this.#body.moveBefore(node, before); // keeps the focus
      return;
    }
    const focus = node.contains(document.activeElement) ? document.activeElement : null;
    this.#body.insertBefore(node, before);
    focus?.focus({ preventScroll: true });
  }

  #filter() {
    const text = byId("find").value.trim().toLowerCase();
    const wanted = { text, status: byId("by-status").value, health: byId("by-health").value };
    let shown = 0;
    for (const row of this.#rows.values()) {
      const matches = row.matches(wanted);
      show(row.node, matches);
      shown += matches;
    }
    const all = this.#rows.size;
    show(byId("none"), !shown);
    say(byId("none"), all ? "No line matches." : "The pool has no line yet.");
    say(byId("shown"), shown === all ? plural(all, "line", "lines") : `${count(shown)} of ${plural(all, "line", "lines")}`);
  }

  #count() {
    const lines = [...this.#rows.values()].map(({ line }) => line);
    for (const [name, belongs] of Object.entries(COUNTS)) {
      const number = lines.filter(belongs).length;
      say(this.#counts[name], count(number));
      mark(this.#counts[name].parentElement, "data-none", String(number === 0));
    }
  }
}
