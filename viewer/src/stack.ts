/**
 * The stack in the viewport: which slice, which window, and the promise that number and picture always agree.
 *
 * A frame is loaded first and handed to Cornerstone when its pixels are here. Until then the old picture stays with
 * its own number, and after a moment both give way to a "loading" cover that bears the new number. A failure is a
 * cover, too, and never the end of scrolling.
 */

import { type Types, Enums } from "@cornerstonejs/core";

import { type Frame, type Series, type VoiWindow, Problem, isAbort } from "./api";
import { type FramePicture } from "./frames";
import { isLoaded, load, onHeldChange, openSeries, pictureOf } from "./frame-store";
import { Prefetcher } from "./prefetch";
import { type NamedWindow, draggedWindow, modalityPresets, windowRange } from "./voi";

/** "file": the frame's own window of that index, where it has one; "range": lowest to highest; else one for all. */
export type WindowChoice = { kind: "file"; index: number } | { kind: "range" } | { kind: "fixed"; window: VoiWindow };

export interface Preset {
  name: string;
  choice: WindowChoice;
}

export type Cover = { kind: "none" } | { kind: "loading" } | { kind: "error"; problem: Problem };

export interface StackState {
  series: Series | null;
  /** The slice that the number shows, from 0. */
  index: number;
  count: number;
  cover: Cover;
  frame: Frame | null;
  /** Null while no picture is in view. */
  picture: FramePicture | null;
  window: VoiWindow | null;
  choice: WindowChoice;
  inverted: boolean;
  /** Which slices are here. */
  loaded: boolean[];
}

const FIRST_WINDOW: WindowChoice = { kind: "file", index: 0 };
/** A picture that comes this soon replaces the old one without a cover between them. */
const COVER_AFTER_MS = 150;

export class Stack {
  private series: Series | null = null;
  private imageIds: string[] = [];
  private prefetcher: Prefetcher | null = null;
  private mounted = false;
  private target = 0;
  private shown = 0;
  private request = 0;
  private coverTimer = 0;
  private telling = 0;
  private cover: Cover = { kind: "none" };
  private choice: WindowChoice = FIRST_WINDOW;
  /** Rendered pictures have greys of their own, which a window in HU would ruin; so they have a choice of their own. */
  private renderedChoice: WindowChoice = FIRST_WINDOW;
  private inverted = false;

  constructor(
    readonly viewport: Types.IStackViewport,
    private readonly changed: (state: StackState) => void,
  ) {
    viewport.element.addEventListener(Enums.Events.STACK_NEW_IMAGE, () => this.applyWindow());
    onHeldChange(() => this.tellSoon());
  }

  /** Frames may come by the hundred a second: told once a picture of the screen. */
  private tellSoon(): void {
    if (this.telling !== 0) return;
    this.telling = requestAnimationFrame(() => {
      this.telling = 0;
      this.changed(this.state());
    });
  }

  /** Shows a series from slice `index` on; null says that there is nothing to show. */
  async open(series: Series | null, index = 0): Promise<void> {
    this.empty(series === null || series.frames.length === 0 ? { kind: "none" } : { kind: "loading" }, series);
    if (series === null) return;
    this.imageIds = openSeries(series);
    this.prefetcher = new Prefetcher(series, this.imageIds);
    if (this.imageIds.length > 0) await this.show(index, 1);
  }

  /** Takes the old series out of the viewport: while the next one is on its way, or when it failed to come. */
  empty(cover: Cover, series: Series | null = null): void {
    this.prefetcher?.stop();
    this.prefetcher = null;
    this.series = series;
    this.imageIds = [];
    this.mounted = false;
    this.target = 0;
    this.choice = FIRST_WINDOW;
    this.renderedChoice = FIRST_WINDOW;
    this.inverted = false;
    this.request += 1;
    clearTimeout(this.coverTimer);
    this.setCover(cover, 0);
  }

  scrollBy(delta: number): void {
    if (this.imageIds.length > 0) void this.show(this.target + delta, Math.sign(delta));
  }

  goTo(index: number): void {
    if (this.imageIds.length > 0) void this.show(index, Math.sign(index - this.target) || 1);
  }

  retry(): void {
    if (this.imageIds.length > 0) void this.show(this.target, 1);
  }

  private async show(wanted: number, direction: number): Promise<void> {
    const index = Math.max(0, Math.min(this.imageIds.length - 1, wanted));
    if (index === this.target && this.mounted && this.cover.kind === "none" && this.shown === index) return;
    const imageId = this.imageIds[index] as string;
    const request = ++this.request;
    this.target = index;
    clearTimeout(this.coverTimer);
    if (!isLoaded(imageId)) this.coverSoon(index);
    const loading = load(imageId);
    this.prefetcher?.moveTo(index, direction);
    try {
      await loading;
      if (request === this.request) await this.mount(index);
    } catch (error) {
      if (request === this.request && !isAbort(error)) this.fail(index, error);
    }
  }

  private coverSoon(index: number): void {
    if (!this.mounted || this.cover.kind !== "none") this.setCover({ kind: "loading" }, index);
    else this.coverTimer = window.setTimeout(() => this.setCover({ kind: "loading" }, index), COVER_AFTER_MS);
  }

  private fail(index: number, error: unknown): void {
    clearTimeout(this.coverTimer);
    this.setCover({ kind: "error", problem: Problem.from(error) }, index);
  }

  /** Hands a loaded frame to Cornerstone, which finds it in its cache. */
  private async mount(index: number): Promise<void> {
    clearTimeout(this.coverTimer);
    this.shown = index;
    if (this.mounted) await this.viewport.setImageIdIndex(index);
    else await this.viewport.setStack(this.imageIds, index);
    if (this.shown !== index) return;
    this.mounted = true;
    if (this.viewport.getCornerstoneImage()?.imageId !== this.imageIds[index]) {
      throw new Problem("The picture cannot be shown", "The browser could not draw this frame.");
    }
    this.setCover({ kind: "none" }, index);
    this.applyWindow();
  }

  private setCover(cover: Cover, index: number): void {
    this.cover = cover;
    this.shown = index;
    this.changed(this.state());
  }

  /** What is known of the image that Cornerstone holds, seen or not. */
  private held(): FramePicture | undefined {
    const image = this.viewport.getCornerstoneImage() as Types.IImage | undefined;
    return image === undefined ? undefined : pictureOf(image.imageId);
  }

  private inView(): FramePicture | null {
    return this.mounted && this.cover.kind === "none" ? (this.held() ?? null) : null;
  }

  state(): StackState {
    const picture = this.inView();
    return {
      series: this.series,
      index: this.shown,
      count: this.imageIds.length,
      cover: this.cover,
      frame: this.series?.frames[this.shown] ?? null,
      picture,
      window: picture === null ? null : this.windowFor(picture),
      choice: picture === null ? this.choice : this.choiceFor(picture),
      inverted: this.inverted,
      loaded: this.imageIds.map(isLoaded),
    };
  }

  private choiceFor(picture: FramePicture): WindowChoice {
    return picture.stage === "display" ? this.renderedChoice : this.choice;
  }

  private windowFor(picture: FramePicture): VoiWindow {
    const choice = this.choiceFor(picture);
    if (choice.kind === "fixed") return choice.window;
    if (choice.kind === "range") return picture.fullRange;
    return (picture.windows[choice.index] ?? picture.windows[0])?.window ?? picture.fullRange;
  }

  /** The file's windows by their explanation, then the modality's usual ones, then the whole range. */
  presets(): Preset[] {
    const picture = this.inView();
    if (picture === null || this.series === null) return [];
    if (picture.stage === "display") return [{ name: "As rendered", choice: FIRST_WINDOW }];
    const usual = picture.colour ? [] : modalityPresets(this.series.modality);
    const fixed = ({ name, window }: NamedWindow): Preset => ({ name, choice: { kind: "fixed", window } });
    const file = picture.windows.map(({ name }, index): Preset => ({ name, choice: { kind: "file", index } }));
    return [...file, ...usual.map(fixed), { name: "Full range", choice: { kind: "range" } }];
  }

  choose(choice: WindowChoice): void {
    const picture = this.inView();
    if (picture === null) return;
    if (picture.stage === "display") this.renderedChoice = choice;
    else this.choice = choice;
    this.refresh();
  }

  dragWindow(dx: number, dy: number): void {
    const picture = this.inView();
    if (picture === null) return;
    this.choose({ kind: "fixed", window: draggedWindow(this.windowFor(picture), dx, dy) });
  }

  invert(): void {
    this.inverted = !this.inverted;
    this.refresh();
  }

  /** Window, inversion, zoom and position back to what they were when the series was opened. */
  reset(): void {
    this.choice = FIRST_WINDOW;
    this.renderedChoice = FIRST_WINDOW;
    this.inverted = false;
    if (this.mounted) this.viewport.resetCamera();
    this.refresh();
  }

  private refresh(): void {
    this.applyWindow();
    this.changed(this.state());
  }

  /** Gives Cornerstone the range of the window in use. No request: the values are here. */
  private applyWindow(): void {
    const picture = this.held();
    if (picture === undefined) return;
    const voi = this.windowFor(picture);
    const functions = Enums.VOILUTFunctionType;
    this.viewport.setProperties({
      voiRange: windowRange(voi),
      VOILUTFunction: voi.function === "SIGMOID" ? functions.SAMPLED_SIGMOID : functions.LINEAR,
      invert: picture.inverse !== this.inverted,
    });
    this.viewport.render();
  }
}
