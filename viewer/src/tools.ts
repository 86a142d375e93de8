/** What the mouse does: the chosen tool on the left button, zoom on the right, pan on the middle one. */

import {
  BaseTool,
  Enums,
  LengthTool,
  PanTool,
  ToolGroupManager,
  type Types,
  ZoomTool,
  addTool,
  annotation,
  init as initTools,
} from "@cornerstonejs/tools";

export type ToolName = "window" | "zoom" | "pan" | "length";

/** Hands a drag to the stack, whose windows keep their function and may be narrower than Cornerstone's tool allows. */
class WindowTool extends BaseTool {
  static override toolName = "GpuRenderWindow";

  mouseDragCallback(event: { detail: { deltaPoints: { canvas: [number, number] } } }): void {
    const [dx, dy] = event.detail.deltaPoints.canvas;
    (this.configuration as { onDrag: (dx: number, dy: number) => void }).onDrag(dx, dy);
  }
}

const { MouseBindings } = Enums;
const TOOLS: Record<ToolName, string> = {
  window: WindowTool.toolName,
  zoom: ZoomTool.toolName as string,
  pan: PanTool.toolName as string,
  length: LengthTool.toolName as string,
};
/** Buttons that a tool keeps, whichever tool is chosen. */
const FIXED: Partial<Record<ToolName, number>> = { zoom: MouseBindings.Secondary, pan: MouseBindings.Auxiliary };

const MEASUREMENT_STYLE = {
  color: "rgb(250, 205, 105)",
  colorHighlighted: "rgb(255, 232, 170)",
  colorSelected: "rgb(255, 232, 170)",
  textBoxColor: "rgb(250, 205, 105)",
  textBoxColorHighlighted: "rgb(255, 232, 170)",
  textBoxColorSelected: "rgb(255, 232, 170)",
  lineWidth: "1.5",
};

/** Must run before a viewport is enabled: Cornerstone's tools learn of viewports from that event. */
export function installTools(): void {
  initTools();
  [WindowTool, ZoomTool, PanTool, LengthTool].forEach(addTool);
  const style = annotation.config.style.getDefaultToolStyles();
  annotation.config.style.setDefaultToolStyles({ ...style, global: { ...style.global, ...MEASUREMENT_STYLE } });
}

export class Tools {
  private readonly group: Types.IToolGroup;

  constructor(viewportId: string, renderingEngineId: string, onDrag: (dx: number, dy: number) => void) {
    const group = ToolGroupManager.createToolGroup("viewer");
    if (group === undefined) throw new Error("the tool group exists already");
    this.group = group;
    group.addTool(TOOLS.window, { onDrag });
    group.addTool(TOOLS.zoom);
    group.addTool(TOOLS.pan);
    group.addTool(TOOLS.length);
    group.addViewport(viewportId, renderingEngineId);
    this.use("window");
  }

  use(chosen: ToolName): void {
    for (const name of Object.keys(TOOLS) as ToolName[]) this.bind(name, name === chosen);
  }

  private bind(name: ToolName, primary: boolean): void {
    // A tool keeps old bindings when it becomes active again; passive first forgets them.
    this.group.setToolPassive(TOOLS[name], { removeAllBindings: true });
    const fixed = FIXED[name];
    const buttons = [...(primary ? [MouseBindings.Primary] : []), ...(fixed === undefined ? [] : [fixed])];
    if (buttons.length === 0) return;
    this.group.setToolActive(TOOLS[name], { bindings: buttons.map((mouseButton) => ({ mouseButton })) });
  }

  clearMeasurements(): void {
    annotation.state.removeAllAnnotations();
  }
}
