/** Plots as SVG. Colours are the page's (`.series-0` and so on), so that they follow its theme. */

export interface Scale {
  (value: number): number;
  ticks: number[];
}

/** A line across the whole plot with its name, such as a target. */
export interface Limit {
  at: number;
  text: string;
  kind: "target" | "alarm";
}

/** One value with its middle half and its far end. */
export interface Mark {
  series: number;
  median: number;
  low: number;
  high: number;
  far: number;
  title: string;
}

export interface Point {
  x: number;
  y: number;
  low: number;
  high: number;
  title: string;
}

export interface Line {
  name: string;
  points: Point[];
}

export interface Bar {
  name: string;
  value: number;
  roof: number;
  target: number | null;
  text: string;
  title: string;
}

const WIDTH = 1040;
const LEFT = 132;
const RIGHT = 24;
const TOP = 26;
const BOTTOM = 42;
const LANE = 13;
const ROW_GAP = 14;
const COLOURS = 8;

type Attributes = Record<string, string | number>;

function svg(tag: string, attributes: Attributes = {}, ...children: (Node | string)[]): SVGElement {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, `${value}`);
  node.append(...children);
  return node;
}

function text(x: number, y: number, words: string, attributes: Attributes = {}): SVGElement {
  return svg("text", { x, y, ...attributes }, words);
}

function rule(x1: number, y1: number, x2: number, y2: number, kind: string): SVGElement {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

function picture(height: number, label: string, children: Node[]): SVGElement {
  const attributes = { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label, class: "plot" };
  return svg("svg", attributes, ...children);
}

/** Colour, and beyond the first eight a dashed line as well. */
export function seriesClass(series: number): string {
  return `series-${series % COLOURS}${series >= COLOURS ? " again" : ""}`;
}

/** Decades that hold all values, and where a value lies between `from` and `to`. */
export function logarithmic(values: number[], from: number, to: number): Scale {
  const positive = values.filter((value) => value > 0);
  const low = Math.floor(Math.log10(Math.min(...positive)) + 1e-9);
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...positive)) - 1e-9));
  const least = 10 ** low;
  const scale = (value: number) => from + ((Math.log10(Math.max(value, least)) - low) / (high - low)) * (to - from);
  return Object.assign(scale, { ticks: Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index)) });
}

/** From 0 to a round number above all values. */
export function linear(values: number[], from: number, to: number): Scale {
  const most = Math.max(...values, 1e-12);
  const magnitude = 10 ** Math.floor(Math.log10(most));
  const step = [0.2, 0.5, 1, 2].map((part) => part * magnitude).find((size) => most / size <= 5.5) ?? magnitude * 2;
  const end = Math.ceil(most / step - 1e-9) * step;
  const scale = (value: number) => from + (value / end) * (to - from);
  const count = Math.round(end / step);
  return Object.assign(scale, { ticks: Array.from({ length: count + 1 }, (_, index) => index * step) });
}

/** Rows of marks over a logarithmic axis. Of each mark: a dot, a bar over its middle half, a thin line to its far end. */
export function dotPlot(rows: { name: string; marks: Mark[] }[], limits: Limit[], unit: Unit, label: string): SVGElement {
  const all = rows.flatMap((row) => row.marks.flatMap((mark) => [mark.median, mark.low, mark.far]));
  const x = logarithmic([...all, ...limits.map((limit) => limit.at)], LEFT, WIDTH - RIGHT);
  const heights = rows.map((row) => row.marks.length * LANE + ROW_GAP);
  const bottom = TOP + heights.reduce((sum, height) => sum + height, 0);
  const nodes: Node[] = x.ticks.flatMap((tick) => [
    rule(x(tick), TOP, x(tick), bottom, "grid"),
    text(x(tick), bottom + 18, unit(tick), { class: "tick", "text-anchor": "middle" }),
  ]);
  nodes.push(...limits.flatMap((limit, index) => verticalLimit(limit, x(limit.at), bottom, index)));
  let top = TOP;
  rows.forEach((row, index) => {
    const height = heights[index]!;
    nodes.push(text(LEFT - 12, top + height / 2 + 4, row.name, { class: "row", "text-anchor": "end" }));
    if (index > 0) nodes.push(rule(8, top, WIDTH - RIGHT, top, "divider"));
    row.marks.forEach((mark, lane) => nodes.push(drawMark(mark, x, top + ROW_GAP / 2 + (lane + 0.5) * LANE)));
    top += height;
  });
  return picture(bottom + BOTTOM - 14, label, nodes);
}

function verticalLimit(limit: Limit, x: number, bottom: number, index: number): Node[] {
  const anchor = index === 0 ? "end" : "start";
  return [
    rule(x, TOP - 6, x, bottom, `limit ${limit.kind}`),
    text(x + (index === 0 ? -5 : 5), TOP - 10, limit.text, { class: `limit-text ${limit.kind}`, "text-anchor": anchor }),
  ];
}

function drawMark(mark: Mark, x: Scale, y: number): SVGElement {
  return svg(
    "g",
    { class: `mark ${seriesClass(mark.series)}` },
    svg("title", {}, mark.title),
    rule(x(mark.high), y, x(mark.far), y, "far"),
    rule(x(mark.low), y, x(mark.high), y, "middle"),
    svg("circle", { cx: x(mark.median), cy: y, r: 4 }),
  );
}

export type Unit = (value: number) => string;

export interface Axis {
  scale: "linear" | "logarithmic";
  unit: Unit;
  name: string;
}

/** Lines over places 0, 1, 2 ... that are named below. `thinned`: names stand only where there is room. */
export function linePlot(lines: Line[], places: string[], xName: string, y: Axis, limits: Limit[], label: string): SVGElement {
  const height = 340;
  const bottom = height - BOTTOM - 12;
  const values = lines.flatMap((line) => line.points.flatMap((point) => [point.y, point.low, point.high]));
  const make = y.scale === "linear" ? linear : logarithmic;
  const scale = make([...values, ...limits.map((limit) => limit.at)], bottom, TOP);
  const first = 92;
  const step = places.length > 1 ? (WIDTH - RIGHT - 40 - first - 40) / (places.length - 1) : 0;
  const at = (place: number) => (places.length > 1 ? first + 40 + place * step : (first + WIDTH - RIGHT) / 2);
  const nodes: Node[] = scale.ticks.flatMap((tick) => [
    rule(first, scale(tick), WIDTH - RIGHT, scale(tick), "grid"),
    text(first - 10, scale(tick) + 4, y.unit(tick), { class: "tick", "text-anchor": "end" }),
  ]);
  nodes.push(text(first - 10, 14, y.name, { class: "axis", "text-anchor": "end" }));
  nodes.push(text(WIDTH - RIGHT, height - 6, xName, { class: "axis", "text-anchor": "end" }));
  const every = Math.ceil(places.length / 9);
  places.forEach((place, index) => {
    if ((places.length - 1 - index) % every === 0)
      nodes.push(text(at(index), bottom + 20, place, { class: "tick", "text-anchor": "middle" }));
  });
  for (const limit of limits) {
    nodes.push(rule(first, scale(limit.at), WIDTH - RIGHT, scale(limit.at), `limit ${limit.kind}`));
    const attributes = { class: `limit-text ${limit.kind}`, "text-anchor": "end" };
    nodes.push(text(WIDTH - RIGHT, scale(limit.at) + (limit.kind === "alarm" ? -5 : 13), limit.text, attributes));
  }
  lines.forEach((line, index) => nodes.push(drawLine(line, index, at, scale)));
  return picture(height, label, nodes);
}

function drawLine(line: Line, series: number, at: (place: number) => number, scale: Scale): SVGElement {
  const path = line.points.map((point) => `${at(point.x).toFixed(1)},${scale(point.y).toFixed(1)}`).join(" ");
  return svg(
    "g",
    { class: `line ${seriesClass(series)}` },
    svg("polyline", { points: path, class: "path" }),
    ...line.points.map((point) =>
      svg(
        "g",
        {},
        svg("title", {}, `${line.name}: ${point.title}`),
        rule(at(point.x), scale(point.low), at(point.x), scale(point.high), "middle"),
        svg("circle", { cx: at(point.x), cy: scale(point.y), r: 4 }),
      ),
    ),
  );
}

/** Bars beside the roof that each could reach, and what was promised of it. */
export function barPlot(bars: Bar[], unit: Unit, axis: string, label: string): SVGElement {
  const left = 290;
  const x = linear(bars.flatMap((bar) => [bar.value, bar.roof]), left, WIDTH - RIGHT - 130);
  const bottom = TOP + bars.length * 30;
  const nodes: Node[] = x.ticks.flatMap((tick) => [
    rule(x(tick), TOP - 6, x(tick), bottom, "grid"),
    text(x(tick), bottom + 18, unit(tick), { class: "tick", "text-anchor": "middle" }),
  ]);
  nodes.push(text(WIDTH - RIGHT, bottom + 18, axis, { class: "axis", "text-anchor": "end" }));
  bars.forEach((bar, index) => {
    const y = TOP + index * 30;
    const below = bar.target !== null && bar.value < bar.target;
    nodes.push(
      text(left - 12, y + 15, bar.name, { class: "row", "text-anchor": "end" }),
      svg(
        "g",
        { class: below ? "bar short" : "bar" },
        svg("title", {}, bar.title),
        svg("rect", { x: left, y: y + 3, width: Math.max(1, x(bar.value) - left), height: 16, rx: 2 }),
        rule(x(bar.roof), y - 1, x(bar.roof), y + 23, "roof"),
        ...(bar.target === null ? [] : [rule(x(bar.target), y + 1, x(bar.target), y + 21, "promised")]),
      ),
      text(Math.max(x(bar.value), x(bar.roof)) + 8, y + 15, bar.text, { class: "tick" }),
    );
  });
  return picture(bottom + 30, label, nodes);
}
