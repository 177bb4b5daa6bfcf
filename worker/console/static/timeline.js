// A row a camera, its events as bars; a bar leads to its event.

import { get } from "./api.js";
import { ticks } from "./chart.js";
import { byId, el, fill, svg } from "./dom.js";
import { plural, tick } from "./format.js";
import { during } from "./news.js";

const ROW = 20;
const HOUR_MS = 3_600_000;

export class Timeline {
  constructor(onOpen) {
    this.hours = Number(localStorage.getItem("framewatch-hours")) || 1;
    this.bars = [];
    this.cameras = [];
    this.selected = null;
    this.onOpen = onOpen;
    for (const button of byId("timeline-range").children) {
      button.addEventListener("click", () => this.choose(Number(button.dataset.hours)));
    }
    new ResizeObserver(() => this.draw()).observe(byId("timeline-rows"));
    this.choose(this.hours);
    setInterval(() => this.draw(), 15_000);
  }

  choose(hours) {
    this.hours = hours;
    localStorage.setItem("framewatch-hours", String(hours));
    for (const button of byId("timeline-range").children) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.hours) === hours));
    }
    this.load();
  }

  load() {
    return during(async () => {
      const now = Date.now();
      this.bars = await get("/api/timeline", { from_ms: now - this.hours * HOUR_MS, to_ms: now + 60_000 });
      this.draw();
    });
  }

  /** Take a new or changed event. */
  take(event) {
    const at = this.bars.findIndex((one) => one.event_id === event.event_id);
    if (at >= 0) this.bars.splice(at, 1);
    this.bars.push({ ...event, verdict: event.said?.verdict ?? null });
    this.draw();
  }

  select(eventId) {
    this.selected = eventId;
    for (const bar of byId("timeline-rows").querySelectorAll(".bar")) bar.classList.toggle("selected", bar.dataset.id === eventId);
  }

  /** Cameras that have a row although no event of theirs is shown. */
  setCameras(names) {
    if (names.join("\n") === this.cameras.join("\n")) return;
    this.cameras = names;
    this.draw();
  }

  draw() {
    const to = Date.now();
    const from = to - this.hours * HOUR_MS;
    const bars = this.bars.filter((bar) => bar.sorted_at_ms <= to + 60_000 && end(bar, to) >= from);
    const names = [...new Set([...this.cameras, ...bars.map((bar) => bar.camera_id)])].sort().slice(0, 200);
    const place = byId("timeline-rows");
    if (!names.length) {
      fill(place, el("p", { className: "empty" }, "No camera yet. Each has a row here once it is scored or raises an alert."));
      return;
    }
    const width = Math.max(200, place.clientWidth - (place.clientWidth < 600 ? 92 : 148));
    const x = (ms) => ((ms - from) / (to - from)) * width;
    const byCamera = Map.groupBy ? Map.groupBy(bars, (bar) => bar.camera_id) : group(bars);
    fill(place,
      names.map((name) => this.row(name, byCamera.get(name) ?? [], width, x, from, to)),
      this.axis(width, x, from, to));
  }

  row(name, bars, width, x, from, to) {
    const label = `${name}: ${plural(bars.length, "event")}`;
    const drawing = svg("svg", { class: "track", width, height: ROW, viewBox: `0 0 ${width} ${ROW}`, role: "img", "aria-label": label });
    for (const bar of bars) {
      const left = Math.max(0, x(Math.max(from, bar.sorted_at_ms)));
      const length = Math.max(4, x(Math.min(to, end(bar, to))) - left);
      const verdict = bar.verdict === "false_alarm" ? "dull" : "";
      const drawn = svg("rect", {
        class: `bar ${bar.severity} ${verdict} ${bar.state === "ended" ? "" : "open"}`, "data-id": bar.event_id,
        x: Math.min(left, width - 4), y: 4, width: length, height: ROW - 8, rx: 2,
        onclick: () => this.onOpen(bar.event_id),
      }, svg("title", {}, `${bar.severity}, ${tick(bar.sorted_at_ms, 60_000)}`));
      drawn.classList.toggle("selected", bar.event_id === this.selected);
      drawing.append(drawn);
    }
    return el("div", { className: "lane" }, el("bdi", { className: "name", title: name }, name), drawing);
  }

  axis(width, x, from, to) {
    const marks = ticks(from, to, Math.max(2, width / 90)).map((ms) =>
      svg("text", { x: x(ms).toFixed(1), y: 12, "text-anchor": x(ms) > width - 30 ? "end" : x(ms) < 30 ? "start" : "middle" }, tick(ms, to - from)));
    return el("div", { className: "lane axis", "aria-hidden": "true" }, el("span", { className: "name" }),
      svg("svg", { width, height: 16, viewBox: `0 0 ${width} 16` }, ...marks));
  }
}

// An open event lasts until now.
const end = (bar, now) => (bar.state === "ended" ? bar.ended_at_ms ?? bar.sorted_at_ms : now);

function group(bars) {
  const groups = new Map();
  for (const bar of bars) groups.set(bar.camera_id, [...(groups.get(bar.camera_id) ?? []), bar]);
  return groups;
}
