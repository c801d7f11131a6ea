"""Compare forwards of the host's UNet with diffusers': `unet_parity.py FILE...`. Prints one JSON object, by file name."""

import json
import sys
from pathlib import Path

import extension
import torch

paths = sys.argv[1:]
loaded = extension.load()
load_unet = extension.part(loaded, "diffusion").load_unet
host_model = extension.part(loaded, "nodes.host_unet").host_model


@torch.inference_mode()
def compare(path: str) -> dict:
    unet = load_unet(path)
    model = host_model(unet, unet.prediction_type).model
    generator = torch.Generator().manual_seed(1)
    noisy, latent = (torch.randn(2, 4, 16, 24, generator=generator) for _ in range(2))
    condition = torch.cat([(torch.rand(2, 1, 16, 24, generator=generator) > 0.5).float(), latent], dim=1)
    prompt = unet.empty_prompt_embeds.expand(2, -1, -1)
    stacked = torch.cat([noisy, condition], dim=1)
    forward, denoised = 0.0, 0.0
    for t in (999, 500, 0):
        expected = unet(stacked, t, prompt).sample
        got = model.diffusion_model(stacked, torch.full((2,), float(t)), context=prompt)
        forward = max(forward, (got - expected).abs().max().item())
        sigma = model.model_sampling.sigmas[t]
        x = noisy * (1 + sigma**2) ** 0.5
        if unet.prediction_type == "epsilon":
            reference = x - sigma * expected
        else:
            reference = x / (sigma**2 + 1) - expected * sigma / (sigma**2 + 1) ** 0.5
        got = model.apply_model(x, sigma.expand(2), c_concat=condition, c_crossattn=prompt)
        denoised = max(denoised, ((got - reference).abs().max() / (1 + sigma)).item())
    sigmas = model.model_sampling.sigmas
    return {
        "forward_difference": forward,
        "denoised_difference": denoised,
        "model_type": model.model_type.name,
        "sigma_range": [sigmas[0].item(), sigmas[-1].item()],
        "concat_keys": model.concat_keys,
    }


def outcome(path: str) -> dict:
    try:
        return compare(path)
    except ValueError as error:
        return {"refused": str(error)}


print(json.dumps({Path(path).stem: outcome(path) for path in paths}))
