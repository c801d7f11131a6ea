"""Relightings in linear light: what each does, and the data sets drawn with them."""

import json

import numpy as np
import pytest
from PIL import Image

from diffharmony.synthetic import dataset, items, relight, scenes
from diffharmony.synthetic.photographs import Photograph
from diffharmony.synthetic.real_test import write_real_test_set


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for seed in range(2):
        generator, scene = np.random.default_rng(seed), None
        while scene is None:
            scene = scenes.draw_scene(288, generator)
        Image.fromarray(scene.real).save(folder / f"{seed}.png")
        made.append(Photograph(f"own/{seed}.png", str(folder / f"{seed}.png")))
    return tuple(made)


def read(file):
    return np.asarray(Image.open(file))


class TestLight:
    def test_the_daylight_locus(self):
        assert relight.light_gains(0, 0) == pytest.approx([1, 1, 1])
        warm, cool, green = relight.light_gains(60, 0), relight.light_gains(-60, 0), relight.light_gains(0, 0.2)
        assert warm[0] > warm[1] > warm[2] and cool[0] < cool[1] < cool[2] and green[1] > green[0] == pytest.approx(green[2])
        for mireds in (-100, -30, 40, 96, 97, 180):  # 4000 K lies at 96 mireds, where the loci meet
            assert relight.light_gains(mireds, 0.1) @ [0.2126, 0.7152, 0.0722] == pytest.approx(1)
        assert relight.light_gains(96.2, 0) == pytest.approx(relight.light_gains(96.3, 0), abs=0.01)

    def test_no_strength_changes_nothing(self):
        light, places = np.random.default_rng(0).random((50, 3)), np.zeros((50, 2))
        assert relight.draw_relighting(np.random.default_rng(1), 0.0).apply(light, places) == pytest.approx(light, abs=1e-6)
        assert (relight.relight(light.astype(np.float32), places, np.random.default_rng(1), 0.0)[0] == light.astype(np.float32)).all()

    def test_each_kind(self):
        light = np.random.default_rng(0).uniform(0.1, 0.4, (200, 3))
        places = np.random.default_rng(1).uniform(-0.5, 0.5, (200, 2))

        def changed(**fields):
            return relight.Relighting(**fields).apply(light, places)

        assert changed(exposure=1.0) == pytest.approx(2 * light, rel=1e-5)
        for in_stops in (False, True):
            flat = changed(contrast=0.5, in_stops=in_stops)
            assert flat.std() < light.std() and flat.mean() == pytest.approx(light.mean(), rel=0.05)
        across = changed(gradient=np.array([1.0, 0.0])) / light
        assert np.corrcoef(np.log(across[:, 0]), places[:, 0])[0, 1] > 0.999
        bounced = changed(bounce=np.array([0.5, 0, 0])) / light
        assert bounced[:, 1:] == pytest.approx(1, rel=1e-5) and bounced[:, 0].max() > 1.3 and bounced[:, 0].min() < 1.1
        assert changed(haze=np.full(3, 0.1), haze_cover=0.2) == pytest.approx(0.8 * light + 0.1, rel=1e-5)

    def test_strengths_reach_from_none_to_strong(self):
        generator, colours = np.random.default_rng(0), np.random.default_rng(1).uniform(0.2, 0.6, (80, 3)).astype(np.float32)
        errors = [65025 * np.mean((relight.relight(colours, np.zeros((80, 2)), generator)[0] - colours) ** 2) for _ in range(400)]
        assert 0.06 < np.mean(np.array(errors) == 0) < 0.2
        assert np.percentile(errors, 30) < 60 and np.percentile(errors, 90) > 600

    def test_places(self):
        region = np.zeros((8, 10), dtype=bool)
        region[2:5, 3:8] = True
        places = relight.region_places(region, region)
        assert places.shape == (15, 2) and places.min() == -0.5 and places.max() == 0.5 and places.mean() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("light", ["real", "mixed"])
def test_a_training_set_of_it(tmp_path, pictures, light):
    options = dict(photo_crops=4, scenes=0, composites_per_crop=3, size=96, seed=1, workers=1, photographs=pictures)
    made = dataset.write_training_set(tmp_path / "set", **options, light=light, smallest_crop=0.9, suffix=".png")
    assert made["composites"] == 12
    for line in (tmp_path / "set" / "composites.jsonl").read_text().splitlines():
        name = json.loads(line)["file_name"].split("/")[-1].removesuffix(".png").split("_")
        folder = tmp_path / "set" / "Photos"
        composite = read(folder / "composite_images" / f"{'_'.join(name)}.png")
        real, mask = read(folder / "real_images" / f"{name[0]}.png"), read(folder / "masks" / f"{name[0]}_{name[1]}.png")
        assert (composite[mask == 0] == real[mask == 0]).all()
    with pytest.raises(ValueError, match="light must be '(real|mixed)' to go on"):
        dataset.write_training_set(tmp_path / "set", **options, smallest_crop=0.9, suffix=".png")


def test_refusals(pictures):
    common = dict(subset="P", name="p", number=0, size=64, seed=0, suffix=".png", photographs=pictures, composites=1)
    with pytest.raises(ValueError, match="light must be one of recolour, real, mixed, got 'moon'"):
        items.TrainingCrop(**common, light="moon")
    with pytest.raises(ValueError, match="smallest_crop must lie in"):
        items.TrainingCrop(**common, smallest_crop=0.0)


def test_the_real_test_set(tmp_path, pictures):
    made = write_real_test_set(tmp_path / "set", pictures, composites=3, workers=1)
    assert made == {"photographs": 2, "items": 6, "composites": 6}
    records = [json.loads(line) for line in (tmp_path / "set" / "composites.jsonl").read_text().splitlines()]
    assert all(8 <= record["fmse"] <= 8000 and 0.01 <= record["foreground_share"] <= 0.5 for record in records)
    folder = tmp_path / "set" / "Photos"
    for record in records:
        stem = record["file_name"].split("/")[-1].removesuffix(".png")
        composite, mask = read(folder / "composite_images" / f"{stem}.png"), read(folder / "masks" / f"{stem.rsplit('_', 1)[0]}.png")
        real = read(folder / "real_images" / f"{stem.split('_')[0]}.png")
        assert set(np.unique(mask)) == {0, 255} and (composite[mask == 0] == real[mask == 0]).all()
