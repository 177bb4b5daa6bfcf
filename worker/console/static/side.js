// How cameras, workers and topics are, and alerts that are of no anomaly.

import { sparkline } from "./chart.js";
import { byId, el, fill } from "./dom.js";
import { duration, moment, number, plural } from "./format.js";

/** Show a status. */
export function drawStatus(status, filteredCamera, onCamera) {
  drawCameras(status, filteredCamera, onCamera);
  drawWorkers(status.workers);
  drawTopics(status);
  drawBanner(status.topics);
}

/** Show alerts that are of no anomaly. */
export function drawNotices(notices) {
  fill(byId("notices"), notices.slice(0, 20).map((notice) => {
    const facts = Object.entries(notice.facts).map(([name, text]) => `${name}: ${text}`).join("\n");
    return el("li", { className: "card notice", title: facts },
      el("div", { className: "line" },
        el("bdi", { className: "camera" }, notice.camera_id || "no camera"),
        el("span", { className: notice.state && !notice.ended_at_ms ? "chip high" : "chip" }, notice.state ?? (notice.type.includes("model_changed") ? "model" : "other"))),
      el("div", { className: "quiet small" }, el("bdi", {}, notice.type), " · ", moment(notice.sorted_at_ms),
        notice.ended_at_ms ? ` · lasted ${duration(notice.ended_at_ms - notice.sorted_at_ms)}` : ""));
  }), !notices.length && el("li", { className: "empty small" }, "None. Alerts of a camera's health, and of kinds that this console does not know, stand here."));
}

function drawCameras({ cameras, now_ms: now }, filteredCamera, onCamera) {
  if (!cameras.length) {
    fill(byId("cameras"), el("li", { className: "empty small" },
      "No camera yet. Publish frames, and start workers with kafka.scores_topic: scores, so that each is seen here."));
    return;
  }
  keepFocus(byId("cameras"), cameras.map((camera) => {
    const [kind, text] = health(camera, now);
    const share = camera.last_score === null ? 0 : Math.min(1, Math.max(0, camera.last_score / camera.threshold / 1.5));
    const meter = el("span", { className: "meter", "aria-hidden": "true" }, el("span", { className: camera.last_score >= camera.threshold ? "over" : "" }));
    meter.firstChild.style.width = `${(share * 100).toFixed(1)}%`;
    return el("li", {},
      el("button", {
        type: "button", className: "card camera-card", data: { key: camera.camera_id },
        "aria-pressed": String(camera.camera_id === filteredCamera), title: "Show its events alone",
        onclick: () => onCamera(camera.camera_id === filteredCamera ? "" : camera.camera_id),
      },
      el("span", { className: "line" }, el("span", { className: `dot ${kind}`, "aria-hidden": "true" }),
        el("bdi", { className: "camera" }, camera.camera_id),
        el("span", { className: `quiet small ${kind}` }, text)),
      camera.last_score !== null && meter,
      el("span", { className: "line quiet small" },
        camera.last_score !== null && el("span", { title: "Latest score and threshold" }, `${number(camera.last_score)} / ${number(camera.threshold)}`),
        el("span", { className: "push", title: "Events of the last 24 hours" }, `${number(camera.events_a_day, 0)} in 24 h`,
          camera.open_events > 0 && [", ", el("span", { className: "bad" }, `${number(camera.open_events, 0)} open`)]))));
  }));
}

function health(camera, now) {
  if (camera.trouble) return ["bad", `${camera.trouble.state} since ${duration(now - camera.trouble.since_ms)}`];
  if (camera.is_silent === null) return ["unknown", "no scores"];
  if (camera.is_silent) return ["bad", `silent for ${duration(now - camera.last_at_ms)}`];
  return ["good", `${number(camera.frames_per_minute / 60, 1)} frames/s`];
}

function drawWorkers(workers) {
  fill(byId("workers"), workers.map((worker) =>
    el("li", { className: "card" },
      el("div", { className: "line" }, el("span", { className: `dot ${worker.is_up ? "good" : "bad"}`, "aria-hidden": "true" }),
        el("span", { className: "camera" }, new URL(worker.address).host),
        worker.is_up ? el("span", { className: "quiet small" }, worker.provider) : el("span", { className: "bad small" }, "down")),
      worker.is_up ? figures(worker) : el("div", { className: "quiet small" }, worker.error))),
  !workers.length && el("li", { className: "empty small" },
    "No worker is named. Start the console with --worker-metrics http://HOST:9464/metrics, once for each."));
}

function figures(worker) {
  const rate = worker.frames_per_second === null ? "–" : number(worker.frames_per_second, worker.frames_per_second < 10 ? 1 : 0);
  return [
    el("div", { className: "line figures" },
      el("span", {}, el("strong", {}, rate), " frames/s"),
      worker.rates.length > 1 && sparkline(worker.rates, 56),
      el("span", { className: "push" }, el("strong", { className: worker.lag_frames > 500 ? "bad" : "" }, number(worker.lag_frames, 0)), " behind")),
    el("div", { className: "quiet small" },
      [
        worker.bundle, plural(worker.partitions, "partition"),
        worker.delay_seconds !== null && `${number(worker.delay_seconds * 1000, 0)} ms to score`,
        worker.dead_letters > 0 && plural(worker.dead_letters, "dead letter"),
      ].filter(Boolean).join(" · ")),
  ];
}

function drawTopics({ topics, passed_over: passedOver }) {
  const passed = Object.entries(passedOver).map(([reason, count]) => `${reason.replaceAll("_", " ")} ${number(count, 0)}`);
  fill(byId("topics"), topics.map((follower) =>
    follower.topics.map((topic) => {
      const isMissing = follower.missing.includes(topic);
      const isGood = follower.state === "following" && !isMissing;
      const text = isMissing ? "not on the broker" : follower.state === "following" && follower.behind ? `${number(follower.behind, 0)} to read` : follower.state;
      return el("li", { className: "line small topic" }, el("span", { className: `dot ${isGood ? "good" : "bad"}`, "aria-hidden": "true" }),
        el("bdi", {}, topic), el("span", { className: `push ${isGood ? "quiet" : "bad"}` }, text));
    })),
  passed.length > 0 && el("li", { className: "quiet small" }, `Passed over: ${passed.join(", ")}`));
}

function drawBanner(topics) {
  const trouble = topics.find((follower) => follower.state === "unavailable");
  const banner = byId("banner");
  const text = trouble ? `${trouble.detail}. What is shown is what was read before; it goes on by itself.` : "";
  if (banner.textContent !== text) banner.textContent = text;
  banner.hidden = !trouble;
}

function keepFocus(list, nodes) {
  // A press that has begun on a card shall end on it.
  if (list.querySelector(":active")) return;
  const key = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  fill(list, nodes);
  if (key !== null) [...list.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key)?.focus({ preventScroll: true });
}
