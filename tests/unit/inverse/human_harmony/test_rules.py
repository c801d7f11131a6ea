"""Which photographs are taken, and on which side they go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffharmony.dataset.same_files import same_files
from diffharmony.inverse.human_harmony.filters import Filters, read_keep_list
from diffharmony.inverse.human_harmony.photographs import PhotographFolder
from diffharmony.inverse.human_harmony.problems import Problems
from diffharmony.inverse.human_harmony.split import TEST_SHARE, split_photographs
from diffharmony.inverse.human_harmony.subjects import Counts, csv_subjects, folder_subjects
from diffharmony.tests.made.human_harmony import box, row, write_mask, write_photograph, write_table

NAMES = st.lists(st.text("abcdefgh_ 0123", min_size=1, max_size=6), max_size=60, unique=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Shares 0.1, 0.4 (classes 1, 2), 0.9 (class 1), and a photograph of class 3 alone."""
    folder = tmp_path_factory.mktemp("filters")
    (folder / "train").mkdir()
    rows = [
        row("small", box(10, 10, 0, 10, 0, 1), 2),
        row("worn", box(10, 10, 0, 10, 0, 2), 1), row("worn", box(10, 10, 0, 10, 2, 4), 2),
        row("flat", box(10, 10, 0, 10, 1, 10), 1),
        row("bag", box(10, 10, 0, 10, 0, 3), 3),
    ]  # fmt: skip
    for seed, name in enumerate(("small", "worn", "flat", "bag")):
        write_photograph(folder / "train" / f"{name}.png", 10, 10, seed)
    return write_table(folder / "train.csv", rows)


class TestFilters:
    @pytest.mark.parametrize(("rules", "kept", "dropped"), [
        ({}, ["small", "worn", "flat", "bag"], {}),
        ({"keep": frozenset({"worn", "bag", "elsewhere"})}, ["worn", "bag"], {"not_in_keep_list": 2}),
        ({"require_classes": frozenset({2, 7})}, ["small", "worn"], {"required_class_absent": 2}),
        ({"drop_classes": frozenset({2, 3})}, ["flat"], {"dropped_class": 3}),
        ({"min_classes": 2}, ["worn"], {"few_classes": 3}),
        ({"min_share": 0.3}, ["worn", "flat", "bag"], {"share_too_small": 1}),
        ({"max_share": 0.4}, ["small", "worn", "bag"], {"share_too_large": 1}),
        ({"min_share": 0.3, "max_share": 0.5, "drop_classes": frozenset({3}), "keep": frozenset({"small", "worn", "bag"})}, ["worn"],
         {"share_too_small": 1, "not_in_keep_list": 1, "dropped_class": 1}),
    ])  # fmt: skip
    def test_each_rule_counts_what_it_drops(self, place, rules, kept, dropped):
        counts = Counts()
        found = csv_subjects(place, PhotographFolder(place.parent / "train"), Filters(**rules), Problems(place), counts)
        assert [subject.name for subject in found] == kept
        assert counts.dropped == dropped and counts.photographs == 4

    @pytest.mark.parametrize(("rules", "message"), [
        ({"min_share": 0.5, "max_share": 0.4}, "shares must be 0 <= min-share <= max-share <= 1, got 0.5 and 0.4"),
        ({"max_share": 1.5}, "shares must be"),
        ({"min_share": float("nan")}, "shares must be"),
        ({"min_classes": 0}, "min-classes must be at least 1"),
        ({"require_classes": frozenset({1, 2}), "drop_classes": frozenset({2})}, r"got both for \[2\]"),
    ])  # fmt: skip
    def test_rules_that_leave_nothing_are_refused(self, rules, message):
        with pytest.raises(ValueError, match=message):
            Filters(**rules)

    def test_keep_lists(self, tmp_path):
        path = tmp_path / "keep.txt"
        path.write_text("\ufeffa1\r\n\r\n# people\r\nb_2.jpg\r\n", encoding="utf-8")
        assert read_keep_list(path) == {"a1", "b_2"}
        path.write_text("# nobody\n")
        with pytest.raises(ValueError, match="must name at least one photograph"):
            read_keep_list(path)
        with pytest.raises(FileNotFoundError, match="keep list 'none.txt' must exist"):
            read_keep_list(tmp_path / "none.txt")


class TestFolderOfMasks:
    def masks(self, folder, names):
        (folder / "masks").mkdir()
        for name, mask in names.items():
            write_mask(folder / "masks" / f"{name}.png", mask)

    def counts(self, folder, filters=Filters(), **how):
        problems, counts = Problems(folder / "masks", **how), Counts()
        found = list(folder_subjects(folder / "masks", PhotographFolder(folder), filters, problems, counts))
        named = [(entry["name"], entry["kind"]) for entry in problems.all()]
        return {(one.name, one.mask_name): one for one in found}, named, counts

    def test_one_or_several_masks_by_name(self, tmp_path):
        for name in ("a", "a_b", "a_b_1", "größe 3"):
            write_photograph(tmp_path / f"{name}.jpg", 10, 8)
        part, other = box(10, 8, 0, 5, 0, 8), box(10, 8, 5, 10, 0, 4)
        self.masks(tmp_path, {"a": part, "a_b_1": part, "a_b_2": other, "größe 3_x": other})
        found, problems, counts = self.counts(tmp_path)
        # a_b_1 is a photograph's own name, and so its mask
        assert list(found) == [("a", "1"), ("a_b", "2"), ("a_b_1", "1"), ("größe 3", "x")]
        assert np.array_equal(found["a_b", "2"].mask.pixels() == 255, other) and found["a", "1"].mask.share == 0.5
        assert problems == [] and counts.photographs == 4 and not counts.dropped

    def test_what_does_not_fit_is_named(self, tmp_path):
        for name in ("a", "b", "c", "d", "e"):
            write_photograph(tmp_path / f"{name}.png", 10, 8)
        part = box(10, 8, 0, 5, 0, 8)
        self.masks(tmp_path, {"a": part, "a_1": part, "b": part & False, "c": part.T, "nobody_1": part, "d": part})
        (tmp_path / "masks" / "d.png").write_bytes(b"no picture")
        found, problems, counts = self.counts(tmp_path)
        assert list(found) == [("a", "1")]
        expected = [
            ("a_1", "mask_name"), ("b_1", "mask_empty"), ("c_1", "photograph_size"), ("d_1", "mask_unreadable"), ("e", "mask_absent"),
            ("nobody_1", "photograph_absent"),
        ]  # fmt: skip
        assert problems == expected and counts.dropped == {kind: 1 for _, kind in expected}
        with pytest.raises(ValueError, match="a_1 in .*masks: a_1.png must be the only mask 1"):
            self.counts(tmp_path, on_bad_image="stop")

    def test_a_mask_that_is_a_picture_is_named(self, tmp_path):
        for name in ("a", "b"):
            write_photograph(tmp_path / f"{name}.png", 40, 60)
        self.masks(tmp_path, {"b": box(40, 60, 0, 9, 0, 9)})
        write_photograph(tmp_path / "masks" / "a.png", 40, 60)
        found, problems, _ = self.counts(tmp_path)
        assert list(found) == [("b", "1")] and problems == [("a_1", "mask_unreadable")]
        with pytest.raises(ValueError, match="a.png must be white foreground on black, as masks are, got a picture in colour"):
            self.counts(tmp_path, on_bad_image="stop")

    def test_files_that_are_not_taken_are_told_of(self, tmp_path, caplog):
        write_photograph(tmp_path / "a.png", 10, 8)
        self.masks(tmp_path, {"a": box(10, 8, 0, 5, 0, 8)})
        write_photograph(tmp_path / "masks" / "a_2.jpg", 10, 8)
        assert list(self.counts(tmp_path)[0]) == [("a", "1")]
        assert f"not taken as masks, which are .png: {tmp_path / 'masks' / 'a_2.jpg'}" in caplog.text

    def test_rules_on_names_and_shares_hold_and_those_on_classes_are_refused(self, tmp_path):
        for name in ("a", "b"):
            write_photograph(tmp_path / f"{name}.png", 10, 8)
        self.masks(tmp_path, {"a_1": box(10, 8, 0, 5, 0, 8), "a_2": box(10, 8, 0, 1, 0, 8), "b": box(10, 8, 0, 5, 0, 8)})
        found, _, counts = self.counts(tmp_path, Filters(keep=frozenset({"a"}), min_share=0.2))
        assert list(found) == [("a", "1")] and counts.dropped == {"not_in_keep_list": 1, "share_too_small": 1}
        with pytest.raises(ValueError, match="rules on classes must go with --csv"):
            self.counts(tmp_path, Filters(min_classes=2))


def test_suffixes_in_any_case_and_of_several_files_the_first_kind(tmp_path):
    for name in ("a.JPG", "b.jpeg", "c.PNG", "d.png", "d.jpg", "e.gif", ".f.jpg", "g.jpg.txt"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    folder = PhotographFolder(tmp_path)
    assert folder.names() == ["a", "b", "c", "d"] and len(folder) == 4
    assert [folder.find(name).name for name in folder.names()] == ["a.JPG", "b.jpeg", "c.PNG", "d.jpg"]
    assert folder.find("e") is None


class TestSplit:
    def test_the_papers_numbers(self):
        train, test = split_photographs(map(str, range(29_106)))
        # the paper prints 26,157 and 2,946, which are 29,103
        assert (len(train), len(test)) == (26_160, 2_946)
        train, test = split_photographs(map(str, range(73_146)))
        assert (len(train), len(test)) == (65_742, 7_404)

    @settings(max_examples=60)
    @given(NAMES, st.integers(0, 3), st.sampled_from((0.0, TEST_SHARE, 0.5, 1.0)), st.randoms())
    def test_exact_complete_and_of_names_and_seed_alone(self, names, seed, share, random):
        train, test = split_photographs(names, seed=seed, test_share=share)
        assert len(test) == round(share * len(names)) and sorted(train + test) == sorted(names)
        again = names * 2
        random.shuffle(again)
        assert split_photographs(iter(again), seed=seed, test_share=share) == (train, test)

    @settings(max_examples=60)
    @given(NAMES, st.text("xyz", min_size=1, max_size=3))
    def test_another_photograph_moves_at_most_one(self, names, new):
        before, after = (set(split_photographs(part, test_share=0.3)[1]) for part in (names, [*names, new]))
        assert len((before ^ after) - {new}) <= 1

    def test_seeds_differ(self):
        names = [f"{index:032x}" for index in range(200)]
        assert len({tuple(split_photographs(names, seed=seed)[1]) for seed in range(5)}) == 5

    @settings(max_examples=60)
    @given(NAMES, st.integers(2, 5))
    def test_equal_pictures_stay_together(self, names, every):
        groups = {name: names[index - index % every] for index, name in enumerate(names)}
        train, test = split_photographs(names, test_share=0.4, same=groups)
        assert sorted(train + test) == sorted(names)
        assert not {groups[name] for name in train} & {groups[name] for name in test}
        assert len(test) <= round(0.4 * len(names))

    def test_counts_stay_exact_where_single_photographs_fill_up(self):
        names = [f"{index:03d}" for index in range(500)]
        same = {name: names[index - index % 3] for index, name in enumerate(names[:90])}
        for seed in range(5):
            assert len(split_photographs(names, seed=seed, same=same)[1]) == round(500 * TEST_SHARE)

    def test_shares_outside_0_to_1_are_refused(self):
        for share in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match="test-share must lie in 0..1"):
                split_photographs("ab", test_share=share)

    def test_equal_pictures_are_found_by_their_bytes(self, tmp_path):
        for name, content in {"b": b"one", "a": b"one", "c": b"two", "d": b"three", "e": b"one"}.items():
            (tmp_path / name).write_bytes(content)
        assert same_files((name, tmp_path / name) for name in "bacde") == {"a": "a", "b": "a", "e": "a"}
