"""The tiny family's figures, on test images only, beside the targets it is held to.

    python -m diffharmony.applications.tiny.report --test-root .cache/tiny --assets assets/tiny --out out/tiny_report

Writes report.json, report.md (tables for the README), sheet.png (before and after) and distribution.png.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...common.assets import ROOT, TINY
from ...common.checkpoint import read_checkpoint
from ...common.devices import keep_freed_memory
from ...common.files import written_whole
from ...dataset.pairs import Pair, read_list
from ...evaluation.metrics import RANGES, range_of, summarize
from ...evaluation.tables import markdown_table, number
from .measures import BASE_FILE, HARMONY_FILE, METHODS, UNET_FILE, Row, decode_gains, end_to_end, load_models, thirds

logger = logging.getLogger("diffharmony")
LIST_FILE = "IHD_test.txt"
SIZES = (128, 256, 512)
END_TO_END_SIZE = 256
RESULT, NO_UNET = "conditional_pasted", "no_unet_pasted"


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
    models = load_models(config.assets, with_unet=not config.decode_only)
    config.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "command": "tiny_report",
        "convention": "diffharmony, at the images' own size",
        "seed": config.seed,
        "steps": config.steps,
        "limit": config.limit,
        "models": _describe_models(config),
        "decode": {str(size): decode_gains(models, _test_pairs(config, size), f"{size} px") for size in config.sizes},
    }
    if not config.decode_only:
        rows = end_to_end(models, _test_pairs(config, END_TO_END_SIZE), steps=config.steps, seed=config.seed)
        report["end_to_end"] = summarize_rows(rows)
        report["images"] = [_image_record(row) for row in rows]
    report["targets"] = check_targets(report)
    _write(config.out / "report.json", json.dumps(report, indent=1) + "\n")
    _write(config.out / "report.md", markdown(report))
    if not config.decode_only:
        from .plots import draw_distribution, draw_sheet

        draw_sheet(rows, config.out / "sheet.png")
        draw_distribution(rows, config.out / "distribution.png")
    return report


def summarize_rows(rows: list[Row]) -> dict[str, Any]:
    """Means by method, over all and by group: {"count", "groups": {name: {method: {..., "fMSE_ratio"}}}, "better_share",
    "less_fmse_than_no_unet", "psnr_gain", "median_ratio"}.

    A group's fMSE is the mean over its images, as published figures are; fMSE_ratio is that mean over the composites'.
    """
    ranges = {name: [row for row in rows if range_of(row.measurements["composite"].foreground) == name] for name in RANGES}
    groups = {"overall": rows, **{f"{name} %": members for name, members in ranges.items()}, **thirds(rows)}
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for name, members in groups.items():
        table = {method: summarize(row.measurements[method] for row in members) for method in METHODS}
        for summary in table.values():
            before = table["composite"]["fMSE"]
            summary["fMSE_ratio"] = summary["fMSE"] / before if members else None
        table[RESULT]["better_share"] = float(np.mean([row.ratio < 1 for row in members])) if members else None
        tables[name] = table
    overall = tables["overall"]
    return {
        "count": len(rows),
        "groups": tables,
        "better_share": overall[RESULT]["better_share"],
        "median_ratio": float(np.median([row.ratio for row in rows])),
        "psnr_gain": overall[RESULT]["PSNR"] - overall["composite"]["PSNR"],
        "less_fmse_than_no_unet": 1 - overall[RESULT]["fMSE"] / overall[NO_UNET]["fMSE"],
    }


def check_targets(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The floors of issue 2, each {"name", "at_least" or "at_most", "measured", "passed"}; what was not measured has None.

    The decode gain is over the better of the two plain decodes, the base VAE's own and the Harmony-VAE's.
    """
    decode, whole = report["decode"], report.get("end_to_end")

    def gain(size: int) -> float | None:
        row = decode.get(str(size))
        return None if row is None else min(row["gain"], row["gain_over_own_decoder"])

    def figure(*path: str) -> float | None:
        value: Any = whole
        for key in path:
            value = None if value is None else value[key]
        return value

    at_256 = decode.get("256", {}).get("conditional")
    targets = [(f"decode gain at {size} px, dB", "at_least", 6.0, gain(size)) for size in SIZES]
    targets += [
        ("conditional decode at 256 px, dB", "at_least", 30.0, at_256),
        ("end-to-end fMSE, × the composite's", "at_most", 0.85, figure("groups", "overall", RESULT, "fMSE_ratio")),
        ("the same, strongest third", "at_most", 0.75, figure("groups", "strong", RESULT, "fMSE_ratio")),
        ("PSNR above the composite, dB", "at_least", 0.7, figure("psnr_gain")),
        ("share of composites that get better", "at_least", 0.60, figure("better_share")),
        ("fMSE less than without the UNet, share", "at_least", 0.08, figure("less_fmse_than_no_unet")),
        ("composites measured end to end", "at_least", 60, figure("count")),
    ]
    return [
        {
            "name": name,
            rule: bound,
            "measured": measured,
            "passed": None if measured is None else bool(measured >= bound if rule == "at_least" else measured <= bound),
        }
        for name, rule, bound, measured in targets
    ]


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
    shown = ("composite", "plain_pasted", RESULT, NO_UNET, "colour_transfer")
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
        f"### End to end at {END_TO_END_SIZE} px, {whole['count']} composites",
        markdown_table(header, rows),
        "fMSE as a multiple of the composite's, by foreground share and by strength of the change (thirds of the composite's fMSE); "
        "background pasted:",
        markdown_table(
            ["", "images", "composite fMSE", "plain", "**conditional**", "no UNet", "colour transfer", "composite PSNR", "PSNR", "better"],
            by_group,
        ),
        f"Better than the composite for {whole['better_share']:.0%}; median ratio {whole['median_ratio']:.2f}; "
        f"{whole['less_fmse_than_no_unet']:.1%} less fMSE than without the UNet.",
    ]


def _group_name(name: str) -> str:
    return f"foreground {name}" if name.endswith("%") else {"overall": "all"}.get(name, f"{name} changes")


def _test_pairs(config: TinyReport, size: int) -> list[tuple[int, Pair]]:
    root = config.test_root / f"test-{size}"
    if not (root / LIST_FILE).is_file():
        from ...synthetic.dataset import write_test_set

        logger.info("BuildOptions the test set of %d px in %s", size, root)
        write_test_set(root, size=size, seed=0)
    pairs = list(enumerate(read_list(root, LIST_FILE)))
    if config.limit is None or config.limit >= len(pairs):
        return pairs
    return [pairs[round(position)] for position in np.linspace(0, len(pairs) - 1, config.limit)]


def _describe_models(config: TinyReport) -> dict[str, Any]:
    names = (BASE_FILE, HARMONY_FILE) if config.decode_only else (BASE_FILE, HARMONY_FILE, UNET_FILE)
    described = {}
    for name in names:
        path = config.assets / name
        data = path.read_bytes()
        parameters = sum(tensor.numel() for tensor in read_checkpoint(path).tensors.values())
        described[name] = {"bytes": len(data), "parameters": parameters, "sha256": hashlib.sha256(data).hexdigest()}
    return described


def _image_record(row: Row) -> dict[str, Any]:
    return {
        "index": row.index,
        "name": row.name,
        "foreground": row.measurements["composite"].foreground,
        **{method: {"PSNR": m.psnr, "MSE": m.mse, "fMSE": m.fmse} for method, m in row.measurements.items()},
    }


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()
    config = tyro.cli(TinyReport, description=TinyReport.__doc__)
    print(markdown(make_report(config)))
    print(f"Wrote {config.out}/report.json, report.md" + ("" if config.decode_only else ", sheet.png, distribution.png"))
