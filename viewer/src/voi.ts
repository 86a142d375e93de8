/** Windows: the range of values from black to white, presets, and how they are written (PS3.3 C.11.2.1.2). */

import type { VoiFunction, VoiWindow } from "./api";

export interface NamedWindow {
  name: string;
  window: VoiWindow;
}

/** The values shown as 0 and 255 by a linear window; for SIGMOID the range that Cornerstone derives its curve from. */
export function windowRange({ center, width, function: voiFunction }: VoiWindow): { lower: number; upper: number } {
  if (voiFunction === "LINEAR_EXACT") return { lower: center - width / 2, upper: center + width / 2 };
  const lower = center - 0.5 - (width - 1) / 2;
  // A LINEAR window of width 1 is a step; a transfer function needs two distinct ends.
  return { lower, upper: lower + Math.max(width - 1, voiFunction === "LINEAR" ? 1e-3 : 0) };
}

/** The widest range at which the curve is still black (or white) to within half a grey level. */
export function saturationRange(window: VoiWindow): { lower: number; upper: number } {
  if (window.function !== "SIGMOID") return windowRange(window);
  return { lower: window.center - 2 * window.width, upper: window.center + 2 * window.width };
}

export function fullRange(lowest: number, highest: number): VoiWindow {
  if (highest <= lowest) return { center: lowest + 0.5, width: 1, function: "LINEAR_EXACT" };
  return { center: (lowest + highest) / 2, width: highest - lowest, function: "LINEAR_EXACT" };
}

/** Cornerstone's sigmoid curve goes through width - 1 and is wrong for a width below 1. */
export function browserCanWindow({ width, function: voiFunction }: VoiWindow): boolean {
  return voiFunction !== "SIGMOID" || width > 1;
}

const PRESETS: Record<string, NamedWindow[]> = {
  CT: [
    { name: "Brain", window: { center: 40, width: 80, function: "LINEAR" } },
    { name: "Soft tissue", window: { center: 40, width: 400, function: "LINEAR" } },
    { name: "Lung", window: { center: -600, width: 1500, function: "LINEAR" } },
    { name: "Bone", window: { center: 300, width: 1500, function: "LINEAR" } },
  ],
};

export function modalityPresets(modality: string): NamedWindow[] {
  return PRESETS[modality] ?? [];
}

/** The window after the mouse moved by (dx, dy) CSS pixels: right widens, down raises the level. */
export function draggedWindow(window: VoiWindow, dx: number, dy: number): VoiWindow {
  const unit = window.width / 300;
  return {
    ...window,
    center: window.center + dy * unit,
    width: Math.max(window.width + dx * unit, smallestWidth(window.function, window.width)),
  };
}

function smallestWidth(voiFunction: VoiFunction, current: number): number {
  if (voiFunction === "LINEAR_EXACT") return current / 2;
  return voiFunction === "LINEAR" ? 1 : 1.01;
}

export function formatWindow({ center, width }: VoiWindow): string {
  return `W ${formatNumber(width, width)} L ${formatNumber(center, width)}`;
}

/** Whole numbers where the window is wide, else as many digits as its width deserves. */
function formatNumber(value: number, width: number): string {
  if (width >= 20) return String(Math.round(value) + 0);
  const digits = Math.min(12, Math.max(1, 2 - Math.floor(Math.log10(width))));
  return String(Number(value.toFixed(digits)));
}
