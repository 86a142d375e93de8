/** The frames of the open series: Cornerstone's image cache, its metadata, and one abortable load a frame at a time. */

import { type Types, Enums, cache, eventTarget, imageLoader, metaData } from "@cornerstonejs/core";

import type { Frame, RawArray, Series } from "./api";
import { type FramePicture, type LoadedFrame, isColour, loadFrame, madeFrom, spacingOf } from "./frames";

const SCHEME = "gpurender";

interface Pending {
  promise: Promise<Types.IImage>;
  controller: AbortController;
}

interface Entry {
  frame: Frame;
  series: Series;
  picture?: FramePicture;
}

const entries = new Map<string, Entry>();
const pending = new Map<string, Pending>();
/** What Cornerstone's cache holds. Asking the cache itself would make every image look recently used. */
const held = new Set<string>();

/** Registers the image loader and the metadata provider, and bounds the cache to a part of this machine's memory. */
export function installFrameStore(): void {
  const memoryGiB = (navigator as { deviceMemory?: number }).deviceMemory ?? 4;
  cache.setMaxCacheSize(Math.min(1.5, memoryGiB / 4) * 2 ** 30);
  imageLoader.registerImageLoader(SCHEME, (imageId: string) => ({ promise: load(imageId) }));
  metaData.addProvider((type: string, imageId: string) => metadataOf(type, imageId), 10_000);
  eventTarget.addEventListener(Enums.Events.IMAGE_CACHE_IMAGE_REMOVED, (event: Event) => {
    held.delete((event as CustomEvent<{ imageId: string }>).detail.imageId);
    heldChanged();
  });
}

let heldChanged: () => void = () => undefined;

/** `changed` is called whenever a frame has come or had to make room. */
export function onHeldChange(changed: () => void): void {
  heldChanged = changed;
}

/** Makes the series' frames known and returns their image ids, in the manifest's order. */
export function openSeries(series: Series): string[] {
  keepOnly(new Set());
  return series.frames.map((frame) => {
    const imageId = `${SCHEME}:${frame.url}`;
    entries.set(imageId, { ...entries.get(imageId), frame, series });
    return imageId;
  });
}

/** The image from the cache or the service. Rejects with Problem, or with AbortError where `keepOnly` dropped it. */
export function load(imageId: string): Promise<Types.IImage> {
  const cached = cache.getImage(imageId);
  if (cached !== undefined) return Promise.resolve(cached);
  const running = pending.get(imageId);
  if (running !== undefined) return running.promise;
  const controller = new AbortController();
  const promise = fetchAndCache(imageId, controller).finally(() => {
    if (pending.get(imageId)?.controller === controller) pending.delete(imageId);
  });
  pending.set(imageId, { promise, controller });
  return promise;
}

async function fetchAndCache(imageId: string, controller: AbortController): Promise<Types.IImage> {
  const entry = entries.get(imageId);
  if (entry === undefined) throw new Error("a frame of no open series");
  const loaded = await loadFrame(imageId, entry.frame, controller.signal);
  if (controller.signal.aborted) throw new DOMException("no longer wanted", "AbortError");
  keep(imageId, entry, loaded);
  return loaded.image;
}

/** Puts an array that came unasked, in a stream, into the cache. Throws Problem where it is no picture of the frame. */
export function accept(imageId: string, array: RawArray): void {
  const entry = entries.get(imageId);
  if (entry !== undefined && !isLoaded(imageId)) keep(imageId, entry, madeFrom(imageId, entry.frame, array));
}

function keep(imageId: string, entry: Entry, { image, picture }: LoadedFrame): void {
  if (isLoaded(imageId)) return;
  entry.picture = picture;
  cache.putImageSync(imageId, image);
  held.add(imageId);
  heldChanged();
}

/** Stops every load that is under way and not in `wanted`. */
export function keepOnly(wanted: ReadonlySet<string>): void {
  for (const [imageId, { controller }] of pending) {
    if (wanted.has(imageId)) continue;
    pending.delete(imageId);
    controller.abort();
  }
}

export function isLoaded(imageId: string): boolean {
  return held.has(imageId);
}

/** How many more frames like this one the cache can hold beside those of the series that are in it. */
export function capacity(frame: Frame): number {
  // Values are kept as 16 or 32 bit numbers, colour as three bytes.
  const nbytes = frame.shape.reduce((product, side) => product * side, frame.shape.length === 3 ? 1 : 4);
  return Math.max(1, Math.floor((0.8 * cache.getMaxCacheSize()) / nbytes));
}

export function pictureOf(imageId: string): FramePicture | undefined {
  return entries.get(imageId)?.picture;
}

/** What Cornerstone asks about an image. Everything is given, so that it assumes nothing. */
function metadataOf(type: string, imageId: string): unknown {
  const entry = entries.get(imageId);
  if (entry === undefined) return undefined;
  if (type === "imagePlaneModule") return imagePlane(entry);
  if (type === "imagePixelModule") return imagePixel(entry);
  if (type === "generalSeriesModule") {
    return { modality: entry.series.modality, seriesInstanceUID: entry.series.series_instance_uid };
  }
  return undefined;
}

function imagePlane({ frame, series, picture }: Entry): object {
  const image = cache.getImage(`${SCHEME}:${frame.url}`);
  const shape = picture === undefined || image === undefined ? frame.shape : [image.rows, image.columns];
  const spacing = spacingOf(frame, shape);
  const orientation = soundOrientation(frame.image_orientation) ?? [1, 0, 0, 0, 1, 0];
  return {
    rows: shape[0],
    columns: shape[1],
    rowPixelSpacing: spacing?.row ?? 1,
    columnPixelSpacing: spacing?.column ?? 1,
    imageOrientationPatient: orientation,
    rowCosines: orientation.slice(0, 3),
    columnCosines: orientation.slice(3, 6),
    imagePositionPatient: frame.image_position ?? [0, 0, 0],
    frameOfReferenceUID: series.series_instance_uid,
    // Cornerstone measures in px instead of mm exactly where this is true.
    usingDefaultValues: spacing === null,
  };
}

function imagePixel({ frame }: Entry): object {
  const colour = isColour(frame);
  return {
    samplesPerPixel: colour ? 3 : 1,
    // MONOCHROME1 is turned round by the shell; told so here, Cornerstone would turn it round as well.
    photometricInterpretation: colour ? "RGB" : "MONOCHROME2",
    bitsAllocated: 16,
    bitsStored: frame.bits_stored,
    highBit: frame.bits_stored - 1,
    pixelRepresentation: 0,
  };
}

/** Two perpendicular unit vectors, or null: a camera cannot be placed by anything else. */
function soundOrientation(cosines: Frame["image_orientation"]): number[] | null {
  if (cosines === null || !cosines.every(Number.isFinite)) return null;
  const [rx, ry, rz, cx, cy, cz] = cosines;
  const skew = Math.abs(rx * cx + ry * cy + rz * cz);
  const unit = [Math.hypot(rx, ry, rz), Math.hypot(cx, cy, cz)].every((length) => Math.abs(length - 1) < 1e-2);
  return unit && skew < 1e-2 ? cosines : null;
}
