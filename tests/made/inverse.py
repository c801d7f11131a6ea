"""A small inverse pair with made-up weights, and real photographs with masks, in iHarmony4's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffharmony.diffusion import save_unet
from diffharmony.harmony_vae import HarmonyVAE, save_harmony_vae
from diffharmony.tests.made.pretrained import make_unet, make_vae

HEIGHT, WIDTH = 40, 52
# (subset, image, its masks, suffix of the real image): spaces, umlauts and underscores
PHOTOGRAPHS = (
    ("HCOCO", "a1", ("1", "2"), ".png"),
    ("HCOCO", "with_line", ("1",), ".png"),
    ("HFlickr", "größe 3", ("7", "x y"), ".png"),
)


def inverse_pair(direction: str = "invert"):
    """A HarmonyVAE and a UNet whose condition and seed both show in the result."""
    vae = HarmonyVAE.from_autoencoder_kl(make_vae(widths=(8, 8), groups=4)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if "skip_conv" in name or "add_conv_in" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    unet = make_unet(widths=(8, 8), context=8, groups=4, heads=2)
    unet.empty_prompt_embeds = torch.randn(1, 77, 8, generator=generator)
    unet.prediction_type = "v_prediction"
    vae.direction = unet.direction = direction
    return vae, unet


def write_inverse_pair(folder: Path) -> dict[str, Path]:
    """vae and unet, and the same made to harmonize: harmonize_vae, harmonize_unet."""
    paths = {}
    for prefix, direction in (("", "invert"), ("harmonize_", "harmonize")):
        vae, unet = inverse_pair(direction)
        paths.update({f"{prefix}{kind}": folder / f"{prefix}{kind}.safetensors" for kind in ("vae", "unet")})
        save_harmony_vae(vae, paths[f"{prefix}vae"], dtype=torch.float32)
        save_unet(unet, paths[f"{prefix}unet"], dtype=torch.float32)
    return paths


def write_photographs(root: Path, *, photographs=PHOTOGRAPHS, composites: bool = True) -> list[str]:
    """Real images and soft-edged masks; with `composites` also two composites of the first mask of each, one of the others, and their
    list. Returns the list's lines."""
    rng = np.random.default_rng(0)
    lines = []
    for subset, image, masks, suffix in photographs:
        for folder in ("masks", "real_images", *(["composite_images"] if composites else [])):
            (root / subset / folder).mkdir(parents=True, exist_ok=True)
        real = np.asarray(Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT)))
        Image.fromarray(real).save(root / subset / "real_images" / f"{image}{suffix}")
        for index, mask in enumerate(masks):
            values = np.zeros((HEIGHT, WIDTH), np.uint8)
            values[8 : 24 + 4 * index, 10:30] = 255
            values[7, 10:30] = 90  # a soft edge
            Image.fromarray(values).save(root / subset / "masks" / f"{image}_{mask}.png")
            for k in range(1, (2 if index else 3) if composites else 1):
                composite = np.where(values[..., None] > 0, real // (k + 1), real)
                name = f"{subset}/composite_images/{image}_{mask}_{k}{suffix}".lstrip("/")
                Image.fromarray(composite).save(root / name)
                lines.append(name)
    if composites:
        (root / "IHD_train.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return lines


def command(name: str, models: dict[str, Path], data: Path, out: Path, *more) -> list[str]:
    """A command that makes composites with the pair, of the list IHD_train.txt, K = 4 unless `more` says otherwise."""
    options = {"data": data, "out": out, "vae": models["vae"], "unet": models["unet"], "steps": 2, "device": "cpu"}
    options |= {key: value for key, value in (("list", "IHD_train.txt"), ("candidates", 4)) if f"--{key}" not in more}
    return [name, *(str(part) for key, value in options.items() for part in (f"--{key}", value)), *map(str, more), "--json"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its path; the lock is the run's, not the result's."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
