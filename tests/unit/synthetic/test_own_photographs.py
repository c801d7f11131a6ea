"""A folder of one's own photographs: what is taken, what is held out, and what is said of the rest."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from diffharmony.dataset.pairs import read_list
from diffharmony.synthetic.__main__ import main
from diffharmony.synthetic.own_photographs import own_photographs


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my photos é")
    rng = np.random.default_rng(0)
    (folder / "sub").mkdir()
    for number in range(12):
        pixels = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((320, 260), Image.Resampling.BICUBIC)
        pixels.save(folder / ("sub" if number % 2 else ".") / f"picture {number}.jpg")
    Image.new("RGB", (100, 300)).save(folder / "small.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8no")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_nothing_is_on_both_sides_and_new_pictures_move_none(photos, caplog):
    train, test = (own_photographs(photos, held_out=0.4, test=side) for side in (False, True))
    names = {photograph.name for photograph in train} | {photograph.name for photograph in test}
    assert len(train) + len(test) == len(names) == 12 and train and test
    assert "small.png (100 x 300 px)" in caplog.text and "broken.jpg" in caplog.text and "notes.txt" not in caplog.text
    Image.new("RGB", (300, 300)).save(photos / "another.png")
    try:
        again = own_photographs(photos, held_out=0.4, test=False)
        assert {photograph.name for photograph in train} == {photograph.name for photograph in again} - {"another.png"}
    finally:
        (photos / "another.png").unlink()


def test_the_commands_write_sets_that_the_trainers_read(photos, tmp_path, capsys):
    main(["train", "--root", str(tmp_path / "train"), "--photos", str(photos), "--photo-crops", "4", "--scenes", "0", "--composites-per-crop", "1",
          "--size", "64", "--workers", "1", "--held-out", "0.4"])  # fmt: skip
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["composites"] == len(read_list(tmp_path / "train", "IHD_train.txt")) == 4
    main(["test", "--root", str(tmp_path / "test"), "--photos", str(photos), "--composites-per-range", "1", "--size", "64", "--workers", "1",
          "--held-out", "0.4"])  # fmt: skip
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["composites"] == len(read_list(tmp_path / "test", "IHD_test.txt")) == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--photos", "nowhere"], "photos folder 'nowhere' must exist, looked in"),
        (["--photos", "PHOTOS", "--held-out", "1"], "held-out must lie in"),
        (["--photos", "EMPTY"], "must hold pictures to train on"),
    ],
)
def test_what_does_not_fit_is_refused(photos, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"PHOTOS": str(photos), "EMPTY": str(tmp_path / "empty")}
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--root", str(tmp_path / "out"), *(places.get(word, word) for word in arguments)])
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_it_says_how_many_are_taken_left_out_and_held_back(photos, caplog):
    caplog.set_level("INFO", "diffharmony")
    counts = {}
    for side, others in ((False, "held back for tests"), (True, "left for training")):
        taken = own_photographs(photos, held_out=0.4, test=side)
        message = rf"{photos}: (\d+) of 14 pictures taken, (\d+) too small or unreadable, (\d+) {others} \(--held-out 0.4\)"
        counts[side] = [int(count) for count in re.fullmatch(message, caplog.messages[-1]).groups()]
        assert counts[side][0] == len(taken) and sum(counts[side]) == 14
    assert counts[False][2] == sum(counts[True][:2]) and counts[False][1] + counts[True][1] == 2


def test_the_command_shows_it(photos, tmp_path):
    command = [sys.executable, "-m", "diffharmony.synthetic", "train", "--root", tmp_path / "set", "--photos", photos]
    command += ["--photo-crops", "1", "--scenes", "0", "--size", "64", "--workers", "1", "--held-out", "0"]
    printed = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    assert f"{photos}: 12 of 14 pictures taken, 2 too small or unreadable, 0 held back for tests (--held-out 0.0)" in printed.stderr
    assert "2 pictures are left out: broken.jpg" in printed.stderr and json.loads(printed.stdout)["photographs"] == 12
