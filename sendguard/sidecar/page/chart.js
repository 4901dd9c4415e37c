// What was decided in each minute of the last hour: bars, and the same as a table.

import { byId, el, say, show, svg } from "./dom.js";
import { count, minuteAt } from "./format.js";

const SERIES = ["allowed", "failed over", "throttled", "denied"]; // as the sidecar counts them, drawn from the bottom up
const HEIGHT = 168;
const LEFT = 40;
const BOTTOM = 20;
const TOP = 8;

const none = SERIES.map(() => 0);
const kind = (index) => SERIES[index].replace(" ", "-");
const inWords = (counts) => SERIES.map((name, i) => `${count(counts[i])} ${name}`).join(", ");

/** The least round number that is not below the highest bar. */
function ceiling(highest) {
  const size = 10 ** Math.floor(Math.log10(Math.max(4, highest)));
  return [1, 2, 4, 5, 10].map((step) => step * size).find((value) => value >= Math.max(4, highest));
}

export class Chart {
  #minutes = new Map(); // minute since the epoch -> the four counts
  #drawn = "";
  #width = 0;
  #last = 0;
  #kept = 60;

  constructor() {
    this.totals = SERIES.map((name, i) => {
      const total = el("b");
      byId("legend").append(el("li", { "data-kind": kind(i) }, el("i", { "aria-hidden": "true" }), `${name} `, total));
      return total;
    });
    byId("minutes").addEventListener("toggle", () => this.#tabulate());
    new ResizeObserver(([entry]) => this.#resize(entry.contentRect.width)).observe(byId("chart"));
  }

  /** Take a frame. */
  update(frame) {
    if (frame.full) this.#minutes.clear();
    for (const [minute, counts] of Object.entries(frame.minutes)) this.#minutes.set(Number(minute), counts);
    if (frame.at === undefined) return;
    this.#kept = frame.minutes_kept;
    this.#last = Math.floor(frame.at / 60);
    for (const minute of this.#minutes.keys()) {
      if (minute <= this.#last - this.#kept) this.#minutes.delete(minute);
    }
    const stamp = JSON.stringify([this.#last, ...this.#minutes]);
    if (stamp !== this.#drawn) {
      this.#drawn = stamp;
      this.#draw();
      this.#tabulate();
    }
    this.#cover(frame.since);
  }

  #cover(since) {
    const short = since !== undefined && since > (this.#last - this.#kept + 1) * 60;
    show(byId("coverage"), short);
    if (short) say(byId("coverage"), `Since ${minuteAt(since)}: the record of decisions reaches back no further.`);
  }

  #resize(width) {
    if (Math.abs(width - this.#width) < 1) return;
    this.#width = width;
    this.#draw();
  }

  #draw() {
    if (!this.#width || !this.#last) return;
    const totals = none.map((_, i) => [...this.#minutes.values()].reduce((sum, counts) => sum + counts[i], 0));
    totals.forEach((total, i) => say(this.totals[i], count(total)));
    const top = ceiling(Math.max(0, ...[...this.#minutes.values()].map((counts) => counts.reduce((a, b) => a + b))));
    const label = `Decisions per minute over the last hour. In all ${inWords(totals)}.`;
    const attributes = { role: "img", "aria-label": label, width: this.#width, height: HEIGHT };
    byId("chart").replaceChildren(svg("svg", attributes, ...this.#grid(top), ...this.#bars(top), ...this.#times()));
  }

  #y(value, top) {
    return TOP + (HEIGHT - BOTTOM - TOP) * (1 - value / top);
  }

  #x(place) {
    return LEFT + ((this.#width - LEFT) * place) / this.#kept;
  }

  #grid(top) {
    return [0, top / 2, top].flatMap((value) => {
      const y = Math.round(this.#y(value, top)) + 0.5;
      const text = svg("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, count(value));
      return [svg("line", { x1: LEFT, x2: this.#width, y1: y, y2: y }), text];
    });
  }

  #bars(top) {
    const first = this.#last - this.#kept + 1;
    return [...this.#minutes].map(([minute, counts]) => {
      const title = svg("title", {}, `${minuteAt(minute * 60)}: ${inWords(counts)}`);
      const bar = svg("g", {}, title);
      const left = this.#x(minute - first) + 1;
      const width = Math.max(1, this.#x(minute - first + 1) - left - 1);
      bar.append(svg("rect", { class: "whole", x: left - 1, y: TOP, width: width + 2, height: HEIGHT - BOTTOM - TOP }));
      let below = 0;
      counts.forEach((value, i) => {
        if (!value) return;
        const y = this.#y(below + value, top);
        const height = Math.max(1, this.#y(below, top) - y - (below ? 1 : 0));
        bar.append(svg("rect", { "data-kind": kind(i), x: left, y, width, height }));
        below += value;
      });
      return bar;
    });
  }

  #times() {
    const first = this.#last - this.#kept + 1;
    const step = this.#width < 480 ? 20 : 10;
    const minutes = [...Array(this.#kept).keys()].filter((place) => (first + place) % step === 0 && place > 1);
    return minutes
      .filter((place) => this.#x(place) < this.#width - 18)
      .map((place) =>
        svg("text", { x: this.#x(place), y: HEIGHT - 4, "text-anchor": "middle" }, minuteAt((first + place) * 60)),
      );
  }

  #tabulate() {
    if (!byId("minutes").open) return;
    const rows = [...Array(this.#kept).keys()].map((back) => {
      const minute = this.#last - back;
      const cells = (this.#minutes.get(minute) ?? none).map((value) => el("td", {}, count(value)));
      return el("tr", {}, el("th", { scope: "row" }, minuteAt(minute * 60)), ...cells);
    });
    byId("minutes-rows").replaceChildren(...rows);
  }
}
