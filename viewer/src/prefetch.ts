/** Loads the whole series behind the slice in view: one stream, in the direction of scrolling first. */

import { type Frame, PREFETCH, Problem, type Series, type Stage, isAbort, seriesPath } from "./api";
import { accept, capacity, isLoaded, keepOnly } from "./frame-store";
import { stageOf } from "./frames";
import { type Arrived, streamFrames } from "./stream";

/** A stream that will deliver what is needed next within so many frames is left alone. */
const NEAR = 24;
/** Frames of one request: an address has an end. Neighbours count as one piece of it. */
const MOST_PIECES = 100;
/** The page answers its user between frames at least this often. */
const WORK_MS = 8;
const RETRY_MS = 2_000;
const MOST_FAILURES = 3;

interface Plan {
  /** Indexes of frames of one stage, in the order in which they are wanted. */
  indexes: number[];
  stage: Stage;
}

export class Prefetcher {
  private stream: { controller: AbortController; left: number[] } | null = null;
  /** Frames that failed: shown with their error when the user gets there, not asked for again and again. */
  private readonly failed = new Set<number>();
  /** What came since the user last moved: not asked for again before, even where the cache had no room for it. */
  private readonly came = new Set<number>();
  private at = { index: 0, direction: 1 };
  private failures = 0;
  private stopped = false;

  constructor(
    private readonly series: Series,
    private readonly imageIds: string[],
  ) {}

  /** The user is at `index` and goes on in `direction` (+1 or -1): what comes next is loaded next. */
  moveTo(index: number, direction: number): void {
    this.at = { index, direction };
    this.failures = 0;
    this.came.clear();
    keepOnly(new Set([this.imageIds[index] as string]));
    const next = this.missing()[0];
    if (next === undefined) return;
    const place = this.stream?.left.indexOf(next) ?? -1;
    if (place < 0 || place >= NEAR) this.restart();
  }

  stop(): void {
    this.stopped = true;
    this.stream?.controller.abort();
    this.stream = null;
  }

  private restart(): void {
    this.stream?.controller.abort();
    this.stream = null;
    const plan = this.plan();
    if (plan === null || this.stopped) return;
    const stream = { controller: new AbortController(), left: plan.indexes };
    this.stream = stream;
    void this.follow(stream, plan).then((again) => {
      if (this.stream !== stream) return;
      this.stream = null;
      if (again) this.restart();
    });
  }

  /** Takes what comes; whether there may be more to ask for. */
  private async follow(stream: { controller: AbortController; left: number[] }, plan: Plan): Promise<boolean> {
    const { signal } = stream.controller;
    const path = seriesPath(this.series.study_instance_uid, this.series.series_instance_uid);
    let worked = performance.now();
    try {
      for await (const arrived of streamFrames(path, queryOf(plan), signal, PREFETCH)) {
        if (signal.aborted) return false;
        stream.left = stream.left.filter((wanted) => wanted !== arrived.index);
        if (!this.take(arrived)) return false;
        if (performance.now() - worked < WORK_MS) continue;
        await pause(0);
        worked = performance.now();
      }
      this.failures = 0;
      return true;
    } catch (error) {
      if (signal.aborted || isAbort(error)) return false;
      this.failures += 1;
      await pause(RETRY_MS);
      return this.failures < MOST_FAILURES;
    }
  }

  /** False where the series is no longer the one that was opened: its frames then have to be asked for by name. */
  private take({ index, sopInstanceUid, frameNumber, version, array }: Arrived): boolean {
    const frame = this.series.frames[index];
    if (frame?.sop_instance_uid !== sopInstanceUid || frame.frame_number !== frameNumber) return false;
    this.came.add(index);
    try {
      if (array instanceof Problem) throw array;
      if (version !== frame.version) return false;
      accept(this.imageIds[index] as string, array);
    } catch {
      this.failed.add(index);
    }
    return true;
  }

  /** Frames that are wanted and not here, the next one first: as far as the cache reaches, three quarters of it ahead. */
  private missing(): number[] {
    const { index, direction } = this.at;
    const count = this.imageIds.length;
    const room = Math.min(count - 1, capacity(this.frame(index)) - 1);
    const ahead = direction > 0 ? count - 1 - index : index;
    const before = Math.min(count - 1 - ahead, Math.max(Math.floor(room / 4), room - ahead));
    const forward = Array.from({ length: Math.min(ahead, room - before) }, (_, i) => index + (i + 1) * direction);
    const back = Array.from({ length: before }, (_, i) => index - (i + 1) * direction);
    const known = (i: number): boolean => this.came.has(i) || this.failed.has(i) || isLoaded(this.imageIds[i] as string);
    return [...forward, ...back].filter((i) => !known(i));
  }

  /** As many of the missing frames as one request can name: of one stage, like the first. */
  private plan(): Plan | null {
    const missing = this.missing();
    const first = missing[0];
    if (first === undefined) return null;
    const stage = this.stageAt(first);
    return { stage, indexes: cut(missing.filter((index) => this.stageAt(index) === stage)) };
  }

  private stageAt(index: number): Stage {
    return stageOf(this.frame(index));
  }

  private frame(index: number): Frame {
    return this.series.frames[index] as Frame;
  }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((done) => setTimeout(done, milliseconds));
}

/** The first MOST_PIECES runs of neighbours. */
function cut(indexes: number[]): number[] {
  const kept = runs(indexes).slice(0, MOST_PIECES).flat();
  return indexes.slice(0, kept.length);
}

/** Neighbours that follow each other, up or down, together. */
function runs(indexes: number[]): number[][] {
  const found: number[][] = [];
  let step = 0;
  for (const index of indexes) {
    const run = found.at(-1);
    const last = run?.at(-1);
    const here = last === undefined ? 0 : index - last;
    if (run !== undefined && Math.abs(here) === 1 && (run.length === 1 || here === step)) {
      run.push(index);
      step = here;
    } else {
      found.push([index]);
    }
  }
  return found;
}

function queryOf({ indexes, stage }: Plan): Record<string, string> {
  const pieces = runs(indexes).map((run) => {
    const [first, last] = [(run[0] as number) + 1, (run.at(-1) as number) + 1];
    return first === last ? `${first}` : `${first}-${last}`;
  });
  return { frames: pieces.join(","), stage };
}
