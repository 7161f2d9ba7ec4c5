// Keeps the list of servers current. The server renders; this page only fetches its own list again when something changed.

import { follow, renew, start } from "./live.js";

const list = document.getElementById("servers");
const trouble = document.getElementById("trouble");
let shown = list.dataset.state;

start();
const status = await follow(
  list.dataset.events,
  ({ state }) => {
    if (state !== shown) {
      shown = state;
      renew(list, location.pathname);
    }
  },
  (lost) => { trouble.hidden = !lost; },
);
if (status === 403) location.reload();
