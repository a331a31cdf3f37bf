// The page: it hears of every row from the server, and draws what the address asks for.
import * as detail from "./detail.js";
import { byId, oncePerFrame } from "./dom.js";
import * as history from "./history.js";
import * as link from "./link.js";
import * as list from "./list.js";
import { apply, clear, filters, rows } from "./store.js";
import * as tree from "./tree.js";

// Without a message for so long (ms) the connection is dead; the server sends its state every 2 s.
const SILENCE = 7000;
let heard = Date.now();
let state = null;
let source = null;

function alarms() {
  const found = [];
  if (source === null || source.readyState !== EventSource.OPEN || Date.now() - heard > SILENCE) {
    found.push("No connection to natsdisc ui: this page shows the last state it heard of.");
  } else if (state?.stale) {
    const age = state.age > 1e8 ? "never confirmed" : `${Math.round(state.age)} s old`;
    found.push(`The registry does not answer: this is ${age}.`);
  } else if (state && !state.synced) found.push("The first picture is not complete yet.");
  for (const notice of state?.notices || []) {
    if (["wrong_copy", "swept", "watches_wait", "consumer_limit", "view_ended"].includes(notice.event)) {
      found.push(notice.text);
    }
  }
  return [...new Set(found)];
}

function drawState() {
  const found = alarms();
  const text = found.join("\n");
  const alarm = byId("alarm");
  alarm.hidden = found.length === 0;
  if (alarm.textContent !== text) alarm.textContent = text;
}

const draw = oncePerFrame(() => {
  const count = list.update();
  const filtered = count === rows.size ? "" : `, ${count} shown`;
  byId("summary").textContent = `${rows.size} registered${filtered}`;
  tree.draw();
});
const drawTimeline = oncePerFrame(history.drawTimeline);

function readLink() {
  link.read();
  for (const name of ["search", "status", "kind"]) if (byId(name).value !== filters[name]) byId(name).value = filters[name];
  draw();
  detail.draw();
}

function listen() {
  source = new EventSource("api/stream");
  const on = (event, take) =>
    source.addEventListener(event, (message) => {
      heard = Date.now();
      take(JSON.parse(message.data));
    });
  on("begin", (data) => {
    state = data;
    clear();
    history.clear();
    drawState();
  });
  on("rows", (data) => {
    apply(data);
    draw();
    detail.changed(data);
  });
  on("ready", (data) => {
    state = data;
    draw();
    drawState();
    history.drawCharts(data.minutes);
    document.body.dataset.ready = "true";
  });
  on("state", (data) => {
    state = data;
    drawState();
    history.drawCharts(data.minutes);
  });
  on("journal", (data) => {
    history.add(data);
    drawTimeline();
  });
}

function beginFilters() {
  for (const name of ["search", "status", "kind"]) {
    byId(name).addEventListener("input", () => {
      filters[name] = byId(name).value;
      link.replace();
      draw();
    });
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== byId("search")) {
      event.preventDefault();
      byId("search").focus();
    } else if (event.key === "Escape" && link.chosen) link.go({ instance: null });
  });
}

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
beginFilters();
list.begin();
detail.begin().then(detail.draw);
addEventListener("hashchange", readLink);
readLink();
listen();
setInterval(() => {
  drawState();
  // A link that is half open never fails by itself.
  if (Date.now() - heard > 2 * SILENCE) {
    heard = Date.now();
    source.close();
    listen();
  }
  // EventSource gives up on some answers, such as a proxy's 502.
  if (source.readyState === EventSource.CLOSED) listen();
}, 1000);
