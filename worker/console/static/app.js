// Ties the parts of the page together: what the address names, what the server tells, what keys do.

import { get, listen } from "./api.js";
import { Detail } from "./detail.js";
import { byId, el, fill } from "./dom.js";
import { EventList } from "./list.js";
import { during } from "./news.js";
import { drawNotices, drawStatus } from "./side.js";
import { Timeline } from "./timeline.js";

const EVENT = /^#\/event\/([0-9a-f]{32})$/;
const TOAST_MS = 5_000;
const SEARCH_AFTER_MS = 250;

const about = await get("/api/about").catch((error) => {
  fill(byId("banner"), `The console does not answer as it should: ${error.message}. Load the page again.`);
  byId("banner").hidden = false;
  throw error;
});
const filters = byId("filters");
const detail = new Detail(toast, about);
const list = new EventList(() => {});
const timeline = new Timeline((eventId) => open(eventId));
let status = null;
let later = 0;

byId("logout").hidden = !about.can_log_out;

function open(eventId) {
  location.hash = eventId ? `#/event/${eventId}` : "#/";
}

function shownEvent() {
  return EVENT.exec(location.hash)?.[1] ?? null;
}

function followAddress() {
  const eventId = shownEvent();
  document.body.classList.toggle("has-event", eventId !== null);
  list.select(eventId);
  timeline.select(eventId);
  detail.show(eventId);
}

function view(name) {
  document.body.dataset.view = name;
  for (const tab of document.querySelectorAll(".tabs button")) tab.setAttribute("aria-pressed", String(tab.dataset.view === name));
  if (shownEvent()) open(null);
}

function readFilters() {
  return Object.fromEntries([...new FormData(filters)].map(([name, value]) => [name, value.trim()]));
}

function filter() {
  list.load(readFilters()).catch(complain);
  if (status) takeStatus(status);
}

function chooseCamera(camera) {
  const select = byId("filter-camera");
  if (camera && ![...select.options].some((option) => option.value === camera)) select.append(el("option", { value: camera }, camera));
  select.value = camera;
  if (document.body.dataset.view === "side" && camera) view("events");
  filter();
}

function takeStatus(told) {
  status = told;
  const names = told.cameras.map((camera) => camera.camera_id);
  const select = byId("filter-camera");
  const [every, ...options] = [...select.options];
  if (options.map((option) => option.value).join("\n") !== names.join("\n")) {
    const chosen = select.value;
    const kept = chosen && !names.includes(chosen) ? [chosen] : [];
    fill(select, every, [...names, ...kept].map((name) => el("option", { value: name }, name)));
    select.value = chosen;
  }
  timeline.setCameras(names);
  drawStatus(told, select.value, chooseCamera);
}

function readAll() {
  return during(() => Promise.all([
    list.load(readFilters()),
    timeline.load(),
    get("/api/status").then(takeStatus),
    get("/api/notices").then(drawNotices),
    shownEvent() && detail.show(shownEvent()),
  ]));
}

function takeEvent(event) {
  list.take(event);
  timeline.take(event);
  detail.take(event);
}

function complain(error) {
  toast(error.message, true);
}

function toast(text, isBad = false) {
  const line = el("p", { className: isBad ? "toast bad" : "toast" }, text);
  byId("toasts").append(line);
  setTimeout(() => line.remove(), TOAST_MS);
}

function showLive(isLive) {
  const place = byId("live");
  place.textContent = isLive ? "live" : "reconnecting";
  place.classList.toggle("off", !isLive);
  if (isLive) readAll().catch(complain);
}

function changeTheme() {
  const root = document.documentElement;
  const order = ["light", "dark", ""];
  const next = order[(order.indexOf(root.dataset.theme ?? "") + 1) % order.length];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  localStorage.setItem("framewatch-theme", next);
  toast(next ? `Theme: ${next}` : "Theme: as the system");
}

function step(by) {
  // By the address, which changes at once; the list follows it a moment later.
  const event = list.neighbour(shownEvent(), by);
  if (event) open(event.event_id);
}

const KEYS = {
  j: () => step(1), ArrowDown: () => step(1), k: () => step(-1), ArrowUp: () => step(-1),
  Enter: () => byId("detail").focus(),
  c: () => detail.judge("confirmed"), f: () => detail.judge("false_alarm"), m: () => detail.toggleHeat(),
  "/": () => byId("search").focus(), t: changeTheme, "?": () => byId("help").showModal(),
  Escape: () => open(null),
};

function onKey(press) {
  if (press.ctrlKey || press.metaKey || press.altKey || byId("help").open) return;
  const at = press.target;
  // A slider takes arrows alone, what is written into takes all.
  if (at.matches("input[type=range]") && press.key.startsWith("Arrow")) return;
  if (at.matches("input:not([type=checkbox], [type=range]), textarea, select")) {
    if (press.key === "Escape") at.blur();
    return;
  }
  // A button or link that has the focus keeps its own Enter.
  if (press.key === "Enter" && at.matches("a, button")) return;
  // Within an event the arrows scroll.
  if (press.key.startsWith("Arrow") && at.closest("#detail, #side")) return;
  const act = KEYS[press.key];
  if (!act) return;
  press.preventDefault();
  act();
}

filters.addEventListener("submit", (submit) => submit.preventDefault());
filters.addEventListener("change", filter);
byId("search").addEventListener("input", () => {
  clearTimeout(later);
  later = setTimeout(filter, SEARCH_AFTER_MS);
});
byId("theme").addEventListener("click", changeTheme);
byId("help-button").addEventListener("click", () => byId("help").showModal());
for (const tab of document.querySelectorAll(".tabs button")) tab.addEventListener("click", () => view(tab.dataset.view));
addEventListener("hashchange", followAddress);
addEventListener("keydown", onKey);

followAddress();
listen({
  event: takeEvent,
  status: takeStatus,
  notices: drawNotices,
  resync: () => readAll().catch(complain),
}, showLive);
