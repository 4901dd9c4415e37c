// Puts the parts together: the stream fills them, the token opens the stream, and one clock tells how fresh it all is.

import { Chart } from "./chart.js";
import { Confirmation } from "./dialog.js";
import { byId, mark, say, show } from "./dom.js";
import { span, timeAt } from "./format.js";
import { Lines } from "./lines.js";
import { Stream } from "./stream.js";
import { Transitions } from "./transitions.js";

const TOKEN = "sendguard-token";
const STATES = {
  connecting: "Connecting",
  live: "Live",
  stale: "Out of date",
  store: "Store out of reach",
  cut: "Cut off",
  token: "Token needed",
};

let head = {}; // of the last frame
let readAt = 0; // performance.now() when a frame brought what the store said last
let state = "connecting";
let retryAt = 0;
let detail = "";
let token = sessionStorage.getItem(TOKEN);

/** The store's time now, Unix seconds, whatever this machine's clock says. */
const now = () => (head.at ?? Date.now() / 1000) + (head.at ? (performance.now() - readAt) / 1000 : 0);

const chart = new Chart();
const transitions = new Transitions();
const confirmation = new Confirmation(post, now, (line) => lines.update({ [line.number]: line }, false, now()));
const lines = new Lines((line) => confirmation.ask(line));
const stream = new Stream("v1/watch", { open: opened, frame: take, cut, refused: askForToken });

async function post(path, body) {
  const headers = { "content-type": "application/json" };
  if (token !== null) headers.authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { method: "POST", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The sidecar does not answer. Nothing is known to have changed.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(`It did not work: ${answer.detail}.`);
  return answer;
}

function opened() {
  show(byId("ask"), false);
  show(byId("forget"), token !== null);
  say(byId("ask-error"), "");
}

function take(frame) {
  if (frame.at !== undefined && frame.at !== head.at) readAt = performance.now();
  head = { ...head, ...frame };
  say(byId("pool"), frame.pool);
  show(byId("mode"), frame.mode === "observe");
  if (frame.at !== undefined) {
    show(byId("content"), true);
    lines.update(frame.lines, frame.full, now());
    chart.update(frame);
    transitions.update(frame, now());
    polled();
  }
  turn(!frame.store ? "store" : isOld() ? "stale" : "live");
}

function cut(wait, why) {
  retryAt = performance.now() + wait * 1000;
  detail = why;
  turn("cut");
}

// How fresh it is ------------------------------------------------------------------------------------------------------

/** Whether nothing new was read for a while, though frames may still come. */
function isOld() {
  return head.at !== undefined && (performance.now() - readAt) / 1000 > Math.max(10, 4 * head.every);
}

function turn(next) {
  state = next;
  mark(byId("state"), "data-state", state);
  say(byId("state-text"), STATES[state]);
  const text = banner();
  show(byId("banner"), text !== "");
  mark(byId("banner"), "data-kind", state === "stale" ? "warn" : "bad");
  if (byId("banner-text").textContent !== text) {
    say(byId("banner-text"), text);
    if (text) say(byId("news"), text);
  }
  show(byId("retry"), state === "cut");
  title();
}

function banner() {
  const asOf = head.at === undefined ? "" : ` What stands here is of ${timeAt(head.at, now())}.`;
  if (state === "cut") return `${detail ? `The sidecar refuses: ${detail}.` : "The connection to the sidecar is cut."}${asOf}`;
  if (state === "store") return `The store is out of reach: every send is denied.${asOf}`;
  return state === "stale" ? `Nothing new was read for a while.${asOf}` : "";
}

function title() {
  const prefix = state === "live" ? (lines.flagged ? `${lines.flagged} FLAGGED, ` : "") : `${STATES[state]}, `;
  const text = `${prefix}${head.pool ?? ""} sendguard`;
  if (document.title !== text) document.title = text;
}

/** Once a second: what changes by time alone. */
function tick() {
  if (state === "live" && isOld()) turn("stale");
  if (state === "cut") say(byId("banner-wait"), `Trying again in ${span((retryAt - performance.now()) / 1000)}.`);
  else say(byId("banner-wait"), "");
  lines.tick(now());
  polled();
}

function polled() {
  if (head.at === undefined) return;
  const never = head.polled_at === null;
  const late = head.poll_interval > 0 && (never || now() - head.polled_at > 3 * head.poll_interval);
  say(byId("polled"), never ? "never polled" : `polled ${span(now() - head.polled_at)} ago`);
  mark(byId("polled"), "data-late", String(late));
}

// The token ------------------------------------------------------------------------------------------------------------

function askForToken() {
  stream.stop();
  say(byId("ask-error"), token === null ? "" : "That token is not good.");
  forget();
}

function forget() {
  sessionStorage.removeItem(TOKEN);
  token = null;
  show(byId("forget"), false);
  show(byId("content"), false);
  show(byId("ask"), true);
  turn("token");
  byId("token").focus();
}

byId("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("token").value = "";
  sessionStorage.setItem(TOKEN, token);
  turn("connecting");
  stream.start(token);
});

byId("forget").addEventListener("click", () => {
  stream.stop();
  location.reload(); // nothing of what it showed stays
  sessionStorage.removeItem(TOKEN);
});
byId("retry").addEventListener("click", () => stream.start(token));

setInterval(tick, 1000);
stream.start(token);
