// The rows, as the server tells of them, and those that the filters leave.

export const rows = new Map();
export const filters = { place: [], search: "", status: "", kind: "" };
let sorted = null;

export function clear() {
  rows.clear();
  sorted = null;
}

export function apply({ put, gone }) {
  for (const row of put) {
    row.order = [...row.place, row.kind, row.hex.padStart(16, "0")].join("\u0000");
    row.text = [...row.place, row.hex, row.detail].join(" ").toLowerCase();
    rows.set(row.id, row);
  }
  for (const id of gone) rows.delete(id);
  sorted = null;
}

function inOrder() {
  sorted ??= [...rows.values()].sort((a, b) => (a.order < b.order ? -1 : a.order > b.order ? 1 : 0));
  return sorted;
}

export function matching() {
  const words = filters.search.toLowerCase().split(/\s+/).filter(Boolean);
  return inOrder().filter(
    (row) =>
      filters.place.every((name, at) => row.place[at] === name) &&
      (!filters.status || row.status === filters.status) &&
      (!filters.kind || row.kind === filters.kind) &&
      words.every((word) => row.text.includes(word)),
  );
}

// Namespaces, components and endpoints, each with its counts.
export function places() {
  const root = { below: new Map(), count: 0, trouble: 0 };
  for (const row of inOrder()) {
    let at = root;
    const trouble = row.status && row.status !== "serving" ? 1 : 0;
    at.count += 1;
    at.trouble += trouble;
    for (const name of row.place) {
      if (!at.below.has(name)) at.below.set(name, { below: new Map(), count: 0, trouble: 0 });
      at = at.below.get(name);
      at.count += 1;
      at.trouble += trouble;
    }
  }
  return root;
}
