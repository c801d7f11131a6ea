"""The command `reproduce`: options, and what it prints. Heavy imports wait until it runs."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

Name = Literal["table1", "table2", "table3", "table4", "table5", "losses", "figure2", "figure3"]


@dataclass(frozen=True)
class ReproduceConfig:
    """One of the paper's tables or figures, ours beside the paper's figures.

    With --data and --models it runs the paper's setting: 5 steps, 512 or 1024 px, measured at 256 px with the real background pasted in.
    Without them it runs the same code in miniature, on the tiny family, and says so in every heading.
    Killed, it goes on where it was; `accelerate launch -m diffharmony reproduce …` shares the images among processes.

    The models folder holds, as .safetensors or diffusers folders: vae, harmony_vae, harmonization_unet; for table4 also refinement and
    refinement_plain; for table5 table5_<zero|random>_<conditional_encoder|encoder_and_decoder>, for losses (squared error against L1, no table of
    the paper's) also losses_l1; for table2 table2_<hday2night|hflickr>_<base|augmented>_unet. A row without its checkpoint says so.

    Examples:
      diffharmony reproduce table4 --jobs 2
      accelerate launch -m diffharmony reproduce table1 --data iHarmony4 --models models --out out/table1
      diffharmony reproduce figure2 --data iHarmony4 --human-harmony human_harmony
    """

    table: tyro.conf.Positional[Name]
    """Which one."""
    data: Path | None = None
    """Data set in iHarmony4's layout; left out: the miniature."""
    list: str = "IHD_test.txt"
    """List of composites in the data set's folder."""
    models: Path | None = None
    """Folder of checkpoints."""
    human_harmony: Path | None = None
    """figure2: a Human Harmony data set, drawn beside."""
    out: Path = Path("out/reproduce")
    """Folder for predictions, trainings of the miniature, and the result; a run of other settings needs another one."""
    seed: int = 0
    """Image i is sampled with seed + i."""
    limit: int | None = None
    """Only the first so many composites of the list."""
    seeds: int = 3
    """Miniature: trainings and samplings of each row."""
    composites: int = 60
    """Miniature: test composites."""
    steps: int = 300
    """Miniature: optimizer steps of each Harmony-VAE."""
    unet_steps: int = 1200
    """Miniature, table2: optimizer steps of each UNet."""
    jobs: int = 1
    """Miniature: trainings at a time, above 1 each in a process with one thread."""
    json: bool = False
    """Print one JSON object as the last line, and the table on the error stream."""


def run_reproduce(config: ReproduceConfig) -> dict[str, Any] | None:
    """Run `diffharmony reproduce`. Returns: what --json prints, on the main process. Raises: ValueError for options that do not fit."""
    from ..common.files import written_whole
    from ..common.processes import processes

    for name in ("seeds", "steps", "unet_steps", "limit", "jobs"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}. Give a larger number.")
    if config.composites < 3:
        raise ValueError(f"composites must be at least 3, one per foreground range, got {config.composites}. Give a larger number.")
    state = processes()
    config.out.mkdir(parents=True, exist_ok=True)
    result, text = (_figure if config.table.startswith("figure") else _table)(config, state)
    if not state.is_main_process:
        return None
    for suffix, content in ((".json", json.dumps(result, indent=1) + "\n"), (".md", text)):
        with written_whole(config.out / f"{config.table}{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
    print(text, file=sys.stderr if config.json else sys.stdout, flush=True)
    return {"command": "reproduce", "table": config.table, "out": str(config.out), **result}


def _setting(config: ReproduceConfig, state):
    from ..applications.reproduce.tables import Setting, find_models

    if config.data is None:
        if config.models is not None:
            raise ValueError("data must name a data set when models are given, got none. Pass --data ROOT, or leave out --models for the miniature.")
        if state.num_processes > 1:
            raise ValueError(f"processes must be 1 for the miniature, whose trainings are each a run of their own, got {state.num_processes}. Use --jobs.")
        from ..applications.reproduce.miniature import Miniature, make_setting
        from ..applications.reproduce.table2_miniature import Small

        mini = Miniature(config.seeds, config.composites, config.steps, small=Small(steps=config.unet_steps), jobs=config.jobs)
        return make_setting(config.table, mini, config.out / "miniature")
    if config.models is None:
        raise ValueError("models must name a folder of checkpoints when data is given, got none. Pass --models FOLDER.")
    if not (config.data / config.list).is_file():
        raise FileNotFoundError(f"list {config.list!r} must exist, looked in {config.data.resolve()}. Check --data and --list.")
    return Setting(config.data, config.list, (find_models(config.models),), limit=config.limit)


def _table(config: ReproduceConfig, state) -> tuple[dict[str, Any], str]:
    from ..applications.reproduce.paper import MINIATURES, TABLES
    from ..applications.reproduce.tables import markdown, run_table

    table = (MINIATURES if config.data is None else TABLES)[config.table]
    result = run_table(table, _setting(config, state), config.out, state=state, seed=config.seed)
    return result, markdown(result) if result else ""


def _figure(config: ReproduceConfig, state) -> tuple[dict[str, Any], str]:
    from ..applications.reproduce.figures import draw_figure_2, draw_figure_3

    if config.table == "figure2":
        if not state.is_main_process:
            return {}, ""
        return draw_figure_2(config.data, config.list, config.human_harmony, config.out)
    return draw_figure_3(_setting(config, state), config.out, state=state, seed=config.seed)
