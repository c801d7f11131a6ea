"""The tables in miniature: the tiny family, small data of our own, short training, several seeds.

Working sizes are a quarter of the paper's, and images are measured at 128 px. What Tables 4 and 5 compare is trained here: for each
seed a Harmony-VAE of each kind from the tiny base VAE, and a refinement stage on the images that the plain and the Harmony-VAE give.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...common.checkpoint import read_json, written_whole
from ...train import refinement as train_refinement
from ...train import vae as train_vae
from ...train.config import DataConfig, RunConfig
from ...train.data import read_list
from .paper import TABLES, Method
from .predict import predict
from .run import Setting, find_models

logger = logging.getLogger("diffharmony")
ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ROOT / "assets" / "tiny"
SIZE_DIVISOR = 4
KEPT = 128
CELLS = tuple((start, trained) for start in ("zero", "random") for trained in ("conditional_encoder", "encoder_and_decoder"))


@dataclass(frozen=True)
class Miniature:
    """How much is done."""

    seeds: int = 3
    """Trainings and samplings per row."""
    composites: int = 60
    """Test composites, a third in each foreground range."""
    steps: int = 300
    """Optimizer steps of each Harmony-VAE."""
    refinement_steps: int = 300
    """Optimizer steps of each refinement stage."""
    photo_crops: int = 800
    """Crops of training photographs, two composites each."""
    refined: int = 160
    """Training composites that the refinement stages learn on."""


def make_setting(table: str, mini: Miniature, work: Path) -> Setting:
    """Make the data and train what the table compares, into `work`; what is there already is gone on with.

    Raises: ValueError for Table 2, which needs the inverse models.
    """
    if table == "table2":
        raise ValueError(
            "table2 must be given --data and --models, got neither: its miniature needs the inverse models, which the tiny family does not have. "
            "Name a data set, and a folder of checkpoints."
        )
    data = make_data(mini, work)
    tiny = find_models(TINY)
    models: list[dict[str, Path]] = []
    failed: list[dict[str, str]] = []
    for seed in range(mini.seeds):
        trained, broken = dict(tiny), {}
        if table == "table5":
            _train_table_5(mini, work, seed, trained, broken)
        elif table == "table4":
            _train_table_4(mini, work, seed, trained, broken)
        models.append(trained)
        failed.append(broken)
    count = mini.composites // 3 * 3
    heading = f" — MINIATURE: tiny family, {count} composites of our own, sizes a quarter of the paper's, measured at {KEPT} px, {mini.seeds} seeds"
    return Setting(data / "test", "IHD_test.txt", tuple(models), tuple(failed), SIZE_DIVISOR, KEPT, heading=heading)


def make_data(mini: Miniature, work: Path) -> Path:
    """`train` and `test` in iHarmony4's layout under <work>/data-…; no photograph is in both."""
    from ...train.synthetic.dataset import write_test_set, write_training_set

    folder = work / f"data-{mini.photo_crops}-{mini.composites // 3}"
    write_training_set(folder / "train", photo_crops=mini.photo_crops, scenes=mini.photo_crops // 10, composites_per_crop=2, size=256, seed=7)
    write_test_set(folder / "test", size=256, composites_per_range=mini.composites // 3, seed=0)
    return folder


def _train_table_5(mini: Miniature, work: Path, seed: int, trained: dict[str, Path], broken: dict[str, str]) -> None:
    for start, part in CELLS:
        _train_vae(mini, work, seed, f"table5_{start}_{part}", trained, broken, initialization=start, trainable=part)


def _train_table_4(mini: Miniature, work: Path, seed: int, trained: dict[str, Path], broken: dict[str, str]) -> None:
    name = "table5_zero_encoder_and_decoder"  # the same training as in Table 5
    _train_vae(mini, work, seed, name, trained, broken, initialization="zero", trainable="encoder_and_decoder")
    if name in broken:
        for missing in ("harmony_vae", "refinement"):
            trained.pop(missing, None)
            broken[missing] = broken[name]
    else:
        trained["harmony_vae"] = trained[name]
    for row in TABLES["table4"].rows:
        if row.method.refinement and row.method.vae in trained:
            trained[row.method.refinement] = _train_refinement(mini, work, seed, row.method, trained)


def _train_refinement(mini: Miniature, work: Path, seed: int, method: Method, models: dict[str, Path]) -> Path:
    """Harmonize part of the training set as the table's row does, and train a refinement stage on it by `train-refinement`'s main."""
    root = work / f"data-{mini.photo_crops}-{mini.composites // 3}" / "train"
    pairs = read_list(root, "IHD_train.txt")
    pairs = [pairs[position * len(pairs) // mini.refined] for position in range(min(mini.refined, len(pairs)))]
    list_file = root / f"refined-{mini.refined}.txt"
    with written_whole(list_file) as temporary:
        temporary.write_text("".join(f"{pair.composite.relative_to(root).as_posix()}\n" for pair in pairs), encoding="utf-8")
    side = method.size // SIZE_DIVISOR
    name = f"{method.refinement}-{mini.refined}-{mini.steps}-seed{seed}"
    harmonized = work / f"harmonized-{name}"
    plain = replace(method, refinement=None)
    predict(plain, models, pairs, harmonized, size=side, kept=side, seed=seed, device=torch.device("cpu"))
    preset = train_refinement.PRESETS["tiny"][1]
    config = replace(
        preset,
        harmonized=harmonized,
        data=replace(preset.data, roots=(root,), list_file=list_file.name),
        optim=replace(preset.optim, steps=mini.refinement_steps),
        run=RunConfig(out=work / f"{name}-{mini.refinement_steps}", seed=seed, save_every=100, sample_every=mini.refinement_steps),
    )
    return Path(train_refinement.main(config)["checkpoint"])


def _train_vae(mini: Miniature, work: Path, seed: int, name: str, trained: dict[str, Path], broken: dict[str, str], **switches) -> None:
    """Train one Harmony-VAE by `train-vae`'s own main; a loss that is not finite is written down, and the cell stays empty."""
    out = work / f"{name}-{mini.steps}-seed{seed}"
    verdict = out / "diverged.json"
    if verdict.is_file():
        broken[name] = read_json(verdict)["why"]
        return
    preset = train_vae.PRESETS["tiny"][1]
    config = replace(
        preset,
        init=TINY / "vae.safetensors",
        data=DataConfig(roots=(work / f"data-{mini.photo_crops}-{mini.composites // 3}" / "train",), size=96, min_crop=0.4, workers=0),
        optim=replace(preset.optim, learning_rate=1e-3, steps=mini.steps),
        run=RunConfig(out=out, seed=seed, save_every=100, sample_every=mini.steps),
        **switches,
    )
    try:
        trained[name] = Path(train_vae.main(config)["checkpoint"])
    except FloatingPointError as error:
        broken[name] = str(error)
        with written_whole(verdict) as temporary:
            temporary.write_text(json.dumps({"why": str(error)}) + "\n", encoding="utf-8")
        logger.warning("%s, seed %d: %s", name, seed, error)
