/** Puts the parts together: study list, series strip, toolbar, viewport. */

import { type Types, Enums, RenderingEngine, init as initCore } from "@cornerstonejs/core";

import { Problem, type SeriesSummary, type StudySummary, getIndex, getSeries, getStudies, isAbort } from "./api";
import { installFrameStore } from "./frame-store";
import { readAddress, writeAddress } from "./shell/address";
import { element } from "./shell/dom";
import { listenToKeys, listenToWheel } from "./shell/keyboard";
import { Overlay } from "./shell/overlay";
import { SeriesStrip } from "./shell/series-strip";
import { StudyList } from "./shell/study-list";
import { Toolbar } from "./shell/toolbar";
import { Stack, type StackState } from "./stack";
import "./style.css";
import { Tools, installTools } from "./tools";

const ENGINE_ID = "engine";
const VIEWPORT_ID = "viewport";
const POLL_SCANNING_MS = 1_500;
const POLL_IDLE_MS = 15_000;

declare global {
  interface Window {
    /** Cornerstone's viewport, for tests that compare pixels. */
    gpuRenderTest?: { viewport: Types.IStackViewport };
  }
}

class App {
  private readonly root = document.getElementById("app") as HTMLElement;
  private readonly canvasHost = element("div", { class: "viewport", testid: "viewport" });
  private readonly overlay = new Overlay(() => this.retry());
  private readonly studies = new StudyList((study) => void this.openStudy(study));
  private readonly strip = new SeriesStrip((series) => void this.openSeries(series));
  private readonly stack: Stack;
  private readonly toolbar: Toolbar;
  private study: StudySummary | null = null;
  private known: StudySummary[] = [];
  private opening = new AbortController();
  /** What the address asked for, until it is open. */
  private wanted = readAddress();

  constructor() {
    const stage = element("main", { class: "stage" }, this.canvasHost, this.overlay.root);
    const body = element("div", { class: "body" }, this.studies.root, this.strip.root, stage);
    this.root.append(body);
    const viewport = createViewport(this.canvasHost);
    window.gpuRenderTest = { viewport };
    this.stack = new Stack(viewport, (state) => this.paint(state));
    const tools = new Tools(VIEWPORT_ID, ENGINE_ID, (dx, dy) => this.stack.dragWindow(dx, dy));
    this.toolbar = new Toolbar({
      useTool: (name) => tools.use(name),
      choose: (choice) => this.stack.choose(choice),
      invert: () => this.stack.invert(),
      reset: () => this.stack.reset(),
      clear: () => {
        tools.clearMeasurements();
        viewport.render();
      },
      toggleStudies: () => this.root.classList.toggle("studies-hidden"),
    });
    this.root.prepend(element("header", { class: "header" }, brand(), this.toolbar.root));
    this.listen(viewport, stage);
    this.paint(this.stack.state());
  }

  private listen(viewport: Types.IStackViewport, stage: HTMLElement): void {
    listenToKeys(this.stack);
    listenToWheel(stage, this.stack);
    this.canvasHost.addEventListener("contextmenu", (event) => event.preventDefault());
    this.canvasHost.addEventListener(Enums.Events.CAMERA_MODIFIED, () => this.paint(this.stack.state()));
    new ResizeObserver(() => viewport.getRenderingEngine()?.resize(true, true)).observe(this.canvasHost);
    window.addEventListener("hashchange", () => {
      this.wanted = readAddress();
      this.followAddress(this.known);
    });
  }

  /** Keeps the list up to date: often while the index is being made, now and then afterwards. */
  async poll(): Promise<void> {
    let pause = POLL_IDLE_MS;
    try {
      const [index, studies] = await Promise.all([getIndex(), getStudies()]);
      this.known = studies;
      this.studies.show(studies);
      this.studies.showIndex(index);
      this.followAddress(studies);
      if (index.scanning) pause = POLL_SCANNING_MS;
    } catch (error) {
      this.studies.explain(Problem.from(error));
      pause = POLL_SCANNING_MS;
    }
    window.setTimeout(() => void this.poll(), pause);
  }

  /** Opens what the address names as soon as the index knows it. */
  private followAddress(studies: StudySummary[]): void {
    const { study, series, slice } = this.wanted;
    const found = studies.find(({ study_instance_uid }) => study_instance_uid === study);
    if (found === undefined) return;
    this.wanted = { study: null, series: null, slice: 1 };
    void this.openStudy(found, series, slice);
  }

  private async openStudy(study: StudySummary, series: string | null = null, slice = 1): Promise<void> {
    this.study = study;
    this.wanted = { study: null, series: null, slice: 1 };
    this.studies.select(study.study_instance_uid);
    this.strip.show(study);
    const named = study.series.find(({ series_instance_uid }) => series_instance_uid === series);
    const first = study.series.find(({ thumbnail }) => thumbnail !== null) ?? study.series[0];
    const chosen = named ?? first;
    if (chosen === undefined) await this.stack.open(null);
    else await this.openSeries(chosen, named === undefined ? 1 : slice);
  }

  private async openSeries({ series_instance_uid }: SeriesSummary, slice = 1): Promise<void> {
    if (this.study === null) return;
    const study = this.study.study_instance_uid;
    this.opening.abort();
    this.opening = new AbortController();
    const { signal } = this.opening;
    this.strip.select(series_instance_uid);
    writeAddress({ study, series: series_instance_uid, slice });
    this.stack.empty({ kind: "loading" });
    try {
      const series = await getSeries(study, series_instance_uid, signal);
      if (signal.aborted) return;
      this.strip.showProblems(series);
      await this.stack.open(series, slice - 1);
    } catch (error) {
      if (!isAbort(error)) this.stack.empty({ kind: "error", problem: Problem.from(error) });
    }
  }

  /** Asks once more for what failed: the frame, or the whole series. */
  private retry(): void {
    if (this.stack.state().count > 0) return this.stack.retry();
    this.wanted = readAddress();
    this.followAddress(this.known);
  }

  private paint(state: StackState): void {
    this.overlay.show(state, zoomPercent(this.stack.viewport));
    this.toolbar.showPresets(state.picture === null ? [] : this.stack.presets(), state.choice);
    if (state.series !== null && state.count > 0) {
      const { study_instance_uid, series_instance_uid } = state.series;
      writeAddress({ study: study_instance_uid, series: series_instance_uid, slice: state.index + 1 });
    }
  }
}

function brand(): HTMLElement {
  return element("div", { class: "brand" }, element("b", {}, "gpu-render"));
}

function createViewport(host: HTMLDivElement): Types.IStackViewport {
  const engine = new RenderingEngine(ENGINE_ID);
  engine.enableElement({
    viewportId: VIEWPORT_ID,
    type: Enums.ViewportType.STACK,
    element: host,
    defaultOptions: { background: [0, 0, 0] },
  });
  return engine.getViewport(VIEWPORT_ID) as Types.IStackViewport;
}

/** CSS pixels per stored pixel, along a column. */
function zoomPercent(viewport: Types.IStackViewport): number {
  const image = viewport.getCornerstoneImage() as Types.IImage | undefined;
  const scale = viewport.getCamera().parallelScale ?? 0;
  if (image === undefined || scale === 0) return 100;
  return (100 * viewport.element.clientHeight * image.rowPixelSpacing) / (2 * scale);
}

function hasWebGl2(): boolean {
  return document.createElement("canvas").getContext("webgl2") !== null;
}

function start(): void {
  if (!hasWebGl2()) {
    // Cornerstone's fallback without it bends some windows; no picture is better than a wrong one.
    const text = "This viewer needs WebGL 2, which this browser does not offer or has switched off.";
    document.getElementById("app")?.append(element("p", { class: "empty", role: "alert" }, text));
    return;
  }
  initCore();
  installTools();
  installFrameStore();
  void new App().poll();
}

start();
