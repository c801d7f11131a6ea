"""What Load Harmonization UNet says to a file without its empty prompt: `unet_without_prompt.py FILE`. Prints it as JSON.

The only such file that a node can be given is Stable Diffusion 1.x's UNet in the original layout, of 1.7 GB: here a small one stands for it.
"""

import json
import sys

import extension

path = sys.argv[1]
loaded = extension.load()
loaders, unets = extension.part(loaded, "nodes.loaders"), extension.part(loaded, "diffusion.unet")
load_unet = unets.load_unet


def without_prompt(path):
    unet = load_unet(path)
    unet.empty_prompt_embeds = None
    return unet


unets.load_unet = without_prompt
loaders.folder_paths.get_full_path_or_raise = lambda folder, name: path
try:
    loaders.load_host_unet("sd15.SAFETENSORS", "harmonize")
    print(json.dumps(None))
except ValueError as error:
    print(json.dumps(str(error)))
