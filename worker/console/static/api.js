// What the server is asked for and tells.

import { take } from "./news.js";

/** Ask for JSON; throws an Error whose message can be shown. */
export async function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const query = new URLSearchParams(given).toString();
  return answer(await fetch(query ? `${path}?${query}` : path, { headers: { accept: "application/json" } }));
}

/** Send JSON and take JSON. */
export async function post(path, body) {
  const headers = { "content-type": "application/json", "x-framewatch-console": "1" };
  return answer(await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

/** Hear what changes; the browser connects again by itself. `onState` is told whether it is connected. */
export function listen(handlers, onState) {
  const source = new EventSource("/api/live");
  source.addEventListener("hello", () => onState(true));
  source.addEventListener("error", () => {
    onState(false);
    // A refusal ends it for good: a session that has expired, or too many pages.
    if (source.readyState === EventSource.CLOSED) setTimeout(() => listen(handlers, onState), 5000);
  });
  for (const [name, handle] of Object.entries(handlers)) {
    source.addEventListener(name, (event) => take(handle, JSON.parse(event.data)));
  }
}

export const pictureOf = (event, kind) =>
  `/api/events/${encodeURIComponent(event.event_id)}/${kind}?peak=${encodeURIComponent(event.peak_at_ms)}`;

async function answer(response) {
  if (response.status === 401) {
    location.assign("/");
    throw new Error("log in first");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    const detail = body.error ?? body.detail;
    throw new Error(typeof detail === "string" ? detail : `the console answers ${response.status}`);
  }
  return body;
}
