"""`augment`: as many composites per pair as γ asks for, chosen at random, in a data set that trainers take as it is."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.dataset.pairs import read_list
from diffharmony.inverse.augmentation import added_per_pair, choose_numbers
from diffharmony.inverse.manifest import read_manifest
from diffharmony.tests.made.inverse import command, contents, write_inverse_pair, write_photographs
from diffharmony.tests.made.training import vae_config, write_vae
from diffharmony.train import vae

PAIRS, COMPOSITES = 5, 8


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_inverse_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_photographs(root)
    return root


@pytest.fixture(scope="module")
def made(models, data, tmp_path_factory):
    """γ = 1: two of four candidates per pair."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert main(command("augment", models, data, out)) == 0
    return out


@given(st.decimals("0.001", "20", places=3), st.integers(1, 10**5), st.integers(1, 10**5))
def test_the_number_per_pair_is_the_least_that_gives_the_share(gamma, pairs, composites):
    count = added_per_pair(float(gamma), pairs, composites)
    exact = Fraction(gamma)
    assert count * pairs >= exact * composites > (count - 1) * pairs
    assert count == added_per_pair(exact, pairs, composites) == added_per_pair(str(gamma), pairs, composites)


def test_a_decimal_share_is_taken_as_it_is_written():
    assert [added_per_pair(gamma, 1, 10) for gamma in (0.1, 0.3, 1.1)] == [1, 3, 11]  # in binary 1.1 * 10 is above 11
    assert added_per_pair(1, 3, 7) == 3
    for gamma in (0, -1, float("nan"), float("inf"), "much"):
        with pytest.raises(ValueError, match="gamma must be a number above 0"):
            added_per_pair(gamma, 1, 1)
    with pytest.raises(ValueError, match="pairs must be at least 1"):
        added_per_pair(1, 0, 1)


@given(st.integers(), st.text(max_size=5), st.integers(1, 30), st.data())
def test_a_choice_is_of_the_pair_alone_and_grows(seed, name, candidates, data):
    count = data.draw(st.integers(1, candidates))
    chosen = choose_numbers(seed, name, "1", candidates, count)
    assert len(set(chosen)) == count and chosen == sorted(chosen) and 1 <= chosen[0] and chosen[-1] <= candidates
    assert set(choose_numbers(seed, name, "1", candidates, max(1, count - 1))) <= set(chosen)


def test_a_choice_is_at_random():
    counts = dict.fromkeys(range(1, 11), 0)
    for image in range(2000):
        for k in choose_numbers(0, f"a{image}", "1", 10, 3):
            counts[k] += 1
    assert all(500 < count < 700 for count in counts.values())  # 600 expected, with a deviation of 20
    assert choose_numbers(0, "a", "1", 10, 3) != choose_numbers(1, "a", "1", 10, 3)


def test_the_data_set_that_is_made(models, data, made, tmp_path, capsys):
    assert main(command("augment", models, data, made)) == 0  # nothing is left to do
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    expected = {"pairs": PAIRS, "composites": COMPOSITES, "gamma": 1.0, "per_pair": 2, "total": 2 * PAIRS, "made": 0, "found": 2 * PAIRS}
    assert expected.items() <= result.items() and result["list"] == str(made / "IHD_train.txt")
    pairs = read_list(made, "IHD_train.txt")
    assert [pair.composite.parent.name for pair in pairs] == ["composite_images"] * 2 * PAIRS
    assert {pair.real.relative_to(made) for pair in pairs} == {pair.real.relative_to(data) for pair in read_list(data, "IHD_train.txt")}
    for image, mask in {tuple(pair.composite.stem.rsplit("_", 2)[:2]) for pair in pairs}:
        found = [int(pair.composite.stem.rsplit("_", 1)[1]) for pair in pairs if pair.composite.stem.startswith(f"{image}_{mask}_")]
        assert found == choose_numbers(0, image, mask, 4, 2)
    assert main(command("generate", models, data, tmp_path / "all")) == 0
    for pair in pairs:
        alone = tmp_path / "all" / pair.subset / "cand_composite_images" / pair.composite.name
        assert alone.read_bytes() == pair.composite.read_bytes()


def test_trainers_take_it_beside_the_original(data, made, tmp_path):
    base = write_vae(tmp_path / "base.safetensors")
    config = vae_config(data, base, tmp_path / "run")
    config = replace(
        config, data=replace(config.data, roots=(data, made)), optim=replace(config.optim, steps=2), run=replace(config.run, tracker="none")
    )
    result = vae.main(config)
    assert Path(result["checkpoint"]).is_file() and result["steps"] == 2


def test_a_killed_run_goes_on_and_another_number_of_processes_makes_the_same(runs, models, data, made, tmp_path):
    out = tmp_path / "out"
    two = runs.start_processes(2, *command("augment", models, data, out))
    assert [run.wait() for run in two] == [0, 0], two[1].output()
    assert contents(out) == contents(made)
    (out / "IHD_train.txt").unlink()
    (out / "HFlickr" / "composite_images" / read_list(made, "IHD_train.txt")[-1].composite.name).unlink()
    assert runs.start(*command("augment", models, data, out)).result()["made"] == 1
    assert contents(out) == contents(made)


def test_candidates_that_were_made_before_are_placed(models, data, made, tmp_path, capsys):
    folder, out = tmp_path / "candidates", tmp_path / "out"
    assert main(command("generate", models, data, folder)) == 0
    capsys.readouterr()
    for _ in range(2):
        assert main(command("augment", models, data, out, "--from-candidates", folder)) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["total"] == 2 * PAIRS
        assert contents(out) == contents(made)
    missing = next(read_manifest(out / "augmentation.jsonl"))
    lines = (folder / "candidates.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    name = Path(missing["file_name"]).name
    (folder / "candidates.jsonl").write_text("".join(line for line in lines if name not in line), encoding="utf-8")
    assert main(command("augment", models, data, tmp_path / "less", "--from-candidates", folder)) == 1
    assert f"must name candidate {missing['k']} of HCOCO/masks/a1_1.png, got none" in capsys.readouterr().err
    assert main(command("augment", models, data, tmp_path / "less", "--from-candidates", folder, "--on-bad-image", "skip")) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["missing"], result["total"]) == (1, 2 * PAIRS - 1)


@pytest.fixture(scope="module")
def generated(models, data, tmp_path_factory):
    """A folder that `generate` wrote of four candidates per pair."""
    folder = tmp_path_factory.mktemp("generated") / "candidates"
    assert main(command("generate", models, data, folder)) == 0
    return folder


def test_candidates_of_another_photograph_or_mask_of_that_name_are_refused(models, data, generated, tmp_path, capsys):
    same = Path(shutil.copytree(data, tmp_path / "same"))
    assert main(command("augment", models, same, tmp_path / "out", "--from-candidates", generated)) == 0
    for name in ("HFlickr/real_images/größe 3.png", "HCOCO/masks/a1_2.png"):
        other = Path(shutil.copytree(data, tmp_path / Path(name).stem))
        Image.open(other / name).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other / name)
        refused = ["--from-candidates", generated, "--on-bad-image", "skip"]
        assert main(command("augment", models, other, tmp_path / "none", *refused)) == 1
        error = capsys.readouterr().err
        assert f"{generated / name}, which candidates were made of, must be the same image as {other / name}, got another" in error
        assert not (tmp_path / "none").exists()
    before = contents(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    shutil.copy(other / name, tmp_path / "out" / name)
    assert main(command("augment", models, same, tmp_path / "out", "--from-candidates", generated)) == 1
    assert f"{tmp_path / 'out' / name} must be a copy of {generated / name}, got another file" in capsys.readouterr().err
    assert contents(tmp_path / "out") == {**before, name: (other / name).read_bytes()}


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "HCOCO\\\\..\\\\secret.png"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(models, data, generated, tmp_path, capsys, name):
    folder = Path(shutil.copytree(generated, tmp_path / "candidates"))
    text = (folder / "candidates.jsonl").read_text(encoding="utf-8").replace("HCOCO/cand_composite_images/a1_1_2.png", name)
    (folder / "candidates.jsonl").write_text(text, encoding="utf-8")
    assert main(command("augment", models, data, tmp_path / "out", "--from-candidates", folder)) == 1
    assert "must stay in its folder, got" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_folder_that_generate_did_not_make_is_named(models, data, generated, tmp_path, capsys):
    (tmp_path / "candidates.jsonl").write_bytes((generated / "candidates.jsonl").read_bytes())
    assert main(command("augment", models, data, tmp_path / "out", "--from-candidates", tmp_path)) == 1
    error = capsys.readouterr().err
    assert f"candidates.settings.json must exist, looked in {tmp_path}: --from-candidates must be a folder that diffharmony generate" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--gamma", "2", "--candidates", "3"], "candidates must be at least the 4 added per pair, got 3"),
        (["--gamma", "0"], "gamma must be a number above 0, got 0.0"),
        (["--gamma", "0.5"], "gamma must be '1' to go on in"),
        (["--candidates", "7"], "candidates must be 4 to go on in"),
        (["--seed", "7"], "seed must be 0 to go on in"),
        (["--from-candidates", "nowhere"], "candidates.jsonl must exist, looked in"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(models, data, made, capsys, change, message):
    before = contents(made)
    assert main(command("augment", models, data, made, *change)) == 1
    assert message in capsys.readouterr().err and contents(made) == before


def test_the_data_sets_own_folder_is_refused(models, data, tmp_path, capsys):
    own = tmp_path / "own"
    shutil.copytree(data, own)
    before = contents(own)
    assert main(command("augment", models, own, own)) == 1
    assert "--out must be another folder than the data set's" in capsys.readouterr().err and contents(own) == before
