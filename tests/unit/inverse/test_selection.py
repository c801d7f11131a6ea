"""Selection: which candidates are kept, and the command on a folder of candidates, gone on with after a kill, over processes."""

import json
import math
import random
import shutil
import time
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
            lines.append({"file_name": name, "real": real_name, "mask": mask_path, "k": k, "seed": 100 * number + k})
    (root / "candidates.settings.json").write_text('{"suffix": ".png", "seed": 0}')
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


def selected(folder):
    """The default --out."""
    return folder.with_name(f"{folder.name}-selected")


def select(folder, classifier, capsys, *options):
    status = run_command(["select", "--data", str(folder), "--classifier", str(classifier), "--json", *map(str, options)])
    captured = capsys.readouterr()
    return json.loads(captured.out.splitlines()[-1]) if status == 0 else captured.err


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def composites(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/composite_images/*"))


def listed(folder):
    return (folder / "IHD_train.txt").read_text(encoding="utf-8").splitlines()


PLANTED = [f"{subset}/composite_images/{image}_{mask}_{planted(number)}.png" for number, (subset, image, mask) in enumerate(PAIRS)]


class TestCommand:
    def test_planted_candidates_are_found_and_trainers_can_read_them(self, folder, classifier, capsys):
        before = contents(folder)
        result = select(folder, classifier, capsys)
        out = selected(folder)
        assert composites(out) == sorted(PLANTED) and listed(out) == PLANTED
        assert [pair.mask.is_file() and pair.real.is_file() for pair in read_list(out, "IHD_train.txt")] == [True] * 3
        for name in PLANTED:
            assert (out / name).samefile(folder / name.replace("composite_images", "cand_composite_images"))
        assert (result["chosen"], result["candidates"], result["pairs"], result["scored"]) == (3, 30, 3, 30)
        assert Image.open(out / "selection.png").size[0] > 1000 and contents(folder) == before
        assert result == {**json.loads((out / "selection.json").read_text()), "scored": 30, "out": str(out)}

    def test_a_folder_of_ones_own_choice_that_is_not_the_candidates(self, folder, classifier, tmp_path, capsys, monkeypatch):
        assert select(folder, classifier, capsys, "--out", tmp_path / "chosen", "--list", "own.txt", "--pictures", 0)["lists"] == ["own.txt"]
        assert composites(tmp_path / "chosen") == sorted(PLANTED) and not selected(folder).exists()
        before = contents(folder)
        assert "--out must be another folder than --data" in select(folder, classifier, capsys, "--out", folder)
        assert contents(folder) == before
        monkeypatch.chdir(folder)
        assert select(Path("."), classifier, capsys, "--pictures", 0)["out"] == str(selected(folder))

    def test_scores_and_distances_are_the_libraries_own(self, folder, classifier, capsys):
        select(folder, classifier, capsys, "--pictures", 0)
        rows, scores = read_lines(folder / "candidates.jsonl"), read_lines(selected(folder) / "scores.jsonl")
        assert [row["file_name"] for row in rows] == [score["file_name"] for score in scores]
        for index in (7, planted(0) - 1):
            files = [folder / rows[index][name] for name in ("file_name", "real", "mask")]
            image, real, mask = (torch.from_numpy(np.array(Image.open(path), np.float32)) for path in files)
            expected = unharmonious_probability(
                load_harmony_classifier(classifier), image.permute(2, 0, 1)[None] / 127.5 - 1, mask[None, None] / 255
            )
            assert scores[index]["score"] == pytest.approx(expected.item(), abs=1e-5)
            assert scores[index]["distance"] == pytest.approx((image - real)[mask > 0].square().mean().item())

    def test_limits_and_their_counts(self, folder, classifier, capsys):
        result = select(folder, classifier, capsys, "--count", 3, "--min-distance", 1, "--pictures", 0)
        assert result["rejected"][TOO_NEAR] == 27 and result["chosen"] == 3 and result["without_choice"] == []
        result = select(folder, classifier, capsys, "--max-distance", 1, "--pictures", 0)
        assert result["rejected"][TOO_FAR] == 3 and result["chosen"] == 3 and result["within_limits"] == 27 and result["scored"] == 0
        # the first of equal ones; what was placed before stays, and is listed no longer
        firsts = [f"{subset}/composite_images/{image}_{mask}_1.png" for subset, image, mask in PAIRS]
        assert listed(selected(folder)) == firsts and composites(selected(folder)) == sorted({*firsts, *PLANTED})

    def test_pairs_without_a_choice_are_named(self, folder, classifier, capsys):
        name = f"HCOCO/cand_composite_images/a1_1_{planted(0)}.png"
        shutil.copy(folder / "HCOCO" / "real_images" / "a1.png", folder / name)
        result = select(folder, classifier, capsys, "--min-distance", 1, "--pictures", 8)
        assert listed(selected(folder)) == PLANTED[1:] and result["without_choice"] == ["HCOCO/masks/a1_1"]

    def test_limits_that_reject_everything_are_refused_and_what_was_chosen_stays(self, folder, classifier, capsys):
        select(folder, classifier, capsys, "--pictures", 0)
        before = contents(selected(folder))
        error = select(folder, classifier, capsys, "--min-distance", 60000)
        assert "must leave at least one composite, got none (30 changed less than min_distance). Relax its limits" in error
        error = select(folder, classifier, capsys, "--min-distance", 1, "--max-distance", 2)
        assert "got none (27 changed less than min_distance, 3 changed more than max_distance)" in error
        assert "min_distance must be at least 0, and finite, got inf" in select(folder, classifier, capsys, "--min-distance", "inf")
        assert contents(selected(folder)) == before

    def test_another_classifier_scores_anew_and_new_candidates_alone_are_scored(self, folder, classifier, tmp_path, capsys):
        other = write_classifier(tmp_path / "other.safetensors", 1)
        manifest = folder / "candidates.jsonl"
        lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
        manifest.write_text("".join(lines[:-1]), encoding="utf-8")
        assert [select(folder, one, capsys, "--pictures", 0)["scored"] for one in (classifier, other, classifier)] == [29, 29, 0]
        manifest.write_text("".join(lines), encoding="utf-8")
        assert select(folder, classifier, capsys, "--pictures", 0)["scored"] == 1

    @pytest.mark.parametrize("change", ["list", "image", "edited list"])
    def test_a_list_or_an_image_of_another_origin_is_left(self, folder, classifier, capsys, change):
        out = selected(folder)
        if change == "edited list":
            select(folder, classifier, capsys, "--pictures", 0)
        own = out / (PLANTED[0] if change == "image" else "IHD_train.txt")
        own.parent.mkdir(parents=True, exist_ok=True)
        with own.open("a") as file:
            file.write("Own/composite_images/cat_1_77.jpg\n")
        before = own.read_bytes()
        messages = {
            "list": "list must be a new file, or an earlier selection's, got", "image": "must be a copy of",
            "edited list": "must be a composite that select placed, got 'Own/composite_images/cat_1_77.jpg'",
        }  # fmt: skip
        assert messages[change] in select(folder, classifier, capsys, "--max-distance", 10**6)
        assert own.read_bytes() == before

    @pytest.mark.parametrize(
        "settings, options, message",
        [({"seed": 1}, (), "seed must be 0 to go on in"), ({}, ("--list", "own.txt"), "list must be 'IHD_train.txt' to go on in")],
    )
    def test_a_folder_takes_one_sort_of_candidates_and_one_list(self, folder, classifier, capsys, settings, options, message):
        select(folder, classifier, capsys, "--pictures", 0)
        before = contents(selected(folder))
        (folder / "candidates.settings.json").write_text(json.dumps({"suffix": ".png", "seed": 0, **settings}))
        assert message in select(folder, classifier, capsys, *options) and contents(selected(folder)) == before

    def test_missing_things_are_named(self, folder, classifier, capsys):
        assert "must exist" in select(folder / "nowhere", classifier, capsys)
        assert "list must be a file name of its own" in select(folder, classifier, capsys, "--list", "../list.txt")
        (folder / read_lines(folder / "candidates.jsonl")[3]["file_name"]).unlink()
        assert "a1_1_4.png" in select(folder, classifier, capsys)
        (folder / "candidates.settings.json").unlink()
        assert "--data must be a folder that diffharmony generate made" in select(folder, classifier, capsys)
        (folder / "candidates.jsonl").unlink()
        assert "diffharmony generate" in select(folder, classifier, capsys)


class TestProcesses:
    def command(self, folder, out, classifier):
        return ["select", "--data", folder, "--out", out, "--classifier", classifier, "--json", "--batch-size", "1"]

    @pytest.fixture
    def alone(self, candidates, classifier, tmp_path):
        assert run_command([*map(str, self.command(candidates, tmp_path / "alone", classifier))]) == 0
        return contents(tmp_path / "alone")

    def test_several_share_the_work_and_give_the_same(self, runs, candidates, classifier, tmp_path, alone):
        started = runs.start_processes(2, *self.command(candidates, tmp_path / "out", classifier))
        assert all(run.wait() == 0 for run in started), [run.output() for run in started]
        assert started[0].result()["scored"] == 30 and contents(tmp_path / "out") == alone

    def test_kills_at_any_moment_change_nothing(self, runs, candidates, classifier, tmp_path, alone):
        """The first ones as soon as a pair is scored, the others later, while it chooses, places and draws."""
        out, kills, rng = tmp_path / "out", 0, random.Random(2)
        scores = out / "scores.jsonl"
        for processes in (1, 2, 1, 1):
            whole = scores.read_bytes()[: scores.read_bytes().rfind(b"\n") + 1] if scores.is_file() else b""
            started = runs.start_processes(processes, *self.command(candidates, out, classifier))
            while all(run.alive() for run in started) and not (scores.is_file() and scores.stat().st_size > len(whole)):
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.4) if kills else 0)
            kills += all(run.alive() for run in started)
            for run in started:
                run.kill()
            assert scores.read_bytes().startswith(whole)
            for path in out.glob("*/composite_images/[!.]*"):
                Image.open(path).load()
        assert kills
        with scores.open("ab") as file:
            file.write(b'{"file_name": "cut of')
        (out / ".selection-abcd_123.json").write_bytes(b"half")
        place = out / "HCOCO" / "composite_images"
        place.mkdir(parents=True, exist_ok=True)
        (place / ".a1_1_1-abcd_123.png").write_bytes(b"half")
        assert run_command([*map(str, self.command(candidates, out, classifier))]) == 0
        assert contents(out) == alone
