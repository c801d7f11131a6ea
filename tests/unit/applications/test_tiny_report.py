"""The tiny family's report, with made-up weights and small pictures."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from diffharmony.applications.tiny import report as tiny_report
from diffharmony.applications.tiny.report import METHODS, TinyReport, check_targets, make_report, markdown, thirds
from diffharmony.common.images import load_image, load_mask, tensor_to_pil
from diffharmony.diffusion import harmonize, load_unet, save_unet
from diffharmony.evaluation import measure
from diffharmony.harmony_vae import HarmonyVAE, load_harmony_vae, load_vae, save_harmony_vae
from diffharmony.harmony_vae.checkpoint import save_autoencoder
from diffharmony.tests.made.models import vae as make_vae
from diffharmony.train.unet import Architecture, make_unet

SIDE = 64


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A tiny family with random weights, zero convolutions included, and five composites of 64 px."""
    folder = tmp_path_factory.mktemp("tiny")
    base = make_vae((8, 8, 8, 8), groups=4)
    vae = HarmonyVAE.from_autoencoder_kl(base)
    with torch.no_grad():
        for conv in (*vae.conditional_encoder.down_block_skip_convs, vae.conditional_encoder.mid_block_skip_conv):
            torch.nn.init.normal_(conv.weight, std=0.1)
    save_autoencoder(base, folder / "vae.safetensors")
    save_harmony_vae(vae, folder / "harmony_vae.safetensors")
    unet = make_unet(Architecture(block_out_channels=(32, 32), attention_levels=(False, True)), "v_prediction", "harmonize", 0)
    save_unet(unet, folder / "harmonization_unet.safetensors", prediction_type="v_prediction")
    root = folder / f"test-{SIDE}"
    for name in ("composite_images", "masks", "real_images"):
        (root / "Photos" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(5):
        real = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((SIDE, SIDE)))
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[: 3 + 8 * number, :32] = 255
        composite = np.where(mask[..., None] > 0, real // 2 + 5 * number, real).astype(np.uint8)
        Image.fromarray(real).save(root / f"Photos/real_images/t{number}.png")
        Image.fromarray(mask).save(root / f"Photos/masks/t{number}_1.png")
        Image.fromarray(composite).save(root / f"Photos/composite_images/t{number}_1_1.png")
    (root / "IHD_test.txt").write_text("".join(f"Photos/composite_images/t{number}_1_1.png\n" for number in range(5)))
    return folder


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_report, "SIDE", SIDE)
        yield


@pytest.fixture(scope="module")
def config(work):
    return TinyReport(test_root=work, assets=work, out=work / "report", sizes=(SIDE,))


@pytest.fixture(scope="module")
def report(config):
    return make_report(config)


def test_rows_are_what_harmonize_gives(work, report):
    vae, unet = load_harmony_vae(work / "harmony_vae.safetensors"), load_unet(work / "harmonization_unet.safetensors")
    photos = work / f"test-{SIDE}" / "Photos"
    composite, mask = load_image(photos / "composite_images/t3_1_1.png"), load_mask(photos / "masks/t3_1.png")
    real, mask_picture = Image.open(photos / "real_images/t3.png"), Image.open(photos / "masks/t3_1.png")
    row = report["images"][3]
    assert row["name"] == "t3_1_1" and row["foreground"] == pytest.approx(27 * 32 / SIDE**2)
    decoded = {"detail": "decoded"}
    variants = {
        "conditional_pasted": decoded, "conditional": {"paste_background": False, **decoded}, "plain_pasted": {"conditional": False, **decoded},
        "transferred_pasted": {},
    }  # fmt: skip
    for method, options in variants.items():
        result = tensor_to_pil(harmonize(vae, unet, composite, mask, seed=3, **options))[0]
        expected = measure(result, real, mask_picture, size=None, real_background=False)
        assert row[method]["fMSE"] == pytest.approx(expected.fmse, rel=1e-3), method
        assert row[method]["MSE"] == pytest.approx(expected.mse, rel=1e-3), method
    before = measure(tensor_to_pil(composite)[0], real, mask_picture, size=None, real_background=False)
    assert row["composite"]["fMSE"] == pytest.approx(before.fmse)


def test_groups_targets_and_files(config, report):
    whole = report["end_to_end"]
    groups = whole["groups"]
    assert list(groups) == ["overall", "0-5 %", "5-15 %", "15-100 %", "mild", "middle", "strong"]
    assert sum(groups[name]["composite"]["count"] for name in ("mild", "middle", "strong")) == 5
    fmse = [row["conditional_pasted"]["fMSE"] for row in report["images"]]
    before = [row["composite"]["fMSE"] for row in report["images"]]
    assert groups["overall"]["conditional_pasted"]["fMSE_ratio"] == pytest.approx(np.mean(fmse) / np.mean(before))
    assert whole["better_share"] == np.mean(np.array(fmse) < before)
    decode = report["decode"][str(SIDE)]
    assert decode["gain"] == pytest.approx(decode["conditional"] - decode["plain"])
    assert decode["plain"] == pytest.approx(decode["plain_own_decoder"], abs=1e-3) and abs(decode["gain"]) > 0.01
    passed = {target["name"]: target["passed"] for target in report["targets"]}
    assert passed["decode gain at 512 px, dB"] is None and passed["composites measured end to end"] is False
    assert json.loads((config.out / "report.json").read_text()) == report
    text = (config.out / "report.md").read_text()
    assert all(name in text for name in METHODS.values()) and "not measured" in text and "nan" not in text
    assert Image.open(config.out / "distribution.png").size[0] > 500
    assert all((config.out / part / "index.html").is_file() for part in ("decoded", "pasted"))


def test_the_same_again_and_with_a_limit(config, report, work):
    again = make_report(dataclasses.replace(config, out=work / "again"))
    assert again == report
    for name in ("report.md", "distribution.png"):
        assert (work / "again" / name).read_bytes() == (config.out / name).read_bytes()
    part = make_report(dataclasses.replace(config, out=work / "part", limit=3))
    assert [row["index"] for row in part["images"]] == [0, 2, 4]
    for row in part["images"]:
        assert row["conditional"]["fMSE"] == pytest.approx(report["images"][row["index"]]["conditional"]["fMSE"], rel=1e-3)
    decode_only = make_report(dataclasses.replace(config, out=work / "decode", decode_only=True))
    assert "end_to_end" not in decode_only and decode_only["decode"] == report["decode"]
    with pytest.raises(ValueError, match="limit must be at least 3"):
        make_report(dataclasses.replace(config, limit=2))


def test_two_vaes_of_different_encoders_are_refused(config, work, tmp_path):
    for name in ("harmony_vae.safetensors", "harmonization_unet.safetensors"):
        (tmp_path / name).write_bytes((work / name).read_bytes())
    vae = load_vae(work / "vae.safetensors")
    torch.nn.init.normal_(vae.encoder.conv_in.weight)
    save_autoencoder(vae, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match="another encoder"):
        make_report(dataclasses.replace(config, assets=tmp_path, out=tmp_path / "report"))


def test_thirds():
    rows = [{"index": index, "composite": {"fMSE": 100.0 + 10 * index}} for index in range(20)]
    parts = thirds(rows[::-1])
    assert [len(part) for part in parts.values()] == [7, 6, 7] and [row["index"] for row in parts["strong"]] == list(range(13, 20))


def test_targets_take_the_smaller_gain():
    decode = {str(size): {"gain": 7.0, "gain_over_own_decoder": 5.0, "conditional": 31.0} for size in (128, 256, 512)}
    targets = check_targets({"decode": decode})
    assert [target["passed"] for target in targets[:4]] == [False, False, False, True]
    assert all(target["passed"] is None for target in targets[4:])
    report = {"decode": {}, "targets": targets, "limit": None, "models": {}, "steps": 5, "seed": 0}
    assert "**fail**" in markdown(report)
