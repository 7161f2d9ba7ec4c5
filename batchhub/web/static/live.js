// What every page with moving parts shares: local times, countdowns, and a reader of server-sent events.
// fetch() is used instead of EventSource because it can send the XSRF token as a header, not in the address.

export function xsrf() {
  return document.querySelector('meta[name="batchhub-xsrf"]').content;
}

/** A duration as the server writes it, to the minute, rounded up; the last ten minutes run down by the second. */
export function spell(seconds) {
  if (seconds > 0 && seconds < 600) {
    return `${Math.floor(seconds / 60)}m ${String(Math.floor(seconds % 60)).padStart(2, "0")}s`;
  }
  const minutes = Math.ceil(Math.max(0, seconds) / 60);
  const parts = [[Math.floor(minutes / 1440), "d"], [Math.floor(minutes / 60) % 24, "h"], [minutes % 60, "m"]];
  return parts.filter(([number]) => number).map(([number, unit]) => number + unit).join(" ") || "0m";
}

/** No more of a date than is needed: the time alone today, no year in this one. */
function brief(when, now) {
  if (when.toDateString() === now.toDateString()) return { timeStyle: "short" };
  if (when.getFullYear() !== now.getFullYear()) return { dateStyle: "medium", timeStyle: "short" };
  return { day: "numeric", month: "short", hour: "numeric", minute: "2-digit" };
}

/** Where lines are compared with logs: the date in short, the time to the second. */
const EXACT = { dateStyle: "short", timeStyle: "medium" };

/** <time datetime="…"> in the reader's own zone and language; with data-exact to the second. */
export function localTimes(root = document) {
  for (const element of root.querySelectorAll("time[datetime]:not([data-local])")) {
    const when = new Date(element.dateTime);
    if (Number.isNaN(when.valueOf())) continue;
    element.textContent = when.toLocaleString(undefined, "exact" in element.dataset ? EXACT : brief(when, new Date()));
    element.title = when.toLocaleString(undefined, { dateStyle: "full", timeStyle: "long" });
    element.dataset.local = "";
  }
}

/** <… data-left="SECONDS"> counts down; the end is fixed when the element is first seen. */
export function countdowns(root = document) {
  for (const element of root.querySelectorAll("[data-left]")) {
    element.dataset.end ??= String(Date.now() + Number(element.dataset.left) * 1000);
    const text = spell((Number(element.dataset.end) - Date.now()) / 1000);
    if (element.textContent !== text) element.textContent = text;
  }
}

/** Fetch the page at `address` again and put its part with this one's id in place of what this one holds; a page one may not see is loaded. */
export async function renew(part, address) {
  const response = await fetch(address, { headers: { "X-XSRFToken": xsrf() }, cache: "no-store" });
  if (response.status === 401 || response.redirected) return location.reload();
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById(part.id);
  const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
  part.replaceChildren(...fresh.childNodes);
  localTimes(part);
  countdowns(part);
  if (focused) document.getElementById(focused)?.focus();
}

export function start() {
  localTimes();
  countdowns();
  setInterval(countdowns, 1000);
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function read(response, onData) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return false;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:") && onData(JSON.parse(line.slice(5))) === false) {
        await reader.cancel();
        return true;
      }
    }
  }
}

/**
 * Follow a stream until `onData` returns false, connecting again with a growing pause. `onTrouble(true | false)` is told when
 * the hub cannot be heard and when it can again. Resolves to the status of a refusal (4xx), or to 0.
 */
export async function follow(address, onData, onTrouble = () => {}) {
  let wait = 1000;
  for (;;) {
    try {
      const response = await fetch(address, { headers: { Accept: "text/event-stream", "X-XSRFToken": xsrf() }, cache: "no-store" });
      if (response.status >= 400 && response.status < 500 && response.status !== 429) return response.status;
      if (response.ok) {
        onTrouble(false);
        wait = 1000;
        if (await read(response, onData)) return 0;
      }
    } catch {
      // The hub is restarting or the network is away: the pause below, then again.
    }
    onTrouble(true);
    await pause(wait + Math.random() * 500);
    wait = Math.min(wait * 2, 30000);
  }
}
