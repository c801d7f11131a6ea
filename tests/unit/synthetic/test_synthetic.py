"""The synthetic data: sources kept apart, layout, shares, determinism, resume, and composites that differ in the region only."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffharmony.synthetic import dataset, items, photographs, recolor, regions, scenes
from diffharmony.synthetic.__main__ import main

RANGES = ((0.0, 0.05), (0.05, 0.15), (0.15, 1.0))


@pytest.fixture(scope="module")
def sets():
    return photographs.find_photographs()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Four pictures of our own, so that these tests do not depend on which packages are installed."""
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        picture = None
        while picture is None:
            picture = scenes.draw_scene(288, generator)
        Image.fromarray(picture.real).save(folder / f"{seed}.png")
        made.append(photographs.Photograph(f"own/{seed}.png", str(folder / f"{seed}.png")))
    return tuple(made)


def training_set(root, pictures, **changes):
    options = dict(photo_crops=5, scenes=2, composites_per_crop=2, size=96, seed=3, workers=1, photographs=pictures)
    return dataset.write_training_set(root, **{**options, **changes})


def contents(root):
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def read(file):
    return np.asarray(Image.open(file))


def triples(root, list_name):
    for line in (root / list_name).read_text().splitlines():
        composite = root / line
        name, mask, _ = composite.stem.split("_")
        subset = composite.parent.parent
        yield read(composite), read(subset / "masks" / f"{name}_{mask}.png"), read(
            subset / "real_images" / f"{name}{composite.suffix}"
        )


# --- photographs


def test_train_and_test_pictures_come_from_different_packages(sets):
    train_packages = {name.split("/")[0] for name, _ in sets.train}
    test_packages = {name.split("/")[0] for name, _ in sets.test}
    assert train_packages <= {
        "skimage",
        "comfyui_workflow_templates_media_image",
        "comfyui_workflow_templates_media_other",
        "comfyui_workflow_templates_media_video",
    }
    assert test_packages <= {"sklearn", "comfyui_workflow_templates_media_api", "comfyui_workflow_templates_media_assets_01"}
    assert {"sklearn/china.jpg", "sklearn/flower.jpg"} <= {name for name, _ in sets.test}
    assert len(sets.train) > 200 and len(sets.test) > 60


def test_no_training_picture_looks_like_a_test_picture(sets):
    def small(photograph):
        return np.asarray(Image.open(photograph.path).convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int32)

    # Another description than the one used to choose: 256-bit difference hashes of both mirror images.
    def hashes(image):
        return [np.diff(view, axis=1).ravel() > 0 for view in (image, image[:, ::-1])]

    test_hashes = np.array([view for photograph in sets.test for view in hashes(small(photograph))])
    for photograph in sets.train:
        distance = (test_hashes != hashes(small(photograph))[0]).sum(axis=1).min()
        assert distance > 40, photograph.name


def test_a_mirrored_and_relit_copy_counts_as_a_duplicate(pictures):
    picture = Image.open(pictures[0].path)
    copy = Image.fromarray((255 * (read(pictures[0].path)[:, ::-1] / 255) ** 1.3).astype(np.uint8)).resize((400, 300))
    other = Image.open(pictures[1].path)
    prints = [photographs.fingerprint(image)[None] for image in (picture, copy, other)]
    assert photographs.likeness(prints[0], prints[1]) > photographs.SAME_SET_LIKENESS
    assert photographs.likeness(prints[0], prints[2]) < photographs.ACROSS_SETS_LIKENESS


def test_the_order_is_sorted_and_the_same_every_time(sets, monkeypatch):
    assert [name for name, _ in sets.test] == sorted(name for name, _ in sets.test)
    assert [name for name, _ in sets.train] == sorted(name for name, _ in sets.train)
    monkeypatch.setattr(photographs, "TRAINING_FOLDERS", ())
    monkeypatch.setattr(photographs, "TEST_FOLDERS", ())
    found, again = (photographs.find_photographs.__wrapped__() for _ in range(2))
    assert found == again


def test_diagrams_logos_and_small_pictures_are_rejected(pictures):
    assert photographs.reason_to_reject(Image.open(pictures[0].path)) is None
    assert "less than" in photographs.reason_to_reject(Image.open(pictures[0].path).resize((100, 100)))
    assert "one colour" in photographs.reason_to_reject(Image.new("RGB", (300, 300), "white"))
    grey = Image.open(pictures[0].path).convert("L").convert("RGB")
    assert photographs.reason_to_reject(grey) is not None
    clear = Image.open(pictures[0].path).convert("RGBA")
    clear.putalpha(128)
    assert "transparent" in photographs.reason_to_reject(clear)


def test_a_missing_package_is_named():
    with pytest.raises(FileNotFoundError, match="pip install no-such-package"):
        photographs.package_folder("no_such_package", "templates")


# --- regions and changes


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), band=st.sampled_from([(0.01, 0.5), (0.01, 0.05), (0.05, 0.15), (0.15, 0.5)]))
def test_a_region_has_the_share_asked_for(seed, band):
    generator = np.random.default_rng(seed)
    image = (scenes._noise(*np.mgrid[0:1:96j, 0:1:96j][::-1], generator, 6)[..., None] * [30, 40, 50] + 128).clip(0, 255)
    drawn = regions.RegionPainter(image.astype(np.uint8)).draw(generator, *band)
    if drawn is None:
        return
    mask, kind = drawn
    assert kind in regions.KINDS and mask.dtype == np.float32 and mask.shape == (96, 96)
    assert mask.min() >= 0 and mask.max() <= 1
    assert band[0] <= (mask >= 0.5).mean() <= band[1]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_changed_colours_stay_colours(seed):
    generator = np.random.default_rng(seed)
    colours = generator.random((200, 3), dtype=np.float32)
    reference = generator.random((100, 3), dtype=np.float32) ** 2
    for changed, name, clipped in (
        recolor.change_light(colours, generator),
        recolor.transfer_colours(colours, reference, generator),
    ):
        assert changed.shape == colours.shape and changed.dtype == np.float32 and np.isfinite(changed).all()
        assert changed.min() >= 0 and changed.max() <= 1
        assert name and 0 <= clipped <= 1


@given(value=st.floats(0, 1, width=32))
def test_linear_light_and_back(value):
    assert recolor.from_linear(recolor.to_linear(np.float32(value))) == pytest.approx(value, abs=1e-5)


def test_a_clean_clip_is_counted():
    colours = np.full((10, 3), 0.9, dtype=np.float32)
    assert recolor._clipped_share(colours * 1.5, colours) == 1
    assert recolor._clipped_share(colours * 0.5, colours) == 0


def test_region_wants_an_8_bit_rgb_image():
    with pytest.raises(ValueError, match=r"image must be \[H,W,3\] uint8, got \[8, 8\] float64"):
        regions.RegionPainter(np.zeros((8, 8)))


def test_a_scene_differs_inside_its_mask_only():
    for seed in range(4):
        scene = scenes.draw_scene(96, np.random.default_rng(seed))
        if scene is None:
            continue
        again = scenes.draw_scene(96, np.random.default_rng(seed))
        assert all(np.array_equal(one, two) for one, two in zip(scene, again))
        outside = scene.mask == 0
        assert np.array_equal(scene.real[outside], scene.composite[outside])
        assert recolor.foreground_mse(scene.composite, scene.real, scene.mask) > 0


# --- training set


def test_training_set_layout(tmp_path, pictures):
    counts = training_set(tmp_path, pictures)
    assert counts == {"photographs": 4, "items": 7, "composites": 12}
    lines = (tmp_path / "IHD_train.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 12
    assert lines[0] == "Photos/composite_images/p000000_1_1.jpg"
    assert lines[-1] == "Scenes/composite_images/s000001_1_1.jpg"
    for composite, mask, real in triples(tmp_path, "IHD_train.txt"):
        assert composite.shape == real.shape == (96, 96, 3) and composite.dtype == np.uint8
        assert mask.shape == (96, 96) and mask.dtype == np.uint8
        # JPEG blocks that touch the region differ a little; the rest of the background does not.
        assert np.abs(composite.astype(int) - real)[mask == 0].mean() < 3
    records = [json.loads(line) for line in (tmp_path / "composites.jsonl").read_text().splitlines()]
    assert [record["file_name"] for record in records] == lines
    for record in records:
        assert 0.01 <= record["foreground_share"] <= 0.5
        assert recolor.LOWEST_FMSE <= record["fmse"] <= recolor.HIGHEST_FMSE
    assert not [file for file in tmp_path.rglob(".*")]


def test_a_mask_may_be_changed_several_times(tmp_path, pictures):
    training_set(tmp_path / "thrice", pictures, photo_crops=2, scenes=0, changes_per_mask=3, suffix=".png")
    lines = (tmp_path / "thrice" / "IHD_train.txt").read_text().splitlines()
    names = [f"p{crop:06d}_{mask}_{change}" for crop in range(2) for mask in (1, 2) for change in (1, 2, 3)]
    assert [line.split("/")[-1] for line in lines] == [f"{name}.png" for name in names]
    assert len(list((tmp_path / "thrice" / "Photos" / "masks").iterdir())) == 4
    drawn = list(triples(tmp_path / "thrice", "IHD_train.txt"))
    assert len({composite.tobytes() for composite, _, _ in drawn}) == len(drawn)
    for composite, mask, real in drawn:
        assert np.array_equal(composite[mask == 0], real[mask == 0])
    with pytest.raises(ValueError, match="changes_per_mask must be 3 to go on in .*, got None"):
        training_set(tmp_path / "thrice", pictures, photo_crops=2, scenes=0, suffix=".png")


def test_background_is_exact_before_jpeg(tmp_path, pictures):
    training_set(tmp_path, pictures, suffix=".png")
    for composite, mask, real in triples(tmp_path, "IHD_train.txt"):
        assert np.array_equal(composite[mask == 0], real[mask == 0])
        assert ((mask > 0) & (mask < 255)).mean() < 0.1


def test_same_seed_same_bytes_whatever_the_number_of_workers(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(dataset, "FEW", 2)
    training_set(tmp_path / "one", pictures)
    training_set(tmp_path / "two", pictures, workers=2)
    training_set(tmp_path / "other", pictures, seed=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one") != contents(tmp_path / "other")


def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path, pictures, monkeypatch):
    training_set(tmp_path / "whole", pictures)
    saved = []

    def interrupted(root, item):
        if len(saved) == 3:
            items.write_bytes(root / item.subset / "real_images" / f"{item.name}.jpg", b"half an item")
            raise KeyboardInterrupt
        saved.append(item.name)
        return items.save_item(root, item)

    monkeypatch.setattr(dataset, "save_item", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training_set(tmp_path / "parts", pictures)
    assert not (tmp_path / "parts" / "IHD_train.txt").exists()
    again = []
    monkeypatch.setattr(dataset, "save_item", lambda root, item: again.append(item.name) or items.save_item(root, item))
    training_set(tmp_path / "parts", pictures)
    assert len(again) == 4 and not set(again) & set(saved)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    training_set(tmp_path / "parts", pictures)
    assert len(again) == 4


def test_a_folder_takes_one_sort_of_data(tmp_path, pictures):
    training_set(tmp_path, pictures, photo_crops=1, scenes=0)
    with pytest.raises(ValueError, match="seed must be 3 to go on in .*got 5"):
        training_set(tmp_path, pictures, photo_crops=1, scenes=0, seed=5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(workers=0), "workers must be at least 1, got 0"),
        (dict(photo_crops=-1), "photo_crops must be at least 0, got -1"),
        (dict(size=8), "size must be at least 32, got 8"),
        (dict(suffix=".gif"), 'suffix must be ".jpg" or ".png", got ".gif"'),
        (dict(photographs=()), "photographs must be at least one picture"),
        (dict(photo_crops=0, scenes=0), r"photo_crops \+ scenes must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(tmp_path, pictures, changes, message):
    with pytest.raises(ValueError, match=message):
        training_set(tmp_path / "root", pictures, **changes)
    assert not (tmp_path / "root").exists()


# --- test set


def test_test_sets_of_two_sizes_show_the_same_composites(tmp_path, pictures):
    for size in (64, 128):
        counts = dataset.write_test_set(
            tmp_path / str(size), size=size, composites_per_range=2, workers=1, photographs=pictures, seed=1
        )
        assert counts["composites"] == 6
    small, large = (list(triples(tmp_path / size, "IHD_test.txt")) for size in ("64", "128"))
    for (composite, mask, real), (large_composite, large_mask, large_real) in zip(small, large):
        assert set(np.unique(mask)) == {0, 255}
        assert np.array_equal(composite[mask == 0], real[mask == 0])
        assert not np.array_equal(composite[mask == 255], real[mask == 255])
        assert np.abs(np.asarray(Image.fromarray(large_real).resize((64, 64), 3)).astype(int) - real).mean() < 3
        assert (mask == 255).mean() == pytest.approx((large_mask == 255).mean(), abs=0.02)
    records = [json.loads(line) for line in (tmp_path / "128" / "composites.jsonl").read_text().splitlines()]
    for position, (low, high) in enumerate(RANGES):
        in_range = records[2 * position : 2 * position + 2]
        assert all(low < record["foreground_share"] <= high for record in in_range)
        assert len({record["source"] for record in in_range}) == 2


def test_each_photograph_serves_once_per_range(tmp_path, pictures):
    with pytest.raises(ValueError, match=r"composites_per_range must be at most the number of photographs \(4\), got 5"):
        dataset.write_test_set(tmp_path / "root", size=64, composites_per_range=5, photographs=pictures)
    assert not (tmp_path / "root").exists()


def test_command_line_reports_what_was_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["test", "--root", str(tmp_path / "root"), "--size", "1000"])
    assert stop.value.code == 2
    assert "size must be 32..512, got 1000" in capsys.readouterr().err
