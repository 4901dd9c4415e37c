// Numbers and times as people read them. Times come in as Unix seconds.

const grouped = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

export const count = (value) => grouped.format(value);

export const plural = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;

export const minuteAt = (at) => minute.format(at * 1000);

/** A time, with the date where it is another day than now. */
function dated(at, now, time) {
  const date = day.format(at * 1000);
  return date === day.format(now * 1000) ? time : `${date}, ${time}`;
}

/** When something was, to the second. */
export const timeAt = (at, now) => dated(at, now, clock.format(at * 1000));

/** When something ends: to the second only where it is near. */
export const untilAt = (at, now) => (at - now < 120 ? timeAt(at, now) : dated(at, now, minuteAt(at)));

/** A span of seconds in its largest unit that leaves it exact enough to act on. */
export function span(seconds) {
  if (seconds < 100) return `${Math.max(0, Math.ceil(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

/** How much of a limit: "10 per min". */
export function rate(tokens, per) {
  const unit = { 1: "s", 60: "min", 3600: "h", 86400: "day" }[per] ?? span(per);
  return `${count(tokens)} per ${unit}`;
}
