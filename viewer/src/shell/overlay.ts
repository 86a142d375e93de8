/** The text in the corners of the viewport, and the covers that stand where there is no picture. */

import type { Cover, StackState } from "../stack";
import { formatWindow } from "../voi";
import { element, setText } from "./dom";
import { date, personName, transferSyntax } from "./format";

type Corner = "top-left" | "top-right" | "bottom-left" | "bottom-right";

export class Overlay {
  readonly root = element("div", { class: "overlay" });
  private readonly lines: Record<string, HTMLElement> = {};
  private readonly cover = element("div", { class: "cover" });
  private readonly errorTitle = element("h2");
  private readonly errorDetail = element("p");
  private readonly position = element("div", { class: "position" }, element("div", { class: "position-mark" }));

  constructor(private readonly retry: () => void) {
    this.root.append(
      this.cover,
      this.corner("top-left", "patient", "patient-id", "study-date", "study"),
      this.corner("top-right", "series", "series-number", "photometric"),
      this.corner("bottom-left", "slice-number", "loaded", "zoom", "size"),
      this.corner("bottom-right", "window-level", "transfer-syntax", "backend", "notes"),
      this.position,
    );
  }

  private corner(corner: Corner, ...names: string[]): HTMLElement {
    const lines = names.map((name) => {
      const line = element("div", { class: `line line-${name}`, testid: name });
      this.lines[name] = line;
      return line;
    });
    return element("div", { class: `corner ${corner}` }, ...lines);
  }

  private set(name: string, text: string): void {
    const line = this.lines[name] as HTMLElement;
    setText(line, text);
    line.hidden = text === "";
  }

  show(state: StackState, zoomPercent: number): void {
    this.showSeries(state);
    this.showSlice(state);
    this.showPicture(state, zoomPercent);
    this.showCover(state);
  }

  private showSeries({ series }: StackState): void {
    this.set("patient", series === null ? "" : personName(series.patient_name) || "No name");
    this.set("patient-id", series?.patient_id ?? "");
    this.set("study-date", date(series?.study_date ?? ""));
    this.set("study", series?.study_description ?? "");
    this.set("series", series?.series_description ?? "");
    const number = series === null || series.series_number === null ? "" : ` · series ${series.series_number}`;
    this.set("series-number", series === null ? "" : `${series.modality}${number}`);
  }

  private showSlice({ index, count, loaded }: StackState): void {
    this.set("slice-number", count === 0 ? "" : `${index + 1} / ${count}`);
    const here = loaded.filter((is) => is).length;
    this.set("loaded", count < 2 ? "" : here === count ? "all loaded" : `${here} of ${count} loaded`);
    this.position.hidden = count < 2;
    this.position.style.backgroundImage = stripes(loaded);
    const mark = this.position.firstElementChild as HTMLElement;
    mark.style.height = `${Math.max(100 / Math.max(count, 1), 2)}%`;
    mark.style.top = `${count < 2 ? 0 : (index / (count - 1)) * (100 - Math.max(100 / count, 2))}%`;
  }

  private showPicture(state: StackState, zoomPercent: number): void {
    const { frame, picture } = state;
    const shown = frame !== null && picture !== null;
    this.set("window-level", windowText(state));
    this.set("zoom", shown ? `${Math.round(zoomPercent)} %` : "");
    this.set("size", shown ? `${frame.shape[1]} × ${frame.shape[0]}` : "");
    this.set("photometric", shown && picture.colour ? frame.photometric_interpretation : "");
    this.set("transfer-syntax", frame === null ? "" : transferSyntax(frame.transfer_syntax_uid));
    const backends = shown ? [picture.decoder, renderedBy(picture.renderer)].filter((name) => name !== "") : [];
    this.set("backend", shown ? [...backends, `${Math.round(picture.elapsedMs)} ms`].join(" · ") : "");
    this.set("notes", shown && frame.notes.length > 0 ? `⚠ ${frame.notes.join("; ")}` : "");
  }

  private showCover({ cover, series, count }: StackState): void {
    this.cover.hidden = cover.kind === "none" && count > 0;
    if (cover.kind === "error") this.cover.replaceChildren(this.errorBox(cover));
    else this.cover.replaceChildren(element("p", { class: "hint" }, coverText(cover, series !== null)));
  }

  private errorBox({ problem }: Extract<Cover, { kind: "error" }>): HTMLElement {
    setText(this.errorTitle, problem.title);
    setText(this.errorDetail, problem.detail);
    const again = element("button", { class: "button", type: "button" }, "Try again");
    again.addEventListener("click", this.retry);
    return element("div", { class: "error", testid: "frame-error", role: "alert" }, this.errorTitle, this.errorDetail, again);
  }
}

/** The bar that stands for the series, light where its slices are here. */
function stripes(loaded: boolean[]): string {
  const edges: string[] = [];
  loaded.forEach((is, index) => {
    if (is === loaded[index - 1]) return;
    const place = `${((100 * index) / loaded.length).toFixed(2)}%`;
    const before = loaded[index - 1] === true ? "#ffffff55" : "transparent";
    edges.push(`${before} ${place}`, `${is ? "#ffffff55" : "transparent"} ${place}`);
  });
  return `linear-gradient(${edges.join(", ")}, ${loaded.at(-1) === true ? "#ffffff55" : "transparent"} 100%)`;
}

function coverText(cover: Cover, open: boolean): string {
  if (cover.kind === "loading") return "Loading …";
  return open ? "This series holds no picture." : "Choose a study on the left.";
}

function windowText({ picture, window, frame, choice, inverted }: StackState): string {
  if (picture === null || window === null || frame === null) return "";
  const inversion = inverted ? " · inverted" : "";
  if (picture.stage !== "display") {
    const curve = window.function === "SIGMOID" ? " sigmoid" : "";
    return `${formatWindow(window)}${curve}${inversion}`;
  }
  const rendered = frame.voi_lut ? "VOI LUT" : picture.colour ? "Colour" : "As rendered";
  return `${choice.kind === "fixed" ? formatWindow(window) : rendered}${inversion}`;
}

/** `none` is the service's word for samples that it passed on as they are: this browser makes the picture. */
function renderedBy(backend: string): string {
  return backend === "none" ? "browser" : backend;
}
