"""API-format prompts of the inverse direction: what `workflows/inverse.json` and `workflows/build_dataset.json` were authored from."""

from __future__ import annotations

from diffharmony.tests.host.prompts import BUNDLED, Prompt, node

TINY_INVERSE = {"vae": "inverse_harmony_vae.safetensors" + BUNDLED, "unet": "inverse_unet.safetensors" + BUNDLED}  # options of `inverse`
TINY_CLASSIFIER = "harmony_classifier.safetensors" + BUNDLED


def inverse(
    real: str = "real.png",
    mask: str = "mask.png",
    vae: str = "inverse_harmony_vae.safetensors",
    unet: str = "inverse_unet.safetensors",
    candidates: int = 10,
    seed: int = 0,
) -> Prompt:
    """A real photograph and a mask -> `saved`, the composites made of it."""
    return {
        "real": node("LoadImage", image=real),
        "mask": node("LoadImageMask", image=mask, channel="red"),
        "vae": node("DiffHarmonyLoadHarmonyVAE", vae_name=vae, hub_id=""),
        "unet": node("DiffHarmonyLoadInverseUNet", unet_name=unet, hub_id=""),
        "candidates": node(
            "DiffHarmonyInverseCandidates",
            model=["unet", 0],
            empty_prompt=["unet", 1],
            vae=["vae", 0],
            image=["real", 0],
            mask=["mask", 0],
            candidates=candidates,
            seed=seed,
            steps=5,
        ),
        "saved": node("SaveImage", images=["candidates", 0], filename_prefix="candidate"),
    }


def build_dataset(classifier: str = "harmony_classifier.safetensors", **options) -> Prompt:
    """As `inverse`, then scored (`sheet`), the most unharmonious selected (`chosen`) and saved as a training pair (`pair`)."""
    prompt = inverse(**options)
    del prompt["saved"]
    return {
        **prompt,
        "classifier": node("DiffHarmonyLoadHarmonyClassifier", classifier_name=classifier, hub_id=""),
        "score": node("DiffHarmonyHarmonyScore", classifier=["classifier", 0], images=["candidates", 0], mask=["mask", 0]),
        "sheet": node("PreviewImage", images=["score", 1]),
        "select": node(
            "DiffHarmonySelectMostUnharmonious",
            candidates=["candidates", 0],
            scores=["score", 0],
            real=["real", 0],
            mask=["mask", 0],
            count=1,
            min_distance=0.0,
            max_distance=65025.0,
            max_score=1.0,
        ),
        "chosen": node("PreviewImage", images=["select", 0]),
        "pair": node(
            "DiffHarmonySaveHarmonizationPair",
            composite=["select", 0],
            mask=["mask", 0],
            real=["real", 0],
            dataset="harmonization_pairs",
            subset="Generated",
            name="pair",
        ),
    }
