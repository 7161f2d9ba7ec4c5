// A server's history: local times, and, while it lives and is one's own, the page's content again whenever a server took a step.

import { follow, renew, start } from "./live.js";

const content = document.getElementById("history");
const trouble = document.getElementById("trouble");
let shown = "";

start();
if (content.dataset.events) {
  const status = await follow(
    content.dataset.events,
    ({ state }) => {
      if (shown && state !== shown) renew(content, location.pathname + location.search);
      shown = state;
    },
    (lost) => { trouble.hidden = !lost; },
  );
  if (status === 403) location.reload();
}
