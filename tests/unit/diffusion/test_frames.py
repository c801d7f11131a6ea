"""Frames of a video: no flicker, no bleeding over cuts, one frame held at a time."""

import pytest
import torch

from diffharmony.common.assets import ROOT, TINY
from diffharmony.common.images import load_image, load_mask
from diffharmony.diffusion import harmonize, load_unet
from diffharmony.diffusion.frames import harmonize_frames, smoothed
from diffharmony.diffusion.transfer import ColourTransform
from diffharmony.harmony_vae import load_harmony_vae

COUNT = 6


@pytest.fixture(scope="module")
def models():
    return load_harmony_vae(TINY / "harmony_vae.safetensors"), load_unet(TINY / "harmonization_unet.safetensors")


class Clip:
    """A static scene with grain, which says what was read."""

    def __init__(self, count=COUNT, empty=()):
        self.composite, self.mask = (load(ROOT / "assets" / "demo" / f"{name}.png") for load, name in ((load_image, "composite"), (load_mask, "mask")))
        self.count, self.empty, self.read = count, empty, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        grain = torch.randn(self.composite.shape, generator=torch.Generator().manual_seed(index)) * 0.004
        return (self.composite + grain).clamp(-1, 1), self.mask * 0 if index in self.empty else self.mask


def flicker(changes, mask):
    inside = (mask >= 0.5).expand_as(changes[0])
    return sum((after - before)[inside].abs().mean().item() for before, after in zip(changes, changes[1:])) / (len(changes) - 1)


def test_a_static_clip_flickers_at_least_five_times_less_than_its_frames_alone(models):
    clip = Clip()
    alone = [harmonize(*models, *clip[index], seed=index) - clip[index][0] for index in range(COUNT)]
    together = [frame - clip[index][0] for index, frame in enumerate(harmonize_frames(*models, clip))]
    assert flicker(alone, clip.mask) > 5 * flicker(together, clip.mask) > 0
    assert torch.stack(together).abs().max() > 0.02


def test_each_frame_is_read_twice_and_given_when_asked_for(models):
    clip, seen = Clip(3, empty=(1,)), []
    frames = harmonize_frames(*models, clip, size=64, progress=lambda done, of: seen.append((done, of)))
    assert not clip.read
    first = next(frames)
    assert clip.read == [0, 1, 2, 0] and seen == [(1, 3), (2, 3), (3, 3)] and first.shape == clip.composite.shape
    second, third = frames
    assert torch.equal(second, Clip(3)[1][0]) and not torch.equal(third, Clip(3)[2][0])
    outside = (clip.mask == 0).expand_as(third)
    assert torch.equal(third[outside], Clip(3)[2][0][outside])


def test_one_frame_is_what_harmonize_makes_of_it(models):
    clip = Clip(1)
    (frame,) = harmonize_frames(*models, clip, seed=3)
    assert torch.allclose(frame, harmonize(*models, *clip[0], seed=3), atol=1e-5)


@pytest.mark.parametrize("change, message", [({"smoothing": -1.0}, "smoothing must be a number of frames"), ({"size": 3}, "size must be")])
def test_options_that_do_not_fit(models, change, message):
    with pytest.raises(ValueError, match=message):
        next(harmonize_frames(*models, Clip(2), **change))
    with pytest.raises(ValueError, match="the frames' masks must"):
        next(harmonize_frames(*models, Clip(2, empty=(0, 1)), size=64))


def light(gain, strength=1.0, contrast=0.0, pivot=-1.0):
    values = (torch.full((1, 3), gain), torch.full((1, 1), contrast), torch.full((1, 1), pivot), torch.zeros(1, 1, 2, 2), torch.full((1, 1), strength))
    return ColourTransform(*values)


def test_lights_are_averaged_within_a_scene_alone():
    lights = [light(0.1), light(0.2), light(0.1), None, light(0.2), light(2.0), light(2.1)]
    assert 0.1 < smoothed(lights, 2, 4.0).log_gains.max() < 0.2
    assert 2.0 < smoothed(lights, 5, 4.0).log_gains.min() < 2.1
    assert smoothed(lights, 1, 0.5).log_gains.mean() > smoothed(lights, 1, 8.0).log_gains.mean()
    # half of a change is that change at half strength, whatever the pivots
    both = smoothed([light(0.2, 0.5, 0.1, -1.0), light(0.1, 1.0, 0.05, -3.0)], 0, 1e6)
    assert both.contrast.item() == pytest.approx(0.05) and both.log_gains.mean().item() == pytest.approx(0.15, abs=1e-4)
