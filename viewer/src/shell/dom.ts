/** Elements from text, never from markup: patient names and descriptions come from files that nobody vetted. */

type Child = Node | string | null;

interface Attributes {
  class?: string;
  title?: string;
  testid?: string;
  role?: string;
  type?: string;
  placeholder?: string;
  "aria-label"?: string;
}

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes) as [string, string][]) {
    node.setAttribute(name === "testid" ? "data-testid" : name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A line drawing of 24 by 24 units. */
export function icon(path: string): SVGSVGElement {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(namespace, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Sets the text of an element, touching the document only when it differs. */
export function setText(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}
