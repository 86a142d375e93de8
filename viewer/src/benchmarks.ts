/** `/benchmarks`: the results that the service knows, drawn. Nothing is fetched but `GET /api/benchmarks`. */

import "./benchmarks.css";
import { element, setText } from "./shell/dom";
import { fetchResults, type Result, type Results } from "./benchmarks/results";
import { history, latency, listing, roofline, throughput, type Drawn } from "./benchmarks/sections";

const SECTIONS: { id: string; title: string; of: (results: Result[]) => Drawn }[] = [
  { id: "latency", title: "One slice, by transfer syntax", of: latency },
  { id: "throughput", title: "Throughput over concurrency", of: throughput },
  { id: "roofline", title: "Roofline", of: roofline },
  { id: "history", title: "History over revisions", of: history },
];
const THEME = "gpu-render.benchmarks.theme";

function select(label: string, options: [value: string, text: string][], changed: (value: string) => void): HTMLElement {
  const node = element("select", {}, ...options.map(([value, text]) => option(value, text)));
  node.addEventListener("change", () => changed(node.value));
  return element("label", { class: "choice" }, element("span", {}, label), node);
}

function option(value: string, text: string): HTMLOptionElement {
  const node = element("option", {}, text);
  node.value = value;
  return node;
}

function section(id: string, title: string, drawn: Drawn): HTMLElement {
  const content = element("div", { testid: `${id}-content` });
  const show = (choice: string): void => content.replaceChildren(...drawn.draw(choice));
  const choices = drawn.choices.map((choice): [string, string] => [choice, choice]);
  const head = element("div", { class: "section-head" }, element("h2", {}, title));
  if (choices.length > 1) head.append(select("of", choices, show));
  show(drawn.choices[0] ?? "");
  const node = element("section", { testid: id, "aria-label": title }, head, content);
  node.id = id;
  return node;
}

/** Processor, cores and GPU in words; the results say them all alike. */
function machineName(results: Result[]): string {
  const { cpu, cores, gpus } = results[0]!.run.machine;
  return `${cpu}, ${cores} cores, ${gpus[0]?.name ?? "no GPU"}`;
}

/** Newest measurement first. */
function byMachine(results: Result[]): Map<string, Result[]> {
  const found = new Map<string, Result[]>();
  for (const result of [...results].sort((a, b) => b.run.date.localeCompare(a.run.date))) {
    found.set(result.machine, [...(found.get(result.machine) ?? []), result]);
  }
  return found;
}

function page({ results, unreadable }: Results): Node[] {
  const machines = byMachine(results);
  if (machines.size === 0)
    return [element("p", { class: "nothing", testid: "empty" }, "No results are installed. ", element("code", {}, "gpu-render bench"), " makes some.")];
  const body = element("div", { testid: "machine" });
  const show = (machine: string): void => {
    const own = machines.get(machine) ?? [];
    body.replaceChildren(listing(own), ...SECTIONS.map(({ id, title, of }) => section(id, title, of(own))));
    body.dataset["machine"] = machine;
  };
  const wanted = new URLSearchParams(location.search).get("machine") ?? "";
  const first = machines.has(wanted) ? wanted : [...machines.keys()][0]!;
  const options = [...machines].map(([slug, own]): [string, string] => [slug, machineName(own)]);
  const chooser = select("Machine", options, show);
  chooser.querySelector("select")!.value = first;
  show(first);
  const refused = Object.keys(unreadable);
  const note = refused.length > 0 ? element("p", { class: "caption" }, `Not readable: ${refused.join(", ")}.`) : null;
  const intro = element("p", { class: "intro" }, "A typical slice should come in under 2 s; 5 s is the alarm. Figures of different machines cannot be compared.");
  return [element("div", { class: "top" }, chooser, intro), ...(note === null ? [] : [note]), body];
}

function themeButton(): HTMLElement {
  const button = element("button", { class: "theme", type: "button", testid: "theme" });
  const apply = (theme: string): void => {
    document.documentElement.dataset["theme"] = theme;
    setText(button, theme === "dark" ? "Light" : "Dark");
    button.setAttribute("aria-label", `${button.textContent} colours`);
  };
  const wished = matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
  apply(localStorage.getItem(THEME) ?? wished);
  button.addEventListener("click", () => {
    const theme = document.documentElement.dataset["theme"] === "dark" ? "light" : "dark";
    localStorage.setItem(THEME, theme);
    apply(theme);
  });
  return button;
}

function link(href: string, text: string): HTMLAnchorElement {
  const node = element("a", {}, text);
  node.href = href;
  return node;
}

async function main(): Promise<void> {
  const content = element("main", { testid: "content" }, element("p", { class: "nothing" }, "Loading"));
  const brand = element("h1", { class: "brand" }, element("b", {}, "gpu-render"), " benchmarks");
  const links = element("nav", { "aria-label": "Pages" }, link("/", "Viewer"), link("/docs", "API"), link("/api/benchmarks", "JSON"));
  const header = element("header", { class: "header" }, brand, links, themeButton());
  document.getElementById("benchmarks")!.replaceChildren(header, content);
  try {
    content.replaceChildren(...page(await fetchResults()));
  } catch (error) {
    const text = error instanceof Error ? error.message : "";
    const note = element("p", { class: "nothing", role: "alert" }, `The results could not be read: ${text}. Reload to try again.`);
    content.replaceChildren(note);
  }
}

void main();
