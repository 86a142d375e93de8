/** Tools, actions and window presets. */

import type { Preset, WindowChoice } from "../stack";
import type { ToolName } from "../tools";
import { formatWindow } from "../voi";
import { element, icon } from "./dom";

export interface ToolbarActions {
  useTool: (name: ToolName) => void;
  choose: (choice: WindowChoice) => void;
  invert: () => void;
  reset: () => void;
  clear: () => void;
  toggleStudies: () => void;
}

const TOOLS: { name: ToolName; label: string; title: string; path: string }[] = [
  {
    name: "window",
    label: "Window",
    title: "Window: drag right to widen, down to raise the level",
    path: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 3v18M12 7h7M12 12h9M12 17h7",
  },
  {
    name: "zoom",
    label: "Zoom",
    title: "Zoom (always on the right button)",
    path: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5 21 21M10.5 7.5v6M7.5 10.5h6",
  },
  {
    name: "pan",
    label: "Pan",
    title: "Pan (always on the middle button)",
    path: "M12 3v18M3 12h18M12 3l-3 3M12 3l3 3M12 21l-3-3M12 21l3-3M3 12l3-3M3 12l3 3M21 12l-3-3M21 12l-3 3",
  },
  {
    name: "length",
    label: "Length",
    title: "Length: drag from end to end",
    path: "M3 16 16 3l5 5L8 21zM7 12l2 2M10 9l3 3M13 6l2 2",
  },
];
const INVERT = "M4 4h16v16H4zM4 20 20 4M13 16h4";
const RESET = "M4 12a8 8 0 1 0 2.5-5.8M4 4v4.5h4.5";
const CLEAR = "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13";
const LIST = "M4 6h16M4 12h16M4 18h16";

export class Toolbar {
  readonly root = element("div", { class: "toolbar", role: "toolbar" });
  private readonly tools = new Map<ToolName, HTMLButtonElement>();
  private readonly presets = element("div", { class: "presets", testid: "presets", role: "group" });
  private painted = "";

  constructor(private readonly actions: ToolbarActions) {
    for (const { name, label, title, path } of TOOLS) {
      const button = toolButton(`tool-${name}`, label, title, path, () => this.use(name));
      this.tools.set(name, button);
    }
    this.root.append(
      toolButton("toggle-studies", "Studies", "Show or hide the list of studies", LIST, actions.toggleStudies),
      element("span", { class: "gap" }),
      ...this.tools.values(),
      element("span", { class: "gap" }),
      toolButton("action-invert", "Invert", "Invert (i)", INVERT, actions.invert),
      toolButton("action-reset", "Reset", "Reset window, zoom and position (r)", RESET, actions.reset),
      toolButton("action-clear", "Clear", "Remove all measurements", CLEAR, actions.clear),
      element("span", { class: "gap" }),
      this.presets,
    );
    this.use("window");
  }

  use(name: ToolName): void {
    for (const [tool, button] of this.tools) button.setAttribute("aria-pressed", String(tool === name));
    this.actions.useTool(name);
  }

  showPresets(presets: Preset[], choice: WindowChoice): void {
    const state = JSON.stringify([presets, choice]);
    if (state === this.painted) return;
    this.painted = state;
    this.presets.replaceChildren(...presets.map((preset, index) => this.preset(preset, index, choice)));
  }

  private preset({ name, choice }: Preset, index: number, current: WindowChoice): HTMLElement {
    const key = index < 6 ? String(index + 1) : "";
    const values = choice.kind === "fixed" ? ` · ${formatWindow(choice.window)}` : "";
    const title = `${name}${values}${key === "" ? "" : ` (${key})`}`;
    const button = element("button", { class: "preset", type: "button", title });
    button.append(element("span", { class: "preset-name" }, name));
    if (key !== "") button.append(element("kbd", {}, key));
    button.setAttribute("aria-pressed", String(JSON.stringify(choice) === JSON.stringify(current)));
    button.addEventListener("click", () => this.actions.choose(choice));
    return button;
  }
}

function toolButton(
  testid: string,
  label: string,
  title: string,
  path: string,
  click: () => void,
): HTMLButtonElement {
  const button = element("button", { class: "tool", type: "button", title, testid }, icon(path));
  button.append(element("span", { class: "tool-label" }, label));
  button.addEventListener("click", click);
  return button;
}
