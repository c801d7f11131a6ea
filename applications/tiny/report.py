"""The tiny family's figures, on test images only, beside the targets it is held to.

    python -m diffharmony.applications.tiny.report --test-root .cache/tiny --assets assets/tiny --out out/tiny_report

Writes report.json, report.md (tables for docs/results.md), distribution.png, and two evaluations whose index.html show every image:
decoded/ as it comes from the decoder, and pasted/ with the background pasted in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...common.assets import ROOT, TINY
from ...common.checkpoint import read_checkpoint
from ...common.devices import keep_freed_memory
from ...common.files import read_json, written_whole
from ...common.images import load_image, load_mask, tensor_to_pil
from ...common.masks import binarize_mask
from ...dataset.layout import TEST_LIST, write_list
from ...dataset.pairs import Pair, read_list
from ...diffusion import harmonize, load_unet
from ...evaluation.evaluator import evaluate
from ...evaluation.metrics import METRICS, RANGES, measure, range_of
from ...evaluation.tables import markdown_table, number
from ...harmony_vae import load_harmony_vae, load_vae
from ..reproduce.paper import PLAIN, Method
from ..reproduce.predict import predict
from .plots import DEFAULT, NO_UNET, RESULT, Row, draw_distribution, ratio_of

logger = logging.getLogger("diffharmony")
SIZES = (128, 256, 512)
SIDE = 256  # of the images that are harmonized
WAYS = {"plain": Method(SIDE, **PLAIN), "conditional": Method(SIDE), "no_unet": Method(SIDE, unet=None)}
# keys of the report, in the order of its tables, and what people read
METHODS = {
    "composite": "composite",
    "plain": "harmonized, plain decode (base VAE)",
    "plain_pasted": "harmonized, plain decode (base VAE), background pasted",
    "conditional": "harmonized, conditional decode",
    "conditional_pasted": "harmonized, conditional decode, background pasted",
    "transferred_pasted": "**the default**: light transferred at the UNet's own steps, background pasted",
    "no_unet_pasted": "no UNet: E(composite), conditional decode, background pasted",
    "colour_transfer": "mean/std colour transfer",
}
GAIN, CONDITIONAL = "decode gain at {} px, dB", "conditional decode at 256 px, dB"
WHOLE = {  # targets end to end: what bounds each
    "end-to-end fMSE, × the composite's": ("at_most", 0.85),
    "the same, strongest third": ("at_most", 0.75),
    "PSNR above the composite, dB": ("at_least", 0.7),
    "share of composites that get better": ("at_least", 0.60),
    "fMSE less than without the UNet, share": ("at_least", 0.08),
    "the default's fMSE, × the composite's": ("at_most", 0.60),
    "the same, mildest third": ("at_most", 1.0),
    "composites measured end to end": ("at_least", 60),
}


@dataclass(frozen=True)
class TinyReport:
    """Measure the tiny family on its test sets; they are made where they are missing.

    Examples:
      python -m diffharmony.applications.tiny.report
      python -m diffharmony.applications.tiny.report --assets runs/tiny --out out/trial --limit 30 --sizes 256
    """

    test_root: Path = ROOT / ".cache" / "tiny"
    """Folder of the test sets test-128, test-256 and test-512."""
    assets: Path = TINY
    """Folder of vae.safetensors, harmony_vae.safetensors and harmonization_unet.safetensors."""
    out: Path = ROOT / "out" / "tiny_report"
    """Folder to write to; made where missing."""
    sizes: tuple[int, ...] = SIZES
    """Sizes at which decoding is measured."""
    steps: int = 5
    """Sampling steps."""
    seed: int = 0
    """Composite i of the test list is sampled with seed + i."""
    limit: int | None = None
    """Measure this many composites only, spread evenly over the list."""
    decode_only: bool = False
    """Measure decoding alone: no UNet is needed, and no pictures are drawn."""


def make_report(config: TinyReport) -> dict[str, Any]:
    """Measure, write the files into `config.out`, and return what report.json holds.

    Raises: ValueError for options that do not fit; FileNotFoundError for missing models; as the loaders do.
    Source: issue 2 ("Done means"), SPEC §8.
    """
    if config.limit is not None and config.limit < 3:
        raise ValueError(f"limit must be at least 3, since results are shown by thirds, got {config.limit}. Leave it out for all.")
    names = ("vae", "harmony_vae") if config.decode_only else ("vae", "harmony_vae", "harmonization_unet")
    models = {name: config.assets / f"{name}.safetensors" for name in names}
    config.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "command": "tiny_report",
        "convention": "diffharmony, at the images' own size",
        "seed": config.seed,
        "steps": config.steps,
        "limit": config.limit,
        "models": {path.name: _described(path) for path in models.values()},
        "decode": {str(size): decode_gains(models, test_pairs(config, size).values(), f"{size} px") for size in config.sizes},
    }
    if not config.decode_only:
        report["images"] = end_to_end(config, models)
        report["end_to_end"] = summarize_rows(report["images"])
        draw_distribution(report["images"], config.out / "distribution.png")
    report["targets"] = check_targets(report)
    for name, text in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.md", markdown(report))):
        with written_whole(config.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return report


@torch.no_grad()
def decode_gains(models: dict[str, Path], pairs: Iterable[Pair], label: str) -> dict[str, Any]:
    """Mean PSNR in dB of three decodes of E(real), whole image at its own size.

    Returns: {"count", "plain", "plain_own_decoder", "conditional", "gain", "gain_over_own_decoder", "conditional_fMSE"};
    `plain` is the base VAE's decoder and `gain` conditional - plain. conditional_fMSE, of the same latents, is what a
    perfect UNet would leave end to end. Raises: ValueError when the two VAEs have different encoders. Source: SPEC §3, §8.
    """
    base, vae = load_vae(models["vae"]), load_harmony_vae(models["harmony_vae"])
    ours = vae.state_dict()
    for name, tensor in base.state_dict().items():
        if name.startswith(("encoder.", "quant_conv.")) and not torch.allclose(ours[name], tensor, rtol=2e-3, atol=1e-4):
            raise ValueError(
                f"{models['vae']} must be the VAE that {models['harmony_vae'].name} was trained from, got another encoder ({name} differs). "
                "Copy the base VAE of that training."
            )
    found: dict[str, list] = {"plain": [], "plain_own_decoder": [], "conditional": []}
    for pair in tqdm(list(pairs), desc=f"Decoding at {label}", unit="image"):
        condition = vae.encode_condition(load_image(pair.composite), binarize_mask(load_mask(pair.mask)))
        z = vae.encode(load_image(pair.real)).latent_dist.mode()
        real, mask = Image.open(pair.real), Image.open(pair.mask)
        for name, image in zip(found, (base.decode(z).sample, vae.decode(z).sample, vae.decode(z, condition).sample)):
            found[name].append(measure(tensor_to_pil(image)[0], real, mask, size=None, real_background=False))
    means = {name: float(np.mean([item.psnr for item in items])) for name, items in found.items()}
    return {
        "count": len(found["plain"]),
        **means,
        "gain": means["conditional"] - means["plain"],
        "gain_over_own_decoder": means["conditional"] - means["plain_own_decoder"],
        "conditional_fMSE": float(np.mean([item.fmse for item in found["conditional"]])),
    }


def end_to_end(config: TinyReport, models: dict[str, Path]) -> list[Row]:
    """Harmonize in every way of WAYS, and measure each composite by METHODS: {"index", "name", "foreground", <method>: {<figure>: ...}}.

    Composite i of the test list is sampled with seed + i. What is pasted in is the real image's background, which is the composite's
    own in these sets. Source: SPEC §2, §8; issue 2.
    """
    root, pairs = config.test_root / f"test-{SIDE}", test_pairs(config, SIDE)
    rows: list[Row] = [{"index": index, "name": pair.composite.stem} for index, pair in pairs.items()]
    with tempfile.TemporaryDirectory() as folder:
        for name, method in WAYS.items():
            predict(
                method, models, list(pairs.values()), Path(folder, name), size=SIDE, kept=SIDE, steps=config.steps,
                seed=config.seed, numbers=list(pairs), device=torch.device("cpu"),
            )  # fmt: skip
        transfer(models, pairs, Path(folder, "transferred"), config.seed)
        list_file = Path(folder, "measured.txt")
        write_list(list_file, (pair.composite.relative_to(root).as_posix() for pair in pairs.values()))
        for part, ways, baselines in (("decoded", ("plain", "conditional"), ("composite", "colour_transfer")), ("pasted", (*WAYS, "transferred"), ())):
            pasted = part == "pasted"
            evaluate(
                root, list_file, [Path(folder, name) for name in ways], real_background=pasted, size=None, baselines=baselines,
                out=config.out / part,
            )  # fmt: skip
            for row, measured in zip(rows, read_json(config.out / part / "results.json")["images"]):
                row["foreground"] = measured["foreground"]
                row.update({f"{name}_pasted" if pasted else name: figures for name, figures in measured["methods"].items()})
    return rows


def transfer(models: dict[str, Path], pairs: dict[int, Pair], folder: Path, seed: int) -> None:
    """Write `<folder>/<stem>.png`: each composite by its place in the list, harmonized at the settings that a user gets."""
    vae, unet = load_harmony_vae(models["harmony_vae"]), load_unet(models["harmonization_unet"])
    folder.mkdir()
    for index, pair in tqdm(pairs.items(), desc="Transferring light", unit="image"):
        result = harmonize(vae, unet, load_image(pair.composite), load_mask(pair.mask), seed=seed + index, crop="auto")
        tensor_to_pil(result)[0].save(folder / f"{pair.composite.stem}.png")


def thirds(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows by the strength of their change, the composite's own fMSE: mild, middle and strong thirds."""
    ordered = sorted(rows, key=lambda row: (row["composite"]["fMSE"], row["index"]))
    cuts = [round(len(ordered) * part / 3) for part in range(4)]
    return {name: ordered[low:high] for name, low, high in zip(("mild", "middle", "strong"), cuts, cuts[1:])}


def summarize_rows(rows: list[Row]) -> dict[str, Any]:
    """Means by method, over all and by group: {"count", "groups": {name: {method: {..., "fMSE_ratio"}}}, "better_share",
    "less_fmse_than_no_unet", "psnr_gain", "median_ratio"}.

    A group's fMSE is the mean over its images, as published figures are; fMSE_ratio is that mean over the composites'.
    """
    ranges = {name: [row for row in rows if range_of(row["foreground"]) == name] for name in RANGES}
    groups = {"overall": rows, **{f"{name} %": members for name, members in ranges.items()}, **thirds(rows)}
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for name, members in groups.items():
        tables[name] = {method: _means([row[method] for row in members]) for method in METHODS}
        before = tables[name]["composite"]["fMSE"]
        for summary in tables[name].values():
            summary["fMSE_ratio"] = summary["fMSE"] / before if members else None
        tables[name][RESULT]["better_share"] = float(np.mean([ratio_of(row) < 1 for row in members])) if members else None
    overall = tables["overall"]
    return {
        "count": len(rows),
        "groups": tables,
        "better_share": overall[RESULT]["better_share"],
        "median_ratio": float(np.median([ratio_of(row) for row in rows])),
        "psnr_gain": overall[RESULT]["PSNR"] - overall["composite"]["PSNR"],
        "less_fmse_than_no_unet": 1 - overall[RESULT]["fMSE"] / overall[NO_UNET]["fMSE"],
    }


def _means(figures: list[dict[str, float | None]]) -> dict[str, Any]:
    columns = {name: [row[name] for row in figures if row[name] is not None] for name in METRICS}
    return {**{name: float(np.mean(values)) if values else None for name, values in columns.items()}, "count": len(figures)}


def check_targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The floors of issue 2, each {"name", "at_least" or "at_most", "measured", "passed"}; what was not measured has None.

    The decode gain is over the better of the two plain decodes, the base VAE's own and the Harmony-VAE's.
    """
    decode = report["decode"]
    found = {GAIN.format(size): min(row["gain"], row["gain_over_own_decoder"]) for size, row in decode.items()}
    found[CONDITIONAL] = decode.get("256", {}).get("conditional")
    if "end_to_end" in report:
        whole = report["end_to_end"]
        ratios, default = ([whole["groups"][group][way]["fMSE_ratio"] for group in groups]
                           for way, groups in ((RESULT, ("overall", "strong")), (DEFAULT, ("overall", "mild"))))
        figures = (*ratios, *(whole[key] for key in ("psnr_gain", "better_share", "less_fmse_than_no_unet")), *default, whole["count"])
        found.update(zip(WHOLE, figures))
    checked = []
    for name, (rule, bound) in {**{GAIN.format(size): ("at_least", 6.0) for size in SIZES}, CONDITIONAL: ("at_least", 30.0), **WHOLE}.items():
        measured = found.get(name)
        passed = None if measured is None else bool(measured >= bound if rule == "at_least" else measured <= bound)
        checked.append({"name": name, rule: bound, "measured": measured, "passed": passed})
    return checked


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown tables."""
    limit = "" if report["limit"] is None else f" --limit {report['limit']}"
    checkpoints = ", ".join(f"`{name}` ({model['sha256'][:8]})" for name, model in report["models"].items())
    parts = [
        f"`python -m diffharmony.applications.tiny.report{limit}`: test images only; {checkpoints}; {report['steps']} "
        f"Euler-ancestral steps, composite i with seed {report['seed']} + i; 8 bits, PSNR peak 255, means over images.",
        "### Decoding the real image's latents (PSNR, dB, whole image)",
        markdown_table(
            ["size", "images", "plain (base VAE)", "plain (own decoder)", "conditional", "gain over base", "over own", "conditional fMSE"],
            [
                [
                    f"{size} px",
                    row["count"],
                    *(number(row[key]) for key in ("plain", "plain_own_decoder", "conditional")),
                    *(f"{row[key]:+.2f}" for key in ("gain", "gain_over_own_decoder")),
                    number(row["conditional_fMSE"], 1),
                ]
                for size, row in report["decode"].items()
            ],
        ),
    ]
    if "end_to_end" in report:
        parts += _end_to_end_markdown(report["end_to_end"])
    rows = []
    for target in report["targets"]:
        bound = f"≥ {target['at_least']:g}" if "at_least" in target else f"≤ {target['at_most']:g}"
        verdict = {True: "pass", False: "**fail**", None: "not measured"}[target["passed"]]
        whole = isinstance(target["measured"], int)
        rows.append([target["name"], bound, target["measured"] if whole else number(target["measured"], 3), verdict])
    parts += ["### Targets", markdown_table(["target", "floor", "measured", ""], rows)]
    return "\n\n".join(parts) + "\n"


def _end_to_end_markdown(whole: dict[str, Any]) -> list[str]:
    groups = whole["groups"]
    header = ["", "PSNR", "MSE", "fMSE", "fMSE × composite"]
    rows = [
        [METHODS[method], number(row["PSNR"]), number(row["MSE"]), number(row["fMSE"], 1), number(row["fMSE_ratio"])]
        for method, row in groups["overall"].items()
    ]
    shown = ("composite", "plain_pasted", RESULT, DEFAULT, NO_UNET, "colour_transfer")
    by_group = [
        [
            _group_name(name),
            table["composite"]["count"],
            number(table["composite"]["fMSE"], 1),
            *(number(table[method]["fMSE_ratio"]) for method in shown[1:]),
            number(table["composite"]["PSNR"]),
            number(table[RESULT]["PSNR"]),
            "-" if table[RESULT]["better_share"] is None else f"{table[RESULT]['better_share']:.0%}",
        ]
        for name, table in groups.items()
    ]
    return [
        f"### End to end at {SIDE} px, {whole['count']} composites",
        markdown_table(header, rows),
        "fMSE as a multiple of the composite's, by foreground share and by strength of the change (thirds of the composite's fMSE); "
        "background pasted:",
        markdown_table(
            ["", "images", "composite fMSE", "plain", "conditional", "**default**", "no UNet", "colour transfer", "composite PSNR", "PSNR", "better"],
            by_group,
        ),
        f"Better than the composite for {whole['better_share']:.0%}; median ratio {whole['median_ratio']:.2f}; "
        f"{whole['less_fmse_than_no_unet']:.1%} less fMSE than without the UNet.",
    ]


def _group_name(name: str) -> str:
    return f"foreground {name}" if name.endswith("%") else {"overall": "all"}.get(name, f"{name} changes")


def test_pairs(config: TinyReport, size: int) -> dict[int, Pair]:
    """Of the test set of a size, which is made where it is missing, the pairs to measure, by their place in the list."""
    root = config.test_root / f"test-{size}"
    if not (root / TEST_LIST).is_file():
        from ...synthetic.dataset import write_test_set

        logger.info("Making the test set of %d px in %s", size, root)
        write_test_set(root, size=size, seed=0)
    pairs = dict(enumerate(read_list(root, TEST_LIST)))
    if config.limit is None or config.limit >= len(pairs):
        return pairs
    return {index: pairs[index] for index in map(round, np.linspace(0, len(pairs) - 1, config.limit))}


def _described(path: Path) -> dict[str, Any]:
    tensors = read_checkpoint(path).tensors
    data = path.read_bytes()
    return {"bytes": len(data), "parameters": sum(map(torch.numel, tensors.values())), "sha256": hashlib.sha256(data).hexdigest()}


if __name__ == "__main__":
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()
    config = tyro.cli(TinyReport, description=TinyReport.__doc__)
    print(markdown(make_report(config)))
    print(f"Wrote {config.out}/report.json, report.md" + ("" if config.decode_only else ", distribution.png, decoded/, pasted/"))
