// What is shown, in the address of the page: a place and filters, or an instance.
import { filters } from "./store.js";

export let chosen = null;

export function read() {
  const [path, query] = location.hash.slice(1).split("?");
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const given = new URLSearchParams(query || "");
  filters.place = parts[0] === "place" ? parts.slice(1) : [];
  filters.search = given.get("search") || "";
  filters.status = given.get("status") || "";
  filters.kind = given.get("kind") || "";
  chosen = given.get("instance");
}

export function address({ place = filters.place, instance = chosen } = {}) {
  const query = new URLSearchParams();
  for (const name of ["search", "status", "kind"]) if (filters[name]) query.set(name, filters[name]);
  if (instance) query.set("instance", instance);
  const path = place.length ? `/place/${place.map(encodeURIComponent).join("/")}` : "/";
  return `#${path}${String(query) && `?${query}`}`;
}

export function go(change) {
  // At once, and not with the event that follows: a second key may be pressed before it.
  if ("instance" in change) chosen = change.instance;
  location.hash = address(change);
}

// While somebody types: no new step of the history for each letter.
export function replace(change) {
  history.replaceState(null, "", address(change));
}
