// On every page but the list of servers, which says it at each server: whose time is nearly up.

import { countdowns, follow, localTimes } from "./live.js";

const place = document.getElementById("endings");

function line({ name, ends, time_left: left }) {
  const text = document.createElement("p");
  const when = document.createElement("time");
  when.dateTime = ends;
  when.textContent = ends;
  text.append(name ? `The time of server “${name}” is up at ` : "Your server’s time is up at ", when);
  if (left !== null) {
    const countdown = document.createElement("span");
    countdown.className = "num";
    countdown.dataset.left = left;
    text.append(", in ", countdown);
  }
  const link = document.createElement("a");
  link.href = place.dataset.home;
  link.textContent = "See your servers";
  text.append(". Save your work. ", link);
  return text;
}

function show({ servers }) {
  const ending = servers.filter(({ ends }) => ends);
  place.className = ending.length ? "banner" : "";
  place.replaceChildren(...ending.map(line));
  localTimes(place);
  countdowns(place);
}

setInterval(() => countdowns(place), 1000);
await follow(place.dataset.events, show);
