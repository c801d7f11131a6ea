"""Compare one forward of the host's UNet with diffusers': `unet_parity.py FILE`. Prints one JSON object."""

import json
import sys

import extension
import torch

path = sys.argv[1]
loaded = extension.load()
load_unet = extension.part(loaded, "diffusion").load_unet
host_unet = extension.part(loaded, "nodes.host_unet")

unet = load_unet(path)
patcher = host_unet.host_model(unet, unet.prediction_type)
model = patcher.model
torch.manual_seed(1)
noisy = torch.randn(2, 4, 16, 24)
condition = torch.cat([(torch.rand(2, 1, 16, 24) > 0.5).float(), torch.randn(2, 4, 16, 24)], dim=1)
prompt = unet.empty_prompt_embeds.expand(2, -1, -1)
worst = 0.0
denoised_worst = 0.0
with torch.inference_mode():
    for t in (999, 500, 0):
        expected = unet(torch.cat([noisy, condition], dim=1), t, prompt).sample
        got = model.diffusion_model(torch.cat([noisy, condition], dim=1), torch.full((2,), float(t)), context=prompt)
        worst = max(worst, (got - expected).abs().max().item())
        sigma = model.model_sampling.sigmas[t]
        x = noisy * (1 + sigma**2) ** 0.5
        denoised = model.apply_model(x, sigma.expand(2), c_concat=condition, c_crossattn=prompt)
        if unet.prediction_type == "epsilon":
            reference = x - sigma * expected
        else:
            reference = x / (sigma**2 + 1) - expected * sigma / (sigma**2 + 1) ** 0.5
        denoised_worst = max(denoised_worst, ((denoised - reference).abs().max() / (1 + sigma)).item())
sigmas = model.model_sampling.sigmas
print(
    json.dumps(
        {
            "difference": worst,
            "denoised_difference": denoised_worst,
            "model_type": model.model_type.name,
            "sigma_min": sigmas[0].item(),
            "sigma_max": sigmas[-1].item(),
            "concat_keys": model.concat_keys,
        }
    )
)
