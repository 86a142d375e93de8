/** Keys and wheel: the same few in every radiology viewer. */

import type { Stack } from "../stack";

const PAGE = 10;

export function listenToKeys(stack: Stack): void {
  window.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement;
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (press(stack, event.key)) event.preventDefault();
  });
}

function press(stack: Stack, key: string): boolean {
  const actions: Record<string, () => void> = {
    ArrowUp: () => stack.scrollBy(-1),
    ArrowLeft: () => stack.scrollBy(-1),
    ArrowDown: () => stack.scrollBy(1),
    ArrowRight: () => stack.scrollBy(1),
    PageUp: () => stack.scrollBy(-PAGE),
    PageDown: () => stack.scrollBy(PAGE),
    Home: () => stack.goTo(0),
    End: () => stack.goTo(Infinity),
    i: () => stack.invert(),
    r: () => stack.reset(),
  };
  const preset = /^[1-6]$/.test(key) ? stack.presets()[Number(key) - 1] : undefined;
  const action = preset === undefined ? actions[key] : () => stack.choose(preset.choice);
  action?.();
  return action !== undefined;
}

/** One notch of a wheel is one slice; the small steps of a touchpad add up to one. */
export function listenToWheel(element: HTMLElement, stack: Stack): void {
  const notch = 60;
  let sum = 0;
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (event.deltaMode !== WheelEvent.DOM_DELTA_PIXEL || Math.abs(event.deltaY) >= notch) {
        sum = 0;
        stack.scrollBy(Math.sign(event.deltaY));
        return;
      }
      sum += event.deltaY;
      const steps = Math.trunc(sum / notch);
      sum -= steps * notch;
      if (steps !== 0) stack.scrollBy(steps);
    },
    { passive: false },
  );
}
