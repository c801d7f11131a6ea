"""`generate`: the same files whatever the processes, order and kills; nothing twice, nothing half, nothing mixed."""

import json
import random
import shutil
import time

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from diffharmony.__main__ import main
from diffharmony.dataset.layout import CANDIDATES
from diffharmony.dataset.pairs import DirectoryIndex
from diffharmony.inverse import candidate_seed
from diffharmony.inverse.manifest import read_manifest
from diffharmony.inverse.sources import folder_sources, listed_sources
from diffharmony.tests.made.inverse import PHOTOGRAPHS, command, contents, write_inverse_pair, write_photographs

K = 4
PAIRS = [(subset, image, mask) for subset, image, masks, _ in PHOTOGRAPHS for mask in masks]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_inverse_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data set") / "größe"
    write_photographs(root)
    return root


@pytest.fixture(scope="module")
def whole(models, data, tmp_path_factory):
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert main(command("generate", models, data, out)) == 0
    return out


def candidates(folder):
    """Which file it is and when it was written, by path, for each whole candidate."""
    found = {}
    for path in folder.glob(f"*/{CANDIDATES}/[!.]*"):
        status = path.stat()
        found[path.relative_to(folder).as_posix()] = status.st_ino, status.st_mtime_ns
    return found


def printed(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_folder_and_its_manifest(models, data, whole):
    names = [f"{subset}/{CANDIDATES}/{image}_{mask}_{k}.png" for subset, image, mask in PAIRS for k in range(1, K + 1)]
    records = list(read_manifest(whole / "candidates.jsonl"))
    assert [record["file_name"] for record in records] == names
    placed = {f"{subset}/real_images/{image}.png" for subset, image, _ in PAIRS} | {f"{s}/masks/{i}_{m}.png" for s, i, m in PAIRS}
    assert set(contents(whole)) == {*names, *placed, "candidates.jsonl", "candidates.settings.json"}
    for path in placed:
        assert (whole / path).samefile(data / path)
    for record, (subset, image, mask) in zip(records[::K], PAIRS):
        assert record["seed"] == candidate_seed(0, image, mask, 1) and record["steps"] == 2
        assert (record["real"], record["mask"]) == (f"{subset}/real_images/{image}.png", f"{subset}/masks/{image}_{mask}.png")
    for record in records:
        found, real, soft = (np.asarray(Image.open(whole / record[key])).astype(int) for key in ("file_name", "real", "mask"))
        assert np.array_equal(found[soft == 0], real[soft == 0])
        assert ((found - real)[soft >= 128] ** 2).mean() > 100


def test_two_processes_write_what_one_writes(runs, models, data, whole, tmp_path):
    two = runs.start_processes(2, *command("generate", models, data, tmp_path / "out"))
    assert [run.wait() for run in two] == [0, 0], two[1].output()
    assert contents(tmp_path / "out") == contents(whole)
    assert two[0].result() | {"out": None} == {
        "command": "generate", "out": None, "pairs": len(PAIRS), "wanted": K * len(PAIRS), "made": K * len(PAIRS), "found": 0,
        "candidates": K * len(PAIRS), "bad_images": {},
    }  # fmt: skip
    assert "{" not in two[1].output()


def test_kills_at_any_moment_lose_nothing_and_make_nothing_twice(runs, models, data, whole, tmp_path):
    out, rng, before, kills = tmp_path / "out", random.Random(5), {}, 0
    for processes in (1, 2, 1, 3, 2, 1):
        started = runs.start_processes(processes, *command("generate", models, data, out))
        deadline = time.monotonic() + 60
        while len(candidates(out)) <= len(before) and any(run.alive() for run in started):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        # the first two at once: what is left is enough for the next
        time.sleep(rng.uniform(0, 0.04) if kills >= 2 else 0)
        for run in started:
            run.kill()
        now = candidates(out)
        assert before.items() <= now.items() and len(now) > len(before)
        for path in now:
            Image.open(out / path).load()
        before = now
        if (out / "candidates.jsonl").exists():
            break
        kills += 1
        if len(now) == K * len(PAIRS):  # killed between the last image and the manifest
            break
    assert kills >= 2
    killed_writing = out / "HCOCO" / CANDIDATES / ".a1_1_9-abcd_123.png"
    killed_writing.write_bytes(b"half")
    result = runs.start(*command("generate", models, data, out)).result()
    assert result["found"] == len(before) and result["made"] == K * len(PAIRS) - len(before)
    assert before.items() <= candidates(out).items()
    assert contents(out) == contents(whole)


def test_a_file_that_is_gone_is_made_again_and_so_is_the_manifest(models, data, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "HCOCO" / CANDIDATES / "a1_2_3.png").unlink()
    (out / "HFlickr" / "real_images" / "größe 3.png").unlink()
    (out / "candidates.jsonl").unlink()
    assert main(command("generate", models, data, out)) == 0
    result = printed(capsys)
    assert (result["made"], result["found"]) == (1, K * len(PAIRS) - 1) and contents(out) == contents(whole)


def test_a_picture_beside_that_is_another_is_refused_even_of_the_same_length(models, data, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "HCOCO" / CANDIDATES / "a1_2_3.png").unlink()
    beside = out / "HCOCO" / "real_images" / "a1.png"
    beside.write_bytes(beside.read_bytes()[:-1] + b"x")
    assert main(command("generate", models, data, out)) == 1
    assert "must be a copy of" in capsys.readouterr().err


def test_a_folder_made_in_the_data_sets_own_is_no_part_of_it(models, tmp_path, capsys):
    write_photographs(tmp_path, photographs=[("", "a", ("1",), ".png")])
    words = [word for word in command("generate", models, tmp_path, tmp_path / "cand", "--candidates", 1) if word not in ("--list", "IHD_train.txt")]
    for _ in range(2):
        assert main(words) == 0
        assert printed(capsys)["wanted"] == 1
    assert not (tmp_path / "cand" / "cand").exists()


def test_a_mask_in_the_transparency_is_that_mask(models, tmp_path):
    """As `load_mask` reads it: white all over, what is opaque is foreground."""
    write_photographs(tmp_path, photographs=[("", "a", ("1",), ".png")])
    mask = Image.open(tmp_path / "masks" / "a_1.png").convert("L")
    transparent = Image.new("RGBA", mask.size, "white")
    transparent.putalpha(mask)
    transparent.save(tmp_path / "masks" / "a_1.png")
    assert main(command("generate", models, tmp_path, tmp_path / "out", "--candidates", 1)) == 0
    made, real = (np.asarray(Image.open(path)) for path in (tmp_path / "out" / CANDIDATES / "a_1_1.png", tmp_path / "real_images" / "a.png"))
    changed = (made != real).any(axis=-1)
    assert changed.any() and not changed[np.asarray(mask) == 0].any()


def test_more_candidates_are_added_and_fewer_remove_nothing(models, data, whole, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(command("generate", models, data, out, "--candidates", 1, "--limit", 2)) == 0
    assert printed(capsys)["candidates"] == 2
    assert main(command("generate", models, data, out)) == 0
    assert printed(capsys)["found"] == 2 and contents(out) == contents(whole)
    last = contents(out)
    assert main(command("generate", models, data, out, "--candidates", 2)) == 0
    assert printed(capsys)["made"] == 0 and contents(out) == last


def test_one_alone_is_the_one_among_all(models, data, whole, tmp_path):
    name = f"HFlickr/{CANDIDATES}/größe 3_x y_3.png"
    assert main(command("generate", models, data, tmp_path / "out", "--only", name, "with_line_1_2")) == 0
    made = candidates(tmp_path / "out")
    assert set(made) == {name, f"HCOCO/{CANDIDATES}/with_line_1_2.png"}
    for path in made:
        assert (tmp_path / "out" / path).read_bytes() == (whole / path).read_bytes()
    lines = (whole / "candidates.jsonl").read_text(encoding="utf-8").splitlines()
    assert (tmp_path / "out" / "candidates.jsonl").read_text(encoding="utf-8").splitlines() == [lines[2 * K + 1], lines[4 * K + 2]]


def test_a_folder_without_composites_is_filled_in_its_place(models, whole, tmp_path):
    root = tmp_path / "photographs"
    write_photographs(root, composites=False)
    before = contents(root)
    mask = root / "HFlickr" / "masks" / ".größe 3_7-abcd1234.png"  # not ours to remove
    mask.write_bytes(b"")
    assert main([part for part in command("generate", models, root, root) if part not in ("--list", "IHD_train.txt")]) == 0
    mask.unlink()
    made = contents(root)
    assert before.items() <= made.items()
    pictures = [{path: data for path, data in found.items() if CANDIDATES in path} for found in (made, contents(whole))]
    assert pictures[0] == pictures[1]
    assert len(list(read_manifest(root / "candidates.jsonl"))) == K * len(PAIRS)


def test_others_that_were_listed_stay_listed(models, data, whole, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = contents(out)
    assert main(command("generate", models, data, out, "--only", "a1_2_3", "a1_2_9")) == 0
    result = printed(capsys)
    assert (result["wanted"], result["made"], result["candidates"]) == (2, 1, K * len(PAIRS) + 1)
    names = {record["file_name"] for record in read_manifest(out / "candidates.jsonl")}
    assert names == {*(name for name in before if CANDIDATES in name), f"HCOCO/{CANDIDATES}/a1_2_9.png"}


def test_jpegs(models, data, tmp_path):
    arguments = command("generate", models, data, tmp_path / "out", "--suffix", ".jpg", "--candidates", 1, "--limit", 1)
    assert main(arguments) == 0
    (record,) = read_manifest(tmp_path / "out" / "candidates.jsonl")
    assert record["file_name"].endswith("a1_1_1.jpg") and Image.open(tmp_path / "out" / record["file_name"]).format == "JPEG"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", 3], "seed must be 0 to go on in"),
        (["--steps", 3], "steps must be 2 to go on in"),
        (["--size", 64], "size must be None to go on in"),
        (["--suffix", ".jpg"], "suffix must be '.png' to go on in"),
        (["--threads", 2], "threads must be 1 to go on in"),
        (["--dtype", "bfloat16"], "dtype must be 'float32' to go on in"),
        (["--vae", "HARMONIZE"], "harmonize_vae.safetensors must be of direction 'invert', got 'harmonize'"),
        (["--size", 3], "size must be a whole number of at least 64"),
        (["--candidates", 0], "candidates must be at least 1, got 0"),
        (["--only", "a1_1"], "name must be <image>_<mask>_<k>, k from 1, got 'a1_1'"),
        (["--only", "HFlickr/cand_composite_images/a1_1_1.png"], "name must be of a real image and mask of the data set"),
        (["--list", "nowhere.txt"], "list file 'nowhere.txt' must exist, looked in"),
        (["--device", "cuda:77"], "device must be one that this machine has"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(models, data, whole, capsys, change, message):
    before = contents(whole), candidates(whole)
    arguments = command("generate", models, data, whole, *(models["harmonize_vae"] if part == "HARMONIZE" else part for part in change))
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert (contents(whole), candidates(whole)) == before


def test_every_process_refuses_before_any_writes(runs, models, data, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    for path in candidates(out):
        (out / path).unlink()
    before = contents(out)
    refused = runs.start_processes(2, *command("generate", models, data, out, "--seed", 9))
    assert [run.wait() for run in refused] == [1, 1]
    assert all("seed must be 0 to go on in" in run.output() for run in refused)
    assert contents(out) == before


def test_a_folder_is_filled_by_one_run_at_a_time(models, data, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"):
        assert main(command("generate", models, data, out)) == 1
    assert "--out must be used by one run at a time, got" in capsys.readouterr().err
    assert contents(out) == {}


def test_candidates_of_another_origin_are_refused(models, data, tmp_path, capsys):
    foreign = tmp_path / "out" / "HCOCO" / CANDIDATES / "a1_1_1.png"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"")
    assert main(command("generate", models, data, tmp_path / "out")) == 1
    assert "must hold no candidates of another origin, got HCOCO/cand_composite_images/a1_1_1.png" in capsys.readouterr().err


def test_bad_images_stop_or_are_left_out_and_counted(models, data, tmp_path, capsys):
    root, out = tmp_path / "bad", tmp_path / "out"
    shutil.copytree(data, root)
    real = root / "HCOCO" / "real_images" / "with_line.png"
    real.write_bytes(real.read_bytes()[:60])
    Image.new("L", (52, 40)).save(root / "HFlickr" / "masks" / "größe 3_7.png")
    Image.new("L", (9, 9), 255).save(root / "HFlickr" / "masks" / "größe 3_x y.png")
    assert main(command("generate", models, root, out)) == 1
    assert f"{real} must be a readable image" in capsys.readouterr().err
    assert len(candidates(out)) == 2 * K  # of the pairs before it
    (root / "HCOCO" / "masks" / "a1_2.png").unlink()
    assert main(command("generate", models, root, tmp_path / "other")) == 1
    assert "every mask and real image must exist, got 1 missing" in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert main(command("generate", models, root, tmp_path / "other", "--on-bad-image", "skip")) == 0
    bad = printed(capsys)["bad_images"]
    whys = {path.rpartition("/")[2]: why for path, why in bad.items()}
    assert set(whys) == {"a1_2.png", "with_line.png", "größe 3_7.png", "größe 3_x y.png"}
    assert "must have foreground" in whys["größe 3_7.png"]
    assert "must have its real image's size (52, 40), got (9, 9)" in whys["größe 3_x y.png"]
    assert len(list(read_manifest(tmp_path / "other" / "candidates.jsonl"))) == K


@pytest.mark.parametrize(("mask", "real"), [(".PNG", ".png"), (".jpeg", ".png"), (".tif", ".png"), (".png", ".JPG"), (".Png", ".webp")])
def test_suffixes_as_cameras_and_editors_write_them(tmp_path, mask, real):
    write_photographs(tmp_path, photographs=[("S", "a", ("1",), ".png"), ("S", "IMG_0001", ("1",), ".png")])
    for folder, name, suffix in (("masks", "IMG_0001_1", mask), ("real_images", "IMG_0001", real)):
        old = tmp_path / "S" / folder / f"{name}.png"
        picture = Image.open(old)
        picture.load()
        old.unlink()
        picture.save(old.with_suffix(suffix))
    sources = folder_sources(tmp_path, DirectoryIndex())
    found = [(source.image, source.mask_file.suffix, source.real_file.suffix) for source in sources]
    assert found == [("IMG_0001", mask, real), ("a", ".png", ".png")]
    assert sorted(listed_sources(tmp_path, "IHD_train.txt", DirectoryIndex())[0], key=str) == sorted(sources, key=str)
    assert all(source.mask_file.is_file() and source.real_file.is_file() for source in sources)


def test_what_is_not_taken_and_what_lies_in_a_missing_file_s_place_are_named(models, tmp_path, capsys, caplog):
    write_photographs(tmp_path, photographs=[("S", "a", ("1",), ".png"), ("S", "b", ("1",), ".png")])
    place = tmp_path / "S"
    for name in ("a_1.jpg", "c_1.gif"):
        (place / "masks" / name).write_bytes(b"")
    (place / "real_images" / "b.png").rename(place / "real_images" / "B.heic")
    words = command("generate", models, tmp_path, tmp_path / "out")
    assert main([word for word in words if word not in ("--list", "IHD_train.txt")]) == 1
    assert f"not taken as masks: {place / 'masks' / 'a_1.jpg'}, {place / 'masks' / 'c_1.gif'}" in caplog.text
    assert f"got 1 missing: {place / 'real_images' / 'b.png'} (there is B.heic). Complete" in capsys.readouterr().err


def test_pairs_of_a_list_and_of_a_folder(data, tmp_path):
    listed, composites = listed_sources(data, "IHD_train.txt", DirectoryIndex())
    assert [(source.subset, source.image, source.mask) for source in listed] == PAIRS and composites == 8
    assert sorted(folder_sources(data, DirectoryIndex()), key=str) == sorted(listed, key=str)
    first, composites = listed_sources(data, "IHD_train.txt", DirectoryIndex(), limit=2)
    assert first == listed[:2] and composites == 3
    write_photographs(tmp_path, photographs=[("", "a b", ("1",), ".png")])
    (source,) = folder_sources(tmp_path, DirectoryIndex())
    assert (source.real, source.mask_path) == ("real_images/a b.png", "masks/a b_1.png")
    assert listed_sources(tmp_path, "IHD_train.txt", DirectoryIndex())[0] == [source]
    (tmp_path / "masks" / "unnumbered.png").write_bytes(b"")
    with pytest.raises(ValueError, match="mask must be named <image>_<mask>.png, got .*unnumbered.png"):
        folder_sources(tmp_path, DirectoryIndex())
    (tmp_path / "outside.txt").write_text("../composite_images/a_1_1.png\n")
    with pytest.raises(ValueError, match="must name composites in .*, which lies outside"):
        listed_sources(tmp_path, "outside.txt", DirectoryIndex())
    with pytest.raises(FileNotFoundError, match="masks must lie in"):
        folder_sources(tmp_path / "masks", DirectoryIndex())
