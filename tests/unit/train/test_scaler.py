"""fp16: the loss is scaled so that small gradients do not vanish, and steps whose gradients overflow are not taken.

accelerate does so on GPUs only. Here its own path runs on the CPU, with torch's scaler for CPUs.
"""

import json

import accelerate
import pytest
import torch
from torch import nn

from diffharmony.train.config import OptimConfig, RunConfig
from diffharmony.train.loop import Task, fit
from diffharmony.train.run import accelerator as processes
from diffharmony.train.run.log import Overflows
from diffharmony.train.run.state import newest_state

STEPS = 30


class ScaledOnCPU(accelerate.Accelerator):
    """What accelerate sets up for fp16 on a GPU, on the CPU. The scale doubles so often that steps overflow all along."""

    def __init__(self, **options):
        super().__init__(**options)
        self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", growth_interval=5)


class Points(torch.utils.data.Dataset):
    """Points on a line, of which the one at counter `infinite` is not finite."""

    def __init__(self, infinite=None):
        self.infinite = infinite

    def __len__(self):
        return 8

    def __getitem__(self, counter):
        x = torch.randn(4, generator=torch.Generator().manual_seed(counter))
        y = float("inf") if counter == self.infinite else 30 * x.sum()
        return {"x": x, "y": torch.as_tensor(y), "seed": counter, "name": f"sample {counter}"}


class Line(Task):
    def __init__(self, without_gradient=False):
        super().__init__()
        torch.manual_seed(0)
        self.line, self.without_gradient, self.dtypes = nn.Linear(4, 1), without_gradient, set()

    def forward(self, batch):
        found = self.line(batch["x"])[:, 0]
        self.dtypes.add(found.dtype)
        if self.without_gradient:
            found = (found * 0).sqrt()  # finite, its gradient is not
        return (found.float() - batch["y"]).square().mean()

    def sheet(self):
        return torch.zeros(3, 8, 8)

    def save(self, path, training):
        torch.save(self.state_dict(), path)


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(processes, "Accelerator", ScaledOnCPU)
    monkeypatch.setattr(processes, "check_accelerate", lambda run: None)


def train(out, task=None, data=None, steps=STEPS, clip=1.0):
    task = task or Line()
    optim = OptimConfig(batch_size=4, accumulation=2, steps=steps, learning_rate=0.1, warmup=0, gradient_clip=clip)
    run = RunConfig(out=out, save_every=1, keep_last=STEPS, sample_every=1000, tracker="none", mixed_precision="fp16")
    fit(task, data or Points(), optim=optim, run=run, workers=0, summary={})
    assert task.dtypes == {torch.float16}
    return [torch.load(out / "state" / f"step-{step:08d}.pt", weights_only=True) for step in range(1, steps + 1)]


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_steps_that_overflow_are_not_taken(tmp_path, clip):
    """Neither weights, nor Adam, nor the average, nor the schedule move with them; data and step numbers do."""
    states = train(tmp_path, clip=clip)
    skipped = [after["scaler"]["scale"] < before["scaler"]["scale"] for before, after in zip(states, states[1:])]
    assert 2 < sum(skipped) < STEPS - 5 and any(skipped[STEPS // 2 :])
    for before, after, was_skipped in zip(states, states[1:], skipped):
        moved = 0 if was_skipped else 1
        assert torch.equal(before["parameters"][0], after["parameters"][0]) == was_skipped
        assert torch.equal(before["ema"]["shadow_params"][0], after["ema"]["shadow_params"][0]) == was_skipped
        assert after["ema"]["optimization_step"] == before["ema"]["optimization_step"] + moved
        assert after["schedule"]["last_epoch"] == before["schedule"]["last_epoch"] + moved
        taken = [state["optimizer"]["state"].get(0, {}).get("step", 0) for state in (before, after)]
        assert taken[1] == taken[0] + moved
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1)) and rows[-1]["loss"] < rows[0]["loss"]


@pytest.mark.parametrize("step", [1, 11])
def test_a_run_goes_on_with_its_scale(tmp_path, step):
    """From the middle of the first overflows, and from later on, to the same weights and scale, bit for bit."""
    whole = train(tmp_path / "whole")[-1]
    (tmp_path / "resumed" / "state").mkdir(parents=True)
    name = f"state/step-{step:08d}.pt"
    (tmp_path / "resumed" / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    fit(
        Line(), Points(), optim=OptimConfig(batch_size=4, accumulation=2, steps=STEPS, learning_rate=0.1, warmup=0),
        run=RunConfig(out=tmp_path / "resumed", save_every=1000, tracker="none", mixed_precision="fp16"), workers=0, summary={},
    )  # fmt: skip
    found = torch.load(newest_state(tmp_path / "resumed"), weights_only=True)
    assert found["step"] == STEPS and found["scaler"] == whole["scaler"]
    for name in ("parameters", "shadow_params"):
        pairs = zip(*((state["ema"] if name == "shadow_params" else state)[name] for state in (found, whole)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_what_stops_a_run(tmp_path):
    """A loss that is not finite, by its images' names, and gradients that no scale makes finite; not a few overflows."""
    with pytest.raises(FloatingPointError, match=r"loss must be finite, got inf at step 13 for .*sample 50"):
        train(tmp_path / "loss", data=Points(infinite=50))
    with pytest.raises(FloatingPointError, match=f"gradients must be finite, got an overflow in {Overflows.PATIENCE} steps in a row"):
        train(tmp_path / "gradients", task=Line(without_gradient=True), steps=2 * Overflows.PATIENCE)
    assert newest_state(tmp_path / "gradients").name == f"step-{Overflows.PATIENCE - 1:08d}.pt"
