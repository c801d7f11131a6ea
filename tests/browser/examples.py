"""The example workflows: the prompt that each was authored from, where its nodes stand, and its note."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from diffharmony.common.assets import BY_HUB_ID
from diffharmony.tests.host.comfy_server import PAINTED
from diffharmony.tests.host.prompts import TINY, Prompt, compared, composed, in_one, refined, transferred, video
from diffharmony.tests.made.inverse_prompts import TINY_CLASSIFIER, TINY_INVERSE, build_dataset, inverse

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
    groups: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)  # title -> x, y, width, height
    reroutes: dict[tuple[str, str], tuple[tuple[int, int], ...]] = field(default_factory=dict)  # node, input -> what its link is led by


# Four lanes above the models and one below the conditioning. What still crosses would cross in any drawing: nodes' inputs are in another order.
ADVANCED_LINKS = {
    ("transfer", "image"): ((1970, 94), (2000, 94), (2040, 150), (2040, 460)),
    ("transfer", "mask"): ((338, 570), (338, 160), (372, 116), (400, 116), (1950, 116), (1980, 116), (2020, 170), (2020, 480)),
    ("transfer", "model"): ((720, 210), (728, 170), (755, 138), (780, 138), (1930, 138), (1960, 138), (2000, 190), (2000, 520)),
    ("sampler", "model"): ((720, 210), (728, 170), (755, 138), (780, 138), (1335, 138), (1360, 138), (1382, 190)),
    ("working", "image"): ((360, 150), (360, 520), (390, 590), (420, 590)),
    ("decode", "vae"): ((1045, 390), (1045, 520), (1075, 550), (1100, 550)),
}  # fmt: skip

EXAMPLES = {
    "harmonize": Example(
        prompt=partial(in_one, composite=f"{PAINTED}.png", mask=None),
        needs="DiffHarmonyHarmonizeImage",
        layout={
            "composite": ((40, 80), (320, 380), "Picture and painted mask"),
            "harmonize": ((420, 80), (420, 720), None),
            "conditional": ((900, 80), (420, 420), "Harmonized image"),
        },
        note=Note(
            pos=(40, 510),
            size=(320, 230),
            text=(
                "1. Load a picture with an object pasted into it.\n"
                "2. Right-click it, **Open in MaskEditor**, paint over the object, save. What is painted is white in the mask: that is the "
                "foreground, which is relit.\n"
                "3. Queue. **Harmonize Image** shows before and after; everything outside the mask stays as it is.\n\n"
                "Too much, too little: *strength*. Undecided: *variants* (advanced inputs). The models are small ones that come with "
                "DiffHarmony until others lie in your model folders: choose them in *models*."
            ),
        ),
    ),
    "compose": Example(
        prompt=composed,
        needs="DiffHarmonyComposeForeground",
        layout={
            "background": ((40, 80), (300, 330), "Background"),
            "cutout": ((40, 490), (300, 350), "Cut-out with transparency"),
            "compose": ((480, 80), (360, 300), None),
            "harmonize": ((900, 80), (420, 720), None),
            "conditional": ((1380, 80), (460, 420), "Harmonized composite"),
        },
        groups={"1 Background and cut-out": (20, 0, 340, 860), "2 Place it": (460, 0, 400, 400), "3 Harmonize": (880, 0, 980, 820)},
        note=Note(
            pos=(480, 470),
            size=(360, 290),
            text=(
                "1. Load a background, and a cut-out: a PNG that is transparent around the object.\n"
                "2. Place it: *x*, *y* say where its middle lies, *scale* how high it is as a share of the background (0 = as it is).\n"
                "3. Queue. The fringe of its old background goes, and **Harmonize Image** relights it; the background stays as it is.\n\n"
                "*invert_mask* is on because the mask of Load Image is white where a picture is transparent."
            ),
        ),
    ),
    "video": Example(
        prompt=video,
        needs="DiffHarmonyHarmonizeImage",
        layout={
            "film": ((40, 80), (260, 330), "Video"),
            "frames": ((360, 80), (200, 110), None),
            "matte": ((680, 240), (260, 330), "Its mask, white = foreground"),
            "matte_frames": ((1000, 240), (200, 110), None),
            "mask": ((1260, 240), (200, 80), None),
            "harmonize": ((1560, 80), (420, 760), None),
            "joined": ((2100, 80), (200, 110), None),
            "saved": ((2360, 80), (360, 420), None),
        },
        groups={
            "1 A video": (20, 0, 560, 430),
            "2 Its mask": (660, 160, 820, 430),
            "3 Harmonize all frames alike": (1540, 0, 460, 860),
            "4 Save": (2080, 0, 660, 520),
        },
        reroutes={
            ("joined", "audio"): ((620, 200), (620, 860), (700, 920), (2000, 920), (2050, 860), (2050, 200)),
            ("joined", "fps"): ((595, 200), (595, 880), (700, 945), (2000, 945), (2075, 880), (2075, 200)),
        },
        note=Note(
            pos=(680, 640),
            size=(800, 190),
            text=(
                "1. Load a video with an object composited into it, and the object's mask as a video of as many frames: white is the object. "
                "Where the object does not move, a single mask (**Load Image (as Mask)**) will do.\n"
                "2. Queue. All frames share one noise, and *smoothing* averages the light over so many of them, so that it does not flicker; "
                "cuts between scenes are kept. 0 makes every frame by itself.\n\n"
                "Sound and frame rate are the video's own. All frames are in memory at once: long videos in parts, or with the command "
                "`diffharmony harmonize frames/ masks/ --smoothing 8`, which takes a frame at a time."
            ),
        ),
    ),
    "compare": Example(
        prompt=compared,
        needs="DiffHarmonyDifference",
        layout={
            "composite": ((40, 80), (260, 330), "Composite"),
            "mask": ((40, 490), (260, 350), "Foreground mask (white = foreground)"),
            "harmonize": ((380, 250), (400, 720), None),
            "both": ((880, 80), (260, 100), "Composite, then harmonized"),
            "real": ((880, 440), (260, 330), "Real photograph"),
            "differences": ((1280, 160), (240, 170), None),
            "shown": ((1580, 160), (340, 340), "What is wrong with either, 4 times"),
            "measured": ((2040, 80), (240, 170), None),
            "figures": ((2340, 80), (360, 240), "Figures of 0: composite, 1: harmonized"),
        },
        groups={
            "1 Composite and mask": (20, 0, 300, 860),
            "2 Harmonize": (360, 170, 440, 820),
            "3 Beside the real one": (860, 0, 1080, 800),
            "4 In figures": (2020, 0, 700, 340),
        },
        reroutes={
            ("measured", "real"): ((1280, 560), (1920, 560), (1970, 500), (1970, 180)),
            ("measured", "mask"): ((830, 380), (830, 800), (890, 850), (1920, 850), (2000, 790), (2000, 200)),
        },
        note=Note(
            pos=(2040, 400),
            size=(660, 270),
            title="What harmonizing is worth",
            text=(
                "With the real photograph at hand, that is with a composite whose object was only relit, results can be measured.\n\n"
                "**Harmonization Metrics** gives PSNR (larger is better), MSE and fMSE, the foreground's (smaller is better), as publications "
                "measure them: at 256 px, by *convention*. **Difference View** shows where an image still differs from the real one: black is "
                "equal.\n\n"
                "Other models, *strength* or *detail*: change them in Harmonize Image and queue again."
            ),
        ),
    ),
    "harmonize_advanced": Example(
        prompt=partial(transferred, **TINY),
        needs="DiffHarmonyTransfer",
        layout={
            "composite": ((40, 80), (270, 310), "Composite image"),
            "mask": ((40, 596), (270, 330), "Foreground mask (white = foreground)"),
            "unet": ((390, 230), (310, 110), None),
            "vae": ((760, 340), (240, 90), None),
            "working": ((760, 556), (240, 130), None),
            "conditioning": ((1110, 230), (230, 110), None),
            "sampler": ((1400, 230), (230, 270), None),
            "decode": ((1700, 516), (230, 130), None),
            "transfer": ((2065, 476), (230, 170), None),
            "conditional": ((2345, 476), (400, 460), "Harmonized image"),
        },
        groups={
            "1 Composite and mask": (20, 0, 310, 946),
            "2 Models": (370, 150, 650, 300),
            "3 Down to the model's size": (740, 476, 280, 230),
            "4 Harmonize at that size": (1090, 150, 860, 516),
            "5 The light, at full size": (2050, 396, 265, 270),
        },
        reroutes=ADVANCED_LINKS,
        note=Note(
            pos=(1110, 740),
            size=(620, 190),
            title="What Harmonize Image does, step by step",
            text=(
                "In the mask white is the foreground. The model works at the size that it was trained at (3, 4); **Transfer Harmony** gives the "
                "light that it found to the full-size image, whose detail stays (5).\n\n"
                "The KSampler's settings belong to the model: *euler_ancestral*, *normal*, cfg 1, denoise 1; the bundled tiny model finds light "
                "best in 1 step, the paper samples in 5."
            ),
        ),
    ),
    "inverse": Example(
        prompt=partial(inverse, **TINY_INVERSE),
        needs="DiffHarmonyInverseCandidates",
        layout={
            "real": ((40, 400), (300, 330), "Real photograph"),
            "mask": ((40, 780), (300, 350), "Foreground mask (white = foreground)"),
            "unet": ((400, 80), (340, 110), None),
            "vae": ((400, 230), (340, 90), None),
            "candidates": ((900, 340), (400, 560), None),
            "saved": ((1360, 340), (480, 560), "Composites"),
        },
        note=Note(
            pos=(40, 80),
            size=(300, 270),
            text=(
                "**Make composites out of a real photograph**\n\n"
                "1. Load a photograph and a mask of one object in it. White is the object.\n"
                "2. Queue. **Inverse Candidates** relights the object in several ways; everything outside the mask stays as it is.\n\n"
                "Another seed gives other candidates. A seed's first candidate is the same however many you make."
            ),
        ),
    ),
    "build_dataset": Example(
        prompt=partial(build_dataset, TINY_CLASSIFIER, **TINY_INVERSE),
        needs="DiffHarmonySaveHarmonizationPair",
        layout={
            "real": ((40, 361), (300, 330), "Real photograph"),
            "unet": ((420, 80), (330, 110), None),
            "vae": ((420, 240), (330, 90), None),
            "mask": ((420, 612), (330, 300), "Foreground mask (white = foreground)"),
            "candidates": ((830, 80), (300, 510), None),
            "classifier": ((1210, 180), (330, 90), None),
            "score": ((1620, 180), (250, 80), None),
            "sheet": ((1920, 240), (360, 360), "Candidates and their scores"),
            "select": ((2360, 80), (280, 220), None),
            "chosen": ((2720, 80), (270, 260), "The most unharmonious"),
            "pair": ((2720, 430), (270, 520), None),
        },
        groups={
            "1 Photograph": (20, 280, 340, 430),
            "2 Models": (400, 0, 370, 350),
            "3 Mask": (400, 532, 370, 400),
            "4 Candidates": (810, 0, 340, 610),
            "5 Score": (1190, 106, 1110, 504),
            "6 Save the most unharmonious": (2340, 0, 670, 970),
        },
        reroutes={
            ("candidates", "image"): ((420, 375), (720, 375), (790, 330), (795, 190)),
            ("candidates", "mask"): ((806, 560), (810, 240)),
            ("score", "images"): ((1165, 130), (1165, 260), (1200, 305), (1230, 305), (1540, 305), (1570, 305), (1600, 260)),
            ("score", "mask"): ((1540, 626), (1560, 626), (1605, 580), (1605, 290)),
            ("select", "mask"): ((2270, 626), (2290, 626), (2335, 580), (2335, 200)),
            ("select", "real"): ((378, 430), (378, 900), (420, 945), (450, 945), (2240, 945), (2270, 945), (2315, 900), (2315, 180)),
            ("pair", "mask"): ((2610, 626), (2640, 626), (2680, 590), (2690, 480)),
            ("pair", "real"): ((378, 430), (378, 900), (420, 945), (450, 945), (2620, 945), (2650, 945), (2700, 900), (2702, 520)),
        },
        note=Note(
            pos=(1210, 670),
            size=(500, 240),
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

# What `diffharmony push` publishes with a model that no template has, for want of a bundled one: applications/publish/<name>.json.
PUBLISHED = {
    "refine": Example(
        prompt=partial(refined, BY_HUB_ID, **TINY),
        needs="DiffHarmonyRefine",
        layout={
            **EXAMPLES["harmonize_advanced"].layout,
            "refinement": ((1700, 340), (230, 90), None),
            "refine": ((2000, 496), (230, 130), None),
            "transfer": ((2385, 456), (230, 170), None),
            "conditional": ((2660, 456), (300, 400), "Harmonized image"),
        },
        groups={
            **{title: box for title, box in EXAMPLES["harmonize_advanced"].groups.items() if title[0] in "123"},
            "4 Harmonize at that size, and refine": (1090, 150, 1160, 586),
            "5 The light, at full size": (2370, 376, 265, 270),
        },
        reroutes={
            **{link: tuple((x + 320 * (x > 1900), y) for x, y in points) for link, points in ADVANCED_LINKS.items()},
            ("refine", "composite"): ((1620, 570), (1645, 570), (1675, 620), (1690, 680), (1715, 680), (1930, 680), (1955, 680), (1985, 630)),
            ("refine", "mask"): ((1600, 590), (1625, 590), (1655, 640), (1680, 706), (1705, 706), (1940, 706), (1965, 706), (1992, 650)),
        },
        note=Note(
            pos=(1110, 790),
            size=(620, 190),
            text=(
                "In the mask white is the foreground. **Harmony Refine** mends the decoded image before its light is transferred to the full-size "
                "one. The refinement model is named by its *hub_id* (advanced inputs), and downloaded once."
            ),
        ),
    ),
}
