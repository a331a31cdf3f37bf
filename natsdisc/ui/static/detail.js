// One instance: what is registered, and what an operator may do with it.
import { byId, make } from "./dom.js";
import * as link from "./link.js";

const TITLES = {
  endpoint: "Endpoint instance",
  model: "Model card",
  event_channel: "Event channel",
  event_source: "Event source",
};
let allowed = [];
let asked = 0;

export async function begin() {
  allowed = (await (await fetch("api/settings")).json()).allow;
}

function addressOf(id, action = "instances") {
  const [kind, key] = [id.slice(0, id.indexOf(":")), id.slice(id.indexOf(":") + 1)];
  return `api/${action}/${kind}/${key.split("/").map(encodeURIComponent).join("/")}`;
}

async function act(action, id, told) {
  if (action === "prune" && !confirm("Remove this entry from the registry?")) return;
  told.textContent = `${action}…`;
  const answer = await fetch(addressOf(id, action), { method: "POST", headers: { "X-Natsdisc": "1" } });
  told.textContent = answer.ok ? `${action}: done` : (await answer.json()).error;
}

function terms(pairs) {
  return make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

export async function draw() {
  const section = byId("detail");
  const id = link.chosen;
  section.hidden = !id;
  if (!id) return;
  const turn = ++asked;
  let found;
  try {
    const answer = await fetch(addressOf(id));
    found = answer.ok ? await answer.json() : null;
  } catch {
    return; // the alarm says that the server is away
  }
  if (turn !== asked) return;
  const close = make("button", { type: "button", onclick: () => link.go({ instance: null }) }, "Close");
  if (!found) {
    section.replaceChildren(make("h2", {}, "Instance"), make("p", {}, "It is not registered any more."), close);
    return;
  }
  const told = make("p", { role: "status" });
  const buttons = found.kind === "endpoint" ? allowed : allowed.filter((action) => action === "prune");
  section.replaceChildren(
    make("h2", {}, TITLES[found.kind] || found.kind),
    terms([
      ["place", found.place.join(" / ")],
      ["id", found.hex],
      ...(found.status ? [["status", make("span", { class: found.status }, found.status)]] : []),
      [found.kind === "model" ? "suffix" : "address", found.detail],
      ...found.facts,
    ]),
    make(
      "div",
      { class: "actions" },
      ...buttons.map((action) => make("button", { type: "button", onclick: () => act(action, id, told) }, action)),
      close,
    ),
    told,
    make("pre", { tabindex: "0", "aria-label": "The stored value" }, found.value),
  );
}

// Draw again when the chosen instance changed.
export function changed({ put, gone }) {
  const id = link.chosen;
  if (id && (gone.includes(id) || put.some((row) => row.id === id))) draw();
}
