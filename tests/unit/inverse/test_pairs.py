"""Pairs added to a data set: the layout, names, and nothing written over or elsewhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from diffharmony.common.images import load_image, load_mask
from diffharmony.dataset.pairs import read_list
from diffharmony.inverse.pairs import save_pair


def pictures(count=1, height=20, width=24, seed=0):
    """composites [count,3,H,W], mask, real, of 8-bit values."""
    values = np.random.default_rng(seed).integers(0, 256, (count + 1, 3, height, width)).astype(np.float32)
    images = torch.from_numpy(values) / 127.5 - 1
    mask = torch.zeros(1, 1, height, width)
    mask[..., 5:15, 4:12] = 1
    mask[..., 4, 4:12] = 100 / 255
    return images[1:], mask, images[:1]


def save(output, dataset="pairs", subset="Own", name="photo", **options):
    return save_pair(output, dataset, subset, name, *pictures(**options))


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_files_lie_in_the_layout_with_the_values_given(tmp_path):
    composites, mask, real = pictures(count=2)
    made = save_pair(tmp_path, "pairs", "Own", "photo", composites, mask, real)
    assert [path.as_posix() for path in made] == [f"pairs/Own/composite_images/photo-00001_1_{k}.png" for k in (1, 2)]
    assert set(files(tmp_path / "pairs")) == {
        "IHD_train.txt",
        "Own/composite_images/photo-00001_1_1.png",
        "Own/composite_images/photo-00001_1_2.png",
        "Own/masks/photo-00001_1.png",
        "Own/real_images/photo-00001.png",
    }
    for pair, composite in zip(read_list(tmp_path / "pairs", "IHD_train.txt"), composites, strict=True):
        assert torch.equal(load_image(pair.composite)[0], composite)
        assert torch.equal(load_image(pair.real), real) and torch.equal(load_mask(pair.mask), mask)
    assert Image.open(pair.mask).mode == "L"


@pytest.mark.parametrize("name", ["two words", "Äpfel und Öl", "a_b_2", "写真", "pair-00007"])
def test_names_that_people_have(tmp_path, name):
    for number in (1, 2):
        save(tmp_path, dataset="Meine Bilder ü", subset="Süd West", name=name, seed=number)
    found = read_list(tmp_path / "Meine Bilder ü", "IHD_train.txt")
    assert [pair.composite.name for pair in found] == [f"{name}-{number:05d}_1_1.png" for number in (1, 2)]
    assert [torch.equal(load_image(pair.real), pictures(seed=number)[2]) for number, pair in enumerate(found, start=1)] == [True, True]


@pytest.mark.parametrize("part", ["dataset", "subset", "name"])
@pytest.mark.parametrize("bad", ["../x", "..", "/tmp/x", "a/b", "a\\b", "C:x", "", ".hidden", "a\nb", "a\x85b", " a"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, part, bad):
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(ValueError, match=f"{part} must"):
        save(output, **{part: bad})
    assert not files(tmp_path) and list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("linked", ["pairs", "pairs/Own", "pairs/Own/masks", "pairs/Own/composite_images", "pairs/Own/real_images"])
def test_a_link_out_of_the_output_folder_is_refused(tmp_path, linked):
    output, elsewhere = tmp_path / "output", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (output / linked).parent.mkdir(parents=True)
    (output / linked).symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match="must lie in the output folder, got a link to .*elsewhere"):
        save(output)
    assert not files(elsewhere)


def test_an_output_folder_that_is_a_link_itself_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "output").symlink_to(tmp_path / "disk", target_is_directory=True)
    save(tmp_path / "output")
    assert "pairs/IHD_train.txt" in files(tmp_path / "disk")


def test_a_list_that_is_a_link_is_refused_before_anything_is_written(tmp_path):
    output, secret = tmp_path / "output", tmp_path / "secret"
    (output / "pairs").mkdir(parents=True)
    secret.write_text("as it was")
    (output / "pairs" / "IHD_train.txt").symlink_to(secret)
    with pytest.raises(ValueError, match="must be a plain file, got a link"):
        save(output)
    assert secret.read_text() == "as it was" and set(files(output)) == {"pairs/IHD_train.txt"}


@pytest.mark.parametrize("kept", ["real_images/photo-00001.png", "masks/photo-00001_1.png", "composite_images/photo-00001_1_4.png"])
def test_what_is_there_is_never_overwritten(tmp_path, kept):
    """Whatever is left of a pair, its number is not given again."""
    path = tmp_path / "pairs" / "Own" / kept
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert save(tmp_path)[0].name == "photo-00002_1_1.png"
    assert path.read_bytes() == b"mine"


def test_others_that_add_at_the_same_time_wait(tmp_path):
    save(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(tmp_path / "pairs" / ".lock"):
            other = pool.submit(save, tmp_path)
            with pytest.raises(TimeoutError):
                other.result(timeout=0.2)
            (tmp_path / "pairs" / "Own" / "masks" / "photo-00002_1.png").write_bytes(b"theirs")
        assert other.result()[0].name == "photo-00003_1_1.png"


def test_the_list_keeps_what_it_had(tmp_path):
    path = tmp_path / "pairs" / "IHD_train.txt"
    path.parent.mkdir()
    path.write_bytes(b"Old/composite_images/a_1_1.jpg\r\nOld/composite_images/\xff_1_1.jpg")
    save(tmp_path)
    assert path.read_bytes() == (
        b"Old/composite_images/a_1_1.jpg\r\nOld/composite_images/\xff_1_1.jpg\nOwn/composite_images/photo-00001_1_1.png\n"
    )


def test_when_the_list_cannot_be_written_nothing_stays(tmp_path, monkeypatch):
    save(tmp_path)
    before = files(tmp_path)
    replace = Path.replace

    def full(self, target):
        if Path(target).name == "IHD_train.txt":
            raise OSError("no space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"real": torch.zeros(2, 3, 20, 24), "mask": torch.ones(2, 1, 20, 24)}, "real must be one for all composites, got a batch of 2"),
        ({"composites": torch.zeros(1, 3, 20, 23)}, "composite must have the real image's size, 24 x 20 px, got 23 x 20 px"),
        ({"mask": torch.zeros(1, 1, 10, 24)}, "mask must be as large as real"),
        ({"composites": torch.full((1, 3, 20, 24), float("nan"))}, "image to save must be finite"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, changed, rule):
    composites, mask, real = pictures()
    with pytest.raises(ValueError, match=rule):
        save_pair(tmp_path, "pairs", "Own", "photo", **{"composites": composites, "mask": mask, "real": real, **changed})
    assert not files(tmp_path)
