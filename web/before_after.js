import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

// A slider between Harmonize Image's first picture and the others, where the frontend has its image compare widget: in Nodes 2.0.
// Without it the node shows the same pictures side by side.
const url = (picture) => api.apiURL(`/view?${new URLSearchParams(picture)}${app.getRandParam()}`);

app.registerExtension({
  name: "DiffHarmony.BeforeAfter",
  nodeCreated(node) {
    if (node.constructor.comfyClass !== "DiffHarmonyHarmonizeImage" || !app.ui.settings.getSettingValue("Comfy.VueNodes.Enabled")) return;
    const widget = node.addWidget("imagecompare", "before_after", ["", ""], () => {}, { serialize: false });
    if (widget?.type !== "imagecompare") return;
    widget.serialize = false;
    node.hideOutputImages = true;
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.call(this, output);
      const [before, ...after] = (output.images ?? []).map(url);
      widget.value = { beforeImages: [before], afterImages: after };
      widget.callback?.(widget.value);
    };
  },
});
