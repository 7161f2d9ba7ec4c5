// The waiting page: prints what the stream says, goes to the server when it is ready, shows the server's own failure page if not.

import { countdowns, follow, localTimes, start } from "./live.js";

const page = document.getElementById("pending");
const trouble = document.getElementById("trouble");
const at = (name) => page.querySelector(`[data-show="${name}"]`);
const phases = ["requested", "queued", "starting", "ready"];

function text(name, value) {
  const element = at(name);
  const row = element.closest("[data-row]");
  if (row) row.hidden = !value;
  if (element.textContent !== value) element.textContent = value;
}

function time(name, iso) {
  const element = at(name);
  element.closest("[data-row]").hidden = !iso;
  if (!iso || element.dateTime === iso) return;
  element.dateTime = iso;
  delete element.dataset.local;
  localTimes(page);
}

function steps(phase) {
  const now = phases.indexOf(phase);
  if (now < 0) return;
  page.querySelectorAll(".step").forEach((step, place) => {
    step.classList.toggle("step--done", place < now || phase === "ready");
    if (place === now) step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  });
}

function show(event) {
  text("title", event.title);
  text("sentence", event.sentence);
  text("detail", event.detail);
  text("job", event.job_id ?? "");
  time("since", event.since);
  time("estimated", event.estimated_start);
  time("silent", event.silent_since);
  steps(event.phase);
  document.title = `${event.title} · ${page.dataset.site}`;
  if (event.ready) {
    location.replace(event.url);
    return false;
  }
  if (event.failed) {
    location.reload();
    return false;
  }
  return true;
}

start();
countdowns(page);
const status = await follow(page.dataset.events, show, (lost) => { trouble.hidden = !lost; });
if (status !== 0) location.reload();
