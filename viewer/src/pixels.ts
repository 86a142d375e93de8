/** Stored values to modality values in the browser (PS3.3 C.11.1.1), with padding turned into background. */

import type { Samples } from "./api";

export interface ValueRange {
  lowest: number;
  highest: number;
}

export interface Linear {
  slope: number;
  intercept: number;
}

/** Values that are not picture: those inside the padding range (inclusive, of the samples given), and NaN. */
export type Padding = readonly [number, number] | null;

export type ModalityArray = Uint8Array | Int16Array | Float32Array;

/** Lowest and highest sample that is not padding; 0 and 0 where there is none. */
export function sampleRange(samples: Samples, padding: Padding): ValueRange {
  const [low, high] = padding ?? [Infinity, -Infinity];
  let lowest = Infinity;
  let highest = -Infinity;
  for (const value of samples) {
    if (value >= low && value <= high) continue;
    if (value < lowest) lowest = value;
    if (value > highest) highest = value;
  }
  return lowest <= highest ? { lowest, highest } : { lowest: 0, highest: 0 };
}

export function rescaleRange({ lowest, highest }: ValueRange, { slope, intercept }: Linear): ValueRange {
  const ends = [slope * lowest + intercept, slope * highest + intercept] as const;
  return { lowest: Math.min(...ends), highest: Math.max(...ends) };
}

/**
 * Applies the rescale. The result is 16-bit where every value is a whole number that fits, else float32, which the
 * graphics card takes either way. Padding and NaN become `background` (modality units).
 */
export function toModality(
  samples: Samples,
  { slope, intercept }: Linear,
  padding: Padding,
  range: ValueRange,
  background: number,
): ModalityArray {
  const [low, high] = padding ?? [Infinity, -Infinity];
  const identity = slope === 1 && intercept === 0;
  if (samples instanceof Uint8Array && identity && padding === null) return samples;
  const out = holdsInt16(samples, slope, intercept, range, background)
    ? new Int16Array(samples.length)
    : new Float32Array(samples.length);
  for (let i = 0; i < samples.length; i++) {
    const value = samples[i] as number;
    const outside = (value >= low && value <= high) || Number.isNaN(value);
    out[i] = outside ? background : slope * value + intercept;
  }
  return out;
}

function holdsInt16(samples: Samples, slope: number, intercept: number, range: ValueRange, background: number): boolean {
  if (samples instanceof Float32Array || samples instanceof Float64Array) return false;
  const numbers = [slope, intercept, background];
  const ends = [range.lowest, range.highest, background];
  return numbers.every(Number.isInteger) && ends.every((value) => value >= -32768 && value <= 32767);
}
