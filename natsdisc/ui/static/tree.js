// Namespaces, components and endpoints with their counts.
import { byId, make } from "./dom.js";
import * as link from "./link.js";
import { filters, places } from "./store.js";

// More branches than this are not drawn; the search finds what is in them.
const MOST = 500;

function branch(node, path) {
  const items = [];
  for (const [name, below] of [...node.below].slice(0, MOST)) {
    const place = [...path, name];
    const open = place.every((part, at) => filters.place[at] === part);
    const counts = make("span", { class: "count" });
    if (below.trouble) {
      const words = `${below.trouble} not serving`;
      counts.append(make("span", { class: "trouble", title: words, "aria-label": words }, `${below.trouble} ! `));
    }
    counts.append(String(below.count));
    const isChosen = open && filters.place.length === place.length;
    const item = make(
      "li",
      {},
      make(
        "a",
        { href: link.address({ place, instance: null }), "aria-current": isChosen ? "true" : null },
        make("span", {}, name),
        counts,
      ),
    );
    if (open && below.below.size) item.append(branch(below, place));
    items.push(item);
  }
  if (node.below.size > MOST) items.push(make("li", {}, `and ${node.below.size - MOST} more`));
  return make("ul", {}, ...items);
}

export function draw() {
  const root = places();
  const all = make(
    "a",
    { href: link.address({ place: [], instance: null }), "aria-current": filters.place.length ? null : "true" },
    make("span", {}, "everything"),
    make("span", { class: "count" }, String(root.count)),
  );
  const focused = document.activeElement?.getAttribute?.("href");
  byId("tree").replaceChildren(all, branch(root, []));
  if (focused) {
    // Drawing again must not take the keyboard away from whoever uses it here.
    for (const one of byId("tree").querySelectorAll("a")) if (one.getAttribute("href") === focused) one.focus();
  }
}
