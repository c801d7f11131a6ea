"""Any image with any mask, in the library and by the command: the same size back, or a refusal that says why."""

import io

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.common.images import load_image, load_mask
from diffharmony.diffusion import harmonize, load_unet
from diffharmony.harmony_vae import load_harmony_vae
from diffharmony.tests.made.refinement import make_models

FEW = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), max_examples=60)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "YCbCr", "HSV", "LAB")
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp"}
sides = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 255, 1024, 4096, 4097]))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def pair(models):
    return load_harmony_vae(models / "vae.safetensors"), load_unet(models / "unet.safetensors")


def picture(mode: str, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 5000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert("RGB").convert(mode)


@given(mode=st.sampled_from(MODES), form=st.sampled_from(sorted(FORMATS)), width=sides, height=st.integers(1, 40), orientation=st.sampled_from([0, 1, 3, 6, 8, 9, 65535]))
@example("RGB", "PNG", 1, 4097, 6)
@example("CMYK", "JPEG", 4097, 2, 1)
@settings(FEW, max_examples=150)
def test_picture_files_of_every_mode(tmp_path_factory, mode, form, width, height, orientation):
    image, path = picture(mode, width, height), tmp_path_factory.mktemp("picture") / f"a{FORMATS[form]}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    try:
        image.save(path, form, **({} if form in ("BMP", "TIFF") else {"exif": exif}))  # Pillow turns TIFF by itself
    except (OSError, ValueError, KeyError):  # a mode that the format has not
        return
    turned = form not in ("BMP", "TIFF") and orientation in (6, 8)
    found = load_image(path)
    assert found.shape == (1, 3, *((width, height) if turned else (height, width))) and found.dtype == torch.float32
    assert -1 <= found.min() and found.max() <= 1
    try:
        mask = load_mask(path)
    except ValueError as error:
        assert " must " in str(error) and "\n" not in str(error)
    else:
        assert mask.shape == (1, 1, *found.shape[2:]) and 0 <= mask.min() and mask.max() <= 1


def mask_of(kind: str, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(1, 1, height, width)
    if kind == "full":
        mask += 1
    elif kind == "one pixel":
        mask[..., height // 2, width // 2] = 1
    elif kind == "soft":
        mask = torch.linspace(0, 1, height * width).reshape(1, 1, height, width)
    elif kind == "nan":
        mask[..., 0, 0] = float("nan")
    elif kind == "too bright":
        mask += 255
    return mask.to(dtype)


@given(
    height=st.integers(1, 70), width=st.integers(1, 70), channels=st.sampled_from([3, 3, 3, 3, 1, 4]), images=st.sampled_from([1, 1, 2, 3]), masks=st.sampled_from([1, 1, 2]),
    kind=st.sampled_from(["empty", "full", "soft", "one pixel", "one pixel", "nan", "too bright"]), value=st.sampled_from([0.5, 0.5, -1.0, 1.0, float("nan"), float("inf"), 255.0]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]),
    mask_dtype=st.sampled_from([torch.float32, torch.float16, torch.float64, torch.bool, torch.uint8]), detail=st.sampled_from(["transfer", "change", "decoded"]),
)  # fmt: skip
@FEW
def test_tensors_of_every_shape(pair, height, width, channels, images, masks, kind, value, dtype, mask_dtype, detail):
    composite = (torch.rand(images, channels, height, width, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8).to(dtype)
    composite[0, 0, 0, 0] = torch.tensor(value).to(dtype) if composite.is_floating_point() else 1
    mask = mask_of(kind, height, width, mask_dtype).repeat(masks, 1, 1, 1)
    try:
        out = harmonize(*pair, composite, mask, steps=1, detail=detail, size="native")
    except ValueError as error:
        assert " must " in str(error) and "\n" not in str(error)
        return
    assert out.shape == (max(images, masks), 3, height, width) and torch.isfinite(out).all()
    assert channels == 3 and composite.is_floating_point() and kind not in ("nan", "too bright") or mask_dtype == torch.bool
    kept = (mask.float() == 0).expand(out.shape[0], 3, height, width)
    assert torch.equal(out[kept], composite.expand_as(out)[kept].to(out.dtype))


@pytest.mark.parametrize(("mode", "form", "size"), [("RGB", "JPEG", (33, 17)), ("P", "PNG", (8, 90)), ("CMYK", "JPEG", (40, 40)), ("I;16", "PNG", (31, 20)), ("LA", "PNG", (1, 1))])
def test_the_command(models, tmp_path, mode, form, size, capsys):
    image, mask = tmp_path / f"a{FORMATS[form]}", tmp_path / "mask.png"
    picture(mode, *size).save(image, form)
    Image.new("L", size, 255).save(mask)
    options = ["--out", str(tmp_path / "out.png"), "--steps", "1", *(f"--{name}={models / name}.safetensors" for name in ("vae", "unet"))]
    assert main(["harmonize", str(image), str(mask), *options]) == 0, capsys.readouterr().err
    assert Image.open(tmp_path / "out.png").size == size
    other = io.BytesIO()
    Image.new("L", (size[0] + 1, size[1]), 255).save(other, "PNG")
    mask.write_bytes(other.getvalue())
    assert main(["harmonize", str(image), str(mask), *options]) == 1
    assert "must be as large as" in capsys.readouterr().err
