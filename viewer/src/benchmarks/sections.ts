/** What the page shows of the results of one machine: each section makes a plot, its legend and the same in a table. */

import { element } from "../shell/dom";
import { barPlot, dotPlot, linePlot, seriesClass, type Limit, type Line, type Point, type Unit } from "./plot";
import { USUAL, bandwidthsOf, figuresOf, latest, type Figure, type Result } from "./results";

export interface Drawn {
  /** What can be chosen, first the default; sections with one thing to show have none. */
  choices: string[];
  draw(choice: string): Node[];
}

/** In the order in which they are drawn. */
const SYNTAXES = ["uncompressed", "RLE", "JPEG lossless", "JPEG-LS", "HTJ2K", "JPEG 2000"];
const LIMITS: Limit[] = [
  { at: 2000, text: "target 2 s", kind: "target" },
  { at: 5000, text: "alarm 5 s", kind: "alarm" },
];
const MOST_LINES = 16;

const milliseconds: Unit = (value) => (value >= 1000 ? `${number(value / 1000)} s` : `${number(value)} ms`);

/** Three digits, without an exponent. */
export function number(value: number): string {
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return Number(value.toFixed(Math.min(digits, 6))).toLocaleString("en", { maximumFractionDigits: 6 });
}

function about(result: Result): string {
  const { run } = result;
  return `${run.date.slice(0, 10)}, ${shortRevision(run.revision, run.version)}, ${run.backend}`;
}

function shortRevision(revision: string, version: string): string {
  return revision === "unknown" ? `version ${version}` : revision.slice(0, 7) + (revision.endsWith("+") ? "+" : "");
}

function nothing(text: string, command: string): Node[] {
  return [element("p", { class: "nothing" }, `${text} `, element("code", {}, command), " measures it.")];
}

function legend(names: string[]): Node {
  const items = names.map((name, index) => element("li", { class: seriesClass(index) }, name));
  return element("ul", { class: "legend" }, ...items);
}

function table(caption: string, heads: string[], rows: string[][]): Node {
  const head = element("tr", {}, ...heads.map((text) => cell("th", text, "col")));
  const body = rows.map((row) =>
    element("tr", {}, ...row.map((text, index) => (index === 0 ? cell("th", text, "row") : cell("td", text)))),
  );
  return element(
    "details",
    { class: "figures" },
    element("summary", {}, "The same as a table"),
    element(
      "div",
      { class: "scroll" },
      element("table", {}, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...body)),
    ),
  );
}

function cell(tag: "th" | "td", text: string, scope?: "col" | "row"): HTMLElement {
  const node = element(tag, {}, text);
  if (scope !== undefined) node.setAttribute("scope", scope);
  return node;
}

function bySyntax(one: string, other: string): number {
  const [first, second] = [SYNTAXES.indexOf(one), SYNTAXES.indexOf(other)];
  return (first < 0 ? 99 : first) - (second < 0 ? 99 : second) || one.localeCompare(other);
}

function unique<T>(values: T[]): T[] {
  return [...new Set(values)];
}

// --- latency -----------------------------------------------------------------------------------------------

function isLatency(figure: Figure): boolean {
  return figure.unit === "ms" && figure.clients === null && (SYNTAXES.includes(figure.group) || figure.size !== USUAL);
}

/** One slice, by transfer syntax, against 2 s and 5 s. */
export function latency(results: Result[]): Drawn {
  const views = new Map<string, { result: Result; figures: Figure[] }>();
  for (const result of latest(results).values()) {
    const figures = figuresOf(result.run);
    for (const size of unique(figures.filter(isLatency).map((figure) => figure.size))) {
      const shown = figures.filter((figure) => figure.size === size && isLatency(figure));
      const ruler = size === USUAL ? figures.filter((one) => one.group === "ruler" && one.clients === null) : [];
      views.set(`${result.run.benchmark}, ${size}`, { result, figures: [...shown, ...ruler] });
    }
  }
  const choices = [...views.keys()].sort((a, b) => Number(b.startsWith("slice")) - Number(a.startsWith("slice")));
  return { choices, draw: (choice) => drawLatency(views.get(choice)) };
}

function drawLatency(view: { result: Result; figures: Figure[] } | undefined): Node[] {
  if (view === undefined) return nothing("No result of this machine has slices.", "gpu-render bench slice");
  const { result, figures } = view;
  const groups = unique(figures.map((figure) => figure.group)).sort(bySyntax);
  const names = unique(figures.map((figure) => figure.name));
  const rows = groups.map((group) => ({
    name: group,
    marks: figures
      .filter((figure) => figure.group === group)
      .sort((a, b) => names.indexOf(a.name) - names.indexOf(b.name))
      .map((figure) => ({
        series: names.indexOf(figure.name),
        median: figure.spread.median,
        low: figure.spread.q1,
        high: figure.spread.q3,
        far: figure.spread.p99,
        title: `${group}, ${figure.name}: ${milliseconds(figure.spread.median)}, p99 ${milliseconds(figure.spread.p99)}`,
      })),
  }));
  const label = `Time of one slice for ${groups.length} ways to store it, on a logarithmic axis with lines at 2 s and 5 s`;
  const heads = ["stored as", "request", "median", "middle half", "p99", "answers"];
  const cells = figures.map((figure) => [
    figure.group,
    figure.name,
    milliseconds(figure.spread.median),
    `${milliseconds(figure.spread.q1)} to ${milliseconds(figure.spread.q3)}`,
    milliseconds(figure.spread.p99),
    `${figure.spread.n}`,
  ]);
  return [
    caption(`Median, the middle half as a bar, and a line to the 99th percentile. ${about(result)}.`),
    legend(names),
    dotPlot(rows, LIMITS, milliseconds, label),
    table(`One slice: ${about(result)}`, heads, cells),
  ];
}

function caption(text: string): Node {
  return element("p", { class: "caption" }, text);
}

// --- throughput --------------------------------------------------------------------------------------------

interface Load {
  line: string;
  figure: Figure;
  /** How long answers took; of the figure itself, or of the one that was measured with it. */
  times: Figure | null;
}

/** Answers a second by the number of clients. Where these are too many lines for one plot, one for each group. */
export function throughput(results: Result[]): Drawn {
  const views = new Map<string, { result: Result; loads: Load[] }>();
  for (const result of latest(results).values()) {
    const loads = loadsOf(figuresOf(result.run));
    const groups = unique(loads.map((load) => load.line)).length > MOST_LINES ? groupsOf(loads) : [null];
    for (const group of groups) {
      const shown = loads.filter((load) => group === null || load.figure.group === group);
      if (shown.length > 0) views.set(`${result.run.benchmark}${group === null ? "" : `, ${group}`}`, { result, loads: shown });
    }
  }
  const choices = [...views.keys()].sort((a, b) => Number(b === "concurrency") - Number(a === "concurrency"));
  return { choices, draw: (choice) => drawThroughput(views.get(choice)) };
}

function groupsOf(loads: Load[]): string[] {
  return unique(loads.map((load) => load.figure.group)).sort(bySyntax);
}

function loadsOf(figures: Figure[]): Load[] {
  return figures
    .filter((figure) => figure.throughput !== null && figure.clients !== null)
    .map((figure) => {
      const name = figure.name.replace(/: throughput$/, "");
      const timed = figures.find(
        (other) =>
          other.name === `${name}: latency` && other.group === figure.group && other.clients === figure.clients,
      );
      const line = figure.group === "" || name.includes(figure.group) ? name : `${figure.group}: ${name}`;
      return { line, figure, times: figure.unit === "ms" ? figure : (timed ?? null) };
    });
}

function drawThroughput(view: { result: Result; loads: Load[] } | undefined): Node[] {
  if (view === undefined)
    return nothing("No result of this machine has many clients at once.", "gpu-render bench concurrency");
  const { result, loads } = view;
  const clients = unique(loads.map((load) => load.figure.clients ?? 0)).sort((a, b) => a - b);
  const lines = unique(loads.map((load) => load.line)).slice(0, MOST_LINES).map((name) => ({
    name,
    points: loads
      .filter((load) => load.line === name)
      .sort((a, b) => (a.figure.clients ?? 0) - (b.figure.clients ?? 0))
      .map(({ figure }) => throughputPoint(figure, clients)),
  }));
  const heads = ["request", "clients", "a second", "median", "p95", "p99", "errors"];
  const cells = loads.map(({ line, figure, times }) => [
    line,
    `${figure.clients}`,
    number(figure.throughput ?? 0),
    ...(times === null ? ["", "", ""] : [times.spread.median, times.spread.p95, times.spread.p99].map(milliseconds)),
    `${figure.errors}`,
  ]);
  const axis = { scale: "linear", unit: number, name: "a second" } as const;
  return [
    caption(`Answers a second of all clients together. ${about(result)}.`),
    legend(lines.map((line) => line.name)),
    linePlot(lines, clients.map(String), "clients at once", axis, [], "Answers a second by the number of clients"),
    table(`Many clients: ${about(result)}`, heads, cells),
  ];
}

function throughputPoint(figure: Figure, clients: number[]): Point {
  const value = figure.throughput ?? 0;
  const spread = figure.unit === "requests/s" ? figure.spread : null;
  const failed = figure.errors > 0 ? `, ${figure.errors} errors` : "";
  return {
    x: clients.indexOf(figure.clients ?? 0),
    y: value,
    low: spread?.q1 ?? value,
    high: spread?.q3 ?? value,
    title: `${figure.clients} clients, ${number(value)}/s${failed}`,
  };
}

// --- roofline ----------------------------------------------------------------------------------------------

/** Kernels beside a copy on the same device. */
export function roofline(results: Result[]): Drawn {
  const views = new Map<string, Result>();
  for (const result of latest(results).values()) {
    if (bandwidthsOf(result.run).length > 0) views.set(result.run.benchmark, result);
  }
  return { choices: [...views.keys()], draw: (choice) => drawRoofline(views.get(choice)) };
}

function drawRoofline(result: Result | undefined): Node[] {
  if (result === undefined) return nothing("No result of this machine has kernels.", "gpu-render bench bandwidth");
  const bars = bandwidthsOf(result.run).map((one) => {
    const percent = `${number((100 * one.reached) / one.roof)} % of a copy`;
    return {
      name: one.name,
      value: one.reached,
      roof: one.roof,
      target: one.targetPercent === null ? null : (one.targetPercent / 100) * one.roof,
      text: percent,
      title: `${one.name}: ${number(one.reached)} GB/s, ${percent} (${number(one.roof)} GB/s)`,
    };
  });
  const heads = ["kernel", "GB/s", "a copy, GB/s", "of the copy", "promised"];
  const cells = bandwidthsOf(result.run).map((one) => [
    one.name,
    number(one.reached),
    number(one.roof),
    `${number((100 * one.reached) / one.roof)} %`,
    one.targetPercent === null ? "" : `${number(one.targetPercent)} %`,
  ]);
  return [
    caption(`Bars: bytes that each kernel moves. Upright line: a copy of as many bytes, the roof; dotted: what was promised. ${about(result)}.`),
    barPlot(bars, number, "GB/s", "Bandwidth of each kernel beside that of a copy"),
    table(`Roofline: ${about(result)}`, heads, cells),
  ];
}

// --- history -----------------------------------------------------------------------------------------------

/** One kind of figure over the revisions that were measured. */
export function history(results: Result[]): Drawn {
  const found = new Map<string, { result: Result; figure: Figure }[]>();
  const ordered = [...results].sort((a, b) => a.run.date.localeCompare(b.run.date));
  for (const result of ordered) {
    for (const figure of figuresOf(result.run)) {
      const clients = figure.clients === null ? "" : `, ${figure.clients} clients`;
      const size = figure.size === USUAL ? "" : `, ${figure.size}`;
      const key = `${figure.benchmark}: ${figure.name}${size}${clients}`;
      found.set(key, [...(found.get(key) ?? []), { result, figure }]);
    }
  }
  const choices = [...found.keys()].sort((a, b) => interest(found.get(b)) - interest(found.get(a)));
  return { choices, draw: (choice) => drawHistory(choice, found.get(choice)) };
}

/** Figures of several runs before others, and among them those of most transfer syntaxes. */
function interest(found: { result: Result; figure: Figure }[] = []): number {
  const runs = unique(found.map((one) => one.result.name)).length;
  return (runs > 1 ? 100 : 0) + SYNTAXES.filter((name) => found.some((one) => one.figure.group === name)).length;
}

function drawHistory(name: string, found: { result: Result; figure: Figure }[] | undefined): Node[] {
  if (found === undefined) return nothing("No result of this machine has figures that can be compared.", "gpu-render bench");
  const runs = unique(found.map((one) => one.result));
  const groups = unique(found.map((one) => one.figure.group)).sort(bySyntax);
  const unitName = found[0]!.figure.unit;
  const unit: Unit = unitName === "ms" ? milliseconds : number;
  const lines: Line[] = groups.slice(0, MOST_LINES).map((group) => ({
    name: group,
    points: found
      .filter((one) => one.figure.group === group)
      .map(({ result, figure }) => ({
        x: runs.indexOf(result),
        y: figure.spread.median,
        low: figure.spread.q1,
        high: figure.spread.q3,
        title: `${about(result)}: ${unit(figure.spread.median)}`,
      })),
  }));
  const places = runs.map((result) => `${result.run.date.slice(5, 10)} ${shortRevision(result.run.revision, result.run.version)}`);
  const axis = { scale: "logarithmic", unit, name: unitName === "ms" ? "" : unitName } as const;
  const limits = unitName === "ms" ? LIMITS : [];
  const heads = ["", ...places];
  const cells = lines.map((line) => [
    line.name,
    ...places.map((_, place) => {
      const point = line.points.find((one) => one.x === place);
      return point === undefined ? "" : unit(point.y);
    }),
  ]);
  const only = runs.length === 1 ? " One run so far: run the benchmark again after a change." : "";
  return [
    caption(`Medians with their middle half, oldest run first; '+' marks a changed tree.${only}`),
    legend(lines.map((line) => line.name)),
    linePlot(lines, places, "revision", axis, limits, `${name} over ${runs.length} runs`),
    table(`${name}, medians`, heads, cells),
  ];
}

// --- what there is -----------------------------------------------------------------------------------------

/** Every result of the machine. */
export function listing(results: Result[]): Node {
  const heads = ["benchmark", "date", "revision", "version", "backend", "load before, after", "from"];
  const rows = [...results].sort((a, b) => b.run.date.localeCompare(a.run.date)).map(({ run, source }) => [
    run.benchmark,
    run.date.slice(0, 16).replace("T", " "),
    shortRevision(run.revision, run.version),
    run.version,
    run.backend,
    run.load_average.map((load) => load.toFixed(1)).join(", "),
    source === "release" ? "this version" : source === "local" ? "the local folder" : "this process",
  ]);
  const details = table("Results of this machine, newest first", heads, rows) as HTMLDetailsElement;
  details.querySelector("summary")!.textContent = `Its ${results.length} results`;
  return details;
}
