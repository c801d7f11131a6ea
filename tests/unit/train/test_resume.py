"""A run that dies goes on to the same weights, bit for bit: real processes, real kills, damaged states."""

import io
import json
import random
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from diffharmony.common.checkpoint import read_checkpoint
from diffharmony.common.run_folder import UNFINISHED, clear_unfinished
from diffharmony.tests.made.training import make_pairs, vae_command, vae_config, weights_of
from diffharmony.train import vae
from diffharmony.train.config import OptimConfig, RunConfig
from diffharmony.train.loop import Task, fit
from diffharmony.train.run.state import check_whole, newest_state, write_state

KILLS = 20


def states(out):
    return sorted(path.name for path in (out / "state").glob("step-*.pt"))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def cut_off_save(out):
    """What a kill in the middle of a save left behind."""
    return [path for folder in (out / "state", out, out / "last") for path in folder.glob(".*") if UNFINISHED.fullmatch(path.name)]


def test_kills_at_random_moments(runs, root, base, tmp_path):
    """Twenty kills at random moments and more in the middle of a save, with accumulation, loader processes in every other start."""
    def start(out, attempt):
        return runs.start(*vae_command(root, base, out, optim__accumulation=2, run__save_every=1, optim__steps=8, data__workers=attempt % 2))

    began = time.monotonic()
    whole = start(tmp_path / "whole", 0).result()
    duration = time.monotonic() - began
    expected, expected_state = weights_of(tmp_path / "whole"), torch.load(newest_state(tmp_path / "whole"), weights_only=True)
    rng, kills, during_saves, attempt, folders = random.Random(0), 0, 0, 0, 0

    def finish(run, out):
        assert run.result()["loss"] == whole["loss"]
        assert same(weights_of(out), expected)
        state = torch.load(newest_state(out), weights_only=True)
        assert all(torch.equal(a, b) for a, b in zip(state["parameters"], expected_state["parameters"], strict=True))
        assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == list(range(1, 9))
        assert not cut_off_save(out)

    run, out = None, tmp_path / "killed-0"
    while kills < KILLS or during_saves == 0:
        attempt += 1
        assert attempt < 4 * KILLS, "no kill hit a save"
        run = start(out, attempt)
        if kills < KILLS:
            time.sleep(rng.uniform(0.05, 0.45) * duration)
        else:
            while run.alive() and not cut_off_save(out):
                pass
        if run.alive():
            run.kill()
            kills += 1
            during_saves += bool(cut_off_save(out))
        else:
            finish(run, out)
            folders += 1
            out = tmp_path / f"killed-{folders}"
    finish(start(out, attempt), out)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with two small states of a real run."""
    out = tmp_path_factory.mktemp("written")
    fit(Dropped(), Numbers(), optim=OptimConfig(batch_size=2, steps=4), run=RunConfig(out=out, save_every=2, samples=1), workers=0, summary={})
    assert states(out) == ["step-00000002.pt", "step-00000004.pt"]
    return out


class TestDamage:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
    def test_a_flipped_bit_is_found_or_does_not_matter(self, written, tmp_path, place, bit):
        path = written / "state" / "step-00000004.pt"
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        damaged = tmp_path / "damaged.pt"
        damaged.write_bytes(content)
        try:
            check_whole(damaged)
        except Exception:
            return
        expected, found = (torch.load(file, weights_only=True) for file in (path, damaged))
        assert all(torch.equal(a, b) for a, b in zip(expected["parameters"], found["parameters"], strict=True))
        assert json.dumps(expected, default=lambda t: t.tolist()) == json.dumps(found, default=lambda t: t.tolist())

    def test_a_file_marked_as_a_folder_is_found(self, written, tmp_path):
        """One bit of the archive's directory: torch would read nothing of that tensor, without an error."""
        content = bytearray((written / "state" / "step-00000004.pt").read_bytes())
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entry = content.index(b"PK\x01\x02", archive.start_dir)
        content[entry + 38] ^= 0x10
        (tmp_path / "damaged.pt").write_bytes(content)
        with pytest.raises(ValueError, match="must be as it was written"):
            check_whole(tmp_path / "damaged.pt")

    @pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
    def test_a_cut_off_state_gives_way_to_the_one_before(self, written, tmp_path, caplog, share):
        folder = tmp_path / "state"
        folder.mkdir()
        for name in states(written):
            (folder / name).write_bytes((written / "state" / name).read_bytes())
        newest = folder / "step-00000004.pt"
        newest.write_bytes(newest.read_bytes()[: int(share * newest.stat().st_size)])
        assert newest_state(tmp_path).name == "step-00000002.pt"
        assert "step-00000004.pt cannot be read" in caplog.text

    def test_where_no_state_is_whole_nothing_is_written_over(self, root, base, tmp_path):
        config = vae_config(root, base, tmp_path / "run")
        checkpoint = Path(vae.main(config)["checkpoint"])
        for path in (tmp_path / "run" / "state").iterdir():
            path.write_bytes(path.read_bytes()[:-9])
        before = {path: path.read_bytes() for path in (checkpoint, tmp_path / "run" / "log.jsonl")}
        with pytest.raises(ValueError, match="run/state must hold a state that can be read, got 2 damaged. Remove the folder to begin anew"):
            vae.main(config)
        assert all(path.read_bytes() == content for path, content in before.items())

    def test_a_run_goes_on_from_the_state_before_a_damaged_one(self, root, base, tmp_path):
        config = vae_config(root, base, tmp_path / "run", run=RunConfig(out=tmp_path / "run", save_every=1, samples=1, keep_last=3))
        vae.main(config)
        expected = weights_of(tmp_path / "run")
        for step in (3, 4):
            path = tmp_path / "run" / "state" / f"step-{step:08d}.pt"
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 16
            path.write_bytes(content)
        (tmp_path / "run" / "harmony_vae.safetensors").unlink()
        vae.main(config)
        assert same(weights_of(tmp_path / "run"), expected)


def test_a_damaged_state_is_told_of_once_and_each_read_once(root, base, tmp_path, caplog, monkeypatch):
    from diffharmony.train.run import state

    config = vae_config(root, base, tmp_path / "run")
    vae.main(config)
    newest = newest_state(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:-9])
    read = []
    monkeypatch.setattr(state, "check_whole", lambda path: (read.append(path.name), check_whole(path)))
    caplog.clear()
    vae.main(config)
    assert caplog.text.count("step-00000004.pt cannot be read") == 1 and read == ["step-00000004.pt", "step-00000002.pt"]


def test_as_many_states_are_kept_as_asked(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "step-00000009.pt").write_text("damaged")
    for step in range(1, 6):
        write_state(tmp_path, {"step": step}, keep=3)
    assert states(tmp_path) == [f"step-{step:08d}.pt" for step in (3, 4, 5, 9)]


def test_what_was_not_finished_is_cleared_away(tmp_path):
    for name in (".step-00000001-ab12_cd9.pt", ".config-12345678.json", "config.json", ".lock", ".hidden"):
        (tmp_path / name).touch()
    clear_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".lock", "config.json"]


def test_the_log_of_a_run_killed_before_its_first_state_starts_anew(root, base, tmp_path):
    (tmp_path / "run").mkdir()
    damaged = ["7", "[1]", '"step"', "null", '{"step": null}', '{"loss": 1}', '{"step": 2, "lo']
    (tmp_path / "run" / "log.jsonl").write_text("\n".join(['{"step": 1, "loss": 9.0}', *damaged]))
    vae.main(vae_config(root, base, tmp_path / "run"))
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_a_finished_run_asked_for_again_tells_the_same(root, base, tmp_path, caplog):
    caplog.set_level("INFO", "diffharmony")
    config = vae_config(root, base, tmp_path / "run")
    first = vae.main(config)
    line = f"Wrote {first['checkpoint']} (4 steps, loss {first['loss']:.5g})"
    assert caplog.messages.count(line) == 1
    saved = (tmp_path / "run" / "harmony_vae.safetensors").read_bytes()
    assert vae.main(config) == first and caplog.messages.count(line) == 2
    assert (tmp_path / "run" / "harmony_vae.safetensors").read_bytes() == saved
    with pytest.raises(ValueError, match="optim.steps must be at least the 4 that the run in .* has taken, got 2"):
        vae.main(replace(config, optim=replace(config.optim, steps=2)))


def test_a_run_saved_before_fields_were_added_goes_on(root, base, tmp_path):
    config = vae_config(root, base, tmp_path / "run")
    vae.main(config)
    path = tmp_path / "run" / "config.json"
    saved = json.loads(path.read_text())
    del saved["latent_noise"], saved["run"]["keep_last"], saved["data"]["sizes"]
    path.write_text(json.dumps(saved))
    assert vae.main(replace(config, optim=replace(config.optim, steps=5)))["steps"] == 5
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="latent_noise must be 0.0 to go on in"):
        vae.main(replace(config, latent_noise=0.5))


def test_another_spelling_of_a_place_is_no_other_setting(root, base, tmp_path, monkeypatch):
    monkeypatch.chdir(root.parent)
    config = vae_config(root, base, tmp_path / "run")
    vae.main(replace(config, data=replace(config.data, roots=(Path(root.name),))))
    spelled = replace(config, init=f"{base.parent}/../{base.parent.name}/{base.name}", optim=replace(config.optim, steps=5))
    assert vae.main(spelled)["steps"] == 5
    with pytest.raises(ValueError, match="data.roots must be .* to go on in"):
        vae.main(replace(config, data=replace(config.data, roots=(make_pairs(tmp_path / "other"),))))


def test_a_list_file_that_did_nothing_may_be_left_out(root, base, tmp_path):
    config = vae_config(root, base, tmp_path / "run")
    ignored = replace(config.data, list_file="ignored.txt", list_files=("IHD_train.txt",))
    vae.main(replace(config, data=ignored))
    assert vae.main(replace(config, data=replace(ignored, list_file="IHD_train.txt")))["steps"] == 4


class Numbers(torch.utils.data.Dataset):
    """Samples of four numbers; the one at counter `broken` cannot be had, as if the process died there."""

    def __init__(self, broken=None):
        self.broken = broken

    def __len__(self):
        return 8

    def __getitem__(self, counter):
        if counter == self.broken:
            raise KeyboardInterrupt
        return {"x": torch.randn(4, generator=torch.Generator().manual_seed(counter)), "seed": counter, "name": f"sample {counter}"}


class Dropped(Task):
    """A regression with dropout, whose masks come from the global generator."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 1))

    def forward(self, batch):
        return (self.layers(batch["x"])[:, 0] - batch["x"].sum(1)).square().mean()

    def sheet(self):
        return torch.zeros(3, 8, 8)

    def save(self, path, training):
        from diffharmony.common.checkpoint import write_checkpoint

        write_checkpoint(path, dict(self.state_dict()), kind="classifier", config={}, training=training)


def test_the_global_generator_is_where_it_was(tmp_path):
    """Dropout draws the same masks after a resume; and it does draw: without it, the weights are others."""
    optim = OptimConfig(learning_rate=0.01, batch_size=4, accumulation=2, steps=9)

    def train(out, broken=None, rate=0.5):
        task = Dropped()
        task.layers[1].p = rate
        run = RunConfig(out=tmp_path / out, save_every=2, samples=1, tracker="none")
        return read_checkpoint(Path(fit(task, Numbers(broken), optim=optim, run=run, workers=0, summary={})["checkpoint"])).tensors

    expected = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("broken", broken=4 * 5 + 3)
    assert states(tmp_path / "broken") == ["step-00000002.pt", "step-00000004.pt"]
    assert same(train("broken"), expected)
    assert not same(train("other", rate=0.0), expected)


def test_a_run_that_goes_on_leaves_out_the_same_bad_images(tmp_path, base, caplog):
    caplog.set_level("INFO", "diffharmony")
    root = make_pairs(tmp_path / "data")
    real = root / "HCOCO" / "real_images"
    whole = (real / "a1.png").read_bytes()
    (real / "a1.png").write_text("no image")
    configs = [vae_config(root, base, tmp_path / name) for name in ("whole", "cut")]
    data = replace(configs[0].data, on_bad_image="skip")
    whole_run, cut_run = (replace(config, data=data) for config in configs)
    first = vae.main(whole_run)
    assert first["skipped"] == [str(real / "a1.png")]
    vae.main(replace(cut_run, optim=replace(cut_run.optim, steps=2)))
    # that it was mended since changes nothing
    (real / "a1.png").write_bytes(whole)
    assert vae.main(cut_run)["skipped"] == first["skipped"] and vae.main(whole_run) == first
    assert same(weights_of(tmp_path / "cut"), weights_of(tmp_path / "whole"))
    assert caplog.text.count("leaving out an image of the data set") == 2
    assert [message.endswith(", 1 bad image skipped)") for message in caplog.messages if message.startswith("Wrote ")] == [True] * 4


def test_a_data_set_that_changed_is_told(tmp_path, base, caplog):
    root = make_pairs(tmp_path / "data")
    config = vae_config(root, base, tmp_path / "run")
    vae.main(config)
    lines = (root / "IHD_train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (root / "IHD_train.txt").write_text("".join(lines[:-1]), encoding="utf-8")
    vae.main(replace(config, optim=replace(config.optim, steps=6)))
    assert "the data set has 5 images, 6 when the run was left" in caplog.text


def test_files_beside_the_states_are_left_alone(root, base, tmp_path):
    config = vae_config(root, base, tmp_path / "run")
    vae.main(config)
    for name in ("step-00000004 (1).pt", "step-best.pt"):
        (tmp_path / "run" / "state" / name).write_text("")
    assert vae.main(replace(config, optim=replace(config.optim, steps=6)))["steps"] == 6
    assert states(tmp_path / "run") == ["step-00000004 (1).pt", "step-00000004.pt", "step-00000006.pt", "step-best.pt"]
