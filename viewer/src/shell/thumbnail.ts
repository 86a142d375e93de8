/** Small pictures, rendered by the service, three at a time so that they never stand before the slice in view. */

import { type RawArray, type SeriesSummary, type StudySummary, THUMBNAIL, framePath, getArray } from "../api";

const SIDE = 96;
const CONCURRENCY = 3;

let running = 0;
const waiting: (() => void)[] = [];

export async function paintThumbnail(
  canvas: HTMLCanvasElement,
  study: StudySummary,
  series: SeriesSummary,
  abort: AbortSignal,
): Promise<void> {
  canvas.width = SIDE;
  canvas.height = SIDE;
  if (series.thumbnail === null) return sayNothing(canvas);
  const { sop_instance_uid, frame_number } = series.thumbnail;
  const url = framePath(study.study_instance_uid, series.series_instance_uid, sop_instance_uid, frame_number);
  await turn();
  try {
    if (abort.aborted) return;
    paint(canvas, await getArray(url, { stage: "display", viewport: `${SIDE},${SIDE}` }, abort, THUMBNAIL));
  } catch {
    // The reason stands in the viewport as soon as the series is opened.
    if (!abort.aborted) sayNothing(canvas);
  } finally {
    running -= 1;
    waiting.shift()?.();
  }
}

async function turn(): Promise<void> {
  while (running >= CONCURRENCY) await new Promise<void>((resolve) => waiting.push(resolve));
  running += 1;
}

function paint(canvas: HTMLCanvasElement, { samples, shape }: RawArray): void {
  const [height, width] = shape as [number, number];
  const colour = shape.length === 3;
  const picture = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      picture.data[pixel * 4 + channel] = samples[colour ? pixel * 3 + channel : pixel] as number;
    }
    picture.data[pixel * 4 + 3] = 255;
  }
  canvas.width = Math.max(SIDE, width);
  canvas.height = Math.max(SIDE, height);
  const left = Math.floor((canvas.width - width) / 2);
  const top = Math.floor((canvas.height - height) / 2);
  canvas.getContext("2d")?.putImageData(picture, left, top);
  canvas.dataset["painted"] = "true";
}

function sayNothing(canvas: HTMLCanvasElement): void {
  const context = canvas.getContext("2d");
  if (context === null) return;
  context.fillStyle = "#5c6b7a";
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText("no preview", SIDE / 2, SIDE / 2 + 4);
}
