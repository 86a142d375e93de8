/** The list of studies, its filter, and what the index has to say. */

import type { IndexState, Problem, StudySummary } from "../api";
import { element, setText } from "./dom";
import { count, date, personName } from "./format";

export class StudyList {
  readonly root: HTMLElement;
  private readonly rows = element("div", { class: "study-rows", testid: "study-list", role: "list" });
  private readonly status = element("div", { class: "study-status", role: "status", testid: "index-status" });
  private readonly filter = element("input", {
    class: "study-filter",
    type: "search",
    placeholder: "Filter by name, ID, description …",
    "aria-label": "Filter studies",
  });
  private studies: StudySummary[] = [];
  private selected: string | null = null;

  constructor(private readonly opened: (study: StudySummary) => void) {
    this.root = element("nav", { class: "studies", "aria-label": "Studies" }, this.filter, this.rows, this.status);
    this.filter.addEventListener("input", () => this.paint());
  }

  show(studies: StudySummary[]): void {
    if (JSON.stringify(studies) === JSON.stringify(this.studies) && this.rows.childElementCount > 0) return;
    this.studies = studies;
    this.paint();
  }

  select(study: string | null): void {
    this.selected = study;
    this.paint();
  }

  /** Before there is an answer, and when there is none. */
  explain(problem: Problem): void {
    if (this.studies.length > 0) return;
    this.rows.replaceChildren(element("p", { class: "empty" }, `${problem.title}. ${problem.detail}`));
  }

  showIndex(index: IndexState): void {
    const what = `${count(index.instances, "object")}, ${count(index.frames, "frame")}`;
    const files = index.files_total === undefined ? "" : `${index.files_done ?? 0} of ${index.files_total} files, `;
    const line = element("div", {}, index.scanning ? `Scanning … ${files}${what} so far` : what);
    if (index.scanning) line.classList.add("scanning");
    this.status.replaceChildren(line, ...unreadable(index));
  }

  private paint(): void {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    const matching = this.studies.filter((study) => words.every((word) => searchText(study).includes(word)));
    if (matching.length > 0) this.rows.replaceChildren(...matching.map((study) => this.row(study)));
    else {
      const text = this.studies.length === 0 ? "No studies yet." : "No study matches the filter.";
      this.rows.replaceChildren(element("p", { class: "empty" }, text));
    }
  }

  private row(study: StudySummary): HTMLElement {
    const name = personName(study.patient_name) || "No name";
    const row = element(
      "button",
      { class: "study-row", testid: "study-row", type: "button" },
      element("span", { class: "study-name" }, name),
      element("span", { class: "study-modality" }, study.modalities.join(" ")),
      element("span", { class: "study-description" }, study.study_description || "No description"),
      element("span", { class: "study-date" }, date(study.study_date)),
      element("span", { class: "study-id" }, study.patient_id),
      element("span", { class: "study-count" }, `${study.series_count} ser · ${study.frame_count} img`),
    );
    row.title = `${name}\n${count(study.series_count, "series", "series")}, ${count(study.frame_count, "frame")}`;
    row.dataset["study"] = study.study_instance_uid;
    if (study.study_instance_uid === this.selected) row.setAttribute("aria-current", "true");
    row.addEventListener("click", () => this.opened(study));
    return row;
  }
}

function searchText(study: StudySummary): string {
  const { patient_name, patient_id, study_description, accession_number, study_date, modalities } = study;
  return [patient_name, personName(patient_name), patient_id, study_description, accession_number]
    .concat(study_date, date(study_date), modalities)
    .join(" ")
    .toLowerCase();
}

function unreadable({ unreadable: files }: IndexState): HTMLElement[] {
  if (files.length === 0) return [];
  const summary = element("summary");
  setText(summary, `${count(files.length, "file")} could not be read`);
  const lines = files.slice(0, 200).map(({ path, reason }) => element("li", {}, element("b", {}, path), ` ${reason}`));
  return [element("details", { testid: "unreadable" }, summary, element("ul", { class: "reasons" }, ...lines))];
}
