// The list of events: the latest first, one row each, changed in place as news come.

import { get, pictureOf } from "./api.js";
import { byId, el, fill } from "./dom.js";
import { duration, moment, number, plural } from "./format.js";
import { during } from "./news.js";

const PAGE = 50;
const MOST = 1000;

export class EventList {
  /** `onChange` is called after each change of what is listed. */
  constructor(onChange) {
    this.events = [];
    this.rows = new Map();
    this.filters = {};
    this.selected = null;
    this.isWhole = false;
    this.onChange = onChange;
    this.asked = 0;
    this.watcher = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && this.more());
    this.watcher.observe(byId("list-end"));
  }

  /** Read the list anew by filters. */
  load(filters = this.filters) {
    this.filters = filters;
    const asked = ++this.asked;
    return during(async () => {
      const events = await get("/api/events", { ...filters, limit: PAGE });
      if (asked !== this.asked) return;
      this.events = events;
      this.isWhole = events.length < PAGE;
      this.draw();
    });
  }

  /** Add what lies behind the last row. */
  async more() {
    const last = this.events.at(-1);
    if (this.isWhole || !last || this.isAsking || this.events.length >= MOST) return;
    this.isAsking = true;
    const asked = this.asked;
    try {
      await during(async () => {
        const before = { before_ms: last.sorted_at_ms, before_id: last.event_id };
        const events = await get("/api/events", { ...this.filters, ...before, limit: PAGE });
        if (asked !== this.asked) return;
        this.events.push(...events);
        this.isWhole = events.length < PAGE;
        this.draw();
      });
    } finally {
      this.isAsking = false;
    }
  }

  /** Take a new or changed event; what a search finds only the server knows, which is asked anew. */
  take(event) {
    if (this.filters.text) {
      clearTimeout(this.later);
      this.later = setTimeout(() => this.load(), 300);
      return;
    }
    const at = this.events.findIndex((one) => one.event_id === event.event_id);
    if (at >= 0) this.events.splice(at, 1);
    if (this.fits(event)) {
      this.events.push(event);
      this.events.sort((a, b) => b.sorted_at_ms - a.sorted_at_ms || (b.event_id > a.event_id ? 1 : -1));
      this.events.length = Math.min(this.events.length, MOST);
    }
    this.draw();
    if (at < 0) this.rows.get(event.event_id)?.classList.add("new");
  }

  fits(event) {
    const { camera, severity, state, verdict } = this.filters;
    return (
      (!camera || camera === event.camera_id) &&
      (!severity || severity === event.severity) &&
      (!state || (state === "ended") === (event.state === "ended")) &&
      (!verdict || verdict === (event.said?.verdict ?? "none"))
    );
  }

  /** The event so many rows after a named one; the first where that one is not listed. */
  neighbour(eventId, step) {
    const at = this.events.findIndex((one) => one.event_id === eventId);
    if (at < 0) return this.events[0];
    return this.events[Math.min(this.events.length - 1, Math.max(0, at + step))];
  }

  select(eventId) {
    this.selected = eventId;
    for (const [id, row] of this.rows) mark(row, id === eventId);
    this.rows.get(eventId)?.scrollIntoView({ block: "nearest" });
  }

  draw() {
    const before = this.rows;
    this.rows = new Map();
    const nodes = this.events.map((event) => {
      const key = JSON.stringify(event);
      let row = before.get(event.event_id);
      if (row?.dataset.key !== key) {
        row = drawRow(event);
        row.dataset.key = key;
      }
      this.rows.set(event.event_id, row);
      mark(row, event.event_id === this.selected);
      return row;
    });
    const list = byId("events");
    // In place, so that a row that is being read or has the focus stays.
    nodes.forEach((node, place) => {
      if (list.children[place] !== node) list.insertBefore(node, list.children[place] ?? null);
    });
    while (list.children.length > nodes.length) list.lastChild.remove();
    fill(byId("list-count"), plural(nodes.length, "event"), this.isWhole ? "" : " so far");
    if (!nodes.length) fill(list, el("li", { className: "empty" }, this.emptyText()));
    this.onChange();
  }

  emptyText() {
    const isFiltered = Object.values(this.filters).some(Boolean);
    if (isFiltered) return "No event is like that. Clear the search or the filters above.";
    return "No event yet. One appears here as soon as a worker tells of it: is worker run running, and does it write to the topic that is followed here?";
  }
}

function mark(row, isSelected) {
  const link = row.querySelector("a");
  if (isSelected) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
}

function drawRow(event) {
  const isOpen = event.state !== "ended";
  const lasted = (event.ended_at_ms ?? event.told_at_ms) - event.started_at_ms;
  return el("li", {},
    el("a", { href: `#/event/${event.event_id}`, data: { severity: event.severity } },
      event.has_snapshot
        ? el("img", { className: "thumb", src: pictureOf(event, "snapshot"), alt: "", loading: "lazy" })
        : el("span", { className: "thumb none" }, "no picture"),
      el("span", { className: "what" },
        el("span", { className: "line" },
          el("bdi", { className: "camera" }, event.camera_id),
          verdictMark(event.said)),
        el("span", { className: "line" },
          el("span", { className: `chip ${event.severity}` }, event.severity),
          isOpen ? el("span", { className: "open" }, "open") : el("span", { className: "quiet" }, duration(lasted)),
          el("span", { className: "quiet score" }, `${number(event.peak_score)} / ${number(event.threshold)}`)),
        el("span", { className: "line quiet" }, moment(event.started_at_ms)))));
}

/** What was said of an event, as a small mark; null where nothing was. */
export function verdictMark(said) {
  if (!said) return null;
  const isConfirmed = said.verdict === "confirmed";
  const text = isConfirmed ? "confirmed" : "false alarm";
  return el("span", { className: `said ${said.verdict}`, title: said.note || text }, `${isConfirmed ? "✓" : "✗"} ${text}`);
}
