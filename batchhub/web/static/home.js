// Keeps the list of servers current. The server renders; this page only fetches its own list again when something changed.

import { countdowns, follow, localTimes, start, xsrf } from "./live.js";

const list = document.getElementById("servers");
const trouble = document.getElementById("trouble");
let shown = list.dataset.state;

async function refresh() {
  const response = await fetch(location.pathname, { headers: { "X-XSRFToken": xsrf() }, cache: "no-store" });
  if (response.status === 401 || response.redirected) return location.reload();
  if (!response.ok) return;
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("servers");
  const focused = list.contains(document.activeElement) ? document.activeElement.id : "";
  list.replaceChildren(...fresh.childNodes);
  list.dataset.state = fresh.dataset.state;
  localTimes(list);
  countdowns(list);
  if (focused) document.getElementById(focused)?.focus();
}

start();
const status = await follow(
  list.dataset.events,
  ({ state }) => {
    if (state !== shown) {
      shown = state;
      refresh();
    }
  },
  (lost) => { trouble.hidden = !lost; },
);
if (status === 403) location.reload();
