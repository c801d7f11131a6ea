"""Every language says everything: no node, input or output is left untranslated."""

import json

import pytest

from diffharmony.common.assets import ROOT

ENGLISH = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
SHARED = {"VAE", "x", "y", "psnr", "mse", "fmse"}  # the same in every language


def texts(definitions: object, place: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    if isinstance(definitions, str):
        return {place: definitions}
    return {at: text for name, value in definitions.items() for at, text in texts(value, (*place, name)).items()}


@pytest.mark.parametrize("language", [path.name for path in (ROOT / "locales").iterdir() if path.name != "en"])
def test_every_text_is_translated(language):
    found = texts(json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")))
    wanted = texts(ENGLISH)
    assert list(found) == list(wanted)
    assert [place for place, text in wanted.items() if found[place] == text and text not in SHARED] == []
