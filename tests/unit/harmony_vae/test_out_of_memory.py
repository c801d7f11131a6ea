"""Whole while it fits, then exact tiles, then bounded ones: by the estimate, and wherever memory runs out on the way (issue 12)."""

import pytest
import torch

from diffharmony.common.devices import raise_unless_out_of_memory
from diffharmony.harmony_vae import HarmonyVAE
from diffharmony.harmony_vae.memory import memory_needed
from diffharmony.harmony_vae.out_of_memory import USED, Memory, WithinMemory
from diffharmony.tests.made import models

SIZE = (48, 80)
TILE = 16


@pytest.fixture(scope="module")
def vae():
    return HarmonyVAE.from_autoencoder_kl(models.vae((8, 16), groups=4), "random", torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, *SIZE, generator=generator) * 2 - 1
    mask = (torch.rand(1, 1, *SIZE, generator=generator) > 0.5).float()
    return torch.randn(2, 4, SIZE[0] // 2, SIZE[1] // 2, generator=generator), image, mask


@pytest.fixture(scope="module")
def part(inputs):
    """Six tiles of them, where memory runs out at one stage after the other."""
    z, image, mask = inputs
    return z[..., :16, :24], image[..., :32, :48], mask[..., :32, :48]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def seen_modes(vae, monkeypatch):
    """The ways that are tried, in turn: "whole", and the modes of tiles."""
    seen = []
    for name in ("decode", "encode"):
        whole, tiled = getattr(vae, name), getattr(vae, f"{name}_tiled")
        monkeypatch.setattr(vae, name, lambda *args, whole=whole: seen.append("whole") or whole(*args))

        def in_tiles(*args, tiled=tiled, mode=None, **options):
            seen.append(mode or args[2])
            return tiled(*args, **(options if mode is None else {**options, "mode": mode}))

        monkeypatch.setattr(vae, f"{name}_tiled", in_tiles)
    return seen


def run_out(vae, calls):
    """Have memory run out at the given calls of convolutions. Returns: what counts them, and what ends it."""
    count = [0]

    def hook(module, args):
        count[0] += 1
        if count[0] in calls:
            raise torch.cuda.OutOfMemoryError("as if the device had no memory left")

    handles = [module.register_forward_pre_hook(hook) for module in vae.modules() if isinstance(module, torch.nn.Conv2d)]
    return count, lambda: [handle.remove() for handle in handles]


def decoded(vae, inputs, memory=None, **options):
    z, image, mask = inputs
    decoder = WithinMemory(vae, memory, tile=TILE, **options)
    decoder.condition_on(image, mask)
    return decoder.decode(z)


def free(bytes):
    return Memory(free=lambda device: bytes)


@pytest.mark.parametrize("decoding", [True, False])
def test_what_fits_by_the_estimate_is_tried_first(vae, inputs, monkeypatch, caplog, decoding):
    z, image, mask = inputs
    seen = seen_modes(vae, monkeypatch)
    caplog.set_level("INFO", "diffharmony")

    def first(bytes):
        seen.clear()
        decoded(vae, inputs, free(bytes)) if decoding else WithinMemory(vae, free(bytes)).encode(image)
        return seen

    needed = {mode: memory_needed(vae, SIZE, mode, tile=TILE if decoding else 40, batch=2 if decoding else 1, decoding=decoding) / USED for mode in (None, "exact")}
    assert needed["exact"] < needed[None]
    assert first(needed[None] + 1) == ["whole"] and first(None) == ["whole"] and not caplog.text
    assert first(needed[None] - 1) == ["exact"] and first(needed["exact"] + 1) == ["exact"] and "px (exact)" in caplog.text
    assert first(needed["exact"] - 1) == ["bounded"] and "px (bounded)" in caplog.text


def test_a_mode_that_is_asked_for_is_begun_with(vae, inputs, monkeypatch):
    seen = seen_modes(vae, monkeypatch)
    for mode in ("exact", "bounded"):
        decoded(vae, inputs, free(2**60), mode=mode)
    assert seen == ["exact", "bounded"]
    with pytest.raises(ValueError, match="mode must be one of auto, exact, bounded, got 'blended'"):
        WithinMemory(vae, mode="blended")


def test_memory_that_runs_out_at_any_stage_steps_down_once(vae, part, monkeypatch, caplog):
    z, image, mask = part
    whole = vae.decode(z, vae.encode_condition(image, mask)).sample
    count, end = run_out(vae, ())
    decoded(vae, part)
    stages = count[0]
    end()
    for stage in range(1, stages + 1):
        caplog.clear()
        _, end = run_out(vae, {stage})
        found = decoded(vae, part)
        end()
        torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)
        assert [record.message.count("Out of memory in the conditional decode: it goes on in tiles of 16 px (exact)") for record in caplog.records] == [1]


def test_memory_that_runs_out_in_exact_tiles_too_steps_down_to_bounded_ones(vae, part, monkeypatch, caplog):
    bounded = decoded(vae, part, mode="bounded")
    count, end = run_out(vae, ())
    decoded(vae, part, mode="exact")
    stages = count[0]
    end()
    for stage in range(2, stages + 1, 29):
        caplog.clear()
        _, end = run_out(vae, {1, stage})
        torch.testing.assert_close(decoded(vae, part), bounded)
        end()
        assert "px (exact)" in caplog.text and "px (bounded)" in caplog.text
    _, end = run_out(vae, range(10**6))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        decoded(vae, part)
    end()


def test_encoding_steps_down_as_well(vae, inputs, caplog):
    image = inputs[1]
    expected = vae.encode(image).latent_dist.mode()
    for calls, word in (({3}, "exact"), ({3, 9}, "bounded")):
        _, end = run_out(vae, calls)
        found = WithinMemory(vae).encode(image)
        end()
        assert f"Out of memory in the encode: it goes on in tiles of 40 px ({word})" in caplog.text
        if word == "exact":
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        else:
            assert (found - expected).abs().mean() < 0.1


def test_what_ran_out_is_not_tried_again_and_one_condition_serves_all_latents(vae, inputs, monkeypatch):
    z, image, mask = inputs
    encode_condition, encoded = vae.encode_condition, []
    monkeypatch.setattr(vae, "encode_condition", lambda *args: encoded.append(args) or encode_condition(*args))
    decoder = WithinMemory(vae, free(2**60), tile=TILE)
    decoder.condition_on(image, mask)
    for latent in z.split(1):
        decoder.decode(latent)
    assert len(encoded) == 1
    seen = seen_modes(vae, monkeypatch)
    _, end = run_out(vae, {1})
    decoder = WithinMemory(vae, free(2**60), tile=TILE)
    decoder.condition_on(image, mask)
    for latent in z.split(1):
        decoder.decode(latent)
    end()
    assert seen == ["exact", "exact"]


@pytest.mark.parametrize(("error", "memory"), [
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
    (RuntimeError("MPS backend out of memory"), True), (MemoryError(), True), (torch.cuda.OutOfMemoryError("x"), True),
    (RuntimeError("something else"), False), (ValueError("out of memory"), False),
])  # fmt: skip
def test_errors_of_memory_are_told_from_others(error, memory):
    if memory:
        raise_unless_out_of_memory(error)
    else:
        with pytest.raises(type(error)):
            raise_unless_out_of_memory(error)
