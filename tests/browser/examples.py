"""The example workflows: the prompt that each was authored from, where its nodes stand, and its note."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from diffharmony.tests.host.prompts import Prompt, transferred
from diffharmony.tests.made.inverse_prompts import build_dataset, inverse

# (position, size, title or None for the node's own)
Place = tuple[tuple[int, int], tuple[int, int], str | None]


@dataclass(frozen=True)
class Note:
    """A Markdown note, which exists only in the frontend."""

    pos: tuple[int, int]
    size: tuple[int, int]
    text: str
    title: str = "How to use"


@dataclass(frozen=True)
class Example:
    prompt: Callable[[], Prompt]
    layout: dict[str, Place]
    note: Note
    needs: str  # the node type without which the frontend cannot show it


LOADED = {
    "real": ((40, 80), (300, 330), "Real photograph"),
    "mask": ((40, 460), (300, 350), "Foreground mask (white = foreground)"),
    "vae": ((380, 80), (330, 60), None),
    "unet": ((380, 190), (330, 80), None),
}

EXAMPLES = {
    "harmonize": Example(
        prompt=transferred,
        needs="DiffHarmonyTransfer",
        layout={
            "composite": ((40, 80), (300, 330), "Composite image"),
            "mask": ((40, 460), (300, 350), "Foreground mask (white = foreground)"),
            "vae": ((380, 80), (330, 60), None),
            "unet": ((380, 190), (330, 80), None),
            "working": ((380, 320), (330, 130), None),
            "conditioning": ((750, 80), (260, 110), None),
            "sampler": ((1050, 80), (290, 270), None),
            "decode": ((1380, 80), (270, 130), None),
            "transfer": ((1380, 270), (270, 170), None),
            "conditional": ((1690, 80), (380, 380), "Harmonized image"),
        },
        note=Note(
            pos=(380, 510),
            size=(630, 220),
            text=(
                "**Harmonize a composite image**\n\n"
                "1. Load the composite image (a foreground pasted on a background) and its mask. In the mask, white is the foreground.\n"
                "2. Queue. The foreground is relit to match the background; everything outside the mask stays as it is.\n\n"
                "The model works at the size that it was trained at (**Harmony Working Size**); **Transfer Harmony** gives the light that it "
                "found to the full-size image, whose detail stays. *strength* makes the change weaker or stronger.\n\n"
                "The KSampler settings belong to the model: *euler_ancestral*, *normal*, cfg 1, denoise 1; the bundled tiny model finds "
                "light best in 1 step, the paper samples in 5."
            ),
        ),
    ),
    "inverse": Example(
        prompt=inverse,
        needs="DiffHarmonyInverseCandidates",
        layout={
            **LOADED,
            "candidates": ((750, 80), (400, 560), None),
            "saved": ((1190, 80), (480, 560), "Composites"),
        },
        note=Note(
            pos=(380, 330),
            size=(330, 210),
            text=(
                "**Make composites out of a real photograph**\n\n"
                "1. Load a photograph and a mask of one object in it. White is the object.\n"
                "2. Queue. **Inverse Candidates** relights the object in several ways; everything outside the mask stays as it is.\n\n"
                "Another seed gives other candidates. A seed's first candidate is the same however many you make."
            ),
        ),
    ),
    "build_dataset": Example(
        prompt=build_dataset,
        needs="DiffHarmonySaveHarmonizationPair",
        layout={
            **LOADED,
            "candidates": ((750, 80), (300, 520), None),
            "classifier": ((380, 320), (330, 60), None),
            "score": ((1090, 80), (250, 80), None),
            "sheet": ((1090, 220), (360, 380), "Candidates and their scores"),
            "select": ((1490, 80), (280, 220), None),
            "chosen": ((1490, 360), (280, 240), "The most unharmonious"),
            "pair": ((1810, 80), (290, 520), None),
        },
        note=Note(
            pos=(380, 440),
            size=(330, 250),
            text=(
                "**Build training data from real photographs**\n\n"
                "1. Load a photograph and a mask of one object in it. White is the object.\n"
                "2. Queue. Candidates are made, scored by the harmony classifier, and the most unharmonious one is saved with its mask "
                "and the photograph in `output/harmonization_pairs`, in iHarmony4's layout.\n\n"
                "Queue again with another photograph or seed: pairs are added, nothing is overwritten. "
                "*min_distance* rejects candidates that changed nothing."
            ),
        ),
    ),
}
