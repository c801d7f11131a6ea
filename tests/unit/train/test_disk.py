"""What a run cannot help: a folder or disk that takes no more, a reader that dies. It is told in a line; what was written stays whole."""

import json
import os
import re
import signal
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from tqdm.auto import tqdm

from diffharmony.common.run_folder import UNFINISHED
from diffharmony.tests.made.training import vae_command, vae_config, weights_of
from diffharmony.train import vae
from diffharmony.train.run.state import newest_state

HERE = "diffharmony.tests.unit.train.test_disk"


def limited(limit: int, *arguments: str) -> int:
    """A command whose files cannot grow beyond `limit` bytes, as if the disk were full."""
    import resource

    from diffharmony.__main__ import main

    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # the bars' file is under the limit too
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return main(list(arguments))


@pytest.mark.parametrize("share, written", [(0.5, "harmony_vae.safetensors"), (2.0, "state/step-00000003.pt")])
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(runs, root, base, tmp_path, share, written):
    command = vae_command(root, base, tmp_path / "run", run__sample_every=2)
    size = base.stat().st_size  # the Harmony-VAE's is larger, a state's is several times that
    run = runs.call(f"{HERE}:limited", int(share * size) + 20_000, *command)
    assert run.wait() == 1
    last = run.output().splitlines()[-1]
    assert re.fullmatch(rf"diffharmony train-vae: .*/{written} must be written whole, got an error \(.*\). Free space there, .*", last)
    assert newest_state(tmp_path / "run") is None
    left = [path for path in (tmp_path / "run").rglob(".*") if UNFINISHED.fullmatch(path.name)]
    assert not left
    assert runs.start(*command).result()["steps"] == 6
    whole = runs.start(*vae_command(root, base, tmp_path / "whole", run__sample_every=2))
    whole.result()
    expected, found = weights_of(tmp_path / "whole"), weights_of(tmp_path / "run")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_log_that_cannot_grow_is_named(runs, root, base, tmp_path):
    run = runs.call(f"{HERE}:limited", 2600, *vae_command(root, base, tmp_path / "run", optim__steps=60, run__save_every=60))
    assert run.wait() == 1 and "run/log.jsonl must be written whole, got an error (File too large)" in run.output()
    result = runs.start(*vae_command(root, base, tmp_path / "run", optim__steps=2, run__save_every=40)).result()
    assert result["steps"] == 2
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_a_reader_that_dies_is_told_and_the_run_goes_on(runs, root, base, tmp_path):
    command = vae_command(root, base, tmp_path / "run", data__workers=2, optim__steps=2000, run__save_every=2)
    run = runs.start(*command)
    while newest_state(tmp_path / "run") is None:
        assert run.alive(), run.output()
    readers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(readers[-1]), signal.SIGKILL)
    assert run.wait() == 1
    assert "processes that read images must live, got one that died (process " in run.output().splitlines()[-1]
    step = int(newest_state(tmp_path / "run").stem.removeprefix("step-"))
    assert runs.start(*vae_command(root, base, tmp_path / "run", optim__steps=step + 1, run__save_every=2)).result()["steps"] == step + 1


@pytest.mark.parametrize(
    "out, message",
    [
        ("/proc/run", "folder run.out must be one that can be written to, got /proc .No such file or directory.. Choose another."),
        ("file", "run.out must be a folder, got the file .*file. Name another folder."),
        ("file/run", "run.out must be a folder, got .*file/run, in the file .*/file. Name another folder."),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_an_out_that_cannot_be_is_refused_before_anything_is_read(root, tmp_path, out, message, dry):
    (tmp_path / "file").write_text("")
    config = vae_config(root, tmp_path / "there-is-no-such.safetensors", tmp_path / out, dry_run=dry)
    with pytest.raises((ValueError, PermissionError), match=message):
        vae.main(replace(config, run=replace(config.run, out=tmp_path / out)))
