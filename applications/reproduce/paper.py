"""What the paper's tables hold, row by row, and what of ours stands beside each (SPEC §9).

SPEC names Tables 2, 4 and 5 and Figure 2 by what they show. Which number the main comparison, the one by foreground share and the
pictures bear is our reading: 1, 3 and Figure 3.
"""

from __future__ import annotations

from dataclasses import dataclass

FIGURES = ("PSNR", "MSE", "fMSE")
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Method:
    """How a row is made: names of checkpoints in the models folder, and the square working size in pixels. unet None: not harmonized, but
    encoded and decoded."""

    size: int
    vae: str = "harmony_vae"
    unet: str | None = "harmonization_unet"
    conditional: bool = True
    refinement: str | None = None

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(name for name in (self.vae, self.unet, self.refinement) if name)


@dataclass(frozen=True)
class Row:
    """One line of a table. method None with `composite`: the untouched composites; without: the paper's figures alone."""

    name: str
    paper: Figures
    method: Method | None = None
    composite: bool = False
    subset: str | None = None
    """Only the composites of this subset."""
    range: str | None = None
    """Only the composites of this foreground range."""

    @property
    def measured(self) -> bool:
        return self.composite or self.method is not None


@dataclass(frozen=True)
class Table:
    """A table: its rows, and the differences (what is compared, better row, worse row) whose signs the paper reports."""

    title: str
    rows: tuple[Row, ...]
    differences: tuple[tuple[str, str, str], ...] = ()


def _figures(psnr: float | None, mse: float | None = None, fmse: float | None = None) -> Figures:
    return {"PSNR": psnr, "MSE": mse, "fMSE": fmse}


GAMMAS = (0.5, 1, 2)  # SPEC §4: the paper's is 1
PLAIN = dict(vae="vae", conditional=False)


def _table_1() -> Table:
    return Table(
        "Table 1: harmonization of iHarmony4's test images",
        (
            Row("composite", _figures(34.35, 59.67, 594.67), composite=True),
            Row("HDNet", _figures(40.46, 16.55)),
            Row("DiffHarmony (plain VAE), 1024", _figures(40.98, 14.86, 166.48), Method(1024, **PLAIN)),
            Row("DiffHarmony++ (Harmony-VAE), 1024", _figures(41.66, 13.98, 153.98), Method(1024)),
        ),
        (
            ("harmonized against composite", "DiffHarmony++ (Harmony-VAE), 1024", "composite"),
            ("Harmony-VAE against plain VAE", "DiffHarmony++ (Harmony-VAE), 1024", "DiffHarmony (plain VAE), 1024"),
        ),
    )


def _table_2() -> Table:
    rows, differences = [], []
    for subset, figures in (
        ("Hday2night", (_figures(39.06, 25.70, 439.11), _figures(42.26, 17.49, 223.67))),
        ("HFlickr", (_figures(34.52, 61.15, 413.08), _figures(36.57, 41.18, 252.86))),
    ):
        for kind, paper in zip(("base", "augmented"), figures):
            unet = f"table2_{subset.lower()}_{kind}_unet"
            rows.append(Row(f"{subset}, {kind}", paper, Method(512, unet=unet), subset=subset))
        differences.append((f"augmented against base, {subset}", f"{subset}, augmented", f"{subset}, base"))
    return Table("Table 2: training data augmented by the inverse model, 512 px", tuple(rows), tuple(differences))


def augmented_unet(gamma: float | None) -> str:
    """Name of Table 2's UNet in miniature: trained without (None) or with generated composites."""
    return "table2_base_unet" if gamma is None else f"table2_gamma_{gamma:g}_unet"


def _table_2_in_miniature() -> Table:
    base = Row("base", _figures(39.06, 25.70, 439.11), Method(512, unet=augmented_unet(None)))
    papers = {1: _figures(42.26, 17.49, 223.67)}
    rows = {
        gamma: Row(f"augmented, γ = {gamma:g}", papers.get(gamma, _figures(None)), Method(512, unet=augmented_unet(gamma))) for gamma in GAMMAS
    }
    composite = Row("composite", _figures(None), composite=True)
    return Table(
        "Table 2: training data augmented by the inverse model, 512 px (the paper's figures: Hday2night)",
        (composite, base, *rows.values()),
        tuple((f"γ = {gamma:g} against base", row.name, base.name) for gamma, row in rows.items()),
    )


def _table_3() -> Table:
    ours, theirs = (45.20, 40.17, 34.97), (45.64, 39.97, 34.59)
    rows = []
    for name, psnr, hdnet in zip(("0-5", "5-15", "15-100"), ours, theirs):
        rows += [
            Row(f"composite, foreground {name} %", _figures(None), composite=True, range=name),
            Row(f"HDNet512, foreground {name} %", _figures(hdnet), range=name),
            Row(f"DiffHarmony++ 1024, foreground {name} %", _figures(psnr), Method(1024), range=name),
        ]
    return Table("Table 3: by foreground share", tuple(rows))


def _table_4() -> Table:
    rows = (
        Row("plain VAE, 512", _figures(38.12, 25.09, 292.16), Method(512, **PLAIN)),
        Row("Harmony-VAE, 512", _figures(40.11, 19.81, 215.01), Method(512)),
        Row("plain VAE, 1024", _figures(40.98, 14.86, 166.48), Method(1024, **PLAIN)),
        Row("plain VAE + refinement, 1024", _figures(41.72, 13.35, 151.65), Method(1024, **PLAIN, refinement="refinement_plain")),
        Row("Harmony-VAE, 1024", _figures(41.66, 13.98, 153.98), Method(1024)),
        Row("Harmony-VAE + refinement, 1024", _figures(41.75, 13.23, 150.92), Method(1024, refinement="refinement")),
    )
    return Table(
        "Table 4: with and without Harmony-VAE and refinement stage",
        rows,
        (
            ("Harmony-VAE against plain VAE, 512", "Harmony-VAE, 512", "plain VAE, 512"),
            ("Harmony-VAE against plain VAE, 1024", "Harmony-VAE, 1024", "plain VAE, 1024"),
            ("refinement on the plain VAE, 1024", "plain VAE + refinement, 1024", "plain VAE, 1024"),
            ("refinement on the Harmony-VAE, 1024", "Harmony-VAE + refinement, 1024", "Harmony-VAE, 1024"),
            ("Harmony-VAE against refinement, 1024", "Harmony-VAE, 1024", "plain VAE + refinement, 1024"),
        ),
    )


def _table_5() -> Table:
    cells = {
        ("zero", "conditional_encoder"): _figures(39.86, 20.45, 221.05),
        ("zero", "encoder_and_decoder"): _figures(40.11, 19.81, 215.01),
        ("random", "conditional_encoder"): _figures(float("nan"), float("nan"), float("nan")),
        ("random", "encoder_and_decoder"): _figures(31.49, 114.81, 1231.56),
    }
    names = {"conditional_encoder": "E_c only", "encoder_and_decoder": "E_c + D"}
    rows = tuple(
        Row(f"{start} initialisation, {names[trained]}", paper, Method(512, vae=f"table5_{start}_{trained}"))
        for (start, trained), paper in cells.items()
    )
    return Table(
        "Table 5: how the Harmony-VAE is initialised and what of it is trained, 512 px",
        rows,
        (
            ("E_c + D against E_c only, zero", "zero initialisation, E_c + D", "zero initialisation, E_c only"),
            ("zero against random, E_c + D", "zero initialisation, E_c + D", "random initialisation, E_c + D"),
            ("zero against random, E_c only", "zero initialisation, E_c only", "random initialisation, E_c only"),
        ),
    )


def _losses() -> Table:
    squared, l1 = "squared error (the paper)", "L1 (the authors' code)"
    return Table(
        "Losses of the Harmony-VAE, 512 px",
        (
            Row(squared, _figures(40.11, 19.81, 215.01), Method(512, vae="table5_zero_encoder_and_decoder")),
            Row(l1, _figures(None), Method(512, vae="losses_l1")),
        ),
        (("squared error against L1", squared, l1),),
    )


TABLES = {
    "table1": _table_1(), "table2": _table_2(), "table3": _table_3(), "table4": _table_4(), "table5": _table_5(), "losses": _losses(),
}  # fmt: skip
# where the miniature has other rows than the paper
MINIATURES = {**TABLES, "table2": _table_2_in_miniature()}
