"""Selection: which candidates are kept, and the command in a folder of candidates, gone on with after a kill, over processes."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffharmony.__main__ import main as run_command
from diffharmony.classifier.checkpoint import load_harmony_classifier, save_harmony_classifier
from diffharmony.classifier.inference import unharmonious_probability
from diffharmony.classifier.model import HarmonyClassifier
from diffharmony.dataset.pairs import read_list
from diffharmony.inverse import choose_candidates
from diffharmony.inverse.scoring import JOURNALS
from diffharmony.inverse.selection import NOT_FINITE, TOO_FAR, TOO_NEAR, TOO_SURE
from diffharmony.tests.made.inverse import contents

SIDE, COUNT = 40, 10
PAIRS = (("HCOCO", "a1", "1"), ("HCOCO", "a1", "2"), ("HFlickr", "größe 3", "1"))


class TestRules:
    def test_the_most_unharmonious_is_chosen_and_more_are_best_first(self):
        scores = [0.2, 0.9, 0.4, 0.7]
        assert choose_candidates(scores, [50] * 4).chosen == (1,)
        assert choose_candidates(scores, [50] * 4, count=3).chosen == (1, 3, 2)
        assert choose_candidates(scores, [50] * 4, count=9).chosen == (1, 3, 2, 0)
        assert choose_candidates(torch.tensor(scores), torch.full((4,), 50.0)).chosen == (1,)

    def test_each_limit_rejects_for_its_own_reason_and_includes_its_bound(self):
        choice = choose_candidates(
            [0.9, 0.8, 0.7, 0.99, math.nan, 0.1], [1, 10, 5000, 50, 50, math.inf], min_distance=10, max_distance=4999, max_score=0.9,
            count=6,
        )
        assert choice.rejected == {0: TOO_NEAR, 2: TOO_FAR, 3: TOO_SURE, 4: NOT_FINITE, 5: NOT_FINITE}
        assert choice.chosen == (1,)
        assert choose_candidates([0.5], [10], min_distance=10, max_distance=10, max_score=0.5).chosen == (0,)

    def test_nothing_is_chosen_where_all_are_rejected(self):
        choice = choose_candidates([0.9, 0.8], [0, 0], min_distance=1)
        assert choice.chosen == () and set(choice.rejected) == {0, 1}
        assert choose_candidates([], []).chosen == ()

    @given(st.lists(st.tuples(st.sampled_from((0.0, 0.25, 0.5, 1.0)), st.sampled_from((0.0, 10.0, 100.0))), max_size=12), st.integers(1, 4))
    def test_choice_is_what_sorting_gives(self, candidates, count):
        scores, distances = ([pair[place] for pair in candidates] for place in (0, 1))
        choice = choose_candidates(scores, distances, count=count, min_distance=10, max_distance=99)
        inside = [index for index, distance in enumerate(distances) if 10 <= distance <= 99]
        assert list(choice.chosen) == sorted(inside, key=lambda index: (-scores[index], index))[:count]
        assert sorted({*inside, *choice.rejected}) == list(range(len(candidates))) and not set(inside) & set(choice.rejected)

    @pytest.mark.parametrize(
        "limits, message",
        [
            ({"count": 0}, "count must be at least 1"),
            ({"min_distance": -1}, "min_distance must be at least 0"),
            ({"min_distance": math.nan}, "min_distance must be at least 0"),
            ({"min_distance": math.inf}, "min_distance must be at least 0, and finite"),
            ({"min_distance": 5, "max_distance": 4}, "max_distance must be at least min_distance"),
            ({"max_score": 1.5}, "max_score must lie in"),
        ],
    )
    def test_limits_that_leave_nothing_are_refused(self, limits, message):
        with pytest.raises(ValueError, match=message):
            choose_candidates([0.5], [1], **limits)

    def test_as_many_distances_as_scores(self):
        with pytest.raises(ValueError, match="distances must be one for each of 2 scores, got 1"):
            choose_candidates([0.5, 0.6], [1])


def write_candidates(root: Path) -> Path:
    """A folder as `generate` leaves it: of each pair nine candidates that are the real image, and one of another light, its k by turns."""
    rng, lines = np.random.default_rng(0), []
    for number, (subset, image, mask_name) in enumerate(PAIRS):
        for folder in ("real_images", "masks", "cand_composite_images"):
            (root / subset / folder).mkdir(parents=True, exist_ok=True)
        real_name = f"{subset}/real_images/{image}.png"
        if not (root / real_name).is_file():
            small = Image.fromarray(rng.integers(60, 200, (5, 6, 3), dtype=np.uint8))
            small.resize((SIDE + 8, SIDE), Image.Resampling.BICUBIC).save(root / real_name)
        real = np.asarray(Image.open(root / real_name))
        mask = np.zeros(real.shape[:2], np.uint8)
        mask[8 + 4 * int(mask_name) : 30, 10:34] = 255
        mask_path = f"{subset}/masks/{image}_{mask_name}.png"
        Image.fromarray(mask).save(root / mask_path)
        for k in range(1, COUNT + 1):
            changed = k == planted(number)
            picture = np.where(mask[..., None] > 0, real // 4, real) if changed else real
            name = f"{subset}/cand_composite_images/{image}_{mask_name}_{k}.png"
            Image.fromarray(picture).save(root / name)
            distance = float(((picture.astype(float) - real) ** 2)[mask > 0].mean())
            row = {"file_name": name, "real": real_name, "mask": mask_path, "k": k, "seed": 100 * number + k, "distance": distance}
            lines.append({**row, "score": None})
    (root / "candidates.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return root


def planted(number: int) -> int:
    return 3 * number + 2


def write_classifier(path: Path, seed: int = 0) -> Path:
    """One that takes what is dark for unharmonious."""
    torch.manual_seed(seed)
    classifier = HarmonyClassifier("small", 32, crop=True, mask_channel=True, widths=(8,))
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.zero_()
        level = classifier.backbone.levels[0]
        level.down.weight[:, :3].fill_(-1 - 0.1 * seed)
        level.norm.bias.fill_(0.5)
        # group norm takes the mean away: the mean inside the mask against that outside is left
        level.norm.weight.fill_(1.0)
        classifier.probe[0].weight[0, :8], classifier.probe[0].weight[0, 8:16] = 1.0, -1.0
        classifier.probe[2].weight[1, 0] = 0.2
    save_harmony_classifier(classifier, path, dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return write_classifier(tmp_path_factory.mktemp("classifier") / "harmony_classifier.safetensors")


@pytest.fixture(scope="module")
def candidates(tmp_path_factory):
    return write_candidates(tmp_path_factory.mktemp("candidates"))


@pytest.fixture
def folder(candidates, tmp_path):
    return Path(shutil.copytree(candidates, tmp_path / "out"))


def select(folder, classifier, capsys, *options):
    status = run_command(["select", "--data", str(folder), "--classifier", str(classifier), "--json", *map(str, options)])
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1]) if status == 0 else captured.err


def manifest(folder):
    return [json.loads(line) for line in (folder / "candidates.jsonl").read_text(encoding="utf-8").splitlines()]


def composites(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/composite_images/*"))


PLANTED = [f"{subset}/composite_images/{image}_{mask}_{planted(number)}.png" for number, (subset, image, mask) in enumerate(PAIRS)]


class TestCommand:
    def test_planted_candidates_are_found_and_trainers_can_read_them(self, folder, classifier, capsys):
        result = select(folder, classifier, capsys)
        assert composites(folder) == sorted(PLANTED)
        assert (folder / "IHD_train.txt").read_text(encoding="utf-8").splitlines() == PLANTED
        assert [pair.mask.is_file() and pair.real.is_file() for pair in read_list(folder, "IHD_train.txt")] == [True] * 3
        for name in PLANTED:
            source = name.replace("composite_images", "cand_composite_images")
            assert (folder / name).read_bytes() == (folder / source).read_bytes()
        assert (result["chosen"], result["candidates"], result["pairs"], result["scored"]) == (3, 30, 3, 30)
        assert Image.open(folder / "selection.png").size[0] > 1000 and not (folder / JOURNALS).exists()
        assert {name: value for name, value in result.items() if name != "scored"} == json.loads((folder / "selection.json").read_text())

    def test_scores_in_the_manifest_are_the_classifiers_own(self, folder, classifier, candidates, capsys):
        select(folder, classifier, capsys)
        rows, before = manifest(folder), manifest(candidates)
        for row, old in zip(rows, before, strict=True):
            assert {name: row[name] for name in old if name != "score"} == {name: old[name] for name in old if name != "score"}
        row = rows[7]
        image, mask = (torch.from_numpy(np.array(Image.open(folder / row[name]), np.float32)) for name in ("file_name", "mask"))
        image = image.permute(2, 0, 1)[None] / 127.5 - 1
        expected = unharmonious_probability(load_harmony_classifier(classifier), image, mask[None, None] / 255)
        assert row["score"] == pytest.approx(expected.item(), abs=1e-5)

    def test_limits_and_their_counts(self, folder, classifier, capsys):
        result = select(folder, classifier, capsys, "--count", 3, "--min-distance", 1)
        assert result["rejected"][TOO_NEAR] == 27 and result["chosen"] == 3 and result["without_choice"] == []
        result = select(folder, classifier, capsys, "--max-distance", 1)
        assert result["rejected"][TOO_FAR] == 3 and result["chosen"] == 3 and result["within_limits"] == 27
        # the first of equal ones; what was placed before is gone
        firsts = [f"{subset}/composite_images/{image}_{mask}_1.png" for subset, image, mask in PAIRS]
        assert composites(folder) == sorted(firsts) and result["scored"] == 0
        rows = manifest(folder)
        for row in rows[:COUNT]:
            row["distance"] = 0.0
        (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        result = select(folder, classifier, capsys, "--min-distance", 1)
        assert composites(folder) == sorted(PLANTED[1:]) and result["without_choice"] == ["HCOCO/masks/a1_1"]

    def test_limits_that_reject_everything_are_refused_and_nothing_is_removed(self, folder, classifier, capsys):
        select(folder, classifier, capsys, "--pictures", 0)
        before = contents(folder)
        error = select(folder, classifier, capsys, "--min-distance", 60000)
        assert "must leave at least one composite, got none (30 changed less than min_distance). Relax its limits" in error
        error = select(folder, classifier, capsys, "--min-distance", 1, "--max-distance", 2)
        assert "got none (27 changed less than min_distance, 3 changed more than max_distance)" in error
        assert "min_distance must be at least 0, and finite, got inf" in select(folder, classifier, capsys, "--min-distance", "inf")
        assert contents(folder) == before

    def test_another_classifier_scores_anew(self, folder, classifier, tmp_path, capsys):
        assert select(folder, classifier, capsys)["scored"] == 30
        assert select(folder, classifier, capsys)["scored"] == 0
        assert select(folder, write_classifier(tmp_path / "other.safetensors", 1), capsys)["scored"] == 30

    def test_new_candidates_alone_are_scored(self, folder, classifier, capsys):
        select(folder, classifier, capsys)
        rows = manifest(folder)
        rows[4]["score"] = None
        (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        assert select(folder, classifier, capsys)["scored"] == 1

    def test_a_list_or_an_image_of_another_origin_is_left(self, folder, classifier, capsys):
        (folder / "IHD_train.txt").write_text("HCOCO/composite_images/a1_1_1.jpg\n")
        assert "list must be a new file, or an earlier selection's" in select(folder, classifier, capsys)
        assert (folder / "IHD_train.txt").read_text() == "HCOCO/composite_images/a1_1_1.jpg\n"
        place = folder / PLANTED[0]
        place.parent.mkdir()
        place.write_bytes(b"an original composite")
        assert "must be free for the chosen candidate" in select(folder, classifier, capsys, "--list", "IHD_selected.txt")
        assert place.read_bytes() == b"an original composite" and not (folder / "IHD_selected.txt").exists()
        place.unlink()
        assert select(folder, classifier, capsys, "--list", "IHD_selected.txt")["chosen"] == 3

    @pytest.mark.parametrize("line", ["Own/composite_images/cat_1_77.jpg", "../precious/file.txt", "HCOCO/composite_images/a1_1_99.png"])
    def test_files_that_a_list_was_edited_to_name_are_left(self, folder, classifier, capsys, line):
        select(folder, classifier, capsys, "--pictures", 0)
        with (folder / "IHD_train.txt").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        own = folder / line
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_bytes(b"mine")
        before = contents(folder)
        error = select(folder, classifier, capsys, "--max-distance", 1)
        assert f"IHD_train.txt, which is written anew, must be a composite that select placed, got {line!r}" in error
        assert contents(folder) == before and own.read_bytes() == b"mine"
        assert select(folder, classifier, capsys, "--list", "other.txt", "--max-distance", 1) and contents(folder) == before

    @pytest.mark.parametrize(
        "lists", [["IHD_train.txt", "../precious/file.txt"], ["IHD_train.txt", "sub/file.txt"], [".."], [""], [3], "IHD_train.txt", None],
    )  # fmt: skip
    def test_lists_that_are_no_names_in_the_folder_are_refused(self, folder, classifier, capsys, lists):
        result = select(folder, classifier, capsys, "--pictures", 0)
        own = folder.parent / "precious" / "file.txt"
        own.parent.mkdir()
        own.write_bytes(b"")
        (folder / "selection.json").write_text(json.dumps({**result, "lists": lists}))
        before = contents(folder)
        assert "must be file names of their own in its folder" in select(folder, classifier, capsys, "--pictures", 0)
        assert contents(folder) == before and own.is_file()

    def test_composites_that_were_changed_are_neither_removed_nor_replaced(self, folder, classifier, capsys):
        select(folder, classifier, capsys, "--pictures", 0)
        for name in PLANTED[:2]:
            (folder / name).unlink()
            (folder / name).write_bytes(b"painted over")
        before = contents(folder)
        assert "must be free for the chosen candidate" in select(folder, classifier, capsys, "--pictures", 0)
        assert contents(folder) == before
        assert select(folder, classifier, capsys, "--max-distance", 1)["chosen"] == 3
        assert [(folder / name).exists() for name in PLANTED] == [True, True, False]
        assert [(folder / name).read_bytes() for name in PLANTED[:2]] == [b"painted over"] * 2

    def test_a_link_to_another_folder_is_not_written_through(self, folder, classifier, capsys):
        other = folder.parent / "other"
        other.mkdir()
        (folder / "HFlickr" / "composite_images").symlink_to(other)
        assert "must be a folder of its own, got a link to" in select(folder, classifier, capsys, "--pictures", 0)
        assert not list(other.iterdir()) and not (folder / "HCOCO" / "composite_images").exists()

    def test_the_list_may_change_its_name(self, folder, classifier, capsys):
        select(folder, classifier, capsys, "--list", "first.txt")
        select(folder, classifier, capsys, "--list", "second.txt", "--pictures", 0)
        assert not (folder / "first.txt").exists() and len((folder / "second.txt").read_text().splitlines()) == 3

    @pytest.mark.parametrize(
        "line, message",
        [
            ("{", "line 2 of .* must be a JSON object with file_name, real, mask, distance"),
            ('{"file_name": "a", "real": "b", "mask": "c"}', "line 2 of .* must be a JSON object with"),
            ('{"file_name": "../a", "real": "b", "mask": "c", "distance": 1}', "paths in line 2 of .* must stay in its folder"),
        ],
    )
    def test_damaged_manifests_are_refused_by_line(self, folder, classifier, capsys, line, message):
        path = folder / "candidates.jsonl"
        path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + f"\n{line}\n", encoding="utf-8")
        error = select(folder, classifier, capsys)
        with pytest.raises(ValueError, match=message):
            raise ValueError(error)

    def test_missing_things_are_named(self, folder, classifier, capsys):
        assert "must exist" in select(folder / "nowhere", classifier, capsys)
        assert "list must be a file name of its own" in select(folder, classifier, capsys, "--list", "../list.txt")
        (folder / manifest(folder)[3]["file_name"]).unlink()
        assert "a1_1_4.png" in select(folder, classifier, capsys)
        (folder / "candidates.jsonl").unlink()
        assert "diffharmony generate" in select(folder, classifier, capsys)


class TestProcesses:
    def command(self, folder, classifier, *options):
        return ["select", "--data", folder, "--classifier", classifier, "--json", *options]

    def test_several_share_the_work_and_give_the_same(self, runs, candidates, classifier, tmp_path, capsys):
        alone, shared = (Path(shutil.copytree(candidates, tmp_path / name)) for name in ("alone", "shared"))
        expected = select(alone, classifier, capsys)
        started = runs.start_processes(2, *self.command(shared, classifier))
        assert all(run.wait() == 0 for run in started), [run.output() for run in started]
        assert started[0].result() == expected
        assert [row["score"] for row in manifest(shared)] == pytest.approx([row["score"] for row in manifest(alone)], abs=1e-6)

    def test_a_killed_run_goes_on_with_what_it_scored(self, runs, candidates, classifier, tmp_path, capsys):
        for attempt in range(30):
            folder = Path(shutil.copytree(candidates, tmp_path / f"killed-{attempt}"))
            run = runs.start(*self.command(folder, classifier, "--batch-size", "1"))
            journal = folder / JOURNALS / "process-00000.jsonl"
            while run.alive() and not (journal.is_file() and journal.stat().st_size):
                pass
            run.kill()
            if journal.is_file():
                break
        done = journal.read_text().count("\n")
        with journal.open("a") as file:
            file.write('{"key": "cut of')
        assert not (folder / "IHD_train.txt").exists() and not any(row["score"] for row in manifest(folder))
        assert done >= 1 and select(folder, classifier, capsys)["scored"] == 30 - done
        assert composites(folder) == sorted(PLANTED) and not list(folder.glob(".*-*"))
