// The list: only the rows in sight exist as elements, so 10,000 cost no more than 50.
import { byId, make, oncePerFrame } from "./dom.js";
import * as link from "./link.js";
import { matching } from "./store.js";

const HEIGHT = 26;
const MARGIN = 10;
const KINDS = { model: "model card", event_channel: "channel", event_source: "source" };
let shown = [];

function draw() {
  const scroll = byId("scroll");
  const space = byId("space");
  space.style.height = `${shown.length * HEIGHT}px`;
  const first = Math.max(0, Math.floor(scroll.scrollTop / HEIGHT) - MARGIN);
  const last = Math.min(shown.length, Math.ceil((scroll.scrollTop + scroll.clientHeight) / HEIGHT) + MARGIN);
  const elements = [];
  for (let at = first; at < last; at += 1) {
    const row = shown[at];
    const element = make(
      "div",
      {
        class: "row",
        role: "option",
        id: `row-${at}`,
        "aria-selected": String(row.id === link.chosen),
        "aria-setsize": shown.length,
        "aria-posinset": at + 1,
        onclick: () => link.go({ instance: row.id }),
      },
      make("span", {}, row.place.join(" / ")),
      make("span", { class: "hex" }, row.hex),
      make("span", { class: row.status }, row.status || KINDS[row.kind] || row.kind),
      make("span", {}, row.detail),
    );
    element.style.top = `${at * HEIGHT}px`;
    elements.push(element);
  }
  space.replaceChildren(...elements);
  byId("nothing").hidden = shown.length > 0;
  const at = shown.findIndex((row) => row.id === link.chosen);
  if (at >= 0) scroll.setAttribute("aria-activedescendant", `row-${at}`);
  else scroll.removeAttribute("aria-activedescendant");
}

const drawSoon = oncePerFrame(draw);

export function update() {
  shown = matching();
  drawSoon();
  return shown.length;
}

function move(step) {
  if (!shown.length) return;
  const at = shown.findIndex((row) => row.id === link.chosen);
  const from = at < 0 && step < 0 ? 1 : at; // -1 when nothing is chosen: the first step down goes to the first row
  const next = Math.min(shown.length - 1, Math.max(0, from + step));
  link.go({ instance: shown[next].id });
  const scroll = byId("scroll");
  const top = next * HEIGHT;
  if (top < scroll.scrollTop) scroll.scrollTop = top;
  if (top + HEIGHT > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + HEIGHT - scroll.clientHeight;
}

export function begin() {
  const scroll = byId("scroll");
  scroll.addEventListener("scroll", drawSoon);
  addEventListener("resize", drawSoon);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -1e9, End: 1e9 };
  scroll.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    move(steps[event.key]);
  });
}
