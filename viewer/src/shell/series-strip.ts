/** The series of the open study: a small picture of each, and what in the open one cannot be shown. */

import type { Series, SeriesSummary, StudySummary } from "../api";
import { element } from "./dom";
import { count } from "./format";
import { paintThumbnail } from "./thumbnail";

export class SeriesStrip {
  readonly root = element("nav", { class: "series-strip", "aria-label": "Series" });
  private readonly items = element("div", { class: "series-items", role: "list" });
  private readonly problems = element("div", { class: "series-problems" });
  private abort = new AbortController();

  constructor(private readonly opened: (series: SeriesSummary) => void) {
    this.root.append(this.items, this.problems);
  }

  show(study: StudySummary | null): void {
    this.abort.abort();
    this.abort = new AbortController();
    this.items.replaceChildren(...(study?.series ?? []).map((series) => this.item(study as StudySummary, series)));
    this.problems.replaceChildren();
  }

  select(series: string | null): void {
    for (const item of this.items.children) {
      const current = (item as HTMLElement).dataset["series"] === series;
      item.toggleAttribute("aria-current", current);
      if (current) item.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  showProblems({ problems }: Series): void {
    if (problems.length === 0) return this.problems.replaceChildren();
    const summary = element("summary", {}, `${count(problems.length, "object")} without a picture`);
    const lines = problems.slice(0, 200).map(({ sop_instance_uid, reason }) => {
      const line = element("li", {}, reason);
      line.title = sop_instance_uid;
      return line;
    });
    const list = element("ul", { class: "reasons" }, ...lines);
    this.problems.replaceChildren(element("details", { testid: "series-problems" }, summary, list));
  }

  private item(study: StudySummary, series: SeriesSummary): HTMLElement {
    const canvas = element("canvas", { class: "thumbnail" });
    const description = series.series_description || "No description";
    const item = element(
      "button",
      { class: "series-item", testid: "series-item", type: "button", title: description },
      element("span", { class: "thumbnail-box" }, canvas, element("span", { class: "series-modality" }, series.modality)),
      element("span", { class: "series-text" }, description),
      element("span", { class: "series-count" }, label(series)),
    );
    item.dataset["series"] = series.series_instance_uid;
    item.addEventListener("click", () => this.opened(series));
    void paintThumbnail(canvas, study, series, this.abort.signal);
    return item;
  }
}

function label({ series_number, frame_count }: SeriesSummary): string {
  const number = series_number === null ? "" : `#${series_number} · `;
  return `${number}${count(frame_count, "image")}`;
}
