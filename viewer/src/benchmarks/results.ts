/** `GET /api/benchmarks`, and the figures in it in one form, whatever a benchmark calls them. */

export interface Spread {
  n: number;
  median: number;
  q1: number;
  q3: number;
  p95: number;
  p99: number;
}

interface Summary {
  n: number;
  median_ms: number;
  q1_ms: number;
  q3_ms: number;
  p95_ms: number | null;
  p99_ms: number;
}

interface Case {
  group: string;
  request: string;
  state: string;
  client: Summary;
}

interface Kernel {
  name: string;
  bytes_read: number;
  bytes_written: number;
  kernel: Summary;
  copied: Summary;
  target_percent: number | null;
}

export type Parameters = Record<string, string | number>;

interface Measurement {
  name: string;
  unit: string;
  group: string;
  who: string;
  parameters: Parameters;
  summary: Spread;
  better: "lower" | "higher";
  throughput: number | null;
  errors: Record<string, number>;
}

export interface Run {
  benchmark: string;
  date: string;
  version: string;
  revision: string;
  backend: string;
  machine: { cpu: string; cores: number; gpus: { name: string }[] };
  load_average: [number, number];
  target_s: number;
  alarm_s: number;
  cases: Case[];
  kernels: Kernel[];
  measurements: Measurement[];
}

export interface Result {
  name: string;
  source: "release" | "local" | "memory";
  machine: string;
  run: Run;
}

export interface Results {
  results: Result[];
  unreadable: Record<string, string>;
}

/** The size of a slice where nothing else is said. */
export const USUAL = "512 x 512";

/** One figure of one run. `clients` is taken out of `parameters`; so is the size. */
export interface Figure {
  benchmark: string;
  group: string;
  name: string;
  size: string;
  clients: number | null;
  unit: string;
  spread: Spread;
  throughput: number | null;
  errors: number;
}

/** A kernel beside what its device's memory can do [GB/s]. */
export interface Bandwidth {
  name: string;
  reached: number;
  roof: number;
  targetPercent: number | null;
}

export async function fetchResults(): Promise<Results> {
  const answer = await fetch("/api/benchmarks", { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  return (await answer.json()) as Results;
}

function spreadOf(summary: Summary): Spread {
  const { n, median_ms: median, q1_ms: q1, q3_ms: q3, p95_ms: p95, p99_ms: p99 } = summary;
  return { n, median, q1, q3, p95: p95 ?? p99, p99 };
}

export function figuresOf(run: Run): Figure[] {
  const cases = run.cases.map((one) => ({
    benchmark: run.benchmark,
    ...placed(one.group),
    name: one.state === "" ? one.request : `${one.request}, ${one.state}`,
    clients: null,
    unit: "ms",
    spread: spreadOf(one.client),
    throughput: null,
    errors: 0,
  }));
  return [...cases, ...run.measurements.map((one) => measured(run.benchmark, one))];
}

/** Where cases are of several kinds of pictures, their groups are like "CR 2048x2048, JPEG 2000". */
function placed(group: string): { group: string; size: string } {
  const parts = /^(.* \d+x\d+), (.+)$/.exec(group);
  return parts === null ? { group, size: USUAL } : { group: parts[2]!, size: parts[1]! };
}

function measured(benchmark: string, one: Measurement): Figure {
  const { rows, columns, clients, ...rest } = one.parameters;
  const others = Object.entries(rest).map(([key, value]) => (key === "state" ? `${value}` : `${key} ${value}`));
  return {
    benchmark,
    group: one.group,
    name: [...(one.who === "gpu-render" || one.name.startsWith(one.who) ? [] : [one.who]), one.name, ...others].join(", "),
    size: rows === undefined || columns === undefined ? USUAL : `${columns} x ${rows}`,
    clients: typeof clients === "number" ? clients : null,
    unit: one.unit,
    spread: one.summary,
    throughput: one.throughput ?? (one.unit === "requests/s" ? one.summary.median : null),
    errors: Object.values(one.errors).reduce((sum, count) => sum + count, 0),
  };
}

export function bandwidthsOf(run: Run): Bandwidth[] {
  const kernels = run.kernels.map((one) => {
    const bytes = one.bytes_read + one.bytes_written;
    return {
      name: one.name,
      reached: bytes / one.kernel.median_ms / 1e6,
      roof: bytes / one.copied.median_ms / 1e6,
      targetPercent: one.target_percent,
    };
  });
  return kernels;
}

/** The newest run of each benchmark, by name. */
export function latest(results: Result[]): Map<string, Result> {
  return new Map([...results].sort((a, b) => a.run.date.localeCompare(b.run.date)).map((one) => [one.run.benchmark, one]));
}
