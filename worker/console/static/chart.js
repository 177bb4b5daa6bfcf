// Small drawings in SVG; colours come from the style sheet.

import { svg } from "./dom.js";
import { number, tick } from "./format.js";

const HEIGHT = 200;
const LEFT = 38;
const BOTTOM = 20;
const TOP = 8;
const LEAST_TICK_PX = 92;

/** Where a curve is drawn: functions from time and score to pixels. */
export function scales(width, from, to, highest, lowest) {
  const x = (ms) => LEFT + ((ms - from) / (to - from)) * (width - LEFT - 6);
  const y = (score) => TOP + ((highest - score) / (highest - lowest)) * (HEIGHT - TOP - BOTTOM);
  const ms = (px) => from + ((px - LEFT) / (width - LEFT - 6)) * (to - from);
  return { x, y, ms, width, from, to, highest, lowest };
}

/**
 * A curve of scores with its threshold, the event's stretch and another threshold.
 * points: [ms, score, threshold]; marks: { event: [from, to], other, spans: [[from, to]] }.
 */
export function drawCurve(width, from, to, points, stretch, marks, label) {
  const thresholds = points.map((point) => point[2]);
  const held = [...points.map((point) => point[1]), ...thresholds, marks.threshold, marks.other].filter(Number.isFinite);
  const highest = Math.max(1, ...held) * 1.08;
  const lowest = Math.min(0, ...held);
  const scale = scales(width, from, to, highest, lowest);
  const root = svg("svg", {
    class: "curve", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label,
  });
  if (marks.event) root.append(band(scale, marks.event, "event"));
  root.append(...yTicks(scale), ...xTicks(scale));
  for (const run of runs(points, stretch)) root.append(...line(scale, run));
  for (const span of marks.spans ?? []) root.append(bar(scale, span));
  if (Number.isFinite(marks.threshold)) root.append(level(scale, marks.threshold, "threshold", `threshold ${number(marks.threshold)}`));
  if (Number.isFinite(marks.other)) root.append(level(scale, marks.other, "other", `what if ${number(marks.other)}`));
  return { root, scale };
}

/** A bare line of numbers. */
export function sparkline(values, width = 96, height = 22) {
  const highest = Math.max(1e-9, ...values);
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${(height - 1 - (value / highest) * (height - 3)).toFixed(1)}`);
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" },
    svg("polyline", { points: points.join(" ") }));
}

/** Places of a time axis, at whole steps. */
export function ticks(from, to, most) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800];
  const step = 1000 * (steps.find((one) => (to - from) / (one * 1000) <= most) ?? 604_800);
  const zone = new Date(from).getTimezoneOffset() * 60_000;
  const first = Math.ceil((from - zone) / step) * step + zone;
  return Array.from({ length: Math.max(0, Math.floor((to - first) / step) + 1) }, (_, at) => first + at * step);
}

function runs(points, stretch) {
  // A gap of several stretches is a gap in the footage, not a line across it.
  const gap = Math.max(4 * stretch, 5000, 3 * medianStep(points));
  const found = [];
  points.forEach((point, at) => {
    if (at === 0 || point[0] - points[at - 1][0] > gap) found.push([]);
    found.at(-1).push(point);
  });
  return found;
}

function medianStep(points) {
  const steps = points.slice(1).map((point, at) => point[0] - points[at][0]).sort((a, b) => a - b);
  return steps[steps.length >> 1] ?? 0;
}

function line({ x, y, lowest }, run) {
  const places = run.map(([ms, score]) => `${x(ms).toFixed(1)},${y(score).toFixed(1)}`).join(" ");
  const [first, last] = [x(run[0][0]).toFixed(1), x(run.at(-1)[0]).toFixed(1)];
  const base = y(lowest).toFixed(1);
  return [
    svg("polygon", { class: "area", points: `${first},${base} ${places} ${last},${base}` }),
    svg("polyline", { class: "line", points: run.length > 1 ? places : `${places} ${+first + 1.5},${places.split(",")[1]}` }),
  ];
}

function level({ y, width }, score, kind, text) {
  const at = y(score).toFixed(1);
  const isHigh = y(score) < 24;
  return svg("g", { class: kind },
    svg("line", { x1: LEFT, x2: width - 6, y1: at, y2: at }),
    svg("text", { x: width - 8, y: isHigh ? +at + 13 : at - 4, "text-anchor": "end" }, text));
}

function band({ x }, [from, to], kind) {
  const left = Math.max(LEFT, x(from));
  return svg("rect", { class: kind, x: left, y: TOP, width: Math.max(2, x(to) - left), height: HEIGHT - TOP - BOTTOM });
}

function bar({ x, width }, [from, to]) {
  const left = Math.max(LEFT, x(from));
  const right = Math.min(width - 6, x(to));
  if (right < LEFT || left > width - 6) return svg("g");
  return svg("rect", { class: "span", x: left, y: HEIGHT - BOTTOM - 5, width: Math.max(2, right - left), height: 5, rx: 1.5 });
}

function yTicks({ y, highest, lowest, width }) {
  const rough = (highest - lowest) / 4;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * size).find((one) => one >= rough);
  const found = [];
  for (let score = Math.ceil(lowest / step) * step; score < highest; score += step) {
    const at = y(score).toFixed(1);
    found.push(svg("line", { class: "grid", x1: LEFT, x2: width - 6, y1: at, y2: at }));
    found.push(svg("text", { class: "mark", x: LEFT - 5, y: +at + 4, "text-anchor": "end" }, number(score, 1)));
  }
  return found;
}

function xTicks({ x, from, to, width }) {
  return ticks(from, to, Math.max(2, width / LEAST_TICK_PX)).map((ms) =>
    svg("text", { class: "mark", x: x(ms).toFixed(1), y: HEIGHT - 5, "text-anchor": x(ms) > width - 40 ? "end" : x(ms) < LEFT + 24 ? "start" : "middle" }, tick(ms, to - from)));
}
