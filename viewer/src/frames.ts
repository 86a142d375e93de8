/** From one frame of the manifest to one Cornerstone image: what to ask the service for, and what to do with it. */

import { type Types, Enums, utilities } from "@cornerstonejs/core";

import { type Frame, type RawArray, type Stage, type Urgency, type VoiWindow, getArray } from "./api";
import { type Linear, type ModalityArray, type Padding, rescaleRange, sampleRange, toModality } from "./pixels";
import { type NamedWindow, browserCanWindow, fullRange, saturationRange, windowRange } from "./voi";

/** What the shell must know of a loaded frame besides its pixels. */
export interface FramePicture {
  stage: Stage;
  colour: boolean;
  /** The file's windows that act on these values; empty for a picture that the service rendered. */
  windows: NamedWindow[];
  /** The window without one of the file's: the frame's range, or 0 to 255 of a rendered picture. */
  fullRange: VoiWindow;
  /** Turn grey values round, once (the service has done so itself in a rendered picture). */
  inverse: boolean;
  decoder: string;
  renderer: string;
  elapsedMs: number;
}

export interface LoadedFrame {
  image: Types.IImage;
  picture: FramePicture;
}

interface Spacing {
  row: number;
  column: number;
}

const IDENTITY: Linear = { slope: 1, intercept: 0 };
const RENDERED: VoiWindow = { center: 127.5, width: 255, function: "LINEAR_EXACT" };

export function isColour(frame: Frame): boolean {
  return frame.shape.length === 3 || frame.palette || !frame.photometric_interpretation.startsWith("MONOCHROME");
}

/** Grey values are windowed here; whatever needs a table, or a curve this browser's library bends, the service renders. */
export function stageOf(frame: Frame): Stage {
  const first = frame.windows[0];
  const tables = frame.voi_lut || frame.presentation_lut;
  if (isColour(frame) || tables || (first !== undefined && !browserCanWindow(first))) return "display";
  if (frame.modality_lut) return frame.pixel_padding === null ? "modality" : "display";
  return ["u4", "i4", "f8"].includes(frame.dtype.replace(/^[<|]/, "")) ? "modality" : "stored";
}

export async function loadFrame(
  imageId: string,
  frame: Frame,
  abort: AbortSignal,
  urgency?: Urgency,
): Promise<LoadedFrame> {
  const array = await getArray(frame.url, { stage: stageOf(frame), v: frame.version }, abort, urgency);
  return madeFrom(imageId, frame, array);
}

/** The image of an array that came at the stage of `stageOf`. */
export function madeFrom(imageId: string, frame: Frame, array: RawArray): LoadedFrame {
  const stage = stageOf(frame);
  return stage === "display" ? renderedFrame(imageId, frame, array) : greyFrame(imageId, frame, array, stage);
}

function renderedFrame(imageId: string, frame: Frame, array: RawArray): LoadedFrame {
  const pixels = array.samples as Uint8Array;
  const picture = { ...facts(array), stage: "display" as const, windows: [], fullRange: RENDERED, inverse: false };
  const colour = array.shape.length === 3;
  return {
    image: cornerstoneImage(imageId, frame, array.shape, pixels, { lowest: 0, highest: 255 }, RENDERED),
    picture: { ...picture, colour },
  };
}

function greyFrame(imageId: string, frame: Frame, array: RawArray, stage: Stage): LoadedFrame {
  const file = frame.rescale ?? IDENTITY;
  const linear = stage === "stored" ? file : IDENTITY;
  const padding = stage === "stored" ? frame.pixel_padding : rescaledPadding(frame.pixel_padding, file);
  // As the service does: a 1-bit frame that is all foreground must not look like one that is all background.
  const oneBit = stage === "stored" && frame.bits_stored === 1;
  const samples = oneBit ? { lowest: 0, highest: 1 } : sampleRange(array.samples, padding);
  const range = rescaleRange(samples, linear);
  const windows = frame.windows.filter(browserCanWindow).map(named);
  const whole = fullRange(range.lowest, range.highest);
  const first = windows[0]?.window ?? whole;
  // Background is black in the first picture, however wide its window; and white before an inversion.
  const black = saturationRange(first);
  const background = frame.inverse
    ? Math.ceil(Math.max(range.highest, black.upper))
    : Math.floor(Math.min(range.lowest, black.lower));
  const pixels = toModality(array.samples, linear, padding, range, background);
  return {
    image: cornerstoneImage(imageId, frame, array.shape, pixels, range, first),
    picture: { ...facts(array), stage, colour: false, windows, fullRange: whole, inverse: frame.inverse },
  };
}

function facts({ decoder, renderer, elapsedMs }: RawArray): Pick<FramePicture, "decoder" | "renderer" | "elapsedMs"> {
  return { decoder, renderer, elapsedMs };
}

function named(window: Frame["windows"][number], index: number): NamedWindow {
  const { explanation, ...rest } = window;
  return { name: explanation.trim() === "" ? `Window ${index + 1}` : explanation.trim(), window: rest };
}

function rescaledPadding(padding: Padding, { slope, intercept }: Linear): Padding {
  if (padding === null) return null;
  const ends = padding.map((value) => Math.fround(slope * value + intercept));
  return [Math.min(...ends), Math.max(...ends)];
}

/** Spacing of the pixels that came: a service may have scaled non-square pixels of a rendered picture square. */
export function spacingOf(frame: Frame, shape: number[] = frame.shape): Spacing | null {
  const spacing = frame.pixel_spacing_mm;
  if (spacing === null || !spacing.every((value) => Number.isFinite(value) && value > 0)) return null;
  const [rows, columns] = [frame.shape[0] as number, frame.shape[1] as number];
  return {
    row: (spacing[0] * rows) / (shape[0] ?? rows),
    column: (spacing[1] * columns) / (shape[1] ?? columns),
  };
}

function cornerstoneImage(
  imageId: string,
  frame: Frame,
  shape: number[],
  pixels: ModalityArray,
  range: { lowest: number; highest: number },
  window: VoiWindow,
): Types.IImage {
  const [rows, columns] = shape as [number, number];
  const numberOfComponents = shape[2] ?? 1;
  const spacing = spacingOf(frame, shape) ?? { row: 1, column: 1 };
  // The same two ends as those of the window in use, in the terms of a LINEAR window. Cornerstone makes its transfer
  // function from them and stretches that one later: two equal ends here would never come apart again.
  const { lower, upper } = windowRange(window);
  const voxelManager = utilities.VoxelManager.createImageVoxelManager({
    scalarData: pixels,
    width: columns,
    height: rows,
    numberOfComponents,
  });
  return {
    imageId,
    minPixelValue: range.lowest,
    maxPixelValue: range.highest,
    // The values are modality values already: Cornerstone's graphics path applies no rescale of its own.
    slope: 1,
    intercept: 0,
    preScale: { enabled: true, scaled: true, scalingParameters: { rescaleSlope: 1, rescaleIntercept: 0 } },
    isPreScaled: true,
    windowCenter: (lower + upper + 1) / 2,
    windowWidth: upper - lower + 1,
    voiLUTFunction: Enums.VOILUTFunctionType.LINEAR,
    getPixelData: () => pixels,
    getCanvas: () => document.createElement("canvas"),
    rows,
    columns,
    height: rows,
    width: columns,
    color: numberOfComponents === 3,
    rgba: false,
    numberOfComponents,
    columnPixelSpacing: spacing.column,
    rowPixelSpacing: spacing.row,
    invert: false,
    photometricInterpretation: numberOfComponents === 3 ? "RGB" : "MONOCHROME2",
    sizeInBytes: pixels.byteLength,
    dataType: pixels.constructor.name as Types.PixelDataTypedArrayString,
    voxelManager: voxelManager as NonNullable<Types.IImage["voxelManager"]>,
  };
}
