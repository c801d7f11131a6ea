"""Make the rows of one table and measure them; the same code for the paper's setting and for the miniature."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.processes import on_main
from ...dataset.pairs import Pair, read_list
from ...evaluation.evaluator import evaluate
from ...evaluation.tables import markdown_table
from .paper import FIGURES, Row, Table
from .predict import fingerprint, predict


@dataclass(frozen=True)
class Setting:
    """Where a table is run: the data, checkpoints by name for each of the seeds, and the scale of all sizes.

    models: one dict (checkpoint name -> path) per seed; a Row one of whose checkpoints is missing stays without figures. failed: per seed,
    checkpoint name -> why its training came to nothing. size_divisor: working sizes are the paper's divided by it. kept: the side, in
    pixels, that predictions are kept and measured at.
    """

    data: Path
    list_file: str
    models: tuple[dict[str, Path], ...]
    failed: tuple[dict[str, str], ...] = ()
    size_divisor: int = 1
    kept: int = 256
    limit: int | None = None
    heading: str = ""

    def pairs(self) -> list[Pair]:
        return read_list(self.data, self.list_file)[: self.limit]


def find_models(folder: Path) -> dict[str, Path]:
    """Checkpoints in a folder by name: <name>.safetensors files, and folders. Raises: FileNotFoundError for a missing folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"models folder {folder.name!r} must exist, looked in {folder.parent.resolve()}. Check --models.")
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    return {**found, **{path.stem: path for path in sorted(folder.glob("*.safetensors"))}}


def run_table(table: Table, setting: Setting, out: Path, *, state: Any, seed: int = 0) -> dict[str, Any]:
    """Harmonize (every process its share), then measure (the main process).

    state: accelerate's PartialState. Returns, on the main process: {"title", "heading", "rows": [{"name", "paper", "figures", "spread", "runs",
    "remark"}], "differences": [...]}; an empty dict on the others. A run is {"seed", **figures}; its seed is None for the composites, which
    are the same for every seed.
    """
    pairs = setting.pairs()
    place = on_main(lambda: predictions_place(out, pairs))
    folders: dict[tuple[str, int], Path] = {}
    for turn, models in enumerate(setting.models):
        for row in table.rows:
            if row.method is None or any(name not in models for name in row.method.models):
                continue
            members = [pair for pair in pairs if row.subset in (None, pair.subset)]
            folder = prediction_folder(place, row, turn)
            folders[row.name, turn] = folder
            predict(
                row.method, models, members, folder, size=row.method.size // setting.size_divisor, kept=setting.kept, seed=seed + turn * 1_000_003,
                device=state.device, rank=state.process_index, processes=state.num_processes,
            )  # fmt: skip
    state.wait_for_everyone()
    if not state.is_main_process:
        return {}
    measured: dict[tuple[Path | None, str | None], dict[str, Any]] = {}
    rows = [_measure(row, setting, pairs, folders, out, measured) for row in table.rows]
    return {
        "title": table.title,
        "heading": setting.heading,
        "composites": len(pairs),
        "seeds": len(setting.models),
        "rows": rows,
        "differences": _differences(table, {row["name"]: row for row in rows}),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table: ours (mean and, with several seeds, ± standard deviation) beside the paper's."""
    header = ["", *FIGURES, *(f"paper's {name}" for name in FIGURES), ""]
    lines = []
    for row in result["rows"]:
        ours = [_shown(row["figures"].get(name), row["spread"].get(name)) for name in FIGURES]
        lines.append([row["name"], *ours, *(_shown(row["paper"][name]) for name in FIGURES), row["remark"]])
    parts = [f"### {result['title']}{result['heading']}", markdown_table(header, lines)]
    if result["differences"]:
        signs = [
            [item["name"], _shown(item["PSNR"], item["spread"], sign=True), _shown(item["paper"], sign=True), item["verdict"]]
            for item in result["differences"]
        ]
        parts.append(markdown_table(["PSNR, dB", "ours", "paper", "sign"], signs))
    return "\n\n".join(parts) + "\n"


def _measure(row: Row, setting: Setting, pairs: list[Pair], folders: dict[tuple[str, int], Path], out: Path, measured: dict) -> dict[str, Any]:
    record: dict[str, Any] = {"name": row.name, "paper": row.paper, "figures": {}, "spread": {}, "runs": [], "remark": ""}
    if not row.measured:
        record["remark"] = "paper only"
        return record
    remarks = []
    for turn, models in enumerate(setting.models):
        if row.method is None:
            if turn == 0:
                record["runs"].append({"seed": None, **_figures(row, setting, pairs, None, out, measured)})
            continue
        missing = [name for name in row.method.models if name not in models]
        if missing:
            failed = setting.failed[turn] if setting.failed else {}
            diverged = [name for name in missing if name in failed]
            remarks.append(f"seed {turn}: training diverged" if diverged else f"no checkpoint {', '.join(missing)}")
            continue
        record["runs"].append({"seed": turn, **_figures(row, setting, pairs, folders[row.name, turn], out, measured)})
    record["remark"] = "; ".join(dict.fromkeys(remarks))
    for name in FIGURES:
        values = [run[name] for run in record["runs"] if run[name] is not None]
        if values:
            record["figures"][name] = statistics.fmean(values)
            if len(values) > 1:
                record["spread"][name] = statistics.stdev(values)
    return record


def _figures(row: Row, setting: Setting, pairs: list[Pair], folder: Path | None, out: Path, measured: dict) -> dict[str, float | None]:
    """The row's part of what one evaluation gives; rows that differ in their foreground range share it, in `measured`."""
    key = folder, row.subset
    if key not in measured:
        measured[key] = _evaluated(row, setting, pairs, folder, out)
    result = measured[key]
    figures = result["ranges"][row.range] if row.range else result["overall"]
    return {name: figures[name] for name in FIGURES}


def _evaluated(row: Row, setting: Setting, pairs: list[Pair], folder: Path | None, out: Path) -> dict[str, Any]:
    list_file = out / f"measured-{Path(setting.list_file).stem}.txt"
    members = [pair for pair in pairs if row.subset in (None, pair.subset)]
    list_file.write_text("".join(f"{pair.composite.relative_to(setting.data).as_posix()}\n" for pair in members), encoding="utf-8")
    return evaluate(
        setting.data, list_file, [folder] if folder else [], "diffharmony", real_background=True, size=setting.kept,
        baselines=() if folder else ("composite",), resamples=0, progress=False,
    )  # fmt: skip


def _differences(table: Table, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for name, better, worse in table.differences:
        ours, theirs = rows[better], rows[worse]
        values = _paired(ours["runs"], theirs["runs"])
        paper = (ours["paper"]["PSNR"] or math.nan) - (theirs["paper"]["PSNR"] or math.nan)
        mean = statistics.fmean(values) if values else None
        verdict = "not measured" if mean is None else "paper gives none" if math.isnan(paper) else "same" if mean * paper > 0 else "**opposite**"
        spread = statistics.stdev(values) if len(values) > 1 else None
        found.append({"name": name, "PSNR": mean, "spread": spread, "paper": None if math.isnan(paper) else paper, "verdict": verdict, "runs": values})
    return found


def _paired(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[float]:
    """PSNR of ours less that of theirs, for each seed that both have; the composites' one run goes with every seed."""
    first, second = ({run["seed"]: run["PSNR"] for run in runs} for runs in (ours, theirs))
    seeds = [seed for seed in {**first, **second} if seed is not None]
    found = [(first.get(seed, first.get(None)), second.get(seed, second.get(None))) for seed in seeds]
    return [a - b for a, b in found if a is not None and b is not None]


def _shown(value: float | None, spread: float | None = None, sign: bool = False) -> str:
    if value is None:
        return "-"
    text = f"{value:+.2f}" if sign else f"{value:.2f}"
    return text if spread is None else f"{text} ± {spread:.2f}"


def predictions_place(out: Path, pairs: list[Pair]) -> Path:
    """Where every row's predictions for these composites lie. Those for others, another data set's or list's, lie elsewhere: a prediction
    bears its composite's name alone, and its noise is drawn by the composite's place in the list."""
    return out / "predictions" / fingerprint(pairs)


def prediction_folder(place: Path, row: Row, turn: int) -> Path:
    """The folder in predictions_place for a row with a method, for one seed's turn."""
    method = row.method
    parts = (method.vae, method.unet, method.refinement, str(method.size), row.subset, f"seed{turn}")
    return place / "-".join(part for part in parts if part)
