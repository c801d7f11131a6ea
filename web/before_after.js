import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

// A slider between Harmonize Image's first picture and the others, where the frontend draws its image compare widget: in Nodes 2.0.
// Where it does not, the node shows the same pictures side by side. The setting may change while the node is there.
const NODE = "DiffHarmonyHarmonizeImage";
const slides = () => app.ui.settings.getSettingValue("Comfy.VueNodes.Enabled");
const url = (picture) => api.apiURL(`/view?${new URLSearchParams(picture)}${app.getRandParam()}`);

function show(node, output) {
  const [before, ...after] = (output?.images ?? []).map(url);
  const widget = node.widgets.find((one) => one.name === "before_after");
  if (!before || !widget) return;
  widget.value = { beforeImages: [before], afterImages: after };
  widget.callback?.(widget.value);
}

app.registerExtension({
  name: "DiffHarmony.BeforeAfter",
  nodeCreated(node) {
    if (node.constructor.comfyClass !== NODE) return;
    const widget = node.addWidget("imagecompare", "before_after", ["", ""], () => {}, { serialize: false });
    widget.serialize = false;
    Object.defineProperty(widget, "hidden", { get: () => !slides(), set() {}, configurable: true });
    Object.defineProperty(node, "hideOutputImages", { get: slides, set() {}, configurable: true });
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.call(this, output);
      show(this, output);
    };
  },
  // of an earlier run, as when its tab or its job is opened again
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = app.graph.getNodeById(id);
      if (node?.constructor.comfyClass === NODE) show(node, output);
    }
  },
});
