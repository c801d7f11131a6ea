"""The tables in miniature: the tiny family, small data of our own, short training, several seeds.

Working sizes are a quarter of the paper's, and images are measured at 128 px. What Tables 4 and 5 compare is trained here: for each
seed a Harmony-VAE of each kind from the tiny base VAE, and a refinement stage on the images that the plain and the Harmony-VAE give.
For Table 2, UNets with and without generated composites (table2_miniature.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from ...common.assets import TINY
from ...dataset.layout import write_list
from ...dataset.pairs import read_list
from ...synthetic.dataset import write_test_set, write_training_set
from ...train import refinement as train_refinement
from ...train import vae as train_vae
from ...train.config import DataConfig, RunConfig
from .paper import TABLES, Method
from .predict import predict
from .table2_miniature import Small, augmented_trainings
from .tables import Setting, find_models
from .trainings import Training, train_all

SIZE_DIVISOR = 4
KEPT = 128
PAPERS_CELL = {"initialization": "zero", "trainable": "encoder_and_decoder"}
# per table: name of each Harmony-VAE that is trained for it, and the switches that make it
CELLS: dict[str, dict[str, dict[str, str]]] = {
    "table4": {"table5_zero_encoder_and_decoder": PAPERS_CELL},  # the same training as in Table 5
    "table5": {
        f"table5_{start}_{part}": {"initialization": start, "trainable": part}
        for start in ("zero", "random")
        for part in ("conditional_encoder", "encoder_and_decoder")
    },
    "losses": {"table5_zero_encoder_and_decoder": PAPERS_CELL, "losses_l1": {**PAPERS_CELL, "loss": "l1"}},
}


@dataclass(frozen=True)
class Miniature:
    """How much is done."""

    seeds: int = 3
    """Trainings and samplings per row."""
    composites: int = 60
    """Test composites, a third in each foreground range."""
    steps: int = 300
    """Optimizer steps of each Harmony-VAE."""
    small: Small = field(default_factory=Small)
    """Table 2's data and trainings."""
    jobs: int = 1
    """Trainings at a time."""
    refinement_steps: int = 300
    """Optimizer steps of each refinement stage."""
    photo_crops: int = 800
    """Crops of training photographs, two composites each."""
    refined: int = 160
    """Training composites that the refinement stages learn on."""


def make_setting(table: str, mini: Miniature, work: Path) -> Setting:
    """Make the data and train what the table compares, into `work`; what is there already is gone on with."""
    if table in CELLS:
        make_training_data(mini, work)
    trained = tuple(dict(find_models(TINY)) for _ in range(mini.seeds))
    broken: tuple[dict[str, str], ...] = tuple({} for _ in range(mini.seeds))
    if table == "table2":
        trainings = [training for seed in range(mini.seeds) for training in augmented_trainings(mini.small, work, seed, trained[seed])]
        train_all(trainings, mini.jobs, trained, broken)
    elif table == "table4":
        _train_table_4(mini, work, trained, broken)
    elif table in CELLS:
        trainings = [_vae_training(mini, work, seed, name, **cell) for seed in range(mini.seeds) for name, cell in CELLS[table].items()]
        train_all(trainings, mini.jobs, trained, broken)
    count = mini.composites // 3 * 3
    seeds = "1 seed" if mini.seeds == 1 else f"{mini.seeds} seeds"
    heading = f" — MINIATURE: tiny family, {count} composites of our own, sizes a quarter of the paper's, measured at {KEPT} px, {seeds}"
    return Setting(make_test_data(mini, work), "IHD_test.txt", trained, broken, SIZE_DIVISOR, KEPT, heading=heading)


def make_training_data(mini: Miniature, work: Path) -> Path:
    """What Harmony-VAEs and refinement stages are trained on, in iHarmony4's layout; no photograph is in the test data too."""
    root = training_data(mini, work)
    write_training_set(root, photo_crops=mini.photo_crops, scenes=mini.photo_crops // 10, composites_per_crop=2, size=256, seed=7)
    return root


def make_test_data(mini: Miniature, work: Path) -> Path:
    """What every table is measured on, in iHarmony4's layout."""
    root = _data_folder(mini, work) / "test"
    write_test_set(root, size=256, composites_per_range=mini.composites // 3, seed=0)
    return root


def training_data(mini: Miniature, work: Path) -> Path:
    return _data_folder(mini, work) / "train"


def _data_folder(mini: Miniature, work: Path) -> Path:
    return work / f"data-{mini.photo_crops}-{mini.composites // 3}"


def _train_table_4(mini: Miniature, work: Path, trained: tuple[dict[str, Path], ...], broken: tuple[dict[str, str], ...]) -> None:
    (name, cell), = CELLS["table4"].items()
    train_all([_vae_training(mini, work, seed, name, **cell) for seed in range(mini.seeds)], mini.jobs, trained, broken)
    trainings = []
    for seed, (models, why) in enumerate(zip(trained, broken)):
        if name in why:
            del models["harmony_vae"]
            why.update(dict.fromkeys(("harmony_vae", "refinement"), why[name]))
        else:
            models["harmony_vae"] = models[name]
        refined = [row.method for row in TABLES["table4"].rows if row.method.refinement and row.method.vae in models]
        trainings += [_refinement_training(mini, work, seed, method, models) for method in refined]
    train_all(trainings, mini.jobs, trained, broken)


def _refinement_training(mini: Miniature, work: Path, seed: int, method: Method, models: dict[str, Path]) -> Training:
    """`train-refinement` on part of the training set, harmonized as the table's row does."""
    side = method.size // SIZE_DIVISOR
    preset = train_refinement.PRESETS["tiny"][1]
    root, list_file = training_data(mini, work), _refined_list(mini, work)
    config = replace(
        preset,
        harmonized=work / f"harmonized-{method.refinement}-{mini.refined}-{mini.steps}-seed{seed}",
        data=replace(preset.data, roots=(root,), list_file=list_file),
        optim=replace(preset.optim, steps=mini.refinement_steps),
        run=_run(work / f"{method.refinement}-{mini.refined}-{mini.steps}-{mini.refinement_steps}-seed{seed}", seed, mini.refinement_steps),
    )
    main = partial(_harmonize_and_train, replace(method, refinement=None), models, side)
    return Training(method.refinement, seed, main, config)


def _harmonize_and_train(method: Method, models: dict[str, Path], side: int, config) -> dict:
    pairs = read_list(config.data.roots[0], config.data.list_file)
    predict(method, models, pairs, config.harmonized, size=side, kept=side, seed=config.run.seed, device=torch.device("cpu"))
    return train_refinement.main(config)


def _refined_list(mini: Miniature, work: Path) -> str:
    root = training_data(mini, work)
    pairs = read_list(root, "IHD_train.txt")
    pairs = [pairs[position * len(pairs) // mini.refined] for position in range(min(mini.refined, len(pairs)))]
    name = f"refined-{mini.refined}.txt"
    write_list(root / name, (pair.composite.relative_to(root).as_posix() for pair in pairs))
    return name


def _vae_training(mini: Miniature, work: Path, seed: int, name: str, **switches) -> Training:
    preset = train_vae.PRESETS["tiny"][1]
    config = replace(
        preset,
        init=TINY / "vae.safetensors",
        data=DataConfig(roots=(training_data(mini, work),), size=96, min_crop=0.4, workers=0),
        optim=replace(preset.optim, learning_rate=1e-3, steps=mini.steps),
        run=_run(work / f"{name}-{mini.steps}-seed{seed}", seed, mini.steps),
        **switches,
    )
    return Training(name, seed, train_vae.main, config)


def _run(out: Path, seed: int, steps: int) -> RunConfig:
    return RunConfig(out=out, seed=seed, save_every=100, sample_every=steps, tracker="none")
