// The timeline of arrivals and removals, and the charts of the last hour.
import { byId, make, svg } from "./dom.js";
import * as link from "./link.js";

const MOST = 200;
const WIDTH = 360;
const HEIGHT = 70;
let entries = [];

export function clear() {
  entries = [];
}

export function add(more) {
  entries.push(...more);
  entries = entries.slice(-MOST);
}

export function drawTimeline() {
  byId("timeline").replaceChildren(
    ...entries
      .slice()
      .reverse()
      .map(({ time, what, id, name }) =>
        make(
          "li",
          {},
          make("time", {}, new Date(time * 1000).toLocaleTimeString([], { hour12: false })),
          make("span", { class: what }, what),
          make("a", { href: link.address({ instance: id }) }, name),
        ),
      ),
  );
}

function chart(title, highest, ...marks) {
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title },
    svg("text", { x: 0, y: 9 }, title),
    svg("text", { x: WIDTH, y: 9, "text-anchor": "end" }, `most ${highest}`),
    ...marks,
  );
}

export function drawCharts(minutes) {
  const counts = minutes.map((minute) => minute.instances);
  const most = Math.max(1, ...counts);
  const step = WIDTH / 60;
  const begin = WIDTH - minutes.length * step;
  const x = (at) => begin + at * step;
  const y = (value, top) => HEIGHT - ((HEIGHT - 14) * value) / top;
  const points = counts.flatMap((count, at) => [`${x(at)},${y(count, most)}`, `${x(at + 1)},${y(count, most)}`]);
  const gone = minutes.map((minute) => minute.left + minute.lost);
  const churn = Math.max(1, ...minutes.map((minute) => minute.arrived), ...gone);
  const bars = minutes.flatMap((minute, at) => {
    const up = svg("rect", { class: "up", x: x(at), y: y(minute.arrived, churn), width: step / 2 - 0.5 });
    up.setAttribute("height", HEIGHT - y(minute.arrived, churn));
    const down = svg("rect", { class: "down", x: x(at) + step / 2, y: y(gone[at], churn), width: step / 2 - 0.5 });
    down.setAttribute("height", HEIGHT - y(gone[at], churn));
    return [up, down];
  });
  byId("charts").replaceChildren(
    chart("instances", most, svg("polyline", { class: "line", points: points.join(" ") })),
    chart("arrivals and removals a minute", churn, ...bars),
  );
}
