"""Training data: lists, the mixed stream, cuts (SPEC §7)."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from diffharmony.dataset.pairs import Pair, read_list
from diffharmony.tests.made.pairs import config_of, own, root  # noqa: F401
from diffharmony.train.data.crops import draw_crop, on_grid, read_crop, reduction
from diffharmony.train.data.dataset import HarmonizationDataset
from diffharmony.train.data.sampler import BatchSampler, ShuffledSampler


class TestLists:
    def test_both_kinds_of_list_name_the_same_pairs(self, root):
        pairs = read_list(root, "IHD_train.txt")
        assert pairs == read_list(root, "train.jsonl") and len(pairs) == 6
        assert {pair.subset for pair in pairs} == {"HCOCO", "HFlickr"}
        assert pairs[-1].real.name == "größe 3.png" and pairs[-1].mask.name == "größe 3_2.png"
        assert all(path.is_file() for pair in pairs for path in (pair.composite, pair.mask, pair.real))

    def test_a_subset_can_be_the_root_and_a_list_lie_elsewhere(self, root, tmp_path):
        (tmp_path / "mine.txt").write_text("composite_images/a1_1_1.png\n")
        (pair,) = read_list(root / "HCOCO", str(tmp_path / "mine.txt"))
        assert pair == replace(read_list(root, "IHD_train.txt")[0], subset="HCOCO")

    @pytest.mark.parametrize(
        "line, error, message",
        [
            ("HCOCO/composite_images/a1_1_9.png", None, None),  # an evaluation needs no composite
            ("HCOCO/composite_images/a9_1_1.png", FileNotFoundError, "a9.png must exist, looked in .*real_images"),
            ("HCOCO/composite_images/a1_7_1.png", FileNotFoundError, "a1_7.png must exist, looked in .*masks"),
            ("HCOCO/real_images/a1.png", ValueError, "line 1 of .* must be <subset>/composite_images"),
            ("", ValueError, "must name at least one composite"),
        ],
    )
    def test_lists_that_do_not_fit(self, root, tmp_path, line, error, message):
        other = tmp_path / "other.txt"
        other.write_text(line + "\n")
        if error is None:
            assert len(read_list(root, str(other))) == 1
        else:
            with pytest.raises(error, match=message):
                read_list(root, str(other))
        with pytest.raises(FileNotFoundError, match="list file 'none.txt' must exist, looked in"):
            read_list(root, "none.txt")

    def test_a_bad_json_line_is_named(self, root, tmp_path):
        (tmp_path / "x.jsonl").write_text('{"file_name": "HCOCO/composite_images/a1_1_1.png"}\n{"file": 1}\n')
        with pytest.raises(ValueError, match="line 2 of .*x.jsonl must be a JSON object with file_name"):
            read_list(root, str(tmp_path / "x.jsonl"))

    def test_missing_files_are_named_and_counted_before_anything_is_read(self, own):
        for name in ("composite_images/a1_1_1.png", "real_images/a2.png"):
            (own / "HCOCO" / name).unlink()
        shutil.rmtree(own / "HFlickr" / "masks")
        named = r"got 4 missing: .*a1_1_1.png, .*a2.png, .*größe 3_1.png, .*größe 3_2.png\. Complete"
        with pytest.raises(FileNotFoundError, match=named):
            HarmonizationDataset(config_of(own), 0)
        assert len(HarmonizationDataset(config_of(own, on_bad_image="skip"), 0).missing) == 4

    def test_folders_are_listed_not_asked_file_by_file(self, root, monkeypatch):
        asked = []
        isfile = os.path.isfile
        monkeypatch.setattr(os.path, "isfile", lambda path: asked.append(path) or isfile(path))
        HarmonizationDataset(config_of(root), 0)
        assert asked == [root / "IHD_train.txt"]


class TestStream:
    def test_one_set_is_passes_over_it(self):
        stream = ShuffledSampler([7], seed=3)
        order = [stream[counter] for counter in range(21)]
        assert all(sorted(order[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
        assert order[7:14] == np.random.default_rng((3, 0, 1)).permutation(7).tolist() != order[:7]

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data(), st.integers(0, 50))
    def test_each_set_has_its_share_in_passes_of_its_own(self, lengths, data, seed):
        weights = data.draw(st.one_of(st.just(()), st.lists(st.floats(0.5, 4), min_size=len(lengths), max_size=len(lengths))))
        total, shares = sum(lengths), weights or lengths
        if min(shares) * total < sum(shares):
            with pytest.raises(ValueError, match="data.weights must give each of data.roots an image"):
                ShuffledSampler(lengths, seed, weights)
            return
        stream, starts = ShuffledSampler(lengths, seed, weights), np.cumsum([0, *lengths])
        order = [stream[counter] for counter in range(5 * total)]
        for number, length in enumerate(lengths):
            own = [item - starts[number] for item in order if starts[number] <= item < starts[number + 1]]
            assert abs(len(own) - 5 * total * shares[number] / sum(shares)) <= 1
            assert all(len(set(own[start : start + length])) == length for start in range(0, len(own) - length + 1, length))
        if not weights:  # an epoch is every item once
            assert all(sorted(order[start : start + total]) == list(range(total)) for start in range(0, 5 * total, total))
        other = ShuffledSampler(lengths, seed, weights)
        for counter in (4 * total, 0, 3 * total - 1, total):  # in any order of asking
            assert other[counter] == order[counter]

    @pytest.mark.parametrize("weights", [(1.0,), (1, 0), (1, float("nan")), (1, 2, 3)])
    def test_weights_that_do_not_fit(self, weights):
        with pytest.raises(ValueError, match=r"data.weights must be one number above 0 for each of data.roots \(2\)"):
            ShuffledSampler([4, 5], 0, weights)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 3), st.sampled_from([1, 2, 4]), st.integers(1, 3), st.integers(0, 3))
    def test_processes_and_parts_share_every_step(self, accumulation, processes, share, first_step):
        batch = accumulation * processes * share
        streams = [
            list(
                BatchSampler(batch_size=batch, steps=5, first_step=first_step, accumulation=accumulation, rank=rank, processes=processes)
            )
            for rank in range(processes)
        ]
        assert all(len(stream) == (5 - first_step) * accumulation for stream in streams)
        for step in range(5 - first_step):
            counters = [c for stream in streams for part in stream[step * accumulation : (step + 1) * accumulation] for c in part]
            assert sorted(counters) == list(range((first_step + step) * batch, (first_step + step + 1) * batch))


class TestCuts:
    @settings(max_examples=60, deadline=None)
    @given(arrays(bool, st.tuples(st.integers(4, 40), st.integers(4, 40))), st.floats(0.2, 1), st.integers(0, 99))
    def test_crops_stay_inside_and_keep_foreground(self, foreground, min_crop, seed):
        height, width = foreground.shape
        left, top, right, bottom = draw_crop(foreground, min_crop, np.random.default_rng(seed))
        assert 0 <= left < right <= width + 1e-9 and 0 <= top < bottom <= height + 1e-9
        assert (right - left) / width == pytest.approx((bottom - top) / height)
        if foreground.any():
            rows, columns = np.nonzero(foreground)
            assert ((rows >= top - 1) & (rows <= bottom) & (columns >= left - 1) & (columns <= right)).any()

    @settings(max_examples=80, deadline=None)
    @given(st.integers(8, 300), st.integers(8, 300), st.floats(0.1, 1), st.integers(0, 99), st.sampled_from([8, 32, 64]))
    def test_grid_crops_stay_inside_what_every_reduced_image_has(self, width, height, min_crop, seed, size):
        crop = draw_crop(np.ones((height, width), bool), min_crop, np.random.default_rng(seed))
        factor = reduction(crop, size)
        assert factor == 1 or min(crop[2] - crop[0], crop[3] - crop[1]) >= 1.5 * factor * size
        left, top, right, bottom = on_grid(crop, factor, (width, height))
        assert 0 <= left < right <= width // factor and 0 <= top < bottom <= height // factor
        assert all(abs(found * factor - wanted) <= 1.5 * factor for found, wanted in zip((left, top, right, bottom), crop))

    @pytest.mark.parametrize("suffix", [".png", ".jpg"])
    @pytest.mark.parametrize("width, height", [(48, 40), (203, 131), (611, 409), (403, 397)])
    def test_images_and_mask_lie_pixel_on_pixel(self, tmp_path, suffix, width, height):
        """White on black where the mask is: reduced or not, cropped or not, the three pictures must agree."""
        rows, columns = np.mgrid[:height, :width]
        mask = (((rows / height - 0.4) / 0.2) ** 2 + ((columns / width - 0.5) / 0.3) ** 2 < 1).astype(np.uint8) * 255
        pair = Pair(tmp_path / f"c{suffix}", tmp_path / "m.png", tmp_path / f"r{suffix}", "S")
        Image.fromarray(mask).save(pair.mask)
        for path in (pair.composite, pair.real):
            Image.fromarray(mask).convert("RGB").save(path, quality=95)
        for seed in range(8):
            composite, real, found = (cut.float() for cut in read_crop(pair, 32, min_crop=0.9, flip=True, rng=np.random.default_rng(seed)))
            assert composite.equal(real) and 0 < found.mean() < 1
            white = composite.mean(0) / 255
            assert ((white > 0.5).float() != found[0]).float().mean() < 0.03  # pixels half covered
            for dim in (0, 1):  # their centres are one
                centres = [(image.sum(1 - dim) * torch.arange(32)).sum() / image.sum() for image in (white, found[0])]
                assert abs(centres[0] - centres[1]) < 0.2

    def test_pixels_are_those_of_the_file(self, tmp_path):
        from skimage import data

        photograph = Image.fromarray(data.astronaut())  # 512 x 512
        pair = Pair(tmp_path / "c.jpg", tmp_path / "m.png", tmp_path / "r.png", "S")
        photograph.save(pair.composite, quality=92)
        with Image.open(pair.composite) as decoded:
            decoded.load()
        decoded.save(pair.real)
        Image.new("L", photograph.size, 255).save(pair.mask)

        def cut(size):
            return read_crop(pair, size, min_crop=1.0, flip=False, rng=np.random.default_rng(0))

        composite, real, mask = cut(512)
        assert composite.equal(torch.from_numpy(np.array(decoded)).permute(2, 0, 1)) and composite.equal(real) and mask.min() == 1
        for size in (200, 384):  # resized as Pillow does, to two levels
            wanted = torch.from_numpy(np.array(decoded.resize((size, size), Image.Resampling.BICUBIC))).permute(2, 0, 1)
            assert (cut(size)[0].int() - wanted.int()).abs().max() <= 2
        composite, real, _ = cut(64)  # decoded at a quarter, beside the same pixels decoded whole
        error = (composite.float() - real.float()).square().mean()
        assert 0 < error and 10 * torch.log10(255**2 / error) > 34

    def test_mask_marks_what_differs_and_nothing_else(self, root):
        sample = HarmonizationDataset(config_of(root, size=40), 0)[0]
        assert sample["composite"].shape == (3, 40, 40) and sample["mask"].unique().tolist() == [0, 1]
        assert sample["real"].min() >= -1 and sample["real"].max() <= 1
        difference = (sample["composite"] - sample["real"]).abs().amax(0, keepdim=True)
        assert difference[sample["mask"] == 1].mean() > 10 * difference[sample["mask"] == 0].mean()

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
    def test_other_modes_are_read_as_colour(self, tmp_path, mode):
        pair = Pair(tmp_path / f"c{'.jpg' if mode == 'CMYK' else '.png'}", tmp_path / "m.png", tmp_path / "r.png", "S")
        grey = Image.new("RGB", (64, 64), (90, 90, 90))
        (grey.quantize() if mode == "P" else grey.convert(mode)).save(pair.composite)
        grey.save(pair.real)
        Image.new("1", (64, 64), 1).save(pair.mask)
        composite, real, mask = read_crop(pair, 32, min_crop=1, flip=False, rng=np.random.default_rng(0))
        assert (composite.int() - real.int()).abs().max() <= 3 and mask.min() == 1
