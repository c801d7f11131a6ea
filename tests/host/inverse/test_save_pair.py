"""Save Harmonization Pair in a real ComfyUI: what it writes, and that it writes nothing elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from diffharmony.dataset.pairs import read_list
from diffharmony.tests.host.prompts import added, node
from diffharmony.tests.host.test_workflow import pixels
from diffharmony.tests.made.inverse_prompts import build_dataset


def pair(dataset: str, subset: str = "Generated", name: str = "pair", **inputs):
    """A composite, its mask and its real image, saved."""
    prompt = {
        "real": node("LoadImage", image="real.png"),
        "mask": node("LoadImageMask", image="mask.png", channel="red"),
        "composite": node("LoadImage", image="second.png"),
        "two": node("ImageBatch", image1=["composite", 0], image2=["real", 0]),
    }
    names = {"dataset": dataset, "subset": subset, "name": name}
    saved = {**build_dataset()["pair"]["inputs"], "composite": ["composite", 0], **names, **inputs}
    return added(prompt, pair=node("DiffHarmonySaveHarmonizationPair", **saved))


def written(server) -> set[str]:
    return {path.relative_to(server.base).as_posix() for path in server.base.rglob("*") if path.is_file() and "user" not in path.parts}


@pytest.mark.parametrize(("subset", "name"), [("Generated", "pair"), ("Süd West", "Äpfel und Öl"), ("HCOCO", "a_b")])
def test_a_batch_is_saved_in_the_layout_and_shown(server, run, made, subset, name):
    dataset = f"Bilder von {name}"
    result = run(pair(dataset, subset, name, composite=["two", 0]))
    names = [f"{name}-00001_1_{k}.png" for k in (1, 2)]
    assert result.files["pair"] == names
    found = read_list(server.base / "output" / dataset, "IHD_train.txt")
    assert [entry.composite for entry in found] == [server.base / "output" / dataset / subset / "composite_images" / file for file in names]
    for entry, shown, source in zip(found, result.images["pair"], ("second.png", "real.png"), strict=True):
        assert np.array_equal(pixels(entry.composite), pixels(made / source)) and np.array_equal(shown, pixels(made / source))
        assert np.array_equal(pixels(entry.real), pixels(made / "real.png"))
        assert np.array_equal(pixels(entry.mask, 1), pixels(made / "mask.png", 1))


def test_further_pairs_are_added_and_nothing_is_overwritten(server, run):
    run(pair("twice"))
    root = server.base / "output" / "twice"
    before = {path: path.read_bytes() for path in root.rglob("*.png")}
    run(pair("twice", composite=["two", 0]))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (root / "IHD_train.txt").read_text().split() == [
        f"Generated/composite_images/pair-{number}.png" for number in ("00001_1_1", "00002_1_1", "00002_1_2")
    ]


@pytest.mark.parametrize("part", ["dataset", "subset", "name"])
@pytest.mark.parametrize("bad", ["../x", "..", "/tmp/x", "a/b", "a\\b", ""])
def test_names_that_lead_out_of_the_folder_are_refused(server, error_of, part, bad):
    before = written(server)
    assert f"{part} must be a plain file name" in error_of(pair(**{"dataset": "refused", part: bad}))
    assert written(server) == before


def test_a_link_out_of_the_output_folder_is_refused(server, error_of, tmp_path):
    link = server.base / "output" / "linked"
    if not link.is_symlink():
        link.symlink_to(tmp_path, target_is_directory=True)
    assert "must lie in the output folder, got a link" in error_of(pair("linked"))
    assert not list(tmp_path.iterdir())


def test_what_does_not_go_together_is_refused(error_of):
    odd = {"odd": node("LoadImage", image="odd.png")}
    message = error_of(added(pair("refused", composite=["odd", 0]), **odd))
    assert "composite must have the real image's size, 128 x 96 px, got 101 x 75 px" in message
    assert "real must be one for all composites, got a batch of 2" in error_of(pair("refused", real=["two", 0]))
    assert "mask must have foreground (white" in error_of(pair("refused", mask=["real", 1]))
