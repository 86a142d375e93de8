/** The service's HTTP interface: what it answers, and what can go wrong on the way. */

import { unplanes } from "./planes";

export type VoiFunction = "LINEAR" | "LINEAR_EXACT" | "SIGMOID";
export type Stage = "stored" | "modality" | "display";

/** Window Center and Width in modality units (PS3.3 C.11.2.1.2). */
export interface VoiWindow {
  center: number;
  width: number;
  function: VoiFunction;
}

export interface FileWindow extends VoiWindow {
  explanation: string;
}

export interface SeriesSummary {
  series_instance_uid: string;
  modality: string;
  series_number: number | null;
  series_description: string;
  instance_count: number;
  frame_count: number;
  thumbnail: { sop_instance_uid: string; frame_number: number } | null;
}

export interface StudySummary {
  study_instance_uid: string;
  patient_name: string;
  patient_id: string;
  study_date: string;
  study_time: string;
  study_description: string;
  accession_number: string;
  modalities: string[];
  series_count: number;
  instance_count: number;
  frame_count: number;
  series: SeriesSummary[];
}

export interface Frame {
  sop_instance_uid: string;
  frame_number: number;
  instance_number: number | null;
  shape: number[];
  dtype: string;
  bits_stored: number;
  photometric_interpretation: string;
  rescale: { slope: number; intercept: number; unit: string } | null;
  modality_lut: boolean;
  windows: FileWindow[];
  voi_lut: boolean;
  presentation_lut: boolean;
  palette: boolean;
  inverse: boolean;
  pixel_padding: [number, number] | null;
  pixel_spacing_mm: [number, number] | null;
  image_position: [number, number, number] | null;
  image_orientation: [number, number, number, number, number, number] | null;
  transfer_syntax_uid: string;
  notes: string[];
  url: string;
  /** Changes with the picture: answers may be kept for a year, so it is part of what is asked for. */
  version: string;
}

export interface Series {
  study_instance_uid: string;
  series_instance_uid: string;
  modality: string;
  series_number: number | null;
  series_description: string;
  patient_name: string;
  patient_id: string;
  study_date: string;
  study_description: string;
  frames: Frame[];
  problems: { sop_instance_uid: string; reason: string }[];
}

export interface IndexState {
  scanning: boolean;
  files_done?: number;
  files_total?: number;
  instances: number;
  frames: number;
  unreadable: { path: string; reason: string }[];
}

export type Samples =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array;

export interface RawArray {
  samples: Samples;
  /** (rows, columns) or (rows, columns, 3), C order. */
  shape: number[];
  decoder: string;
  renderer: string;
  elapsedMs: number;
}

/** Something to tell the user: the title and detail of an `application/problem+json`, or of a failed connection. */
export class Problem extends Error {
  constructor(
    readonly title: string,
    readonly detail: string,
  ) {
    super(detail === "" ? title : `${title}: ${detail}`);
    this.name = "Problem";
  }

  static from(error: unknown): Problem {
    if (error instanceof Problem) return error;
    return new Problem("The picture cannot be shown", error instanceof Error ? error.message : String(error));
  }
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

const TIMEOUT_MS = 30_000;

const OCTETS = "application/octet-stream";
/** A frame whose samples are filtered: what may come instead over a slow line. */
const PLANES = "application/vnd.gpu-render.planes";
/** The filter's name, in PLANES and in records of a stream. */
const FILTER = "planes";

/** The Priority header (RFC 9218) of what nobody waits for yet; without one, somebody does. */
export type Urgency = "u=5" | "u=6";
export const THUMBNAIL: Urgency = "u=5";
export const PREFETCH: Urgency = "u=6";

const SAMPLE_TYPES: Record<string, { BYTES_PER_ELEMENT: number; new (buffer: ArrayBuffer): Samples }> = {
  u1: Uint8Array,
  i1: Int8Array,
  u2: Uint16Array,
  i2: Int16Array,
  u4: Uint32Array,
  i4: Int32Array,
  f4: Float32Array,
  f8: Float64Array,
};

/** Runs one exchange, body included, within the time limit; failures come out as Problem, an abort as AbortError. */
async function exchange<T>(
  url: string,
  accept: string,
  read: (response: Response) => Promise<T>,
  abort?: AbortSignal,
  urgency?: Urgency,
): Promise<T> {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  const signal = abort === undefined ? timeout : AbortSignal.any([abort, timeout]);
  try {
    const headers = urgency === undefined ? { Accept: accept } : { Accept: accept, Priority: urgency };
    const response = await fetch(url, { signal, headers });
    if (!response.ok) throw await readProblem(response);
    return await read(response);
  } catch (error) {
    if (error instanceof Problem) throw error;
    if (timeout.aborted) throw new Problem("The service does not answer", `No answer within ${TIMEOUT_MS / 1000} s.`);
    if (abort?.aborted === true) throw new DOMException("no longer wanted", "AbortError");
    throw new Problem("The service cannot be reached", "The connection failed. Is it running?");
  }
}

async function readProblem(response: Response): Promise<Problem> {
  const fallback = `${response.status} ${response.statusText}`.trim();
  try {
    const body = (await response.json()) as { title?: unknown; detail?: unknown };
    const title = typeof body.title === "string" && body.title !== "" ? body.title : fallback;
    return new Problem(title, typeof body.detail === "string" ? body.detail : "");
  } catch {
    return new Problem("The service answered with an error", fallback);
  }
}

async function getJson<T>(url: string, abort?: AbortSignal): Promise<T> {
  return exchange(url, "application/json", (response) => response.json() as Promise<T>, abort);
}

export async function getStudies(): Promise<StudySummary[]> {
  return (await getJson<{ studies: StudySummary[] }>("/api/studies")).studies;
}

export function getIndex(): Promise<IndexState> {
  return getJson<IndexState>("/api/index");
}

export function getSeries(study: string, series: string, abort?: AbortSignal): Promise<Series> {
  return getJson<Series>(seriesPath(study, series), abort);
}

export function seriesPath(study: string, series: string): string {
  return `/api/studies/${encodeURIComponent(study)}/series/${encodeURIComponent(series)}`;
}

export function framePath(study: string, series: string, instance: string, frameNumber: number): string {
  return `${seriesPath(study, series)}/instances/${encodeURIComponent(instance)}/frames/${frameNumber}`;
}

/** Fetches one frame as a typed array. `query` holds the stage and, where wanted, a viewport. */
export async function getArray(
  url: string,
  query: Record<string, string>,
  abort?: AbortSignal,
  urgency?: Urgency,
): Promise<RawArray> {
  const started = performance.now();
  const address = `${url}?${new URLSearchParams(query).toString()}`;
  return exchange(
    address,
    `${PLANES}, ${OCTETS}`,
    async (response) => {
      const buffer = await response.arrayBuffer();
      return { ...parseArray(response.headers, buffer), elapsedMs: performance.now() - started };
    },
    abort,
    urgency,
  );
}

/** Checks the body against its headers before anything is painted from it. */
function parseArray(headers: Headers, buffer: ArrayBuffer): Omit<RawArray, "elapsedMs"> {
  const shape = (headers.get("X-Array-Shape") ?? "").split(",").map(Number);
  const media = headers.get("Content-Type") ?? "";
  if (media !== OCTETS && media !== PLANES) throw new Problem("The answer is not a picture", `It is "${media}".`);
  return {
    ...arrayOf(headers.get("X-Array-Dtype") ?? "", shape, buffer, media === PLANES ? FILTER : undefined),
    decoder: headers.get("X-Decode-Backend") ?? "",
    renderer: headers.get("X-Render-Backend") ?? "",
  };
}

/** Samples of a NumPy dtype and shape, filtered or not. A Problem where the bytes are not exactly those. */
export function arrayOf(
  dtype: string,
  shape: number[],
  buffer: ArrayBuffer,
  filter?: string,
): Pick<RawArray, "samples" | "shape"> {
  const type = SAMPLE_TYPES[dtype.replace(/^[<|]/, "")];
  const sane = shape.length >= 2 && shape.length <= 3 && shape.every((side) => Number.isInteger(side) && side > 0);
  if (type === undefined || !sane) {
    throw new Problem("The answer is not a picture", `Unknown array: dtype "${dtype}", shape "${shape.join(",")}".`);
  }
  const expected = shape.reduce((product, side) => product * side, type.BYTES_PER_ELEMENT);
  if (buffer.byteLength !== expected) {
    throw new Problem("The answer is incomplete", `${buffer.byteLength} bytes came, ${expected} were announced.`);
  }
  if (filter === undefined) return { samples: new type(buffer), shape };
  if (filter !== FILTER || type.BYTES_PER_ELEMENT > 4) {
    throw new Problem("The answer is not a picture", `Unknown filter "${filter}" of dtype "${dtype}".`);
  }
  return { samples: new type(unplanes(buffer, shape, type.BYTES_PER_ELEMENT)), shape };
}

/** The body of an answer without an end in sight: no time limit, for it is read as fast as it can be used. */
export async function openStream(
  url: string,
  query: Record<string, string>,
  abort: AbortSignal,
  urgency: Urgency,
): Promise<ReadableStream<Uint8Array>> {
  let response: Response;
  try {
    response = await fetch(`${url}?${new URLSearchParams(query).toString()}`, {
      signal: abort,
      headers: { Accept: `application/vnd.gpu-render.frames;filter=${FILTER}`, Priority: urgency },
    });
  } catch {
    if (abort.aborted) throw new DOMException("no longer wanted", "AbortError");
    throw new Problem("The service cannot be reached", "The connection failed. Is it running?");
  }
  if (!response.ok) throw await readProblem(response);
  if (response.body === null) throw new Problem("The answer is incomplete", "It has no body.");
  return response.body;
}
