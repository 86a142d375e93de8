/** Many frames of a series in one answer, read record by record as it comes (docs/api.md). */

import { Problem, type RawArray, type Urgency, arrayOf, openStream } from "./api";

export interface Arrived {
  /** Of the frame in the manifest, from 0, as the service knows the series now. */
  index: number;
  sopInstanceUid: string;
  frameNumber: number;
  /** As in the manifest; of a frame that cannot be shown there is none. */
  version: string | null;
  /** The frame, or why there is none. */
  array: RawArray | Problem;
}

interface RecordHeader {
  kind: "frame" | "problem" | "end";
  position?: number;
  sop_instance_uid?: string;
  frame_number?: number;
  version?: string;
  shape?: number[];
  dtype?: string;
  decoder?: string;
  backend?: string;
  nbytes?: number;
  /** How the samples have to be undone; absent where they are as they are. */
  filter?: string;
  problem?: { title?: string; detail?: string };
}

/**
 * The frames that `query` names by their positions, from 1, in that order. Ends when the service says that all were
 * sent; a connection that breaks before is a Problem, an abort an AbortError.
 */
export async function* streamFrames(
  series: string,
  query: Record<string, string>,
  abort: AbortSignal,
  urgency: Urgency,
): AsyncGenerator<Arrived> {
  const reader = new ByteReader(await openStream(`${series}/frames`, query, abort, urgency), abort);
  try {
    for (;;) {
      const started = performance.now();
      const header = await readHeader(reader);
      if (header.kind === "end") return await reader.finish();
      const about = {
        index: (header.position ?? 0) - 1,
        sopInstanceUid: header.sop_instance_uid ?? "",
        frameNumber: header.frame_number ?? 0,
        version: header.version ?? null,
      };
      if (header.kind === "problem") {
        const { title, detail } = header.problem ?? {};
        yield { ...about, array: new Problem(title ?? "The picture cannot be shown", detail ?? "") };
        continue;
      }
      const buffer = await reader.take(header.nbytes ?? 0);
      const facts = { decoder: header.decoder ?? "", renderer: header.backend ?? "" };
      const array = arrayOf(header.dtype ?? "", header.shape ?? [], buffer, header.filter);
      yield { ...about, array: { ...array, ...facts, elapsedMs: performance.now() - started } };
    }
  } finally {
    reader.close();
  }
}

async function readHeader(reader: ByteReader): Promise<RecordHeader> {
  const length = new DataView(await reader.take(4)).getUint32(0, true);
  return JSON.parse(new TextDecoder().decode(await reader.take(length))) as RecordHeader;
}

/** Takes exactly as many bytes as are asked for, copied once, out of whatever pieces the network delivers. */
class ByteReader {
  private readonly reader: ReadableStreamDefaultReader<Uint8Array>;
  private piece: Uint8Array = new Uint8Array(0);
  private finished = false;

  constructor(
    body: ReadableStream<Uint8Array>,
    private readonly abort: AbortSignal,
  ) {
    this.reader = body.getReader();
  }

  async take(count: number): Promise<ArrayBuffer> {
    const taken = new Uint8Array(count);
    for (let filled = 0; filled < count; ) {
      if (this.piece.length === 0) this.piece = await this.next();
      const part = this.piece.subarray(0, count - filled);
      taken.set(part, filled);
      this.piece = this.piece.subarray(part.length);
      filled += part.length;
    }
    return taken.buffer;
  }

  private async next(): Promise<Uint8Array> {
    try {
      const { value, done } = await this.reader.read();
      if (!done) return value;
    } catch {
      if (this.abort.aborted) throw new DOMException("no longer wanted", "AbortError");
    }
    throw new Problem("The series is incomplete", "The connection broke before all frames had come.");
  }

  /** Reads to the end, so that the connection can be used again. */
  async finish(): Promise<void> {
    while (!(await this.reader.read()).done);
    this.finished = true;
  }

  /** Ends an answer whose end was not reached. */
  close(): void {
    if (this.finished) return; // Chromium would call it aborted
    void this.reader.cancel().catch(() => undefined);
  }
}
