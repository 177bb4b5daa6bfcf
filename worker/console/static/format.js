// Times in the reader's zone, with UTC in the title; numbers and durations in few characters.

import { el } from "./dom.js";

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const shortClock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const dayClock = new Intl.DateTimeFormat(undefined, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const shortDay = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

/** A <time> element; the day stands in it where it is not today. */
export function moment(ms) {
  const date = new Date(ms);
  if (Number.isNaN(date.getTime())) return el("span", {}, "unknown time");
  const isToday = date.toDateString() === new Date().toDateString();
  const utc = date.toISOString();
  return el("time", { dateTime: utc, title: `${utc} (UTC)` }, (isToday ? clock : dayClock).format(date));
}

/** A mark on a time axis of so many milliseconds. */
export function tick(ms, span) {
  const date = new Date(ms);
  if (span > 2 * 86_400_000) return shortDay.format(date);
  return (span < 10 * 60_000 ? clock : shortClock).format(date);
}

/** How long something lasted or is ago. */
export function duration(ms) {
  const seconds = Math.max(0, ms / 1000);
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

/** A number of few digits. */
export function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 1e5) return value.toExponential(1);
  return value.toLocaleString(undefined, { maximumFractionDigits: digits });
}

/** A small probability. */
export const probability = (p) => (p >= 0.001 ? number(p, 4) : p.toExponential(1));

/** "1 event", "2 events". */
export const plural = (count, word) => `${number(count, 0)} ${word}${count === 1 ? "" : "s"}`;
