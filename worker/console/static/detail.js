// One event: its picture under its heat map, its curve with the what-if, its facts, and what is said of it.

import { get, pictureOf, post } from "./api.js";
import { drawCurve } from "./chart.js";
import { byId, el, fill, svg } from "./dom.js";
import { duration, moment, number, plural, probability } from "./format.js";
import { verdictMark } from "./list.js";

const AROUND_MS = 60_000;
const DAY_MS = 86_400_000;
const RANGES = [["event", 0], ["1 h", 3_600_000], ["6 h", 21_600_000], ["24 h", DAY_MS]];
const CURVE_EVERY_MS = 5_000;

export class Detail {
  /** `toast` says a line; `about` is what the console says of itself. */
  constructor(toast, about) {
    this.place = byId("detail");
    this.toast = toast;
    this.about = about;
    this.event = null;
    this.heat = Number(localStorage.getItem("framewatch-heat") ?? 60);
    this.span = 0;
    new ResizeObserver(() => this.drawCurve()).observe(this.place);
    setInterval(() => this.event && this.reaches() && this.loadCurve(), CURVE_EVERY_MS);
  }

  /** Show an event by its id; null shows none. */
  async show(eventId) {
    this.asked = eventId;
    if (eventId === null) {
      this.event = null;
      this.drawNone("Choose an event of the list", "j and k go from one to the next, ? shows all keys.");
      return;
    }
    try {
      const event = await get(`/api/events/${encodeURIComponent(eventId)}`);
      if (this.asked === eventId) this.draw(event);
    } catch (error) {
      if (this.asked === eventId) this.drawNone("This event is not shown", error.message);
    }
  }

  /** Take a change of the event that is shown. */
  take(event) {
    if (this.event?.event_id === event.event_id) this.show(event.event_id);
  }

  /** Say what the event was, with the note that stands there. */
  async judge(verdict) {
    const event = this.event;
    if (!event || this.isSending) return;
    this.isSending = true;
    const note = byId("note")?.value.trim() ?? "";
    try {
      await post(`/api/events/${event.event_id}/verdict`, { verdict, note });
      this.toast(`${verdict === "confirmed" ? "Confirmed" : "Called a false alarm"}; told to the topic ${this.about.feedback_topic}.`);
    } catch (error) {
      this.toast(`Not sent: ${error.message}`, true);
    } finally {
      this.isSending = false;
    }
  }

  toggleHeat() {
    this.setHeat(this.heat > 0 ? 0 : 60);
  }

  setHeat(percent) {
    this.heat = percent;
    localStorage.setItem("framewatch-heat", String(percent));
    const heat = byId("heat");
    if (heat) heat.style.opacity = String(percent / 100);
    const slider = byId("heat-slider");
    if (slider) slider.value = String(percent);
  }

  drawNone(title, text) {
    fill(this.place, el("div", { className: "nothing" }, el("p", { className: "big" }, title), el("p", { className: "quiet" }, text)));
  }

  draw(event) {
    const isSame = this.event?.event_id === event.event_id;
    const note = isSame ? byId("note")?.value : event.said?.note;
    const isNoting = document.activeElement === byId("note");
    const isHere = this.place.contains(document.activeElement);
    if (!isSame) Object.assign(this, { points: null, other: null, whatIf: null, span: 0 });
    const isSamePicture = isSame && this.event.peak_at_ms === event.peak_at_ms && this.event.has_heat_map === event.has_heat_map;
    const stage = isSamePicture ? this.place.querySelector(".stage") : this.stage(event);
    this.event = event;
    fill(this.place, this.heading(event), stage, this.verdict(event, note ?? ""), this.curveCard(), this.facts(event));
    this.setHeat(this.heat);
    if (isNoting) byId("note").focus();
    else if (isHere) this.place.focus({ preventScroll: true });
    if (!isSame) this.place.scrollTop = 0;
    if (isSame) this.drawCurve();
    this.loadCurve();
  }

  heading(event) {
    const isOpen = event.state !== "ended";
    return el("header", { className: "heading" },
      el("a", { className: "back", href: "#/", "aria-label": "Back to the list" }, "‹ Events"),
      el("h2", {}, el("bdi", {}, event.camera_id)),
      el("span", { className: `chip ${event.severity}` }, event.severity),
      isOpen ? el("span", { className: "open" }, "open") : el("span", { className: "quiet" }, `lasted ${duration(event.ended_at_ms - event.started_at_ms)}`),
      verdictMark(event.said),
      el("span", { className: "quiet push" }, moment(event.started_at_ms)));
  }

  stage(event) {
    if (!event.has_snapshot) {
      const where = event.frames;
      return el("div", { className: "stage none" },
        el("p", {}, "This alert has no picture: it was larger than the worker's picture_max_bytes or the topic's max.message.bytes."),
        el("p", { className: "quiet" }, "The frame stands at ", el("bdi", {}, `${where.topic}[${where.partition}]@${where.peak_offset}`), "."));
    }
    const label = `Camera ${event.camera_id} at the event's peak`;
    const boxes = svg("svg", { class: "boxes", viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" },
      event.boxes.map((box) => svg("rect", { x: box.x, y: box.y, width: box.width, height: box.height })));
    const picture = el("div", { className: "picture" });
    const shape = (load) => {
      const { naturalWidth: width, naturalHeight: height } = load.target;
      picture.style.aspectRatio = `${width} / ${height}`;
      picture.style.width = `min(100%, calc(46vh * ${width} / ${height}))`;
    };
    picture.append(
      ...[
        el("img", { src: pictureOf(event, "snapshot"), alt: label, onload: shape }),
        event.has_heat_map && el("img", { id: "heat", className: "heat", src: pictureOf(event, "heat-map"), alt: "" }),
        boxes,
      ].filter(Boolean));
    return el("div", { className: "stage" },
      el("div", { className: "dark" }, picture),
      el("div", { className: "bar" },
        event.has_heat_map && el("label", { className: "slider" }, "Heat map ",
          el("input", { type: "range", id: "heat-slider", min: "0", max: "100", value: String(this.heat), oninput: (change) => this.setHeat(Number(change.target.value)) })),
        el("label", { className: "check" },
          el("input", { type: "checkbox", checked: true, onchange: (change) => boxes.classList.toggle("hidden", !change.target.checked) }), " boxes"),
        el("a", { className: "push", href: pictureOf(event, "snapshot"), target: "_blank", rel: "noreferrer" }, "picture alone")));
  }

  verdict(event, note) {
    const said = event.said;
    const is = (verdict) => String(said?.verdict === verdict);
    return el("div", { className: "verdict card" },
      el("div", { className: "bar" },
        el("button", { type: "button", className: "good", id: "confirm", "aria-pressed": is("confirmed"), title: "c", onclick: () => this.judge("confirmed") }, "✓ Confirm"),
        el("button", { type: "button", className: "bad", id: "false-alarm", "aria-pressed": is("false_alarm"), title: "f", onclick: () => this.judge("false_alarm") }, "✗ False alarm"),
        el("input", { id: "note", maxLength: 500, placeholder: "Note, sent with the verdict", "aria-label": "Note", value: note, autocomplete: "off" })),
      said && el("p", { className: "quiet small" }, `${said.verdict === "confirmed" ? "Confirmed" : "Called a false alarm"} by `,
        el("bdi", {}, said.said_by), ", ", moment(said.said_at_ms), said.note && [": ", el("bdi", { className: "said-note" }, said.note)]));
  }

  curveCard() {
    return el("div", { className: "card" },
      el("div", { className: "bar" },
        el("h3", {}, "Score"),
        el("div", { className: "choice", role: "group", "aria-label": "Length of the curve" },
          RANGES.map(([name, span]) => el("button", { type: "button", "aria-pressed": String(span === this.span), onclick: (click) => this.choose(click.target, span) }, name))),
        el("span", { id: "reading", className: "quiet small push" })),
      el("div", { id: "curve" }),
      el("div", { className: "bar what-if" },
        el("label", { className: "slider" }, "What if the threshold were ",
          el("output", { id: "other-value" }, number(this.other ?? this.event.threshold)),
          el("input", { type: "range", id: "other", min: "0", max: String(this.most()), step: "0.01", value: String(this.other ?? this.event.threshold), oninput: (change) => this.ask(Number(change.target.value)) })),
        el("button", { type: "button", id: "other-reset", hidden: this.other === null, onclick: () => this.reset() }, "as it is")),
      el("div", { id: "answer", className: "small", role: "status" }, this.answer()));
  }

  choose(button, span) {
    this.span = span;
    for (const one of button.parentNode.children) one.setAttribute("aria-pressed", String(one === button));
    this.points = null;
    this.loadCurve();
  }

  most() {
    return Math.ceil(Math.max(this.event.peak_score, this.event.threshold) * 1.2);
  }

  /** Whether the curve that is shown reaches to now. */
  reaches() {
    return this.span > 0 || this.event.state !== "ended" || Date.now() - this.event.ended_at_ms < 2 * AROUND_MS;
  }

  bounds() {
    const { ended_at_ms: end, sorted_at_ms: start } = this.event;
    // Whatever an alert says of its end, a day is shown at the most.
    const last = Math.min(Math.max(end ?? Date.now(), start), start + DAY_MS);
    if (this.span === 0) return [start - AROUND_MS, last + AROUND_MS];
    const to = Math.min(Date.now(), start + this.span / 2);
    return [to - this.span, to];
  }

  async loadCurve() {
    const event = this.event;
    const [from, to] = this.bounds();
    const points = Math.max(100, Math.min(1200, Math.round(this.place.clientWidth)));
    try {
      const curve = await get("/api/curve", { camera: event.camera_id, from_ms: Math.round(from), to_ms: Math.round(to), points });
      if (this.event?.event_id !== event.event_id) return;
      this.points = curve.points;
      this.stretch = curve.stretch_ms;
      this.drawn = [from, to];
      this.drawCurve();
    } catch (error) {
      fill(byId("curve") ?? this.place, el("p", { className: "empty" }, `No curve: ${error.message}`));
    }
  }

  drawCurve() {
    const place = byId("curve");
    if (!place || !this.points || !place.clientWidth) return;
    if (!this.points.length) {
      fill(place, el("p", { className: "empty" },
        "No score is held of this time. Workers write scores where kafka.scores_topic is set; each frame's is kept for ",
        `${number(this.about.raw_score_hours, 1)} h, each minute's for ${number(this.about.retention_days, 0)} days.`));
      return;
    }
    const event = this.event;
    const [from, to] = this.drawn;
    const own = this.whatIf?.cameras.find((camera) => camera.camera_id === event.camera_id);
    const marks = {
      event: [event.sorted_at_ms, event.ended_at_ms ?? Math.min(to, Date.now())],
      threshold: event.threshold, other: this.other ?? NaN, spans: own?.spans,
    };
    const label = `Anomaly score of ${event.camera_id}: peak ${number(event.peak_score)}, threshold ${number(event.threshold)}`;
    const { root, scale } = drawCurve(place.clientWidth, from, to, this.points, this.stretch, marks, label);
    root.addEventListener("pointermove", (move) => this.read(move, root, scale));
    fill(place, root);
  }

  read(move, root, scale) {
    const at = scale.ms(move.clientX - root.getBoundingClientRect().left);
    const nearest = this.points.reduce((best, point) => (Math.abs(point[0] - at) < Math.abs(best[0] - at) ? point : best));
    fill(byId("reading"), moment(nearest[0]), ` score ${number(nearest[1])}`);
  }

  ask(threshold) {
    this.other = threshold;
    byId("other-value").textContent = number(threshold);
    byId("other-reset").hidden = false;
    this.drawCurve();
    clearTimeout(this.later);
    this.later = setTimeout(() => this.askServer(threshold), 120);
  }

  async askServer(threshold) {
    try {
      const answer = await get("/api/what-if", { threshold });
      if (this.other !== threshold) return;
      this.whatIf = answer;
      fill(byId("answer"), this.answer());
      this.drawCurve();
    } catch (error) {
      fill(byId("answer"), `Not known: ${error.message}`);
    }
  }

  reset() {
    Object.assign(this, { other: null, whatIf: null });
    byId("other").value = String(this.event.threshold);
    byId("other-value").textContent = number(this.event.threshold);
    byId("other-reset").hidden = true;
    fill(byId("answer"), this.answer());
    this.drawCurve();
  }

  answer() {
    if (!this.whatIf) return el("span", { className: "quiet" }, "Move the slider: it counts the events that there would have been, of each camera.");
    const { cameras, threshold, rule, rule_of: ruleOf } = this.whatIf;
    if (!cameras.length) return "No scores are held to try it on.";
    const rows = cameras.slice(0, 50).map((camera) => el("tr", { className: camera.camera_id === this.event.camera_id ? "own" : "" },
      el("th", { scope: "row" }, el("bdi", {}, camera.camera_id)),
      el("td", {}, number(camera.events, 0)), el("td", {}, number(camera.events_now, 0)), el("td", {}, number(camera.threshold_now)),
      el("td", {}, number(camera.scores, 0)), el("td", {}, camera.from_ms === null ? "" : moment(camera.from_ms))));
    const head = ["camera", `events at ${number(threshold)}`, "events now", "threshold now", "scores held", "since"];
    return [
      el("div", { className: "wide", role: "region", "aria-label": "Events at another threshold", tabIndex: 0 },
        el("table", {}, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, rows))),
      el("p", { className: "quiet" },
        ruleOf ? ["Rule of bundle ", el("bdi", {}, ruleOf)] : "Rule of the settings; name the bundle with --bundle for its own",
        `: ${plural(rule.min_frames, "frame")} to begin, ${rule.gap_frames} below release to end.`),
    ];
  }

  facts(event) {
    const { frames, bundle } = event;
    const facts = [
      ["Began", moment(event.started_at_ms)], ["Peak", moment(event.peak_at_ms)],
      ["Ended", event.state === "ended" && event.ended_at_ms !== null ? moment(event.ended_at_ms) : "not yet"],
      ["Peak score", `${number(event.peak_score)}, threshold ${number(event.threshold)}`],
      ["As high by chance", `p = ${probability(event.p_value)}`],
      ["Anomalous", `${number(event.area_percent, 1)}% of the picture, ${plural(event.boxes.length, "box").replace("boxs", "boxes")}`],
      ["Frames", el("bdi", {}, `${frames.topic}[${frames.partition}]@${frames.first_offset}–${frames.last_offset}, peak ${frames.peak_offset}`)],
      ["Bundle", el("bdi", { title: bundle.digest }, `${bundle.name} ${bundle.version}`)],
      ["Rule", el("bdi", {}, event.rule_version)], ["Event", el("bdi", { className: "mono" }, event.event_id)],
    ];
    return el("dl", { className: "facts card" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  }
}
