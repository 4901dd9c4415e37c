// One line in words: what its row says. Nothing here touches the document.

import { count, rate, span, timeAt, untilAt } from "./format.js";

/** Worst first: a line's place in the table; equal ones stand by number. */
export function rank(line) {
  if (line.status === "FLAGGED") return 0;
  if (line.health === "CRITICAL") return 1;
  if (line.cooling_down_until !== null) return 2;
  if (line.health === "AT_RISK") return 3;
  if (line.paused) return 4;
  return line.may_send ? 6 : 5;
}

export function describe(line, now) {
  return {
    worst: ["FLAGGED", "CRITICAL", "cooling", "AT_RISK", "paused", "waiting", ""][rank(line)],
    type: line.line_type ?? "",
    status: named(line.status, line.raw_status),
    held: held(line, now),
    health: named(line.health, line.raw_health),
    pace: pace(line),
    volume: quota(line.daily_volume, line.daily_volume_quota),
    starts: quota(line.new_conversations, line.new_conversations_quota),
    next: nextSend(line, now),
    action: line.paused ? "Resume" : "Pause",
  };
}

/** A status or a health; with the API's own word where the guard does not know it. */
function named(value, raw) {
  if (raw === null || raw === value) return { text: value, value };
  return { text: `${value} (${raw})`, value, title: `The API said ${raw}, which counts as ${value}.` };
}

function held(line, now) {
  if (line.paused) {
    const end = line.paused_until === null ? "" : ` until ${untilAt(line.paused_until, now)}`;
    return { text: `paused${end}`, value: "paused" };
  }
  if (line.cooling_down_until === null) return { text: "", value: "" };
  return { text: `cooling down until ${untilAt(line.cooling_down_until, now)}`, value: "cooling" };
}

function pace({ bucket, tokens, sends }) {
  const more = `${count(sends)} allowed in 60 s`;
  if (bucket === null) return { used: null, text: "unpaced", more };
  if (!bucket.tokens) return { used: 1, text: "nothing may pass", more };
  const left = tokens ?? 0;
  const text = `${count(left)} of ${count(bucket.burst)} tokens left`;
  return { used: 1 - left / bucket.burst, text, more: `${rate(bucket.tokens, bucket.per)}, ${more}` };
}

function quota(used, limit) {
  if (limit === null) return { used: null, text: count(used), more: "no limit" };
  const text = `${count(used)} of ${count(limit.limit)}`;
  const more = limit.per === 86400 ? "" : `in any ${span(limit.per)}`;
  return { used: limit.limit ? used / limit.limit : 1, text, more };
}

function nextSend(line, now) {
  if (line.may_send) return "now";
  if (line.status === "FLAGGED") return "not while FLAGGED";
  if (line.next_send_at !== null) {
    const wait = line.next_send_at - now;
    if (wait <= 0) return "now";
    return wait < 5400 ? `in ${span(wait)}` : `at ${timeAt(line.next_send_at, now)}`;
  }
  return line.paused ? "when resumed" : "no wait helps";
}
